"""Conformal p-values: how many of fresh, usual data are as strange, whatever the score.

    p(x) = (1 + #{i : s(x_i) ≥ s(x)}) / (n + 1)        x_1 … x_n data for calibration

If x and these are exchangeable, P(p(x) ≤ α) ≤ α for every α: the rate of false alarms holds in the mean over draws of
the data for calibration. Given these it is itself random, about Beta(k, n + 1 − k) with k = ⌊α (n + 1)⌋. The p-values
of a batch hang together through the data for calibration, in such a way that Benjamini and Hochberg's procedure holds.

Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005.
Bates, Candès, Lei, Romano and Sesia, "Testing for outliers with conformal p-values", 2023, arXiv:2104.08279.
"""

from __future__ import annotations

import numpy as np


def conformal_p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """p of each score, (m,), beside those of n usual data, higher = stranger; ties count as stranger.

    >>> conformal_p_values(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 9.0]))
    array([1.  , 0.75, 0.25])
    """
    calibration = np.sort(np.asarray(calibration, dtype=np.float64))
    stranger = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return (1 + stranger) / (len(calibration) + 1)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values, (m,): those at most α are a set in which, in the mean, at most a share α is usual.

    min over j ≥ rank of p_(j) · m / j. Benjamini and Hochberg, JRSS B 57(1), 1995.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.5]))
    array([0.04      , 0.05333333, 0.05333333, 0.5       ])
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)[::-1]
    ranks = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(np.minimum(1.0, p[order] * len(p) / ranks))
    return adjusted
