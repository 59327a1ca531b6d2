"""How far importance weights can be trusted: the shape k of the generalised Pareto distribution of the largest.

    P(w > u + x | w > u) = (1 + k x / σ)^(−1/k)

Moments of order below 1/k are finite: for k > ½ the weights have no variance, for k ≥ 1 not even a mean. Smoothing
replaces the largest weights by quantiles of the fitted tail.

Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", 2024, JMLR 25, arXiv:1507.02646; Yao,
Vehtari, Simpson and Gelman, "Yes, but did it work?", 2018, arXiv:1802.02538; the fit: Zhang and Stephens, "A new and
efficient estimation method for the generalized Pareto distribution", 2009, Technometrics 51(3).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_TAIL = 5  # weights, below which there is no tail to fit
PRIOR_WEIGHT, PRIOR_SHAPE = 10, 0.5  # k is drawn a little towards ½, as if ten more weights had said so


class Tail(NamedTuple):
    """A generalised Pareto distribution: its shape k and scale σ."""

    shape: float
    scale: float


class Smoothed(NamedTuple):
    """Importance weights made steady.

    Attributes:
        log_weights: normalised, so that their logsumexp is 0, (K,), in nats.
        shape: k̂; infinite where too few weights are positive to fit a tail.
        stderr: of k̂, (1 + k̂) / √n for a tail of n weights, that of maximum likelihood; 0 where none was fitted.
    """

    log_weights: Tensor
    shape: float
    stderr: float = 0.0


def fit_tail(excess: Tensor) -> Tail:
    """Fit a generalised Pareto distribution to excesses x > 0, (n,), by the posterior mean of Zhang and Stephens.

    With θ = −k/σ the likelihood is maximised over k in closed form, k(θ) = mean log(1 − θ x); the profile is averaged
    over a grid of θ.

    Raises:
        ValueError: fewer than two excesses.
    """
    if len(excess) < 2:
        raise ValueError(f"excess: expected at least two, got {len(excess)}")
    x = excess.double().sort().values
    n = len(x)
    grid = 30 + int(math.sqrt(n))
    j = torch.arange(1, grid + 1, dtype=torch.float64)
    quartile = x[int(n / 4 + 0.5) - 1]
    theta = 1 / x[-1] + (1 - (grid / (j - 0.5)).sqrt()) / (3 * quartile)
    k = torch.log1p(-theta[:, None] * x).mean(1)
    profile = n * ((-theta / k).log() - k - 1)
    weight = torch.softmax(profile, 0)
    mean = (theta * weight).sum()
    shape = torch.log1p(-mean * x).mean()
    return Tail(float(shape), float(-shape / mean))


def smooth(log_w: Tensor) -> Smoothed:
    """Pareto-smoothed weights from log w, (K,); −∞ is a weight of 0.

    >>> smooth(torch.zeros(1000)).shape  # all equal: q is the target
    -inf
    """
    log_w = log_w.detach().double()
    log_w = log_w - log_w.max()
    size = math.ceil(min(0.2 * len(log_w), 3 * math.sqrt(len(log_w))))
    order = log_w.argsort()
    cut = float(log_w[order[-size - 1]]) if size < len(log_w) else -math.inf
    if size < LEAST_TAIL or cut == -math.inf:
        return Smoothed(_normalised(log_w), math.inf)
    tail = order[-size:]
    excess = log_w[tail].exp() - math.exp(cut)
    if float(log_w[tail[-1]]) - cut < 1e-10:
        return Smoothed(_normalised(log_w), -math.inf)
    excess = excess.clamp_min(torch.finfo(torch.float64).tiny)
    fitted = fit_tail(excess)
    shape = (fitted.shape * size + PRIOR_SHAPE * PRIOR_WEIGHT) / (size + PRIOR_WEIGHT)
    if math.isfinite(shape):
        p = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        quantiles = fitted.scale * torch.expm1(-shape * torch.log1p(-p)) / shape if shape else -torch.log1p(-p)
        log_w = log_w.clone()
        log_w[tail] = (quantiles + math.exp(cut)).log().clamp_max(0.0)  # no more than the largest was
    return Smoothed(_normalised(log_w), shape, max(0.0, 1 + shape) / math.sqrt(size + PRIOR_WEIGHT))


def trustworthy(draws: int) -> float:
    """The k̂ up to which means by so many weighted draws can be trusted: min(1 − 1 / log₁₀ K, 0.7).

    >>> round(trustworthy(1000), 3)
    0.667
    """
    return min(1 - 1 / math.log10(max(draws, 11)), 0.7)


def _normalised(log_w: Tensor) -> Tensor:
    return log_w - log_w.logsumexp(0)
