"""A table whose columns are of different kinds: its cells as a network takes them, and one head for each kind.

Every part of the density of a row is in nats of its own column, and log p of the row their sum: nothing is weighed.
Nazabal, Olmos, Ghahramani and Valera, "Handling incomplete heterogeneous data using VAEs", 2020, arXiv:1807.03653.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from jensen.conditionals.heads import (
    BernoulliHead,
    Column,
    DiscretizedLogisticHead,
    Head,
    Support,
    inverse_positive,
    moments_of_seen,
    positive,
)
from jensen.distributions import BoundedLogistic, LogNormal, Names, Record, WholeLogisticMixture
from jensen.nets.cells import Cells

COMPONENTS = 3  # of a count's mixture
FLOOR = 0.05  # of a count's scale, in its own units: one number may have nearly all of the mass
SPREAD = 0.7  # standard deviations between where the outer components of a count start and the middle one


def cells(support: Support) -> Cells | None:
    """What turns data of that support, and which cells are there, into numbers; None where they are as they are."""
    if not support.columns:
        return _of_one_kind(support) if support.gaps else None
    columns = support.columns
    names = [len(c.categories or ()) if c.kind == "category" else 0 for c in columns]
    units = [_unit(column) for column in columns]
    return Cells(
        len(columns),
        support.gaps,
        names,
        [shift for shift, _ in units],
        [scale for _, scale in units],
        [j for j, c in enumerate(columns) if c.kind == "positive"],
        [j for j, c in enumerate(columns) if c.kind == "count"],
    )


def _of_one_kind(support: Support) -> Cells:
    dims = math.prod(support.shape)
    shift, scale = [support.middle] * dims, [support.unit] * dims
    return Cells(dims, True, shift=shift, scale=scale, squashed=range(dims) if support.kind == "count" else ())


def _unit(column: Column) -> tuple[float, float]:
    """Shift and scale that bring prepared numbers of a column to order one."""
    if column.kind == "count":
        return column.center, column.scale
    if column.kind == "ordinal":
        half = max(1, len(column.categories or ()) - 1) / 2
        return half, half
    return (0.5, 0.5) if column.kind in ("binary", "bounded") else (0.0, 1.0)


class RecordHead(Head):
    """The outputs for all columns, kind by kind.

    Args:
        support: with columns.
        real: the head of real columns and times.
    """

    def __init__(self, support: Support, real: Callable[[Support], Head]):
        super().__init__(support, per_element=1)
        self.places: list[list[int]] = []
        heads: list[Head] = []
        for key, places in _groups(support.columns).items():
            columns = [support.columns[j] for j in places]
            self.places.append(places)
            heads.append(_head(key, columns, real))
        self.heads = torch.nn.ModuleList(heads)
        self.sizes = [int(torch.Size(head.parameter_shape).numel()) for head in heads]

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return (sum(self.sizes),)

    def forward(self, parameters: Tensor) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        parts = parameters.split(self.sizes, -1)
        return Record([head(part) for head, part in zip(self.heads, parts, strict=True)], self.places)

    def initial_bias(self, x: Tensor) -> Tensor:
        biases = []
        for head, places, size in zip(self.heads, self.places, self.sizes, strict=True):
            bias = head.initial_bias(x[:, places])  # pyright: ignore[reportCallIssue]
            biases.append(torch.zeros(size) if bias is None else bias.flatten())
        return torch.cat([bias.to(x) for bias in biases])


def _groups(columns: Sequence[Column]) -> dict[tuple[str, int], list[int]]:
    """Columns that one head serves, by kind; of ordinals by their number of levels, of names by about that."""
    found: dict[tuple[str, int], list[int]] = {}
    for j, column in enumerate(columns):
        levels = len(column.categories or ())
        if column.kind == "ordinal" and levels > 1:
            key = ("ordinal", levels)
        elif column.categories is not None:
            key = ("category", max(2, 1 << (levels - 1).bit_length()))
        else:
            key = ("real" if column.kind == "time" else column.kind, 0)
        found.setdefault(key, []).append(j)
    return found


def _head(key: tuple[str, int], columns: Sequence[Column], real: Callable[[Support], Head]) -> Head:
    kind, levels = key
    shape = (len(columns),)
    if kind == "ordinal":
        return DiscretizedLogisticHead(Support("levels", shape, levels), 1e-3)
    if kind == "category":
        return NamesHead([len(column.categories or ()) for column in columns])
    made: dict[str, Callable[[], Head]] = {
        "real": lambda: real(Support("real", shape)),
        "binary": lambda: BernoulliHead(Support("binary", shape)),
        "positive": lambda: PositiveHead(shape[0]),
        "bounded": lambda: BoundedHead(shape[0]),
        "count": lambda: CountHead([c.center for c in columns], [c.scale for c in columns]),
    }
    return made[kind]()


class NamesHead(Head):
    """Logits of the names of several columns; those that a column does not have are −∞.

    Args:
        counts: how many names each column has.
    """

    absent: Tensor

    def __init__(self, counts: Sequence[int]):
        most = max(2, *counts) if len(counts) > 1 else max(2, counts[0])
        super().__init__(Support("symbol", (len(counts),), most), per_element=most)
        absent = torch.arange(most) >= torch.tensor(list(counts)).clamp_min(1).unsqueeze(1)
        self.register_buffer("absent", absent, persistent=False)  # (n, C)

    def forward(self, parameters: Tensor) -> Names:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Names(self._last(parameters).masked_fill(self.absent, -torch.inf))

    def initial_bias(self, x: Tensor) -> Tensor:
        there, most = ~x.isnan(), self.per_element
        counts = torch.stack([((x == name) & there).sum(0) for name in range(most)]).to(torch.get_default_dtype())
        return self._join(((counts + 1 / most) / (there.sum(0) + 1)).log())


class PositiveHead(Head):
    """The output is the mean of the logarithm, and its raw scale."""

    floor = 0.01

    def __init__(self, columns: int):
        super().__init__(Support("real", (columns,)), per_element=2)

    def forward(self, parameters: Tensor) -> LogNormal:  # pyright: ignore[reportIncompatibleMethodOverride]
        loc, raw = self._split(parameters)
        return LogNormal(loc, positive(raw, self.floor, 1.0))

    def initial_bias(self, x: Tensor) -> Tensor:
        mean, variance = moments_of_seen(x.log())
        return self._join(mean, inverse_positive(variance.sqrt(), self.floor, 1.0))


class BoundedHead(Head):
    """The output is the location, in half the width of the interval from its middle, and the raw scale."""

    floor = 1e-3
    start = 0.25

    def __init__(self, columns: int):
        super().__init__(Support("real", (columns,)), per_element=2)

    def forward(self, parameters: Tensor) -> BoundedLogistic:  # pyright: ignore[reportIncompatibleMethodOverride]
        loc, raw = self._split(parameters)
        return BoundedLogistic(0.5 + 0.5 * loc, positive(raw, self.floor, self.start))

    def initial_bias(self, x: Tensor) -> Tensor:
        mean, variance = moments_of_seen(x)
        scale = variance.sqrt() * 3**0.5 / torch.pi
        return self._join(2 * mean - 1, inverse_positive(scale, self.floor, self.start))


class CountHead(Head):
    """The output is the weights' logits, the locations and the raw scales of a few components, in standard units.

    Args:
        center, scale: mean and standard deviation of each column.
    """

    center: Tensor
    scale: Tensor
    spread: Tensor

    def __init__(self, center: Sequence[float], scale: Sequence[float]):
        super().__init__(Support("real", (len(center),)), per_element=3 * COMPONENTS)
        for name, values in (("center", center), ("scale", scale)):
            self.register_buffer(name, torch.tensor(list(values)).unsqueeze(-1), persistent=False)  # (n, 1)
        self.register_buffer("spread", torch.linspace(-SPREAD, SPREAD, COMPONENTS), persistent=False)

    def forward(self, parameters: Tensor) -> WholeLogisticMixture:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, loc, raw = self._last(parameters).chunk(3, -1)
        scale = FLOOR + self.scale * F.softplus(raw)
        return WholeLogisticMixture(logits, self.center + self.scale * (loc + self.spread), scale)

    def initial_bias(self, x: Tensor) -> Tensor:
        """Each component takes an equal share of the sorted data: its mean and its spread."""
        mean, _ = moments_of_seen(x.float())
        unit = (torch.where(x.isnan(), mean, x.float()) - self.center[:, 0].to(x)) / self.scale[:, 0].to(x)
        shares = unit.repeat_interleave(COMPONENTS, 0).sort(0).values.chunk(COMPONENTS)
        loc = torch.stack([share.mean(0) for share in shares])  # (K, n)
        within = torch.stack([share.std(0, correction=0) for share in shares]) * 3**0.5 / torch.pi
        raw = within.clamp_min(0.02)
        raw = raw + torch.log(-torch.expm1(-raw))
        return self._join(torch.zeros_like(loc), loc - self.spread.to(loc).unsqueeze(-1), raw)


def by_column(support: Support, real: Callable[[Support], Head]) -> Head:
    """The head that `real` makes; of mixed columns, to each kind its own, and that to the real ones."""
    return RecordHead(support, real) if support.columns else real(support)
