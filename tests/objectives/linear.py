"""A conditional whose every expectation is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jensen.distributions import DiagonalNormal


class Linear(nn.Module):
    """N(A x, diag s²)."""

    def __init__(self, matrix: list[list[float]], scale: list[float]):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor(matrix, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, x: Tensor) -> DiagonalNormal:
        return DiagonalNormal(x @ self.matrix.mT, self.scale)
