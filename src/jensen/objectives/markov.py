"""Markov chains: Hamiltonian moves of many chains and many targets at once, and how far their draws can be trusted.

A chain keeps exp(log p(t)) invariant. From a position t and a momentum m ~ N(0, M),

    m ← m + ε/2 ∇ log p(t),    t ← t + ε M⁻¹ m,    m ← m + ε/2 ∇ log p(t)        L times,

and the end is accepted with probability min(1, exp(H_before − H_after)), H = −log p(t) + ½ mᵀ M⁻¹ m.

Neal, "MCMC using Hamiltonian dynamics", 2011, arXiv:1206.1901. Step sizes by dual averaging: Hoffman and Gelman, "The
No-U-Turn sampler", 2014, arXiv:1111.4246. R̂ and effective sample size: Vehtari et al., "Rank-normalization, folding,
and localization: an improved R̂", 2021, arXiv:1903.08008, without the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TARGET = 0.8  # share of proposals accepted, on average, that step sizes are tuned to
WINDOWS = (0.15, 0.4, 0.75)  # of the warm-up, at whose ends the mass is set from what was seen since the last
GAMMA, STIFF, DECAY = 0.05, 10.0, 0.75  # of dual averaging, as in Hoffman and Gelman


@dataclass(frozen=True)
class Chains:
    """What Hamiltonian chains leave.

    Attributes:
        draws: (S, K, B, D): S steps of K chains for each of B targets.
        acceptance: mean probability of acceptance after warm-up, (B,).
        step: the step sizes, (B,).
    """

    draws: Tensor
    acceptance: Tensor
    step: Tensor


def hamiltonian(
    log_density: Callable[[Tensor], Tensor],
    start: Tensor,
    free: Tensor | None = None,
    *,
    warmup: int = 300,
    steps: int = 300,
    leapfrog: int = 10,
    listener: Callable[[float], None] | None = None,
) -> Chains:
    """K chains for each of B targets, all moved at once; step sizes and masses are tuned for each target in warm-up.

    Args:
        log_density: of positions (K·B, D), chain-major, in nats up to a constant: (K·B,), differentiable.
        start: (K, B, D); chains of one target should start farther apart than its draws will lie.
        free: coordinates that move, (B, D); None for all.
        warmup, steps: moves of each chain, not kept and kept.
        leapfrog: at most so many leapfrog steps a move; their number is drawn anew for each.
        listener: told of the share done, in [0, 1].
    """
    k, b, d = start.shape
    moves = torch.ones(b, d, dtype=torch.bool, device=start.device) if free is None else free
    t = start.detach().clone()
    variance = torch.where(moves, _spread(t), 1.0)  # M⁻¹, (B, D)
    dual = _DualAveraging(start.new_full((b,), 0.5))
    seen = _Welford(t)
    ends = {round(share * warmup) for share in WINDOWS}
    draws = start.new_empty(steps, k, b, d)
    accepted = start.new_zeros(b)

    def gradient(t: Tensor) -> tuple[Tensor, Tensor]:
        flat = t.reshape(k * b, d).requires_grad_()
        with torch.enable_grad():
            value = log_density(flat)
            (slope,) = torch.autograd.grad(value.sum(), flat)
        slope = torch.where(moves, slope.view(k, b, d), 0.0)
        return value.detach().view(k, b), torch.nan_to_num(slope, 0.0, 0.0, 0.0)

    value, slope = gradient(t)
    for i in range(warmup + steps):
        size = (dual.step if i < warmup else dual.average)[:, None]
        momentum = torch.where(moves, torch.randn_like(t) * variance.rsqrt(), 0.0)
        before = value - 0.5 * (momentum.square() * variance).sum(-1)
        there, there_value, there_slope = t, value, slope
        for _ in range(int(torch.randint(1, leapfrog + 1, ()))):
            momentum = momentum + 0.5 * size * there_slope
            there = there + size * variance * momentum
            there_value, there_slope = gradient(there)
            momentum = momentum + 0.5 * size * there_slope
        after = there_value - 0.5 * (momentum.square() * variance).sum(-1)
        chance = torch.nan_to_num((after - before).clamp_max(0.0).exp(), 0.0)  # (K, B)
        take = torch.rand_like(chance) < chance
        t = torch.where(take[..., None], there, t)
        value, slope = torch.where(take, there_value, value), torch.where(take[..., None], there_slope, slope)
        if i >= warmup:
            draws[i - warmup] = t
            accepted += chance.mean(0) / max(1, steps)
        else:
            dual.update(chance.mean(0))
            seen.add(t)
            if i + 1 in ends:
                variance = torch.where(moves, seen.variance(), 1.0)
                seen = _Welford(t)
                dual = _DualAveraging(dual.average)
        if listener is not None:
            listener((i + 1) / (warmup + steps))
    return Chains(draws, accepted, dual.average)


class _DualAveraging:
    """Step sizes, (B,), that bring acceptance to its target: Hoffman and Gelman 2014, section 3.2."""

    def __init__(self, first: Tensor):
        self.middle = (10 * first).log()
        self.gap, self.t = torch.zeros_like(first), 0
        self.log_step, self.log_average = first.log(), torch.zeros_like(first)

    def update(self, acceptance: Tensor) -> None:
        self.t += 1
        share = 1 / (self.t + STIFF)
        self.gap = (1 - share) * self.gap + share * (TARGET - acceptance)
        self.log_step = self.middle - math.sqrt(self.t) / GAMMA * self.gap
        weight = self.t**-DECAY
        self.log_average = weight * self.log_step + (1 - weight) * self.log_average

    @property
    def step(self) -> Tensor:
        return self.log_step.exp()

    @property
    def average(self) -> Tensor:
        """The step size to keep."""
        return self.log_average.exp() if self.t else self.step


class _Welford:
    """Variance over chains and moves, (B, D), drawn a little towards 1e-3 while little was seen, as Stan does."""

    def __init__(self, first: Tensor):
        self.n, self.mean, self.square = 0, torch.zeros_like(first[0]), torch.zeros_like(first[0])

    def add(self, t: Tensor) -> None:
        k, mean = len(t), t.mean(0)
        off = mean - self.mean
        total = self.n + k
        self.square = self.square + (t - mean).square().sum(0) + off.square() * (self.n * k / total)
        self.mean, self.n = self.mean + off * (k / total), total

    def variance(self) -> Tensor:
        n = self.n
        return n / (n + 5) * self.square / max(1, n - 1) + 1e-3 * 5 / (n + 5)


def _spread(start: Tensor) -> Tensor:
    """A first guess of variances, (B, D), from where chains start."""
    if len(start) < 2:
        return torch.ones_like(start[0])
    return start.var(0).clamp(1e-4, 1e4)


def split_r_hat(draws: Tensor) -> Tensor:
    """R̂ = √(var⁺ / W) over the halves of all chains, draws (S, K, ...) → (...); near 1 where chains agree."""
    halves = _halves(draws)
    within = halves.var(0).mean(0)
    between = halves.mean(0).var(0)
    n = len(halves)
    total = (n - 1) / n * within + between
    return torch.where(total > 0, (total / within).sqrt(), torch.ones_like(total))


def effective_sample_size(draws: Tensor) -> Tensor:
    """How many independent draws would give means as exact, draws (S, K, ...) → (...).

    M N / τ with the autocorrelation time τ by Geyer's initial monotone sequence over M split chains of length N,
    at most M N log₁₀(M N).
    """
    halves = _halves(draws)
    n, m = halves.shape[:2]
    centred = halves - halves.mean(0)
    length = 2 ** math.ceil(math.log2(2 * n))
    spectrum = torch.fft.rfft(centred, length, dim=0)
    autocovariance = torch.fft.irfft(spectrum.abs().square(), length, dim=0)[:n] / n  # (N, M, ...)
    within = autocovariance[0].mean(0) * n / (n - 1)
    total = (n - 1) / n * within + halves.mean(0).var(0)
    total = torch.where(total > 0, total, torch.ones_like(total))
    rho = 1 - (within - autocovariance.mean(1)) / total  # (N, ...)
    rho = torch.cat([torch.ones_like(rho[:1]), rho[1:]])
    pairs = rho[: n // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).to(pairs.dtype).cumprod(0)
    time = 2 * (pairs.cummin(0).values * positive).sum(0) - 1
    return m * n / time.clamp_min(1 / math.log10(max(10, m * n)))


def _halves(draws: Tensor) -> Tensor:
    """(S, K, ...) as twice as many chains half as long, (S // 2, 2 K, ...)."""
    n = len(draws) // 2
    return torch.cat([draws[:n], draws[len(draws) - n :]], 1)
