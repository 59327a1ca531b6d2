"""Priors over what is hidden, and base densities of flows.

A prior is a module whose `forward()` gives a density of batch shape () over its event shape. Where the density does
not live on the real line, `support` says where: a flow then starts there, and a posterior is carried there.
"""

from __future__ import annotations

import math
import warnings
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import constraints

from jensen.conditionals.heads import inverse_positive, positive
from jensen.distributions import DiagonalNormal, Mixture, StandardNormal, StudentT, Uniform
from jensen.distributions.multivariate import FullNormal
from jensen.errors import ConfigError
from jensen.registry import component


class Normal(nn.Module):
    """p(z) = N(0, I).

    `forward()` gives a StandardNormal of batch shape () over `event_shape`.

    >>> Normal((2,))().log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, event_shape: tuple[int, ...]):
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.register_buffer("loc", torch.zeros(self.event_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.event_shape), persistent=False)

    def forward(self) -> StandardNormal:
        return StandardNormal(self.loc, self.scale, event_dims=len(self.event_shape))


@component("prior", "normal")
def normal(latents: tuple[int, ...]) -> nn.Module:
    """Standard normal prior, p(z) = N(0, I)."""
    return Normal(latents)


class LearnedNormal(nn.Module):
    """p(z) = N(μ, diag σ²), μ and σ learned from N(0, I) on."""

    def __init__(self, event_shape: tuple[int, ...], min_scale: float):
        super().__init__()
        self.min_scale = min_scale
        self.loc, self.raw_scale = nn.Parameter(torch.zeros(event_shape)), nn.Parameter(torch.zeros(event_shape))

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(self.loc, positive(self.raw_scale, self.min_scale, 1.0), event_dims=self.loc.dim())


@component("prior", "gaussian")
def gaussian(latents: tuple[int, ...], *, min_scale: Annotated[float, Field(gt=0, lt=1)] = 1e-2) -> nn.Module:
    """Normal prior whose mean and diagonal covariance are learned, for posteriors that are given a scale of their own.

    Settings:
        min_scale: floor under every σ.
    """
    return LearnedNormal(latents, min_scale)


class StudentTs(nn.Module):
    """p(z) = Π_d t(z_d; ν_d): heavy tails.

    Args:
        event_shape: of z.
        df: ν > 0 for all dimensions; None learns one for each, above 2, so that the variance is finite.
    """

    start = 10.0
    """ν where learning starts."""
    loc: Tensor
    scale: Tensor

    def __init__(self, event_shape: tuple[int, ...], df: float | None = None):
        super().__init__()
        self.event_shape, self.df = tuple(event_shape), df
        self.register_buffer("loc", torch.zeros(self.event_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.event_shape), persistent=False)
        if df is None:
            self.raw_df = nn.Parameter(torch.zeros(self.event_shape))

    def forward(self) -> StudentT:
        df = positive(self.raw_df, 2.0, self.start) if self.df is None else torch.full_like(self.loc, self.df)
        return StudentT(df, self.loc, self.scale, event_dims=len(self.event_shape))


@component(
    "prior",
    "student-t",
    paper="as a flow's base: Jaini et al. 2020, arXiv:1907.04481; Alexanderson and Henter 2020, arXiv:2006.06599",
)
def student_t(latents: tuple[int, ...], *, df: Annotated[float, Field(gt=0)] | None = None) -> nn.Module:
    """Independent Student's t densities: a prior or base with heavy tails, which a flow cannot make from light ones.

    Settings:
        df: degrees of freedom ν; none learns one for each dimension, above 2.
    """
    return StudentTs(latents, df)


class NormalMixture(nn.Module):
    """p(z) = Σ_k π_k N(z; μ_k, Σ_k), all learned; Σ_k = diag σ²_k, or L_k L_kᵀ with L_k = diag σ_k (I + Λ_k).

    It starts near N(0, I), without data: means drawn with half the deviation, and scales that leave the variance 1.
    Where codes are known, `initialize` starts it from them.
    """

    sampling = "mixture"

    start = math.sqrt(0.75)
    """σ where learning starts."""

    def __init__(self, event_shape: tuple[int, ...], components: int, min_scale: float, covariance: str = "diagonal"):
        super().__init__()
        self.event_shape, self.min_scale = tuple(event_shape), min_scale
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(0.5 * torch.randn(components, *self.event_shape))
        self.raw_scale = nn.Parameter(torch.zeros(components, *self.event_shape))
        self.lower = None
        if covariance == "full":
            if len(self.event_shape) != 1:
                raise ConfigError(f"covariance: full is for vectors, and z has shape {self.event_shape}")
            self.lower = nn.Parameter(torch.zeros(components, *self.event_shape * 2))

    def forward(self) -> Mixture:
        scale = positive(self.raw_scale, self.min_scale, self.start)
        if self.lower is not None:
            return Mixture(self.logits, FullNormal.of(self.loc, scale, self.lower.tril(-1)))
        return Mixture(self.logits, DiagonalNormal(self.loc, scale, event_dims=len(self.event_shape)))

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        """Start from the best of a few runs of EM on codes z, (n, *event), each from k-means."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        count, rows = len(self.logits), z.flatten(1).double().cpu().numpy()
        if len(rows) < 2 * count:
            return
        kind = "full" if self.lower is not None else "diag"
        seed = int(torch.randint(1 << 31, ()))
        em = GaussianMixture(count, covariance_type=kind, reg_covar=self.min_scale**2, n_init=STARTS, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            em.fit(rows)
        covariance = torch.tensor(em.covariances_)
        self.logits.copy_(torch.tensor(em.weights_).log())
        self.loc.copy_(torch.tensor(em.means_).reshape(self.loc.shape))
        scale = covariance.sqrt()
        if self.lower is not None:
            root = torch.linalg.cholesky(covariance)
            scale = root.diagonal(dim1=1, dim2=2)
            self.lower.copy_((root / scale.unsqueeze(2)).tril(-1))
        self.raw_scale.copy_(inverse_positive(scale, self.min_scale, self.start).reshape(self.raw_scale.shape))


STARTS = 3  # runs of EM


@component("prior", "mixture", paper="Dilokthanakul et al. 2016, arXiv:1611.02648; Jiang et al. 2017, arXiv:1611.05148")
def mixture(
    latents: tuple[int, ...],
    *,
    components: Annotated[int, Field(ge=1)] = 10,
    covariance: Literal["diagonal", "full"] = "diagonal",
    min_scale: Annotated[float, Field(gt=0, lt=0.8)] = 1e-2,
) -> nn.Module:
    """Mixture of normals: weights, means and covariances are learned. Each component is a cluster.

    Settings:
        components: K.
        covariance: of each component: diagonal, or full.
        min_scale: floor under every σ.
    """
    return NormalMixture(latents, components, min_scale, covariance)


class UnitCube(nn.Module):
    """p(z) = 1 on (0, 1)^D."""

    support: Any = constraints.unit_interval
    like: Tensor

    def __init__(self, event_shape: tuple[int, ...]):
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.register_buffer("like", torch.zeros(self.event_shape), persistent=False)

    def forward(self) -> Uniform:
        return Uniform(self.like, event_dims=len(self.event_shape))


@component("prior", "uniform")
def uniform(latents: tuple[int, ...]) -> nn.Module:
    """Uniform density on the unit cube. Flows on the real line and posteriors are carried to it by a sigmoid."""
    return UnitCube(latents)
