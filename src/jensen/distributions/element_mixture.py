"""Mixtures of any family, one for each element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from jensen.distributions.elementwise import Elementwise


class ElementMixture(Elementwise):
    r"""Mixture of densities of one family for each element.

        log p(x) = Σ_d log Σ_k π_dk p_dk(x_d)

    Args:
        logits: log π up to a constant, `(*batch, *event, K)`.
        components: of batch shape `(*batch, *event, K)` and event shape ().
        event_dims: trailing dimensions that make up one event, the components not counted.

    >>> from jensen.distributions import Poisson
    >>> p = ElementMixture(torch.zeros(1, 2), Poisson(torch.tensor([[1.0, 3.0]]).log(), event_dims=0))
    >>> p.mean, p.variance
    (tensor([2.]), tensor([3.]))
    """

    parameter_dims: ClassVar[dict[str, int]] = {"logits": 1}

    def __init__(self, logits: Tensor, components: Elementwise, event_dims: int = 1):
        self.logits, self.components, self.event_dims = logits, components, event_dims

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.components.support

    def log_prob_terms(self, value: Tensor) -> Tensor:
        return (self.logits.log_softmax(-1) + self.components.log_prob_terms(value.unsqueeze(-1))).logsumexp(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """First the component of each element, then its value."""
        with torch.no_grad():
            shape = (*self._sample_shape(sample_shape), self.logits.shape[-1])
            noise = torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device).exponential_().log()
            return self.components.pick((self.logits - noise).argmax(-1)).sample()

    def tempered(self, temperature: float) -> ElementMixture:
        """The same with the logits of its components divided, and they themselves tempered."""
        cooler = self.components.tempered(temperature)  # pyright: ignore[reportAttributeAccessIssue]
        return ElementMixture(self.logits / temperature, cooler, self.event_dims)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1) * self.components.mean).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The likeliest of the components' modes: where components overlap, near the mode."""
        shape = torch.Size((*self._element_shape(), self.logits.shape[-1]))
        modes = self.components.mode.expand(shape)
        best, found = self.log_prob_terms(modes[..., 0]), modes[..., 0]
        for other in modes.unbind(-1)[1:]:  # one by one: all at once would be K² numbers for each element
            log_p = self.log_prob_terms(other)
            found, best = torch.where(log_p > best, other, found), torch.maximum(log_p, best)
        return found

    @property
    def variance(self) -> Tensor:
        weights, apart = self.logits.softmax(-1), self.components.mean - self.mean.unsqueeze(-1)
        return (weights * (self.components.variance + apart.square())).sum(-1)

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> Self:
        new = super()._map(function)
        new.components = self.components._map(lambda parameter, own: function(parameter, own + 1))
        return new

    def _element_shape(self) -> torch.Size:
        return torch.broadcast_shapes(self.logits.shape[:-1], self.components.batch_shape[:-1])
