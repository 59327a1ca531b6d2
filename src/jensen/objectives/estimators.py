"""Estimates of log p(x), each saying which it is.

| estimator | in expectation | needs |
|---|---|---|
| exact  | log p(x) | nothing hidden, or an exact posterior |
| elbo   | ≤ log p(x) | q |
| iw     | ≤ log p(x), rising with K | q |
| prior  | ≤ log p(x), naive Monte Carlo: q is the prior | samples of the prior |
| ais    | ≤ log p(x), an estimate by annealing | continuous hidden variables |
| trace  | log p(x), or the ELBO where q draws | a flow whose log-determinant is estimated without bias |

All but the first and the last are low on average: elbo by KL(q ‖ p(z | x)), the rest because they take the logarithm
of an average. A standard error does not cover that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor

from jensen.core import ESTIMATE, EXACT, LOWER_BOUND, Joint, Model, evidence, seeded
from jensen.errors import CapabilityError

Observed = Mapping[str, Tensor]
ACCEPTED = 0.65  # share of Hamiltonian moves that annealing aims at
AGAIN = 16  # data of a batch that are drawn twice where there is one particle
ROWS = {"cpu": 2048, "cuda": 65536}  # walked at once at most: more would only leave the processor's cache


@dataclass(frozen=True)
class Estimate:
    """log p(x) of each datum.

    Attributes:
        rows: nats, (B,), float64.
        variance: of each row by the estimator's own randomness, (B,).
        effective_sample_size: in 1..K, (B,), where particles are weighed.
    """

    rows: Tensor
    variance: Tensor
    effective_sample_size: Tensor | None = None


@dataclass(frozen=True)
class Estimator:
    """How log p(x) is estimated, and what kind of number comes out."""

    name: str
    kind: str
    estimate: Callable[[Model, Observed, int, int], Estimate]
    """(model, observed (B, *event), particles, rows at once) → estimate."""


@torch.no_grad()
def exact(model: Model, observed: Observed, particles: int = 1, rows: int = ROWS["cpu"]) -> Estimate:
    """log p(x) where log w is constant: one draw is enough."""
    blocks = _log_weights(lambda o, k: model.evidence(o, k).log_w, observed, 1, rows)
    log_p = torch.cat([block[0] for block in blocks])
    return Estimate(log_p, torch.zeros_like(log_p))


@torch.no_grad()
def elbo(model: Model, observed: Observed, particles: int = 1, rows: int = ROWS["cpu"]) -> Estimate:
    """The evidence lower bound, mean over K draws of log w, or of what is less noisy where the walk knows it.

    One draw tells nothing of its variance: some of the data are then drawn once more, by random numbers that leave the
    stream as it was, and their mean variance stands for that of each. Where q draws nothing one walk does.
    """
    if not model.hidden:
        return exact(model, observed, 1, rows)

    def bounds(o: Observed, k: int) -> Tensor:
        return model.evidence(o, k).bounds_by_draw()

    moments = None
    for log_w in _log_weights(bounds, observed, particles, rows):
        moments = moments or _Moments(log_w[0])
        moments.add(log_w)
    assert moments is not None
    if particles > 1:
        return Estimate(moments.mean, moments.variance / particles)
    value = next(iter(observed.values()))
    again = torch.linspace(0, len(value) - 1, min(AGAIN, len(value)), device=value.device).round().long()
    with torch.random.fork_rng([value.device] if value.is_cuda else []):
        second = torch.cat(list(_log_weights(bounds, {n: v[again] for n, v in observed.items()}, 1, rows)), 1)[0]
    variance = (moments.mean[again] - second).square().mean() / 2
    return Estimate(moments.mean, variance.expand_as(moments.mean).clone())


@torch.no_grad()
def trace(model: Model, observed: Observed, particles: int = 10, rows: int = ROWS["cpu"]) -> Estimate:
    """log w where a flow's trace is estimated, mean over K walks, each with a probe (and draws of q) of its own."""

    def walks(o: Observed, k: int) -> Tensor:
        wide = {n: v.repeat(k, *(1,) * (v.dim() - 1)) for n, v in o.items()}
        return model.evidence(wide).log_w.view(k, -1)

    moments = None
    for log_w in _log_weights(walks, observed, particles, rows):
        moments = moments or _Moments(log_w[0])
        moments.add(log_w)
    assert moments is not None
    return Estimate(moments.mean, moments.variance / particles)


@torch.no_grad()
def importance(model: Model, observed: Observed, particles: int = 500, rows: int = ROWS["cpu"]) -> Estimate:
    """The importance-weighted bound, logmeanexp of log w over K draws from q."""
    return _log_mean(lambda o, k: model.evidence(o, k).log_w, observed, particles, rows)


@torch.no_grad()
def prior(model: Model, observed: Observed, particles: int = 5000, rows: int = ROWS["cpu"]) -> Estimate:
    """Naive Monte Carlo: the same with q replaced by the prior, so log w = log p(x | z).

    The prior's own density stands in p and in q and is left out: a flow's, found both ways, would differ by rounding.
    """
    hidden = _prior_of(model, "prior")

    def log_w(o: Observed, k: int) -> Tensor:
        e = evidence(model.p, hidden, model.masked(o), k)
        return reduce(torch.add, (e.log_p[name] for name in e.p if name not in hidden))

    return _log_mean(log_w, observed, particles, rows)


def annealed(
    model: Model,
    observed: Observed,
    particles: int = 16,
    rows: int = ROWS["cpu"],
    temperatures: int = 200,
    leapfrog: int = 10,
    start_step: float = 0.1,
) -> Estimate:
    """Annealed importance sampling from the prior to the posterior, p(z) p(x | z)^β, with Hamiltonian moves.

    Neal, "Annealed importance sampling", 2001; Wu et al., "On the quantitative analysis of decoder-based generative
    models", 2017, arXiv:1611.04273. `particles` are chains a datum; β follows a sigmoid schedule. A pilot pass with
    chains of its own tunes the step sizes, for each datum and temperature, to accept about 65% of the moves; the
    pass that counts then keeps them, so that the mean weight is unbiased (its logarithm is low on average).

    Raises:
        CapabilityError: a hidden variable is discrete, or p gives no density over it.
    """
    width = max(1, rows // particles)
    if width < next(iter(observed.values())).shape[0]:  # in parts, to keep within the rows
        parts = zip(*(v.split(width) for v in observed.values()), strict=True)
        done = [
            annealed(model, dict(zip(observed, part, strict=True)), particles, rows, temperatures, leapfrog, start_step)
            for part in parts
        ]
        return Estimate(*(torch.cat([getattr(e, n) for e in done]) for n in Estimate.__dataclass_fields__))
    hidden = _prior_of(model, "ais")
    steps: list[Tensor] = []
    _anneal(model, hidden, observed, particles, temperatures, leapfrog, steps, adapt=start_step)
    log_w = _anneal(model, hidden, observed, particles, temperatures, leapfrog, steps)
    return _estimate(log_w.logsumexp(0), (2 * log_w).logsumexp(0), particles)


def _anneal(
    model: Model,
    hidden: Joint,
    observed: Observed,
    particles: int,
    temperatures: int,
    leapfrog: int,
    steps: list[Tensor],
    adapt: float | None = None,
) -> Tensor:
    """One pass of chains from the prior to the posterior: log w, (K, B), float64.

    Args:
        steps: leapfrog step sizes, (B,) for each temperature: taken as they are, or, where `adapt` gives the first
            one, found by following the share of accepted moves, and filled in.
    """
    names = [f.name for f in hidden if not f.deterministic]
    k, b = particles, next(iter(observed.values())).shape[0]
    with torch.no_grad():
        start = evidence(model.p, hidden, model.masked(observed), k)
        for name in names:
            if start.q[name].support.is_discrete:  # pyright: ignore
                raise CapabilityError(f"ais moves continuous variables, and {name!r} is discrete; use --estimator iw")
    shapes = [start.values[name].shape[1:] for name in names]
    z = torch.cat([start.values[name].flatten(1) for name in names], 1)  # (K·B, D)
    repeated = {n: v.repeat(k, *(1,) * (v.dim() - 1)) for n, v in observed.items()}

    def densities(z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x | z) at flat positions, each (K·B,)."""
        parts = z.split([math.prod(s) for s in shapes], 1)
        given = {n: part.reshape(-1, *s) for n, part, s in zip(names, parts, shapes, strict=True)}
        e = evidence(model.p, Joint(), model.masked({**repeated, **given}))
        return sum(e.log_p[n][0] for n in names), sum(e.log_p[n][0] for n in e.log_p if n not in names)  # pyright: ignore

    def gradient(z: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            log_prior, log_likelihood = densities(z)
            (slope,) = torch.autograd.grad((log_prior + beta * log_likelihood).sum(), z)
        return slope, log_prior.detach(), log_likelihood.detach()

    ramp = torch.sigmoid(4 * torch.linspace(-1, 1, temperatures + 1, dtype=torch.float64))
    betas = ((ramp - ramp[0]) / (ramp[-1] - ramp[0])).tolist()
    step = torch.full((b,), adapt or 0.0, dtype=z.dtype, device=z.device)
    log_w = torch.zeros(k * b, dtype=torch.float64, device=z.device)
    for i, (before, beta) in enumerate(pairwise(betas)):
        slope, log_prior, log_likelihood = gradient(z, beta)
        log_w += (beta - before) * log_likelihood.double()
        momentum = torch.randn(z.shape, dtype=z.dtype, device=z.device)
        energy = log_prior + beta * log_likelihood - 0.5 * momentum.square().sum(1)
        step = step if adapt else steps[i]
        size = step.repeat(k)[:, None]
        proposal, moving = z, momentum + 0.5 * size * slope
        for turn in range(leapfrog):
            proposal = proposal + size * moving
            slope, log_prior, log_likelihood = gradient(proposal, beta)
            moving = moving + (size if turn + 1 < leapfrog else 0.5 * size) * slope
        after = log_prior + beta * log_likelihood - 0.5 * moving.square().sum(1)
        accept = torch.log(torch.rand(after.shape, device=z.device)) < after - energy
        z = torch.where(accept[:, None], proposal, z)
        if adapt:
            steps.append(step)
            share = accept.to(z.dtype).reshape(k, b).mean(0)
            step = step * torch.exp(0.3 * (share - ACCEPTED))
    return log_w.reshape(k, b)


ESTIMATORS: dict[str, Estimator] = {
    "exact": Estimator("exact", EXACT, exact),
    "elbo": Estimator("elbo", LOWER_BOUND, elbo),
    "iw": Estimator("iw", LOWER_BOUND, importance),
    "prior": Estimator("prior", ESTIMATE, prior),
    "ais": Estimator("ais", ESTIMATE, annealed),
    "trace": Estimator("trace", ESTIMATE, trace),
}


WALKED = 8  # data by which the work on one is measured


def row_bytes(model: Model, observed: Observed) -> int:
    """What the modules put out while one row (a particle of a datum) is walked, in bytes: a measure of its work.

    Args:
        observed: one datum or more, of which the first are walked together: among texts, the longest of them counts.
    """
    found: dict[int, Tensor] = {}  # held, so that no two have one place in memory; a module may hand on another's

    def keep(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            place = output.untyped_storage().data_ptr()
            if place not in found or found[place].numel() < output.numel():
                found[place] = output

    first = {name: value[:WALKED] for name, value in observed.items()}
    n = len(next(iter(first.values())))
    hooks = [m.register_forward_hook(keep) for m in model.modules()]
    try:
        with seeded(0, next(iter(first.values())).device), torch.no_grad():  # what is drawn after it is as without it
            _ = model.evidence(first).log_w  # densities are computed where they are asked for
    finally:
        for hook in hooks:
            hook.remove()
    counted = sum(output.numel() * output.element_size() for output in found.values())
    return (counted + 8 * sum(v.numel() for v in first.values())) // n


def rows_within(model: Model, observed: Observed, megabytes: float) -> int:
    """How many rows (particles times data) a walk may take at once within a memory limit.

    A walk keeps about four times what is put out at a time (a layer, the one before it, the distribution and its
    terms).

    Args:
        observed: as of `row_bytes`.
    """
    device = next(iter(observed.values())).device.type
    most = int(megabytes * 2**20 / (4 * row_bytes(model, observed)))
    return max(1, min(ROWS.get(device, ROWS["cpu"]), most))


def meets_no_datum(model: Model, estimator: str) -> str:
    """Why draws of what is hidden from p explain no datum, where that is the datum itself; empty where they may."""
    datum = [name for name in model.hidden if model.is_the_datum(name)]
    if not datum:
        return ""
    return (
        f"{estimator} draws {', '.join(datum)} from p, and that is {model.data} itself, with noise or with its "
        "gaps filled, which such draws do not meet; use --estimator iw"
    )


def _prior_of(model: Model, estimator: str) -> Joint:
    """The factors of p over what is hidden, codes and shared nodes among it, standing as q.

    Raises:
        CapabilityError: nothing is hidden, p has no density over it, or what is hidden is the datum itself with its
            gaps filled, which draws from p never meet.
    """
    if not (model.hidden or model.codes):
        raise CapabilityError(f"{estimator} averages over hidden variables, and this model has none; use exact")
    if any(name not in model.p for name in model.hidden):
        raise CapabilityError(f"{estimator} needs p to have a density over {', '.join(model.hidden)}")
    if model.completes:
        raise CapabilityError(meets_no_datum(model, estimator))
    chosen, known = {}, set(model.context)
    for factor in model.p:
        if factor.name in model.q or (factor.deterministic and known.issuperset(factor.parents)):
            chosen[str(factor)] = factor.module
            known.add(factor.name)
    return Joint(chosen)


def _log_weights(log_w: Callable[[Observed, int], Tensor], observed: Observed, particles: int, rows: int):
    """log w in blocks of particles, each (k, B) in float64, no more than about `rows` rows at once."""
    b = next(iter(observed.values())).shape[0]
    width = max(1, min(b, rows // min(particles, rows)))
    for done in range(0, particles, max(1, rows // width)):
        k = min(max(1, rows // width), particles - done)
        parts = []
        for start in range(0, b, width):
            parts.append(log_w({n: v[start : start + width] for n, v in observed.items()}, k).double())
        yield torch.cat(parts, 1)


def _log_mean(log_w: Callable[[Observed, int], Tensor], observed: Observed, particles: int, rows: int) -> Estimate:
    total = square = None
    for block in _log_weights(log_w, observed, particles, rows):
        one, two = block.logsumexp(0), (2 * block).logsumexp(0)
        total = one if total is None else torch.logaddexp(total, one)
        square = two if square is None else torch.logaddexp(square, two)
    assert total is not None
    assert square is not None
    return _estimate(total, square, particles)


def _estimate(total: Tensor, square: Tensor, particles: int) -> Estimate:
    """From log Σ w and log Σ w²: log mean w, its variance by the delta method, and the effective sample size."""
    size = torch.exp(2 * total - square)  # (Σ w)² / Σ w²
    if particles == 1:
        return Estimate(total, torch.full_like(total, math.nan), size)
    variance = (1 / size - 1 / particles).clamp_min(0) * particles / (particles - 1)
    return Estimate(total - math.log(particles), variance, size)


class _Moments:
    """Mean and variance over particles, accumulated in blocks, about the first particle to keep digits."""

    def __init__(self, first: Tensor) -> None:
        self.n, self.shift = 0, first
        self.sum = self.square = torch.zeros_like(first)

    def add(self, block: Tensor) -> None:
        centred = block - self.shift
        self.n += len(block)
        self.sum = self.sum + centred.sum(0)
        self.square = self.square + centred.square().sum(0)

    @property
    def mean(self) -> Tensor:
        return self.shift + self.sum / self.n

    @property
    def variance(self) -> Tensor:
        if self.n < 2:
            return torch.full_like(self.shift, math.nan)
        return ((self.square - self.sum**2 / self.n) / (self.n - 1)).clamp_min(0)
