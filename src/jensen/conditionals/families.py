"""Variational families: q(z) over R^D, without a datum, to be fitted to one target.

A family is a module whose `forward()` gives a density of batch shape () over (D,). It starts near N(0, I). Scales are
exp(s), not softplus: a target may live on any scale, and a step in s changes a scale by its share.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from jensen.conditionals.flows import Flow
from jensen.distributions import DiagonalNormal, Mixture
from jensen.distributions.multivariate import FullNormal, LowRankNormal
from jensen.registry import FlowSlot, component


class MeanField(nn.Module):
    """q(z) = Π_d N(z_d; μ_d, σ_d²)."""

    def __init__(self, dims: int):
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(dims)), nn.Parameter(torch.zeros(dims))

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(self.loc, self.log_scale.exp())


class FullCovariance(nn.Module):
    """q(z) = N(μ, L Lᵀ), z = L ε + μ, with L = diag(exp s) (I + strictly lower): Challis and Barber 2013."""

    def __init__(self, dims: int):
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(dims)), nn.Parameter(torch.zeros(dims))
        self.lower = nn.Parameter(torch.zeros(dims, dims))

    def forward(self) -> FullNormal:
        return FullNormal.of(self.loc, self.log_scale.exp(), self.lower)


class LowRank(nn.Module):
    """q(z) = N(μ, B Bᵀ + diag σ²), B of R columns: Ong, Nott and Smith 2018."""

    def __init__(self, dims: int, rank: int):
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(dims)), nn.Parameter(torch.zeros(dims))
        self.factor = nn.Parameter(0.1 * torch.randn(dims, rank))  # at 0 its gradient would vanish

    def forward(self) -> LowRankNormal:
        return LowRankNormal(self.loc, self.factor, (2 * self.log_scale).exp())


class NormalMixture(nn.Module):
    """q(z) = Σ_k π_k N(z; μ_k, diag σ_k²)."""

    def __init__(self, dims: int, components: int, spread: float):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(spread * torch.randn(components, dims))
        self.log_scale = nn.Parameter(torch.zeros(components, dims))

    def forward(self) -> Mixture:
        return Mixture(self.logits, DiagonalNormal(self.loc, self.log_scale.exp()))


@component("family", "mean-field", paper="Kucukelbir et al. 2017, arXiv:1603.00788")
def mean_field(dims: int) -> nn.Module:
    """Normal with a diagonal covariance: cheap, and too narrow where the target's elements are correlated."""
    return MeanField(dims)


@component("family", "full", paper="Challis and Barber 2013, JMLR 14; Kucukelbir et al. 2017, arXiv:1603.00788")
def full(dims: int) -> nn.Module:
    """Normal with a full covariance, z = L ε + μ; D (D + 3) / 2 parameters."""
    return FullCovariance(dims)


@component("family", "low-rank", paper="Ong, Nott and Smith 2018, JCGS 27(3), arXiv:1701.03208")
def low_rank(dims: int, *, rank: Annotated[int, Field(ge=1)] = 5) -> nn.Module:
    """Normal with covariance B Bᵀ + diag σ²: correlations of many dimensions, in D (R + 2) parameters.

    Settings:
        rank: R, columns of B.
    """
    return LowRank(dims, rank)


@component("family", "mixture", paper="Jaakkola and Jordan 1998; Roeder, Wu and Duvenaud 2017, arXiv:1703.09194")
def mixture(
    dims: int,
    *,
    components: Annotated[int, Field(ge=1)] = 4,
    spread: Annotated[float, Field(ge=0)] = 1.0,
) -> nn.Module:
    """Mixture of normals with diagonal covariances, for several modes.

    Settings:
        components: K.
        spread: how far apart their means start, in units of the first guess of the target's scale.
    """
    return NormalMixture(dims, components, spread)


@component("family", "flow", paper="Rezende and Mohamed 2015, arXiv:1505.05770")
def flow(dims: int, *, flow: FlowSlot = "iaf") -> nn.Module:
    """A normalizing flow of a normal with a diagonal covariance; `family=iaf` is short for `family=flow flow=iaf`.

    Settings:
        flow: the transform, any that `jensen models` lists as a flow; best one whose draws are fast.
    """
    transform = flow((dims,), 0)
    return Flow(MeanField(dims), transform)
