"""Trials of candidates: a tenth of the cells that are there are hidden, and each fills them in.

Which of them fill in best hangs on which cells were hidden, most of all in a small table. So the choice is made many
times, of rows that are weighed at random (the Bayesian bootstrap), and each candidate's share in what is filled in is
that of the choices in which it stood: a choice that a few rows would turn is a mean of both.

Breiman, "Heuristics of instability and stabilization in model selection", Annals of Statistics 24(6), 1996. Rubin, "The
Bayesian bootstrap", Annals of Statistics 9(1), 1981.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from jensen.data import Dataset, Schema, Split
from jensen.data.columns import fitted
from jensen.errors import ConfigError, DataWarning, FitWarning
from jensen.jobs.averaging import averaged
from jensen.jobs.candidates import Candidate
from jensen.jobs.imputation import Imputation
from jensen.jobs.parallel import side_by_side
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.jobs.unfinished import Unfinished
from jensen.training.folder import Folder
from jensen.training.trainer import Event

TRIAL, LARGE = 0.4, 5000  # the share of a training that a candidate is tried with where there are so many rows
HIDDEN, FEWEST = 0.1, 20  # share of the cells that are hidden to judge by, and at least so many
CHOICES, GROUPS = 400, 2000  # how often is chosen, and of how many groups of rows, which are weighed together, at most
SMALL = 0.1  # a share below which a candidate is not worth its training
PARTICLES, FEWEST_PARTICLES, WALKS = 1000, 100, 2_000_000  # of a trial, and at least; of all its rows together

Progress = Callable[[str, Event | None], None]
"""Told of each training, and what it is for; of several side by side only what is done, without an event."""


def enough(rows: Split) -> bool:
    """Whether so many cells are there that some can be hidden to judge by."""
    return int((~np.isnan(rows.x)).sum()) * HIDDEN >= FEWEST


@dataclass(frozen=True)
class Length:
    """How long is trained: so many minutes in all, else so many epochs, else so many steps."""

    rows: int
    steps: int
    epochs: int | None
    minutes: float | None
    batch_size: int

    @property
    def trial(self) -> float:
        """The share of it that a trial takes."""
        return TRIAL if self.rows >= LARGE else 1.0

    def of(self, share: float, total: float) -> dict[str, Any]:
        """Settings of a training that takes a share of the longest, of `total` such in all."""
        if self.minutes is not None:
            return {"minutes": self.minutes * share / total, "batch_size": self.batch_size}
        if self.epochs is not None:
            epochs = max(1, round(self.epochs * share))
        else:
            epochs = max(2, math.ceil(self.steps * share / math.ceil(self.rows / self.batch_size)))
        return {"epochs": epochs, "batch_size": self.batch_size}


def tried(
    loaded: Dataset,
    candidates: Mapping[str, Candidate],
    length: Length,
    total: float,
    seed: int,
    notes: Unfinished,
    workers: int,
    listener: Callable[[str], None],
    progress: Progress,
) -> tuple[dict[str, float], dict[str, float]]:
    """The relative error of each candidate and of the mean of those that are taken, of cells hidden from them; and the
    shares of these in that mean, the greatest first.

    Args:
        total: trainings in all, as `Length.of` counts them.
        notes: where the runs of trials stand, some of them maybe done.
        workers: processes that they are shared by.
        listener: told what was found of each.
        progress: told of each training, and what it is for.

    Raises:
        ConfigError: cells are few.
    """
    schema, rows = loaded.schema.with_gaps(), loaded.split("train")
    there = np.argwhere(~np.isnan(rows.x))
    if not enough(rows):
        raise ConfigError(f"choose: expected {math.ceil(FEWEST / HIDDEN)} cells or more to hide some, got {len(there)}")
    hidden = np.zeros(rows.x.shape, dtype=bool)
    order = np.random.default_rng([seed, 7]).permutation(len(there))[: round(len(there) * HIDDEN)]
    hidden[tuple(there[order].T)] = True
    fewer = replace(rows, x=np.where(hidden, np.nan, rows.x))
    known = schema.model_copy(update={"fields": fitted(schema.fields, fewer.x, [fewer.x])}).with_gaps()
    data = Dataset(loaded.name, known, {**loaded.splits, "train": fewer})
    planned = [(name, k) for name, candidate in candidates.items() for k in range(candidate.seeds)]
    tasks, workers = [], min(workers, len(planned))
    for number, (name, k) in enumerate(planned, 1):
        one = candidates[name]
        options = {"seed": seed + k, **length.of(one.steps * length.trial, total)}
        told = partial(progress, f"trial of {name}") if workers == 1 else None
        tasks.append(partial(_trial, one, data, notes.trial(number), told, seed, options))
    errors: dict[str, float] = {}
    found: dict[str, Imputation] = {}
    filled: dict[str, list[Imputation]] = {name: [] for name in candidates}
    with closing(side_by_side(tasks, workers, lambda n: progress(f"{n} of {len(tasks)} trials", None))) as results:
        for (name, _), one in zip(planned, results, strict=True):
            filled[name].append(one)
            if len(filled[name]) < candidates[name].seeds:
                continue
            found[name] = averaged(filled.pop(name))
            errors[name] = relative_error(schema, found[name].mean, rows, hidden)
            share = f"{errors[name]:.3f} of the error of the columns' means"
            listener(f"{name}: {share if math.isfinite(errors[name]) else 'cannot be judged'}")
    errors = {name: error for name, error in errors.items() if math.isfinite(error)}
    if not errors:  # no column varies, and so nothing tells them apart
        return {}, {next(iter(candidates)): 1.0}
    ordered = sorted(errors, key=lambda name: errors[name])
    groups = [some for size in range(1, len(ordered) + 1) for some in combinations(ordered, size)]
    each = (losses(schema, averaged([found[name] for name in some]).mean, rows, hidden) for some in groups)
    shares = stable_shares(groups, each, seed, rows.weight)
    if len(shares) > 1:
        whole = averaged([found[name] for name in shares], shares=list(shares.values()))
        together = relative_error(schema, whole.mean, rows, hidden)
        errors[" and ".join(shares)] = together
        listener(f"the mean of {', '.join(f'{name} ({share:.0%})' for name, share in shares.items())}: {together:.3f}")
    return errors, shares


def _trial(
    candidate: Candidate,
    data: Dataset,
    out: str | os.PathLike[str] | None,
    listener: Callable[[Event], None] | None,
    seed: int,
    options: Mapping[str, Any],
) -> Imputation:
    """What a candidate fills in of the rows that it learned from.

    Args:
        seed: of filling in.
        options: of training.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # of cells hidden here; the last training says all
        warnings.simplefilter("ignore", FitWarning)
        run = trained(candidate, data, out, listener, **options)
    rows = len(data.split("train"))
    particles = max(FEWEST_PARTICLES, min(PARTICLES, WALKS // rows))  # with few, their noise would count
    return run.impute(data, split="train", particles=particles, seed=seed)


def stable_shares(
    groups: Sequence[Sequence[str]], each: Iterable[np.ndarray], seed: int, weight: np.ndarray | None = None
) -> dict[str, float]:
    """The share of each candidate, the greatest first: of many choices of a group by rows that are weighed at random,
    as a mean over them of its part of the group. Shares below `SMALL` are given to the others.

    Args:
        groups: names of candidates whose mean was looked at.
        each: of each group, the losses of cells (N, D), NaN where none was hidden.
        weight: of the rows themselves, (N,), if not all alike.
    """
    count, sums = np.zeros((0, 0)), []  # over groups of rows and columns, (R, D) of each
    own = 1.0 if weight is None else weight[:, None]
    for x in each:
        among = np.arange(len(x)) * min(GROUPS, len(x)) // len(x)
        starts = np.flatnonzero(np.diff(among, prepend=-1))
        sums.append(np.add.reduceat(np.nan_to_num(x) * own, starts))
        count = np.add.reduceat(~np.isnan(x) * own, starts)
    judged = count.any(0)
    count = count[:, judged]
    weights = np.random.default_rng([seed, 13]).exponential(size=(CHOICES, len(count)))
    errors = np.einsum("srd,cr->csd", np.stack(sums)[:, :, judged], weights, optimize=True)
    errors /= np.maximum(weights @ count, 1e-300)[:, None]
    found: dict[str, float] = {}
    for chosen in map(int, errors.mean(2).argmin(1)):
        for name in groups[chosen]:
            found[name] = found.get(name, 0.0) + 1 / (CHOICES * len(groups[chosen]))
    kept = {name: share for name, share in found.items() if share >= min(SMALL, max(found.values()))}
    total = sum(kept.values())
    return dict(sorted(((name, share / total) for name, share in kept.items()), key=lambda one: -one[1]))


def trained(
    candidate: Candidate,
    data: Dataset,
    out: str | os.PathLike[str] | None,
    listener: Callable[[Event], None] | None,
    **options: Any,
) -> Run:
    """A candidate trained, in memory or in a folder: where it was interrupted there before, it goes on."""
    resume = out is not None and Folder(out).state_path.exists()
    return train(
        candidate.model,
        data,
        out=out,
        settings=candidate.settings,
        resume=resume,
        overwrite=not resume,
        listener=listener,
        **options,
    )


def relative_error(schema: Schema, filled: np.ndarray, rows: Split, hidden: np.ndarray) -> float:
    """Of cells that were hidden, the error over that of the column's mean or most frequent name, averaged over columns.

    Numbers count by their squares, names by the share that is wrong, rows by their weights. Columns of one value are
    left out; infinite where all are, or where a cell was not filled in.
    """
    found, weight = losses(schema, filled, rows, hidden), _weights(rows)
    judged = [j for j in range(found.shape[1]) if weight[hidden[:, j]].any() and not np.isnan(found[:, j]).all()]
    columns = [np.average(found[hidden[:, j], j], weights=weight[hidden[:, j]]) for j in judged]
    error = float(np.mean(columns)) if columns else math.inf
    return math.inf if math.isnan(error) else error


def losses(schema: Schema, filled: np.ndarray, rows: Split, hidden: np.ndarray) -> np.ndarray:
    """Of cells that were hidden, the error of each over the mean one of the column's mean or most frequent name,
    (N, D); NaN elsewhere, and in columns of one value.
    """
    out, weight = np.full(hidden.shape, np.nan), _weights(rows)
    for j, field in enumerate(schema.fields):
        here, truth = hidden[:, j], rows.x[:, j]
        there, own = ~np.isnan(truth) & ~here & (weight > 0), weight[here]
        seen = truth[there]
        if not own.any() or not len(seen) or np.ptp(seen) == 0:
            continue
        if field.kind == "category":
            usual = np.bincount(seen.astype(int), weights=weight[there]).argmax()
            wrong, base = filled[here, j] != truth[here], np.average(truth[here] != usual, weights=own)
        else:
            far = truth[here] - np.average(seen, weights=weight[there])
            wrong, base = np.square(filled[here, j] - truth[here]), np.average(np.square(far), weights=own)
        if base > 0:
            out[here, j] = wrong / base
    return out


def _weights(rows: Split) -> np.ndarray:
    """Of rows, (N,); 1 where none were given."""
    return np.ones(len(rows)) if rows.weight is None else rows.weight
