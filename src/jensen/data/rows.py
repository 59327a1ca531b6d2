"""Rows of a table, a pile of pictures or clips of sound, with labels, groups, times and weights taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.data import splits, tables
from jensen.data.dataset import Split
from jensen.data.raw import Part
from jensen.data.sources import Source
from jensen.errors import DataError


@dataclass(frozen=True)
class Rows:
    """A part with its label, group, time, weight and given columns taken out of x; labels by name, None for none, and
    as numbers, `classes`, where rows lie in folders by them.
    """

    x: Any
    y: np.ndarray | None = None
    weight: np.ndarray | None = None
    group: np.ndarray | None = None
    time: np.ndarray | None = None
    given: Any = None
    classes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def cut(self, seed: int, shares: splits.Fractions, rule: int) -> dict[str, np.ndarray]:
        if self.time is not None:
            return splits.cut_by_time(self.time, shares)
        if self.group is not None:
            return splits.cut_by_group(self.group, seed, shares, rule, self.classes)
        return splits.cut(len(self), seed, shares, rule, self.classes)

    def split(self, x: np.ndarray, c: np.ndarray | None, index: np.ndarray, classes: tuple[str, ...] | None) -> Split:
        """The rows at an index, labels as positions in `classes`; -1 for none, or one not among them."""
        weight = None if self.weight is None else self.weight[index]
        c = None if c is None else c[index]
        if self.y is None or classes is None:
            return Split(x[index], None, weight, index, c=c)
        position = {name: i for i, name in enumerate(classes)}
        y = np.array([position.get(name, -1) for name in self.y[index]], dtype=np.int64)
        return Split(x[index], y, weight, index, c=c)


def take_apart(
    part: Part, source: Source, columns: Mapping[str, str | None], drop: Sequence[str], given: Sequence[str] = ()
) -> Rows:
    """Take the columns named by options out of a part.

    Args:
        columns: the column named by each of the options `label`, `group`, `time` and `weight`.
        drop: columns that are left out.
        given: columns that are conditions; () where these come beside the rows, or there are none.
    """
    import pandas

    taken = {key: tables.take_column(part, c, key, source.name) for key, c in columns.items() if c}
    for option, named in (("drop", drop), ("given", given)):
        for column in named:
            tables.take_column(part, column, option, source.name)
    x: Any = part.x
    if isinstance(x, pandas.DataFrame):
        x = x.drop(columns=list({*drop, *given, *filter(None, columns.values())}))
        if x.shape[1] == 0:
            raise DataError(f"{source.name}: expected at least one column to model, got none")
    y = taken.get("label", part.y)
    return Rows(
        x,
        None if y is None else label_names(y, source),
        _weights(taken["weight"], source) if "weight" in taken else None,
        _groups(taken["group"], source) if "group" in taken else part.group,
        _times(taken["time"], source) if "time" in taken else None,
        part.x[list(given)] if given else part.given,  # pyright: ignore[reportCallIssue, reportArgumentType]
        numbered(part.y) if source.raw.by_folder and part.y is not None else None,
    )


def label_names(y: Any, source: Source) -> np.ndarray:
    """Labels as the names of their classes, None for an empty cell, (N,)."""
    import pandas

    labels: Any = pandas.Series(y, dtype=object)
    out, real = tables.words(labels)
    if real is not None:
        raise DataError(
            f"{source.name}: expected classes as labels, got the real number {real}; drop the column, or keep it as "
            "one of the data"
        )
    present, named = labels.dropna().infer_objects(), source.raw.classes
    if named is not None and present.dtype.kind in "iuf":
        if len(present) and not 0 <= present.min() <= present.max() < len(named):
            got = f"{present.min()}..{present.max()}"
            raise DataError(f"{source.name}: expected labels 0..{len(named) - 1}, got {got}")
        out[labels.notna().to_numpy()] = [named[int(label)] for label in present]
    return out


def _groups(column: Any, source: Source) -> np.ndarray:
    """Groups numbered 0..G-1 as they first appear."""
    _refuse_gaps(column, "group", source)
    return numbered(column)


def numbered(values: Any) -> np.ndarray:
    """Equal values as equal numbers 0, 1, ..., as they first appear, (N,); -1 for none."""
    import pandas

    return pandas.factorize(pandas.Series(values))[0]


def _weights(column: Any, source: Source) -> np.ndarray:
    weights = tables.values(column.to_frame(), source.name, source.line)[:, 0]
    if (weights < 0).any() or weights.sum() == 0:
        row = int((weights < 0).argmax())
        found = f"{weights[row]:g} at {source.line(row)}" if (weights < 0).any() else "only zeros"
        raise DataError(f"{source.name}: weight column {column.name!r}: expected weights >= 0, got {found}")
    return weights


def _times(column: Any, source: Source) -> np.ndarray:
    """Times as values that sort as the times do: numbers as they are, all else read as dates."""
    import pandas

    _refuse_gaps(column, "time", source)
    if column.dtype.kind in "iuf":
        return column.to_numpy()
    try:
        return pandas.to_datetime(column).to_numpy()
    except (ValueError, TypeError) as e:
        reason = str(e).split(". ")[0]
        raise DataError(f"{source.name}: time column {column.name!r}: expected dates ({reason})") from None


def _refuse_gaps(column: Any, option: str, source: Source) -> None:
    empty = column.isna().to_numpy()
    if empty.any():
        row = source.line(int(empty.argmax()))
        raise DataError(f"{source.name}: {option} column {column.name!r} is empty at {row}")
