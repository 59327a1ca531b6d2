"""A density seen in other units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.distributions import constraints

from jensen.distributions.elementwise import Elementwise


class Affine(Elementwise):
    r"""The density of x = shift + scale · u, for u from a continuous density.

        log p(x) = Σ_d log p_base((x_d − shift)/scale) − log |scale|

    Args:
        base: density of u.
        shift: a number, or a tensor that broadcasts against the event.
        scale: likewise, not 0.

    Raises:
        ValueError: the base is discrete: its probabilities do not change with the units.

    >>> from jensen.distributions import ContinuousBernoulli
    >>> p = Affine(ContinuousBernoulli(torch.zeros(1)), shift=0.0, scale=255.0)
    >>> p.log_prob(torch.tensor([100.0]))  # log 1/255
    tensor(-5.5413)
    """

    support = constraints.real

    def __init__(self, base: Elementwise, shift: float | Tensor, scale: float | Tensor):
        if base.support.is_discrete:
            raise ValueError(f"expected a continuous density to rescale, got {type(base).__name__}")
        self.base, self.event_dims = base, base.event_dims
        self.shift, self.scale = shift, scale

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.has_rsample

    def log_prob_terms(self, value: Tensor) -> Tensor:
        scale = torch.as_tensor(self.scale, dtype=value.dtype, device=value.device)
        return self.base.log_prob_terms((value - self.shift) / self.scale) - scale.abs().log()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.shift + self.scale * self.base.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.shift + self.scale * self.base.rsample(torch.Size(sample_shape))

    def quantile(self, u: Tensor) -> Tensor:
        scale = torch.as_tensor(self.scale, dtype=u.dtype, device=u.device)
        return self.shift + self.scale * self.base.quantile(torch.where(scale > 0, u, 1 - u))

    @property
    def mean(self) -> Tensor:
        return self.shift + self.scale * self.base.mean

    @property
    def mode(self) -> Tensor:
        return self.shift + self.scale * self.base.mode

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * self.base.variance

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> Self:
        return type(self)(self.base._map(function), *(_mapped(x, function) for x in (self.shift, self.scale)))

    def _element_shape(self) -> torch.Size:
        return self.base._element_shape()


def _mapped(x: float | Tensor, function: Callable[[Tensor, int], Tensor]) -> float | Tensor:
    return function(x, 0) if isinstance(x, Tensor) else x
