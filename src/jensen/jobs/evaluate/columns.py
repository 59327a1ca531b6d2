"""Cells of any table as numbers: of a category its position, of all else the number, standardised or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jensen.data.sources import open_source
from jensen.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import pandas

BESIDE = "label"  # the column that labels become which lie beside the rows
TO_DAYS = 1 / 86_400e9  # of nanoseconds


@dataclass(frozen=True)
class Column:
    """One column; a number stands as (value - center) / scale, a category, whose values are listed, by its position."""

    name: str
    dtype: Any
    categories: tuple[Any, ...] | None = None
    center: float = 0.0
    scale: float = 1.0

    def numbers(self, cells: pandas.Series) -> np.ndarray:
        """Cells as float64 (N,), NaN for an empty one, or for a value that is no category of this column."""
        import pandas

        if self.categories is not None:
            if np.issubdtype(np.asarray(self.categories).dtype, np.number) and _is_number(cells):
                return _nearest(cells.to_numpy(np.float64, na_value=np.nan), np.asarray(self.categories, np.float64))
            place = {value: float(i) for i, value in enumerate(self.categories)}
            return np.array([np.nan if pandas.isna(v) else place.get(v, np.nan) for v in cells], dtype=np.float64)
        if cells.dtype.kind == "M":
            gaps = cells.isna().to_numpy()
            days = cells.to_numpy("datetime64[ns]").astype(np.int64) * TO_DAYS
            return (np.where(gaps, np.nan, days) - self.center) / self.scale
        return (cells.to_numpy(np.float64, na_value=np.nan) - self.center) / self.scale

    def cells(self, numbers: np.ndarray) -> pandas.Series:
        """The inverse of `numbers`, with the column's own dtype where that can hold what is empty."""
        import pandas

        gaps = np.isnan(numbers)
        if self.categories is not None:
            values = np.array([*self.categories, None], dtype=object)
            found = pandas.Series(values[np.where(gaps, -1, numbers).astype(int)], name=self.name)
            return found.astype(self.dtype) if not gaps.any() or _holds_gaps(self.dtype) else found.infer_objects()
        values = numbers * self.scale + self.center
        if self.dtype.kind == "M":
            days = np.where(gaps, 0, np.rint(values / TO_DAYS)).astype(np.int64)
            return pandas.Series(pandas.to_datetime(days), name=self.name).where(~gaps)
        values = np.rint(values) if self.dtype.kind in "iu" else values
        found = pandas.Series(values, name=self.name)
        return found.astype(self.dtype) if not gaps.any() or _holds_gaps(self.dtype) else found


@dataclass(frozen=True)
class Columns:
    """All columns of a table.

    >>> import pandas
    >>> frame = pandas.DataFrame({"size": [1.0, 3.0, None], "colour": ["red", None, "blue"]})
    >>> columns = Columns.of(frame)
    >>> columns.numbers(frame)
    array([[ 1.,  1.],
           [ 3., nan],
           [nan,  0.]])
    """

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, frame: pandas.DataFrame) -> Columns:
        """Words, truth values and whole numbers 0 and 1 are categories, all else numbers.

        Raises:
            DataError: a column holds something else than numbers, words, truth values and times.
        """
        return cls(tuple(_column(str(name), frame.iloc[:, j]) for j, name in enumerate(frame.columns)))

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def is_category(self) -> np.ndarray:
        """(D,), True for a category."""
        return np.array([column.categories is not None for column in self.columns])

    def numbers(self, frame: pandas.DataFrame) -> np.ndarray:
        """A frame as float64 (N, D), NaN where cells are empty."""
        return np.stack([c.numbers(frame.iloc[:, j]) for j, c in enumerate(self.columns)], axis=1)

    def frame(self, x: np.ndarray) -> pandas.DataFrame:
        """The inverse of `numbers`."""
        import pandas

        return pandas.concat([c.cells(x[:, j]) for j, c in enumerate(self.columns)], axis=1)

    def standardised(self, x: np.ndarray) -> Columns:
        """The same columns, numbers standardised by the mean and deviation of observed cells of x (N, D), which are in
        their own units; one that is constant, or empty, has the scale 1.
        """
        found = []
        for j, column in enumerate(self.columns):
            seen = x[~np.isnan(x[:, j]), j]
            if column.categories is None and len(seen):
                scale = float(seen.std())
                column = replace(column, center=float(seen.mean()), scale=scale if scale > 0 else 1.0)
            found.append(column)
        return Columns(tuple(found))

    @property
    def bare(self) -> Columns:
        """Columns of standardised numbers as if these were the data: of real numbers, without center and scale."""
        real = np.dtype(np.float64)
        return Columns(
            tuple(c if c.categories is not None else Column(c.name, real) for c in self.columns),
        )

    def take(self, index: np.ndarray) -> Columns:
        """Some of the columns."""
        return Columns(tuple(self.columns[j] for j in index))

    def indicators(self, x: np.ndarray) -> np.ndarray:
        """Numbers (N, D) with an indicator, of length 1/√2, for each category in place of its position, (N, W): rows of
        two different ones lie 1 apart. All indicators of an empty cell are NaN.
        """
        out = np.empty((len(x), self._starts[-1]))
        for j, column in enumerate(self.columns):
            cells = x[:, j, None]
            if column.categories:
                cells = np.where(np.isnan(cells), np.nan, (cells == np.arange(len(column.categories))) * 0.5**0.5)
            out[:, self._starts[j] : self._starts[j + 1]] = cells
        return out

    def from_indicators(self, found: np.ndarray) -> np.ndarray:
        """Of numbers (N, W) the categories whose indicators are largest, and the other numbers, (N, D)."""
        blocks = np.split(found, self._starts[1:-1], axis=1)
        return np.stack(
            [b.argmax(1) if c.categories else b[:, 0] for b, c in zip(blocks, self.columns, strict=True)], axis=1
        ).astype(np.float64)

    @property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(max(1, len(c.categories or ())) for c in self.columns)])

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Numbers in their own units (N, D), as these columns stand."""
        centers, scales = (np.array([getattr(c, name) for c in self.columns]) for name in ("center", "scale"))
        return (x - centers) / scales


def open_table(data: Any, drop: Sequence[str] = ()) -> tuple[str, pandas.DataFrame, str | None]:
    """A name, a path or a frame as one frame of all its rows, and the column of labels, where that is known.

    Labels that lie beside the rows become the last column, `label`. Columns that a registered set leaves out are left
    out.

    Raises:
        DataError: the data are no table.
        ConfigError: there is no such column.
    """
    import pandas

    source = open_source(data)
    parts = list(source.raw.parts.values())
    if not parts or any(isinstance(part.x, np.ndarray) for part in parts):
        raise DataError(f"{source.name}: expected a table, got {_what(source)}")
    frame: Any = pandas.concat([part.x for part in parts], ignore_index=True)
    label = source.label
    if all(part.y is not None for part in parts) and label is None:
        labels = np.concatenate([np.asarray(part.y) for part in parts])
        frame, label = frame.assign(**{BESIDE: labels}), BESIDE
    for column in drop:
        if column not in frame.columns:
            raise ConfigError(f"--drop: {source.name} has no column {column!r}{did_you_mean(column, frame.columns)}")
    frame = frame.drop(columns=[*drop, *(c for c in source.drop if c in frame.columns and c not in drop)])
    label = label if label in frame.columns else None
    if frame.shape[1] - (label is not None) < 1 or len(frame) < 2:
        raise DataError(f"{source.name}: expected two rows or more of one column or more, got {frame.shape}")
    return source.name, frame, label


def _what(source: Any) -> str:
    return "pictures" if source.raw.is_image else "sound" if source.raw.parts else "text"


def _column(name: str, cells: pandas.Series) -> Column:
    import pandas

    kind = getattr(cells.dtype, "kind", "O")
    seen = cells.dropna()
    if isinstance(cells.dtype, pandas.CategoricalDtype):
        return Column(name, cells.dtype, tuple(cells.cat.categories))
    if kind == "M":
        return Column(name, cells.dtype)
    if kind in "iu" and len(seen) and seen.isin((0, 1)).all():
        return Column(name, cells.dtype, (0, 1))
    if kind == "b":
        return Column(name, cells.dtype, (False, True))
    if kind in "iuf":
        if np.isinf(seen.to_numpy(np.float64)).any():
            raise DataError(f"column {name!r}: expected finite numbers, got an infinite one")
        return Column(name, cells.dtype)
    try:
        return Column(name, cells.dtype, tuple(sorted(set(seen))))
    except TypeError:
        kinds = sorted({type(v).__name__ for v in seen})
        raise DataError(f"column {name!r}: expected numbers, words or times, got {', '.join(kinds)}") from None


def _is_number(cells: pandas.Series) -> bool:
    return getattr(cells.dtype, "kind", "O") in "biuf"


def _holds_gaps(dtype: Any) -> bool:
    return dtype.kind in "fM" or not isinstance(dtype, np.dtype)


def _nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Positions of the nearest of few levels, (N,); NaN stays."""
    place = np.abs(values[:, None] - levels).argmin(1).astype(np.float64) if len(levels) else values * np.nan
    return np.where(np.isnan(values), np.nan, place)
