"""Whole numbers as the floor of a continuous variable: x = ⌊v⌋.

    P(x) = ∫ p(v) 1[⌊v⌋ = x] dv        log P(x) ≥ E_{q(v | x)}[log p(v) − log q(v | x)],  q on [x, x + 1)

so a density p(v) becomes a model of whole numbers, and its score a lower bound. Uniform q: Theis, van den Oord and
Bethge 2016, arXiv:1511.01844. Learned q: Ho et al., "Flow++", 2019, arXiv:1902.00275.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from jensen.conditionals.heads import Support
from jensen.distributions import Elementwise
from jensen.registry import component

GRID = 2.0**-16  # of u: 255 + u is exact in float32, so that the floor is never the next number


class Floored(Elementwise):
    """P(x | v) = 1[x = ⌊v⌋], v below 0 counted as 0 and v above the top as the top.

    Args:
        v: (*batch, *event).
        top: the largest whole number, or None.
        event_dims: of an event.
    """

    parameter_dims: ClassVar[dict[str, int]] = {"v": 0}
    support = constraints.nonnegative_integer

    def __init__(self, v: Tensor, top: int | None, event_dims: int):
        self.v, self.top, self.event_dims = v, top, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        same = value == self.mode
        return torch.where(same, torch.zeros((), dtype=self.v.dtype, device=self.v.device), -torch.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.mode.expand(self._sample_shape(sample_shape))

    @property
    def mean(self) -> Tensor:
        return self.mode

    @property
    def mode(self) -> Tensor:
        return self.v.floor().clamp(0, self.top)

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.v)


class Floor(nn.Module):
    """p(x | v): the whole number below v. `forward(v)` gives a `Floored`."""

    sequential_steps = 0

    def __init__(self, support: Support):
        super().__init__()
        self.top = {"binary": 1, "levels": (support.levels or 1) - 1, "count": None}[support.kind]
        self.event_dims = len(support.shape)

    def forward(self, v: Tensor) -> Floored:
        return Floored(v, self.top, self.event_dims)


class UniformOnBins(Elementwise):
    """Uniform density on [x, x + 1)^D, drawn on a grid of 2⁻¹⁶; log-density 0 there and −∞ elsewhere."""

    parameter_dims: ClassVar[dict[str, int]] = {"x": 0}
    support = constraints.real
    has_rsample = False

    def __init__(self, x: Tensor, event_dims: int):
        self.x, self.event_dims = x, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        inside = (value >= self.x) & (value < self.x + 1)
        return torch.where(inside, torch.zeros((), dtype=self.x.dtype, device=self.x.device), -torch.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._sample_shape(sample_shape)
        u = torch.randint(0, 2**16, shape, device=self.x.device, dtype=torch.int32)
        return torch.add(self.x, u.to(self.x.dtype), alpha=GRID)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        v = self.sample(sample_shape)
        return v, v.new_zeros(v.shape[: v.dim() - self.event_dims])

    density_comes_with_draw = True

    @property
    def mean(self) -> Tensor:
        return self.x + 0.5

    @property
    def mode(self) -> Tensor:
        return self.mean

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.x, 1 / 12)


class UniformDequantizer(nn.Module):
    """q(v | x): v = x + u, u uniform on [0, 1)."""

    dequantizes = True

    def __init__(self, support: Support):
        super().__init__()
        self.event_dims = len(support.shape)

    def forward(self, x: Tensor) -> Distribution:
        return UniformOnBins(x, self.event_dims)


@component("dequantizer", "uniform", paper="Theis, van den Oord and Bethge 2016, arXiv:1511.01844")
def uniform(support: Support) -> nn.Module:
    """Uniform noise on [0, 1) added to whole numbers."""
    return UniformDequantizer(support)
