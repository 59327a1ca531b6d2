"""The radial map: the space is stretched or squeezed around a point."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from jensen.transforms.parameters import Parameters
from jensen.transforms.planar import LEAST_SLOPE
from jensen.transforms.transform import Transform


class Radial(Transform):
    r"""x = z + β (z − z₀) / (α + r),    r = ‖z − z₀‖,  α > 0,  β > −α.

        log |det ∂x/∂z| = (D − 1) log(1 + β/(α + r)) + log(1 + αβ/(α + r)²)

    α and β = −α + s come from softplus (the paper's appendix A.2), each with a floor of 10⁻³.

    The paper gives no inverse, but with its h(α, r) = 1/(α + r) there is one in closed form: R = ‖x − z₀‖ is
    r (1 + β/(α + r)), so r is the positive root of r² + (s − R) r − αR = 0.

    Rezende and Mohamed, "Variational inference with normalizing flows", 2015, arXiv:1505.05770, section 4.1.

    Args:
        dims: D. Events are `(D,)`.
        context: size of the context that z₀, α and s depend on linearly; 0 to learn them. It starts as the identity.
    """

    def __init__(self, dims: int, context: int = 0):
        super().__init__()
        self.domain_shape = self.codomain_shape = (dims,)
        one = torch.tensor(math.log(math.expm1(1 - LEAST_SLOPE)))  # softplus and floor give 1
        self.parameters_of = Parameters({"centre": torch.randn(dims), "alpha": one, "slope": one}, context)

    def _coefficients(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """z₀, (N, D), α and s = α + β, (N,); or N = 1."""
        centre, alpha, slope = self.parameters_of(context)
        return centre, softplus(alpha) + LEAST_SLOPE, softplus(slope) + LEAST_SLOPE

    def _ladj(self, r: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
        """(D − 1) log((s + r)/(α + r)) + log((r² + 2αr + αs)/(α + r)²): terms that are all positive."""
        (dims,) = self.domain_shape
        outward = torch.log(r.square() + 2 * alpha * r + alpha * s) - 2 * torch.log(alpha + r)
        return (dims - 1) * torch.log((s + r) / (alpha + r)) + outward

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        centre, alpha, s = self._coefficients(context)
        away = z - centre
        r = away.norm(dim=1)
        return centre + away * ((s + r) / (alpha + r))[:, None], self._ladj(r, alpha, s)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        centre, alpha, s = self._coefficients(context)
        away = x - centre
        reach = away.norm(dim=1)
        gap = (s - reach) / 2
        root = torch.sqrt(gap.square() + alpha * reach)
        r = torch.where(gap > 0, alpha * reach / (root + gap.abs()), root - gap)  # no difference of near numbers
        return centre + away * ((alpha + r) / (s + r))[:, None], -self._ladj(r, alpha, s)
