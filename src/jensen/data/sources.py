"""Where data come from: a registered name, a path, or something in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from jensen.data import files, tables
from jensen.data.catalogue import ENTRIES, lookup
from jensen.data.dataset import Dataset, Split
from jensen.data.raw import ALL, SPLITS, Part, Raw, Texts
from jensen.data.schema import Schema
from jensen.errors import ConfigError, DataError, did_you_mean, nearest


@dataclass(frozen=True)
class Source:
    """Raw data with a name, a description and the place they came from."""

    raw: Raw
    name: str
    description: str = ""
    origin: str = "memory"
    container: Literal["array", "pandas"] = "array"
    label: str | None = None
    drop: tuple[str, ...] = ()
    registered: bool = False
    line: Callable[[int], str] = tables.row_words

    @property
    def columns(self) -> list[str] | None:
        """Names of the columns of a table; None of all else."""
        first = next(iter(self.raw.parts.values()), None)
        return None if first is None or isinstance(first.x, np.ndarray) else list(first.x.columns)

    def has(self, column: str | None) -> bool:
        return all(column in getattr(part.x, "columns", ()) for part in self.raw.parts.values())


def open_source(ref: Any, missing: Sequence[str] = ()) -> Source:
    """Read what `ref` stands for.

    Args:
        missing: words that stand for a missing cell of a table.

    Raises:
        ConfigError: it is nothing that data can be read from.
        DataError: it cannot be read.
    """
    source = _open(ref)
    if not missing or source.columns is None:
        return source
    parts = {
        name: part if isinstance(part.x, np.ndarray) else replace(part, x=tables.emptied(part.x, missing))
        for name, part in source.raw.parts.items()
    }
    return replace(source, raw=replace(source.raw, parts=parts))


def _open(ref: Any) -> Source:
    if isinstance(ref, Source):
        return ref
    if isinstance(ref, Dataset):
        return _from_dataset(ref)
    if isinstance(ref, (str, os.PathLike)):
        return _open_named(ref)
    if isinstance(ref, Mapping):
        return _open_splits(ref)
    if isinstance(ref, torch.Tensor):
        ref = ref.detach().cpu().numpy()
    if _are_texts(ref):
        return Source(Raw({}, texts={ALL: Texts(list(ref), apart=True)}), "texts")
    if isinstance(ref, np.ndarray):
        return Source(files.raw_arrays({ALL: ref}, {}, "array"), "array")
    if is_frame(ref):
        return Source(Raw({ALL: Part(as_pandas(ref, "frame"))}, named=True), "frame", container="pandas")
    expected = "a name, a path, an array, a tensor, a frame, a list of texts, one of these for each split or a Dataset"
    raise ConfigError(f"data: expected {expected}, got {type(ref).__name__}")


def _open_splits(data: Mapping[str, Any]) -> Source:
    """A frame or a list of texts for each split, or arrays or lists of texts that are named as in an .npz.

    Raises:
        ConfigError: frames or texts stand beside something else, or an array has a name that none has.
        DataError: columns differ, or arrays are no data.
    """
    parts = {str(name): part for name, part in data.items()}
    if any(is_frame(part) for part in parts.values()):
        return Source(Raw(_frames(parts), named=True), "frames", container="pandas")
    if any(name in (*SPLITS, "X") and _are_texts(part) for name, part in parts.items()):
        return Source(Raw({}, texts=_texts(parts)), "texts")
    arrays = {
        name: part.detach().cpu().numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
        for name, part in parts.items()
    }
    raw = files.named_arrays(arrays, "arrays")
    others = files.unread(arrays)
    if others:
        known = [*files.OF_X, *(name for of in files.OF_SPLITS.values() for name in of), files.OF_CLASSES]
        hints = {name: " alone" if name in known else did_you_mean(name, known) for name in others}
        wanted = "data: expected arrays named train, train_labels, test, ... or X, y"
        raise ConfigError([f"{wanted}, got {name!r}{hint}" for name, hint in hints.items()])
    return Source(raw, "arrays")


def _texts(parts: Mapping[str, Any]) -> dict[str, Texts]:
    """Lists of texts `train`, `valid`, `test` or `X`, and labels `train_labels`, or `y`."""
    names = [name for name in SPLITS if name in parts] or ["X"]
    of = {name: (f"{name}_labels", f"{name}_y") if name != "X" else ("y", "labels", "X_labels") for name in names}
    known = [*names, *(label for labels in of.values() for label in labels)]
    for name in parts:
        if name not in known:
            raise ConfigError(f"data: expected texts for {', '.join(names)} and their labels, got {name!r} beside them")
    found = {}
    for name, labels in of.items():
        if not _are_texts(parts[name]):
            raise ConfigError(f"data: {name}: expected a list of texts as in the others")
        y = next((np.array(list(parts[label]), dtype=object) for label in labels if label in parts), None)
        found[ALL if name == "X" else name] = Texts(list(parts[name]), y, apart=True)
    return found


def texts_of_column(source: Source, column: str, label: str | None, option: str) -> Source:
    """Texts that are a column of a table, with labels that are another.

    Args:
        option: what names the column, for messages.

    Raises:
        ConfigError: there are no columns, or none of these names.
        DataError: the column holds no text.
    """
    found, empty = {}, 0
    for name, part in source.raw.parts.items():
        cells: Any = tables.take_column(part, column, option, source.name)
        y: Any = tables.take_column(part, label, "label", source.name) if label else None
        there = cells.notna().to_numpy()
        odd = [i for i in np.flatnonzero(there) if not isinstance(cells.iloc[i], str)]
        if odd:
            where = f"column {column!r}, {source.line(int(odd[0]))}"
            raise DataError(f"{source.name}: {where}: expected a text, got {cells.iloc[odd[0]]}")
        empty += int((~there).sum())
        rows = np.flatnonzero(there)
        names = [f"{source.name}, column {column!r}, row {row + 1}" for row in rows]
        labels = None if y is None else y.to_numpy(dtype=object)[rows]
        found[name] = Texts(cells.to_numpy(dtype=object)[rows].tolist(), labels, names, apart=True)
    notes = (*source.raw.notes, *((f"{empty:,} rows without a text were left out",) if empty else ()))
    return replace(source, raw=Raw({}, texts=found, notes=notes, usual={"lines": True}))


def _frames(parts: Mapping[str, Any]) -> dict[str, Part]:
    for name, part in parts.items():
        if name not in SPLITS or not is_frame(part):
            raise ConfigError(f"data: expected frames for {', '.join(SPLITS)} and nothing else, got {name!r}")
    frames = {name: as_pandas(part, name) for name, part in parts.items()}
    first = next(iter(frames))
    columns = frames[first].columns
    for name, frame in frames.items():
        odd = [*columns.difference(frame.columns), *frame.columns.difference(columns)]
        if odd:
            raise DataError(f"{name}: expected the columns of {first}, differs in {odd[0]!r}")
    return {name: Part(frame[columns]) for name, frame in frames.items()}


def is_frame(ref: Any) -> bool:
    """Of pandas or polars."""
    of_polars = type(ref).__module__.startswith("polars") and hasattr(ref, "get_columns")
    return of_polars or (hasattr(ref, "columns") and hasattr(ref, "iloc"))


def as_pandas(frame: Any, name: str) -> Any:
    """A frame of pandas whose columns have words for names, each another; its rows are numbered anew."""
    if type(frame).__module__.startswith("polars"):
        import pandas

        frame = pandas.DataFrame({name: _from_polars(frame[name]) for name in frame.columns})
    frame = frame.set_axis([str(column) for column in frame.columns], axis=1).reset_index(drop=True)
    tables.check_columns(list(frame.columns), name)
    return frame


def _from_polars(column: Any) -> Any:
    """A column of a polars frame as pandas has it: whole numbers and truth values stay so where cells are empty, and
    categories stay categories.
    """
    import pandas

    dtype, kind = column.dtype, str(column.dtype).partition("(")[0]
    if kind in ("Categorical", "Enum"):
        cells = column.to_list()
        words = list(dtype.categories) if kind == "Enum" else sorted({cell for cell in cells if cell is not None})
        return pandas.Categorical(cells, categories=words)
    if column.null_count() and (dtype.is_integer() or kind == "Boolean"):
        return pandas.array(column.to_list(), dtype=kind if dtype.is_integer() else "boolean")
    return column.to_numpy()


def _are_texts(ref: Any) -> bool:
    """Whether something is a list of texts, or an array of them."""
    if isinstance(ref, np.ndarray) and ref.ndim != 1:
        return False
    return isinstance(ref, (np.ndarray, list, tuple)) and len(ref) > 0 and all(isinstance(one, str) for one in ref)


def reference(ref: Any) -> str | None:
    """How to find data again: a registered name, an absolute path, or both; None for what is in memory."""
    if not isinstance(ref, str | os.PathLike):
        return None
    known = lookup(os.fspath(ref))
    if known is None:
        return str(Path(ref).expanduser().resolve())
    entry, path = known
    return entry.name if path is None else f"{entry.name}:{path.resolve()}"


def _open_named(ref: str | os.PathLike[str]) -> Source:
    name, path = os.fspath(ref), Path(ref).expanduser()
    known = lookup(name)
    if known is not None:
        entry, at = known
        raw, origin = entry.load(at)
        container = "pandas" if raw.named else "array"
        return Source(raw, entry.name, entry.description, origin, container, entry.label, entry.drop, registered=True)
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise ConfigError(f"{name}: {_missing(path)}")
        raise ConfigError(f"{name!r} is neither a data set nor an existing path{did_you_mean(name, ENTRIES)}")
    raw = files.read_path(path)
    line = files.csv_line(path) if path.name.lower().endswith(files.OF_LINES) else tables.row_words
    return Source(raw, str(path), origin=str(path), container="pandas" if raw.named else "array", line=line)


def _missing(path: Path) -> str:
    """What is not there of a path, and what is there that is spelt alike."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    beside = [other.name for other in path.parent.iterdir()]
    return f"there is no such file or folder{nearest(path.name, beside + ([] if len(path.parts) > 1 else [*ENTRIES]))}"


def _from_dataset(data: Dataset) -> Source:
    """A data set as if it had just been read, to be binarised or fitted to another schema."""
    schema = data.schema
    parts = {}
    for name, split in data.splits.items():
        y = None if split.y is None else np.array([*(schema.classes or ()), None], dtype=object)[split.y]
        beside = split.c if schema.given_picture is not None or schema.is_array else None
        beside = beside if beside is None or beside.ndim > 2 else _given_frame(schema, beside)
        parts[name] = Part(split.x if schema.is_array else _frame(schema, split), y, given=beside)
    levels, sound = (schema.levels if schema.is_image else None), (schema.fields[0] if schema.is_sound else None)
    given_levels = schema.given_picture.levels if schema.given_picture else None
    raw = Raw(parts, levels, schema.classes, named=not schema.is_array, sound=sound, given_levels=given_levels)
    return Source(raw, data.name, data.description, data.origin, schema.container)


def _frame(schema: Schema, split: Split) -> Any:
    """Rows as a frame with the user's dtypes, whatever the container, conditions in their places."""
    return schema.model_copy(update={"container": "pandas"}).table(split.x, split.c)


def _given_frame(schema: Schema, c: np.ndarray) -> Any:
    """Conditions (N, G) beside data that have no columns, as a frame."""
    import pandas

    columns = {}
    for field, column in zip(schema.given, c.T, strict=True):
        words = None if field.categories is None else np.array(field.categories, dtype=object)
        columns[field.name] = column if words is None else words[column.astype(int)]
    return pandas.DataFrame(columns)


def by_position(source: Source, schema: Schema) -> Source:
    """Tables whose columns have no names of their own take those of a schema, where they are as many."""
    order = [name for name in schema.order or schema.names if name != schema.label]
    if source.raw.named or not schema.given:
        return source
    parts = {
        name: replace(part, x=part.x.set_axis(order, axis=1))
        if not isinstance(part.x, np.ndarray) and part.x.shape[1] == len(order)
        else part
        for name, part in source.raw.parts.items()
    }
    return replace(source, raw=replace(source.raw, parts=parts))
