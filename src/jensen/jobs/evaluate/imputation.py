"""How well what is missing of a table is filled in: cells are hidden, filled in, and compared with what they held."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jensen.errors import ConfigError, DataError, DataWarning, did_you_mean
from jensen.jobs.candidates import AUTO
from jensen.jobs.choose import choose
from jensen.jobs.columns import Columns, open_table
from jensen.jobs.evaluate.comparison import Evaluation, Metric
from jensen.jobs.evaluate.imputers import BASELINES, Gapped, Imputer, column_means
from jensen.jobs.evaluate.masks import MECHANISMS, mask

PROTOCOLS = ("paper", "leak-free")
HELD_OUT = 0.2  # of the rows, in the leak-free protocol
COMPLETE_ROWS = 20  # at least, for a model that is trained on them alone
METRICS = (
    Metric("mse", "mean squared error of hidden numbers, in standardised units: of the mean about 1", paired=True),
    Metric("rmse", "its square root"),
    Metric("accuracy", "share of hidden categories that are told right", paired=True),
)


def imputation(
    data: Any,
    *,
    model: str | Imputer | None = None,
    settings: Mapping[str, Any] | None = None,
    label: str | None = None,
    drop: Sequence[str] = (),
    kinds: Mapping[str, Any] | None = None,
    missing: Sequence[str] = (),
    protocol: str = "paper",
    rate: float = 0.5,
    mechanism: str = "mcar",
    masks: int = 5,
    seed: int = 0,
    baselines: Sequence[str] = tuple(BASELINES),
    complete_rows: bool = False,
    impute: Mapping[str, Any] | None = None,
    limit: int | None = None,
    listener: Callable[[float], None] | None = None,
) -> Evaluation:
    """Hide cells of a table several times, fill them in by a model and by simple methods, and compare.

    The protocol "paper" is that of Mattei and Frellsen, "MIWAE", 2019, arXiv:1812.02633: numbers are standardised by
    all data before cells are hidden, and the table that a method learns from is the one that it fills in. That lets
    the hidden values into the scale. In "leak-free" a fifth of the rows is held out; methods learn from the observed
    cells of the others, whose mean and deviation are the units of the error, and fill in the rows that were held out.

    Args:
        data: a table, by name, path or as a frame; empty cells stay empty, and are not judged.
        model: a registered model, trained by `jensen.train` on the table with gaps and asked by `run.impute`; or a
            function of (train, filled, seed); None for the baselines alone.
        settings: of the model, of training and of loading data.
        label: a column that is left out; of a registered set its own.
        drop: further columns that are left out.
        kinds: of columns where they are not to be guessed, as `load_data` takes them.
        missing: words that stand for a missing cell.
        protocol: "paper" or "leak-free".
        rate, mechanism: share of cells to hide, and how: "mcar", "mar" or "mnar" (`masks.mask`).
        masks: how many times; of seeds seed, seed + 1, ...
        baselines: which of them.
        complete_rows: train the model on the rows that have no gaps, where it cannot be trained with gaps.
        impute: options of `run.impute`, as particles.
        limit: take so many rows at random.
        listener: told the share done, in [0, 1].

    Raises:
        ConfigError: an option that is none.
        DataError: the data are no table, or nothing in them can be judged.
    """
    _check(protocol, mechanism, rate, masks, baselines, settings, model)
    table = open_table(data, label, drop, kinds, missing)
    name, frame = table.name, table.limited(limit, seed)
    if table.label is not None:
        frame = frame.drop(columns=[table.label])
    if frame.shape[1] == 0 or frame.isna().all(axis=None):
        raise DataError(f"{name}: expected cells to hide, got none")
    columns = Columns.of(frame, {c: kind for c, kind in table.told.items() if c in frame.columns})
    truth = columns.numbers(frame)
    if not (columns.is_category | _varies(truth)).any():
        raise DataError(f"{name}: expected a column that varies, or is one of words, got none")
    methods: dict[str, Imputer] = {b: BASELINES[b] for b in baselines}
    ours = None
    if model is not None:
        ours = model if isinstance(model, str) else "method"
        methods = (
            {ours: by_model(model, settings or {}, complete_rows, impute or {}), **methods}
            if isinstance(model, str)
            else {ours: model, **methods}
        )
    values: dict[str, dict[str, list[float]]] = {m: {} for m in methods}
    seconds: dict[str, list[float]] = {m: [] for m in methods}
    rates = []
    for turn in range(masks):
        train, filled, hidden, whole = _tables(truth, columns, protocol, mechanism, rate, seed + turn)
        rates.append(float(hidden.sum() / (~np.isnan(whole)).sum()))
        for done, (method, function) in enumerate(methods.items()):
            began = time.perf_counter()
            found = function(train, filled, seed + turn)
            seconds[method].append(time.perf_counter() - began)
            for metric, value in errors(found, whole, hidden, columns.is_category).items():
                values[method].setdefault(metric, []).append(value)
            if listener is not None:
                listener((turn + (done + 1) / len(methods)) / masks)
    about = {
        "data": name,
        "rows": len(truth),
        "columns": len(columns),
        "categories": int(columns.is_category.sum()),
        "empty_cells": int(np.isnan(truth).sum()),
        "protocol": protocol,
        "mechanism": mechanism,
        "rate": rate,
        "hidden_share": float(np.mean(rates)),
        "masks": masks,
        "seeds": [seed + turn for turn in range(masks)],
        "settings": dict(settings or {}),
        "complete_rows": complete_rows,
    }
    how = {"mcar": "completely at random", "mar": "at random", "mnar": "not at random"}[mechanism]
    numbers = [f"{len(truth):,} rows", f"{len(columns):,} columns, {about['categories']:,} of them categories"]
    title = (
        f"filling in {name}: {', '.join(numbers)}; {rate:.0%} of the cells hidden {how}, "
        f"protocol {protocol!r}, seeds {seed} to {seed + masks - 1}"
    )
    return Evaluation("imputation", title, about, METRICS, values, ours, seconds, "masks")


def errors(found: np.ndarray, truth: np.ndarray, hidden: np.ndarray, is_category: np.ndarray) -> dict[str, float]:
    """Errors of hidden cells: of numbers mse and rmse, of categories accuracy; without what was not hidden, and without
    numbers that are the same in all rows, which anything fills in.

    Args:
        found, truth: (N, D), standardised numbers and positions of categories.
        hidden: (N, D), True where a cell is judged.
        is_category: (D,).

    Raises:
        DataError: a hidden cell was left empty.
    """
    if np.isnan(found[hidden]).any():
        row, column = np.argwhere(hidden & np.isnan(found))[0]
        raise DataError(f"a method left cells empty: {int(np.isnan(found[hidden]).sum())}, first row {row + 1}, "
                        f"column {column + 1}")  # fmt: skip
    numbers, categories = hidden & ~is_category & _varies(truth), hidden & is_category
    result = {}
    if numbers.any():
        result["mse"] = float(np.square(found[numbers] - truth[numbers]).mean())
        result["rmse"] = result["mse"] ** 0.5
    if categories.any():
        result["accuracy"] = float((found[categories] == truth[categories]).mean())
    return result


def _varies(x: np.ndarray) -> np.ndarray:
    """Whether a column holds two numbers or more, (D,) of (N, D)."""
    return np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in x.T])


def by_model(name: str, settings: Mapping[str, Any], complete_rows: bool, options: Mapping[str, Any]) -> Imputer:
    """A registered model as a way to fill in: trained on the table with gaps, and asked what they hold."""
    from jensen.jobs.train import train

    def impute(table: Gapped, filled: Gapped, seed: int) -> np.ndarray:
        frame = table.frame()
        if complete_rows:
            frame = frame.dropna()
            if len(frame) < COMPLETE_ROWS:
                raise DataError(
                    f"{len(frame)} rows have no gaps, expected {COMPLETE_ROWS} or more to train {name} on; "
                    "a lower --rate leaves more"
                )
        budget = {"seed": seed, "fractions": (0.9, 0.1, 0.0)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # rows and columns that are empty since cells were hidden
            if name == AUTO:
                run = choose(frame, kinds=table.columns.kinds or None, **{**budget, **settings})
            else:
                run = train(name, frame, settings={**budget, **settings}, kinds=table.columns.kinds or None)
        whole = run.impute(filled.frame(), **{"seed": seed, **options}).completed()
        found = np.where(np.isnan(filled.x), filled.columns.numbers(whole), filled.x)
        return column_means(table, replace(filled, x=found), seed)  # columns of which nothing was learned stay empty

    return impute


def _tables(
    truth: np.ndarray, columns: Columns, protocol: str, mechanism: str, rate: float, seed: int
) -> tuple[Gapped, Gapped, np.ndarray, np.ndarray]:
    """What a method learns from and fills in; which cells of that are judged, and what they hold."""
    hidden = mask(truth, columns.is_category, mechanism, rate, seed)
    if protocol == "paper":
        scaled = columns.standardised(truth)
        x = scaled.scale(truth)
        table = Gapped(np.where(hidden, np.nan, x), scaled.bare)
        return table, table, hidden, x
    order = np.random.default_rng([seed, 1]).permutation(len(truth))
    held = np.sort(order[: max(1, round(HELD_OUT * len(order)))])
    rest = np.sort(order[len(held) :])
    gapped = np.where(hidden, np.nan, truth)
    scaled = columns.standardised(gapped[rest])
    train, filled = (Gapped(scaled.scale(gapped[rows]), scaled) for rows in (rest, held))
    return train, filled, hidden[held], scaled.scale(truth[held])


def _check(
    protocol: str,
    mechanism: str,
    rate: float,
    masks: int,
    baselines: Sequence[str],
    settings: Mapping[str, Any] | None,
    model: Any,
) -> None:
    """Raises `ConfigError` listing all options that are none."""
    problems = []
    if protocol not in PROTOCOLS:
        problems.append(f"--protocol: {protocol!r} is none{did_you_mean(protocol, PROTOCOLS)}")
    if mechanism not in MECHANISMS:
        problems.append(f"--mechanism: {mechanism!r} is none{did_you_mean(mechanism, MECHANISMS)}")
    if not 0 < rate < 1:
        problems.append(f"--rate: expected a share between 0 and 1, got {rate:g}")
    if masks < 1:
        problems.append(f"--masks: expected >= 1, got {masks}")
    problems += [f"--baselines: {b!r} is none{did_you_mean(b, BASELINES)}" for b in baselines if b not in BASELINES]
    if not baselines and model is None:
        problems.append("expected a model or a baseline, got neither")
    if settings and not isinstance(model, str):
        problems.append(f"{', '.join(settings)}: settings of a model, but no --model is named")
    if isinstance(model, str) and model != AUTO:
        from jensen.jobs.train import check

        try:
            check(model, settings or {}, None, {})
        except ConfigError as e:
            problems += e.problems
    if problems:
        raise ConfigError(problems)
