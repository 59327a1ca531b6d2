"""Choose how to fill in a table: of a few settings, those by which hidden cells come back best.

A tenth of the cells that are there are hidden; each candidate learns from the rest and fills them in; those whose mean
fills them in best are trained anew on the table as it is, each with several seeds, and fill in together, with shares
by how sure it is that they are among the best. So the choice hangs on cells that are known, and on nothing else. In a
large table a trial takes a part of the time that the last trainings have; a small one is learned by heart sooner or
later, and so a trial is as long.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from jensen.data import Dataset, Schema, load_data
from jensen.errors import ConfigError, DataError, FitWarning
from jensen.hardware import pick_device
from jensen.jobs.candidates import CANDIDATES, Candidate, fit_for
from jensen.jobs.parallel import side_by_side
from jensen.jobs.run import Run
from jensen.jobs.trials import Length, Progress, trained, tried
from jensen.jobs.unfinished import Unfinished, finished, plain, signature
from jensen.training.trainer import Event

BATCH = 64
STEPS = 6000  # of training
SEEDS = 2  # of each one that is chosen
KINDS = 2  # of candidates that are taken, as minutes are shared out


def choose(
    data: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    candidates: Mapping[str, Candidate] = CANDIDATES,
    settings: Mapping[str, Any] | None = None,
    steps: int = STEPS,
    epochs: int | None = None,
    minutes: float | None = None,
    batch_size: int = BATCH,
    seeds: int = SEEDS,
    seed: int = 0,
    workers: int = 1,
    listener: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda _, __: None,
    **options: Any,
) -> Run:
    """Train models that fill in this table well, their settings chosen by what they make of hidden cells.

    Args:
        data: a table with gaps or without, as `load_data` takes it; rows of "train" are learned from, and by
            candidates that ask for it (`train.learn_valid`) those of "valid".
        out, overwrite: the run folder, as in `jensen.train`. What it holds is replaced once the trials are over; these
            stand in a folder beside it, `OUT.trials`, which goes when all is done.
        resume: go on where a choice for `out` stopped, with the same data and arguments. It ends as it would have.
        candidates: models with their settings by name; where there is one alone, nothing is hidden.
        settings: of the model and of training, in place of what any candidate says of them; those whose model takes no
            such settings are left out.
        steps, epochs, minutes, batch_size: how long to train; steps or epochs of each one that is chosen, or minutes of
            all trainings together, one after another.
        seeds: how many are trained of each candidate that is chosen, or so many times as many as it says; they share
            what the candidate has in what is filled in.
        seed: of the cells that are hidden, and the first of training.
        workers: processes of this machine that trainings are shared by, each with one thread; they come to what one
            process comes to, up to rounding. Models that a script registers itself are not known to them. It may change
            where a choice goes on.
        listener: told in a line what was found of each candidate, and of each last training that is done.
        progress: told of each training as it goes, and what it is for; of several side by side only how many are done.
        options: of loading data.

    Returns:
        The run of the best one of those taken. Its `members` are the others, in folders inside its own; `impute` fills
        in by all. The record says under `chosen` what each candidate's error was, and that of the mean of those that
        were taken: 1 is as bad as the column's mean or most frequent name, 0 is right throughout.

    Raises:
        ConfigError: the data are no table, too few cells are there, there are no candidates, `seeds` or `workers` is
            below 1, `out` exists, or what is to go on is not there or is another choice.
        DataError: data that cannot be read.
    """
    low = [f"{name}: expected >= 1, got {n}" for name, n in (("seeds", seeds), ("workers", workers)) if n < 1]
    if low:
        raise ConfigError(low)
    if not candidates:
        raise ConfigError("candidates: expected one or more, got none")
    if resume and (out is None or overwrite):
        raise ConfigError("--resume goes on with what is at --out: expected that, and no --overwrite")
    loaded = data if isinstance(data, Dataset) and not options else load_data(data, **options)
    if loaded.schema.is_array:
        raise ConfigError(f"choose: expected a table, got {loaded.schema.fields[0].kind}")
    if "train" not in loaded.splits:
        raise DataError(f"{loaded.name}: expected a split 'train', got {', '.join(loaded.splits)}")
    schema, rows = loaded.schema.with_gaps(), len(loaded.split("train"))
    candidates = fit_for(schema, rows, candidates, settings or {})
    length = Length(rows, steps, epochs, minutes, batch_size)
    budget = {key: value for key, value in asdict(length).items() if key != "rows"}
    task = plain(
        {
            "data": {**{name: split.sha256 for name, split in loaded.splits.items()}, "columns": _hash(schema)},
            "candidates": [{"name": name, **asdict(own), "widest": None} for name, own in candidates.items()],
            **budget,
            "seeds": seeds,
            "seed": seed,
        }
    )
    if resume and out is not None and (done := finished(out, task)) is not None:
        return done
    notes = Unfinished(out, task, overwrite, resume)
    with notes.held():
        total = float(KINDS * seeds)
        if len(candidates) > 1:
            total += sum(own.steps * own.seeds for own in candidates.values()) * length.trial
            if notes["found"] is None:
                notes.note(found=tried(loaded, candidates, length, total, seed, notes, workers, listener, progress))
        errors, shares = notes["found"] or ({}, {name: 1 / len(candidates) for name in candidates})
        planned = [(name, k) for name in shares for k in range(seeds * candidates[name].seeds)]
        planned.sort(key=lambda one: one[1])  # the first one of the best candidate comes first
        work = sum(candidates[name].steps for name, _ in planned)
        trainings = [
            (name, {"seed": seed + k, **length.of(candidates[name].steps, total * work / (KINDS * seeds))})
            for name, k in planned
        ]
        notes.begin_last()
        runs = _trained_last(replace(loaded, schema=schema), candidates, trainings, notes, workers, listener, progress)
        run, taken = runs[0], list(shares)
        run.spec["shares"] = [shares[name] / (seeds * candidates[name].seeds) for name, _ in planned]
        run.spec["chosen"] = {"best": taken[0], "errors": errors, "taken": taken, "shares": shares, "seeds": seeds}
        run.spec["choice"] = signature(task)
        run.spec["members"] = [str(k) for k in range(1, len(runs))]
        run.members = runs[1:]
        if run.folder is not None:
            run.folder.write_spec(run.spec)
        notes.discard()
    return run


def _trained_last(
    whole: Dataset,
    candidates: Mapping[str, Candidate],
    trainings: Sequence[tuple[str, Mapping[str, Any]]],
    notes: Unfinished,
    workers: int,
    listener: Callable[[str], None],
    progress: Progress,
) -> list[Run]:
    """Runs of candidates by name, with options of training, on the table as it is."""
    tasks: list[Callable[[], Run]] = []
    workers = min(workers, len(trainings))
    for number, (name, options) in enumerate(trainings, 1):
        told = None if workers > 1 else partial(progress, f"{name}, {number} of {len(trainings)} models")
        tasks.append(partial(_trained_on_all, candidates[name], whole, notes.last(number - 1), told, options))
    runs: list[Run] = []
    with closing(side_by_side(tasks, workers, lambda n: progress(f"{n} of {len(tasks)} models", None))) as results:
        for (name, _), run in zip(trainings, results, strict=True):
            runs.append(run)
            if run._data is None:  # it comes from another process
                run._data = whole.merged() if run.spec["data"]["merged"] else whole
                run.model.to(pick_device(run.spec["training"]["device"]))
            listener(f"trained {name} on all cells: {len(runs)} of {len(trainings)} models")
    for run, folder in zip(runs, notes.placed(len(runs)), strict=True):
        run.folder = folder
    return runs


def _trained_on_all(
    candidate: Candidate,
    whole: Dataset,
    out: str | os.PathLike[str] | None,
    listener: Callable[[Event], None] | None,
    options: Mapping[str, Any],
) -> Run:
    """A candidate trained on the table as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # components that no data want hurt no mean of several
        return trained(candidate, whole, out, listener, **options)


def _hash(schema: Schema) -> str:
    return hashlib.sha256(schema.model_dump_json().encode()).hexdigest()
