"""Probabilities of ordered classes, each with a weight of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from jensen.distributions.elementwise import Elementwise


class Categorical(Elementwise):
    r"""Probability of the classes 0..C−1, for each element.

        log p(x) = Σ_d l_{d, x_d} − log Σ_c exp l_{d, c}

    Values are class numbers, floating or integer. The classes are numbers, so there is a mean.

    Args:
        logits: l, `(*batch, *event, C)`.
        event_dims: trailing dimensions that make up one event, the classes not counted.

    >>> Categorical(torch.zeros(2, 4)).log_prob(torch.tensor([3, 0]))
    tensor(-2.7726)
    """

    parameter_dims: ClassVar[dict[str, int]] = {"logits": 1}

    def __init__(self, logits: Tensor, event_dims: int = 1):
        self.logits, self.event_dims = logits, event_dims

    @property
    def levels(self) -> int:
        """Number of classes C."""
        return self.logits.shape[-1]

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def probs(self) -> Tensor:
        """Probability of each class, `(*batch, *event, C)`."""
        return self.logits.softmax(-1)

    def log_prob_terms(self, value: Tensor) -> Tensor:
        index = value.long().unsqueeze(-1)
        shape = torch.broadcast_shapes(self.logits.shape[:-1], value.shape)
        chosen = self.logits.expand(*shape, -1).gather(-1, index.expand(*shape, 1)).squeeze(-1)
        return chosen - self.logits.logsumexp(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Class numbers in the dtype of the logits."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            rows = self.probs.flatten(0, -2) if self.logits.ndim > 1 else self.probs[None]
            drawn = torch.multinomial(rows, max(shape.numel(), 1), replacement=True)
            return drawn.T.reshape(self._sample_shape(shape)).to(self.logits.dtype)

    def quantile(self, u: Tensor) -> Tensor:
        below = self.probs.cumsum(-1)[..., :-1]  # the last class takes what rounding leaves
        return (below <= u.unsqueeze(-1)).sum(-1).to(self.logits.dtype)

    def tempered(self, temperature: float) -> Categorical:
        """The same with its logits divided."""
        return Categorical(self.logits / temperature, self.event_dims)

    def nucleus(self, share: float) -> Categorical:
        """Only the likeliest classes, the fewest that together weigh at least `share`.

        Holtzman et al., "The curious case of neural text degeneration", 2020, arXiv:1904.09751.
        """
        probs, order = self.probs.sort(-1, descending=True)
        dropped = probs.cumsum(-1) - probs >= share  # what stands before it is enough; the first is always kept
        dropped = torch.zeros_like(dropped).scatter(-1, order, dropped)
        return Categorical(self.logits.masked_fill(dropped, -torch.inf), self.event_dims)

    @property
    def mean(self) -> Tensor:
        return self.probs @ self._classes()

    @property
    def mode(self) -> Tensor:
        return self.logits.argmax(-1).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        deviation = self._classes() - self.mean.unsqueeze(-1)
        return (self.probs * deviation.square()).sum(-1)

    def _classes(self) -> Tensor:
        return torch.arange(self.levels, dtype=self.logits.dtype, device=self.logits.device)
