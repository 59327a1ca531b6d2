"""Detectors: they learn from usual rows of numbers, and give a row a higher score the stranger it is.

`Modelled` is ours: variational autoencoders of normal scores. Beside it stands what is usual: ECOD, isolation forest,
k nearest neighbours and a kernel density.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np
from scipy.stats import norm

from jensen.data import Dataset, Schema, Split
from jensen.data.normal_scores import NormalScores, Standardised
from jensen.data.splits import cut
from jensen.jobs.outliers import PARTICLES, outlier_scores
from jensen.jobs.train import train

NEIGHBOURS = 5
SETTINGS = {"latents": 8, "likelihood": {"name": "gaussian", "variance": "learned"}}
STEPS, BATCH, MEMBERS, APART, VALID = 5000, 128, 3, 0.5, 0.15


class Detector(Protocol):
    """Learns from rows (N, D) what is usual, and scores others, (n,), higher = stranger, each by itself."""

    def fit(self, x: np.ndarray) -> Self: ...

    def score(self, x: np.ndarray) -> np.ndarray: ...


class Modelled:
    """How strange a row is by its columns taken apart, and by how they hang together.

        score = −½ log p_apart(t) − ½ mean_m log p_m(t)

    p_m are a few variational autoencoders, p_apart is N(0, I), and t are normal scores of the columns. A density
    changes with the coordinates of the data, and where a column repeats values it rises without bound, whatever that
    says of strangeness (Le Lan and Dinh 2021, arXiv:2012.03808); so columns are taken by their ranks among usual rows,
    as ECOD takes them. log p_m − log p_apart is then the logarithm of a copula, of which far less is known than of
    columns: it counts by half. The models' variance is one a column: where a network gives a row its own, the
    likelihood has no bound (Mattei and Frellsen 2018, arXiv:1802.04826). Several models, for each settles where it was
    started.

    Args:
        seed: of the cut, the models' weights and draws.
        model, settings: of the models.
        steps: of training, of each; the weights kept are those of the best validation.
        members: how many.
        apart: weight of the columns taken apart, in [0, 1].
        scores: whether columns are carried to normal scores, or standardised only.
    """

    def __init__(
        self,
        seed: int = 0,
        model: str = "vae",
        settings: Mapping[str, Any] = SETTINGS,
        steps: int = STEPS,
        members: int = MEMBERS,
        apart: float = APART,
        scores: bool = True,
    ):
        self.seed, self.model, self.settings, self.steps = seed, model, settings, steps
        self.members, self.apart, self.scores = members, apart, scores

    def fit(self, x: np.ndarray) -> Self:
        """Train on most rows; the rest, which choose the epoch, are `held_out` for calibration."""
        x = np.asarray(x, dtype=np.float64)
        rows = cut(len(x), self.seed, (1 - VALID, VALID, 0.0))
        self.held_out = x[rows["valid"]]
        self.columns = (NormalScores() if self.scores else Standardised()).fit(x[rows["train"]])
        parts = {name: Split(self.columns(x[index])) for name, index in rows.items()}
        schema = Schema.of_table(parts["train"].x, [f"x{d}" for d in range(x.shape[1])])
        data = Dataset("rows", schema, parts)
        seeds = [self.members * self.seed + m for m in range(self.members)]
        budget: dict[str, Any] = {
            "epochs": math.ceil(self.steps / math.ceil(len(rows["train"]) / BATCH)),
            "batch_size": BATCH,
        }
        self.runs = [train(self.model, data, settings=self.settings, seed=seed, **budget) for seed in seeds]
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        t = self.columns(x)
        found = [outlier_scores("likelihood", [run], [Split(t)], PARTICLES, self.seed)[0] for run in self.runs]
        return self.apart * -np.nansum(norm.logpdf(t), 1) + (1 - self.apart) * np.mean(found, axis=0)


class Ecod:
    """How far out in the tails of its columns a row lies, the columns taken apart.

        O_d(x) = max(−log F̂_d(x_d), −log F̂_d⁺(x_d), the one of the two on whose side column d is skewed)
        score  = Σ_d O_d

    where F̂(t) is the share of data at most t and F̂⁺(t) that of data at least t, the row that is scored being one of
    them. As its authors' code has it, the greatest is taken in every column; their paper sums first.

    Li, Zhao, Hu, Botta, Ionescu and Chen, "ECOD: unsupervised outlier detection using empirical cumulative distribution
    functions", 2022, arXiv:2201.00382.

    Args:
        together: rank rows that are scored among one another too, as their code does; the score of one then depends on
            which others are scored with it.
    """

    def __init__(self, together: bool = False):
        self.together = together

    def fit(self, x: np.ndarray) -> Self:
        self.sorted = np.sort(np.asarray(x, dtype=np.float64), axis=0)
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, dtype=np.float64)
        ranked = np.sort(np.concatenate([self.sorted, x]), axis=0) if self.together else self.sorted
        n, own, total = len(ranked), 0 if self.together else 1, np.zeros(len(x))
        for column, data in zip(x.T, ranked.T, strict=True):
            below = np.searchsorted(data, column, side="right")
            above = n - np.searchsorted(data, column, side="left")
            total -= np.log((np.minimum(below, above) + own) / (n + own))  # the third of the three is one of the two
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
    """−log of the mean of a normal about each row; its bandwidth a number, or "scott" for N^(−1/(D+4))."""

    def __init__(self, bandwidth: float | str = 1.0):
        self.bandwidth = bandwidth

    def fit(self, x: np.ndarray) -> Self:
        from sklearn.neighbors import KernelDensity as Density

        self.density = Density(bandwidth=self.bandwidth).fit(x)  # pyright: ignore[reportArgumentType]
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        return -self.density.score_samples(x)


DETECTORS: dict[str, Callable[[int], Detector]] = {
    "jensen": Modelled,
    "ECOD": lambda seed: Ecod(),
    "ECOD, rows together": lambda seed: Ecod(together=True),
    "isolation forest": IsolationForest,
    "kNN": lambda seed: Neighbours(),
    "KDE": lambda seed: KernelDensity(),
    "KDE, Scott": lambda seed: KernelDensity("scott"),
}
"""By name, a detector made from a seed. Rows are to be standardised by those that it is fitted to."""
