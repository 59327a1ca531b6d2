"""Hamiltonian chains draw from their targets, and their diagnostics say how far they did."""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import lfilter

from jensen.objectives.markov import effective_sample_size, hamiltonian, split_r_hat


def gaussians(mean: torch.Tensor, covariance: torch.Tensor):
    """log N for B targets (B, D) and (B, D, D), as chains ask for it."""
    inverse = torch.linalg.inv(covariance)

    def log_density(t: torch.Tensor) -> torch.Tensor:
        off = t.view(-1, *mean.shape) - mean  # (K, B, D)
        return -0.5 * torch.einsum("kbi,bij,kbj->kb", off, inverse, off).flatten()

    return log_density


def test_moments_of_several_targets_at_once():
    """Scales of 0.01 to 100, correlations of 0.9: means and variances within four standard errors by the ESS."""
    scale = torch.tensor([[1.0, 0.01], [100.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
    rho = torch.tensor([0.9, 0.5, -0.9], dtype=torch.float64)
    mean = torch.tensor([[0.0, 1.0], [50.0, -3.0], [2.0, 2.0]], dtype=torch.float64)
    covariance = scale[:, :, None] * scale[:, None] * (torch.eye(2) + rho[:, None, None] * (1 - torch.eye(2)))
    start = mean + 2 * scale * torch.randn(4, 3, 2, dtype=torch.float64)
    found = hamiltonian(gaussians(mean, covariance), start, warmup=300, steps=500)
    size, r_hat = effective_sample_size(found.draws), split_r_hat(found.draws)
    assert size.min() > 300
    assert r_hat.max() < 1.02
    assert ((found.acceptance - 0.8).abs() < 0.15).all()
    flat = found.draws.flatten(0, 1)
    assert ((flat.mean(0) - mean).abs() < 4 * scale / size.sqrt()).all()
    squares = (found.draws - mean).square()
    error = squares.flatten(0, 1).std(0) / effective_sample_size(squares).sqrt()
    assert ((squares.flatten(0, 1).mean(0) - scale**2).abs() < 4 * error).all()
    off = flat - mean
    product = off[..., 0] * off[..., 1] / scale.prod(1)
    assert ((product.mean(0) - rho).abs() < 4 * product.std(0) / size.amin(1).sqrt()).all()


def test_what_is_held_stays():
    free = torch.tensor([[True, False], [True, True]])
    start = torch.randn(3, 2, 2, dtype=torch.float64)
    normal = gaussians(torch.zeros(2, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64).expand(2, 2, 2))
    draws = hamiltonian(normal, start, free, warmup=50, steps=50).draws
    assert (draws[:, :, 0, 1] == start[:, 0, 1]).all()
    assert draws[..., 0].flatten(1).std(0).min() > 0.3
    assert draws[:, :, 1, 1].std(0).min() > 0.3


def test_a_target_that_is_not_finite_everywhere_is_not_left():
    """A normal cut off at 0: half normal, of mean √(2/π)."""

    def log_density(t: torch.Tensor) -> torch.Tensor:
        return torch.where(t > 0, -0.5 * t**2, torch.full_like(t, -torch.inf)).sum(1)

    draws = hamiltonian(log_density, torch.rand(8, 1, 1, dtype=torch.float64), warmup=200, steps=1000).draws
    assert (draws > 0).all()
    error = draws.std() / effective_sample_size(draws).sqrt().item()
    assert abs(draws.mean() - (2 / torch.pi) ** 0.5) < 4 * error


def test_effective_sizes_of_autoregressive_chains():
    """x_t = φ x_{t−1} + ε has autocorrelation time (1 + φ) / (1 − φ)."""
    rng = np.random.default_rng(0)
    for phi in (-0.4, 0.0, 0.5, 0.9):
        noise = rng.normal(size=(20_000, 4, 6))
        noise[0] /= np.sqrt(1 - phi**2)
        chains = torch.from_numpy(lfilter([1.0], [1.0, -phi], noise, axis=0))
        truth = 80_000 * (1 - phi) / (1 + phi)
        assert (effective_sample_size(chains) / truth - 1).abs().max() < 0.2
        assert split_r_hat(chains).max() < 1.01


def test_chains_that_differ_are_found_out():
    together = torch.randn(200, 4, 3, dtype=torch.float64)
    apart = together + torch.tensor([0.0, 0.0, 0.0, 3.0], dtype=torch.float64)[:, None]
    assert split_r_hat(together).max() < 1.03
    assert split_r_hat(apart).min() > 1.2
    assert effective_sample_size(apart).max() < 40
    drifting = together + torch.linspace(0, 3, 200, dtype=torch.float64)[:, None, None]
    assert split_r_hat(drifting).min() > 1.1
    stuck = torch.randn(1, 4, 3, dtype=torch.float64).expand(200, 4, 3)
    assert split_r_hat(stuck).isinf().all()
    assert effective_sample_size(stuck).max() < 10
