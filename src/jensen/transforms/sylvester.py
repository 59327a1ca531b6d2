"""The Sylvester map: a planar map along several directions at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from jensen.transforms.householder import reflect
from jensen.transforms.parameters import Parameters
from jensen.transforms.planar import LEAST_SLOPE, log_slope, residual_root
from jensen.transforms.roots import STEPS
from jensen.transforms.transform import Transform

LARGEST = math.sqrt(1 - LEAST_SLOPE)
"""Of a diagonal element of R and S: their product stays above −1 + 10⁻³."""


class Sylvester(Transform):
    r"""x = z + Q R tanh(S Qᵀz + b), Q with M orthonormal columns, R and S upper triangular.

        log |det ∂x/∂z| = Σ_i log(1 + R_ii S_ii (1 − h_i²)),    h = tanh(S Qᵀz + b)

    By Sylvester's identity the determinant is one of M × M, here of a triangular matrix. The map is invertible where
    R_ii S_ii > −1 (theorem 2); diagonals are bounded by tanh, as the authors' are. Q is a product of Householder
    reflections, cut to M columns; or, without reflections, the identity or the order reversed ("triangular").

    **The inverse has no closed form.** In v = Qᵀz it is M increasing equations of one unknown,

        v_i + R_ii tanh(S_ii v_i + t_i) = (Qᵀx)_i − Σ_{j>i} R_ij h_j,    t_i = b_i + Σ_{j>i} S_ij v_j

    solved from the last to the first by iteration, each to the last digits (`increasing_root`).

    Van den Berg, Hasenclever, Tomczak and Welling, "Sylvester normalizing flows for variational inference", 2018,
    arXiv:1803.05649.

    Args:
        dims: D. Events are `(D,)`.
        width: M, in 1..D.
        reflections: how many make up Q; 0 for the triangular variant.
        reverse: of that variant, whether Q reverses the order.
        context: size of the context that all parameters depend on linearly; 0 to learn them. It starts as the identity.
    """

    def __init__(self, dims: int, width: int, reflections: int, reverse: bool = False, context: int = 0):
        super().__init__()
        self.domain_shape = self.codomain_shape = (dims,)
        self.width, self.reverse = width, reverse
        self.inverse_steps = width * STEPS
        self.parameters_of = Parameters(
            {
                "vectors": torch.randn(reflections, dims),
                "r": torch.zeros(width, width),
                "s": torch.randn(width, width) / math.sqrt(width),
                "b": torch.zeros(width),
            },
            context,
        )

    def _coefficients(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors, (N, k, D), R and S, (N, M, M), and b, (N, M); or N = 1."""
        vectors, r, s, b = self.parameters_of(context)
        return vectors, _triangular(r), _triangular(s), b

    def _rotate(self, z: Tensor, vectors: Tensor) -> Tensor:
        """All of Qᵀz, (N, D): the first M elements are those that change."""
        return z.flip(1) if self.reverse else reflect(z, vectors)

    def _rotate_back(self, v: Tensor, vectors: Tensor) -> Tensor:
        return v.flip(1) if self.reverse else reflect(v, vectors.flip(1))

    def _along(self, h: Tensor, r: Tensor, vectors: Tensor) -> Tensor:
        """Q R h, (N, D)."""
        return self._rotate_back(pad(_times(r, h), (0, self.domain_shape[0] - self.width)), vectors)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        vectors, r, s, b = self._coefficients(context)
        v = self._rotate(z, vectors)[:, : self.width]
        h = torch.tanh(_times(s, v) + b)
        return z + self._along(h, r, vectors), log_slope(h, _least_slope(r, s)).sum(1)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        vectors, r, s, b = self._coefficients(context)
        y = self._rotate(x, vectors)[:, : self.width]
        v, h = x[:, :0], x[:, :0]  # (N, those solved), the last of them first in what is known
        for i in reversed(range(self.width)):
            rest = y[:, i] - (r[:, i, i + 1 :] * h).sum(1)
            shift = b[:, i] + (s[:, i, i + 1 :] * v).sum(1)
            root = residual_root(rest, r[:, i, i], s[:, i, i], shift)
            v = torch.cat((root[:, None], v), 1)
            h = torch.cat((torch.tanh(s[:, i, i] * root + shift)[:, None], h), 1)
        return x - self._along(h, r, vectors), -log_slope(h, _least_slope(r, s)).sum(1)


def _triangular(raw: Tensor) -> Tensor:
    """Upper triangular, its diagonal softly bounded."""
    diagonal = LARGEST * torch.tanh(raw.diagonal(dim1=1, dim2=2))
    return raw.triu(1) + torch.diag_embed(diagonal)


def _least_slope(r: Tensor, s: Tensor) -> Tensor:
    """1 + R_ii S_ii, (N, M)."""
    return 1 + r.diagonal(dim1=1, dim2=2) * s.diagonal(dim1=1, dim2=2)


def _times(matrix: Tensor, v: Tensor) -> Tensor:
    """(N or 1, M, M) times (N, M)."""
    return v @ matrix[0].mT if len(matrix) == 1 else (matrix @ v[:, :, None])[:, :, 0]
