"""Nearest rows of a table with gaps, by what two rows both have, in blocks.

The distance of scikit-learn's `KNNImputer`, after Dixon, "Pattern recognition with partly missing data", 1979:

    d(a, b)² = W / |S| · Σ_{w ∈ S} (a_w − b_w)²,        S the elements that both have, of W

Its sums are products of matrices, |a − b|² = a² − 2 a b + b² with zeros in the gaps.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

BLOCK = 1 << 23  # distances in memory at once


def from_nearest(x: np.ndarray, donors: np.ndarray, starts: np.ndarray, k: int) -> np.ndarray:
    """Rows (N, W) whose gaps hold the mean over the k nearest donors (M, W) that have the element.

    Args:
        starts: where columns of several elements begin, which are missing together, and W at the end.
        k: neighbours; fewer where fewer donors have the element and something in common with the row. Where none has,
            the mean of all that have the element, or 0.
    """
    out = x.copy()
    there = ~np.isnan(donors)
    seen = np.nan_to_num(donors)
    usual = seen.sum(0) / np.maximum(there.sum(0), 1)
    right = np.concatenate([there, -2 * seen, seen**2], axis=1).T
    for begin in range(0, len(x), max(1, BLOCK // len(donors))):
        rows = slice(begin, begin + max(1, BLOCK // len(donors)))
        own, filled = ~np.isnan(x[rows]), np.nan_to_num(x[rows])
        distance = _distances(own, filled, there, right)
        for start, end in pairwise(starts):
            holes, have = np.flatnonzero(~own[:, start]), np.flatnonzero(there[:, start])
            found = np.broadcast_to(usual[start:end], (len(holes), end - start)).copy()
            if len(holes) and len(have):
                near, which = _least(distance[np.ix_(holes, have)], min(k, len(have)))
                weight = np.isfinite(near).astype(np.float64)
                some = weight.any(1)
                mean = np.einsum("nk,nkw->nw", weight[some], seen[have[which[some]], start:end])
                found[some] = mean / weight[some].sum(1, keepdims=True)
            out[rows][holes, start:end] = found
    return out


def _distances(own: np.ndarray, filled: np.ndarray, there: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared distances (B, M), infinite where two rows have nothing in common, up to the factor W."""
    square = np.concatenate([filled**2, filled, own], axis=1) @ right
    both = own.astype(np.float32) @ there.T.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(both > 0, np.maximum(square, 0.0) / both, np.inf)


def _least(distance: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k least of each row, and where they are, (B, k)."""
    which = np.argpartition(distance, k - 1, axis=1)[:, :k]
    return np.take_along_axis(distance, which, 1), which
