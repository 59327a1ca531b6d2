"""The tail of importance weights, against scipy's generalised Pareto distribution and, where installed, ArviZ."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from jensen.objectives.pareto import fit_tail, smooth, trustworthy

SHAPES = [-0.4, 0.1, 0.5, 0.8, 1.3]


def heavy(k: float, n: int, seed: int = 0) -> torch.Tensor:
    """log w whose tail is generalised Pareto of that shape, far out in its own tail."""
    return torch.from_numpy(np.log(genpareto.rvs(k, size=n, random_state=seed) + 0.5))


@pytest.mark.parametrize("k", SHAPES)
def test_the_fit_finds_the_shape_and_the_scale(k):
    """Asymptotic standard errors of maximum likelihood: (1 + k)/√n for k, σ √(2 (1 + k)/n) for σ, for k > −½."""
    n, scale = 20_000, 3.0
    x = torch.from_numpy(genpareto.rvs(k, scale=scale, size=n, random_state=1))
    found = fit_tail(x)
    assert abs(found.shape - k) < 4 * (1 + k) / math.sqrt(n)
    assert abs(found.scale - scale) < 4 * scale * math.sqrt(2 * (1 + k) / n)


@pytest.mark.parametrize("k", SHAPES)
def test_k_hat_of_weights(k):
    log_w = heavy(k, 100_000)
    tail = 3 * math.sqrt(100_000)
    assert abs(smooth(log_w).shape - k) < 4 * (1 + k) / math.sqrt(tail) + 0.01


def test_smoothed_weights_sum_to_one_keep_their_order_and_never_exceed_the_largest():
    log_w = heavy(0.9, 4000)
    found = smooth(log_w).log_weights
    assert float(found.logsumexp(0)) == pytest.approx(0, abs=1e-12)
    assert torch.equal(found.argsort(), log_w.argsort())
    small = log_w.argsort()[:3000]
    ratio = found[small] - log_w[small]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert float(found.max() - found[small[0]]) <= float(log_w.max() - log_w[small[0]]) + 1e-12


def test_smoothing_lowers_the_error_of_a_mean():
    """E[w] = 1/(1 − k) + ½, from weights with k = 0.7, over 200 sets: less mean squared error than the raw mean."""
    errors = []
    for seed in range(200):
        log_w = heavy(0.7, 1000, seed)
        smoothed = smooth(log_w).log_weights
        small = log_w.argsort()[0]  # untouched by smoothing: it fixes the scale
        mean = float((log_w[small] - smoothed[small]).exp() / len(log_w))
        errors.append((mean - 1 / 0.3 - 0.5, float(log_w.exp().mean()) - 1 / 0.3 - 0.5))
    smoothed_error, raw_error = np.square(errors).mean(0)
    assert smoothed_error < raw_error


def test_equal_weights_and_empty_ones():
    assert smooth(torch.zeros(1000)).shape == -math.inf
    assert smooth(torch.full((1000,), -math.inf).index_fill(0, torch.tensor([3]), 0.0)).shape == math.inf
    with pytest.raises(ValueError, match="at least two"):
        fit_tail(torch.ones(1))


def test_the_limit_follows_the_number_of_draws():
    assert trustworthy(100) == pytest.approx(0.5)
    assert trustworthy(10**6) == 0.7


@pytest.mark.parametrize("k", SHAPES)
def test_against_arviz(k):
    arviz = pytest.importorskip("arviz")
    log_w = heavy(k, 4000)
    theirs, shape = arviz.psislw(log_w.numpy().copy())
    ours = smooth(log_w)
    assert ours.shape == pytest.approx(float(shape), abs=1e-9)
    np.testing.assert_allclose(ours.log_weights.numpy(), theirs, atol=1e-9)
