"""What a datum is made of: typed fields, and a reversible preparation with a known log-Jacobian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from jensen.data.audio_levels import Encoding, to_levels, to_wave
from jensen.data.dtypes import finite, in_dtype, of_pandas, with_gaps
from jensen.data.field import Field, moments
from jensen.data.text_tokens import Tokens
from jensen.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas

Binarization = Literal["none", "static", "dynamic", "given"]
Measure = Literal["counting", "lebesgue", "mixed"]
Kind = Literal["binary", "levels", "count", "real", "symbol", "mixed"]


class Schema(BaseModel):
    """The fields of a datum and how they are prepared for a model; stored beside every trained model.

    >>> schema = Schema.of_table(np.array([[1.0], [3.0]]), ["height"])
    >>> schema.prepare(np.array([[5.0]]))
    tensor([[3.]])
    >>> Schema.model_validate_json(schema.model_dump_json()) == schema
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fields: tuple[Field, ...]
    classes: tuple[str, ...] | None = None
    """Names of the labels `y = 0, 1, ...`; None where there are no labels."""
    label: str | None = None
    """The column that the labels came from."""
    label_dtype: str = "object"
    """The user's dtype of that column."""
    given: tuple[Field, ...] = ()
    """Columns that are conditions, or one picture: the model is given them, and does not explain them."""
    order: tuple[str, ...] = ()
    """All columns as they stood in the user's table, with the label and what is given; () where `fields` are all."""
    missing: tuple[str, ...] = ()
    """Words that stand for a missing cell in the user's table."""
    binarization: Binarization = "none"
    binarization_seed: int = 0
    container: Literal["array", "pandas"] = "array"
    """What `restore` gives a table back as."""

    @classmethod
    def of_pictures(cls, shape: Sequence[int], levels: int = 256, **extra: Any) -> Schema:
        """Schema of pictures (C, H, W) with values 0..levels-1.

        Args:
            extra: further attributes of the schema (`classes`, `binarization`, ...) and `grey`.
        """
        grey = extra.pop("grey", None)
        extra.setdefault("binarization", "given" if levels == 2 else "none")
        field = Field(name="x", kind="image", shape=tuple(shape), levels=levels, grey=grey, dtype="uint8")
        return cls(fields=(field,), **extra)

    @classmethod
    def of_sound(cls, length: int, rate: int, levels: int = 256, encoding: Encoding = "mu-law", **extra: Any) -> Schema:
        """Schema of clips of so many samples, waveforms in [-1, 1] that the model sees as levels.

        Args:
            rate: samples per second.
            extra: further attributes of the schema (`classes`, ...).
        """
        field = Field(
            name="x", kind="audio", shape=(length,), levels=levels, dtype="float32", rate=rate, encoding=encoding
        )
        return cls(fields=(field,), **extra)

    @classmethod
    def of_text(cls, length: int, tokens: Tokens, name: str = "x", **extra: Any) -> Schema:
        """Schema of rows of so many tokens, lines of a text or windows of it.

        Args:
            name: of the column that holds the texts, where they are one of a table.
            extra: further attributes of the schema (`classes`, ...).
        """
        field = Field(name=name, kind="text", shape=(length,), levels=tokens.count, dtype="object", tokens=tokens)
        return cls(fields=(field,), **extra)

    @classmethod
    def of_table(
        cls,
        train: np.ndarray,
        names: Sequence[str],
        kinds: Sequence[Literal["real", "binary", "count"]] | None = None,
        dtypes: Sequence[str] | None = None,
        **extra: Any,
    ) -> Schema:
        """Schema of a table, real columns standardised by the mean and deviation of the training rows.

        A table is binary or of counts only if all its columns are; else every column is real.

        Args:
            train: training rows, float, (N, D).
            kinds: kind of each column; default all real.
            dtypes: dtype of each column in the user's table; default float64.
            extra: further attributes of the schema (`classes`, `label`, `container`).
        """
        dtypes = dtypes or ["float64"] * len(names)
        common = kinds[0] if kinds and len(set(kinds)) == 1 else "real"
        fields = []
        for j, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
            center, scale = moments(train[:, j]) if common == "real" else (0.0, 1.0)
            fields.append(Field(name=name, kind=common, dtype=dtype, center=center, scale=scale))
        return cls(fields=tuple(fields), **extra)

    @property
    def names(self) -> list[str]:
        return [field.name for field in self.fields]

    @property
    def given_names(self) -> list[str]:
        return [field.name for field in self.given]

    @property
    def given_width(self) -> int:
        """C, numbers that a model is given for a datum by its conditions, where these are columns."""
        return sum(field.width for field in self.given)

    @property
    def given_picture(self) -> Field | None:
        """The picture that a model is given for a datum; None where conditions are columns, or there are none."""
        return self.given[0] if self.given and self.given[0].kind == "image" else None

    @property
    def given_shape(self) -> tuple[int, ...]:
        """Of what a model is given for a datum: (C, H, W) of a picture, (C,) of columns."""
        return self.given_picture.shape if self.given_picture else (self.given_width,)

    @property
    def is_image(self) -> bool:
        return len(self.fields) == 1 and self.fields[0].kind == "image"

    @property
    def is_sound(self) -> bool:
        return len(self.fields) == 1 and self.fields[0].kind == "audio"

    @property
    def is_text(self) -> bool:
        return len(self.fields) == 1 and self.fields[0].kind == "text"

    @property
    def tokens(self) -> Tokens:
        """How a text becomes whole numbers."""
        found = self.fields[0].tokens
        assert found is not None, "only a text has tokens"
        return found

    def expect_numbers(self) -> None:
        """Raises `ConfigError` where the data are symbols, which have no order and no sums."""
        if self.kind == "symbol":
            raise ConfigError(
                "this model takes numbers, and a text is a row of symbols without an order; for a text there are "
                "markov, rnn, transformer and wavenet, and vae with encoder=rnn likelihood=autoregressive "
                "likelihood.network=rnn"
            )

    def expect_one_kind(self) -> None:
        """Raises `ConfigError` where columns are of different kinds, naming some."""
        if self.kind == "mixed":
            kinds = {field.kind: field.name for field in reversed(self.fields)}
            listed = ", ".join(f"{name!r} is {kind}" for kind, name in kinds.items())
            raise ConfigError(
                f"this model takes columns of one kind, and these differ ({listed}); for such a table there are vae, "
                "nade, hvae and ladder; or leave columns out with --drop, or make them one with --kind (kinds=)"
            )

    def expect_no_gaps(self, reason: str = "this model takes no empty cells (or NaN)") -> None:
        """Raises `ConfigError` with the reason where cells are missing, naming the columns."""
        if self.gaps:
            listed = ", ".join(repr(field.name) for field in self.fields if field.gaps)
            raise ConfigError(
                f"{reason}, and there are empty cells in the columns {listed}; vae, nade, mixture and flows take them; "
                "else fill them in, or leave out those columns with --drop"
            )

    @property
    def is_array(self) -> bool:
        """Whether a datum is one array, a picture, a clip or a text, and no row of columns."""
        return self.is_image or self.is_sound or self.is_text

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(C, H, W) of pictures, (T,) of clips, (D,) of tables."""
        return self.fields[0].shape if self.is_array else (len(self.fields),)

    @property
    def dims(self) -> int:
        return math.prod(self.event_shape)

    @property
    def levels(self) -> int | None:
        """Number of values of a pixel, of a sample of sound, or of tokens; None for tables."""
        return self.fields[0].levels if self.is_array else None

    @property
    def kind(self) -> Kind:
        """What the elements of x are: `binary`, `levels` (0..levels-1), `count`, `real`, `symbol`, whole numbers
        0..levels-1 without an order, or `mixed`, of each column its own.
        """
        if self.is_text:
            return "symbol"
        if self.is_array:
            return "binary" if self.levels == 2 else "levels"
        kinds = {field.kind for field in self.fields}
        (kind,) = kinds if len(kinds) == 1 else ("mixed",)
        return kind if kind in ("binary", "count", "real") else "mixed"  # pyright: ignore[reportReturnType]

    @property
    def unknown(self) -> np.ndarray:
        """Columns of a table of which training rows had no cell, (D,): what a model says of them means nothing."""
        return np.array([not field.present for field in self.fields])

    @property
    def constant(self) -> np.ndarray:
        """Columns of a table that held one value, or none, in the training rows, (D,)."""
        return np.array([field.constant for field in self.fields])

    @property
    def gaps(self) -> bool:
        """Whether cells may be missing: a batch then says which were seen."""
        return any(field.gaps for field in self.fields)

    def with_gaps(self) -> Schema:
        """The same, any cell of which may be missing. Raises `ConfigError` where a datum is no row of a table."""
        if self.is_array:
            raise ConfigError(f"expected a table, whose cells can be hidden, got {self.fields[0].kind}")
        return self.model_copy(update={"fields": tuple(f.model_copy(update={"gaps": True}) for f in self.fields)})

    @property
    def measure(self) -> Measure:
        """What densities are with respect to."""
        continuous = {field.continuous for field in self.fields}
        if continuous == {True, False}:
            return "mixed"
        return "lebesgue" if continuous == {True} else "counting"

    @property
    def log_jacobian(self) -> float:
        """log |d prepared / d user|: added to a log-density of prepared data, in nats, to give the user's.

        With gaps, the mean over the training rows: what is missing has no density in any unit.
        """
        return -math.fsum(field.present * math.log(field.scale) for field in self.fields if field.continuous)

    def log_jacobians(self, x: np.ndarray) -> np.ndarray | float:
        """`log_jacobian` of each row of a table in the user's units, (N, D) with NaN where empty: (N,)."""
        if not self.gaps:
            return self.log_jacobian
        return -np.where(np.isnan(x), 0.0, np.log(self._scales)).sum(1)

    def prepare(self, x: np.ndarray) -> torch.Tensor:
        """Values in the user's units (N, *event) as the model sees them, float32 (N, *event); gaps stay NaN.

        Raises:
            DataError: the shape is not that of this schema.
        """
        return self.store(x).float()

    def store(self, x: np.ndarray) -> torch.Tensor:
        """As `prepare`, (N, *event), to be kept: pictures stay uint8, a quarter of the memory.

        Raises:
            DataError: the shape is not that of this schema.
        """
        x = np.asarray(x)
        if x.shape[1:] != self.event_shape:
            raise DataError(f"expected data of shape (N, {_listed(self.event_shape)}), got {x.shape}")
        if not self.is_array:
            if self.measure != "counting":
                x = x - self._centers
                x /= self._scales
        elif self.is_sound:
            x = to_levels(x, *self.quantisation)
        small = self.is_image and x.dtype == np.uint8
        return torch.from_numpy(np.array(x, dtype=np.uint8 if small else np.float32, order="C"))

    def prepare_given(self, c: np.ndarray) -> torch.Tensor:
        """Conditions in the user's units (N, G) as the model is given them, float32 (N, C): real numbers standardised,
        categories, of which `c` holds the positions, as indicators. Pictures (N, C, H, W) stay as they are.

        Raises:
            DataError: the shape is not that of this schema.
        """
        if self.given_picture is not None:
            if c.shape[1:] != self.given_shape:
                raise DataError(f"expected given pictures (N, {_listed(self.given_shape)}), got {c.shape}")
            return torch.from_numpy(np.array(c, dtype=np.float32, order="C"))
        c = np.asarray(c, dtype=np.float64)
        if c.shape[1:] != (len(self.given),):
            raise DataError(f"expected conditions of shape (N, {len(self.given)}), got {c.shape}")
        parts = [
            (column[:, None] - field.center) / field.scale
            if field.categories is None
            else column[:, None] == np.arange(field.width)
            for field, column in zip(self.given, c.T, strict=True)
        ]
        return torch.from_numpy(np.concatenate([np.empty((len(c), 0)), *parts], axis=1).astype(np.float32))

    def restore(
        self, x: torch.Tensor, c: np.ndarray | None = None, y: np.ndarray | None = None
    ) -> np.ndarray | pandas.DataFrame:
        """The inverse of `prepare`: pictures uint8 (N, C, H, W); waveforms float32 (N, T); texts (N,); a table as it
        came, array or DataFrame, with its dtypes, names and order. Integers are rounded.

        Args:
            x: prepared, (N, *event).
            c: conditions in the user's units, (N, G), which take their places in the table.
            y: labels, (N,), which take theirs.

        Raises:
            DataError: the shape is not that of this schema, or a whole-number column holds a NaN.
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise DataError(f"expected data of shape (N, {_listed(self.event_shape)}), got {tuple(x.shape)}")
        values = x.detach().to("cpu", torch.float64).numpy()
        if self.is_image:
            assert self.levels
            return np.clip(np.rint(finite(values, "x")), 0, self.levels - 1).astype(np.uint8)
        if self.is_sound:
            return to_wave(finite(values, "x"), *self.quantisation).astype(np.float32)
        if self.is_text:
            return np.array([self.tokens.decode(row) for row in np.rint(values)], dtype=object)
        return self.table(self.in_units(values), c, y)

    def table(
        self, x: np.ndarray, c: np.ndarray | None = None, y: np.ndarray | None = None
    ) -> np.ndarray | pandas.DataFrame:
        """Rows in the user's units (N, D) in the user's own dtypes and container; `c` and `y` as in `restore`."""
        if self.kind == "mixed":
            x = np.where([not field.continuous for field in self.fields], np.rint(x), x)
        columns = {field.name: (field.dtype, with_gaps(x[:, j], field)) for j, field in enumerate(self.fields)}
        for j, field in enumerate(self.given if c is not None and self.given_picture is None else ()):
            assert c is not None
            columns[field.name] = field.dtype, in_dtype(c[:, j], field)
        if y is not None and self.label is not None:
            columns[self.label] = self.label_dtype, self.labels(y)
        columns = {name: columns[name] for name in self.order or columns if name in columns}
        if self.container == "array":
            return np.stack([column for _, column in columns.values()], axis=1)
        import pandas

        series = [
            column
            if isinstance(column, pandas.Series) and column.isna().any()
            else pandas.Series(column, dtype=of_pandas(dtype))
            for dtype, column in columns.values()
        ]
        return pandas.concat(series, axis=1, keys=list(columns))

    def labels(self, y: np.ndarray) -> Any:
        """Labels (N,) as they came, from their positions."""
        name = self.label or "label"
        return in_dtype(y, Field(name=name, kind="category", dtype=self.label_dtype, categories=self.classes))

    @property
    def quantisation(self) -> tuple[int, Encoding]:
        """Of sound: how many levels, and by which law waveforms become them."""
        field = self.fields[0]
        assert field.levels and field.encoding
        return field.levels, field.encoding

    @property
    def _centers(self) -> np.ndarray:
        return np.array([field.center if field.continuous else 0.0 for field in self.fields])

    @property
    def _scales(self) -> np.ndarray:
        return np.array([field.scale if field.continuous else 1.0 for field in self.fields])

    def in_units(self, x: np.ndarray) -> np.ndarray:
        """Prepared values of a table (*, D) in the user's units, categories as positions; the inverse of `prepare`."""
        return x * self._scales + self._centers

    def cells_in_units(self, x: np.ndarray, columns: np.ndarray, center: bool = True) -> np.ndarray:
        """`in_units` of single cells (*, C), of columns (C,); of differences without `center`."""
        return x * self._scales[columns] + (self._centers[columns] if center else 0.0)


def _listed(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
