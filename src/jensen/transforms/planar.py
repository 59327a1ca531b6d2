"""The planar map: the space is stretched or squeezed along one direction, around a hyperplane."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from jensen.transforms.parameters import Parameters
from jensen.transforms.roots import STEPS, increasing_root
from jensen.transforms.transform import Transform

LEAST_SLOPE = 1e-3
"""Of a residual map along its direction: without a floor its inverse loses all digits of float32."""
LEAST_SQUARE = 1e-12
"""Of ‖w‖: below it û is u with less of w than the constraint asks for, and its slope is what that gives."""


class Planar(Transform):
    r"""x = z + û tanh(wᵀz + b).

        log |det ∂x/∂z| = log(1 + wᵀû (1 − tanh²(wᵀz + b)))
        û = u + (m(wᵀu) − wᵀu) w / ‖w‖²,    m(a) = −1 + softplus(a) + ε

    m keeps wᵀû above −1, so that the map is invertible (the paper's appendix A.1); ε = 10⁻³ keeps it well away.

    **The inverse has no closed form.** With a = wᵀz + b it is z = x − û tanh(a), where a is the root of the increasing
    a + wᵀû tanh(a) = wᵀx + b, found by iteration to the last digits (`increasing_root`).

    Rezende and Mohamed, "Variational inference with normalizing flows", 2015, arXiv:1505.05770, section 4.1.

    Args:
        dims: D. Events are `(D,)`.
        context: size of the context that w, u and b depend on linearly; 0 to learn them. It starts as the identity.
    """

    forward_steps, inverse_steps = 1, STEPS

    def __init__(self, dims: int, context: int = 0):
        super().__init__()
        self.domain_shape = self.codomain_shape = (dims,)
        w = torch.randn(dims) / math.sqrt(dims)
        still = math.log(math.expm1(1 - LEAST_SLOPE))  # m(a) = 0
        self.parameters_of = Parameters({"w": w, "u": still * w / w.square().sum(), "b": torch.zeros(())}, context)

    def _coefficients(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w and û, (N, D), b and the least slope 1 + wᵀû, (N,); or N = 1."""
        w, u, b = self.parameters_of(context)
        along = (w * u).sum(1)
        slope = softplus(along) + LEAST_SLOPE
        square = w.square().sum(1)
        much = square.clamp_min(LEAST_SQUARE)
        u = u + ((slope - 1 - along) / much)[:, None] * w
        return w, u, b, torch.where(square < LEAST_SQUARE, 1 + (w * u).sum(1), slope)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        w, u, b, slope = self._coefficients(context)
        h = torch.tanh((w * z).sum(1) + b)
        return z + u * h[:, None], log_slope(h, slope)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        w, u, b, slope = self._coefficients(context)
        y = (w * x).sum(1) + b
        h = torch.tanh(residual_root(y, slope - 1, torch.ones_like(slope), torch.zeros_like(slope)))
        return x - u * h[:, None], -log_slope(h, slope)


def log_slope(h: Tensor, least: Tensor) -> Tensor:
    """log(1 + c (1 − h²)) with c = least − 1 > −1, as a sum of two positive terms, which keeps its digits."""
    square = h.square()
    return torch.log(square + least * (1 - square))


def residual_root(y: Tensor, outer: Tensor, inner: Tensor, shift: Tensor) -> Tensor:
    """The v with v + r tanh(s v + t) = y, element by element, for r s > −1; differentiable in all four.

    Args:
        y: what is to be met.
        outer, inner, shift: r, s and t.
    """
    y, outer, inner, shift = torch.broadcast_tensors(y, outer, inner, shift)

    def residual(v: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(inner * v + shift)
        square = h.square()
        return v + outer * h - y, square + (1 + outer * inner) * (1 - square)

    reach = 1.01 * outer.detach().abs()  # a saturated tanh has its root at ±|r|, and Newton's step must not miss it
    return increasing_root(residual, y.detach() - reach, y.detach() + reach, y.detach().abs() + reach)
