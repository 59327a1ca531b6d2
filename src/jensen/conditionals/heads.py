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

from jensen.distributions import Bernoulli, DiagonalNormal, Elementwise
from jensen.errors import ConfigError
from jensen.registry import component

Kind = Literal["binary", "levels", "count", "real"]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Support:
    """What the values of a datum can be.

    `binary` zeros and ones; `levels` the whole numbers 0..levels−1 (grey levels of a picture); `count` 0, 1, 2, …;
    `real` real numbers, standardised. `shape` is that of one datum: (C, H, W) or (D,).

    >>> Support("levels", (1, 28, 28), levels=256).half
    127.5
    """

    kind: Kind
    shape: tuple[int, ...]
    levels: int | None = None

    def __post_init__(self):
        if (self.kind == "levels") != (self.levels is not None) or (self.levels or 2) < 2:
            raise ValueError(f"levels: expected 2 or more for kind 'levels' and None otherwise, got {self}")

    @property
    def half(self) -> float:
        """Half the range of levels: they are `half + half·f` with f in [−1, 1]."""
        assert self.levels
        return (self.levels - 1) / 2


class Head(nn.Module):
    """Turns a network's output `(N, *parameter_shape)` into a density over the event.

    The network puts out `per_element` numbers for each element of the event, stacked along its first dimension:
    (P·C, H, W) for a picture, (P·D,) for a vector. A subclass defines `forward`.
    """

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
            `parameter_shape`, or None where the head knows none. As the bias of a decoder's last layer it spares
            the first epochs, which would learn just this.
        """
        return None

    @property
    def _event_dims(self) -> int:
        return len(self.support.shape)

    def _split(self, parameters: Tensor) -> Tensor:
        """`(*, *parameter_shape)` as `(P, *, *event)`, at least in float32: a density is no place for bfloat16."""
        if parameters.dtype != torch.float64:
            parameters = parameters.float()
        batch = parameters.shape[: parameters.ndim - max(self._event_dims, 1)]
        return parameters.reshape(*batch, self.per_element, *self.support.shape).movedim(len(batch), 0)

    def _join(self, *parameters: Tensor) -> Tensor:
        """P tensors `(*event)`, or `(n, *event)`, as one `parameter_shape`."""
        rows = [p.reshape(-1, *self.support.shape) for p in parameters]
        return torch.cat(rows).reshape(self.parameter_shape)


def positive(raw: Tensor, floor: float, start: float) -> Tensor:
    """floor + softplus(raw + c), with c such that raw = 0 gives `start`."""
    return floor + F.softplus(raw + inverse_softplus(start - floor))


def inverse_softplus(y: float) -> float:
    """The x whose softplus is y > 0.

    >>> round(inverse_softplus(1.0), 4)  # log(e − 1)
    0.5413
    """
    return y + math.log(-math.expm1(-y))


def _inverse_positive(y: Tensor, floor: float, start: float) -> Tensor:
    """The raw value that `positive` sends to y, or near it where y is below the floor."""
    y = (y - floor).clamp(min=0.1 * (start - floor))
    return y + torch.log(-torch.expm1(-y)) - inverse_softplus(start - floor)


def _accept(name: str, support: Support, *kinds: Kind) -> None:
    """Raise `ConfigError` unless the head is a likelihood for such data."""
    if support.kind in kinds:
        return
    data = f"{support.kind} data" if support.kind != "levels" else f"levels 0..{(support.levels or 0) - 1}"
    raise ConfigError(
        f"likelihood: {name!r} is for {' or '.join(kinds)} data and no likelihood for {data}; "
        f"choose {' or '.join(map(repr, FITTING[support.kind]))}"
    )


FITTING: dict[Kind, list[str]] = {
    "binary": ["bernoulli"],
    "levels": ["discretized-logistic", "discretized-logistic-mixture", "categorical", "continuous-bernoulli"],
    "count": ["negative-binomial", "poisson"],
    "real": ["gaussian", "student-t"],
}
"""Heads that are a likelihood for each kind of data, the default first."""


class BernoulliHead(Head):
    """The output is the logits."""

    def __init__(self, support: Support):
        super().__init__(support, per_element=1)

    def forward(self, parameters: Tensor) -> Bernoulli:
        return Bernoulli(self._split(parameters)[0], self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        return self._join(_smoothed_mean(x).logit())


class GaussianHead(Head):
    """The output is μ and, where the variance depends on the input, the raw scale.

    Levels are seen as half + half·f with f in [−1, 1], and `scale` and `min_scale` are in the units of f.
    """

    def __init__(
        self, support: Support, variance: Literal["input", "learned", "fixed"], scale: float, floor: float
    ):
        super().__init__(support, per_element=2 if variance == "input" else 1)
        self.variance, self.scale, self.floor = variance, scale, floor
        self.unit = support.half if support.kind == "levels" else 1.0
        self.middle = support.half if support.kind == "levels" else 0.0
        if variance == "learned":
            self.raw_scale = nn.Parameter(torch.zeros(support.shape))

    def forward(self, parameters: Tensor) -> DiagonalNormal:
        loc, *raw = self._split(parameters).unbind(0)
        if self.variance == "fixed":
            scale = loc.new_full((), self.scale)
        else:
            scale = positive(raw[0] if raw else self.raw_scale, self.floor, self.scale)
        if self.unit != 1.0:
            loc, scale = self.middle + self.unit * loc, self.unit * scale
        return DiagonalNormal(loc, scale, self._event_dims)

    def initial_bias(self, x: Tensor) -> Tensor:
        f = (x.float() - self.middle) / self.unit
        loc = f.mean(0)
        if self.variance != "input":
            return self._join(loc)
        return self._join(loc, _inverse_positive(f.std(0, correction=0), self.floor, self.scale))


def _smoothed_mean(x: Tensor) -> Tensor:
    """Share of ones, with half a one and half a zero added: never 0 or 1."""
    return (x.float().sum(0) + 0.5) / (len(x) + 1)


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

    `variance`: "input" puts out a scale for every datum and element, "learned" has one for each element, "fixed"
    is `scale` throughout. Elsewhere `scale` is where training starts. Without the floor `min_scale` the
    likelihood is unbounded: a decoder that reproduces one datum may shrink its scale for ever. For pictures both
    are in units of half the grey range, and the density is over real grey levels (no probability of a level).
    """
    _accept("gaussian", support, "real", "levels")
    if variance != "fixed" and scale <= min_scale:
        raise ConfigError(f"scale: expected more than min_scale = {min_scale}, got {scale}")
    return GaussianHead(support, variance, scale, min_scale)


@component("posterior", "diagonal")
def diagonal(latents: tuple[int, ...], *, min_scale: Annotated[float, Field(gt=0, lt=1)] = 1e-4) -> Head:
    """Normal posterior with a diagonal covariance; mean and scale come from the network.

    q(z|x) = N(μ(x), σ(x)²), σ = min_scale + softplus(raw + c), which is 1 where raw is 0.
    """
    return GaussianHead(Support("real", tuple(latents)), "input", 1.0, min_scale)


@component("posterior", "mean")
def mean(latents: tuple[int, ...], *, scale: Positive = 1.0) -> Head:
    """Normal posterior whose mean comes from the network and whose scale is fixed.

    With scale 1 and a standard normal prior, KL = ½‖μ‖².
    """
    return GaussianHead(Support("real", tuple(latents)), "fixed", scale, 0.0)
