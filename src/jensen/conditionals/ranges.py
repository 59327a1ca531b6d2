"""What values the columns of a table can take: positive numbers, an interval, the directions of a circle.

A density over a column that ends somewhere should end there too. The maps that lead to such columns stand next to the
data, so that any flow goes on in real numbers:

    positive, bounded    x = low + exp(z), low + w σ(z), …        `transforms.Bounded`
    circular             x_a = C(z_a; c), then the others given (cos x_a, sin x_a), so that the density is the same
                         where one turn ends and the next begins
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jensen.data.schema import Schema
from jensen.errors import ConfigError, DataError, DataWarning, did_you_mean
from jensen.nets import mlp
from jensen.transforms import (
    Bounded,
    Circle,
    Composed,
    Elementwise,
    Harmonics,
    RationalQuadratic,
    Rotation,
    Staged,
    Told,
    Transform,
    Turn,
)

BINS, SPLINES = 8, 2  # of an angle
HIDDEN = [64, 64]  # of the network that says how an angle depends on what is known before it


@dataclass(frozen=True)
class Ranges:
    """The range of every column, in the units of the data.

    Attributes:
        names: of the columns.
        low, high: infinite where there is no bound. Of a circle, where a turn begins and ends.
        around: whether a column is circular.
        units: center and scale by which each is prepared.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    around: tuple[bool, ...]
    units: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, schema: Schema, positive: Sequence[str], bounded: Sequence[str], circular: Sequence[str]) -> Ranges:
        """From settings: names of positive columns, and `column:low:high` of bounded and circular ones.

        Raises:
            ConfigError: listing all that is wrong: a column that there is not, or not of real numbers, named twice, or
                with bounds that are none.
        """
        problems: list[str] = []
        found: dict[str, tuple[float, float, bool]] = {}
        told = [("positive", name, name, 0.0, math.inf) for name in positive]
        for setting, words in (("bounded", bounded), ("circular", circular)):
            told += [(setting, word, *_read(setting, word, problems)) for word in words]
        for setting, word, name, low, high in told:
            if math.isnan(low):
                continue
            why = _unfit(schema, name) or ("it stands there twice" if name in found else "")
            if not why and not low < high:
                why = f"expected low < high, got {low:g} and {high:g}"
            if not why and setting == "circular" and not math.isfinite(high - low):
                why = "a turn begins and ends at a finite number"
            if why:
                problems.append(f"{setting}: {word!r}: {why}")
            else:
                found[name] = low, high, setting == "circular"
        if problems:
            raise ConfigError(problems)
        each = [found.get(name, (-math.inf, math.inf, False)) for name in schema.names]
        low, high, around = zip(*each, strict=True)
        units = tuple((field.center, field.scale) for field in schema.fields)
        return cls(tuple(schema.names), low, high, around, units)

    @property
    def any(self) -> bool:
        """Whether some column has a range of its own."""
        return any(map(math.isfinite, (*self.low, *self.high)))

    def check(self, x: np.ndarray, index: np.ndarray) -> None:
        """Raises `DataError` naming the first of data (N, D), row numbers `index`, that is out of its range.

        A bound itself is out of range: a density there is 0 or infinite. Of a circle both ends are in it.
        """
        for problem in self._problems(x, self._outside(x), index):
            raise DataError(problem)

    def beyond(self, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Data (N, D) as a model can tell that they are out of range, which in float32 a value on a bound, or next to
        it, is not: moved away from the bound, where log p(x) = −∞.

        Warns:
            DataWarning: naming each column in which data are out of range, and the first row.
        """
        out = self._outside(x)
        for problem in self._problems(x, out, index):
            warnings.warn(f"{problem}; log p(x) = -inf there", DataWarning, stacklevel=3)
        if not out.any():
            return x
        low, high, scale = np.array(self.low), np.array(self.high), np.array([scale for _, scale in self.units])
        below = x <= low
        return np.where(out, np.where(below, low - scale, high + scale), x)

    def _outside(self, x: np.ndarray) -> np.ndarray:
        """Which of data (N, D) are out of range; a gap is not."""
        low, high = np.array(self.low), np.array(self.high)
        out = np.where(self.around, (x < low) | (x > high), (x <= low) | (x >= high))
        return out & np.isfinite(x) & (np.isfinite(low) | np.isfinite(high))

    def _problems(self, x: np.ndarray, out: np.ndarray, index: np.ndarray) -> Iterator[str]:
        """Of each column with data out of range, which is the first, what was expected, and how many more there are."""
        for j in np.flatnonzero(out.any(0)).tolist():
            row, more = int(out[:, j].argmax()), int(out[:, j].sum()) - 1
            others = f" (and {more:,} row{'s' if more > 1 else ''} more)" if more else ""
            where = f"column {self.names[j]!r}, row {int(index[row]) + 1}"
            yield f"{where}: expected {self._words(j)}, got {x[row, j]:g}{others}"

    def _words(self, j: int) -> str:
        low, high = self.low[j], self.high[j]
        if self.around[j]:
            return f"a direction from {low:g} to {high:g}"
        if math.isfinite(low) and math.isfinite(high):
            return f"a number between {low:g} and {high:g}, neither of them"
        return f"a number above {low:g}" if math.isfinite(low) else f"a number below {high:g}"

    def prepared(self) -> tuple[Tensor, Tensor]:
        """Bounds as the model sees them, (D,), rounded inwards, so that what lies within them does so in the data."""
        low = [_inwards(b, c, s, math.inf) for b, (c, s) in zip(self.low, self.units, strict=True)]
        high = [_inwards(b, c, s, -math.inf) for b, (c, s) in zip(self.high, self.units, strict=True)]
        return torch.tensor(low), torch.tensor(high)

    def period(self) -> Tensor:
        """Of each prepared column, (D,); infinite where it is no circle."""
        low, high = self.prepared()
        return torch.where(torch.tensor(self.around), high - low, math.inf)


def onto_ranges(ranges: Ranges, inner: Callable[[int, int], Transform], context: int) -> Transform:
    """A flow onto the ranges of all columns.

    Args:
        inner: from how many columns there are, and the size of their context, to a flow of real numbers.
        context: size of the context, 0 for none.
    """
    low, high = ranges.prepared()
    around = [j for j, circular in enumerate(ranges.around) if circular]
    others = [j for j, circular in enumerate(ranges.around) if not circular]
    parts: list[tuple[list[int], Transform]] = []
    for j in around:
        parts.append(([j], directions(low[[j]], high[[j]] - low[[j]], context + 2 * len(parts))))
    if others:
        try:
            made = inner(len(others), context + 2 * len(parts))
        except ConfigError as e:
            beside = f"; the flow has the columns that are not circular, {len(others)}" if around else ""
            raise ConfigError([f"{problem}{beside}" for problem in e.problems]) from None
        free = not bool((low[others].isfinite() | high[others].isfinite()).any())
        parts.append((others, made if free else Composed([made, Bounded(low[others], high[others])])))
    if len(parts) == 1:
        return parts[0][1]
    return Staged(parts, [Harmonics(low[own], high[own] - low[own]) for own, _ in parts[:-1]])


def directions(low: Tensor, period: Tensor, context: int) -> Transform:
    """A flow on the circle: circular splines with rotations between them, of a uniform direction.

    Rezende et al., "Normalizing flows on tori and spheres", 2020, arXiv:2002.02428, section 2.1. Given a context, a
    network says knots, slopes and rotations. Slopes are the same at both ends of a turn, and so is the density.

    Args:
        low, period: where a turn begins and how long it is, (1,).
        context: size of the context, 0 for none.
    """
    hidden = HIDDEN[-1] if context else 0
    chain: list[Transform] = [Circle((1,))]
    for _ in range(SPLINES):
        spline = RationalQuadratic(BINS, -math.pi, math.pi, ends="circular")
        chain += [Elementwise(spline, (1,), hidden), Rotation((1,), hidden)]
    flow = Composed([*chain, Turn(low, period)])
    if not context:
        return flow
    return Told(mlp((context,), (hidden,), hidden=HIDDEN, activation="silu"), flow)


def _read(setting: str, word: str, problems: list[str]) -> tuple[str, float, float]:
    """`column:low:high`; bounds that are NaN where it is none."""
    name, *ends = word.rsplit(":", 2)
    try:
        low, high = map(float, ends)
    except ValueError:
        low = high = math.nan
    if math.isnan(low) or math.isnan(high):
        example = "angle:0:360" if setting == "circular" else "share:0:1"
        problems.append(f"{setting}: {word!r}: expected column:low:high, as {example}")
        return name, math.nan, math.nan
    return name, low, high


def _unfit(schema: Schema, name: str) -> str:
    """Why a column can have no range; empty where it can."""
    if schema.is_image:
        return "these are pictures, and ranges are of the columns of tables"
    if name in schema.given_names:
        return "that column is a condition, which is not explained"
    if name not in schema.names:
        return f"there is no such column{did_you_mean(name, schema.names)}"
    kind = next(field.kind for field in schema.fields if field.name == name)
    words = {"count": "counts", "binary": "zeros and ones"}
    return "" if kind == "real" else f"expected a column of real numbers, and it holds {words.get(kind, kind)}"


def _inwards(bound: float, center: float, scale: float, towards: float) -> float:
    """(bound − center) / scale as a float32 that is the bound itself or, restored, lies inside of it."""
    if not math.isfinite(bound):
        return bound
    found = np.float32((bound - center) / scale)
    while (float(found) * scale + center - bound) * math.copysign(1.0, towards) <= 0:
        found = np.nextafter(found, np.float32(towards))
    return float(found)


def ranges_of(modules: Iterable[torch.nn.Module]) -> Ranges | None:
    """The ranges that a module among these has, None where none has any."""
    found = (getattr(module, "ranges", None) for module in modules)
    return next((ranges for ranges in found if isinstance(ranges, Ranges)), None)
