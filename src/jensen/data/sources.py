"""From a name, a path or data in memory to a `Dataset`: read, take columns apart, split, binarise, prepare."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from jensen.data import files, pictures, splits, tables
from jensen.data.catalogue import ENTRIES
from jensen.data.dataset import Dataset, Split
from jensen.data.raw import ALL, Part, Raw
from jensen.data.schema import Schema, check_kind, column_kinds
from jensen.errors import ConfigError, DataError, did_you_mean

Binarize = Literal["none", "static", "dynamic"]
_VALID_SHARE = 0.1  # of the training rows, where a file brings a test split and no validation split


def load_data(
    ref: Any,
    *,
    binarize: Binarize | None = None,
    seed: int = 0,
    label: str | None = None,
    drop: str | Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
    weight: str | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    kinds: Mapping[str, str] | None = None,
    schema: Schema | None = None,
) -> Dataset:
    """Load a data set by name, from a path or from memory, split it and give it a schema.

    Args:
        ref: a registered name; a path to .npz, .npy, .csv[.gz], .parquet or a folder of pictures; an array, a
            tensor, a pandas or polars frame, or a `Dataset`, which is returned as it is unless a schema is given.
        binarize: make 0/1 pictures of grey ones: `static`, drawn once with the seed, or `dynamic`, the training
            split drawn afresh in each batch and the others once.
        seed: of the split and the binarisation.
        label: column of labels, which becomes `y`; an empty cell is a row without a label, y = -1.
        drop: columns to leave out.
        group: column of groups; the rows of one stay in one split.
        time: column of times; the oldest rows are the training split.
        weight: column of non-negative row weights.
        fractions: shares of train, valid and test, where the data bring no split of their own.
        kinds: kind of a column, `real`, `binary` or `count`, where it is not to be guessed.
        schema: that of a trained model which these data must fit. A file that is not split is then one split, `all`.

    Raises:
        ConfigError: the name, path, column or option does not exist.
        DataError: the data cannot be read or used, or do not fit the schema; names the file, column and row.

    >>> data = load_data(np.arange(20.0).reshape(10, 2))
    >>> {name: len(split) for name, split in data.splits.items()}
    {'train': 8, 'valid': 1, 'test': 1}
    """
    shares = splits.check_fractions(fractions)
    if binarize not in (None, "none", "static", "dynamic"):
        raise ConfigError(f"binarize: expected none, static or dynamic, got {binarize!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed: expected a whole number >= 0, got {seed!r}")
    if group and time:
        raise ConfigError("expected group or time, got both")
    if isinstance(ref, Dataset):
        if schema in (None, ref.schema) and binarize in (None, ref.schema.binarization):
            return ref
        source = _from_dataset(ref)
    else:
        source = _open(ref)
    drop = [drop] if isinstance(drop, str) else list(drop)
    if schema is not None:
        label = label or schema.label
        present = {c for part in source.raw.parts.values() for c in getattr(part.x, "columns", ())}
        label = label if label in present else None
    else:
        label = label or source.label
        drop += [column for column in source.drop if column != label and column not in drop]
    rows = {
        name: _take_apart(part, source, label=label, drop=drop, group=group, time=time, weight=weight)
        for name, part in source.raw.parts.items()
    }
    if schema is not None:
        return _fitted(source, rows, schema, kinds or {})
    return _fresh(source, rows, binarize, seed, label, shares, kinds or {})


@dataclass(frozen=True)
class _Source:
    """Raw data with a name, a description and the place they came from."""

    raw: Raw
    name: str
    description: str = ""
    origin: str = "memory"
    container: Literal["array", "pandas"] = "array"
    label: str | None = None
    drop: tuple[str, ...] = ()
    line: Callable[[int], str] = tables.row_words


@dataclass(frozen=True)
class _Rows:
    """A part with its label, group, time and weight columns taken out of x."""

    x: Any
    y: np.ndarray | None = None
    weight: np.ndarray | None = None
    group: np.ndarray | None = None
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def cut(self, seed: int, shares: splits.Fractions) -> dict[str, np.ndarray]:
        if self.time is not None:
            return splits.cut_by_time(self.time, shares)
        if self.group is not None:
            return splits.cut_by_group(self.group, seed, shares)
        return splits.cut(len(self), seed, shares)

    def matrix(self, source: _Source) -> np.ndarray:
        """x as it goes into a split: uint8 pictures, or the checked float64 cells of a table."""
        return self.x if isinstance(self.x, np.ndarray) else tables.values(self.x, source.name, source.line)


def _open(ref: Any) -> _Source:
    if isinstance(ref, (str, os.PathLike)):
        return _open_named(ref)
    if isinstance(ref, torch.Tensor):
        ref = ref.detach().cpu().numpy()
    if isinstance(ref, np.ndarray):
        return _Source(files.raw_arrays({ALL: ref}, {}, "array"), "array")
    if type(ref).__module__.startswith("polars"):
        import pandas

        ref = pandas.DataFrame({name: ref[name].to_numpy() for name in ref.columns})
    if hasattr(ref, "columns") and hasattr(ref, "iloc"):
        frame = ref.set_axis([str(column) for column in ref.columns], axis=1).reset_index(drop=True)
        tables.check_columns(list(frame.columns), "frame")
        return _Source(Raw({ALL: Part(frame)}, named=True), "frame", container="pandas")
    expected = "a name, a path, an array, a tensor, a frame or a Dataset"
    raise ConfigError(f"data: expected {expected}, got {type(ref).__name__}")


def _open_named(ref: str | os.PathLike[str]) -> _Source:
    name, path = os.fspath(ref), Path(ref).expanduser()
    if name in ENTRIES:
        entry = ENTRIES[name]
        raw, origin = entry.load()
        container = "pandas" if raw.named else "array"
        return _Source(raw, name, entry.description, origin, container, entry.label, entry.drop)
    if not path.exists():
        raise ConfigError(f"{name!r} is neither a data set nor an existing path{did_you_mean(name, ENTRIES)}")
    raw = files.read_path(path)
    line = files.csv_line(path) if path.name.lower().endswith((".csv", ".csv.gz")) else tables.row_words
    return _Source(raw, str(path), origin=str(path), container="pandas" if raw.named else "array", line=line)


def _from_dataset(data: Dataset) -> _Source:
    """A data set as if it had just been read, to be fitted to another schema."""
    import pandas

    schema = data.schema
    if schema.is_image:
        parts = {name: Part(split.x, _names_of(split.y, schema)) for name, split in data.splits.items()}
        return _Source(Raw(parts, schema.levels), data.name, data.description, data.origin)
    parts = {
        name: Part(pandas.DataFrame(split.x, columns=schema.names), _names_of(split.y, schema))
        for name, split in data.splits.items()
    }
    return _Source(Raw(parts, named=True), data.name, data.description, data.origin, schema.container)


def _names_of(y: np.ndarray | None, schema: Schema) -> np.ndarray | None:
    if y is None:
        return None
    return np.array([*(schema.classes or ()), None], dtype=object)[y]


def _take_apart(
    part: Part,
    source: _Source,
    *,
    label: str | None,
    drop: Sequence[str],
    group: str | None,
    time: str | None,
    weight: str | None,
) -> _Rows:
    import pandas

    options = {"label": label, "group": group, "time": time, "weight": weight}
    taken = {key: tables.take_column(part, c, key, source.name) for key, c in options.items() if c}
    for column in drop:
        tables.take_column(part, column, "drop", source.name)
    x: Any = part.x
    if isinstance(x, pandas.DataFrame):
        x = x.drop(columns=list({*drop, *(c for c in options.values() if c)}))
        if x.shape[1] == 0:
            raise DataError(f"{source.name}: expected at least one column to model, got none")
    y = taken["label"].to_numpy(dtype=object, na_value=None) if "label" in taken else part.y
    return _Rows(
        x,
        y,
        _weights(taken["weight"], source) if "weight" in taken else None,
        _whole(pandas.factorize(taken["group"])[0], "group", taken, source) if "group" in taken else None,
        _times(taken["time"], source) if "time" in taken else None,
    )


def _whole(codes: np.ndarray, option: str, taken: Mapping[str, Any], source: _Source) -> np.ndarray:
    """Codes, -1 standing for an empty cell, which is refused."""
    if (codes < 0).any():
        row = source.line(int((codes < 0).argmax()))
        raise DataError(f"{source.name}: {option} column {taken[option].name!r} is empty at {row}")
    return codes


def _weights(column: Any, source: _Source) -> np.ndarray:
    weights = tables.values(column.to_frame(), source.name, source.line)[:, 0]
    if (weights < 0).any() or weights.sum() == 0:
        row = int((weights < 0).argmax())
        found = f"{weights[row]:g} at {source.line(row)}" if (weights < 0).any() else "only zeros"
        raise DataError(f"{source.name}: weight column {column.name!r}: expected weights >= 0, got {found}")
    return weights


def _times(column: Any, source: _Source) -> np.ndarray:
    """Times as numbers that sort as the times do: numbers as they are, all else read as dates."""
    import pandas

    if column.dtype.kind in "iuf":
        times = column
    else:
        try:
            times = pandas.to_datetime(column)
        except (ValueError, TypeError) as e:
            reason = str(e).split(". ")[0]
            raise DataError(
                f"{source.name}: time column {column.name!r}: expected dates ({reason})"
            ) from None
    _whole(np.where(times.isna(), -1, 0), "time", {"time": column}, source)
    return times.to_numpy()


def _fresh(
    source: _Source,
    rows: Mapping[str, _Rows],
    binarize: Binarize | None,
    seed: int,
    label: str | None,
    shares: splits.Fractions,
    kinds: Mapping[str, str],
) -> Dataset:
    """The data with a schema of their own."""
    x = {name: part.matrix(source) for name, part in rows.items()}
    _same_shape(x, source)
    chosen, note = _choose(rows, seed, shares, source)
    classes = _classes({name: part.y for name, part in rows.items()}, source)
    found: dict[str, Split] = {}
    for name, (part, index) in chosen.items():
        y, weight = _codes(rows[part].y, classes), rows[part].weight
        found[name] = Split(
            x[part][index],
            None if y is None else y[index],
            None if weight is None else weight[index],
            index,
        )
    if source.raw.is_image:
        if kinds:
            raise ConfigError("kinds: expected a table with columns, got pictures")
        schema = _picture_schema(source, found["train"].x.shape[1:], binarize, seed, classes)
        found = {name: _binarized(split, schema, name) for name, split in found.items()}
    else:
        if binarize not in (None, "none"):
            raise ConfigError(f"binarize: expected grey pictures, got a table ({source.name})")
        frame = rows[next(iter(rows))].x
        names, dtypes = list(frame.columns), [str(dtype) for dtype in frame.dtypes]
        for name in kinds:
            if name not in names:
                raise ConfigError(f"kinds: {source.name} has no column {name!r}{did_you_mean(name, names)}")
        schema = Schema.of_table(
            found["train"].x,
            names,
            column_kinds(names, dtypes, np.concatenate(list(x.values())), kinds),
            dtypes,
            classes=classes,
            label=label,
            container=source.container,
        )
    notes = [source.description, *source.raw.notes, note]
    return Dataset(source.name, schema, found, "; ".join(filter(None, notes)), source.origin)


def _same_shape(x: Mapping[str, np.ndarray], source: _Source) -> None:
    first = next(iter(x.values())).shape[1:]
    for name, values in x.items():
        if values.shape[1:] != first:
            raise DataError(f"{source.name}: {name}: expected rows of shape {first}, got {values.shape[1:]}")


def _choose(
    rows: Mapping[str, _Rows], seed: int, shares: splits.Fractions, source: _Source
) -> tuple[dict[str, tuple[str, np.ndarray]], str]:
    """For each split the part it is cut from and the rows of it; and a note where there are too few rows."""
    if ALL in rows:
        cut = rows[ALL].cut(seed, shares)
        note = (
            ""
            if len(rows[ALL]) > 2
            else "too few rows to split: all are in train, and nothing tests the model"
        )
        return {name: (ALL, index) for name, index in cut.items()}, note
    if "train" not in rows:
        raise DataError(f"{source.name}: expected a train split, got {', '.join(rows)}")
    chosen = {name: (name, np.arange(len(part))) for name, part in rows.items()}
    if "valid" in rows:
        return chosen, ""
    cut = rows["train"].cut(seed, (1 - _VALID_SHARE, _VALID_SHARE, 0.0))
    chosen = {name: ("train", index) for name, index in cut.items()} | {
        name: both for name, both in chosen.items() if name != "train"
    }
    return chosen, f"valid was cut from train ({_VALID_SHARE:.0%})" if "valid" in cut else ""


def _classes(labels: Mapping[str, np.ndarray | None], source: _Source) -> tuple[str, ...] | None:
    """Names of the classes: those that came with the data, or the labels themselves in order."""
    import pandas

    present = [y for y in labels.values() if y is not None]
    if not present:
        return None
    values = pandas.Series(np.concatenate(present)).dropna().infer_objects()
    if values.dtype.kind == "f" and not (values == values.round()).all():
        raise DataError(
            f"{source.name}: expected classes as labels, got real numbers such as {values[values != values.round()].iloc[0]}"
            "; leave the column out with drop, or keep it as a column of the data"
        )
    named = source.raw.classes
    if named is not None and values.dtype.kind in "iu":
        if len(values) and not 0 <= values.min() <= values.max() < len(named):
            raise DataError(
                f"{source.name}: expected labels 0..{len(named) - 1}, got {values.min()}..{values.max()}"
            )
        return named
    try:
        ordered = sorted(values.unique())
    except TypeError:  # numbers among words
        ordered = sorted(values.unique(), key=str)
    return tuple(dict.fromkeys(map(_class_name, ordered)))


def _class_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, (float, np.floating)) and value == int(value) else str(value)


def _codes(y: np.ndarray | None, classes: tuple[str, ...] | None) -> np.ndarray | None:
    """Labels as positions in `classes`, int64; -1 for none, or one that is not among them."""
    if y is None or classes is None:
        return None
    import pandas

    values = pandas.Series(y)
    if (
        values.dtype.kind in "iu"
        and values.between(0, len(classes) - 1).all()
        and _class_name(0) not in classes
    ):
        return values.to_numpy(np.int64)  # numbers of named classes
    position = {name: i for i, name in enumerate(classes)}
    return values.map(lambda v: -1 if pandas.isna(v) else position.get(_class_name(v), -1)).to_numpy(np.int64)


def _picture_schema(
    source: _Source,
    shape: tuple[int, ...],
    binarize: Binarize | None,
    seed: int,
    classes: tuple[str, ...] | None,
) -> Schema:
    levels = source.raw.levels
    assert levels
    if binarize in (None, "none"):
        how = "static" if source.raw.published else None
        extra = {"binarization": how, "grey": 256} if how else {}
        return Schema.of_pictures(shape, levels, classes=classes, **extra)
    if levels == 2:
        raise ConfigError(f"binarize: expected grey pictures, got 0/1 pictures ({source.name})")
    return Schema.of_pictures(
        shape, 2, grey=levels, binarization=binarize, binarization_seed=seed, classes=classes
    )


def _binarized(split: Split, schema: Schema, name: str) -> Split:
    """Grey pictures as the schema's binarisation wants them; others as they are."""
    if schema.levels != 2 or split.x.max(initial=0) <= 1:
        return split
    if schema.binarization == "dynamic" and name == "train":
        return replace(split, redraw=True)
    top = (schema.fields[0].grey or 256) - 1
    return replace(split, x=pictures.binarize(split.x, top, schema.binarization_seed, name))


def _fitted(source: _Source, rows: Mapping[str, _Rows], schema: Schema, kinds: Mapping[str, str]) -> Dataset:
    """The data as a model with this schema takes them."""
    if kinds:
        raise ConfigError("kinds: those of the trained model are used; leave it out")
    found = {}
    for name, part in rows.items():
        x = _fit_pictures(part.x, source, schema) if schema.is_image else _fit_table(part, source, schema)
        split = Split(x, _codes(part.y, schema.classes), part.weight, np.arange(len(x)))
        found[name] = _binarized(split, schema, name)
    if "train" in found and "valid" not in found and ALL not in found:
        chosen, _ = _choose(rows, 0, (0.8, 0.1, 0.1), source)
        found = {
            name: Split(
                s.x[i],
                None if s.y is None else s.y[i],
                None if s.weight is None else s.weight[i],
                i,
                s.redraw,
            )
            for name, (part, i) in chosen.items()
            for s in (found[part],)
        }
    return Dataset(source.name, schema, found, source.description, source.origin)


def _fit_pictures(x: Any, source: _Source, schema: Schema) -> np.ndarray:
    expected = f"pictures {schema.event_shape} as the model was trained on"
    if not isinstance(x, np.ndarray):
        if x.shape[1] != schema.dims or source.raw.named:
            raise DataError(f"{source.name}: expected {expected}, got a table of {x.shape[1]} columns")
        x = pictures.pictures({ALL: x.to_numpy().reshape(-1, *schema.event_shape)}).parts[ALL].x
    assert isinstance(x, np.ndarray)
    if x.shape[1:] != schema.event_shape:
        raise DataError(f"{source.name}: expected {expected}, got {x.shape[1:]}")
    field, whitest = schema.fields[0], int(x.max(initial=0))
    levels = field.levels or 256
    if levels == 2 and whitest > 1 and schema.binarization == "given":
        raise DataError(
            f"{source.name}: expected 0/1 pictures as the model was trained on, got values 0..{whitest}"
        )
    if whitest >= (field.grey or levels if levels == 2 else levels):
        top = (field.grey or levels) - 1
        raise DataError(
            f"{source.name}: expected levels 0..{top} as the model was trained on, got 0..{whitest}"
        )
    if levels > 2 and whitest == 1:
        raise DataError(
            f"{source.name}: expected levels 0..{levels - 1} as the model was trained on, got 0/1 pictures"
        )
    return x


def _fit_table(part: _Rows, source: _Source, schema: Schema) -> np.ndarray:
    """The schema's columns, by name; by position where the data have no names."""
    if isinstance(part.x, np.ndarray):
        raise DataError(
            f"{source.name}: expected a table of {schema.dims} columns, got pictures {part.x.shape[1:]}"
        )
    frame = part.x
    missing = [name for name in schema.names if name not in frame.columns]
    if missing and not source.raw.named and frame.shape[1] == schema.dims:
        frame = frame.set_axis(schema.names, axis=1)
    elif missing and not source.raw.named:
        raise DataError(f"{source.name}: expected {schema.dims} columns as in training, got {frame.shape[1]}")
    elif missing:
        raise DataError(f"{source.name}: columns missing that the model was trained on: {', '.join(missing)}")
    x = tables.values(frame[schema.names], source.name, source.line)
    for field, column in zip(schema.fields, x.T, strict=True):
        check_kind(field.name, field.kind, column)
    return x
