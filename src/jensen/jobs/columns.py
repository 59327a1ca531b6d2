"""Cells of any table as numbers: of a category its position, of all else the number, standardised or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jensen.data import columns as kinds
from jensen.data.dtypes import in_dtype
from jensen.data.field import Field
from jensen.data.raw import ALL, Part, Raw
from jensen.data.sources import Source, open_source
from jensen.data.told import checked, sidecar
from jensen.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import pandas

BESIDE = "label"  # the column that labels become which lie beside the rows


@dataclass(frozen=True, eq=False)
class Columns:
    """All columns of a table: a number stands as (value - center) / scale, a category by its position.

    >>> import pandas
    >>> frame = pandas.DataFrame({"size": [1.0, 3.0, None], "colour": ["red", None, "blue"]})
    >>> columns = Columns.of(frame)
    >>> columns.numbers(frame)
    array([[ 1.,  1.],
           [ 3., nan],
           [nan,  0.]])

    Attributes:
        fields: of the table; numbers of any kind are real here, as any method may put out any.
        levels: (D,), how many categories a column has; 0 for numbers.
        centers, scales: (D,), of numbers; 0 and 1 of categories.
        told: kinds of columns as a user gives them.
    """

    fields: tuple[Field, ...]
    levels: np.ndarray
    centers: np.ndarray
    scales: np.ndarray
    told: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, frame: Any, told: Mapping[str, Any] | None = None) -> Columns:
        """Words, truth values and whole numbers 0 and 1 are categories unless told otherwise, all else numbers.

        Raises:
            DataError: a column holds something else than numbers, words, truth values and times.
        """
        source = _source(frame)
        found = kinds.infer([frame], told or {}, source)
        return cls.of_fields(found, kinds.encode(frame, found, source), told)

    @classmethod
    def of_fields(cls, fields: Sequence[Field], x: np.ndarray, told: Mapping[str, Any] | None = None) -> Columns:
        """The same of fields and all rows (N, D) in the user's units."""
        levels = []
        for one, column in zip(fields, x.T, strict=True):
            seen = column[~np.isnan(column)]
            whole = one.name not in (told or {}) and one.dtype.lower().startswith(("int", "uint", "bool"))
            zero_or_one = one.kind != "time" and len(seen) > 0 and bool(np.isin(seen, (0, 1)).all())
            binary = zero_or_one and (whole or one.kind == "binary")
            levels.append(len(one.categories) if one.categories is not None else 2 * binary)
        real = tuple(f.model_copy(update={"kind": "real"}) if f.kind in kinds.NUMERIC else f for f in fields)
        return cls(real, np.array(levels), np.zeros(len(real)), np.ones(len(real)), dict(told or {}))

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.fields]

    @property
    def is_category(self) -> np.ndarray:
        """(D,), True for a category."""
        return self.levels > 0

    @property
    def kinds(self) -> dict[str, Any]:
        """What `jensen.train` is to be told of the columns: all categories, though some rows lack some."""
        words = {f.name: {"kind": f.kind, "categories": list(f.categories)} for f in self.fields if f.categories}
        return {**self.told, **words}

    def numbers(self, frame: Any) -> np.ndarray:
        """A frame as float64 (N, D), NaN where cells are empty; 0 or 1, whichever is nearer, of what is binary.

        Raises:
            DataError: a cell is not what its column takes.
        """
        x = kinds.encode(frame[self.names], self.fields, _source(frame))
        for j in np.flatnonzero(self.levels == 2):
            x[:, j] = np.where(np.isnan(x[:, j]), np.nan, x[:, j] >= 0.5)
        return self.scale(x)

    def frame(self, x: np.ndarray) -> pandas.DataFrame:
        """The inverse of `numbers`; whole numbers with gaps are real, as pandas reads them."""
        import pandas

        found = {}
        for j, one in enumerate(self.fields):
            rows = np.flatnonzero(~np.isnan(x[:, j]))
            values = in_dtype(x[rows, j] * self.scales[j] + self.centers[j], one)
            found[one.name] = pandas.Series(values, index=rows).reindex(range(len(x)))
        return pandas.DataFrame(found)

    def standardised(self, x: np.ndarray) -> Columns:
        """The same columns, numbers standardised by the mean and deviation of observed cells of x (N, D), which are in
        their own units; one that is constant, or empty, has the scale 1.
        """
        centers, scales = np.zeros(len(self)), np.ones(len(self))
        for j in np.flatnonzero(~self.is_category):
            seen = x[~np.isnan(x[:, j]), j]
            if len(seen):
                centers[j], scales[j] = seen.mean(), seen.std() if np.ptp(seen) > 0 else 1.0
        return replace(self, centers=centers, scales=scales)

    @property
    def bare(self) -> Columns:
        """Columns of standardised numbers as if these were the data: of real numbers, without center and scale."""
        fields = [
            one if category else Field(name=one.name, kind="real")
            for one, category in zip(self.fields, self.is_category, strict=True)
        ]
        told = {name: kind for name, kind in self.told.items() if self.is_category[self.names.index(name)]}
        return Columns(tuple(fields), self.levels, np.zeros(len(self)), np.ones(len(self)), told)

    def take(self, index: np.ndarray) -> Columns:
        """Some of the columns."""
        fields = tuple(self.fields[j] for j in index)
        return Columns(fields, self.levels[index], self.centers[index], self.scales[index])

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Numbers in their own units (N, D), as these columns stand."""
        return (x - self.centers) / self.scales

    def indicators(self, x: np.ndarray) -> np.ndarray:
        """Numbers (N, D) with an indicator, of length 1/√2, for each category in place of its position, (N, W): rows
        of two different ones lie 1 apart. All indicators of an empty cell are NaN.
        """
        out = np.empty((len(x), self.starts[-1]))
        for j, count in enumerate(self.levels):
            cells = x[:, j, None]
            if count:
                cells = np.where(np.isnan(cells), np.nan, (cells == np.arange(count)) * 0.5**0.5)
            out[:, self.starts[j] : self.starts[j + 1]] = cells
        return out

    def from_indicators(self, found: np.ndarray) -> np.ndarray:
        """Of numbers (N, W) the categories whose indicators are largest, and the other numbers, (N, D)."""
        blocks = np.split(found, self.starts[1:-1], axis=1)
        columns = [b.argmax(1) if count else b[:, 0] for b, count in zip(blocks, self.levels, strict=True)]
        return np.stack(columns, axis=1).astype(np.float64)

    @property
    def starts(self) -> np.ndarray:
        """Where each column begins among the elements of `indicators`, and how many these are, (D + 1,)."""
        return np.cumsum([0, *np.maximum(1, self.levels)])


@dataclass(frozen=True, eq=False)
class Table:
    """A frame of all rows, with the name of its data, the column of labels, where that is known, and kinds told."""

    name: str
    frame: pandas.DataFrame
    label: str | None
    told: Mapping[str, Any]

    def limited(self, limit: int | None, seed: int) -> pandas.DataFrame:
        """So many of the rows at random. Raises `ConfigError` for fewer than two."""
        if limit is None or limit >= len(self.frame):
            return self.frame
        if limit < 2:
            raise ConfigError(f"--limit: expected >= 2, got {limit}")
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.frame))[:limit])
        return self.frame.iloc[chosen].reset_index(drop=True)


def open_table(
    data: Any,
    label: str | None = None,
    drop: Sequence[str] = (),
    kinds: Mapping[str, Any] | None = None,
    missing: Sequence[str] = (),
) -> Table:
    """What a name, a path or a frame holds, as one table.

    Labels that lie beside the rows become the last column, `label`. Columns that a registered set leaves out are left
    out.

    Args:
        label: the column of labels; None for that of a registered set.
        drop: columns that are left out.
        kinds: of columns where they are not to be guessed, before what FILE.columns.yaml says.
        missing: words that stand for a missing cell.

    Raises:
        DataError: the data are no table.
        ConfigError: there is no such column, or no such kind.
    """
    import pandas

    source = open_source(data, missing)
    parts = list(source.raw.parts.values())
    if not parts or any(isinstance(part.x, np.ndarray) for part in parts):
        what = "pictures" if source.raw.is_image else "sound" if parts else "a text"
        raise DataError(f"{source.name}: expected a table, got {what}")
    rows: list[Any] = [part.x for part in parts]
    frame: Any = pandas.concat(rows, ignore_index=True)
    known = source.label if source.has(source.label) else None
    if known is None and all(part.y is not None for part in parts):
        frame, known = frame.assign(**{BESIDE: np.concatenate([np.asarray(part.y) for part in parts])}), BESIDE
    for option, names in (("--drop", drop), ("--label", [label] if label is not None else [])):
        for name in names:
            if name not in frame.columns:
                raise ConfigError(f"{option}: {source.name} has no column {name!r}{did_you_mean(name, frame.columns)}")
    label = label or known
    frame = frame.drop(columns=list({*drop, *(c for c in source.drop if c in frame.columns)}))
    if frame.shape[1] == 0 or len(frame) < 2:
        raise DataError(f"{source.name}: expected two rows or more of one column or more, got {frame.shape}")
    kinds = checked(kinds or {})
    for name in kinds:
        if name not in frame.columns:
            raise ConfigError(f"kinds: {source.name} has no column {name!r}{did_you_mean(name, frame.columns)}")
    told = {name: kind for name, kind in sidecar(data, source.columns).items() if name in frame.columns} | kinds
    return Table(source.name, frame, label if label in frame.columns else None, told)


def _source(frame: Any) -> Source:
    return Source(Raw({ALL: Part(frame)}, named=True), "table", container="pandas")
