"""Mixtures of densities of one family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.errors import ConfigError


class Mixture(Distribution):
    r"""p(x) = Σ_k π_k p_k(x), the p_k of one family, each over a whole event.

    That family offers `pick` and, for its moments, `mean` and `variance`; where it has `log_prob_pairs`, the density of
    each value under each component, that is used.

        log p(x) = logsumexp_k (log π_k + log p_k(x))

    The elements of an event depend on one another by way of k. A draw has no gradient.

    Args:
        logits: log π up to a constant, `(*batch, K)`.
        components: of batch shape `(*batch, K)`.

    >>> from jensen.distributions import DiagonalNormal
    >>> p = Mixture(torch.zeros(2), DiagonalNormal(torch.tensor([[0.0], [5.0]]), torch.ones(2, 1)))
    >>> p.log_prob(torch.tensor([0.0])), p.responsibilities(torch.tensor([2.5]))
    (tensor(-1.6121), tensor([0.5000, 0.5000]))
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = False
    _validate_args = False

    def __init__(self, logits: Tensor, components: Any):
        self.logits, self.components = logits, components

    @property
    def batch_shape(self) -> torch.Size:
        return self.components.batch_shape[:-1]

    @property
    def event_shape(self) -> torch.Size:
        return self.components.event_shape

    @property
    def support(self) -> Any:
        """The constraint on one element of x."""
        return self.components.support

    @property
    def log_weights(self) -> Tensor:
        """log π in nats, `(*batch, K)`."""
        return self.logits.log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`."""
        return self._joint(value).logsumexp(-1)

    def responsibilities(self, value: Tensor) -> Tensor:
        """p(k | x), `(*batch, K)`."""
        return self._joint(value).softmax(-1)

    def _joint(self, value: Tensor) -> Tensor:
        """log π_k p_k(x), `(*batch, K)`."""
        event = len(self.event_shape)
        if len(self.components.batch_shape) == 1 and hasattr(self.components, "log_prob_pairs"):
            return self.log_weights + self.components.log_prob_pairs(value)
        value = value.unsqueeze(value.dim() - event)
        lead = torch.broadcast_shapes(value.shape[: value.dim() - event], self.components.batch_shape)
        return self.log_weights + self.components.log_prob(value.expand(lead + self.event_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """First k, then x given k."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            noise = torch.empty(shape + self.logits.shape[-1:], dtype=self.logits.dtype, device=self.logits.device)
            return self.components.pick(
                (self.logits - noise.exponential_().log()).argmax(-1)
            ).sample()  # by Gumbel noise

    @property
    def mean(self) -> Tensor:
        """Σ π_k μ_k, `(*batch, *event)`."""
        return self._average(self.components.mean)

    @property
    def variance(self) -> Tensor:
        """Σ π_k (σ²_k + μ²_k) − (Σ π_k μ_k)², element by element, `(*batch, *event)`."""
        spread = self.components.mean - self.mean.unsqueeze(len(self.batch_shape))
        return self._average(self.components.variance + spread.square())

    def _average(self, values: Tensor) -> Tensor:
        weights = self.log_weights.exp()
        return (weights.reshape(weights.shape + (1,) * len(self.event_shape)) * values).sum(len(self.batch_shape))

    def sampled(self, component: int | None) -> Self:
        """Drawn from the component of that number alone. Raises `ConfigError` where there is none."""
        return type(self)(only(self.logits, component), self.components)

    def detach(self) -> Self:
        """The same density with its parameters stopped; gradients still reach the value."""
        return type(self)(self.logits.detach(), self.components.detach())

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The first batch dimension, of size K·B, seen as `sizes`, say (K, B)."""
        if not self.batch_shape:
            return self
        logits = self.logits.unflatten(0, tuple(sizes)) if self.logits.dim() > 1 else self.logits
        return type(self)(logits, self.components.unflatten(sizes))

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Self:
        """The same density for every index of a larger batch, without copying."""
        full = torch.Size(batch_shape) + self.components.batch_shape[-1:]
        return type(self)(self.logits.expand(full), self.components.expand(full))

    def __repr__(self) -> str:
        batch, event = tuple(self.batch_shape), tuple(self.event_shape)
        return f"Mixture(batch_shape={batch}, event_shape={event})"


def only(logits: Tensor, component: int | None) -> Tensor:
    """All weight on the component of that number, counted from 0; the weights as they are where it is None.

    Raises:
        ConfigError: there is no such component.

    >>> only(torch.zeros(3), 1)
    tensor([-inf, 0., -inf])
    """
    count = logits.shape[-1]
    if component is None:
        return logits
    if component >= count:
        raise ConfigError(f"component: the mixture has {count}, numbered from 0 to {count - 1}; got {component}")
    kept = torch.arange(count, device=logits.device) == component
    return torch.where(kept, 0.0, -math.inf).to(logits).expand(logits.shape)


def component_of(u: Tensor, logits: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """The component in whose share of [0, 1) each u lies: its parameters, and where in that share u is, inside (0, 1).

    With u uniform both are draws, independent of each other.

    Args:
        u: inside (0, 1), `(*shape)`.
        logits: log π up to a constant, `(..., K)`, broadcastable to `(*shape, K)`.
        parameters: of the components, likewise.

    Returns:
        One parameter a component each, and the rest of u last, all `(*shape)`.
    """
    weights = logits.softmax(-1)
    ends = weights.cumsum(-1)
    chosen = (ends[..., :-1] <= u.unsqueeze(-1)).sum(-1, keepdim=True)
    weight, end, *found = (
        v.expand(*u.shape, v.shape[-1]).gather(-1, chosen).squeeze(-1) for v in (weights, ends, *parameters)
    )
    tiny = torch.finfo(u.dtype).eps
    return *found, ((u - end) / weight.clamp_min(tiny) + 1).clamp(tiny, 1 - tiny)
