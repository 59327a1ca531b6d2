"""p(x | z) = N(W z + μ, σ² I) and its exact posterior (Tipping and Bishop 1999)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.nn.functional import softplus

from jensen.distributions import DiagonalNormal


class LinearGaussian(nn.Module):
    """x | z ~ N(W z + μ, σ² I), for x of any event shape, flattened inside.

    Args:
        latents: L.
        event: the event shape of x, D elements.
        min_scale: a floor under σ: sharing σ alone does not bound the likelihood.

    Attributes:
        weight: W, (D, L). mean: μ, (D,). scale: σ, ().
    """

    def __init__(self, latents: int, event: tuple[int, ...], min_scale: float = 1e-3):
        super().__init__()
        self.event, dims = event, math.prod(event)
        self.min_scale = min_scale
        self.weight = nn.Parameter(torch.randn(dims, latents) / math.sqrt(latents))
        self.mean = nn.Parameter(torch.zeros(dims))
        self.raw_scale = nn.Parameter(torch.zeros(()))
        self.set_scale(torch.ones(()))

    @property
    def scale(self) -> Tensor:
        return self.min_scale + softplus(self.raw_scale)

    @torch.no_grad()
    def set_scale(self, scale: Tensor) -> None:
        """Set σ; values at or below the floor become the floor."""
        excess = (scale.double() - self.min_scale).clamp_min(1e-12)
        self.raw_scale.copy_(excess + torch.log(-torch.expm1(-excess)))  # inverse of softplus

    def forward(self, z: Tensor) -> DiagonalNormal:
        loc = (z @ self.weight.mT + self.mean).unflatten(-1, self.event)
        return DiagonalNormal(loc, self.scale.expand(self.event), event_dims=len(self.event))

    def marginal(self) -> MultivariateNormal:
        """p(x) = N(μ, W Wᵀ + σ² I), over flattened x; D × D, so for small D."""
        eye = torch.eye(len(self.mean), dtype=self.mean.dtype)
        return MultivariateNormal(self.mean, self.weight @ self.weight.mT + self.scale**2 * eye, validate_args=False)


class LinearGaussianPosterior(nn.Module):
    """z | x ~ N(M⁻¹ Wᵀ (x − μ), σ² M⁻¹), M = Wᵀ W + σ² I: the exact posterior of a `LinearGaussian`."""

    exact_posterior = True

    def __init__(self, likelihood: LinearGaussian):
        super().__init__()
        self.likelihood = likelihood

    def forward(self, x: Tensor) -> MultivariateNormal:
        p = self.likelihood
        w, variance = p.weight, p.scale**2
        m = w.mT @ w + variance * torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
        c = torch.linalg.cholesky(m)
        loc = torch.cholesky_solve(w.mT @ (x.flatten(1) - p.mean).mT, c).mT  # (N, L)
        covariance = variance * torch.cholesky_inverse(c)
        tril = torch.linalg.cholesky(covariance)
        return MultivariateNormal(loc, scale_tril=tril, validate_args=False)
