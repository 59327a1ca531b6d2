"""Columns of a table: what kind each is, and its cells as numbers.

A table of numbers alone is of one kind throughout: binary where all its columns are, else real. As soon as one column
holds words or dates, or its kind is told, the table is mixed, and each column has a kind of its own:

    real       numbers, durations in seconds
    positive   numbers above 0 that spread over orders of magnitude
    bounded    numbers between two bounds (told, or the numbers of a share by name and range)
    count      whole numbers 0, 1, 2, ...
    binary     truth values, or 0 and 1
    category   words
    ordinal    words with an order (told, or an ordered categorical)
    time       dates, times and periods
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jensen.data import tables
from jensen.data.dtypes import dtype_name, layout
from jensen.data.field import EXACT, Field, check_kind, column_kinds, moments
from jensen.data.sources import Source
from jensen.data.told import SIDECAR, Told, checked
from jensen.errors import ConfigError, DataError, did_you_mean

NUMERIC = ("real", "positive", "bounded", "count", "binary")
IDENTIFIER = 50  # different words above which, where most rows have one of their own, a column is no category
SKEWED = 2.0  # skewness above which numbers above 0 are taken as positive, where that of their logarithm is below half
WORD = r"(?i)(?<![a-z])({})(?![a-z])"
PART = re.compile(WORD.format("fraction|share|proportion|percent|percentage|pct|probability|prob") + "|%")
RATIO = re.compile(WORD.format("rate|ratio"))
"""Names of shares: of a whole, which may be told in per cent, and of two numbers, which a rate per minute is, too."""
DAY = 86400.0
IN_ORDER = 3  # words that a hint shows


def infer(frames: Sequence[Any], told: Told, source: Source) -> tuple[Field, ...]:
    """A field for each column of data frames with the same columns; moments are left to `fitted`.

    Raises:
        ConfigError: a kind that is told is none, or lacks what it takes.
        DataError: cells are not what a kind takes, or a column is a name of rows; all columns are named.
    """
    names = list(frames[0].columns)
    for name in told:
        if name not in names:
            raise ConfigError(f"kinds: {source.name} has no column {name!r}{did_you_mean(name, names)}")
    columns = {name: [frame[name] for frame in frames] for name in names}
    asked = checked(told)
    told_kinds = {name: spec["kind"] for name, spec in asked.items()}
    wordlike = _each(lambda name: _wordlike(columns[name], told_kinds.get(name), source), names, source)
    words = dict(zip(names, wordlike, strict=True))
    special = any(words.values()) or any(kind not in ("real", "binary", "count") for kind in told_kinds.values())
    dtypes = [dtype_name(columns[name][0]) for name in names]
    if not special:
        cells = [tables.values(frame, source.name, source.line, gaps=True) for frame in frames]
        kinds = column_kinds(names, dtypes, np.concatenate(cells), told_kinds)
        of_names = [Field(name=n, kind=kind, dtype=d) for n, kind, d in zip(names, kinds, dtypes, strict=True)]
        for x in cells:
            _check(of_names, x, source)
        if len(set(kinds)) == 1 or not {"binary", "count"} & {*told_kinds.values()}:
            common = kinds[0] if len(set(kinds)) == 1 else "real"
            return tuple(field.model_copy(update={"kind": common}) for field in of_names)

    def field(name: str) -> Field:
        return _field(name, columns[name], asked.get(name, {}), words[name], source)

    return tuple(_each(field, names, source))


def encode(frame: Any, fields: Sequence[Field], source: Source, gaps: bool = True) -> np.ndarray:
    """The cells of columns as numbers, float64 (N, D): positions of categories, seconds of times; NaN where empty.

    Args:
        gaps: cells may be empty.

    Raises:
        DataError: a cell is empty, infinite, or not what its column's kind takes; all columns are named.
    """
    import pandas

    names = [field.name for field in fields]
    plain = all(frame[name].dtype.kind in "biuf" for name in names) or all(field.kind == "real" for field in fields)
    if plain and all(field.kind in NUMERIC and not field.duration for field in fields):
        x = tables.values(frame[names], source.name, source.line, gaps)
    else:
        numbers = _each(lambda field: _numbers(frame[field.name], field, source), fields, source)
        columns = pandas.DataFrame(dict(zip(names, numbers, strict=True)), copy=False)
        x = tables.values(columns, source.name, source.line, gaps)
    _check(fields, x, source)
    return x


def _each(make: Callable[[Any], Any], items: Sequence[Any], source: Source) -> list[Any]:
    """What is made of each item; what is wrong with all of them is told together, in one `DataError`."""
    found, problems = [], []
    for item in items:
        try:
            found.append(make(item))
        except DataError as e:
            problems.append(e)
    if problems:
        raise DataError.of(source.name, problems)
    return found


def _check(fields: Sequence[Field], x: np.ndarray, source: Source) -> None:
    """Raises `DataError` naming in each column the first cell that its kind cannot have."""

    def check(j: int) -> None:
        check_kind(fields[j].name, fields[j].kind, x[:, j], (fields[j].low, fields[j].high), source.line)

    _each(check, range(len(fields)), source)


def fitted(fields: Sequence[Field], train: np.ndarray, every: Sequence[np.ndarray]) -> tuple[Field, ...]:
    """The fields with how their columns are standardised, by the cells that are there in the training rows.

    Args:
        train: training rows, (N, D), NaN where empty.
        every: all rows, part by part: whether cells are missing is seen from all.
    """
    found = []
    for j, field in enumerate(fields):
        present = train[:, j][~np.isnan(train[:, j])]
        update: dict[str, Any] = {
            "gaps": any(bool(np.isnan(x[:, j]).any()) for x in every),
            "present": len(present) / max(1, len(train)),
            "constant": len(present) == 0 or bool(np.ptp(present) == 0),
        }
        if field.kind in ("real", "time", "count"):
            update["center"], update["scale"] = moments(present)
        elif field.kind == "positive":
            update["scale"] = float(np.exp(np.log(present).mean())) if len(present) else 1.0
        elif field.kind == "bounded":
            assert field.low is not None and field.high is not None
            update |= {"center": field.low, "scale": field.high - field.low}
        if field.kind == "time" or field.duration:
            steps = (DAY, 1.0)
            update["step"] = next((s for s in steps if len(present) and (present % s == 0).all()), None)
        found.append(field.model_copy(update=update))
    return tuple(found)


def _wordlike(columns: Sequence[Any], told: str | None, source: Source) -> bool:
    """Whether a column holds words or dates. Raises `DataError` where half of the cells are numbers and others not."""
    import pandas

    if told is not None:
        return told not in NUMERIC
    found = False
    for column in columns:
        if isinstance(column.dtype, pandas.CategoricalDtype) or column.dtype.kind == "M":
            found = True
        elif column.dtype.kind not in "biufm":
            present = column.dropna().infer_objects()
            if present.dtype.kind in "biuf" or not len(present):
                continue
            if present.dtype.kind != "M":
                numeric: Any = pandas.to_numeric(present.astype(str), errors="coerce")
                numeric = numeric.notna()
                if numeric.all():
                    continue
                separated = present.astype(str).str.fullmatch(tables.SEPARATED)
                if numeric.mean() >= 0.5 or (numeric | separated).all():
                    tables.values(column.to_frame(), source.name, source.line, gaps=True)  # names the cell
            found = True
    return found


def _field(name: str, columns: Sequence[Any], asked: Mapping[str, Any], wordlike: bool, source: Source) -> Field:
    """The field of one column of a mixed table."""
    import pandas

    dtype = columns[0].dtype
    extra: dict[str, Any] = {"name": name, "dtype": dtype_name(columns[0])}
    kind = asked.get("kind")
    if kind is None and wordlike:
        if isinstance(dtype, pandas.CategoricalDtype):
            kind = "ordinal" if dtype.ordered else "category"
        else:
            kind = "time" if all(_are_times(column) for column in columns) else "category"
    if kind in ("category", "ordinal"):
        categories = _categories(name, columns, asked, source)
        if categories:
            field = Field(kind=kind, categories=categories, **extra)
            for column in columns if "categories" in asked else ():
                _numbers(column, field, source)  # refuses other words
            return field
        kind = "real"  # no word is known of it
    if kind == "time":
        texts = pandas.concat([column.dropna() for column in columns])
        like = layout(texts) if pandas.api.types.infer_dtype(texts) == "string" else None
        return Field(kind=kind, like=like, **extra)
    parts = [tables.values(c.to_frame(), source.name, source.line, gaps=True)[:, 0] for c in columns]
    bounds: tuple[Any, Any] = asked.get("low"), asked.get("high")
    if kind is None:
        cells = np.concatenate(parts)
        present = cells[~np.isnan(cells)]
        kind = _kind_of_numbers(present, dtype)
        bounds = _bounds_of_share(name, present) if kind in ("real", "positive") else bounds
        kind = kind if bounds[0] is None else "bounded"
    if kind == "bounded":
        low, high = bounds
        assert low is not None and high is not None
        extra |= {"low": float(low), "high": float(high)}
    field = Field(kind=kind, **extra)  # pyright: ignore[reportArgumentType]
    for part in parts:
        _check([field], part[:, None], source)
    return field


def _kind_of_numbers(cells: np.ndarray, dtype: Any) -> str:
    """Of a column of a mixed table, by its cells."""
    whole = bool((cells == np.rint(cells)).all())
    if len(cells) and (dtype.kind == "b" or (whole and np.isin(cells, (0, 1)).all())):
        return "binary"
    if len(cells) and whole and cells.min() >= 0 and cells.max() < EXACT:
        return "count"
    if len(cells) > 2 and cells.min() > 0 and _skewness(cells) > SKEWED and abs(_skewness(np.log(cells))) < SKEWED / 2:
        return "positive"
    return "real"


def _bounds_of_share(name: str, cells: np.ndarray) -> tuple[float | None, float | None]:
    """Bounds of a column that is a share by its name and within them: [0, 1], or [0, 100] in per cent.

    >>> _bounds_of_share("click_rate", np.array([0.01, 0.2])), _bounds_of_share("Fat %", np.array([12.5, 40.0]))
    ((0.0, 1.0), (0.0, 100.0))
    >>> _bounds_of_share("heart_rate", np.array([60.5, 80.2]))
    (None, None)
    """
    for high, named in ((1.0, PART.search(name) or RATIO.search(name)), (100.0, PART.search(name))):
        if named and len(cells) and cells.min() >= 0 and cells.max() <= high:
            return 0.0, high
    return None, None


def _skewness(x: np.ndarray) -> float:
    deviation = (x - x.mean()) / (x.std() or 1.0)
    return float((deviation**3).mean())


def _are_times(column: Any) -> bool:
    """Whether all cells are dates, in a dtype of their own or written year first."""
    import pandas

    if column.dtype.kind == "M" or isinstance(column.dtype, pandas.PeriodDtype):
        return True
    present = column.dropna()
    held = pandas.api.types.infer_dtype(present)
    if held != "string":
        return bool(len(present)) and (present.infer_objects().dtype.kind == "M" or held == "date")
    if not present.str.match(r"\d{4}-\d{2}-\d{2}").all():
        return False
    return bool(pandas.to_datetime(present, format="ISO8601", errors="coerce", utc=True).notna().all())


def _categories(name: str, columns: Sequence[Any], asked: Mapping[str, Any], source: Source) -> tuple[str, ...]:
    """The words of a column: those that are told, those of a categorical, or those that occur."""
    import pandas

    if "categories" in asked:
        return tuple(map(str, asked["categories"]))
    dtype = columns[0].dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        return tuple(tables.words(pandas.Series(dtype.categories))[0])
    cells = [cell for column in columns for cell in _words(column, name, source) if cell is not None]
    found = set(cells)
    if "kind" not in asked and len(found) > IDENTIFIER and len(found) > len(cells) / 2:
        dates = sum(re.fullmatch(tables.DAY_FIRST, word) is not None for word in found) > len(found) / 2
        raise DataError(
            f"{source.name}: column {name!r} holds {len(found):,} different words in {len(cells):,} cells, as names of "
            f"rows do{'; dates are read where they are written year first, as 2024-01-31' if dates else ''}; leave it "
            f"out with --drop {shlex.quote(name)}, or keep it with --kind {shlex.quote(f'{name}=category')} (in Python "
            "drop=, kinds=)"
        )
    if asked.get("kind") == "ordinal" and not all(tables.order(word)[0] == 0 for word in found):
        some = sorted(found, key=tables.order)[:IN_ORDER]
        raise ConfigError(
            f"kinds: {name}: ordinal takes its categories in their order, the lowest first: write "
            f"{name}: {{kind: ordinal, categories: [{', '.join(some)}, ...]}} in FILE{SIDECAR} beside FILE, or "
            f"{name}=ordinal,{','.join(some)},... as an option"
        )
    return tuple(sorted(found, key=tables.order))


def _words(column: Any, name: str, source: Source) -> np.ndarray:
    words, real = tables.words(column)
    if real is not None:
        raise DataError(f"{source.name}: column {name!r}: expected categories, got the real number {real}")
    return words


def _numbers(column: Any, field: Field, source: Source) -> np.ndarray:
    """The cells of one column, float64 (N,), NaN where empty."""
    if field.kind == "time":
        return _seconds(column, field, source)
    if field.duration and column.dtype.kind not in "biufm":
        column = _durations(column, field, source)
    if field.kind == "binary" and column.dtype.kind not in "biuf":
        truths = {"true": 1.0, "false": 0.0}
        column = column.map(lambda cell: truths.get(str(cell).strip().lower(), cell))
    if field.categories is None:
        return tables.values(column.to_frame(), source.name, source.line, gaps=True)[:, 0]
    import pandas

    words = _words(column, field.name, source)
    codes = pandas.Index(field.categories).get_indexer(pandas.Index(words, dtype=object)).astype(np.float64)
    empty = np.array([word is None for word in words])
    unknown = (codes < 0) & ~empty
    if unknown.any():
        row = int(unknown.argmax())
        raise DataError(
            f"{source.name}: column {field.name!r}, {source.line(row)}: {words[row]!r} is no category of this "
            f"column{did_you_mean(words[row], field.categories)}",
            "; empty the cell to have it taken as missing",
        )
    codes[empty] = np.nan
    return codes


def _durations(column: Any, field: Field, source: Source) -> Any:
    """Durations that were written as text, as "0 days 02:33:25", as such."""
    import pandas

    try:
        return pandas.to_timedelta(column)
    except (ValueError, TypeError) as e:
        raise DataError(f"{source.name}: column {field.name!r}: expected durations ({e})") from None


def _seconds(column: Any, field: Field, source: Source) -> np.ndarray:
    """Times as seconds since 1970, UTC where they have no zone."""
    import pandas

    present = column.notna().to_numpy()
    if isinstance(column.dtype, pandas.PeriodDtype):
        column = column.dt.to_timestamp()
    try:
        times = pandas.to_datetime(column, utc=True, format=None if column.dtype.kind == "M" else "ISO8601")
    except (ValueError, TypeError) as e:
        reason = str(e).split(". ")[0]
        raise DataError(f"{source.name}: column {field.name!r}: expected dates ({reason})") from None
    out = np.full(len(column), np.nan)
    micro = times[present].dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    out[present] = micro / 1e6
    return out
