"""Probabilities of classes, each with a weight of its own: of levels, which have an order, and of symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from jensen.distributions.elementwise import Elementwise
from jensen.errors import CapabilityError


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
        probs = self.probs
        below = (probs.cumsum(-1)[..., :-1] <= u.unsqueeze(-1)).sum(-1)
        last = self.levels - 1 - (probs > 0).flip(-1).int().argmax(-1)  # the last possible takes what rounding leaves
        return torch.minimum(below, last).to(self.logits.dtype)

    def tempered(self, temperature: float) -> Self:
        """The same with its logits divided."""
        return self._map(lambda logits, _: logits / temperature)

    def nucleus(self, share: float) -> Self:
        """Only the likeliest classes, the fewest that together weigh at least `share`.

        Holtzman et al., "The curious case of neural text degeneration", 2020, arXiv:1904.09751.
        """
        probs, order = self.probs.sort(-1, descending=True)
        dropped = probs.cumsum(-1) - probs >= share  # what stands before it is enough; the first is always kept
        dropped = torch.zeros_like(dropped).scatter(-1, order, dropped)
        return self._map(lambda logits, _: logits.masked_fill(dropped, -torch.inf))

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


class Symbols(Categorical):
    r"""Probability of rows of symbols 0..C−1, which have no order and so no mean; one of them may be the end.

        log p(x) = Σ_{t ≤ e} log p_t(x_t),        e the place of the first end

    Draws after the first end are ends: a row stands for what comes before it, and rows of one length for texts of
    many. A row with anything else after its end has probability 0.

    Args:
        logits: `(*batch, T, C)`.
        end: the symbol that ends a row; None where rows have no end.

    >>> rows = torch.cartesian_prod(*[torch.arange(3)] * 4)  # a, b and the end, in rows of four
    >>> Symbols(torch.randn(4, 3), 1, end=2).log_prob(rows).exp().sum().round(decimals=4)
    tensor(1.)
    """

    def __init__(self, logits: Tensor, event_dims: int = 1, end: int | None = None):
        super().__init__(logits, event_dims)
        self.end = end

    def without_end(self, where: Tensor) -> tuple[Self, Tensor]:
        """The same with no end `where`, `(*batch, *event)`, and log (1 − p(end)) there, elsewhere 0."""
        if self.end is None:
            return self, torch.zeros_like(self.logits[..., 0])
        dropped = where.unsqueeze(-1) & (torch.arange(self.levels, device=self.logits.device) == self.end)
        kept = self._map(lambda logits, _: logits.masked_fill(dropped, -torch.inf))
        return kept, kept.logits.logsumexp(-1) - self.logits.logsumexp(-1)

    def log_prob_terms(self, value: Tensor) -> Tensor:
        terms = super().log_prob_terms(value)
        if self.end is None:
            return terms
        after, is_end = after_end(value, self.end), value == self.end
        if (after & ~is_end).any():
            terms = terms.masked_fill(after & ~is_end, -torch.inf)
        return terms.masked_fill(after & is_end, 0.0)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._ended(super().sample(sample_shape))

    def quantile(self, u: Tensor) -> Tensor:
        return self._ended(super().quantile(u))

    def _ended(self, value: Tensor) -> Tensor:
        return value if self.end is None else value.masked_fill(after_end(value, self.end), self.end)

    @property
    def mean(self) -> Tensor:
        raise CapabilityError("symbols have no mean, as they have no order: draw from them instead")

    @property
    def variance(self) -> Tensor:
        raise CapabilityError("symbols have no variance, as they have no order: draw from them instead")

    @property
    def mode(self) -> Tensor:
        """The likeliest symbol of each place, up to the first end."""
        return self._ended(super().mode)


def after_end(value: Tensor, end: int) -> Tensor:
    """Which places of rows (*, T) come after the first end.

    >>> after_end(torch.tensor([0, 2, 2, 2]), 2).tolist()
    [False, False, True, True]
    """
    ends = (value == end).long()
    return ends.cumsum(-1) - ends > 0
