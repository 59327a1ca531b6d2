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


class LowRankNormal(LowRankMultivariateNormal):
    r"""N(μ, B Bᵀ + diag σ²): z = μ + B η + σ ε, with η ~ N(0, I_R) and ε ~ N(0, I).

    Args:
        loc: μ, `(*batch, D)`.
        factor: B, `(*batch, D, R)`.
        diagonal: σ², `(*batch, D)`.

    Its log-density takes O(D R²), by the matrix determinant lemma and Woodbury's identity.
    """

    def __init__(self, loc: Tensor, factor: Tensor, diagonal: Tensor):
        super().__init__(loc, factor, diagonal, validate_args=False)

    def detach(self) -> Self:
        """The same density with its parameters stopped; gradients still reach the value."""
        diagonal = self._unbroadcasted_cov_diag
        return type(self)(self.loc.detach(), self._unbroadcasted_cov_factor.detach(), diagonal.detach())
