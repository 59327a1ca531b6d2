"""A fixed affine map of a vector with a triangular matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from jensen.transforms.transform import Transform


class Triangular(Transform):
    """x = L z + loc with a fixed lower triangular L; log |det ∂x/∂z| = Σ_d log |L_dd|.

    Args:
        loc: (D,).
        scale_tril: L, (D, D), without a zero on its diagonal.

    >>> Triangular(torch.zeros(2), torch.tensor([[2.0, 0.0], [1.0, 3.0]])).forward(torch.ones(1, 2))
    tensor([[2., 4.]])
    """

    forward_steps = inverse_steps = 0
    loc: Tensor
    scale_tril: Tensor

    def __init__(self, loc: Tensor, scale_tril: Tensor):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(loc.shape)
        self.register_buffer("loc", loc)
        self.register_buffer("scale_tril", scale_tril)

    def _ladj(self) -> Tensor:
        return self.scale_tril.diagonal().abs().log().sum()

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z @ self.scale_tril.mT + self.loc, self._ladj()

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = torch.linalg.solve_triangular(self.scale_tril, (x - self.loc).mT, upper=False).mT
        return z, -self._ladj()
