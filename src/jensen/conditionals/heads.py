"""Heads: from a network's output to a density over the datum.

A head says what shape the network must put out (`parameter_shape`) and turns that into a distribution in the
units of the data. Nothing else in the package knows how a density is parametrised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

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
    Poisson,
    StudentT,
    Symbols,
)
from jensen.errors import ConfigError
from jensen.registry import component

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Support:
    """What the values of a datum can be.

    `binary` zeros and ones; `levels` the whole numbers 0..levels−1 (grey levels of a picture); `count` 0, 1,
    2, …; `real` real numbers, standardised; `symbol` the whole numbers 0..levels−1 without an order, of which one may
    be the `end` of a row. `shape` is that of one datum: (C, H, W) or (D,).

    A network works in numbers of order one: levels are `middle + unit·f` with f in [−1, 1].

    >>> support = Support("levels", (1, 28, 28), levels=256)
    >>> support.middle, support.unit
    (127.5, 127.5)
    """

    kind: Kind
    shape: tuple[int, ...]
    levels: int | None = None
    end: int | None = None

    def __post_init__(self):
        if (self.kind in ("levels", "symbol")) != (self.levels is not None) or (self.levels or 2) < 2:
            raise ValueError(f"levels: expected 2 or more for levels and symbols and None otherwise, got {self}")

    @classmethod
    def of(cls, schema: Schema, symbols: bool = False) -> Support:
        """What the data of a schema can be.

        Args:
            symbols: whether a model takes symbols too, which are no numbers.

        Raises:
            ConfigError: the data are symbols, and the model takes none.
        """
        if not symbols:
            schema.expect_numbers()
        if schema.is_text:
            return cls(schema.kind, schema.event_shape, schema.levels, schema.tokens.end)
        return cls(schema.kind, schema.event_shape, schema.levels if schema.kind == "levels" else None)

    @classmethod
    def of_levels(cls, shape: tuple[int, ...], levels: int) -> Support:
        """Whole numbers 0..levels−1; of two levels, binary."""
        return cls("binary", shape) if levels == 2 else cls("levels", shape, levels)

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
        return f.mean(0), f.std(0, correction=0)


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


def _accept(name: str, support: Support, *kinds: Kind) -> None:
    """Raise `ConfigError` unless the head is a likelihood for such data."""
    if support.kind in kinds:
        return
    data = f"{support.kind} data" if support.kind != "levels" else f"levels 0..{(support.levels or 0) - 1}"
    raise ConfigError(
        f"likelihood: {name!r} is for {' or '.join(kinds)} data and no likelihood for {data}; "
        f"choose {' or '.join(map(repr, FITTING[support.kind]))}"
    )


def _below(min_scale: float, start: float) -> None:
    if min_scale >= start:
        raise ConfigError(f"min_scale: expected less than {start}, where the scale starts, got {min_scale}")


FITTING: dict[Kind, list[str]] = {
    "binary": ["bernoulli"],
    "levels": ["discretized-logistic", "discretized-logistic-mixture", "categorical", "continuous-bernoulli"],
    "count": ["negative-binomial", "poisson"],
    "real": ["gaussian", "student-t"],
    "symbol": ["categorical"],
}
"""Heads that are a likelihood for each kind of data, the default first."""


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
        if self.support.kind == "symbol":  # that of all places together
            counts = torch.bincount(x.long().flatten(), minlength=self.per_element).to(torch.get_default_dtype())
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
        dispersion = ((x.float().var(0, correction=0) - mean) / mean.square()).clamp(max=100.0)
        raw = inverse_positive(dispersion, self.floor, 1.0)
        return self._join(_inverse_soft_clamp(log_mean, LOG_RATE_LIMIT), raw)


LOG_RATE_LIMIT = 20.0
"""Counts have means below exp(20), about half a milliard."""


def _smoothed_mean(x: Tensor) -> Tensor:
    """Share of ones, with half a one and half a zero added: never 0 or 1."""
    return (x.float().sum(0) + 0.5) / (len(x) + 1)


def _log_mean(x: Tensor) -> Tensor:
    """Of counts, as if half a count had been seen where there is none."""
    return x.float().mean(0).clamp(min=0.5 / len(x)).log()


@component("likelihood", "auto")
def auto(support: Support) -> Head:
    """The likelihood that fits the data.

    Binary: Bernoulli. Levels: discretised logistic. Counts: negative binomial. Real: Gaussian. Symbols: categorical.
    """
    by_default = {
        "binary": bernoulli,
        "levels": discretized_logistic,
        "count": negative_binomial,
        "real": gaussian,
        "symbol": categorical,
    }
    return by_default[support.kind](support)


@component("likelihood", "bernoulli")
def bernoulli(support: Support) -> Head:
    """Bernoulli likelihood of zeros and ones."""
    _accept("bernoulli", support, "binary")
    return BernoulliHead(support)


@component("likelihood", "gaussian")
def gaussian(
    support: Support,
    *,
    variance: Literal["input", "learned", "fixed"] = "input",
    scale: Positive = 1.0,
    min_scale: Positive = 0.01,
) -> Head:
    """Gaussian likelihood of real data, with a floor under its scale.

    Without the floor the likelihood is unbounded: a decoder that reproduces one datum may shrink its scale for
    ever. For pictures the density is over real grey levels; it is not the probability of a level.

    Settings:
        variance: "input" puts out a scale for every datum and element, "learned" has one for each element,
            "fixed" is `scale` throughout.
        scale: where training starts, or the fixed scale; in prepared units, for pictures half the grey range.
        min_scale: the floor under a scale that is not fixed, in the same units.
    """
    _accept("gaussian", support, "real", "levels")
    if variance != "fixed":
        _below(min_scale, scale)
    return GaussianHead(support, variance, scale, min_scale)


@component("likelihood", "continuous-bernoulli", paper="Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845")
def continuous_bernoulli(support: Support) -> Head:
    """Continuous Bernoulli likelihood of grey levels, as a density over real grey levels.

    Not comparable with the probability of a level: its measure is another.
    """
    _accept("continuous-bernoulli", support, "levels")
    return ContinuousBernoulliHead(support)


@component("likelihood", "categorical", paper="van den Oord et al. 2016, arXiv:1601.06759")
def categorical(support: Support) -> Head:
    """Probability of each level or symbol by a softmax over all of them; the most flexible and the largest head."""
    _accept("categorical", support, "levels", "symbol")
    return CategoricalHead(support)


@component("likelihood", "student-t")
def student_t(support: Support, *, df: Annotated[float | None, Field(gt=1)] = None, min_scale: Positive = 0.01) -> Head:
    """Student-t likelihood of real data with outliers.

    Settings:
        df: degrees of freedom, above 1 so that there is a mean; None learns them for each element, above 2.
        min_scale: the floor that bounds the likelihood, in prepared units, for pictures half the grey range.
    """
    _accept("student-t", support, "real", "levels")
    _below(min_scale, 1.0)
    return StudentTHead(support, df, min_scale)


@component("likelihood", "discretized-logistic", paper="Kingma et al. 2016, arXiv:1606.04934")
def discretized_logistic(support: Support, *, min_scale: Positive = 1e-3) -> Head:
    """Probability of each level by a logistic density cut into bins.

    Settings:
        min_scale: a floor, in units of half the range of levels, that keeps gradients in bounds; the probability
            is bounded without it.
    """
    _accept("discretized-logistic", support, "levels")
    _below(min_scale, DiscretizedLogisticHead.start)
    return DiscretizedLogisticHead(support, min_scale)


@component("likelihood", "discretized-logistic-mixture", paper="Salimans et al. 2017, arXiv:1701.05517")
def discretized_logistic_mixture(
    support: Support, *, components: Annotated[int, Field(ge=1)] = 5, min_scale: Positive = 1e-3
) -> Head:
    """Probability of each level by a mixture of logistic densities cut into bins.

    Settings:
        components: logistic densities in the mixture, for each element.
        min_scale: a floor under their scales, in units of half the range of levels.
    """
    _accept("discretized-logistic-mixture", support, "levels")
    _below(min_scale, DiscretizedLogisticMixtureHead.start)
    return DiscretizedLogisticMixtureHead(support, components, min_scale)


@component("likelihood", "poisson")
def poisson(support: Support) -> Head:
    """Poisson likelihood of counts: the variance equals the mean."""
    _accept("poisson", support, "count")
    return PoissonHead(support)


@component("likelihood", "negative-binomial")
def negative_binomial(support: Support) -> Head:
    """Negative binomial likelihood of counts: a Poisson with more variance than its mean, μ + α μ²."""
    _accept("negative-binomial", support, "count")
    return NegativeBinomialHead(support)
