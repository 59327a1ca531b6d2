"""The uniform density on an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from jensen.distributions.elementwise import Elementwise


class Uniform(Elementwise):
    r"""Uniform density on the unit cube.

        log p(x) = 0 for x in [0, 1]^D, −∞ elsewhere

    Draws keep a rounding error away from 0 and 1, so that their logits are finite and alike at both ends.

    Args:
        like: any tensor `(*batch, *event)`; fixes shape, dtype and device.
        event_dims: trailing dimensions that make up one event.

    >>> Uniform(torch.zeros(2)).log_prob(torch.tensor([[0.5, 0.5], [0.5, 1.5]]))
    tensor([0., -inf])
    """

    parameter_dims: ClassVar[dict[str, int]] = {"like": 0}
    support: Any = constraints.unit_interval
    has_rsample = True

    def __init__(self, like: Tensor, event_dims: int = 1):
        self.like, self.event_dims = like, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape, self.like.shape)
        inside = ((value >= 0) & (value <= 1)).expand(shape)
        return torch.where(inside, value.new_zeros(()), -torch.inf)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        u = torch.rand(self._sample_shape(sample_shape), dtype=self.like.dtype, device=self.like.device)
        return u.clamp_min(torch.finfo(u.dtype).eps / 2)

    def quantile(self, u: Tensor) -> Tensor:
        return u.expand(torch.broadcast_shapes(u.shape, self.like.shape))

    @property
    def mean(self) -> Tensor:
        return torch.full_like(self.like, 0.5)

    @property
    def mode(self) -> Tensor:
        """As likely as any: the middle."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.like, 1 / 12)
