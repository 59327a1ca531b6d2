"""Which cells of a table are hidden: completely at random, at random, or not at random."""

from __future__ import annotations

import numpy as np

from jensen.errors import ConfigError, did_you_mean

MECHANISMS = ("mcar", "mar", "mnar")
SLOPE = 2.0  # of the logit, by deviations of what decides
OBSERVED_SHARE = 0.3  # of the columns, which decide and are not hidden, where cells are missing at random


def mask(x: np.ndarray, is_category: np.ndarray, mechanism: str, rate: float, seed: int) -> np.ndarray:
    """Cells to hide, True, (N, D); an empty one is not hidden.

    - mcar: the share `rate` of all cells, exactly, each set of so many as likely as any other.
    - mar: some columns stay; a cell of another is hidden with probability σ(2 s + b), s a random linear combination of
      what its row holds in those that stay, of deviation 1, and b such that the share of the column is `rate`.
    - mnar: self-masking, as mar with s the standardised value of the cell itself: large numbers are hidden more often.

    A category enters s by a random number of each of its values.

    Muzellec, Josse, Boyer and Cuturi, "Missing data imputation using optimal transport", 2020, arXiv:2002.03860.

    Args:
        x: (N, D), NaN where empty; units do not matter.
        is_category: (D,), True where a column holds positions of categories.

    Raises:
        ConfigError: an unknown mechanism, a rate that is not between 0 and 1, or one column where cells are to be
            missing by what others hold.
    """
    if mechanism not in MECHANISMS:
        raise ConfigError(f"--mechanism: {mechanism!r} is none{did_you_mean(mechanism, MECHANISMS)}")
    if not 0 < rate < 1:
        raise ConfigError(f"--rate: expected a share between 0 and 1, got {rate:g}")
    rng, seen = np.random.default_rng([seed, MECHANISMS.index(mechanism)]), ~np.isnan(x)
    hidden = np.zeros(x.shape, dtype=bool)
    if mechanism == "mcar":
        cells = np.flatnonzero(seen)
        hidden.flat[rng.choice(cells, round(rate * len(cells)), replace=False)] = True
        return hidden
    values = np.stack([_score(x[:, j], bool(is_category[j]), rng) for j in range(x.shape[1])], axis=1)
    if mechanism == "mnar":
        deciding, columns = values, range(x.shape[1])
    else:
        if x.shape[1] < 2:
            raise ConfigError("--mechanism mar: expected two columns or more, one that decides over the other; got 1")
        order = rng.permutation(x.shape[1])
        stay, columns = np.split(order, [max(1, round(OBSERVED_SHARE * len(order)))])
        deciding = np.zeros(x.shape)
        for j in columns:
            deciding[:, j] = _standard(values[:, stay] @ rng.normal(size=len(stay)))
    for j in columns:
        rows = np.flatnonzero(seen[:, j])
        logits = SLOPE * deciding[rows, j]
        hidden[rows, j] = rng.random(len(rows)) < _sigmoid(logits + _intercept(logits, rate))
    return hidden


def _score(column: np.ndarray, is_category: bool, rng: np.random.Generator) -> np.ndarray:
    """A column in deviations from its mean; 0 where it is empty."""
    if is_category:
        levels = rng.normal(size=int(np.nanmax(column, initial=0)) + 1)
        column = np.where(np.isnan(column), np.nan, levels[np.nan_to_num(column).astype(int)])
    return np.nan_to_num(_standard(column))


def _standard(values: np.ndarray) -> np.ndarray:
    if np.isnan(values).all():
        return np.zeros(values.shape)
    scale = np.nanstd(values)
    return (values - np.nanmean(values)) / (scale if scale > 0 else 1.0)


def _intercept(logits: np.ndarray, rate: float) -> float:
    """b with mean σ(logits + b) = rate."""
    from scipy.optimize import brentq

    if not len(logits):
        return 0.0
    reach = np.abs(logits).max() + 30
    return float(brentq(lambda b: _sigmoid(logits + b).mean() - rate, -reach, reach))  # pyright: ignore[reportArgumentType]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(logits / 2))
