"""What was filled in of data, in the units of the data, and how far that can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from jensen.core import Shown
from jensen.data import Schema, Split
from jensen.data.audio_levels import to_wave
from jensen.data.dtypes import as_dtype, in_dtype
from jensen.data.field import Field
from jensen.data.tables import words
from jensen.errors import ConfigError
from jensen.jobs.filled import Filled
from jensen.jobs.pictures import below

WAYS = {
    "direct": "as samples of the model",
    "conditional": "from p(missing | observed) itself",
    "ordered": "element by element",
    "importance": "by importance resampling",
    "mcmc": "by MCMC",
    "ensemble": "by several models",
}
"""How a datum can be filled in, in words."""
FEW = 10  # effective draws below which a datum is named in a warning
APART = 1.05  # R̂ above which chains had not met: Vehtari et al. 2021 warn above 1.01 with four times the draws
LISTED = 10  # rows that a warning names
HIDDEN = 0.35  # of white: the grey of pixels that are missing


@dataclass(frozen=True, eq=False, repr=False)
class Imputation(Shown):
    """Data with what was missing filled in, and how far that can be trusted.

    What was filled in is kept of the C cells alone that were missing, in the order of `x[missing]`; `draws`, `mean` and
    `spread` are made of it when they are asked for.

    Attributes:
        drawn: (M, C), each drawn from p(missing | observed), in the units of the data.
        expected: E[missing | observed], (C,), of names the likeliest, of names with an order the median, of sound the
            amplitude of the mean level.
        uncertainty: of each cell, (C,), in the units of the data: the standard deviation of p(missing | observed), of
            names the probability of any other, of sound half of what lies between the amplitudes of the levels a
            deviation above and below the mean.
        missing: (n, *event), True where something was filled in.
        method: of each datum, "none", "direct" (all was missing: a sample of the model), "conditional" (by
            p(missing | observed) itself, means and spreads without an error of drawing), "ordered" (each number drawn
            after all that is observed, from p(missing | observed) of that order), "importance", "mcmc", or
            "ensemble" (by several models, each in a way of its own).
        effective_sample_size: of each datum, (n,): how many independent draws its mean is worth; inf where nothing
            was missing, or the mean is none of draws.
        r_hat: of each datum, (n,): near 1 where its chains agree; NaN where none ran.
        rows: numbers of the data in what they came from, (n,), the first one 0.
        schema, part, frame: of the data, for giving them back as they came; any number stands where one is missing.
        known: whether `part` holds what stands under the mask, so that it can be shown beside what was filled in.
    """

    drawn: np.ndarray
    expected: np.ndarray
    uncertainty: np.ndarray
    missing: np.ndarray
    method: np.ndarray
    effective_sample_size: np.ndarray
    r_hat: np.ndarray
    rows: np.ndarray
    schema: Schema
    part: Split
    frame: Any = None
    known: bool = False

    @property
    def draws(self) -> np.ndarray:
        """The data with each of the draws, (M, n, *event); observed values are exactly as they were."""
        return np.stack([self._whole(cells) for cells in self.drawn])

    @property
    def mean(self) -> np.ndarray:
        """The data with what is expected, (n, *event)."""
        return self._whole(self.expected)

    @property
    def spread(self) -> np.ndarray:
        """`uncertainty` where something was missing, 0 elsewhere, (n, *event)."""
        out = np.zeros(self.missing.shape)
        out[self.missing] = self.uncertainty
        return out

    def _whole(self, cells: np.ndarray) -> np.ndarray:
        out = self.part.x.astype(np.float64)
        out[self.missing] = cells
        return out

    def completed(self, draw: int | None = None) -> Any:
        """The data whole, as they came: pictures, waveforms, an array, or a frame with all its columns in order.

        Args:
            draw: which of the draws; None for the mean.
        """
        cells = self.expected if draw is None else self.drawn[draw]
        if self.schema.is_image:
            top = (self.schema.levels or 256) - 1
            return np.clip(np.rint(self._whole(cells)), 0, top).astype(np.uint8)
        if self.schema.is_sound:
            return self._whole(cells).astype(np.float32)
        if self.frame is not None:
            return self._overlaid(cells)
        return self.schema.table(self._whole(cells), self.part.c, self.part.y)

    def _overlaid(self, cells: np.ndarray) -> Any:
        """The frame with its gaps filled; what was observed, and every column that the model does not explain, as it
        was.

        A column takes the dtype of training where that holds what was observed, as whole numbers that a gap made real.
        """
        place = {str(name): i for i, name in enumerate(self.frame.columns)}
        out, of_column = self.frame.copy(), np.nonzero(self.missing)[1]
        for j, field in enumerate(self.schema.fields):
            holes = self.missing[:, j]
            if holes.any():
                i = place[field.name]
                filled = _as_kind(self.schema, field, cells[of_column == j])
                out.isetitem(i, _filled(out.iloc[:, i], field, holes, filled, self.part.x[:, j]))
        return out

    @property
    def empty(self) -> list[str]:
        """Names of columns with cells that stay empty: training rows had none of them."""
        if self.schema.is_array:
            return []
        return [self.schema.names[j] for j in np.flatnonzero(np.isnan(self.part.x).any(0) & self.schema.unknown)]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the data as they came."""
        schema = self.schema
        absent = list(schema.given_names) if self.part.c is None else []
        absent += [schema.label] if self.part.y is None and schema.label else []
        return [name for name in schema.order or schema.names if name not in absent]

    def long(self, draws: int | None = None) -> Any:
        """All draws of a table one below the other, a frame, as mice of R has it (`as.mids`): `.imp` is the number of a
        draw from 1 on, 0 the table as it was, with its gaps, and `.id` that of a row from 1 on.

        van Buuren and Groothuis-Oudshoorn, "mice", Journal of Statistical Software 45(3), 2011.
        """
        import pandas

        whole = [self.completed(m) for m in range(draws or len(self.drawn))]
        frames = [t if hasattr(t, "iloc") else pandas.DataFrame(t, columns=self.columns) for t in whole]
        before = self.frame if self.frame is not None else self._with_gaps(frames[0])
        numbered: list[Any] = []
        for number, frame in enumerate([before, *frames]):
            frame = frame.reset_index(drop=True)
            frame.insert(0, ".imp", number)
            frame.insert(1, ".id", self.rows + 1)
            numbered.append(frame)
        dtypes = numbered[1].dtypes.to_dict()
        return pandas.concat([_nullable(numbered[0], dtypes), *numbered[1:]], ignore_index=True)

    def _with_gaps(self, frame: Any) -> Any:
        """A whole frame, emptied where something was missing."""
        frame = frame.copy()
        for j, field in enumerate(self.schema.fields):
            holes = self.missing[:, j]
            if holes.any():
                frame[field.name] = frame[field.name].mask(holes)
        return frame

    def sheet(self, across: int = 12) -> tuple[np.ndarray, int]:
        """Pictures (k · columns, C, H, W) for a grid of so many columns: rows of the data where they are known, of what
        was left of them, and of each draw, one below the other; and the number of columns.
        """
        top = (self.schema.levels or 256) - 1
        whole = self.part.x.astype(np.float64)
        return below(
            [*([whole] if self.known else []), np.where(self.missing, HIDDEN * top, whole), *self.draws], across
        )

    def table(self) -> Any:
        """How each datum was filled in, a frame: row, missing, method, effective_sample_size, r_hat."""
        import pandas

        missing = self.missing.reshape(len(self.missing), -1).sum(1)
        return pandas.DataFrame(
            {
                "row": self.rows,
                "missing": missing,
                "method": self.method,
                "effective_sample_size": self.effective_sample_size,
                "r_hat": self.r_hat,
            }
        )

    def cells(self) -> Any:
        """Each value that was filled in of a table, a frame: row, column, value, spread, effective_sample_size.

        Values are numbers; where a column holds words or dates, all are in writing. The spread is a cell's
        `uncertainty`, the effective sample size that of its row.

        Raises:
            ConfigError: the data are no table.
        """
        import pandas

        if self.schema.is_array:
            raise ConfigError(f"--cells: expected a table, got {self.schema.fields[0].kind}")
        row, column = np.nonzero(self.missing)
        fields = self.schema.fields
        written = any(field.categories is not None or field.kind == "time" for field in fields)
        values = np.empty(len(row), dtype=object if written else np.float64)
        for j, field in enumerate(fields):
            here = column == j
            found = in_dtype(_as_kind(self.schema, field, self.expected[here]), field)
            values[here] = pandas.Series(found).astype(str).to_numpy() if written else found
        return pandas.DataFrame(
            {
                "row": self.rows[row],
                "column": np.array(self.schema.names, dtype=object)[column],
                "value": values,
                "spread": self.uncertainty,
                "effective_sample_size": self.effective_sample_size[row],
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """A summary fit for JSON, its rows counted from 1."""
        filled = self.method != "none"
        sizes = self.effective_sample_size[filled & np.isfinite(self.effective_sample_size)]
        r_hats = self.r_hat[np.isfinite(self.r_hat)]
        return {
            "data": len(self.rows),
            "data_filled": int(filled.sum()),
            "values_filled": int(self.missing.sum()),
            "draws": len(self.drawn),
            "methods": {name: int((self.method == name).sum()) for name in WAYS},
            "effective_sample_size": {"median": float(np.median(sizes)), "least": float(sizes.min())}
            if len(sizes)
            else None,
            "r_hat": {"median": float(np.median(r_hats)), "largest": float(r_hats.max())} if len(r_hats) else None,
            "rows_with_few": (self.rows[self.effective_sample_size < FEW] + 1).tolist(),
            "rows_apart": (self.rows[np.nan_to_num(self.r_hat) > APART] + 1).tolist(),
        }

    @property
    def warnings(self) -> list[str]:
        """What not to trust, in sentences."""
        few = self.rows[self.effective_sample_size < FEW]
        apart = self.rows[np.nan_to_num(self.r_hat) > APART]
        said = []
        if len(few):
            said.append(f"fewer than {FEW} effective draws in {_listed(few)}: more --particles or --steps")
        if len(apart):
            said.append(f"chains had not met (R-hat above {APART}) in {_listed(apart)}: more --warmup and --steps")
        if self.empty:
            said.append(f"left empty, since the model learned from no cell of them: {', '.join(self.empty)}")
        return said

    def __str__(self) -> str:
        found = self.to_dict()
        if not found["data_filled"]:
            return f"nothing {'else ' if self.empty else ''}is missing in {found['data']:,} data"
        how = ", ".join(f"{n:,} {WAYS[name]}" for name, n in found["methods"].items() if n)
        size = found["effective_sample_size"]
        lines = [
            f"filled in {found['values_filled']:,} values in {found['data_filled']:,} of {found['data']:,} data: {how}"
        ]
        if size:
            lines.append(f"effective sample size: median {size['median']:,.0f}, least {size['least']:,.0f}")
        if found["r_hat"]:
            lines.append(f"R-hat of the chains: median {found['r_hat']['median']:.3f}, largest "
                         f"{found['r_hat']['largest']:.3f}")  # fmt: skip
        return "\n".join(lines)


def imputation(
    schema: Schema, filled: Filled, part: Split, mask: np.ndarray, frame: Any = None, known: bool = False
) -> Imputation:
    """What was drawn, in the units of the data; what was observed is `part.x`, exactly.

    A column of which training rows had no cell stays empty.
    """
    filled_in = mask if schema.is_array else mask & ~schema.unknown
    if (filled_in != mask).any():
        part = replace(part, x=np.where(mask & ~filled_in, np.nan, part.x))
    nothing = ~filled_in.reshape(len(mask), -1).any(1)
    columns, chosen = None if schema.is_array else np.nonzero(filled_in)[1], filled_in[mask]

    def of_user(cells: torch.Tensor, center: bool = True) -> np.ndarray:
        values = cells.double().cpu().numpy()[..., chosen]
        if schema.is_sound:
            return to_wave(values, *schema.quantisation)
        return values if columns is None else schema.cells_in_units(values, columns, center)

    def spread() -> np.ndarray:
        if not schema.is_sound:
            return of_user(filled.spread, center=False)
        upper, lower = of_user(filled.mean + filled.spread), of_user(filled.mean - filled.spread)
        return (upper - lower) / 2  # levels are not even

    return Imputation(
        of_user(filled.draws),
        of_user(filled.mean),
        spread(),
        filled_in,
        np.where(nothing, "none", filled.method),
        np.where(nothing, np.inf, filled.size.numpy()),
        np.where(nothing, np.nan, filled.r_hat.numpy()),
        part.index,
        schema,
        part,
        frame,
        known,
    )


def _nullable(frame: Any, dtypes: dict[Any, Any]) -> Any:
    """A frame with gaps whose whole numbers and truth values are of a dtype that has them, beside whole ones."""
    for name, dtype in dtypes.items():
        if frame[name].dtype != dtype and getattr(dtype, "kind", "") in "iub":
            frame[name] = frame[name].astype("boolean" if dtype.kind == "b" else "Int64")
    return frame


def _as_kind(schema: Schema, field: Field, values: np.ndarray) -> np.ndarray:
    """Values of a column in the user's units as one of several kinds can have them: what is whole, whole."""
    return np.rint(values) if schema.kind == "mixed" and not field.continuous else values


def _filled(own: Any, field: Field, holes: np.ndarray, cells: np.ndarray, observed: np.ndarray) -> Any:
    """A column of a frame, its holes filled by cells (C,); `observed` holds its numbers, (n,), as they were read."""
    import pandas

    if field.categories is not None or field.kind == "time" or field.duration:
        column, values = own.copy(), in_dtype(cells, field)
        if isinstance(own.dtype, pandas.CategoricalDtype):  # of words, or of what is written as these
            place = pandas.Index(words(pandas.Series(own.cat.categories))[0]).get_indexer(pandas.Index(values))
            values = own.cat.categories.take(place)
        column.iloc[holes] = pandas.Series(values, dtype=own.dtype).array
        return column
    values = observed.astype(np.float64)
    values[holes] = cells
    cast = as_dtype(values, field)
    same = np.array_equal(np.asarray(cast, dtype=np.float64)[~holes], values[~holes])
    dtype = field.dtype if same else own.dtype if own.dtype.kind == "f" else "float64"
    return pandas.Series(cast if same else values, index=own.index, dtype=dtype, name=own.name)


def _listed(rows: np.ndarray) -> str:
    shown = ", ".join(map(str, rows[:LISTED] + 1))
    more = f" and {len(rows) - LISTED:,} more" if len(rows) > LISTED else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more} (the first is 1)"
