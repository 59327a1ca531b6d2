"""Draws of what is missing of a datum where something is hidden: by the weights of what q infers of the rest.

With z_k ~ q(z | x_o) and w̃_k the normalised weights of p(x_o, z_k) / q(z_k | x_o),

    E[x_m | x_o] ≈ Σ_k w̃_k E[x_m | z_k],        and  x_m ~ p(x_m | z_k) with k ~ w̃  is a draw of p(x_m | x_o)

as K grows (Mattei and Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets", 2019,
arXiv:1812.02633). A q that takes a mask sees what is there; any other is shown a guess in place of what is missing,
made better in a few rounds. Either is a proposal, and the weights make good what it gets wrong, if it is not far off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from jensen.core import Evidence, Model, Observed
from jensen.distributions import Elementwise, Names, Record
from jensen.errors import CapabilityError
from jensen.jobs.precision import as_in
from jensen.jobs.run import Run

NUMBERS = 1 << 23  # parameters of densities in memory at once
DRAWS = 64  # of each row, by which spreads and medians are told
ROUNDS, FEW = 3, 32  # of guesses shown to a q that takes no mask, each by so many particles
GUESSES = 256  # samples of the model whose mean is the first guess

Keep = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""Takes rows (B,), draws (M, B, *event), points and spreads (B, *event), and effective sample sizes (B,)."""


def hides(model: Model) -> list[str]:
    """What q draws that represents a datum, or completes it."""
    drawn = [(name, model.q[name].module) for name in model.hidden]
    return [name for name, part in drawn if not model.is_noise(name) or getattr(part, "completes", False)]


def weigh(
    run: Run, x: Tensor, missing: Tensor, context: Mapping[str, Tensor], draws: int, particles: int, keep: Keep
) -> None:
    """Fill in rows of which something is missing.

    Args:
        x, missing: prepared data, and what of it is missing, (N, *event).
        context: conditions of the model, by name, (N, ...).
        draws: M, of each datum.
        particles: K.
        keep: told of each few rows, once they are done.

    Raises:
        CapabilityError: the density of the datum given what is hidden is none of single elements.
    """
    model = run.model
    x, context = as_in(model, {"x": x})["x"], as_in(model, dict(context))
    rows = missing.flatten(1).any(1).nonzero()[:, 0]
    if not len(rows):
        return
    start = usual(model, context)
    size = _rows_at_once(run, x, context, particles)
    for block in rows.split(size):
        hole = missing[block]
        given = {name: value[block] for name, value in context.items()}
        e = propose(model, x[block], hole, given, particles, start)
        point, weights = _points(e, particles)
        drawn = _draws(e, weights, max(draws, DRAWS))
        spread = drawn.std(0)
        point, spread = _by_kind(e.p[model.data], point, spread, drawn, weights)
        keep(block, drawn[:draws], point, spread, 1 / weights.square().sum(0))


def propose(
    model: Model, x: Tensor, hole: Tensor, context: Mapping[str, Tensor], particles: int, start: Tensor | None
) -> Evidence:
    """A walk with particles from q of rows x (B, *event) with holes; a q that takes no mask is shown guesses in them.

    Args:
        start: the first guess, as `usual` gives it.
    """
    shown = x if start is None else torch.where(hole, start, x)
    for _ in range(0 if start is None else ROUNDS):
        point, _ = _points(_walk(model, shown, hole, context, FEW), FEW)
        shown = torch.where(hole, point, shown)
    return _walk(model, shown, hole, context, particles)


def usual(model: Model, context: Mapping[str, Tensor]) -> Tensor | None:
    """The mean of samples of the model, (*event), by which to guess; None where q takes a mask and needs no guess."""
    if model.sees_gaps:
        return None
    few = {name: value[torch.arange(GUESSES) % len(value)] for name, value in context.items()}
    return model.sample(GUESSES, few)[model.data].mean(0)


def _walk(model: Model, x: Tensor, hole: Tensor, context: Mapping[str, Tensor], particles: int) -> Evidence:
    observed: dict[str, Any] = {**context, model.data: Observed(x, ~hole, keep=True)}
    if model.sees_gaps:
        observed["seen"] = ~hole
    try:
        e = model.evidence(observed, particles, paths=False)
        e.log_p[model.data]
    except ValueError as problem:
        raise CapabilityError(f"what is missing cannot be filled in: {problem}") from None
    return e


def _points(e: Evidence, particles: int) -> tuple[Tensor, Tensor]:
    """Weighted means of the densities' means, (B, *event), and the weights, (K, B)."""
    weights = e.log_w.softmax(0)
    dist = e.p["x"]
    if isinstance(dist, Record):
        parts = [_weighted(_numbers(part), weights, particles) for part in dist.parts]
        chosen = [p.argmax(-1).to(p) if isinstance(d, Names) else p for d, p in zip(dist.parts, parts, strict=True)]
        return dist.row(chosen), weights
    return _weighted(dist.mean, weights, particles), weights


def _numbers(part: Elementwise) -> Tensor:
    return part.probs if isinstance(part, Names) else part.mean


def _weighted(values: Tensor, weights: Tensor, particles: int) -> Tensor:
    """Σ_k w_k values_k, of (K·B, ...) or, where the same for all particles, (B, ...) to (B, ...)."""
    k, b = weights.shape
    if values.shape[0] != k * b or particles == 1:
        return values.expand(b, *values.shape[1:])
    values = values.unflatten(0, (k, b))
    return torch.einsum("kb,kb...->b...", weights.to(values), values)


def _draws(e: Evidence, weights: Tensor, draws: int) -> Tensor:
    """Draws of the datum, (M, B, *event), each from the density of a particle chosen by its weight."""
    k, b = weights.shape
    chosen = torch.multinomial(
        weights.T.float().clamp_min(torch.finfo(torch.float32).tiny), draws, replacement=True
    ).T  # (M, B)
    rows = (chosen * b + torch.arange(b, device=chosen.device)).flatten()
    dist: Any = e.p["x"]
    if dist.batch_shape != (k * b,):
        return dist.expand((b,)).sample(torch.Size((draws,)))
    return dist.rows(rows).sample().unflatten(0, (draws, b))


def _by_kind(dist: Any, point: Tensor, spread: Tensor, drawn: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Of ordinals the median; of what is no number, the probability of any other for a spread."""
    if not isinstance(dist, Record):
        return point, spread
    for part, places in zip(dist.parts, dist.places, strict=True):
        if isinstance(part, Names):
            spread[:, places] = 1 - _weighted(part.probs, weights, len(weights)).amax(-1).to(spread)
        elif part.support.is_discrete and hasattr(part, "levels") and part.levels < torch.inf:  # pyright: ignore
            point[:, places] = drawn[..., places].median(0).values
    return point, spread


def _rows_at_once(run: Run, x: Tensor, context: Mapping[str, Tensor], particles: int) -> int:
    """Rows that fit into memory with all their particles."""
    with torch.no_grad():
        one = {name: value[:1] for name, value in context.items()}
        dist = _walk(run.model, x[:1], torch.zeros_like(x[:1], dtype=torch.bool), one, 1).p[run.model.data]
    parts = dist.parts if isinstance(dist, Record) else [dist]
    width = sum(getattr(p, name).numel() for p in parts for name in getattr(p, "parameter_dims", {})) or x[0].numel()
    return max(1, NUMBERS // (particles * max(width, x[0].numel())))
