"""How well outliers are told from usual rows that a method has not seen, having learnt from usual rows alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jensen.data import splits
from jensen.errors import ConfigError, DataError, did_you_mean
from jensen.jobs.columns import Columns, open_table
from jensen.jobs.detectors import DETECTORS, Detector
from jensen.jobs.evaluate.comparison import Evaluation, Metric
from jensen.jobs.privacy import coordinates

HELD_OUT = 0.3  # of the rows
OURS = "jensen"  # among the detectors
PARTICLES = 50  # of a bound
METRICS = (
    Metric("auroc", "chance that an outlier scores above a usual row", paired=True),
    Metric(
        "average precision", "mean over outliers of the share of outliers among all that score as high", paired=True
    ),
)


def outliers(
    data: Any,
    *,
    model: str | Callable[[int], Detector] | None = None,
    settings: Mapping[str, Any] | None = None,
    label: str | None = None,
    outlier: Any = None,
    drop: Sequence[str] = (),
    kinds: Mapping[str, Any] | None = None,
    missing: Sequence[str] = (),
    detectors: Sequence[str] | None = None,
    seeds: int = 3,
    seed: int = 0,
    limit: int | None = None,
    listener: Callable[[float], None] | None = None,
) -> Evaluation:
    """Tell outliers from usual rows by a model and by simple detectors.

    Of each seed 70 % of the rows, of outliers and of usual rows alike, are for training, of which the usual ones are
    used; all others are scored. Detectors see numbers standardised by the training rows and categories by indicators.

    Args:
        data: a table with labels, by name, path or as a frame.
        model: a registered model, trained by `jensen.train` on usual rows; its score is −log p(x), or the bound on it;
            or a function of a seed that makes a detector; None for the detector that jensen has as its default.
        settings: of the model, of training and of loading data.
        label: the column that says which rows are outliers; of a registered set its own.
        outlier: its value for them; by default the rarest one.
        drop: columns that are left out.
        kinds: of columns where they are not to be guessed, as `load_data` takes them.
        missing: words that stand for a missing cell.
        detectors: which of `jensen.jobs.detectors` stand beside; by default all simple ones.
        seeds: how many splits; of seeds seed, seed + 1, ...
        limit: take so many rows at random.
        listener: told the share done, in [0, 1].

    Raises:
        ConfigError: an option that is none.
        DataError: the data are no table, or have no outliers and usual rows enough.
    """
    simple = [name for name in DETECTORS if name != OURS]
    _check(model, settings, seeds, simple if detectors is None else detectors)
    table = open_table(data, label, drop, kinds, missing)
    if table.label is None:
        raise ConfigError(f"--label: name the column of {table.name} that says which rows are outliers")
    frame = table.limited(limit, seed)
    strange, value = _strange(frame, table.label, outlier, table.name)
    frame = frame.drop(columns=[table.label])
    if frame.shape[1] == 0:
        raise DataError(f"{table.name}: expected a column besides {table.label!r}, got none")
    columns = Columns.of(frame, {c: kind for c, kind in table.told.items() if c in frame.columns})
    numbers = columns.numbers(frame)
    methods = {name: DETECTORS[name] for name in (simple if detectors is None else detectors)}
    ours = OURS if model is None else model if isinstance(model, str) else "method"
    if not isinstance(model, str):
        methods = {ours: DETECTORS[OURS] if model is None else model, **methods}
    values: dict[str, dict[str, list[float]]] = {m: {} for m in ([ours] if ours not in methods else []) + [*methods]}
    seconds: dict[str, list[float]] = {m: [] for m in values}
    sizes = []
    for turn in range(seeds):
        cut = splits.cut_by_class(strange.astype(int), seed + turn, (1 - HELD_OUT, 0.0, HELD_OUT))
        if "test" not in cut or not 0 < strange[cut["test"]].sum() < len(cut["test"]):
            raise DataError(f"{table.name}: expected more rows, of both kinds: {strange.sum()} are outliers, "
                            f"{(~strange).sum()} usual")  # fmt: skip
        usual, test = cut["train"][~strange[cut["train"]]], cut["test"]
        scaled = columns.standardised(numbers[usual])
        x, tested = (coordinates(scaled, scaled.scale(numbers[rows])) for rows in (usual, test))
        varied = np.ptp(x, axis=0) > 0
        sizes.append((len(usual), int((~strange[test]).sum()), int(strange[test].sum())))
        for done, method in enumerate(values):
            began = time.perf_counter()
            if method in methods:
                score = methods[method](seed + turn).fit(x[:, varied]).score(tested[:, varied])
            else:
                assert isinstance(model, str)
                score = by_model(model, settings or {}, columns, numbers[usual], numbers[test], seed + turn)
            seconds[method].append(time.perf_counter() - began)
            for metric, number in judged(score, strange[test]).items():
                values[method].setdefault(metric, []).append(number)
            if listener is not None:
                listener((turn + (done + 1) / len(values)) / seeds)
    about = {
        "data": table.name,
        "rows": len(frame),
        "columns": len(columns),
        "outliers": int(strange.sum()),
        "outlier": value,
        "label": table.label,
        "held_out": HELD_OUT,
        "trained_on": sizes[0][0],
        "tested_on": list(sizes[0][1:]),
        "seeds": [seed + turn for turn in range(seeds)],
        "settings": dict(settings or {}),
    }
    title = (
        f"outliers of {table.name}: {strange.sum():,} of {len(frame):,} rows ({table.label} = {value}), "
        f"{len(columns):,} columns; trained on {sizes[0][0]:,} usual rows, tested on {sizes[0][1]:,} and "
        f"{sizes[0][2]:,} outliers, seeds {seed} to {seed + seeds - 1}"
    )
    return Evaluation("outliers", title, about, METRICS, values, ours, seconds)


def judged(score: np.ndarray, strange: np.ndarray) -> dict[str, float]:
    """AUROC and average precision of scores (n,), higher = stranger; what is not finite is the strangest."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    finite = score[np.isfinite(score)]
    score = np.nan_to_num(score, nan=np.inf)
    score = np.clip(score, finite.min() - 1, finite.max() + 1) if len(finite) else np.zeros(len(score))
    return {
        "auroc": float(roc_auc_score(strange, score)),
        "average precision": float(average_precision_score(strange, score)),
    }


def by_model(
    name: str, settings: Mapping[str, Any], columns: Columns, usual: np.ndarray, test: np.ndarray, seed: int
) -> np.ndarray:
    """−log p of rows of a test (n, D), or the bound on it, under a registered model trained on usual ones."""
    from jensen.jobs.score import score
    from jensen.jobs.train import train

    budget = {"seed": seed, "fractions": (0.85, 0.15, 0.0)}
    run = train(name, columns.frame(usual), settings={**budget, **settings}, kinds=columns.kinds or None)
    bounded = run.capabilities.likelihood == "lower_bound" and bool(run.model.hidden)
    rows = score(run, columns.frame(test), particles=PARTICLES if bounded else None, seed=seed, keep=False).rows
    assert rows is not None
    return -rows.double().numpy()


def _strange(frame: Any, label: str, outlier: Any, name: str) -> tuple[np.ndarray, Any]:
    """Which rows are outliers, (N,), and the value that says so."""
    words = frame[label].astype(str)
    counts = words.value_counts()
    if len(counts) < 2:
        raise DataError(f"{name}: expected two values of {label!r} or more, got {', '.join(counts.index)}")
    value = str(counts.index[-1] if outlier is None else outlier)
    if value not in counts.index:
        raise ConfigError(f"--outlier: {label!r} of {name} is never {value!r}{did_you_mean(value, counts.index)}")
    return (words == value).to_numpy(), value


def _check(model: Any, settings: Mapping[str, Any] | None, seeds: int, detectors: Sequence[str]) -> None:
    """Raises `ConfigError` listing all options that are none."""
    problems = [] if seeds >= 1 else [f"--seeds: expected >= 1, got {seeds}"]
    problems += [f"--detectors: {d!r} is none{did_you_mean(d, DETECTORS)}" for d in detectors if d not in DETECTORS]
    if isinstance(model, str):
        from jensen.jobs.train import check

        try:
            check(model, settings or {}, None, {})
        except ConfigError as e:
            problems += e.problems
    elif settings:
        problems.append(f"{', '.join(settings)}: settings of a model, but no --model is named")
    if problems:
        raise ConfigError(problems)
