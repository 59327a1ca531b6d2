"""Choose how to fill in a table: of a few settings, those by which hidden cells come back best.

A tenth of the cells that are there are hidden; each candidate learns from the rest and fills them in. Which of them are
best together is then asked many times, of the hidden cells weighed at random, since chance has picked these: how often
a candidate is among the best is its share in what is filled in. Those with no small share are trained anew on the table
as it is, each with several seeds. So the choice hangs on cells that are known, and on nothing else. In a large table a
trial takes a part of the time that the last trainings have; a small one is learned by heart sooner or later, and so a
trial is as long.

Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models", 2004, bagged so that few cells
do not mislead. Rubin, "The Bayesian bootstrap", 1981.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from jensen.data import Dataset, Schema, Split, load_data
from jensen.data.columns import fitted
from jensen.errors import ConfigError, DataError, DataWarning, FitWarning
from jensen.jobs.averaging import averaged
from jensen.jobs.imputation import Imputation
from jensen.jobs.run import Run
from jensen.jobs.train import check, train
from jensen.registry import build

AUTO = "auto"  # in place of a model: one whose settings are chosen so
BATCH = 64
STEPS = 6000  # of training
TRIAL, LARGE = 0.4, 5000  # the share of them that a candidate is tried with where there are so many rows
HIDDEN, FEWEST = 0.1, 20  # share of the cells that are hidden to judge by, and at least so many
PARTICLES, FEWEST_PARTICLES, WALKS = 1000, 100, 2_000_000  # of a trial, and at least; of all its rows together
SEEDS = 2  # of each one that is chosen
KINDS = 2  # of candidates that are taken, as minutes are shared out
NARROW = 20  # columns, up to which a table is
DRAWS, BLOCKS = 400, 2000  # of weights; and the most that are drawn at once, each of one hidden cell or of several
LEAST_SHARE = 0.12  # of a candidate that is taken


@dataclass(frozen=True)
class Candidate:
    """A model by name, and its settings.

    Attributes:
        steps: the share of the steps, or minutes, of a training that it takes.
        seeds: how many times as many of it are trained, and how many are tried together.
        widest: the most columns of a table for which it is tried.
        varied: settings that are its own in turn, as many are trained.
    """

    model: str
    settings: Mapping[str, Any]
    steps: float = 1.0
    seeds: int = 1
    widest: float = math.inf
    varied: Sequence[Mapping[str, Any]] = ({},)

    def of(self, k: int) -> dict[str, Any]:
        """Settings of the k-th that is trained."""
        return {**self.settings, **self.varied[k % len(self.varied)]}

    def with_settings(self, told: Mapping[str, Any], real: bool) -> Candidate:
        """The same with settings that are told in place of its own.

        Args:
            real: whether there are real columns; where not, its settings say nothing of how they are distributed.
        """
        own = self.settings if real else {k: v for k, v in self.settings.items() if k.partition(".")[0] != "likelihood"}
        varied = [{key: value for key, value in each.items() if key not in told} for each in self.varied]
        return replace(self, settings={**own, **told}, varied=varied)

    @property
    def components(self) -> int:
        """The most that any of them has, if any has some."""
        return max(self.of(k).get("components", 0) for k in range(len(self.varied)))


MIWAE: dict[str, Any] = {
    "objective": "iw",
    "objective.particles": 20,
    "encoder.activation": "tanh",
    "decoder.activation": "tanh",
}
EVEN: dict[str, Any] = {**MIWAE, "likelihood": "gaussian", "likelihood.variance": "learned"}
DEEP: dict[str, Any] = {"latents": 10, "encoder.hidden": [128] * 3, "decoder.hidden": [128] * 3}
NORMALS: dict[str, Any] = {"prior_data": "auto", "starts": 1}
SIZES: list[dict[str, Any]] = [
    {"components": 30, "prior_variance": 0.01, "prior_data": 14.0},
    {"components": 40, "prior_variance": 0.02, "prior_data": 14.0},
    {"components": 20, "prior_variance": 0.005},
]
PRIORS: list[dict[str, Any]] = [{}, {"prior": "mixture", "prior.components": 20}]
CANDIDATES: dict[str, Candidate] = {
    "wide": Candidate("vae", {**EVEN, "latents": 32, "encoder.hidden": [400], "decoder.hidden": [400]}),
    "deep": Candidate("vae", {**EVEN, **DEEP}),
    "tails": Candidate("vae", {**MIWAE, **DEEP, "likelihood": "student-t"}, steps=2.0, widest=NARROW, varied=PRIORS),
    "orderless": Candidate("nade", {"network.dropout": 0.1}),
    "kernels": Candidate("kernels", {}, steps=0.2, widest=50),
    "mixture": Candidate("mixture", NORMALS, 0.15, seeds=8, widest=NARROW, varied=SIZES),
    "smooth": Candidate("mixture", {**NORMALS, "components": 10, "prior_variance": 0.2}, 0.15, seeds=4, widest=NARROW),
}
"""VAEs trained by the MIWAE bound, a wide layer for many columns that go together, and several for few that hang
together in a winding way; one variance a column makes the mean of what is missing the aim, and no narrow peaks. The
same with Student-t columns whose scales follow from what is hidden, as Mattei and Frellsen have it, takes longer. All
conditionals by one network, each of which is learned for itself. Of tables of numbers that are not wide also kernels
about rows, for values that come again, and mixtures of normals, narrower or wider, of which several starts, of several
sizes, are better than one."""


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
        seeds: how many are trained of each candidate that is chosen, or so many times as many as it says.
        seed: of the cells that are hidden, and the first of training.
        listener: told in a line what was found of each candidate.
        options: of loading data.

    Returns:
        The run of the best one of those taken. Its `members` are the others, in folders inside its own; `impute` fills
        in by all. The record says under `chosen` which were taken, with their shares in what is filled in, and what the
        error of each candidate was, and of these together: 1 is as bad as the column's mean or most frequent name, 0 is
        right throughout.

    Raises:
        ConfigError: the data are no table, too few cells are there, or `seeds` is below 1.
        DataError: data that cannot be read.
    """
    if seeds < 1:
        raise ConfigError(f"seeds: expected >= 1, got {seeds}")
    loaded = data if isinstance(data, Dataset) and not options else load_data(data, **options)
    if loaded.schema.is_array:
        raise ConfigError(f"choose: expected a table, got {loaded.schema.fields[0].kind}")
    if "train" not in loaded.splits:
        raise DataError(f"{loaded.name}: expected a split 'train', got {', '.join(loaded.splits)}")
    rows = len(loaded.split("train"))
    real = loaded.schema.kind in ("real", "mixed")
    candidates = {name: own.with_settings(settings or {}, real) for name, own in candidates.items()}
    seen: list[tuple[Any, ...]] = []
    for name, own in list(candidates.items()):  # which differ by how real columns are distributed alone
        what = (own.model, own.settings, own.varied)
        if what in seen:
            del candidates[name]
        seen.append(what)
    columns = len(loaded.schema.fields)
    narrow = {name: own for name, own in candidates.items() if columns <= own.widest}
    few = {name: own for name, own in narrow.items() if own.components <= rows}
    fitting = {name: own for name, own in few.items() if _takes(own, loaded.schema.with_gaps())}
    candidates = fitting or candidates
    length = Length(rows, steps, epochs, minutes, batch_size)
    errors: dict[str, float] = {}
    shares, total = {name: 1 / len(candidates) for name in candidates}, float(KINDS * seeds)
    if len(candidates) > 1:
        total += sum(own.steps * own.seeds for own in candidates.values()) * length.trial
        errors, shares = _tried(loaded, candidates, length, total, seed, listener)
    whole = replace(loaded, schema=loaded.schema.with_gaps())
    planned = [(name, k) for name in shares for k in range(seeds * candidates[name].seeds)]
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
            run = train(one.model, whole, settings=one.of(k), out=own, overwrite=overwrite, seed=seed + k, **last)
        runs.append(run)
    run = runs[0]
    run.spec["shares"] = [shares[name] / (seeds * candidates[name].seeds) for name, _ in planned]
    run.spec["chosen"] = {"best": next(iter(shares)), "errors": errors, "taken": shares, "seeds": seeds}
    run.spec["members"] = [str(k) for k in range(1, len(runs))]
    run.members = runs[1:]
    if run.folder is not None:
        run.folder.write_spec(run.spec)
    return run


def _takes(candidate: Candidate, schema: Schema) -> bool:
    """Whether a candidate's model has its settings, and is one of such a table."""
    try:
        build(candidate.model, schema, check(candidate.model, candidate.of(0), None, {})[0])
    except ConfigError:
        return False
    return True


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
) -> tuple[dict[str, float], dict[str, float]]:
    """The relative error of each candidate and of those that are taken together, of cells hidden from them; and the
    shares of these, the largest first.

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
                # Of cells that were hidden here; the last training says all.
                warnings.simplefilter("ignore", DataWarning)
                warnings.simplefilter("ignore", FitWarning)
                run = train(
                    candidate.model,
                    tried,
                    settings=candidate.of(k),
                    seed=seed + k,
                    **length.of(candidate.steps * length.trial, total),
                )
            particles = max(FEWEST_PARTICLES, min(PARTICLES, WALKS // len(rows)))  # with few, their noise would count
            each.append(run.impute(tried, split="train", particles=particles, seed=seed))
        found[name] = averaged(each)
        errors[name] = relative_error(schema, found[name].mean, rows, hidden)
        if listener is not None:
            listener(f"{name}: {errors[name]:.3f} of the error of the columns' means")
    groups = [some for size in range(1, len(found) + 1) for some in combinations(found, size)]
    losses = np.stack([
        in_blocks(relative_losses(schema, averaged([found[name] for name in some]).mean, rows, hidden))
        for some in groups
    ])  # fmt: skip
    shares = often_best(groups, losses, seed)
    if len(shares) > 1:
        together = averaged([found[name] for name in shares], shares=list(shares.values()))
        told = " and ".join(f"{share:.0%} {name}" for name, share in shares.items())
        errors[told] = relative_error(schema, together.mean, rows, hidden)
        if listener is not None:
            listener(f"{told}: {errors[told]:.3f}")
    return errors, shares


def in_blocks(losses: np.ndarray, blocks: int = BLOCKS) -> np.ndarray:
    """Sums of every so manieth of many losses, which are then weighed together; of few, each alone.

    >>> in_blocks(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), blocks=2)
    array([9., 6.])
    """
    return np.bincount(np.arange(len(losses)) % blocks, weights=losses)


def often_best(groups: Sequence[tuple[str, ...]], losses: np.ndarray, seed: int) -> dict[str, float]:
    """How large a part each name has in the best groups, as cells are weighed at random; the largest first.

    Args:
        groups: of names, (G).
        losses: of each group's mean on each cell, or block of cells, (G, n).
        seed: of the weights.

    Returns:
        Shares that add up to 1, none below a least one.

    >>> often_best([("a",), ("b",), ("a", "b")], np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]), seed=0)
    {'a': 1.0}
    """
    weights = np.random.default_rng([seed, 13]).exponential(size=(DRAWS, losses.shape[1]))
    shares = dict.fromkeys((name for some in groups for name in some), 0.0)
    for best in (weights @ losses.T).argmin(1):
        for name in groups[best]:
            shares[name] += 1 / len(groups[best]) / DRAWS
    least = min(LEAST_SHARE, max(shares.values()))
    taken = {name: share for name, share in shares.items() if share >= least}
    whole = sum(taken.values())
    return {name: taken[name] / whole for name in sorted(taken, key=lambda name: -taken[name])}


def relative_error(schema: Schema, filled: np.ndarray, rows: Split, hidden: np.ndarray) -> float:
    """Of cells that were hidden, the error over that of the column's mean or most frequent name, averaged over columns.

    Numbers count by their squares, names by the share that is wrong. Columns of one value are left out; infinity where
    all are.
    """
    losses = relative_losses(schema, filled, rows, hidden)
    return float(losses.sum()) if len(losses) else math.inf


def relative_losses(schema: Schema, filled: np.ndarray, rows: Split, hidden: np.ndarray) -> np.ndarray:
    """What each cell of columns that count adds to the relative error, (n,)."""
    found = []
    for j, field in enumerate(schema.fields):
        here, truth = hidden[:, j], rows.x[:, j]
        seen = truth[~np.isnan(truth) & ~here]
        if not here.any() or not len(seen) or np.ptp(seen) == 0:
            continue
        if field.kind == "category":
            usual = np.bincount(seen.astype(int)).argmax()
            wrong, base = (filled[here, j] != truth[here]).astype(float), (truth[here] != usual).sum()
        else:
            wrong, base = np.square(filled[here, j] - truth[here]), np.square(truth[here] - seen.mean()).sum()
        if base > 0:
            found.append(wrong / base)
    return np.concatenate(found) / len(found) if found else np.zeros(0)
