"""Score: log p(x), exact or bounded, in nats, in the units of the user's data.

It is computed in float32. Where densities are exact, or those of invertible maps, it is compared with float64 on some
of the data, and computed anew in float64 where the difference matters; rows that are not finite always are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.core import ESTIMATE, EXACT, Model, Score, mean_and_stderr, seeded
from jensen.data import TensorSplit
from jensen.data.text_tokens import AMOUNTS
from jensen.errors import CapabilityError, ConfigError, JensenError, PrecisionWarning, ResourceError, did_you_mean
from jensen.jobs.code_health import code_bits
from jensen.jobs.job import job
from jensen.jobs.passages import check_context, log_p_in_context
from jensen.jobs.precision import as_in, doubled, log_densities, precision
from jensen.jobs.run import Run
from jensen.objectives import refinement
from jensen.objectives.estimators import ESTIMATORS, WALKED, Estimate, meets_no_datum, rows_within

DEFAULT_PARTICLES = {"exact": 1, "elbo": 1, "iw": 500, "prior": 5000, "ais": 16, "trace": 10}
REFINABLE = ("elbo", "iw")  # estimators that draw from q
BATCH = 500
CALLS, MOST = 100, 8192  # of many data, about so many calls of the listener, of at most so many draws
COMPARED, EXTREMES = 64, 32  # rows at random, and at each end of the scores, on which float32 is checked
ERROR_NATS = 0.01  # of a row in float32, on average, that matters
BIAS_SHARE, BIAS_NATS = 0.01, 1e-4  # a bias that matters: of the score's standard error, and no less than that


@job("score", needs="likelihood")
def score(
    run: Run,
    data: Any = None,
    *,
    split: str | None = None,
    estimator: str = "auto",
    particles: int | None = None,
    refine: int = 0,
    limit: int | None = None,
    seed: int = 0,
    memory: float = 1024.0,
    common_draws: bool = False,
    context: int = 0,
    keep: bool = True,
    listener: Any = None,
) -> Score:
    """Log-likelihood of data under a trained model.

    Args:
        data: what to score; None for the run's own data.
        split: which part; by default the test part.
        estimator: "exact", "elbo", "iw", "prior", "ais", "trace", or "auto": exact where the model is, trace where a
            flow's trace is estimated, elbo where q draws only noise, which makes whole numbers continuous or is that of
            a diffusion, as the literature does, else iw.
        particles: draws a datum (chains for "ais", probes for "trace"); default 500 for iw, 5,000 for prior, 16 for
            ais, 10 for trace, 1 for elbo.
        refine: seek the best q of its family for each datum, from the encoder's, in at most so many steps; the bound is
            then tighter, and its estimator is named "refined elbo" or "refined iw" (`objectives.refinement`).
        limit: score a random subset of so many.
        seed: of draws and subset.
        memory: megabytes that a walk may take; particles are walked in blocks to keep within it.
        common_draws: walk each datum alone, all by the same random numbers. A datum's score then depends on no other,
            at a millisecond a datum or more; errors of the estimator no longer average out over data, as `stderr_mc`
            supposes.
        context: of windows of a text, how many tokens before it each token is given at least, from the window before
            too (`jobs.passages`); 0 scores each window on its own.
        keep: add the score to the run folder's scores.json.
        listener: called with the share done, in [0, 1].

    Raises:
        CapabilityError: the model has no likelihood, or the estimator or a context does not apply to it.
        ConfigError: an unknown estimator, fewer than one particle, q refined for an estimator that does without it, or
            a context as long as a window.
        ResourceError: memory ran out.

    Warns:
        DataWarning: the data are the file that was trained on, not a part that was held out.
        PrecisionWarning: float32 lost digits that matter, and float64 took its place.
    """
    likelihood = run.capabilities.likelihood
    if estimator == "auto":
        only_noise = bool(run.model.hidden) and all(map(run.model.is_noise, run.model.hidden))
        only_noise &= not run.model.completes
        auto = {EXACT: "exact", ESTIMATE: "trace"}
        estimator = auto.get(likelihood or "", "elbo" if only_noise or not run.model.hidden else "iw")
    if estimator not in ESTIMATORS:
        raise ConfigError(f"--estimator: {estimator!r} is not an estimator{did_you_mean(estimator, ESTIMATORS)}")
    if (estimator == "trace") != (likelihood == ESTIMATE):
        which = "estimated" if likelihood == ESTIMATE else "not estimated"
        other = "trace" if likelihood == ESTIMATE else "auto"
        raise CapabilityError(f"the trace of {run.spec['model']} is {which}; use --estimator {other}")
    if estimator == "exact" and likelihood != EXACT:
        raise CapabilityError(f"{run.spec['model']} has no exact likelihood, only a lower bound; use --estimator iw")
    codes, without = run.model.codes, ("exact", "trace", *(("elbo", "prior") if run.model.codes else ()))
    if estimator not in without and not run.model.hidden:
        why = f"has only codes, which are functions of the data: use {'elbo' if codes else 'exact'}"
        why = why if codes else "has none: use exact"
        raise CapabilityError(f"{estimator} averages over hidden variables; {run.spec['model']} {why}")
    if estimator in ("prior", "ais") and (reason := meets_no_datum(run.model, estimator)):
        raise CapabilityError(reason)  # in small toys noise is met, in data never
    k = particles if particles is not None else DEFAULT_PARTICLES[estimator]
    if k < 1:
        raise ConfigError(f"--particles: expected >= 1, got {k}")
    k = 1 if estimator == "exact" or (estimator == "elbo" and not run.model.hidden) else k
    if refine < 0 or (refine and estimator not in REFINABLE):
        told = "expected >= 0" if refine < 0 else f"it changes q, of which --estimator {estimator} makes no use"
        raise ConfigError(f"--refine: {told}, got {refine}")
    check_context(run, context)
    found, name, part = run.split(data, split)
    run.warn_of_training_rows(data, name)
    chosen = run.pick(part, limit, seed)
    tensors, index = run.tensors(part), torch.from_numpy(chosen)
    weights = None if part.weight is None else torch.from_numpy(part.weight[chosen])

    alone = common_draws and estimator != "exact" and bool(run.model.hidden)

    def walk(model: Model, which: Tensor) -> Estimate:
        if context:
            return _passages(model, tensors, which, context, listener)
        return _estimate(model, tensors, which, estimator, k, refine, seed, memory, alone, run.device, listener)

    estimate, how = _precise(run.model.eval(), walk, tensors, index, estimator, weights, seed, run.device)
    jacobians = run.schema.log_jacobians(part.x[chosen])
    rows, sizes = estimate.rows + torch.as_tensor(jacobians), estimate.effective_sample_size
    nats, stderr = mean_and_stderr(rows, weights)
    share = torch.full_like(rows, 1 / len(rows)) if weights is None else weights / weights.sum()
    kind = EXACT if estimator == "exact" else ESTIMATORS[estimator].kind
    result = Score(
        nats=nats,
        stderr=stderr,
        stderr_mc=float((share.square() * estimate.variance).sum().sqrt()),
        kind=kind,
        estimator=f"refined {estimator}" if refine else estimator,
        particles=k,
        refine=refine,
        quantization="{} levels, {}".format(*run.schema.quantisation) if run.schema.is_sound else None,
        context=context,
        given=run.given,
        n=len(rows),
        dims=run.schema.dims,
        measure=run.measure,
        data=found.name,
        split=name,
        split_sha256=part.sha256,
        binarization=run.schema.binarization,
        subset=None if limit is None or limit >= len(part) else f"{limit} of {len(part)} at random, seed {seed}",
        log_jacobian=float(np.average(np.broadcast_to(jacobians, len(rows)), weights=weights)),
        seen=float(np.average((~np.isnan(part.x[chosen])).sum(1), weights=weights)) if run.schema.gaps else None,
        effective_sample_size=float(sizes.median()) if sizes is not None else None,
        amounts=None if part.amounts is None else dict(zip(AMOUNTS, part.amounts[chosen].sum(0).tolist(), strict=True)),
        unfinished=run.unfinished,
        one_spelling=run.schema.is_text and run.schema.tokens.unit == "bpe",
        rows=rows,
        weights=weights,
        code_bits={name: asdict(bits) for name, bits in code_bits(run.model, tensors, index, weights).items()} or None,
        **how,
    )
    if result.about_precision:
        warnings.warn(result.about_precision, PrecisionWarning, stacklevel=3)
    if keep and run.folder is not None:
        run.folder.add_score(result.to_dict())
    return result


def _passages(model: Model, tensors: TensorSplit, chosen: Tensor, context: int, listener: Any) -> Estimate:
    parts = []
    for index in chosen.split(BATCH):
        parts.append(log_p_in_context(model, tensors, index, context).cpu())
        if listener is not None:
            listener(sum(map(len, parts)) / len(chosen))
    rows = torch.cat(parts)
    return Estimate(rows, torch.zeros_like(rows))


def _precise(
    model: Model,
    walk: Callable[[Model, Tensor], Estimate],
    tensors: TensorSplit,
    index: Tensor,
    estimator: str,
    weights: Tensor | None,
    seed: int,
    device: torch.device,
) -> tuple[Estimate, dict[str, Any]]:
    """The estimate, in float64 where float32 loses digits that matter; and what the score says of that."""
    found = walk(model, index)
    if precision(model) == torch.float64:
        return found, {"precision": "float64"}
    error, double = None, None
    if estimator == "exact" or (estimator != "trace" and any(getattr(f.module, "invertible", False) for f in model.p)):
        double = doubled(model)
        with seeded(seed, device):
            error, matters = _float32_error(model, double, tensors, index, found.rows, weights)
        if matters:
            return walk(double, index), {"precision": "float64", "float32_error": error}
    wrong = ~found.rows.isfinite()
    if wrong.any():
        again = walk(double or doubled(model), index[wrong])
        for name in ("rows", "variance", "effective_sample_size"):
            if getattr(found, name) is not None:
                getattr(found, name)[wrong] = getattr(again, name)
        wrong &= found.rows.isfinite()
    return found, {"float32_error": error, "float64_rows": int(wrong.sum())}


def _float32_error(
    model: Model, double: Model, tensors: TensorSplit, index: Tensor, rows: Tensor, weights: Tensor | None
) -> tuple[float, bool]:
    """Mean |float32 − float64| of log-densities, by rows at random and by the most extreme ones; whether it matters."""
    finite = rows.isfinite().nonzero()[:, 0]
    random = finite[torch.randperm(len(finite))[:COMPARED]].sort().values
    ends = finite[rows[finite].argsort()]
    extreme = torch.cat([ends[:EXTREMES], ends[EXTREMES:][-EXTREMES:]])

    def errors(which: Tensor) -> Tensor:
        batch = tensors.take(index[which].to(tensors.x.device))
        single, exact = log_densities(model, double, batch)
        return (single - exact).cpu().nan_to_num(0.0, 0.0, 0.0)  # what is not finite is computed anew in any case

    if not len(finite):
        return 0.0, False
    typical = errors(random)
    error = max(float(typical.abs().mean()), float(errors(extreme).abs().sum()) / len(rows))
    bias, uncertain = mean_and_stderr(typical)
    _, stderr = mean_and_stderr(rows[finite], None if weights is None else weights[finite])
    return error, error > ERROR_NATS or abs(bias) - 2 * uncertain > max(BIAS_SHARE * stderr, BIAS_NATS)


def _estimate(
    model: Model,
    tensors: TensorSplit,
    chosen: Tensor,
    estimator: str,
    particles: int,
    refined: int,
    seed: int,
    memory: float,
    alone: bool,
    device: torch.device,
    listener: Any,
) -> Estimate:
    estimates = []
    with seeded(seed, device):
        rows = rows_within(model, as_in(model, tensors.take(slice(0, WALKED))), memory)
    batch_size = BATCH if particles <= BATCH else BATCH // 10  # between two calls of the listener
    batch_size = max(batch_size, min(len(chosen) // CALLS, MOST // particles))
    batch_size = 1 if alone else batch_size
    with seeded(seed, device):
        for start in range(0, len(chosen), batch_size):
            if alone:
                torch.manual_seed(seed)
            batch = as_in(model, tensors.take(chosen[start : start + batch_size].to(device)))
            observed = {n: v for n, v in batch.items() if n in ("x", *model.context)}
            try:
                walked = model
                if refined:
                    own, parameters = refinement.refine(model, observed, refined)
                    walked, observed = own.model, {**observed, **parameters}
                estimate = ESTIMATORS[estimator].estimate(walked, observed, particles, rows)
            except JensenError:
                raise
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
                if isinstance(e, RuntimeError) and "DefaultCPUAllocator" not in str(e) and "memory" not in str(e):
                    raise
                raise ResourceError(
                    f"out of memory scoring {batch_size} data with {particles} particles; try fewer particles, "
                    f"or memory={memory / 4:g} from Python"
                ) from None
            estimates.append(estimate)
            if listener is not None:
                listener(min(1.0, (start + batch_size) / len(chosen)))
    sizes = [e.effective_sample_size for e in estimates if e.effective_sample_size is not None]
    return Estimate(
        torch.cat([e.rows for e in estimates]).cpu(),
        torch.cat([e.variance for e in estimates]).cpu(),
        torch.cat(sizes).cpu() if sizes else None,
    )
