"""Matrices of features, dense or sparse, whose products keep to memory.

What is enumerated and held is bounded, and told before it is made.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor, nn

from jensen.errors import ConfigError

MOST_SCORES = 2**24
"""|X| |Z| that are enumerated: 128 MB in float64, several times over while weights are fitted."""
MOST_FEATURES = 2**25
"""Numbers in a matrix of features that are held, of a sparse one what is not 0: 256 MB in float64."""


def check_sizes(values: int, classes: int, held: int, what: str = "", dense: bool = True) -> None:
    """Raises `ConfigError` with the size and the reason where there is too much to enumerate.

    Args:
        values: |X|. classes: |Z|. held: numbers in the matrix of features.
        what: words on how |X| comes about. dense: whether the matrix is.
    """
    of_x = f"{_size(values)} values of x{f' ({what})' if what else ''}"
    if values * classes > MOST_SCORES:
        raise ConfigError(
            f"{of_x} × {classes:,} of z are {_size(values * classes)} scores, more than {MOST_SCORES:,}: p(x | z) is "
            f"normalised by a sum over every x. Drop columns, lower the number of values or of classes, or take a "
            f"model that does not enumerate, as vae"
        )
    if held > MOST_FEATURES:
        raise ConfigError(
            f"the features of {of_x} are {_size(held)} numbers, more than {MOST_FEATURES:,}: they are held in memory, "
            f"as each step of training needs them all. Take fewer features{', or a sparse matrix' if dense else ''}"
        )


def _size(n: int) -> str:
    return f"{n:,}" if n < 10**12 else f"some 10^{math.log10(n):.0f}"


class Matrix(nn.Module):
    """A constant matrix M, (R, F), dense or sparse, in float64; its products, and Mᵀ's, from either side.

    Args:
        values: array, tensor, or scipy's or torch's sparse matrix.

    A sparse one is held by its rows, with its transpose beside it.
    """

    by_row: Tensor
    by_column: Tensor | None

    def __init__(self, values: Any):
        super().__init__()
        if isinstance(values, Tensor) and values.layout != torch.strided:
            coo = values.detach().to_sparse_coo().coalesce().cpu()
            at = coo.indices().numpy()
            values = sparse.csr_matrix((coo.values().double().numpy(), (at[0], at[1])), coo.shape)
        self.sparse = sparse.issparse(values)
        if self.sparse:
            rows = sparse.csr_matrix(values, dtype=np.float64)
            self.held = rows.nnz
            self.register_buffer("by_row", _compressed(rows), persistent=False)
            self.register_buffer("by_column", _compressed(rows.T.tocsr()), persistent=False)
        else:
            dense = torch.as_tensor(values).detach().to("cpu", torch.float64)
            self.held = dense.numel()
            self.register_buffer("by_row", dense.contiguous(), persistent=False)
            self.by_column = None
        if self.by_row.dim() != 2:
            raise ConfigError(f"features: expected a matrix, got shape {tuple(self.by_row.shape)}")

    @property
    def shape(self) -> tuple[int, int]:
        return self.by_row.shape[0], self.by_row.shape[1]

    def times(self, right: Tensor) -> Tensor:
        """(M right)ᵀ, (C, R), for right (F, C)."""
        if self.sparse:
            return (self.by_row @ right.to(self.by_row.dtype).contiguous()).mT
        return right.to(self.by_row.dtype).mT @ self.by_row.mT

    def transposed_times(self, right: Tensor) -> Tensor:
        """Mᵀ right, (F, C), for right (R, C)."""
        right = right.to(self.by_row.dtype)
        if self.by_column is not None:
            return self.by_column @ right.contiguous()
        return (right.mT @ self.by_row).mT  # in this order, as right is a transpose itself: six times as fast

    def squared(self) -> Matrix:
        """The matrix of squares, for one use: it is a copy."""
        new = object.__new__(Matrix)
        nn.Module.__init__(new)
        new.sparse, new.held = self.sparse, self.held
        new.by_row = _squares(self.by_row)
        new.by_column = None if self.by_column is None else _squares(self.by_column)
        return new

    def scipy(self) -> Any:
        """The same as scipy's sparse matrix by rows."""
        if not self.sparse:
            return sparse.csr_matrix(self.by_row.cpu().numpy())
        m = self.by_row.cpu()
        return sparse.csr_matrix((m.values().numpy(), m.col_indices().numpy(), m.crow_indices().numpy()), self.shape)


def _compressed(m: Any) -> Tensor:
    """A matrix of scipy as torch's, by rows."""
    crow, col = (torch.from_numpy(a.astype(np.int64)) for a in (m.indptr, m.indices))
    return _by_rows(crow, col, torch.from_numpy(m.data), m.shape)


def _by_rows(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)  # torch calls it beta
        return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=True)


def _squares(m: Tensor) -> Tensor:
    if m.layout == torch.strided:
        return m.square()
    return _by_rows(m.crow_indices(), m.col_indices(), m.values().square(), tuple(m.shape))
