"""Detectors without a model of how data come about, to stand beside ours: ECOD, isolation forest, k nearest neighbours and
a kernel density. All take rows of numbers, and give a row a higher score the stranger it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self

import numpy as np

NEIGHBOURS = 5


class Detector(Protocol):
    """Learns from rows (N, D) what is usual, and scores others, (n,), higher = stranger, each by itself."""

    def fit(self, x: np.ndarray) -> Self: ...

    def score(self, x: np.ndarray) -> np.ndarray: ...


class Ecod:
    """How far out in the tails of its columns a row lies, the columns taken apart.

        O_d(x) = max(−log F̂_d(x_d), −log F̂_d⁺(x_d), the one of the two on whose side column d is skewed)
        score  = Σ_d O_d

    where F̂(t) is the share of data at most t and F̂⁺(t) that of data at least t, the row that is scored being one of
    them. As its authors' code has it, the greatest is taken in every column; their paper sums first.

    Li, Zhao, Hu, Botta, Ionescu and Chen, "ECOD: unsupervised outlier detection using empirical cumulative distribution
    functions", 2022, arXiv:2201.00382.
    """

    def fit(self, x: np.ndarray) -> Self:
        self.sorted = np.sort(np.asarray(x, dtype=np.float64), axis=0)
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        x, n = np.asarray(x, dtype=np.float64), len(self.sorted)
        total = np.zeros(len(x))
        for column, data in zip(x.T, self.sorted.T, strict=True):
            below = np.searchsorted(data, column, side="right")
            above = n - np.searchsorted(data, column, side="left")
            total -= np.log((np.minimum(below, above) + 1) / (n + 1))  # the greatest of all three, one of the two
        return total


class IsolationForest:
    """How few random cuts set a row apart. Liu, Ting and Zhou, "Isolation forest", ICDM 2008."""

    def __init__(self, seed: int = 0):
        from sklearn.ensemble import IsolationForest as Forest

        self.forest = Forest(random_state=seed)

    def fit(self, x: np.ndarray) -> Self:
        self.forest.fit(x)
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        return -self.forest.score_samples(x)


class Neighbours:
    """How far the k-th nearest row is. Ramaswamy, Rastogi and Shim, SIGMOD 2000."""

    def __init__(self, k: int = NEIGHBOURS):
        self.k = k

    def fit(self, x: np.ndarray) -> Self:
        from sklearn.neighbors import NearestNeighbors

        self.nearest = NearestNeighbors(n_neighbors=min(self.k, len(x))).fit(x)
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        return self.nearest.kneighbors(x)[0][:, -1]


class KernelDensity:
    """−log of a density of one normal a row; `bandwidth` a number, in units of the rows, or "scott" for N^(−1/(D+4))."""

    def __init__(self, bandwidth: float | str = 1.0):
        self.bandwidth = bandwidth

    def fit(self, x: np.ndarray) -> Self:
        from sklearn.neighbors import KernelDensity as Density

        self.density = Density(bandwidth=self.bandwidth).fit(x)
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        return -self.density.score_samples(x)


DETECTORS: dict[str, Callable[[int], Detector]] = {
    "ECOD": lambda seed: Ecod(),
    "isolation forest": IsolationForest,
    "kNN": lambda seed: Neighbours(),
    "KDE": lambda seed: KernelDensity(),
    "KDE, Scott": lambda seed: KernelDensity("scott"),
}
"""By name, a detector made from a seed. Rows are to be standardised by those that it is fitted to."""
