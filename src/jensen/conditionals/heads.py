"""Heads: from a network's output to a density over the datum.

A head says what shape the network must put out (`parameter_shape`) and turns that into a distribution in the
units of the data. Nothing else in the package knows how a density is parametrised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jensen.data.field import Field as Column
from jensen.data.schema import Kind, Schema
from jensen.distributions import (
    Affine,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiagonalNormal,
    DiscretizedLogistic,
    Elementwise,
    MixtureDiscretizedLogistic,
    NegativeBinomial,
    NormalMixture,
    Poisson,
    StudentT,
    Symbols,
    after_end,
)
from jensen.errors import ConfigError


@dataclass(frozen=True)
class Support:
    """What the values of a datum can be.

    `binary` zeros and ones; `levels` the whole numbers 0..levels−1 (grey levels of a picture); `count` 0, 1,
    2, …; `real` real numbers, standardised; `symbol` the whole numbers 0..levels−1 without an order, of which one may
    be the `end` of a row; `mixed` what each of the `columns` says. `shape` is that of one datum: (C, H, W) or (D,).
    With `gaps`, elements may be missing, and `seen` says which are there.

    A network works in numbers of order one: levels are `middle + unit·f` with f in [−1, 1].

    >>> support = Support("levels", (1, 28, 28), levels=256)
    >>> support.middle, support.unit
    (127.5, 127.5)
    """

    kind: Kind
    shape: tuple[int, ...]
    levels: int | None = None
    end: int | None = None
    columns: tuple[Column, ...] = ()
    gaps: bool = False

    def __post_init__(self):
        if (self.kind in ("levels", "symbol")) != (self.levels is not None) or (self.levels or 2) < 2:
            raise ValueError(f"levels: expected 2 or more for levels and symbols and None otherwise, got {self}")

    @classmethod
    def of(cls, schema: Schema, symbols: bool = False, cells: bool = False, gaps: bool = False) -> Support:
        """What the data of a schema can be.

        Args:
            symbols: whether a model takes symbols too, which are no numbers.
            cells: whether it takes tables of mixed columns, and with gaps.
            gaps: whether it takes tables with gaps.

        Raises:
            ConfigError: the data are symbols, of mixed columns or with gaps, and the model takes none.
        """
        if not symbols:
            schema.expect_numbers()
        if not cells:
            schema.expect_one_kind()
        if not (cells or gaps):
            schema.expect_no_gaps()
        if schema.kind == "mixed" or schema.gaps:
            columns = schema.fields if schema.kind == "mixed" else ()
            return cls(schema.kind, schema.event_shape, columns=columns, gaps=schema.gaps)
        if schema.is_text:
            return cls(schema.kind, schema.event_shape, schema.levels, schema.tokens.end)
        return cls(schema.kind, schema.event_shape, schema.levels if schema.kind == "levels" else None)

    @classmethod
    def of_levels(cls, shape: tuple[int, ...], levels: int) -> Support:
        """Whole numbers 0..levels−1; of two levels, binary."""
        return cls("binary", shape) if levels == 2 else cls("levels", shape, levels)

    @property
    def parents(self) -> tuple[str, ...]:
        """What q looks at: the datum, and which of its elements are there."""
        return ("x", "seen") if self.gaps else ("x",)

    @property
    def middle(self) -> float:
        """What f = 0 stands for: the middle of the levels, else 0."""
        return (self.levels - 1) / 2 if self.levels else 0.0

    @property
    def unit(self) -> float:
        """What a step of 1 in f stands for: half the range of the levels, else 1."""
        return (self.levels - 1) / 2 if self.levels else 1.0


class Head(nn.Module):
    """Turns a network's output `(N, *parameter_shape)` into a density over the event.

    The network puts out P = `per_element` numbers for each element of the event, stacked along its first
    dimension: (P·C, H, W) for a picture, (P·D,) for a vector. A subclass defines `forward`.
    """

    first: Literal["location", "log-odds", None] = None
    """What the first of the P is, if it is where the value lies, in the network's units, or the log-odds of a bit."""

    def __init__(self, support: Support, per_element: int):
        super().__init__()
        self.support, self.per_element = support, per_element

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """What the network must put out for one datum."""
        first, *rest = self.support.shape or (1,)
        return (self.per_element * first, *rest)

    def forward(self, parameters: Tensor) -> Elementwise:
        """The density, with batch shape (N,) and event shape `support.shape`."""
        raise NotImplementedError

    def initial_bias(self, x: Tensor) -> Tensor | None:
        """A constant output under which the density is about the marginal of the data, element by element.

        Args:
            x: data, `(N, *event)`.

        Returns:
            `parameter_shape`, or None where the head knows none. As the bias of a decoder's last layer it
            spares the first epochs, which would learn just this.
        """
        return None

    @property
    def _event_dims(self) -> int:
        return len(self.support.shape)

    def _split(self, parameters: Tensor) -> tuple[Tensor, ...]:
        """`(*, *parameter_shape)` as P tensors `(*, *event)`."""
        if self._event_dims:  # P blocks along the event's first dimension
            parameters = self._precise(parameters)
            if self.per_element == 1:
                return (parameters,)
            return parameters.chunk(self.per_element, -self._event_dims)
        stacked, dim = self._stacked(parameters)
        return stacked.unbind(dim)

    def _last(self, parameters: Tensor) -> Tensor:
        """`(*, *parameter_shape)` as `(*, *event, P)`."""
        stacked, dim = self._stacked(parameters)
        return stacked.movedim(dim, -1)

    @staticmethod
    def _precise(parameters: Tensor) -> Tensor:
        """At least in float32: bfloat16 is for networks only."""
        return parameters if parameters.dtype in (torch.float32, torch.float64) else parameters.float()

    def _stacked(self, parameters: Tensor) -> tuple[Tensor, int]:
        """`(*, P, *event)` and where P stands."""
        parameters = self._precise(parameters)
        dim = parameters.ndim - max(self._event_dims, 1)
        shape = (*parameters.shape[:dim], self.per_element, *self.support.shape)
        return parameters.reshape(shape), dim

    def _join(self, *parameters: Tensor) -> Tensor:
        """Tensors `(*event)` or `(n, *event)`, P rows together, as one `parameter_shape`."""
        rows = [p.reshape(-1, *self.support.shape) for p in parameters]
        return torch.cat(rows).reshape(self.parameter_shape)

    def _loc_and_scale(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """From the network's units to the data's."""
        if self.support.unit == 1.0:
            return loc, scale
        return self.support.middle + self.support.unit * loc, self.support.unit * scale

    def _mean_and_std(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of data `(N, *event)`, in the network's units."""
        f = (x.float() - self.support.middle) / self.support.unit
        mean, variance = moments_of_seen(f)
        return mean, variance.sqrt()


def moments_of_seen(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the data (N, *event) of each element where it is there; 0 where it never is."""
    mean = x.nanmean(0).nan_to_num()
    return mean, (x - mean).square().nanmean(0).nan_to_num()


def positive(raw: Tensor, floor: float, start: float) -> Tensor:
    """floor + softplus(raw + c), with c such that raw = 0 gives `start`."""
    return floor + F.softplus(raw + inverse_softplus(start - floor))


def inverse_softplus(y: float) -> float:
    """The x whose softplus is y > 0.

    >>> round(inverse_softplus(1.0), 4)  # log(e − 1)
    0.5413
    """
    return y + math.log(-math.expm1(-y))


def inverse_positive(y: Tensor, floor: float, start: float) -> Tensor:
    """The raw value that `positive` sends to y, or near it where y is below the floor."""
    y = (y - floor).clamp(min=0.1 * (start - floor))
    return y + torch.log(-torch.expm1(-y)) - inverse_softplus(start - floor)


def soft_clamp(raw: Tensor, limit: float) -> Tensor:
    """About `raw` near 0, never beyond ±limit, and never without a gradient."""
    return limit * torch.tanh(raw / limit)


def _inverse_soft_clamp(y: Tensor, limit: float) -> Tensor:
    return limit * torch.atanh((y / limit).clamp(-0.99, 0.99))


def expect_numbers(support: Support, what: str) -> None:
    """Raise `ConfigError` where what takes numbers is given symbols."""
    if support.kind == "symbol":
        raise ConfigError(f"{what} takes numbers, and a text or a code is a row of symbols without an order")


class BernoulliHead(Head):
    """The output is the logits."""

    first = "log-odds"

    def __init__(self, support: Support):
        super().__init__(support, per_element=1)

    def forward(self, parameters: Tensor) -> Bernoulli:
        return Bernoulli(self._split(parameters)[0], self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        return self._join(_smoothed_mean(x).logit())


class ContinuousBernoulliHead(Head):
    """The output is the logits, softly clamped: at an end of the interval the density is about |logits|."""

    limit = 100.0

    def __init__(self, support: Support):
        super().__init__(support, per_element=1)

    def forward(self, parameters: Tensor) -> Affine:
        logits = soft_clamp(self._split(parameters)[0], self.limit)
        return Affine(ContinuousBernoulli(logits, self._event_dims), 0.0, 2 * self.support.unit)

    def initial_bias(self, x: Tensor) -> Tensor:
        mean = x.float().mean(0) / (2 * self.support.unit)
        low, high = torch.full_like(mean, -self.limit), torch.full_like(mean, self.limit)
        for _ in range(40):  # bisection: the mean grows with the logit
            middle = (low + high) / 2
            below = ContinuousBernoulli(middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return self._join(_inverse_soft_clamp(low, self.limit))


class CategoricalHead(Head):
    """The output is a logit for each level or symbol."""

    def __init__(self, support: Support):
        assert support.levels
        super().__init__(support, per_element=support.levels)

    def forward(self, parameters: Tensor) -> Categorical:
        return self.of(self._last(parameters))

    def of(self, logits: Tensor) -> Categorical:
        """The density, where the classes come last, `(*, *event, C)`, as they may be ten thousand."""
        if self.support.kind == "symbol":
            return Symbols(logits, self._event_dims, self.support.end)
        return Categorical(logits, self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        if self.support.kind == "symbol":  # that of all places together, up to the end
            scored = x if self.support.end is None else x[~after_end(x, self.support.end)]
            counts = torch.bincount(scored.long().flatten(), minlength=self.per_element).to(torch.get_default_dtype())
            share = (counts + 1 / self.per_element) / (counts.sum() + 1)
            bias = share.log().to(x.device).unsqueeze(1).expand(-1, math.prod(self.support.shape))
            return bias.reshape(self.parameter_shape)
        counts = torch.stack([(x == level).sum(0) for level in range(self.per_element)])  # (L, *event)
        return self._join(((counts + 1 / self.per_element) / (len(x) + 1)).log())


class GaussianHead(Head):
    """The output is μ and, where the variance depends on the input, the raw scale."""

    first = "location"

    def __init__(self, support: Support, variance: Literal["input", "learned", "fixed"], scale: float, floor: float):
        super().__init__(support, per_element=2 if variance == "input" else 1)
        self.variance, self.scale, self.floor = variance, scale, floor
        if variance == "learned":
            self.raw_scale = nn.Parameter(torch.zeros(support.shape))

    def forward(self, parameters: Tensor) -> DiagonalNormal:
        loc, *raw = self._split(parameters)
        if self.variance == "fixed":
            scale = loc.new_full((), self.scale)
        else:
            scale = positive(raw[0] if raw else self.raw_scale, self.floor, self.scale)
        return DiagonalNormal(*self._loc_and_scale(loc, scale), self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        mean, std = self._mean_and_std(x)
        if self.variance != "input":
            return self._join(mean)
        return self._join(mean, inverse_positive(std, self.floor, self.scale))


class StudentTHead(Head):
    """The output is μ and the raw scale; the degrees of freedom are given, or learned for each element."""

    first = "location"

    start = 10.0
    """Degrees of freedom where learning starts."""

    def __init__(self, support: Support, df: float | None, floor: float):
        super().__init__(support, per_element=2)
        self.df, self.floor = df, floor
        if df is None:
            self.raw_df = nn.Parameter(torch.zeros(support.shape))

    def forward(self, parameters: Tensor) -> StudentT:
        loc, raw = self._split(parameters)
        df = positive(self.raw_df, 2.0, self.start) if self.df is None else loc.new_full((), self.df)
        return StudentT(df, *self._loc_and_scale(loc, positive(raw, self.floor, 1.0)), self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        mean, std = self._mean_and_std(x)
        df = self.start if self.df is None else max(self.df, 3.0)
        return self._join(mean, inverse_positive(std * math.sqrt((df - 2) / df), self.floor, 1.0))


# A logistic density of scale s has standard deviation π s/√3.
_LOGISTIC_SCALE = math.sqrt(3) / math.pi


class DiscretizedLogisticHead(Head):
    """The output is μ and the raw scale."""

    first = "location"

    start = 0.5

    def __init__(self, support: Support, floor: float):
        super().__init__(support, per_element=2)
        self.floor = floor

    def forward(self, parameters: Tensor) -> DiscretizedLogistic:
        loc, raw = self._split(parameters)
        loc, scale = self._loc_and_scale(loc, positive(raw, self.floor, self.start))
        return DiscretizedLogistic(loc, scale, self.support.levels or 2, self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        mean, std = self._mean_and_std(x)
        return self._join(mean, inverse_positive(std * _LOGISTIC_SCALE, self.floor, self.start))


class NormalMixtureHead(Head):
    """The output is the weights' logits, the locations and the raw scales of all components.

    Locations are offsets from points spread over two standard deviations: components that start equal would stay so.
    """

    start = 1.0
    spread: Tensor

    def __init__(self, support: Support, components: int, floor: float):
        super().__init__(support, per_element=3 * components)
        self.components, self.floor = components, floor
        spread = torch.linspace(-1, 1, components) if components > 1 else torch.zeros(1)
        self.register_buffer("spread", spread, persistent=False)

    def forward(self, parameters: Tensor) -> NormalMixture:
        logits, loc, raw = self._last(parameters).chunk(3, -1)
        return NormalMixture(logits, loc + self.spread, positive(raw, self.floor, self.start), self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        """The components lie about the mean, together as wide as the data."""
        mean, std = self._mean_and_std(x)
        apart = self.spread.reshape(-1, *[1] * self._event_dims)
        within = (1 - apart.square().mean()).clamp_min(0.1).sqrt()
        loc = mean + std * apart - apart
        raw = inverse_positive(std * within, self.floor, self.start)
        return self._join(torch.zeros_like(loc), loc, raw.expand_as(loc))


class DiscretizedLogisticMixtureHead(Head):
    """The output is the weights' logits, the locations and the raw scales of all components.

    Locations are offsets from points spread over the levels: components that start equal would stay so.
    """

    start = 0.25
    spread: Tensor

    def __init__(self, support: Support, components: int, floor: float):
        super().__init__(support, per_element=3 * components)
        self.components, self.floor = components, floor
        spread = torch.linspace(-0.8, 0.8, components) if components > 1 else torch.zeros(1)
        self.register_buffer("spread", spread, persistent=False)

    def forward(self, parameters: Tensor) -> MixtureDiscretizedLogistic:
        logits, loc, raw = self._last(parameters).chunk(3, -1)
        loc, scale = self._loc_and_scale(loc + self.spread, positive(raw, self.floor, self.start))
        return MixtureDiscretizedLogistic(logits, loc, scale, self.support.levels or 2, self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        """Each component takes an equal share of the sorted data: its mean, and what variance is left."""
        f = (x.float() - self.support.middle) / self.support.unit
        shares = f.repeat_interleave(self.components, 0).sort(0).values.chunk(self.components)
        means = torch.stack([share.mean(0) for share in shares])  # (K, *event)
        total = f.var(0, correction=0)
        within = torch.maximum(total - means.var(0, correction=0), total / self.components**2)
        raw = inverse_positive(within.sqrt() * _LOGISTIC_SCALE, self.floor, self.start)
        loc = means - self.spread.reshape(-1, *[1] * self._event_dims)
        return self._join(torch.zeros_like(loc), loc, raw.expand_as(loc))


class PoissonHead(Head):
    """The output is the log-rate, softly clamped."""

    def __init__(self, support: Support):
        super().__init__(support, per_element=1)

    def forward(self, parameters: Tensor) -> Poisson:
        return Poisson(soft_clamp(self._split(parameters)[0], LOG_RATE_LIMIT), self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        return self._join(_inverse_soft_clamp(_log_mean(x), LOG_RATE_LIMIT))


class NegativeBinomialHead(Head):
    """The output is the log-mean, softly clamped, and the raw dispersion."""

    floor = 1e-4

    def __init__(self, support: Support):
        super().__init__(support, per_element=2)

    def forward(self, parameters: Tensor) -> NegativeBinomial:
        log_mean, raw = self._split(parameters)
        dispersion = positive(raw, self.floor, 1.0)
        return NegativeBinomial(soft_clamp(log_mean, LOG_RATE_LIMIT), dispersion, self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        log_mean = _log_mean(x)
        mean = log_mean.exp()
        dispersion = ((moments_of_seen(x.float())[1] - mean) / mean.square()).clamp(max=100.0)
        raw = inverse_positive(dispersion, self.floor, 1.0)
        return self._join(_inverse_soft_clamp(log_mean, LOG_RATE_LIMIT), raw)


LOG_RATE_LIMIT = 20.0
"""Counts have means below exp(20), about half a milliard."""


def _smoothed_mean(x: Tensor) -> Tensor:
    """Share of ones, with half a one and half a zero added: never 0 or 1."""
    return (x.float().nansum(0) + 0.5) / ((~x.isnan()).sum(0) + 1)


def _log_mean(x: Tensor) -> Tensor:
    """Of counts, as if half a count had been seen where there is none."""
    return moments_of_seen(x.float())[0].clamp(min=0.5 / len(x)).log()
