"""Variational inference for any density that can be computed up to a constant.

    q* = argmax_q E_q[log p̃(z) − log q(z)] = argmin_q KL(q ‖ p)

Where the target does not live on the whole real line, q lives on R^D and a fixed map carries it there. The gradient is
followed at a falling step size; each stands until a moving window of bounds no longer rises, and what is kept is the
average of the parameters in its last window. Then importance weights say how far q can be trusted, and draws from a
wider density whether q misses mass.

Kucukelbir, Tran, Ranganath, Gelman and Blei, "Automatic differentiation variational inference", 2017, arXiv:1603.00788;
the start: Zhang, Carpenter, Gelman and Vehtari, "Pathfinder", 2022, arXiv:2108.03782; stopping and averaging: Dhaka,
Catalina, Andersen, Magnusson, Huggins and Vehtari, "Robust, accurate stochastic optimization for variational
inference", 2020, arXiv:2009.00666; k̂: see `objectives.pareto`; the wider density: see `objectives.defensive`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from jensen.core import seeded
from jensen.errors import ConfigError, InferenceWarning, did_you_mean
from jensen.jobs.infer.ascent import ascend
from jensen.jobs.infer.asked import as_given, batched, bounds_of, family_of, map_onto, starting_point
from jensen.jobs.infer.beginning import along_axes, does_not_fall_off, first_guess
from jensen.jobs.infer.found import Inference, Progress, open_inference, verdict
from jensen.jobs.infer.judging import judge
from jensen.objectives.variational import Gradient, Target
from jensen.registry import Choice
from jensen.transforms import Composed, Triangular

__all__ = ["Inference", "Progress", "infer", "open_inference", "verdict"]


def infer(
    log_density: Callable[[Tensor], Any],
    dim: int,
    *,
    family: str = "full",
    support: Any = None,
    start: Sequence[float] | Tensor | None = None,
    gradient: Gradient = "auto",
    samples: int = 16,
    draws: int = 20_000,
    window: int = 100,
    max_steps: int = 20_000,
    step_size: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    out: str | Path | None = None,
    target: str = "",
    listener: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Inference:
    """Fit q to a density known up to a constant.

    Args:
        log_density: log p̃(x) in nats, written in torch: of rows (N, D), giving (N,), or of one point (D,), giving ().
        dim: D.
        family: "mean-field", "full", "low-rank", "mixture", or a flow's name, as "iaf" or "spline".
        support: where the target lives: None for R^D; "positive", or (low, high) with None for no end, for all
            dimensions; a list of these, one a dimension; or a mapping from dimensions to these.
        start: a point of the support from which the first guess is sought; by default the origin, or the middle.
        gradient: see `objectives.variational.bound`; "auto" is "sticking-the-landing", and "pathwise" for flows, whose
            density at a given point may be slow.
        samples: S, draws of q a step.
        draws: N, of the fitted q, by which it is judged.
        window: steps in a moving window.
        max_steps: a limit, not a plan: the fit ends where the bound stops rising.
        step_size: at the beginning; by default 0.05, and 0.005 for flows.
        seed: of everything random.
        dtype: of what log_density is given.
        out: a folder to write, see `Inference.save`.
        target: how to call the target in what is written.
        listener: told after every window.
        settings: of the family, as `rank=3`.

    Raises:
        ConfigError: an argument does not exist or does not fit, or log_density does not give a number a row.
        DataError: log_density is NaN or infinite where q has mass, or nothing bounds the scale of q.

    Warns:
        InferenceWarning: each of `Inference.warnings`.

    >>> found = infer(lambda z: -0.5 * ((z - 3) / 2).square().sum(-1), 1, family="mean-field", draws=1000)
    >>> round(float(found.mean), 3), round(float(found.std), 3), round(found.log_evidence, 3)  # log √(2π 4)
    (3.0, 2.0, 1.612)
    """
    component, chosen = family_of(family, settings)
    problems = [
        f"{name}: expected at least {least}, got {value}"
        for name, value, least in (
            ("dim", dim, 1), ("samples", samples, 2), ("draws", draws, 100), ("window", window, 10),
            ("max_steps", max_steps, 1),
        )
        if value < least
    ]  # fmt: skip
    if gradient not in get_args(Gradient):
        problems.append(f"gradient: {gradient!r} is none{did_you_mean(gradient, get_args(Gradient))}")
    if problems:
        raise ConfigError(problems)
    bounds = bounds_of(support, dim)
    onto = map_onto(bounds)
    if gradient == "auto":
        gradient = "pathwise" if component.name == "flow" else "sticking-the-landing"
    if component.name == "flow" and gradient == "measure-valued":
        raise ConfigError("gradient: measure-valued is known for family=mean-field only")
    began = time.perf_counter()
    with seeded(seed):
        like = torch.zeros(dim, dtype=dtype)
        u = starting_point(start, bounds, onto, like)
        needs_slope = gradient in ("pathwise", "sticking-the-landing")
        function = batched(log_density, onto.forward(u[None])[0], dtype, needs_slope)
        loc, tril = first_guess(Target(function, onto), u) if needs_slope else (u, torch.eye(dim, dtype=dtype))
        if component.name not in ("full", "flow"):  # the others are what they are along the axes
            tril = along_axes(tril)
        transform = Composed([Triangular(loc, tril), onto])
        q = Choice(component, chosen)(dim).to(dtype)
        goal = Target(function, transform)
        doubts = does_not_fall_off(Target(function, onto), loc, tril.square().sum(1).sqrt(), bounds)
        size = step_size or (0.005 if component.name == "flow" else 0.05)
        for text in doubts:  # at once, for the fit may fail of it
            warnings.warn(text, InferenceWarning, stacklevel=2)
        told = len(doubts)
        fit = ascend(goal, q, gradient, samples, window, max_steps, size, listener, like)
        found = judge(goal, q.requires_grad_(False), transform, draws, like)
    if not fit.converged:
        doubts.append(
            f"the bound was still rising after {fit.steps:,} steps: what was found is not the best q; raise max_steps"
        )
    doubts += found.pop("doubts")
    result = Inference(
        family=family, settings=as_given(chosen, family, component), dim=dim, support=bounds, gradient=gradient,
        seed=seed, target=target or getattr(log_density, "__name__", "log_density"), converged=fit.converged,
        steps=fit.steps, seconds=time.perf_counter() - began, warnings=doubts, q=q, transform=transform, **found,
    )  # fmt: skip
    if not result.trustworthy:
        result.warnings.append(result.verdict)
    for text in result.warnings[told:]:
        warnings.warn(text, InferenceWarning, stacklevel=2)
    if out is not None:
        result.save(out)
    return result
