"""One field of a datum: a picture, a clip of sound, a text or a column, and the values that it can have."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from jensen.data.audio_levels import Encoding
from jensen.data.tables import row_words
from jensen.data.text_tokens import Tokens
from jensen.errors import DataError

FieldKind = Literal[
    "image", "text", "audio", "real", "positive", "bounded", "time", "binary", "count", "category", "ordinal"
]
EXACT = 2**24  # whole numbers up to which float32 is exact
CONTINUOUS = ("real", "positive", "bounded", "time")


class Field(BaseModel):
    """One picture, one clip of sound or one column of a datum.

    A column of real or positive numbers, of numbers between bounds or of times reaches the model as
    `(x - center) / scale`, a waveform as levels; every other kind as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: FieldKind
    shape: tuple[int, ...] = ()
    """(C, H, W) of a picture, (T,) of a clip; () of a column."""
    levels: int | None = None
    """Values are 0..levels-1 as the model sees them: of a picture 256, or 2 where it is binary."""
    grey: int | None = None
    """Levels of the pictures before they were binarised, where that is known."""
    dtype: str = "float64"
    """The user's dtype, for giving back."""
    center: float = 0.0
    scale: float = 1.0
    categories: tuple[str, ...] | None = None
    """Of a category or ordinal, its values in words; a value is a position among them."""
    low: float | None = None
    high: float | None = None
    """Of a bounded column, its bounds."""
    step: float | None = None
    """Of times and durations, of how many seconds all are multiples."""
    like: str | None = None
    """Of times that are text, one of them: how all are written."""
    gaps: bool = False
    """Whether cells may be missing."""
    present: float = 1.0
    """The share of training rows in which a cell is there."""
    constant: bool = False
    """Whether these cells all hold one value, or there are none."""
    rate: int | None = None
    """Of a sound, samples per second."""
    encoding: Encoding | None = None
    """Of a sound, how its waveform becomes levels."""
    tokens: Tokens | None = None
    """Of a text, how it becomes whole numbers."""
    view: dict[str, Any] | None = None
    """Of a picture that is given: the view of the datum that it is, by name and settings; None for one that comes with
    the datum.
    """

    @property
    def continuous(self) -> bool:
        """Whether its values are real numbers, of which a density is one with respect to length."""
        return self.kind in CONTINUOUS

    @property
    def duration(self) -> bool:
        """Whether its values are lengths of time, in seconds."""
        return self.dtype.startswith("timedelta64")

    @property
    def width(self) -> int:
        """Numbers that a model is given for one value: an indicator a category, else one."""
        return len(self.categories) if self.categories is not None else 1


def column_kinds(
    names: Sequence[str], dtypes: Sequence[str], values: np.ndarray, kinds: Mapping[str, str]
) -> list[Any]:
    """Kind of each column of a table (N, D): as told in `kinds`, else binary where it is boolean or holds
    integers 0 and 1 only, else real.

    Raises:
        DataError: another kind is told.
    """
    found = []
    for j, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        column = values[:, j][~np.isnan(values[:, j])]
        whole = "int" in dtype.lower() or dtype.lower().startswith("bool")
        kind = kinds.get(name) or ("binary" if whole and len(column) and np.isin(column, (0, 1)).all() else "real")
        if kind not in ("real", "binary", "count"):
            raise DataError(f"column {name!r}: expected kind real, binary or count, got {kind!r}")
        found.append(kind)
    return found


def check_kind(
    name: str,
    kind: str,
    column: np.ndarray,
    bounds: tuple[float | None, float | None] = (None, None),
    line: Callable[[int], str] = row_words,
) -> None:
    """Raises `DataError` naming the first value of a column that its kind cannot have; a gap (NaN) may be.

    Args:
        line: says where in the file a row, counted from 0, is.
    """
    hint = ""
    if kind == "positive":
        wrong, expected = column <= 0, "a number above 0"
    elif kind == "bounded":
        low, high = bounds
        wrong, expected = (column < low) | (column > high), f"a number from {low:g} to {high:g}"
        hint = f"; to train without these bounds, give --kind {shlex.quote(f'{name}=real')}"
    elif kind == "binary":
        wrong, expected = ~np.isin(column, (0, 1)), "0 or 1"
    elif kind == "count":
        wrong, expected = (column < 0) | (column != np.rint(column)), "a count 0, 1, 2, ..."
        if not wrong.any():
            wrong, expected = column >= EXACT, f"a count below {EXACT:,}, up to which float32 tells them apart"
            hint = f"; to train on it as a number, give --kind {shlex.quote(f'{name}=real')}"
    else:
        return
    wrong &= ~np.isnan(column)
    if wrong.any():
        row, more = int(wrong.argmax()), int(wrong.sum()) - 1
        others = f" (and {more:,} row{'s' if more > 1 else ''} more)" if more else ""
        raise DataError(f"column {name!r}, {line(row)}: expected {expected}, got {column[row]:.10g}{others}{hint}")


def moments(column: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; a constant column is only centred."""
    top = float(np.abs(column).max(initial=0.0))
    if len(column) == 0 or np.ptp(column) == 0:
        return (float(column[0]) if len(column) else 0.0), 1.0
    scaled = column / top  # so that squares neither overflow nor vanish
    return float(scaled.mean() * top), float(scaled.std() * top) or 1.0
