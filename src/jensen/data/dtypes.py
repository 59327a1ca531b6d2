"""Values of a column back in the user's own dtype."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from jensen.data.field import Field
from jensen.errors import DataError

_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:([T ])(\d{2}:\d{2})(:\d{2})?(?:\.(\d{1,9}))?)?(Z|[+-]\d{2}(?::?\d{2})?)?")
OBJECTS = {"boolean": "boolean", "integer": "Int64", "date": "date", "datetime": "datetime64[us]"}
"""Names of dtypes by what an object column holds, as a gap makes one of truth values; `date` has days and no dtype."""


def dtype_name(column: Any) -> str:
    """The dtype in which values of a column come back."""
    import pandas

    dtype = column.dtype
    if isinstance(dtype, pandas.CategoricalDtype) and dtype.categories.dtype.kind in "biufM":
        return f"category[{dtype.categories.dtype}]"
    held = pandas.api.types.infer_dtype(column, skipna=True) if dtype.kind == "O" else ""
    return OBJECTS.get(held, str(dtype))


def of_pandas(name: str) -> str | None:
    """The dtype to make a column with; None where its values have theirs."""
    return None if name == "date" or name.startswith("category") else name


def as_dtype(column: np.ndarray, field: Field) -> np.ndarray:
    kind = field.dtype.lower()
    if field.duration:
        return _micro(column, field).astype("timedelta64[us]").astype(kind)
    if kind.startswith("bool"):
        return finite(column, field.name) > 0.5
    if "int" in kind:
        limits = np.iinfo(kind.split("[")[0])
        # float(limits.max) of int64 is one too many, so stay just below and round up again.
        top = np.nextafter(float(limits.max), 0)
        return np.rint(np.clip(finite(column, field.name), float(limits.min), top)).astype(limits.dtype)
    return column.astype(kind) if kind in ("float16", "float32") else column


def with_gaps(column: np.ndarray, field: Field) -> Any:
    """`in_dtype`; empty cells stay so, in a dtype that has them."""
    empty = np.isnan(column)
    if not field.gaps or not empty.any() or (field.categories is None and "float" in field.dtype.lower()):
        return in_dtype(column, field)
    import pandas

    known = column[~empty]
    whole = in_dtype(np.where(empty, known[0] if len(known) else 0.0, column), field)
    series: Any = pandas.Series(whole, dtype=of_pandas(field.dtype))
    if series.dtype == bool:
        series = series.astype("boolean")
    elif not isinstance(series.dtype, pandas.api.extensions.ExtensionDtype) and series.dtype.kind in "iu":
        series = series.astype("Int64")
    return series.mask(empty)


def in_dtype(column: np.ndarray, field: Field) -> Any:
    """Values of a column (N,) in the user's units, positions of categories, as values of its own dtype."""
    if field.kind == "time":
        return _times(column, field)
    if field.categories is None:
        return as_dtype(column, field)
    top = len(field.categories) - 1
    codes = np.clip(np.rint(finite(column, field.name)), 0, top).astype(int)
    words, kind = np.array([*field.categories], dtype=object)[codes], field.dtype.lower()
    if kind.startswith("category"):
        import pandas

        categories = pandas.Index(list(field.categories))
        if inner := field.dtype[len("category[") : -1]:
            categories = categories == "True" if inner == "bool" else categories.astype(inner)
        return pandas.Categorical.from_codes(codes, categories=categories, ordered=field.kind == "ordinal")
    if kind.startswith("bool"):
        return words == "True"
    if "int" in kind or "float" in kind:
        return words.astype(np.float64 if "float" in kind else np.int64)
    return words


def _times(seconds: np.ndarray, field: Field) -> Any:
    """Seconds since 1970 (N,) as dates of the column's own dtype; as text, years first."""
    import pandas

    if field.like is not None:
        return _written(finite(seconds, field.name), field.like)
    step = field.step or 1e-6
    times = pandas.Series(_micro(seconds, field).astype("datetime64[us]"))
    if field.dtype.startswith("period["):
        return times.dt.to_period(field.dtype[len("period[") : -1])
    if field.dtype == "date":
        return times.dt.date.to_numpy(dtype=object)
    if not field.dtype.startswith("datetime64"):
        return times.dt.strftime("%Y-%m-%d" if step >= 86400 else "%Y-%m-%dT%H:%M:%S").to_numpy(dtype=object)
    if "," in field.dtype:
        zone = field.dtype.split(",")[1].strip(" ]")
        return times.dt.tz_localize("UTC").dt.tz_convert(zone)
    return times.to_numpy()


def _micro(seconds: np.ndarray, field: Field) -> np.ndarray:
    """Seconds (N,) as whole microseconds, multiples of the column's step."""
    step = field.step or 1e-6
    return np.rint(np.rint(finite(seconds, field.name) / step) * step * 1e6).astype(np.int64)


def layout(cells: Iterable[str]) -> str | None:
    """How dates as text are written: one of them, where all are alike; in UTC where only some are and zones are told,
    so that none is lost; None where nothing tells.

    >>> layout(["2020-01-02 10:01", "2021-12-31 09:30"])
    '2020-01-02 10:01'
    >>> layout(["2020-01-02T10:01:30+02:00", "2020-01-02T10:01:30+01:00"])
    '2000-01-01T00:00:00Z'
    """
    found: dict[tuple[Any, ...], str] = {}
    for cell in dict.fromkeys(cells):
        match = _DATE.fullmatch(cell.strip())
        if match is None:
            return None
        _, between, minutes, seconds, fraction, zone = match.groups()
        found.setdefault((between, minutes is None, seconds is None, len(fraction or ""), zone), cell.strip())
    if len(found) == 1:
        return next(iter(found.values()))
    return "2000-01-01T00:00:00Z" if any(shape[-1] for shape in found) else None


def _written(seconds: np.ndarray, like: str) -> np.ndarray:
    """Seconds since 1970 (N,) as text in the layout of another date."""
    import pandas

    match = _DATE.fullmatch(like)
    assert match is not None
    _, between, minutes, whole, fraction, zone = match.groups()
    digits = min(len(fraction or ""), 6)
    step = 10.0**-digits if digits else 1.0 if whole else 60.0 if minutes else 86400.0
    hours, rest = (int(zone[1:3]), int(zone[3:].strip(":") or 0)) if zone and zone != "Z" else (0, 0)
    ahead = (-1 if zone and zone[0] == "-" else 1) * (3600 * hours + 60 * rest)
    micro = np.rint(np.rint((seconds + ahead) / step) * step * 1e6).astype(np.int64)
    format = "%Y-%m-%d" + (f"{between}%H:%M{':%S' if whole else ''}" if minutes else "")
    texts = pandas.Series(micro.astype("datetime64[us]")).dt.strftime(format)
    if fraction:
        texts += [f".{part // 10 ** (6 - digits):0{digits}d}".ljust(1 + len(fraction), "0") for part in micro % 10**6]
    return (texts + (zone or "")).to_numpy(dtype=object)


def finite(values: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise DataError(f"{name!r}: expected finite numbers for a whole-number field, got NaN or inf")
    return values
