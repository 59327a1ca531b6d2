"""Normal densities whose elements depend on one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal


class FullNormal(MultivariateNormal):
    r"""N(μ, L Lᵀ): z = L ε + μ with ε ~ N(0, I).

        log p(z) = −½ ‖L⁻¹ (z − μ)‖² − Σ_d log L_dd − (D/2) log 2π

    Args:
        loc: μ, `(*batch, D)`.
        scale_tril: L, lower triangular with a positive diagonal, `(*batch, D, D)`.
    """

    density_comes_with_draw = True

    def __init__(self, loc: Tensor, scale_tril: Tensor):
        super().__init__(loc, scale_tril=scale_tril, validate_args=False)

    @classmethod
    def of(cls, loc: Tensor, scale: Tensor, lower: Tensor) -> Self:
        """L = diag σ (I + Λ), as σ ⊙ (ε + Λ ε) + μ is drawn.

        Args:
            loc: μ, `(*batch, D)`.
            scale: σ > 0, `(*batch, D)`.
            lower: Λ, `(*batch, D, D)`, of which what stands below the diagonal is taken.
        """
        identity = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        return cls(loc, scale.unsqueeze(-1) * (identity + lower.tril(-1)))

    @property
    def log_det(self) -> Tensor:
        """log det Σ, `(*batch,)`."""
        return 2 * self._unbroadcasted_scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw L ε + μ, `(*sample_shape, *batch, D)`, and its log-density from ε itself, which spares a solve."""
        shape = torch.Size(sample_shape) + self.loc.shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        tril = self._unbroadcasted_scale_tril
        z = self.loc + (tril @ noise.unsqueeze(-1)).squeeze(-1)
        constant = 0.5 * math.log(2 * math.pi) * self.loc.shape[-1]
        return z, -0.5 * noise.square().sum(-1) - tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) - constant

    def detach(self) -> Self:
        """The same density with its parameters stopped; gradients still reach the value."""
        return type(self)(self.loc.detach(), self._unbroadcasted_scale_tril.detach())

    def tempered(self, temperature: float) -> Self:
        """The same with its scale multiplied."""
        return type(self)(self.loc, self._unbroadcasted_scale_tril * temperature)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The first batch dimension, of size K·B, seen as `sizes`, say (K, B)."""
        return type(self)(*(v.unflatten(0, tuple(sizes)) for v in (self.loc, self._unbroadcasted_scale_tril)))

    def pick(self, k: Tensor) -> Self:
        """Of batch shape (K,), those of number k."""
        return type(self)(self.loc[k], self.scale_tril[k])


class LowRankNormal(LowRankMultivariateNormal):
    r"""N(μ, B Bᵀ + diag σ²): z = μ + B η + σ ε, with η ~ N(0, I_R) and ε ~ N(0, I).

    Args:
        loc: μ, `(*batch, D)`.
        factor: B, `(*batch, D, R)`.
        diagonal: σ², `(*batch, D)`.

    Its log-density takes O(D R²), by the matrix determinant lemma and, in place of Woodbury's identity, whose
    difference of large numbers float32 does not survive where σ is small, what a ridge regression on B leaves:

        (z − μ)ᵀ Σ⁻¹ (z − μ) = min_η ‖σ⁻¹ (z − μ − B η)‖² + ‖η‖²
    """

    density_comes_with_draw = True

    def __init__(self, loc: Tensor, factor: Tensor, diagonal: Tensor):
        super().__init__(loc, factor, diagonal, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`."""
        w = (value - self.loc) * self._unbroadcasted_cov_diag.rsqrt()
        return self._log_prob(*self._nearest(w, torch.zeros((), dtype=w.dtype, device=w.device)))

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw and its log-density from the noise itself, which is of order one."""
        shape = torch.Size(sample_shape) + self.loc.shape
        like, rank = self.loc, self._unbroadcasted_cov_factor.shape[-1]
        eta = torch.randn(*shape[:-1], rank, dtype=like.dtype, device=like.device)
        noise = torch.randn(shape, dtype=like.dtype, device=like.device)
        factor, scale = self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag.sqrt()
        z = self.loc + (factor @ eta.unsqueeze(-1)).squeeze(-1) + scale * noise
        return z, self._log_prob(*self._nearest(noise, eta))

    def _nearest(self, noise: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Of ways to write A η + ε, A = σ⁻¹ B, the one of least ‖ε‖² + ‖η‖²: that ε and η, in place of those given."""
        a = self._unbroadcasted_cov_factor * self._unbroadcasted_cov_diag.rsqrt().unsqueeze(-1)
        towards = (a.mT @ noise.unsqueeze(-1)).squeeze(-1) - eta
        step = torch.cholesky_solve(towards.unsqueeze(-1), self._capacitance_tril)
        return noise - (a @ step).squeeze(-1), eta + step.squeeze(-1)

    def _log_prob(self, noise: Tensor, eta: Tensor) -> Tensor:
        square = noise.square().sum(-1) + eta.square().sum(-1)
        return -0.5 * (square + self.log_det + self.loc.shape[-1] * math.log(2 * math.pi))

    @property
    def log_det(self) -> Tensor:
        """log det Σ, `(*batch,)`."""
        capacitance = self._capacitance_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 2 * capacitance + self._unbroadcasted_cov_diag.log().sum(-1)

    def detach(self) -> Self:
        """The same density with its parameters stopped; gradients still reach the value."""
        return type(self)(*(v.detach() for v in self._parts))

    def pick(self, k: Tensor) -> Self:
        """Of batch shape (K,), those of number k."""
        return type(self)(*(v[k] for v in self._parts))

    def tempered(self, temperature: float) -> Self:
        """The same with its scale multiplied."""
        loc, factor, diagonal = self._parts
        return type(self)(loc, factor * temperature, diagonal * temperature**2)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The first batch dimension, of size K·B, seen as `sizes`, say (K, B)."""
        return type(self)(*(v.unflatten(0, tuple(sizes)) for v in self._parts))

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.loc, self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag
