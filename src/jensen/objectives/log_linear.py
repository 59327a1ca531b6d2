"""Fitting of log-linear conditionals p(x | z, w) ∝ exp(wᵀ f(x, z)).

z observed, c(z, x) counted: concave in w, by L-BFGS on

    Σ c(z, x) log p(x | z, w) / n − λ₂/2 ‖w‖² − λ₁ ‖w‖₁        gradient  Σ c(z, x) (f(x, z) − E[f(X, z) | z, w]) / n − …

z hidden: expectation maximisation. The E-step enumerates p(z | x, w) = p(x | z, w) p(z) / Σ_z, O(|X| |Z|); the M-step
sets p(z) to the expected share of each class, and fits w, from where it stands, to the expected counts, in which the
responsibilities are constants:

    E-count(z, x) = count(x) p(z | x, w)        Σ E-count(z, x) f(x, z) against Σ E-count(z) E[f(X, z) | z, w]

A w that would lower the M-step's objective is not taken, so the likelihood, less the penalties, never falls.

Dempster, Laird and Rubin 1977; Berg-Kirkpatrick et al. 2010; for λ₁, w = u − v with u, v ≥ 0 (Byrd, Lu, Nocedal and Zhu
1995, L-BFGS-B); for separation, Konis 2007.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor
from torch.nn.functional import one_hot

from jensen.conditionals.features import Features
from jensen.conditionals.loglinear import Classes, LogLinear
from jensen.core import Model, Observed
from jensen.errors import ConfigError, SeparationWarning
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, UpdatePhase, weighted_mean

MEMORY = 10  # pairs that L-BFGS keeps
LEAST_CURVATURE = 1e-8  # by which a weight is scaled
BLOCK = 4096  # rows of an E-step worked on at once: what a core keeps close
MOST_IN_PROGRAM = 50_000  # numbers in the linear program that looks for separation


class Fitted(NamedTuple):
    """What fitting w came to.

    Attributes:
        objective: mean log p(x | z) in nats, less the penalties.
        steps: of L-BFGS.
        violation: the largest element by which 0 misses the subgradient of the objective: 0 at the maximum.
    """

    objective: float
    steps: int
    violation: float


def penalty(weight: Tensor, l1: float, l2: float) -> Tensor:
    """λ₂/2 ‖w‖² + λ₁ ‖w‖₁."""
    return 0.5 * l2 * weight.square().sum() + l1 * weight.abs().sum()


def conditional_objective(likelihood: LogLinear, counts: Tensor, l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """Σ c(z, x) log p(x | z, w) / n less the penalties, in nats, differentiable by w.

    Args:
        counts: c, (Z, X), ≥ 0.
    """
    return (counts * likelihood.table()).sum() / counts.sum() - penalty(likelihood.weight, l1, l2)


@torch.no_grad()
def fit(
    likelihood: LogLinear,
    counts: Tensor,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    steps: int = 1000,
    tolerance: float = 1e-8,
    check: bool = True,
) -> Fitted:
    """Fit w to counts of x with each z by L-BFGS in float64, from where it stands; never to a worse one.

    Args:
        counts: c, (Z, X), ≥ 0: how often x was met with z, or is expected to have been.
        l1, l2: λ₁ and λ₂, in nats a datum.
        steps: at most.
        tolerance: largest element of the projected gradient, by scaled weights, that ends it.
        check: whether to warn where no finite w is best.

    Raises:
        ConfigError: counts that are not of (Z, X), negative, or not finite; a negative penalty.

    Warns:
        SeparationWarning: without penalties, a weight grows without bound; names its feature.

    >>> from jensen.conditionals.features import Crossed
    >>> p = LogLinear(Crossed(np.eye(2), classes=1))
    >>> found = fit(p, torch.tensor([[3.0, 1.0]]))
    >>> p.table().exp()
    tensor([[0.7500, 0.2500]], grad_fn=<ExpBackward0>)
    """
    features, weight = likelihood.features, likelihood.weight
    _check_penalties(l1, l2)
    counts = _checked(counts, features).to(weight.device)
    n, of_class = counts.sum(), counts.sum(1)
    if check and not l1 and not l2:
        warn_of_separation(features, counts)
    observed = features.totals(counts)

    def smooth(w: Tensor) -> tuple[float, Tensor]:
        """Mean −log p + λ₂/2 ‖w‖² and its gradient."""
        scores = features._scores(w)
        normalizer = scores.logsumexp(1)
        expected = scores.sub_(normalizer[:, None]).exp_().mul_(of_class[:, None])
        value = (of_class @ normalizer - (observed * w).sum()) / n + 0.5 * l2 * w.square().sum()
        return value.item(), (features.totals(expected) - observed) / n + l2 * w

    start = weight.double()
    expected = (features._scores(start).log_softmax(1).exp() + counts / of_class.clamp_min(1e-300)[:, None]) / 2
    curvature = features.squares(expected * of_class[:, None]) / n + l2
    best, used = _minimize(smooth, start, curvature.clamp_min(LEAST_CURVATURE).rsqrt(), l1, steps, tolerance)
    value, gradient = smooth(best)
    value += l1 * best.abs().sum().item()
    before = smooth(start)[0] + l1 * start.abs().sum().item()
    if value > before:
        best, value, gradient = start, before, smooth(start)[1]
    weight.copy_(best)
    return Fitted(-value, used, _violation(best, gradient, l1))


def _minimize(smooth: Any, start: Tensor, scale: Tensor, l1: float, steps: int, tolerance: float) -> tuple[Tensor, int]:
    """L-BFGS-B on smooth(w) + λ₁ ‖w‖₁; with λ₁ > 0 over w = u − v, u and v ≥ 0, so that zeros are exact.

    It sees w / scale. With a scale of one over the root of each weight's curvature, rare features and common ones go
    at one pace: without it, those that overlap take many times the steps.
    """
    shape, device = start.shape, start.device
    s = scale.cpu().numpy().ravel()
    split = l1 > 0

    def joined(v: np.ndarray) -> Tensor:
        v = v[: len(v) // 2] - v[len(v) // 2 :] if split else v
        return torch.from_numpy(v * s).reshape(shape).to(device)

    def asked(v: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = smooth(joined(v))
        g = gradient.cpu().numpy().ravel() * s
        if not split:
            return value, g
        price = np.tile(l1 * s, 2)
        return value + price @ v, price + np.concatenate([g, -g])

    w = start.cpu().numpy().ravel() / s
    found = minimize(
        asked,
        np.concatenate([w.clip(0), (-w).clip(0)]) if split else w,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * 2 * len(w) if split else None,
        options={"maxiter": steps, "maxfun": 2 * steps + 20, "maxcor": MEMORY, "ftol": 0.0, "gtol": tolerance},
    )
    return joined(found.x), int(found.nit)


def _violation(w: Tensor, gradient: Tensor, l1: float) -> float:
    """How far 0 is from the subgradient of smooth(w) + λ₁ ‖w‖₁, largest element."""
    away = (gradient + l1 * w.sign()).abs()
    at_zero = (gradient.abs() - l1).clamp_min(0)
    return float(torch.where(w == 0, at_zero, away).max()) if w.numel() else 0.0


def _check_penalties(l1: float, l2: float) -> None:
    for name, value in (("l1", l1), ("l2", l2)):
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{name}: expected >= 0, got {value}")


def _checked(counts: Tensor, features: Features) -> Tensor:
    counts = torch.as_tensor(counts).detach().double()
    if counts.shape != features.sizes:
        raise ConfigError(f"counts: expected shape (|Z|, |X|) = {features.sizes}, got {tuple(counts.shape)}")
    if not (torch.isfinite(counts).all() and (counts >= 0).all() and counts.any()):
        raise ConfigError("counts: expected finite numbers >= 0, not all of them 0")
    return counts


# Separation


def warn_of_separation(features: Features, counts: Tensor) -> None:
    """Warn where some weight grows without bound as likelihood rises, naming its feature.

    One feature separates where its total is the least or greatest that any x could give. Several together are looked
    for by a linear program, where it is small: a direction d that has every x that was met with z as high as any other,
    and some x lower.
    """
    found = separating(features, counts)
    if found:
        some = ", ".join(f"{name!r} to {sign}∞" for name, sign in found[:3])
        more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
        one = len(found) == 1
        warnings.warn(
            f"likelihood has no maximum, the data are separable: the weight{'' if one else 's'} of {some}{more} "
            f"grow{'s' if one else ''} without bound; set l2 > 0, or leave the feature{'' if one else 's'} out",
            SeparationWarning,
            stacklevel=3,
        )


def separating(features: Features, counts: Tensor) -> list[tuple[str, str]]:
    """Features whose weights have no finite maximum, with the sign of it; [] where none is found."""
    low, high = features.extremes(counts.sum(1))
    total = features.totals(counts).cpu()
    slack = 1e-9 * (1 + torch.maximum(low.abs(), high.abs()))
    varies = high - low > 2 * slack
    up, down = (high - total < slack) & varies, (total - low < slack) & varies
    found = [(int(i), "+" if up.view(-1)[i] else "−") for i in (up | down).view(-1).nonzero()[:, 0]]
    if not found:
        found = _by_program(features, counts.cpu().numpy())
    return [(features.name(i), sign) for i, sign in found]


def _by_program(features: Features, counts: np.ndarray) -> list[tuple[int, str]]:
    """A direction of separation by a linear program, its largest elements first.

    max Σ_zx t_z − dᵀf(x, z)  with  dᵀf(x, z) ≤ t_z,  equal where c(z, x) > 0,  −1 ≤ d ≤ 1, over z that occur.
    """
    classes, x = features.sizes
    if max(features.held, classes * x) > MOST_IN_PROGRAM:
        return []
    rows = features.rows()
    occurs = np.flatnonzero(counts.sum(1) > 0)
    at = (occurs[:, None] * x + np.arange(x)).ravel()
    of_z = sparse.kron(sparse.identity(len(occurs)), np.ones((x, 1)))
    program = sparse.hstack([rows[at], -of_z]).tocsr()  # dᵀf − t_z
    met = counts[occurs].ravel() > 0
    gain = np.asarray(program.sum(0)).ravel()
    f = rows.shape[1]
    free = [(-1, 1)] * f + [(None, None)] * len(occurs)
    equal, less = program[met], program[~met]
    answer = linprog(
        gain,
        A_ub=less if less.shape[0] else None,
        b_ub=np.zeros(less.shape[0]) if less.shape[0] else None,
        A_eq=equal,
        b_eq=np.zeros(equal.shape[0]),
        bounds=free,
        method="highs",
    )
    if answer.status != 0 or answer.fun > -1e-6:
        return []
    d = answer.x[:f]
    order = np.argsort(-np.abs(d), kind="stable")
    return [(int(i), "+" if d[i] > 0 else "−") for i in order if abs(d[i]) > 1e-6]


# z hidden


class Parts(NamedTuple):
    """What the fitting of a model of classes is about: p(z), and every p(· | z) by name."""

    z: str
    prior: Classes
    likelihoods: dict[str, LogLinear]

    @classmethod
    def of(cls, model: Model) -> Parts:
        z = next(f for f in model.p if isinstance(f.module, Classes))
        children = {f.name: f.module for f in model.p if isinstance(f.module, LogLinear) and f.parents == (z.name,)}
        return cls(z.name, z.module, children)  # pyright: ignore[reportArgumentType]


def _start(model: Model) -> dict[str, Any]:
    """The model's probabilities as they stand, and nothing counted."""
    parts = Parts.of(model)
    tables = {name: p.table().double().mT.contiguous() for name, p in parts.likelihoods.items()}  # (X, Z)
    return {
        "prior": parts.prior.logits.double().log_softmax(-1),
        "tables": tables,
        "counts": {name: torch.zeros_like(table) for name, table in tables.items()},
        "log_likelihood": torch.zeros((), dtype=torch.float64, device=parts.prior.logits.device),
    }


def _expect(labels: bool, model: Model, state: dict[str, Any], batch: Batch) -> dict[str, Any]:
    """The E-step: add p(z | x) to the counts of each x."""
    logits, found = state["prior"], {}
    for name, likelihood in Parts.of(model).likelihoods.items():
        found[name] = likelihood.domain.index(batch[name])
        logits = logits + state["tables"][name][found[name]]  # (B, Z)
    if labels and "y" in batch:
        logits = logits.masked_fill(~_possible(batch["y"], logits.shape[-1]), -torch.inf)
    log_p = logits.logsumexp(-1)
    share = (logits - log_p[:, None]).exp_()
    if "weight" in batch:
        weight = batch["weight"].double()
        share, log_p = share * weight[:, None], log_p * weight
    for name, index in found.items():
        state["counts"][name].index_add_(0, index, share)
    state["log_likelihood"] = state["log_likelihood"] + log_p.sum()
    return state


def _possible(y: Tensor, classes: int) -> Tensor:
    """Which z a label leaves possible, (B, Z): its own, or all where there is none (y < 0)."""
    return one_hot(y.clamp_min(0), classes).bool() | (y < 0)[:, None]


def _maximise(l1: float, l2: float, steps: int, model: Model, state: dict[str, Any]) -> None:
    """The M-step: p(z) in closed form, w by a few steps of L-BFGS."""
    parts = Parts.of(model)
    for name, likelihood in parts.likelihoods.items():
        fit(likelihood, state["counts"][name].mT, l1=l1, l2=l2, steps=steps, check=False)
    share = next(iter(state["counts"].values())).sum(0)
    parts.prior.set(share / share.sum())


def _warn(model: Model, counts: Mapping[str, Tensor]) -> None:
    for name, likelihood in Parts.of(model).likelihoods.items():
        warn_of_separation(likelihood.features, counts[name].mT)


def expectation_maximisation(l1: float = 0.0, l2: float = 0.0, steps: int = 10, labels: bool = False) -> UpdatePhase:
    """EM, a round each pass: the E-step enumerates z, the M-step takes some steps of L-BFGS.

    Args:
        l1, l2: penalties of w, in nats a datum.
        steps: of L-BFGS in each M-step.
        labels: whether y, where a row has it, is z.
    """
    warned: list[bool] = []

    def apply(model: Model, state: dict[str, Any]) -> None:
        if not (warned or l1 or l2):
            warned.append(True)
            _warn(model, state["counts"])
        _maximise(l1, l2, steps, model, state)

    return UpdatePhase(_start, partial(_expect, labels), apply)


class Round(NamedTuple):
    """Where a round of EM started from, in nats a datum: mean log p(x), and that less the penalties."""

    log_likelihood: float
    objective: float


@torch.no_grad()
def em(
    model: Model,
    data: Batch,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    steps: int = 10,
    rounds: int = 100,
    tolerance: float = 1e-7,
    labels: bool = False,
) -> list[Round]:
    """Fit a model of classes to all data at once; each round's objective is no lower than the last one's.

    Args:
        data: by name, (N, *event), as `x`; with `weight`, (N,), how often each row was met; with `y`, (N,), labels.
        rounds: at most.
        tolerance: gain of the objective, relative to it, that ends it.
        labels: whether y, where it is >= 0, is z.

    Returns:
        the rounds, the last one being the model as it is now.

    Raises:
        ConfigError: something that the model explains is not among the data; a negative penalty.
        DataError: a value that is not among those enumerated.

    Warns:
        SeparationWarning: without penalties, a weight grows without bound; names its feature.
    """
    _check_penalties(l1, l2)
    parts = Parts.of(model)
    missing = [name for name in parts.likelihoods if name not in data]
    if missing:
        raise ConfigError(f"data: expected {', '.join(parts.likelihoods)}, got no {missing[0]!r}")
    phase = expectation_maximisation(l1, l2, steps, labels)
    rows = len(next(iter(data.values())))
    n = float(data["weight"].double().sum()) if "weight" in data else rows
    history: list[Round] = []
    while True:
        state = phase.start(model)
        for block in torch.arange(rows).split(BLOCK):
            batch = {name: value[block[0] : block[-1] + 1] for name, value in data.items()}
            state = phase.accumulate(model, state, batch)
        likelihood = float(state["log_likelihood"]) / n
        paid = sum(float(penalty(p.weight.double(), l1, l2)) for p in parts.likelihoods.values())
        history.append(Round(likelihood, likelihood - paid))
        gain = history[-1].objective - history[-2].objective if len(history) > 1 else torch.inf
        if len(history) > rounds or gain < tolerance * max(1.0, abs(history[-1].objective)):
            return history
        phase.apply(model, state)


# As objectives


def _observed(labels: bool, model: Model, batch: Batch) -> dict[str, Tensor | Observed]:
    """A batch as the walk takes it: where labels are z, those that there are."""
    if not (labels and "y" in batch):
        return dict(batch)
    parts, y = Parts.of(model), batch["y"]
    z = one_hot(y.clamp_min(0), len(parts.prior.logits)).to(parts.prior.logits)
    return {**batch, parts.z: Observed(z, y >= 0)}


def log_linear(how: str = "em", l1: float = 0.0, l2: float = 0.0, steps: int = 10, labels: bool = False) -> Objective:
    """Maximum likelihood of a model of classes, less penalties: "em", or "gradient" ascent of log p(x)."""

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        total = weighted_mean(model.evidence(_observed(labels, model, batch)).elbo(), batch)
        paid = sum(penalty(p.weight, l1, l2) for p in Parts.of(model).likelihoods.values())
        return Terms(paid - total, {"log_likelihood": total.detach()})

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"log_likelihood": model.evidence(_observed(labels, model, batch)).elbo()}

    phase = GradientPhase(loss) if how == "gradient" else expectation_maximisation(l1, l2, steps, labels)
    words = "maximum likelihood, " + ("gradient ascent" if how == "gradient" else "EM")
    return Objective((Stage((phase,), None, "log_likelihood"),), validate, words)
