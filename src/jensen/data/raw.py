"""Data as they were read, before they are split and given a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jensen.errors import DataError

if TYPE_CHECKING:
    import pandas

    from jensen.data.field import Field

SPLITS = ("train", "valid", "test")
ALL = "all"


@dataclass(frozen=True)
class Part:
    """Rows that belong together: pictures uint8 (N, C, H, W), a table or sound, and labels of any dtype (N,).

    Attributes:
        x: sound comes as recordings, waveforms in [-1, 1] of any length, an array of arrays (N,), and leaves as clips,
            float32 (N, T).
        rate: of recordings, samples per second of each, (N,).
        group: rows of one number stay in one split, (N,): the clips of a recording.
        given: what a model is given of each row and does not explain: pictures uint8 (N, C, H, W) or a table.
    """

    x: np.ndarray | pandas.DataFrame
    y: np.ndarray | None = None
    rate: np.ndarray | None = None
    group: np.ndarray | None = None
    given: np.ndarray | pandas.DataFrame | None = None


@dataclass(frozen=True)
class Texts:
    """The texts of a part, as they were read.

    Attributes:
        texts: one or several, (N,).
        y: labels of any dtype, (N,), None for none; None where nothing has one.
        names: where each comes from, for messages, (N,); None where that is what holds them all.
        apart: each is a line of what they come from, and not a file of lines.
    """

    texts: Sequence[str]
    y: np.ndarray | None = None
    names: Sequence[str] | None = None
    apart: bool = False

    def __post_init__(self) -> None:
        if self.y is not None and len(self.y) != len(self.texts):
            raise DataError(f"expected {len(self.texts)} labels, one for each text, got {len(self.y)}")


@dataclass(frozen=True)
class Raw:
    """What a file or a package holds: its own splits, or one part named `all`.

    Attributes:
        levels: pictures have values 0..levels-1; None for all else.
        classes: names of whole-number labels 0, 1, ..., where known.
        named: the columns have names of their own, so that they can be matched by name.
        published: 0/1 pictures whose binarisation is part of the data set, from grey ones.
        notes: what was done on reading, for the description.
        sound: what clips are, and how they become levels; None for all else.
        texts: in place of parts, the texts of each split; None for all else.
        usual: options of text where nothing else is said.
        given_levels: pictures that are given have values 0..given_levels-1; None for all else.
        by_folder: labels are the folders that the data lie in.
    """

    parts: Mapping[str, Part]
    levels: int | None = None
    classes: tuple[str, ...] | None = None
    named: bool = False
    published: bool = False
    notes: tuple[str, ...] = field(default=())
    sound: Field | None = None
    texts: Mapping[str, Texts] | None = None
    usual: Mapping[str, Any] = field(default_factory=dict)
    given_levels: int | None = None
    by_folder: bool = False

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if part.y is not None and len(part.y) != len(part.x):
                raise DataError(f"{name}: expected {len(part.x)} labels, one for each row, got {len(part.y)}")
            if part.given is not None and len(part.given) != len(part.x):
                raise DataError(f"{name}: expected {len(part.x)} given, one for each row, got {len(part.given)}")
        if len({part.given is None for part in self.parts.values()}) > 1:
            missing = [name for name, part in self.parts.items() if part.given is None]
            raise DataError(f"expected what is given in every split or in none, got none in {', '.join(missing)}")

    @property
    def is_image(self) -> bool:
        return self.levels is not None

    @property
    def brings_given(self) -> bool:
        """Whether what a model is given comes beside the rows, and is no column of them."""
        return any(part.given is not None for part in self.parts.values())

    @property
    def holds_recordings(self) -> bool:
        return any(part.rate is not None for part in self.parts.values())

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.parts.values())).x.shape[1:]
