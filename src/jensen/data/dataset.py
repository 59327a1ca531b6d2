"""Data sets in the user's units, and their splits on a device as a training loop takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from jensen.data.audio_levels import loss
from jensen.data.doubts import doubts
from jensen.data.dtypes import in_dtype
from jensen.data.field import Field
from jensen.data.raw import ALL
from jensen.data.schema import Schema
from jensen.data.text_tokens import AMOUNTS
from jensen.errors import DataError, did_you_mean

Index = torch.Tensor | slice


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a data set, in the user's units.

    Attributes:
        x: uint8 pictures (N, C, H, W), float32 waveforms (N, T) or a float64 table (N, D).
        y: labels, int64 (N,), -1 where a row has none; None where nothing has.
        weight: non-negative row weights, float64 (N,), or None.
        starts: of windows of texts that stand one after another, which of them begin a text, bool (N,); else None.
        amounts: of text, how many tokens, words, characters, bytes and words that became `<unk>` each row is, int64
            (N, 5); None where that is not known.
        c: conditions, what a model is given: columns, float64 (N, G), real numbers and the positions of categories
            among those of the schema; or pictures, uint8 (N, C, H, W); None where there are none.
        index: rows of the original data that these were, int64 (N,).
        redraw: these are grey pictures that a model takes as 0/1, drawn afresh each time.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    weight: np.ndarray | None = None
    index: np.ndarray = field(default_factory=lambda: np.arange(0))
    redraw: bool = False
    c: np.ndarray | None = None
    amounts: np.ndarray | None = None
    starts: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.index) == 0:
            object.__setattr__(self, "index", np.arange(len(self.x)))

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.x.shape))
        beside = [name for name in ("y", "weight", "c") if getattr(self, name) is not None]
        return f"<Split of {shape}{', with ' if beside else ''}{', '.join(beside)}>"

    def rows(self, index: np.ndarray) -> Split:
        """The rows at an index, with all that belongs to them, but for what stands before them in a text."""
        taken = {name: getattr(self, name) for name in ("y", "weight", "c", "amounts")}
        taken = {name: None if values is None else values[index] for name, values in taken.items()}
        return replace(self, x=self.x[index], index=self.index[index], starts=None, **taken)

    def joined(self, other: Split) -> Split:
        """These rows and those of another after them, of the same kind. What one of them lacks all rows lack, but for
        labels and weights: -1 and 1.
        """
        taken: dict[str, np.ndarray | None] = {}
        for name, default in (("y", -1), ("weight", 1.0), ("c", None), ("amounts", None), ("starts", None)):
            own = [(part, getattr(part, name)) for part in (self, other)]
            if default is not None and any(values is not None for _, values in own):
                own = [(part, np.full(len(part), default) if v is None else v) for part, v in own]
            found = [values for _, values in own]
            taken[name] = None if any(v is None for v in found) else np.concatenate(found)
        whole = {"x": np.concatenate([self.x, other.x]), "index": np.concatenate([self.index, other.index])}
        return replace(self, **whole, **taken)

    @cached_property
    def sha256(self) -> str:
        """Digest of shape, values, weights and conditions, whatever the machine. Labels do not enter."""
        digest = hashlib.sha256()
        for values in (v for v in (self.x, self.weight, self.c) if v is not None):
            kind = "u1" if values.dtype == np.uint8 else "<f8"
            digest.update(f"{kind}{values.shape}".encode())
            for rows in np.array_split(values, max(1, values.nbytes >> 24)):
                # Adding zero turns -0.0, which equals 0.0, into it.
                digest.update(np.ascontiguousarray(rows + rows.dtype.type(0), dtype=kind).tobytes())
        return digest.hexdigest()

    def to(self, schema: Schema, device: torch.device | str = "cpu") -> TensorSplit:
        """These rows, prepared, on a device."""
        weight = None if self.weight is None else torch.from_numpy(self.weight).float().to(device)
        y = None if self.y is None else torch.from_numpy(self.y).to(device)
        c = None if self.c is None else schema.prepare_given(self.c).to(device)
        if not self.redraw:
            x = schema.store(self.x).to(device)
            seen = ~x.isnan() if schema.gaps else None
            starts = None if self.starts is None else torch.from_numpy(self.starts).to(device)
            end = None if starts is None else schema.tokens.end
            x = x if seen is None else x.nan_to_num_()
            return TensorSplit(x, y, weight, c=c, seen=seen, end=end, starts=starts)
        grey = torch.tensor(self.x, device=device)
        return TensorSplit(grey, y, weight, top=(schema.fields[0].grey or 256) - 1, c=c)


class TensorSplit:
    """A split in memory on a device, ready to be indexed.

    Attributes:
        x: prepared values, (N, *event): of pictures uint8, a quarter of the memory, of all else float32.
        top: the whitest grey, where each `take` draws pixels afresh from Bernoulli(v / top); else None.
        c: prepared conditions, float32 (N, C), or pictures (N, C, H, W); or None.
        seen: which cells of a table are there, (N, D), where some may be missing, for which x has 0; or None.
        starts: where rows are windows of texts, one after another, which of them begin a text, (N,); else None.
        end: the token after the last of such a text; else None.
    """

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
        top: int | None = None,
        c: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
        end: int | None = None,
        starts: torch.Tensor | None = None,
    ):
        self.x, self.y, self.weight, self.top, self.c, self.seen = x, y, weight, top, c, seen
        self.end, self.starts = end, starts

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Index) -> dict[str, torch.Tensor]:
        """The rows of a batch: `x` (B, *event) and, where there are any, `y` (B,), `weight` (B,), `c` (B, C) and `seen`
        (B, D).
        """
        # Rows copied one by one: five times as fast as indexing.
        x = self.x[index] if isinstance(index, slice) else self.x.index_select(0, index)
        if self.top is not None:
            x = torch.rand(x.shape, device=x.device).lt_(x / self.top)
        elif x.dtype == torch.uint8:
            x = x.float()
        batch = {"x": x}
        if self.y is not None:
            batch["y"] = self.y[index]
        if self.weight is not None:
            batch["weight"] = self.weight[index]
        if self.c is not None:
            batch["c"] = self.c[index]
        if self.seen is not None:
            batch["seen"] = self.seen[index]
        return batch

    def recut(self, shift: int) -> TensorSplit:
        """As many windows of the same text, cut so many tokens further on, fewer than a window has; itself where rows
        are not windows of one text, three or more. The text makes a ring: what stands before the first window follows
        its end, and of the window that it ends in the rest is ends.
        """
        if self.end is None or self.starts is None or len(self) < 3 or int(self.starts.sum()) != 1:
            return self
        flat, end = self.x.flatten(), self.end
        filled = int((flat != end).sum())
        stream = flat[: min(filled + 1, len(flat))]  # one end, where there is any
        x = torch.cat([stream[shift:], stream[: shift + len(flat) - len(stream)]]).view_as(self.x)
        last = (x == end).any(1)
        x[last] = x[last].masked_fill((x[last] == end).cummax(1).values, end)
        return TensorSplit(x, self.y)  # of one text, which has one label

    def rows(self, index: torch.Tensor) -> TensorSplit:
        """The rows at an index or a mask, with all that belongs to them."""
        y, weight, c, seen = (None if v is None else v[index] for v in (self.y, self.weight, self.c, self.seen))
        return TensorSplit(self.x[index], y, weight, self.top, c, seen)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set: its schema and its splits, of which `train`, `valid` and `test` may be absent.

    Attributes:
        description: what it is, and what was done to it on reading.
        origin: the file, folder or package that it came from.
        recipe: name or absolute path, and options, with which `load_data` makes the same again; None for data that
            were in memory.
    """

    name: str
    schema: Schema
    splits: Mapping[str, Split]
    description: str = ""
    origin: str = ""
    recipe: tuple[str, dict[str, Any]] | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(split):,}" for name, split in self.splits.items())
        return f"<Dataset {self.name}: {self.schema.kind}, shape {self.schema.event_shape}; {sizes}>"

    @property
    def warnings(self) -> list[str]:
        """What a model learns nothing of, or other things than are meant, in sentences."""
        if self.schema.is_text:
            return self.schema.tokens.doubts(self.splits["train"].x) if "train" in self.splits else []
        own = [] if self.schema.is_array else doubts(self.schema.fields, [split.x for split in self.splits.values()])
        given = [split.c for split in self.splits.values() if split.c is not None]
        if not given or self.schema.given_picture is not None:
            return own
        return [*own, *doubts(self.schema.given, given)]

    def merged(self) -> Dataset:
        """The same with the rows of "valid" in "train", after those that were there."""
        if not {"train", "valid"} <= set(self.splits):
            return self
        rest = {name: split for name, split in self.splits.items() if name not in ("train", "valid")}
        return replace(self, splits={"train": self.splits["train"].joined(self.splits["valid"]), **rest})

    def split(self, name: str) -> Split:
        """The split of that name. Raises `DataError` where there is none."""
        if list(self.splits) == [ALL] != [name]:
            advice = "leave out --split, or DATA to take that part of the run's own (in Python split=, data=)"
            raise DataError(f"{self.name}: no split {name!r}, these rows are one part, {ALL!r}: {advice}")
        if name not in self.splits:
            raise DataError(f"{self.name}: no split {name!r}{did_you_mean(name, self.splits)}")
        return self.splits[name]


def describe(dataset: Dataset) -> dict[str, Any]:
    """Sizes, kinds, ranges and hashes of a data set, as plain values for printing or JSON; rows counted from 1.

    Ranges are those of the training split, or of the first one where there is none.
    """
    schema = dataset.schema
    first = dataset.splits.get("train") or next(iter(dataset.splits.values()))
    report: dict[str, Any] = {
        "name": dataset.name,
        "description": dataset.description,
        "origin": dataset.origin,
        "kind": schema.kind,
        "shape": list(schema.event_shape),
        "dims": schema.dims,
        "levels": schema.levels,
        "measure": schema.measure,
        "binarization": schema.binarization,
        "classes": list(schema.classes) if schema.classes else None,
        "splits": {
            name: {"rows": len(split), "sha256": split.sha256, **_label_counts(split, schema)}
            for name, split in dataset.splits.items()
        },
        "warnings": dataset.warnings,
    }
    if schema.is_text:
        report["text"] = _text(dataset)
        return report
    if schema.is_image:
        report["values"] = {
            "min": int(first.x.min()),
            "max": int(first.x.max()),
            "mean": float(first.x.mean()),
        }
        return {**report, **_given_of(schema, first)}
    if schema.is_sound:
        lost = loss(first.x, *schema.quantisation)
        report["sound"] = {
            "rate": schema.fields[0].rate,
            "seconds": schema.dims / (schema.fields[0].rate or 1),
            "encoding": schema.fields[0].encoding,
            "snr_db": lost.snr,
            "largest_error": lost.largest,
            "error_bound": lost.bound,
            "peak": float(np.abs(first.x).max()),
            "rms": float(np.sqrt(np.mean(np.square(first.x, dtype=np.float64)))),
        }
        return report
    report["gaps"] = int(np.isnan(first.x).sum())
    empty = np.concatenate([split.index[np.isnan(split.x).all(1)] for split in dataset.splits.values()])
    report["empty_rows"] = (np.sort(empty) + 1).tolist()
    report["columns"] = [_column(field, values) for field, values in zip(schema.fields, first.x.T, strict=True)]
    report["constant"] = [column["name"] for column in report["columns"] if column["constant"]]
    return {**report, "given": [], **_given_of(schema, first)}


def _column(field: Field, values: np.ndarray) -> dict[str, Any]:
    """Of a column: kind, dtype, gaps and range; of categories how many of each there are."""
    present = values[~np.isnan(values)]
    found: dict[str, Any] = {"name": field.name, "kind": field.kind, "dtype": field.dtype}
    if field.kind == "bounded":
        found |= {"low": field.low, "high": field.high}
    found["gaps"] = len(values) - len(present)
    found["constant"] = bool(len(present) == 0 or np.ptp(present) == 0)
    if field.categories is not None:
        counts = np.bincount(present.astype(int), minlength=len(field.categories))
        return found | {"categories": dict(zip(field.categories, counts.tolist(), strict=True))}
    if not len(present):
        return found | {"min": None, "max": None, "mean": None}
    numbers = {"min": present.min(), "max": present.max(), "mean": present.mean()}
    if field.kind == "time":
        return found | {name: str(in_dtype(np.array([value]), field)[0]) for name, value in numbers.items()}
    return found | {name: float(value) for name, value in numbers.items()}


def _given_of(schema: Schema, split: Split) -> dict[str, Any]:
    """What a model is given of these rows: nothing, a picture, or columns."""
    if split.c is None:
        return {}
    columns = [split.c] if schema.given_picture is not None else split.c.T
    found = []
    for condition, values in zip(schema.given, columns, strict=True):
        one: dict[str, Any] = {"name": condition.name, "kind": condition.kind, "dtype": condition.dtype}
        if condition.kind == "image":
            one |= {"shape": list(condition.shape), "levels": condition.levels, "view": condition.view}
        if condition.categories is not None:
            one["categories"] = list(condition.categories)
        else:
            one |= {"min": float(values.min()), "max": float(values.max()), "mean": float(values.mean())}
        found.append(one)
    return {"given": found}


def _text(dataset: Dataset) -> dict[str, Any]:
    """What tokens are, and how much of everything each split holds."""
    tokens = dataset.schema.tokens
    known = {name: split.amounts for name, split in dataset.splits.items() if split.amounts is not None}
    first = next(iter(dataset.splits.values()))
    return {
        "tokens": tokens.unit,
        "words": tokens.words,
        "vocabulary": tokens.end,
        "lines": tokens.lines,
        "amounts": {n: dict(zip(AMOUNTS, a.sum(0).tolist(), strict=True)) for n, a in known.items()},
        "begins": tokens.decode(first.x[0])[:200],
    }


def _label_counts(split: Split, schema: Schema) -> dict[str, Any]:
    if split.y is None or not schema.classes:
        return {}
    counts = np.bincount(split.y[split.y >= 0], minlength=len(schema.classes))
    return {
        "labels": dict(zip(schema.classes, counts.tolist(), strict=True)),
        "unlabelled": int((split.y < 0).sum()),
    }
