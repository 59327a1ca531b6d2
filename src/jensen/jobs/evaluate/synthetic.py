"""How good synthetic rows are: what is learnt from them, how they are distributed, and whether they give rows away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jensen.data import splits
from jensen.errors import ConfigError, DataError
from jensen.jobs.columns import Columns, open_table
from jensen.jobs.evaluate.comparison import Evaluation, Metric
from jensen.jobs.privacy import nearness

if TYPE_CHECKING:
    import pandas

OF_WHOLE = (
    "The given rows were made elsewhere: where their maker saw the whole table, the rows held out here were none to "
    "it, and its numbers flatter it."
)
HELD_OUT = 0.3  # of the rows
TREES, ROWS = 100, 10_000  # of the predictor; rows that it learns from at most
LEVELS = 20  # of a category that correlations take up, the most frequent ones
REAL, INDEPENDENT, GIVEN = "training rows", "independent columns", "given rows"
METRICS = (
    Metric("accuracy", "of a forest that learns the label from these rows, on rows held out", paired=True),
    Metric("auroc", "the same forest's area under the ROC curve, the mean over classes"),
    Metric("r2", "share of the label's variance that a forest explains on rows held out", paired=True),
    Metric(
        "marginals", "Kolmogorov-Smirnov or total-variation distance to rows held out, mean over columns", paired=True
    ),
    Metric("worst", "the largest of these distances"),
    Metric("correlations", "mean absolute difference of correlations between columns from those of rows held out"),
    Metric("near", "share as near to a training row as 5% of the rows held out are"),
    Metric("copies", "share equal to a training row"),
)

Generator = Callable[["pandas.DataFrame", int, int], "pandas.DataFrame"]
"""Learns from rows and makes as many as asked for: (train, n, seed) to a frame with the same columns."""


def synthetic(
    data: Any,
    *,
    model: str | Generator | None = None,
    settings: Mapping[str, Any] | None = None,
    rows: Any = None,
    label: str | None = None,
    drop: Sequence[str] = (),
    kinds: Mapping[str, Any] | None = None,
    missing: Sequence[str] = (),
    seeds: int = 3,
    seed: int = 0,
    limit: int | None = None,
    listener: Callable[[float], None] | None = None,
) -> Evaluation:
    """Judge synthetic rows beside the training rows themselves and beside rows whose columns are drawn one by one.

    Of each seed 70 % of the rows are learnt from, and as many are made; the others are held out. With a label, a random
    forest learns it from the synthetic rows and is judged on the rows held out ("train on synthetic, test on real");
    the training rows show what can be reached, and what two samples of one distribution differ by.

    Esteban, Hyland and Rätsch, "Real-valued (medical) time series generation with recurrent conditional GANs", 2017,
    arXiv:1706.02633.

    Args:
        data: a table, by name, path or as a frame.
        model: a registered model, trained by `jensen.train` on the training rows, of which the label is a column, or,
            with `conditional=true`, the condition; or a function of (train, n, seed); None for baselines and `rows`.
        settings: of the model, of training and of loading data.
        rows: synthetic rows made elsewhere, a table.
        label: the column to be told from the others, a category or a number; of a registered set its own; None for
            none, and without what is learnt.
        drop: columns that are left out.
        kinds: of columns where they are not to be guessed, as `load_data` takes them.
        missing: words that stand for a missing cell.
        seeds: how many splits; of seeds seed, seed + 1, ...
        limit: take so many rows at random.
        listener: told the share done, in [0, 1].

    Raises:
        ConfigError: an option that is none.
        DataError: the data are no table.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds: expected >= 1, got {seeds}")
    if isinstance(model, str):
        from jensen.jobs.train import check

        check(model, settings or {}, None, {})
    elif settings:
        raise ConfigError(f"{', '.join(settings)}: settings of a model, but no --model is named")
    table = open_table(data, label, drop, kinds, missing)
    name, frame, label = table.name, table.limited(limit, seed), table.label
    columns = Columns.of(frame, table.told)
    methods: dict[str, Generator] = {REAL: lambda train, n, seed: train, INDEPENDENT: independent}
    if rows is not None:
        import pandas

        made = open_table(rows).frame
        missing = [column for column in frame.columns if column not in made.columns]
        if missing:
            raise DataError(f"synthetic rows: expected the columns of {name}, without {', '.join(missing)}")
        columns = Columns.of(pandas.concat([frame, made[columns.names]], ignore_index=True), table.told)
        methods = {GIVEN: lambda train, n, seed: made, **methods}
    ours = None
    if model is not None:
        ours = model if isinstance(model, str) else "method"
        own = by_model(model, settings or {}, label, table.told) if isinstance(model, str) else model
        methods = {ours: own, **methods}
    values: dict[str, dict[str, list[float]]] = {m: {} for m in methods}
    seconds: dict[str, list[float]] = {m: [] for m in methods}
    for turn in range(seeds):
        train, held = (frame.iloc[index].reset_index(drop=True) for index in _cut(frame, columns, label, seed + turn))
        for done, (method, generate) in enumerate(methods.items()):
            began = time.perf_counter()
            made = generate(train, len(train), seed + turn)
            seconds[method].append(time.perf_counter() - began)
            for metric, value in judged(made, train, held, columns, label, seed + turn).items():
                values[method].setdefault(metric, []).append(value)
            if listener is not None:
                listener((turn + (done + 1) / len(methods)) / seeds)
    about = {
        "data": name,
        "rows": len(frame),
        "columns": len(columns),
        "categories": int(columns.is_category.sum()),
        "label": label,
        "held_out": HELD_OUT,
        "seeds": [seed + turn for turn in range(seeds)],
        "settings": dict(settings or {}),
    }
    title = (
        f"synthetic rows of {name}: {len(frame):,} rows, {len(columns):,} columns, {about['categories']:,} of them "
        f"categories; {HELD_OUT:.0%} of the rows held out, seeds {seed} to {seed + seeds - 1}"
        + (f", label {label}" if label is not None else "")
    )
    shown = ours or (GIVEN if rows is not None else None)
    notes = (OF_WHOLE,) if rows is not None else ()
    return Evaluation("synthetic", title, about, METRICS, values, shown, seconds, notes=notes)


def independent(train: pandas.DataFrame, n: int, seed: int) -> pandas.DataFrame:
    """Each column drawn by itself from the training rows."""
    rng = np.random.default_rng(seed)
    drawn = {c: train[c].iloc[rng.integers(len(train), size=n)].reset_index(drop=True) for c in train.columns}
    return type(train)(drawn)


def by_model(name: str, settings: Mapping[str, Any], label: str | None, told: Mapping[str, Any]) -> Generator:
    """A registered model as a way to make rows: trained on the training rows, and drawn from."""
    from jensen.jobs.train import train

    def generate(rows: pandas.DataFrame, n: int, seed: int) -> pandas.DataFrame:
        conditional = label is not None and bool(settings.get("conditional"))
        budget = {"seed": seed, "fractions": (0.9, 0.1, 0.0)}
        kinds = {column: kind for column, kind in told.items() if not (conditional and column == label)}
        run = train(name, rows, settings={**budget, **settings}, kinds=kinds or None,
                    label=label if conditional else None)  # fmt: skip
        given = None
        if conditional:
            labels = rows[label].iloc[np.random.default_rng(seed).integers(len(rows), size=n)]
            given = {label: labels.tolist()}
        return run.sample(n, seed=seed, given=given)

    return generate


def judged(
    made: pandas.DataFrame,
    train: pandas.DataFrame,
    held: pandas.DataFrame,
    columns: Columns,
    label: str | None,
    seed: int,
) -> dict[str, float]:
    """All that is measured of synthetic rows."""
    frames: Any = (made[columns.names], train, held)
    x, _, real = (columns.numbers(frame) for frame in frames)
    found: dict[str, float] = {}
    if label is not None:
        found |= learnt(x, real, columns, columns.names.index(label), seed)
    distances = marginals(x, real, columns.is_category)
    found |= {"marginals": float(distances.mean()), "worst": float(distances.max())}
    if len(columns) > 1:
        found["correlations"] = correlations(x, real, columns)
    near = nearness(*frames, seed=seed)
    return {**found, "near": near.near, "copies": near.copies}


def learnt(x: np.ndarray, real: np.ndarray, columns: Columns, label: int, seed: int) -> dict[str, float]:
    """What a forest that learns the label from rows x (n, D) reaches on others: accuracy and auroc, or r2."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.metrics import r2_score, roc_auc_score

    (inputs, y), (tests, truth) = (_told(rows, label, columns) for rows in (x, real))
    some = np.random.default_rng(seed).permutation(len(y))[:ROWS]
    count = int(columns.levels[label])
    if not count:
        if len(y) == 0:
            return {"r2": 0.0}
        forest = RandomForestRegressor(TREES, random_state=seed).fit(inputs[some], y[some])
        return {"r2": float(r2_score(truth, forest.predict(tests)))}
    shares = np.zeros((len(tests), count))
    if len(y):
        classifier = RandomForestClassifier(TREES, random_state=seed).fit(inputs[some], y[some])
        shares[:, classifier.classes_.astype(int)] = classifier.predict_proba(tests)
    areas = [
        float(roc_auc_score(truth == k, shares[:, k])) for k in range(count) if 0 < (truth == k).sum() < len(truth)
    ]
    return {
        "accuracy": float((shares.argmax(1) == truth).mean()),
        **({"auroc": float(np.mean(areas))} if areas else {}),
    }


def marginals(x: np.ndarray, real: np.ndarray, is_category: np.ndarray) -> np.ndarray:
    """Of each column the distance between two samples (n, D) and (N, D), in [0, 1]: largest difference of distribution
    functions of numbers, total variation of categories. Empty cells are one more value, below all others.
    """
    found = []
    for j, category in enumerate(is_category):
        a, b = (np.sort(np.where(np.isnan(v[:, j]), -np.inf, v[:, j])) for v in (x, real))
        at = np.unique(np.concatenate([a, b]))
        below = [np.searchsorted(v, at, side="right") / len(v) for v in (a, b)]
        if category:
            shares = [np.diff(v, prepend=0.0) for v in below]
            found.append(0.5 * np.abs(shares[0] - shares[1]).sum())
        else:
            found.append(np.abs(below[0] - below[1]).max())
    return np.array(found)


def correlations(x: np.ndarray, real: np.ndarray, columns: Columns) -> float:
    """Mean absolute difference of Pearson correlations between numbers, and indicators of categories, of different
    columns; one that is constant correlates with nothing.
    """
    shown, owners = [], []
    for j, category in enumerate(columns.is_category):
        a, b = x[:, j], real[:, j]
        if category:
            seen = b[~np.isnan(b)].astype(int)
            for k in np.argsort(-np.bincount(seen), kind="stable")[:LEVELS] if len(seen) else ():
                shown.append((a == k, b == k))
                owners.append(j)
        else:
            shown.append((_filled(a), _filled(b)))
            owners.append(j)
    apart = np.array(owners)[:, None] < np.array(owners)
    matrices = [_correlation(np.stack([pair[i] for pair in shown], axis=1).astype(np.float64)) for i in (0, 1)]
    return float(np.abs(matrices[0] - matrices[1])[apart].mean()) if apart.any() else 0.0


def _correlation(x: np.ndarray) -> np.ndarray:
    centered = x - x.mean(0)
    scale = np.sqrt(np.square(centered).mean(0))
    centered /= np.where(scale > 0, scale, 1.0)
    return centered.T @ centered / len(x)


def _filled(column: np.ndarray) -> np.ndarray:
    gaps = np.isnan(column)
    return np.where(gaps, column[~gaps].mean() if not gaps.all() else 0.0, column)


def _told(x: np.ndarray, label: int, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels of the rows that have one."""
    rows = x[~np.isnan(x[:, label])]
    inputs = columns.take(np.delete(np.arange(len(columns)), label)).indicators(np.delete(rows, label, axis=1))
    return inputs, rows[:, label]


def _cut(frame: pandas.DataFrame, columns: Columns, label: str | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows held out, every class by the same share where the label is a category."""
    shares = (1 - HELD_OUT, 0.0, HELD_OUT)
    place = None if label is None else columns.names.index(label)
    if place is not None and columns.is_category[place]:
        cut = splits.cut_by_class(np.nan_to_num(columns.numbers(frame)[:, place], nan=-1.0), seed, shares)
        if "test" in cut:
            return cut["train"], cut["test"]
    cut = splits.cut(len(frame), seed, shares)
    if "test" not in cut:
        raise DataError(f"expected three rows or more, got {len(frame)}")
    return cut["train"], cut["test"]
