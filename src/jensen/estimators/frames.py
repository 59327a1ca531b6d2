"""Tables as scikit-learn's users bring them: arrays, and frames of pandas or polars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def library(X: Any) -> str:
    """ "pandas" or "polars" of a frame; "" of all else.

    >>> import pandas
    >>> library(pandas.DataFrame({"a": [1]})), library([[1]])
    ('pandas', '')
    """
    name = type(X).__module__.partition(".")[0]
    return name if name in ("pandas", "polars") and hasattr(X, "columns") else ""


def is_numeric(X: Any) -> bool:
    """Whether all columns of a frame are numbers or truth values."""
    if library(X) == "polars":
        return all(dtype.is_numeric() or str(dtype) == "Boolean" for dtype in X.dtypes)
    import pandas

    return all(pandas.api.types.is_numeric_dtype(dtype) for dtype in X.dtypes)


def named(X: Any, names: Sequence[str]) -> Any:
    """A frame with its columns renamed, the data shared; an array as it is."""
    if library(X) == "polars":
        return X.rename(dict(zip(X.columns, names, strict=True)))
    return X.set_axis(list(names), axis=1) if library(X) == "pandas" else X


def polars_like(frame: Any, like: Any = None) -> Any:
    """A pandas frame as one of polars; columns take the dtypes of `like` where these hold them.

    Args:
        like: a polars frame with the same columns, or None.
    """
    import polars

    found = polars.from_pandas(frame)
    if like is None:
        return found
    wanted = dict(zip(found.columns, like.dtypes, strict=True))
    return found.with_columns(
        column.cast(dtype)
        for name, dtype in wanted.items()
        if (column := found[name]).dtype != dtype and _holds(column, dtype)
    )


def _holds(column: Any, dtype: Any) -> bool:
    """Whether no value of a column is lost in a dtype: whole numbers take no fractions."""
    if dtype.is_integer() and column.dtype.is_float():
        return bool((column.round() == column).all())
    return True
