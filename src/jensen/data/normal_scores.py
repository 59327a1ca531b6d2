"""Columns made comparable: carried to a standard normal by their ranks among usual rows, or standardised."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy.special import ndtri


class NormalScores:
    r"""x_d to Φ⁻¹(F̂_d(x_d)), F̂_d the share of fitted rows below x_d, ties half counted.

    What is done with the scores then depends neither on the units of columns nor on any increasing function of them,
    but where ranks say nothing: outside of the fitted rows a score goes on growing by the distance to the nearest of
    them, in standard deviations of the column.

    van der Waerden, "Order tests for the two-sample problem", 1952; the "nonparanormal" of Liu, Lafferty and Wasserman,
    2009, arXiv:0903.0649.

    >>> NormalScores().fit(np.array([[1.0], [2.0], [30.0]]))(np.array([[2.0], [30.0]])).round(2)
    array([[0.  ],
           [0.67]])
    """

    def fit(self, x: np.ndarray) -> Self:
        """Args:
        x: rows (N, D); NaN counts for nothing.
        """
        self.sorted = [np.sort(column[~np.isnan(column)]) for column in np.asarray(x, dtype=np.float64).T]
        return self

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scores of rows (n, D); NaN stays NaN."""
        x = np.asarray(x, dtype=np.float64)
        scores = np.zeros_like(x)
        for d, (column, data) in enumerate(zip(x.T, self.sorted, strict=True)):
            if len(data):
                below, at_most = (np.searchsorted(data, column, side=side) for side in ("left", "right"))
                outside = column - np.clip(column, data[0], data[-1])
                scores[:, d] = ndtri(((below + at_most) / 2 + 0.5) / (len(data) + 1)) + outside / (data.std() or 1.0)
        return np.where(np.isnan(x), np.nan, scores)


class Standardised:
    """(x_d − mean) / deviation, of the fitted rows, NaN left out; constant columns keep their scale."""

    def fit(self, x: np.ndarray) -> Self:
        columns = [column[~np.isnan(column)] for column in np.asarray(x, dtype=np.float64).T]
        self.center = np.array([column.mean() if len(column) else 0.0 for column in columns])
        self.scale = np.array([(column.std() if len(column) else 0.0) or 1.0 for column in columns])
        return self

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (np.asarray(x, dtype=np.float64) - self.center) / self.scale
