"""Simple ways to fill in a table, which any model should be compared with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.jobs.columns import Columns
from jensen.jobs.evaluate.nearest import from_nearest

NEIGHBOURS, DONORS = 20, 20_000  # at most, or as many as √N; among at most so many rows
RIDGE_ROUNDS, TREE_ROUNDS = 10, 3  # more of the latter make it worse: it learns from what it has filled in itself
TREES, LEAF = 50, 5  # rows in a leaf at least, as missForest has it for numbers
WIDE, PREDICTORS = 50, 20  # a table of more than WIDE columns: so many predictors of each
FITS, ROWS = 300, 10_000  # of one column's model, in all; on at most so many rows


@dataclass(frozen=True, eq=False)
class Gapped:
    """A table with gaps: standardised numbers and positions of categories, (N, D), NaN where empty."""

    x: np.ndarray
    columns: Columns

    @property
    def is_category(self) -> np.ndarray:
        return self.columns.is_category

    def frame(self) -> Any:
        """As a user would have it, in the units of the columns."""
        return self.columns.frame(self.x)


Imputer = Callable[[Gapped, Gapped, int], np.ndarray]
"""Learns from one table and fills in another, which may be the same: (train, filled, seed) to numbers (N, D)."""


def column_means(train: Gapped, filled: Gapped, seed: int) -> np.ndarray:
    """The mean of a column, or the category that is most frequent."""
    return np.where(np.isnan(filled.x), _usual(train), filled.x)


def neighbours(train: Gapped, filled: Gapped, seed: int) -> np.ndarray:
    """The mean over the twenty nearest rows by what both have; of categories the one that most of them have.

    Categories enter distances by indicators, two different ones being one deviation apart; then it is what
    scikit-learn's `KNNImputer` does. Of a table of more rows the nearest are sought among 20,000 at random.
    """
    donors = train.x[some_rows(len(train.x), DONORS, seed)]
    coded, nearest = train.columns.indicators, max(1, min(NEIGHBOURS, math.isqrt(len(donors))))
    found = from_nearest(coded(filled.x), coded(donors), train.columns.starts, nearest)
    return np.where(np.isnan(filled.x), train.columns.from_indicators(found), filled.x)


def iterative_ridge(train: Gapped, filled: Gapped, seed: int) -> np.ndarray:
    """Each column in turn by a Bayesian ridge regression on the others, ten rounds; categories by a ridge classifier.

    van Buuren and Groothuis-Oudshoorn, "mice: multivariate imputation by chained equations in R", 2011.
    """
    from sklearn.linear_model import BayesianRidge, RidgeClassifier

    return _chained(train, filled, seed, RIDGE_ROUNDS, BayesianRidge(), RidgeClassifier(), indicators=True)


def iterative_trees(train: Gapped, filled: Gapped, seed: int) -> np.ndarray:
    """Each column in turn by fifty extremely randomised trees of the others, three rounds.

    Stekhoven and Bühlmann, "MissForest", 2012, with the trees of Geurts, Ernst and Wehenkel, 2006.
    """
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    regressor = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, random_state=seed)
    classifier = ExtraTreesClassifier(TREES, random_state=seed)
    return _chained(train, filled, seed, TREE_ROUNDS, regressor, classifier, indicators=False)


BASELINES: dict[str, Imputer] = {
    "mean": column_means,
    "neighbours": neighbours,
    "iterative ridge": iterative_ridge,
    "iterative extra-trees": iterative_trees,
}


def _chained(
    train: Gapped, filled: Gapped, seed: int, rounds: int, regressor: Any, classifier: Any, indicators: bool
) -> np.ndarray:
    """Numbers alone by scikit-learn's IterativeImputer; with categories by such rounds of a model a column.

    Of many columns there are fewer rounds, two at least.
    """
    rounds = max(2, min(rounds, FITS // len(train.columns)))
    if train.is_category.any():
        return _chained_kinds(train, filled, seed, rounds, regressor, classifier, indicators)
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    d = len(train.columns)
    imputer: Any = IterativeImputer(
        regressor,
        max_iter=rounds,
        n_nearest_features=None if d <= WIDE else PREDICTORS,
        random_state=seed,
        keep_empty_features=True,
        skip_complete=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: the number of rounds is bounded
        if filled is train and len(train.x) <= ROWS:
            return imputer.fit_transform(train.x)
        return imputer.fit(train.x[some_rows(len(train.x), ROWS, seed)]).transform(filled.x)


def _chained_kinds(
    train: Gapped, filled: Gapped, seed: int, rounds: int, regressor: Any, classifier: Any, indicators: bool
) -> np.ndarray:
    from sklearn.base import clone

    rng = np.random.default_rng(seed)
    own = filled is not train
    gaps = np.isnan(np.concatenate([train.x, filled.x]) if own else train.x)
    x = np.where(gaps, _usual(train), np.concatenate([train.x, filled.x]) if own else train.x)
    learnt = np.arange(len(x)) < len(train.x)
    d = x.shape[1]
    order = [j for j in np.argsort(gaps.sum(0), kind="stable") if gaps[:, j].any()]
    for _ in range(rounds):
        for j in order:
            others = np.delete(np.arange(d), j)
            others = others if d <= WIDE else rng.choice(others, PREDICTORS, replace=False)
            inputs = train.columns.take(others).indicators(x[:, others]) if indicators else x[:, others]
            rows = np.flatnonzero(learnt & ~gaps[:, j])
            rows = rows[some_rows(len(rows), ROWS, seed)]
            if len(np.unique(x[rows, j])) < 2:
                continue
            model: Any = clone(classifier if train.is_category[j] else regressor)
            model.fit(inputs[rows], x[rows, j])
            x[gaps[:, j], j] = model.predict(inputs[gaps[:, j]])
    return x[len(train.x) :] if own else x


def _usual(train: Gapped) -> np.ndarray:
    """(D,), of what is observed: the mean of a number, the mode of a category; 0 where nothing is."""
    found = np.zeros(len(train.columns))
    for j, category in enumerate(train.is_category):
        seen = train.x[~np.isnan(train.x[:, j]), j]
        if len(seen):
            found[j] = np.bincount(seen.astype(int)).argmax() if category else seen.mean()
    return found


def some_rows(n: int, most: int, seed: int) -> np.ndarray:
    """At most so many of n rows, at random, in order."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).permutation(n)[:most])
