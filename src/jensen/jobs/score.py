"""Score: log p(x), exact or bounded, in nats, in the units of the user's data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jensen.core import EXACT, Score, mean_and_stderr, seeded
from jensen.errors import CapabilityError, ConfigError, JensenError, ResourceError, did_you_mean
from jensen.jobs.job import job
from jensen.jobs.run import Run
from jensen.objectives.estimators import ESTIMATORS, Estimate, rows_within

DEFAULT_PARTICLES = {"exact": 1, "elbo": 1, "iw": 500, "prior": 5000, "ais": 16}
BATCH = 500


@job("score", needs="likelihood")
def score(
    run: Run,
    data: Any = None,
    *,
    split: str | None = None,
    estimator: str = "auto",
    particles: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    memory: float = 1024.0,
    keep: bool = True,
    listener: Any = None,
) -> Score:
    """Log-likelihood of data under a trained model.

    Args:
        data: what to score; None for the run's own data.
        split: which part; by default the test part.
        estimator: "exact", "elbo", "iw", "prior", "ais", or "auto": exact where the model is, else iw.
        particles: draws a datum (chains for "ais"); default 500 for iw, 5,000 for prior, 16 for ais, 1 for elbo.
        limit: score a random subset of so many.
        seed: of draws and subset.
        memory: megabytes that a walk may take; particles are walked in blocks to keep within it.
        keep: add the score to the run folder's scores.json.
        listener: called with the share done, in [0, 1].

    Raises:
        CapabilityError: the model has no likelihood, or the estimator does not apply to it.
        ConfigError: an unknown estimator, or fewer than one particle.
        ResourceError: memory ran out.
    """
    likelihood = run.capabilities.likelihood
    if estimator == "auto":
        estimator = "exact" if likelihood == EXACT else "iw"
    if estimator not in ESTIMATORS:
        raise ConfigError(f"--estimator: {estimator!r} is not an estimator{did_you_mean(estimator, ESTIMATORS)}")
    if estimator == "exact" and likelihood != EXACT:
        raise CapabilityError(f"{run.spec['model']} has no exact likelihood, only a lower bound; use --estimator iw")
    if estimator != "exact" and not run.model.hidden:
        raise CapabilityError(f"{estimator} averages over hidden variables; {run.spec['model']} has none: use exact")
    k = particles if particles is not None else DEFAULT_PARTICLES[estimator]
    if k < 1:
        raise ConfigError(f"--particles: expected >= 1, got {k}")
    k = 1 if estimator == "exact" else k
    found, name, part = run.split(data, split)
    chosen = run.pick(part, limit, seed)
    estimates = _estimate(run, part, torch.from_numpy(chosen), estimator, k, seed, memory, listener)
    rows = torch.cat([e.rows for e in estimates]) + run.schema.log_jacobian
    variance = torch.cat([e.variance for e in estimates])
    sizes = [e.effective_sample_size for e in estimates if e.effective_sample_size is not None]
    weights = None if part.weight is None else torch.from_numpy(part.weight[chosen])
    nats, stderr = mean_and_stderr(rows, weights)
    share = torch.full_like(rows, 1 / len(rows)) if weights is None else weights / weights.sum()
    kind = EXACT if estimator == "exact" else ESTIMATORS[estimator].kind
    result = Score(
        nats=nats,
        stderr=stderr,
        stderr_mc=float((share.square() * variance).sum().sqrt()),
        kind=kind,
        estimator=estimator,
        particles=k,
        n=len(rows),
        dims=run.schema.dims,
        measure=run.measure,
        data=found.name,
        split=name,
        split_sha256=part.sha256,
        binarization=run.schema.binarization,
        subset=None if limit is None or limit >= len(part) else f"{limit} of {len(part)} at random, seed {seed}",
        log_jacobian=run.schema.log_jacobian,
        effective_sample_size=float(torch.cat(sizes).median()) if sizes else None,
        rows=rows,
        weights=weights,
    )
    if keep and run.folder is not None:
        run.folder.add_score(result.to_dict())
    return result


def _estimate(
    run: Run, part: Any, chosen: Tensor, estimator: str, particles: int, seed: int, memory: float, listener: Any
) -> list[Estimate]:
    tensors = run.tensors(part)
    run.model.eval()
    estimates = []
    rows = rows_within(run.model, tensors.take(slice(0, 1)), memory)
    batch_size = max(1, BATCH if particles <= BATCH else BATCH // 10)  # between two calls of the listener
    with seeded(seed, run.device):
        for start in range(0, len(chosen), batch_size):
            batch = tensors.take(chosen[start : start + batch_size].to(run.device))
            observed = {n: v for n, v in batch.items() if n in ("x", *run.model.context)}
            try:
                estimate = ESTIMATORS[estimator].estimate(run.model, observed, particles, rows)
            except JensenError:
                raise
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
                if isinstance(e, RuntimeError) and "DefaultCPUAllocator" not in str(e) and "memory" not in str(e):
                    raise
                raise ResourceError(
                    f"out of memory scoring {batch_size} data with {particles} particles; try fewer particles, "
                    f"or memory={memory / 4:g} from Python"
                ) from None
            sizes = estimate.effective_sample_size
            estimates.append(
                Estimate(estimate.rows.cpu(), estimate.variance.cpu(), None if sizes is None else sizes.cpu())
            )
            if listener is not None:
                listener(min(1.0, (start + batch_size) / len(chosen)))
    return estimates
