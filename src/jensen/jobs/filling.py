"""Fill in what is missing of a datum, given the rest, in the way that its model allows.

By p(missing | observed) itself where a density has all its conditionals (`conditioning`); elements drawn one after
another where a density is autoregressive (`completing`); by the weights of what q infers where something is
hidden (`weighing`); else from the joint density itself, by importance resampling or chains (`held`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from jensen.core import ESTIMATE, LOWER_BOUND, frozen
from jensen.errors import CapabilityError
from jensen.jobs.completing import complete, sequential
from jensen.jobs.conditioning import answers, condition
from jensen.jobs.filled import Effort, Filled
from jensen.jobs.held import LEAST, Holding, Target
from jensen.jobs.precision import as_in
from jensen.jobs.run import Run
from jensen.jobs.weighing import hides, weigh

METHODS = ("auto", "importance", "mcmc")
FEW = 16  # missing numbers of a datum up to which auto tries importance resampling


def fill(
    run: Run,
    x: Tensor,
    missing: Tensor,
    context: Mapping[str, Tensor],
    draws: int = 1,
    method: str = "auto",
    effort: Effort | None = None,
    listener: Callable[[float], None] | None = None,
) -> Filled:
    """Draw what is missing of data, each datum by itself.

    Args:
        x: prepared, (N, *event); what stands where something is missing does not matter.
        missing: (N, *event), True where missing.
        context: conditions of the model, by name, (N, ...).
        draws: M, of each datum.
        method: one of `METHODS`; auto takes importance resampling for few missing numbers, and chains elsewhere
            and where the weights rest on few particles; of a continuous flow, whose density is dear, the former alone.
        listener: told of the share done, in [0, 1].

    Raises:
        CapabilityError: the model gives no density of the data to work with.
    """
    effort = effort or Effort.usual(run)
    if answers(run.model) or sequential(run):
        if method == "mcmc":
            raise CapabilityError(f"{run.spec['model']}: elements are drawn one after another; use auto")
        return _in_order(run, x, missing, context, draws, effort, listener)
    if run.model.likelihood in (LOWER_BOUND, ESTIMATE) and hides(run.model):
        if method == "mcmc":
            raise CapabilityError(f"{run.spec['model']}: {', '.join(hides(run.model))} is hidden; use importance")
        return _by_weights(run, x, missing, context, draws, effort, listener)
    target = Target.of(run)
    model = target.model
    x, context = as_in(model, {"x": x})["x"].flatten(1), as_in(model, context)
    missing = missing.flatten(1).to(x.device)
    with frozen(model), torch.no_grad():
        some, all_ = missing.any(1), missing.all(1)
        out = Filled.of(x, missing, draws)
        job = Holding(target, x, missing, context, out, effort, listener, int(some.sum()))
        job.direct(torch.nonzero(all_)[:, 0])
        rest = torch.nonzero(some & ~all_)[:, 0]
        few = missing[rest].sum(1) <= FEW
        if target.solved:
            few = torch.ones_like(few)
        if method == "importance" and not target.proposes:
            raise CapabilityError(
                f"{run.spec['model']}: importance resampling is for real numbers, and these are whole; use mcmc"
            )
        if method == "importance" or (method == "auto" and target.proposes):
            tried = rest if method == "importance" else rest[few]
            content = method == "importance" or target.solved
            poor = job.importance(tried, 0 if content else LEAST)
            rest = torch.cat([poor, rest[~few]]).sort().values if method == "auto" else rest[:0]
        job.chains(rest)
    return out


def _in_order(
    run: Run,
    x: Tensor,
    missing: Tensor,
    context: Mapping[str, Tensor],
    draws: int,
    effort: Effort,
    listener: Callable[[float], None] | None,
) -> Filled:
    """Draws of an autoregressive density, element by element."""
    missing = missing.to(x.device)
    out, tell = Filled.of(x, missing.flatten(1), draws), _counting(listener, missing)

    def keep(rows: Tensor, how: str, drawn: Tensor, mean: Tensor, spread: Tensor, size: Tensor) -> None:
        out.keep(rows, how, drawn, mean, spread, size)
        tell(len(rows))

    x = torch.where(missing, torch.zeros((), dtype=x.dtype, device=x.device), x)
    if answers(run.model):
        condition(run.model, as_in(run.model, {"x": x})["x"], missing, as_in(run.model, context), draws, keep)
    else:
        complete(run, x, missing, context, draws, effort.particles, keep)
    return out


@torch.no_grad()
def _by_weights(
    run: Run,
    x: Tensor,
    missing: Tensor,
    context: Mapping[str, Tensor],
    draws: int,
    effort: Effort,
    listener: Callable[[float], None] | None,
) -> Filled:
    """Draws by the weights of what is hidden."""
    missing = missing.to(x.device)
    out, tell = Filled.of(x, missing.flatten(1), draws), _counting(listener, missing)

    def keep(rows: Tensor, drawn: Tensor, mean: Tensor, spread: Tensor, size: Tensor) -> None:
        out.keep(rows, "importance", drawn.flatten(2), mean.flatten(1), spread.flatten(1), size)
        tell(len(rows))

    weigh(run, x, missing, context, draws, effort.particles, keep)
    return out


def _counting(listener: Callable[[float], None] | None, missing: Tensor) -> Callable[[int], None]:
    """Tells a listener the share of the rows with something missing that are done."""
    rows, done = max(1, int(missing.flatten(1).any(1).sum())), 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if listener is not None:
            listener(done / rows)

    return tell
