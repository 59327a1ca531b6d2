"""Cutting rows into train, valid and test, the same for ever for a seed and a rule.

A run records the rule by which its rows were cut, and finds them again by it. Rule 2 cuts the classes of a folder
alike, and draws from a stream of its own: that of rule 1, of registered data and older runs, is the one from which
`np.random.default_rng(seed)` draws, so that rows that a user makes with it would be cut by their values.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from jensen.data.raw import SPLITS
from jensen.errors import ConfigError

Fractions = tuple[float, float, float]
RULE = 2
LEAST = 3  # rows, below which there is nothing to cut
_SALT = zlib.crc32(b"jensen.data.splits")


def shuffled(n: int, seed: int, rule: int = RULE) -> np.ndarray:
    """A permutation of 0..n-1, from raw draws alone, whose stream numpy keeps from version to version."""
    stream = np.random.PCG64(seed if rule == 1 else [seed, _SALT])
    return np.argsort(np.random.Generator(stream).random(n), kind="stable")


def check_fractions(fractions: Sequence[float]) -> Fractions:
    """Shares of train, valid and test. Raises `ConfigError` unless train > 0 and the three sum to 1."""
    good = len(fractions) == 3 and min(fractions) >= 0 and fractions[0] > 0 and abs(sum(fractions) - 1) < 1e-6
    if not good:
        raise ConfigError(f"fractions: expected train > 0, valid and test summing to 1, got {tuple(fractions)}")
    return fractions[0], fractions[1], fractions[2]


def cut(
    n: int, seed: int, fractions: Fractions, rule: int = RULE, y: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Rows of each split, shuffled. Fewer than three rows all go to train.

    Args:
        y: classes, (n,), every one of which is cut alike if each has three rows or more.

    >>> {name: len(rows) for name, rows in cut(10, 0, (0.8, 0.1, 0.1)).items()}
    {'train': 8, 'valid': 1, 'test': 1}
    """
    if rule > 1 and y is not None and np.unique(y, return_counts=True)[1].min(initial=n) >= LEAST:
        return cut_by_class(y, seed, fractions, rule)
    return _slices(shuffled(n, seed, rule), fractions)


def cut_by_time(times: np.ndarray, fractions: Fractions) -> dict[str, np.ndarray]:
    """Rows of each split in order of time (N,), the oldest in train."""
    return _slices(np.argsort(times, kind="stable"), fractions)


def cut_by_group(
    groups: np.ndarray, seed: int, fractions: Fractions, rule: int = RULE, y: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Rows of each split, no group (N,) of 0..G-1 being in two of them. The fractions are those of groups, which have
    the classes (N,) of their first rows.
    """
    first = np.unique(groups, return_index=True)[1]
    whole = cut(len(first), seed, fractions, rule, None if y is None else y[first])
    return {name: np.flatnonzero(np.isin(groups, chosen)) for name, chosen in whole.items()}


def cut_by_class(y: np.ndarray, seed: int, fractions: Fractions, rule: int = RULE) -> dict[str, np.ndarray]:
    """Rows of each split, shuffled, every class (N,) being cut by the same fractions."""
    rows = shuffled(len(y), seed, rule)
    cuts = [_slices(rows[y[rows] == label], fractions) for label in np.unique(y)]
    merged = {name: np.concatenate([c[name] for c in cuts if name in c]) for name in cuts[0]}
    return {name: chosen[shuffled(len(chosen), seed, rule)] for name, chosen in merged.items()}


def _slices(rows: np.ndarray, fractions: Fractions) -> dict[str, np.ndarray]:
    n = len(rows)
    if n < LEAST:
        return {"train": rows}
    valid, test = (max(1, round(n * share)) if share else 0 for share in fractions[1:])
    train = max(1, n - valid - test)
    pieces = np.split(rows, [train, train + valid])
    return {name: piece for name, piece in zip(SPLITS, pieces, strict=True) if len(piece)}
