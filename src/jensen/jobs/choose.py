"""Choose how to fill in a table: of a few settings, those by which hidden cells come back best.

A tenth of the cells that are there are hidden; each candidate learns from the rest and fills them in; those whose mean
fills them in best are trained anew on the table as it is, each with several seeds, and fill in together. So the choice
hangs on cells that are known, and on nothing else. In a large table a trial takes a part of the time that the last
trainings have; a small one is learned by heart sooner or later, and so a trial is as long.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from jensen.data import Dataset, Schema, Split, load_data
from jensen.data.columns import fitted
from jensen.data.field import CONTINUOUS
from jensen.errors import ConfigError, DataError, DataWarning, FitWarning
from jensen.jobs.averaging import averaged
from jensen.jobs.imputation import Imputation
from jensen.jobs.run import Run
from jensen.jobs.train import check, train
from jensen.registry import build
from jensen.training.folder import Folder
from jensen.training.settings import ignored

AUTO = "auto"  # in place of a model: one whose settings are chosen so
BATCH = 64
STEPS = 6000  # of training
TRIAL, LARGE = 0.4, 5000  # the share of them that a candidate is tried with where there are so many rows
HIDDEN, FEWEST = 0.1, 20  # share of the cells that are hidden to judge by, and at least so many
PARTICLES, FEWEST_PARTICLES, WALKS = 1000, 100, 2_000_000  # of a trial, and at least; of all its rows together
SEEDS = 2  # of each one that is chosen
KINDS = 2  # of candidates that are taken, as minutes are shared out


@dataclass(frozen=True)
class Candidate:
    """A model by name, and its settings.

    Attributes:
        steps: the share of the steps, or minutes, of a training that it takes.
        seeds: how many times as many of it are trained, and how many are tried together.
        widest: the most columns of a table for which it is tried.
    """

    model: str
    settings: Mapping[str, Any]
    steps: float = 1.0
    seeds: int = 1
    widest: float = math.inf


MIWAE: dict[str, Any] = {
    "objective": "iw",
    "objective.particles": 20,
    "encoder.activation": "tanh",
    "decoder.activation": "tanh",
}
EVEN: dict[str, Any] = {**MIWAE, "likelihood": "gaussian", "likelihood.variance": "learned"}
DEEP: dict[str, Any] = {"latents": 10, "encoder.hidden": [128] * 3, "decoder.hidden": [128] * 3}
NORMALS: dict[str, Any] = {"prior_data": "auto", "starts": 1}
CANDIDATES: dict[str, Candidate] = {
    "wide": Candidate("vae", {**EVEN, "latents": 32, "encoder.hidden": [400], "decoder.hidden": [400]}),
    "deep": Candidate("vae", {**EVEN, **DEEP}),
    "tails": Candidate("vae", {**MIWAE, **DEEP, "likelihood": "student-t"}, steps=2.0, widest=20),
    "orderless": Candidate("nade", {"network.dropout": 0.1}),
    "kernels": Candidate("kernels", {}, steps=0.2, widest=50),
    "mixture": Candidate("mixture", {**NORMALS, "components": 40, "prior_variance": 0.02}, 0.15, seeds=4, widest=20),
    "smooth": Candidate("mixture", {**NORMALS, "components": 10, "prior_variance": 0.2}, 0.15, seeds=4, widest=20),
}
"""VAEs trained by the MIWAE bound, a wide layer for many columns that go together, and several for few that hang
together in a winding way; one variance a column makes the mean of what is missing the aim, and no narrow peaks. The
same with Student-t columns whose scales follow from what is hidden, as Mattei and Frellsen have it, takes longer. All
conditionals by one network, each of which is learned for itself. Of tables of numbers that are not wide also kernels
about rows, for values that come again, and mixtures of normals, narrower or wider, of which several starts are better
than one."""


def choose(
    data: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    candidates: Mapping[str, Candidate] = CANDIDATES,
    settings: Mapping[str, Any] | None = None,
    steps: int = STEPS,
    epochs: int | None = None,
    minutes: float | None = None,
    batch_size: int = BATCH,
    seeds: int = SEEDS,
    seed: int = 0,
    listener: Callable[[str], None] | None = None,
    **options: Any,
) -> Run:
    """Train models that fill in this table well, their settings chosen by what they make of hidden cells.

    Args:
        data: a table with gaps or without, as `load_data` takes it; rows of "train" are learned from.
        out, overwrite: the run folder, as in `jensen.train`.
        candidates: models with their settings by name; where there is one alone, nothing is hidden.
        settings: of the model and of training, in place of what any candidate says of them; those whose model takes no
            such settings are left out.
        steps, epochs, minutes, batch_size: how long to train; steps or epochs of each one that is chosen, or minutes of
            all trainings together.
        seeds: how many are trained of each candidate that is chosen, or so many times as many as it says; all
            candidates that are taken have equal shares in what is filled in.
        seed: of the cells that are hidden, and the first of training.
        listener: told in a line what was found of each candidate, and of each last training that is done.
        options: of loading data.

    Returns:
        The run of the best one of those taken. Its `members` are the others, in folders inside its own; `impute` fills
        in by all. The record says under `chosen` what each candidate's error was, and that of the mean of those that
        were taken: 1 is as bad as the column's mean or most frequent name, 0 is right throughout.

    Raises:
        ConfigError: the data are no table, too few cells are there, there are no candidates, `seeds` is below 1,
            or `out` exists.
        DataError: data that cannot be read.
    """
    if seeds < 1:
        raise ConfigError(f"seeds: expected >= 1, got {seeds}")
    if not candidates:
        raise ConfigError("candidates: expected one or more, got none")
    if out is not None:  # said before the trials
        Folder(out).stands(overwrite, "--overwrite to replace it")
    loaded = data if isinstance(data, Dataset) and not options else load_data(data, **options)
    if loaded.schema.is_array:
        raise ConfigError(f"choose: expected a table, got {loaded.schema.fields[0].kind}")
    if "train" not in loaded.splits:
        raise DataError(f"{loaded.name}: expected a split 'train', got {', '.join(loaded.splits)}")
    rows = len(loaded.split("train"))
    real = any(field.kind in CONTINUOUS for field in loaded.schema.fields)
    candidates = {
        name: replace(own, settings={**(own.settings if real else _of_any_kind(own)), **(settings or {})})
        for name, own in candidates.items()
    }
    seen: list[tuple[str, Mapping[str, Any]]] = []
    for name, own in list(candidates.items()):  # which differ by how real columns are distributed alone
        if (own.model, own.settings) in seen:
            del candidates[name]
        seen.append((own.model, own.settings))
    narrow = {name: own for name, own in candidates.items() if len(loaded.schema.fields) <= own.widest}
    few = {name: own for name, own in narrow.items() if own.settings.get("components", 0) <= rows}
    schema = loaded.schema.with_gaps()
    fitting = {name: fits for name, own in few.items() if (fits := _fitting(own, schema)) is not None}
    candidates = fitting or candidates
    length = Length(rows, steps, epochs, minutes, batch_size)
    errors, taken, total = {}, tuple(candidates), float(KINDS * seeds)
    if len(candidates) > 1:
        total += sum(own.steps * own.seeds for own in candidates.values()) * length.trial
        errors, taken = _tried(loaded, candidates, length, total, seed, listener)
    whole = replace(loaded, schema=schema)
    planned = [(name, k) for name in taken for k in range(seeds * candidates[name].seeds)]
    planned.sort(key=lambda one: one[1])  # the first one of the best candidate comes first
    work = sum(candidates[name].steps for name, _ in planned)
    runs: list[Run] = []
    for name, k in planned:
        one, own = candidates[name], out
        if runs and (folder := runs[0].folder) is not None:
            own = folder.members_path / str(len(runs))
        last = length.of(one.steps, total * work / (KINDS * seeds))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)  # components that no data want hurt no mean of several
            run = train(one.model, whole, settings=one.settings, out=own, overwrite=overwrite, seed=seed + k, **last)
        runs.append(run)
        if listener is not None:
            listener(f"trained {name} on all cells: {len(runs)} of {len(planned)} models")
    run = runs[0]
    run.spec["shares"] = [1 / (len(taken) * seeds * candidates[name].seeds) for name, _ in planned]
    run.spec["chosen"] = {"best": taken[0], "errors": errors, "taken": list(taken), "seeds": seeds}
    run.spec["members"] = [str(k) for k in range(1, len(runs))]
    run.members = runs[1:]
    if run.folder is not None:
        run.folder.write_spec(run.spec)
    return run


def _of_any_kind(candidate: Candidate) -> dict[str, Any]:
    """Settings without those that say how real columns are distributed."""
    return {key: value for key, value in candidate.settings.items() if key.partition(".")[0] != "likelihood"}


def _fitting(candidate: Candidate, schema: Schema) -> Candidate | None:
    """The candidate without settings of training that change nothing for its model; None where the model has not its
    settings, or is none of such a table.
    """
    try:
        model = build(candidate.model, schema, check(candidate.model, candidate.settings, None, {})[0])
    except ConfigError:
        return None
    without = ignored(model)
    heeded = {k: v for k, v in candidate.settings.items() if k.removeprefix("train.") not in without}
    if isinstance(nested := heeded.get("train"), Mapping):
        heeded["train"] = {k: v for k, v in nested.items() if k not in without}
    return replace(candidate, settings=heeded)


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


def _tried(
    loaded: Dataset,
    candidates: Mapping[str, Candidate],
    length: Length,
    total: float,
    seed: int,
    listener: Callable[[str], None] | None,
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The relative error of each candidate and of the best mean of some, of cells hidden from them; and which these
    are, the best one first.

    Args:
        total: trainings in all, as `Length.of` counts them.

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
    tried = Dataset(loaded.name, known, {**loaded.splits, "train": fewer})
    errors: dict[str, float] = {}
    found: dict[str, Imputation] = {}
    for name, candidate in candidates.items():
        each = []
        for k in range(candidate.seeds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)  # of cells hidden here; the last training says all
                warnings.simplefilter("ignore", FitWarning)
                run = train(
                    candidate.model,
                    tried,
                    settings=candidate.settings,
                    seed=seed + k,
                    **length.of(candidate.steps * length.trial, total),
                )
            particles = max(FEWEST_PARTICLES, min(PARTICLES, WALKS // len(rows)))  # with few, their noise would count
            each.append(run.impute(tried, split="train", particles=particles, seed=seed))
        found[name] = averaged(each)
        errors[name] = relative_error(schema, found[name].mean, rows, hidden)
        if listener is not None:
            share = f"{errors[name]:.3f} of the error of the columns' means"
            listener(f"{name}: {share if math.isfinite(errors[name]) else 'cannot be judged'}")
    errors = {name: error for name, error in errors.items() if math.isfinite(error)}
    if not errors:  # no column varies, and so nothing tells them apart
        return {}, tuple(candidates)[:1]
    ordered = sorted(errors, key=lambda name: errors[name])
    groups = [some for size in range(1, len(ordered) + 1) for some in combinations(ordered, size)]
    together = {
        some: relative_error(schema, averaged([found[name] for name in some]).mean, rows, hidden) for some in groups
    }
    taken = min(groups, key=lambda some: together[some])
    if len(taken) > 1:
        errors[" and ".join(taken)] = together[taken]
        if listener is not None:
            listener(f"the mean of {' and '.join(taken)}: {together[taken]:.3f}")
    return errors, taken


def relative_error(schema: Schema, filled: np.ndarray, rows: Split, hidden: np.ndarray) -> float:
    """Of cells that were hidden, the error over that of the column's mean or most frequent name, averaged over columns.

    Numbers count by their squares, names by the share that is wrong. Columns of one value are left out.
    """
    found = []
    for j, field in enumerate(schema.fields):
        here, truth = hidden[:, j], rows.x[:, j]
        seen = truth[~np.isnan(truth) & ~here]
        if not here.any() or not len(seen) or np.ptp(seen) == 0:
            continue
        if field.kind == "category":
            usual = np.bincount(seen.astype(int)).argmax()
            wrong, base = (filled[here, j] != truth[here]).mean(), (truth[here] != usual).mean()
        else:
            wrong, base = np.square(filled[here, j] - truth[here]).mean(), np.square(truth[here] - seen.mean()).mean()
        if base > 0:
            found.append(wrong / base)
    error = float(np.mean(found)) if found else math.inf
    return math.inf if math.isnan(error) else error
