"""A learned linear map whose inverse and log-determinant are cheap."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from jensen.transforms.transform import Shape, Transform

BOUND = 4.0  # of the logarithm of a pivot


class LULinear(Transform):
    """z = P L U x with a fixed permutation P, L unit lower triangular and U upper triangular with pivots ±exp(s).

        log |det ∂x/∂z| = −(H · W) Σ s

    It acts on a vector, or on the channels of every pixel of a picture: Glow's invertible 1×1 convolution. Density is
    the direction without a solve; the other takes two triangular ones. s = b tanh(a / b) with b = 4 keeps the pivots
    away from zero.

    Args:
        shape: of the event.
        start: a random "rotation", as for the channels of pictures, or a random "permutation", which leaves columns
            of a table what they are until training mixes them.

    Kingma and Dhariwal, "Glow", 2018, arXiv:1807.03039, section 3.2; for vectors: Oliva et al. 2018, arXiv:1801.09819.
    """

    forward_steps = inverse_steps = 0
    order: Tensor
    sign: Tensor

    def __init__(self, shape: Shape, start: Literal["rotation", "permutation"] = "rotation"):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(shape)
        self._pixels = math.prod(shape[1:])
        n = shape[0]
        if start == "rotation":
            matrix = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
        else:
            matrix = torch.eye(n, dtype=torch.float64)[torch.randperm(n)]
        permutation, lower, upper = torch.linalg.lu(matrix)
        pivots = upper.diagonal()
        size = pivots.abs().log().clamp(-0.99 * BOUND, 0.99 * BOUND)
        raw = BOUND * torch.atanh(size / BOUND)
        factors = lower.tril(-1) + upper.triu(1) + raw.diag()
        self.factors = nn.Parameter(factors.to(torch.get_default_dtype()))  # L below the diagonal, U above, a on it
        self.register_buffer("sign", pivots.sign().to(torch.get_default_dtype()))
        self.register_buffer("order", permutation.argmax(1))  # row d of P M is row order[d] of M

    def _log_pivots(self) -> Tensor:
        return BOUND * torch.tanh(self.factors.diagonal() / BOUND)

    def _triangles(self, log_pivots: Tensor) -> tuple[Tensor, Tensor]:
        return self.factors.tril(-1), self.factors.triu(1) + (self.sign * log_pivots.exp()).diag()

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s = self._log_pivots()
        lower, upper = self._triangles(s)
        identity = torch.eye(len(s), dtype=s.dtype, device=s.device)[self.order].mT  # P⁻¹
        half = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
        inverse = torch.linalg.solve_triangular(upper, half, upper=True)
        return _multiply(inverse, z), -s.sum() * self._pixels

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s = self._log_pivots()
        lower, upper = self._triangles(s)
        matrix = torch.addmm(upper, lower, upper)[self.order]  # P (L + I) U
        return _multiply(matrix, x), s.sum() * self._pixels


def _multiply(matrix: Tensor, x: Tensor) -> Tensor:
    return x @ matrix.mT if x.dim() == 2 else conv2d(x, matrix[:, :, None, None])
