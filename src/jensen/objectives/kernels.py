r"""Kernels, and the distance between two distributions that they make.

    MMD²(P, Q) = E k(x, x′) + E k(y, y′) − 2 E k(x, y),        x, x′ ~ P,  y, y′ ~ Q, all independent

It is 0 where P = Q, and for a characteristic kernel (rbf, imq) only there. The U-statistic, which leaves a datum's
kernel with itself out, is unbiased, and so may come out negative.

Gretton, Borgwardt, Rasch, Schölkopf and Smola, "A kernel two-sample test", 2012, JMLR 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Rows (N, D) and (M, D) to k of each pair, (N, M)."""

Name = Literal["imq", "rbf"]
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # Tolstikhin et al. 2018


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i − y_j‖², (N, M); about the mean of y, so that little is lost where both are far from the origin."""
    middle = y.detach().mean(0)
    x, y = x - middle, y - middle
    square = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.mT
    return square.clamp_min(0)


def several_scales(name: Name, typical: float, scales: tuple[float, ...] = SCALES) -> Kernel:
    r"""The mean over scales of one kernel, 1 where x = y; b is a scale times the squared distance that is typical.

        imq    b / (b + ‖x − y‖²)           rbf    exp(−‖x − y‖² / b)

    The inverse multiquadric has heavy tails, so that codes far from the prior are still drawn to it.
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        square, total = squared_distances(x, y), torch.zeros((), dtype=x.dtype, device=x.device)
        for scale in scales:
            b = scale * typical
            total = total + (b / (b + square) if name == "imq" else torch.exp(-square / b))
        return total / len(scales)

    return kernel


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """(xᵀ y / D + 1)³, of moments up to the third: that of the "kernel inception distance" (Binkowski et al. 2018,
    arXiv:1801.01401), here on other features."""
    return (x @ y.mT / x.shape[1] + 1) ** 3


def typical_square(x: Tensor) -> float:
    """The median of ‖x_i − x_j‖², i ≠ j, of rows (N, D); 1 where more than half of them are equal."""
    rows, columns = torch.triu_indices(len(x), len(x), 1, device=x.device)
    found = float(squared_distances(x, x)[rows, columns].median()) if len(x) > 1 else 1.0
    return found if found > 0 and math.isfinite(found) else 1.0


def mmd(x: Tensor, y: Tensor, kernel: Kernel, weight: Tensor | None = None) -> Tensor:
    """The unbiased estimate of MMD² of rows (N, D) and (M, D), (); 0 where either is a single one.

    Args:
        weight: of the rows of x, (N,).
    """
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        return (x.sum() + y.sum()) * 0
    w = torch.full((n,), 1 / n, dtype=x.dtype, device=x.device) if weight is None else weight / weight.sum()
    among_x = w @ _apart(kernel(x, x)) @ w / (1 - w.square().sum())
    among_y = _apart(kernel(y, y)).sum() / (m * (m - 1))
    return among_x + among_y - 2 * (w @ kernel(x, y)).mean()


def mmd_and_stderr(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[float, float]:
    """The unbiased estimate of MMD² of as many rows of each, (N, D), and its standard error.

    With h_ij = k(x_i, x_j) + k(y_i, y_j) − k(x_i, y_j) − k(x_j, y_i) the estimate is their mean over i ≠ j. The error
    is the jackknife's: from how the estimate moves when one pair (x_i, y_i) is left out. Where P = Q it is some 40% too
    large, as all of the variance is then of second order.

    Raises:
        ValueError: fewer than three rows, or not as many of each.
    """
    n = len(x)
    if n < 3 or len(y) != n:
        raise ValueError(f"expected as many rows of each, 3 or more, got {n} and {len(y)}")
    cross = kernel(x, y)
    rows = _apart(kernel(x, x) + kernel(y, y) - cross - cross.mT).sum(1)
    total = rows.sum()
    without = (total - 2 * rows) / ((n - 1) * (n - 2))
    variance = (n - 1) / n * (without - without.mean()).square().sum()
    return float(total / (n * (n - 1))), float(variance.sqrt())


def _apart(k: Tensor) -> Tensor:
    """Kernels of pairs of different rows, (N, N): 0 on the diagonal."""
    return k - torch.diag(k.diagonal())
