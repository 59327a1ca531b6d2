"""Conditions: columns of a table, or a picture, that a model is given and does not explain."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from jensen.data import tables
from jensen.data.field import Field, moments
from jensen.data.fitting import fit_levels
from jensen.data.sources import Source
from jensen.data.told import checked
from jensen.data.views import view_of
from jensen.errors import ConfigError, DataError, did_you_mean

FEW = 10  # different whole numbers up to which a column holds categories


def fit_conditions(frames: Sequence[Any], train: Any, kinds: Mapping[str, Any], source: Source) -> tuple[Field, ...]:
    """A field for each column: words, truth values and few different whole numbers are categories, all else is real.

    Args:
        frames: data frames of the columns in all rows, from which categories are listed, as labels are.
        train: those of the training rows, from which mean and deviation are taken.
        kinds: "real" or "category" of a column, where it is not to be guessed.
    """
    told = {name: spec["kind"] for name, spec in checked({n: kinds[n] for n in train.columns if n in kinds}).items()}
    fields = []
    for name in train.columns:
        columns = [frame[name] for frame in frames]
        kind = told.get(name) or ("category" if _is_category(columns) else "real")
        if kind not in ("real", "category"):
            raise ConfigError(f"kinds: {name!r} is given: expected real or category, got {kind!r}")
        dtype = str(columns[0].dtype)
        if kind == "category":
            words = {word for column in columns for word in _words(column, source)}
            fields.append(Field(name=name, kind=kind, dtype=dtype, categories=tuple(sorted(words, key=tables.order))))
        else:
            center, scale = moments(tables.values(train[[name]], source.name, source.line)[:, 0])
            fields.append(Field(name=name, kind=kind, dtype=dtype, center=center, scale=scale))
    return tuple(fields)


def check_present(source: Source, fields: Sequence[Field]) -> None:
    """Raises `DataError` naming the columns of conditions that data do not have."""
    for part in source.raw.parts.values():
        missing = [field.name for field in fields if field.name not in getattr(part.x, "columns", ())]
        if missing:
            raise DataError(f"{source.name}: columns missing that the model is given: {', '.join(missing)}")


def picture_field(shape: Sequence[int], levels: int, view: Mapping[str, Any] | None = None) -> Field:
    """The field of pictures that are given, of a view of the datum where one is named."""
    view = None if view is None else dict(view)
    return Field(name="given", kind="image", shape=tuple(shape), levels=levels, dtype="uint8", view=view)


def given_pictures(beside: Any, field: Field, source: Source, part: str) -> np.ndarray:
    """Pictures that come with the data, as they go into a split, uint8 (N, C, H, W).

    Raises:
        DataError: there are none, or they have another shape or other levels than those of training.
    """
    assert field.levels
    expected = f"{source.name}: {part}: as in training expected given pictures {field.shape}"
    if not isinstance(beside, np.ndarray):
        raise DataError(f"{expected}, an array {part}_given, got {'none' if beside is None else 'numbers'}")
    if beside.shape[1:] != field.shape:
        raise DataError(f"{expected}, got {beside.shape[1:]}")
    return fit_levels(beside, field.levels, source)


def views_as_given(x: np.ndarray, levels: int, field: Field) -> np.ndarray:
    """Views of pictures x, uint8 (N, C, H, W), with values 0..levels−1, as what is given of them."""
    assert field.view is not None
    view = view_of(x.shape[1:], levels, field.view)
    rows = torch.from_numpy(x).split(1024)
    return torch.cat([view(few.float()).to(torch.uint8) for few in rows]).numpy()


def conditions(frame: Any, fields: Sequence[Field], source: Source) -> np.ndarray:
    """The columns of a data frame as they go into a split, float64 (N, G): real numbers, and positions of categories.

    Raises:
        DataError: a cell is empty, no number, or a category that training did not know.
    """
    out = np.empty((len(frame), len(fields)))
    for j, field in enumerate(fields):
        column: Any = frame[field.name]
        if field.categories is None:
            out[:, j] = tables.values(frame[[field.name]], source.name, source.line, gaps=True)[:, 0]
            if np.isnan(out[:, j]).any():
                raise _empty(field.name, source, int(np.isnan(out[:, j]).argmax()))
            continue
        position = {word: i for i, word in enumerate(field.categories)}
        words = _words(column, source)
        unknown = [row for row, word in enumerate(words) if word not in position]
        if unknown:
            where, hint = source.line(unknown[0]), did_you_mean(words[unknown[0]], field.categories)
            raise DataError(
                f"{source.name}: column {field.name!r}, {where}: {words[unknown[0]]!r} is no category of this "
                f"column{hint}"
            )
        out[:, j] = [position[word] for word in words]
    return out


def _is_category(columns: Sequence[Any]) -> bool:
    kinds = {getattr(column.dtype, "kind", "O") for column in columns}
    if kinds <= set("iu"):
        return len(set().union(*(column.dropna().unique().tolist() for column in columns))) <= FEW
    return not kinds <= set("iuf")


def _words(column: Any, source: Source) -> np.ndarray:
    """Cells as words, (N,), none of them empty."""
    words, real = tables.words(column)
    if real is not None:
        raise DataError(
            f"{source.name}: column {column.name!r}: expected categories, got the real number {real}; "
            f"it may be given as one with --kind {shlex.quote(f'{column.name}=real')} (in Python kinds=)"
        )
    empty = [row for row, word in enumerate(words) if word is None]
    if empty:
        raise _empty(column.name, source, empty[0])
    return words


def _empty(column: str, source: Source, row: int) -> DataError:
    return DataError(f"{source.name}: column {column!r}, which the model is given, is empty at {source.line(row)}")
