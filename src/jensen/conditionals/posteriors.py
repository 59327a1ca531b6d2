"""Normal posteriors: q(z | x) whose mean and covariance a network puts out.

    diagonal    Σ = diag σ²(x)
    mean        Σ = σ² I, fixed
    full        Σ = L(x) L(x)ᵀ, L = diag σ(x) (I + Λ(x))
    low-rank    Σ = B(x) B(x)ᵀ + diag σ²(x)

Scales have a floor, and where the network puts out zeros q is N(0, I). Posteriors that are not normal are
flows (`conditionals/flows.py`).
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from jensen.conditionals.heads import GaussianHead, Head, Support, positive
from jensen.conditionals.likelihoods import Positive
from jensen.distributions.multivariate import FullNormal, LowRankNormal
from jensen.registry import component

Floor = Annotated[float, Field(gt=0, lt=1)]


class FullPosterior(nn.Module):
    """q(z | x) = N(μ, L Lᵀ); the network puts out μ, raw σ and what stands below the diagonal of Λ, row by row."""

    def __init__(self, latents: tuple[int, ...], min_scale: float):
        super().__init__()
        (self.latents,) = latents
        self.min_scale = min_scale
        self.parameter_shape = (2 * self.latents + self.latents * (self.latents - 1) // 2,)

    def initial_bias(self, x: Tensor) -> None:
        return None

    def forward(self, parameters: Tensor) -> FullNormal:
        size = self.latents
        loc, raw, below = parameters.split([size, size, parameters.shape[-1] - 2 * size], -1)
        rows, columns = torch.tril_indices(size, size, -1, device=below.device)
        lower = below.new_zeros(*below.shape[:-1], size, size)
        lower[..., rows, columns] = below
        return FullNormal.of(loc, positive(raw, self.min_scale, 1.0), lower)


class LowRankPosterior(nn.Module):
    """q(z | x) = N(μ, B Bᵀ + diag σ²); the network puts out μ, raw σ and B, row by row."""

    def __init__(self, latents: tuple[int, ...], rank: int, min_scale: float):
        super().__init__()
        (self.latents,) = latents
        self.rank, self.min_scale = rank, min_scale
        self.parameter_shape = (self.latents * (2 + rank),)

    def initial_bias(self, x: Tensor) -> None:
        return None

    def forward(self, parameters: Tensor) -> LowRankNormal:
        loc, raw, factor = parameters.split([self.latents, self.latents, self.latents * self.rank], -1)
        factor = factor.unflatten(-1, (self.latents, self.rank))
        return LowRankNormal(loc, factor, positive(raw, self.min_scale, 1.0).square())


@component("posterior", "diagonal")
def diagonal(latents: tuple[int, ...], *, min_scale: Floor = 1e-4) -> Head:
    """Normal posterior with a diagonal covariance; mean and scale come from the network.

    q(z|x) = N(μ(x), σ(x)²), σ = min_scale + softplus(raw + c), which is 1 where raw is 0.

    Settings:
        min_scale: a floor under σ.
    """
    return GaussianHead(Support("real", tuple(latents)), "input", 1.0, min_scale)


@component("posterior", "mean")
def mean(latents: tuple[int, ...], *, scale: Positive = 1.0) -> Head:
    """Normal posterior whose mean comes from the network and whose scale is fixed.

    With scale 1 and a standard normal prior, KL = ½‖μ‖².

    Settings:
        scale: the fixed standard deviation.
    """
    return GaussianHead(Support("real", tuple(latents)), "fixed", scale, 0.0)


@component("posterior", "full", paper="Challis and Barber 2013, JMLR 14; Kingma and Welling 2019, arXiv:1906.02691")
def full(latents: tuple[int, ...], *, min_scale: Floor = 1e-3) -> Any:
    """Normal posterior with a full covariance, by its Cholesky factor: L (L + 3) / 2 numbers from the network.

    q(z|x) = N(μ(x), L(x) L(x)ᵀ), L = diag σ (I + Λ), Λ strictly lower triangular.

    Settings:
        min_scale: a floor under σ, the diagonal of the Cholesky factor.
    """
    return FullPosterior(latents, min_scale)


@component("posterior", "low-rank", paper="Rezende et al. 2014, arXiv:1401.4082; Ong et al. 2018, arXiv:1701.03208")
def low_rank(latents: tuple[int, ...], *, rank: Annotated[int, Field(ge=1)] = 2, min_scale: Floor = 1e-3) -> Any:
    """Normal posterior with correlations along a few directions: L (R + 2) numbers from the network.

    q(z|x) = N(μ(x), B(x) B(x)ᵀ + diag σ²(x)), B of R columns.

    Settings:
        rank: R, columns of B.
        min_scale: a floor under σ.
    """
    return LowRankPosterior(latents, rank, min_scale)
