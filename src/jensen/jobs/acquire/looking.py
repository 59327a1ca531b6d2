"""What each column that is not measured is worth, row by row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from jensen.data import Split
from jensen.data.dtypes import in_dtype
from jensen.data.field import Field
from jensen.jobs.acquire.acquisition import Acquisition, Belief, Stopping
from jensen.jobs.acquire.asked import Effort
from jensen.jobs.given import context_of
from jensen.jobs.information import GROUPS, gains, latent_gains, levels
from jensen.jobs.particles import Particles, particles
from jensen.jobs.precision import as_in
from jensen.jobs.run import Run
from jensen.units import LN2

DRAWS = 1000  # by which the spread of a target is told
QUANTILES = (0.05, 0.5, 0.95)
NUMBERS = 1 << 24  # densities in memory at once


def look(
    run: Run,
    part: Split,
    target: int,
    costs: np.ndarray,
    stopping: Stopping,
    effort: Effort,
    listener: Callable[[float], None] | None = None,
) -> Acquisition:
    """Gains of rows as they are now."""
    schema = run.schema
    seen = ~np.isnan(part.x)
    seen[:, target] = False
    size = rows_at_once(effort.k, effort.points)
    value, stderr = (np.full(part.x.shape, np.nan) for _ in range(2))
    beliefs, sizes = [], []
    for start in range(0, len(part), size):
        block = slice(start, start + size)
        some = part.rows(np.arange(len(part))[block])
        x, mask, context = prepared(run, some, seen[block])
        found = particles(run.model, x, mask, context, effort.k)
        candidate = ~seen[block] & np.isfinite(costs) & ~schema.constant
        candidate[:, target] = False
        wanted = [int(d) for d in np.flatnonzero(candidate.any(0))]
        if effort.method == "latent":
            told = latent_gains(run.model, found, x, mask, context, target, wanted, effort.points)
        else:
            told = gains(found, schema.fields, target, wanted, effort.points)
        for out, numbers in zip((value, stderr), told, strict=True):
            out[block] = np.where(candidate, numbers.double().cpu().numpy() / LN2, np.nan)
        beliefs += beliefs_of(run, found, target)
        sizes.append(found.effective_sample_size.double().cpu().numpy())
        if listener is not None:
            listener(min(1.0, (start + size) / len(part)))
    return Acquisition(
        schema.names[target], schema.names, value, stderr, costs, beliefs, np.concatenate(sizes), part.index, stopping,
        effort.method,
    )  # fmt: skip


def rows_at_once(k: int, points: int) -> int:
    """Rows whose particles, points and pairs of these fit into memory."""
    return max(1, NUMBERS // (3 * k * points + 4 * GROUPS * points * points))


def prepared(run: Run, part: Split, seen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Rows as the model takes them, with what was seen of them (n, D), and what is given of each."""
    x = run.schema.prepare(np.where(seen, part.x, np.nan)).nan_to_num_().to(run.device)
    context = context_of(run, part.y, part.c)
    context = {name: value for name, value in context.items() if name in run.model.context}
    taken = as_in(run.model, {"x": x, **context})
    return taken.pop("x"), torch.from_numpy(seen).to(run.device), taken


@torch.no_grad()
def beliefs_of(run: Run, found: Particles, target: int) -> list[Belief]:
    """What is known of the target, of each row."""
    field_, name = run.schema.fields[target], run.schema.names[target]
    if levels(field_) is not None:
        shares = probabilities(found, target, field_)
        return [Belief(name, dict(zip(words_of(field_), row, strict=True))) for row in shares.T.tolist()]
    drawn = found.draw(target, found.drawn_from(DRAWS)).double().cpu().numpy()  # (S, B)
    drawn = drawn * (field_.scale if field_.continuous else 1.0) + (field_.center if field_.continuous else 0.0)
    mean, std, quantiles = drawn.mean(0), drawn.std(0), np.quantile(drawn, QUANTILES, axis=0).T
    return [
        Belief(name, {}, float(m), float(s), tuple(map(float, q)), _dates(field_, q))
        for m, s, q in zip(mean, std, quantiles, strict=True)
    ]


def _dates(field_: Field, values: np.ndarray) -> tuple[str, ...]:
    return tuple(str(value) for value in in_dtype(values, field_)) if field_.kind == "time" else ()


def probabilities(found: Particles, target: int, field_: Field) -> torch.Tensor:
    """Of the levels of a column, (C, B)."""
    count, b = levels(field_) or 0, found.weights.shape[1]
    values = torch.arange(count, device=found.weights.device).to(found.weights).unsqueeze(1).expand(-1, b)
    shares = (found.log_prob(target, values).exp() * found.weights).sum(1)
    return shares / shares.sum(0)


def words_of(field_: Field) -> tuple[str, ...]:
    """The levels of a column, as the user writes them."""
    if field_.categories is not None:
        return field_.categories
    return ("False", "True") if field_.dtype.startswith("bool") else ("0", "1")
