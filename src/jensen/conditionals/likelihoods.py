"""Likelihoods: the heads by name, with their settings, each for the kinds of data that it is a density of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jensen.conditionals.heads import (
    BernoulliHead,
    CategoricalHead,
    ContinuousBernoulliHead,
    DiscretizedLogisticHead,
    DiscretizedLogisticMixtureHead,
    GaussianHead,
    Head,
    NegativeBinomialHead,
    NormalMixtureHead,
    PoissonHead,
    StudentTHead,
    Support,
)
from jensen.conditionals.record import by_column
from jensen.data.schema import Kind
from jensen.errors import ConfigError
from jensen.registry import component

Positive = Annotated[float, Field(gt=0)]


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
    "real": ["gaussian", "student-t", "mixture"],
    "symbol": ["categorical"],
    "mixed": ["gaussian", "student-t", "mixture"],
}
"""Heads that are a likelihood for each kind of data, the default first."""


@component("likelihood", "auto")
def auto(support: Support) -> Head:
    """The likelihood that fits the data.

    Binary: Bernoulli. Levels: discretised logistic. Counts: negative binomial. Real: Gaussian. Symbols: categorical.
    Mixed columns: to each its own, real ones Gaussian.
    """
    by_default = {
        "mixed": gaussian,
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
    ever. For pictures the density is over real grey levels; it is not the probability of a level. Of a table of mixed
    columns it is that of the real ones.

    Settings:
        variance: "input" puts out a scale for every datum and element, "learned" has one for each element,
            "fixed" is `scale` throughout.
        scale: where training starts, or the fixed scale; in prepared units, for pictures half the grey range.
        min_scale: the floor under a scale that is not fixed, in the same units.
    """
    _accept("gaussian", support, "real", "levels", "mixed")
    if variance != "fixed":
        _below(min_scale, scale)
    return by_column(support, lambda real: GaussianHead(real, variance, scale, min_scale))


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
    """Student-t likelihood of real data with outliers; of a table of mixed columns, that of the real ones.

    Settings:
        df: degrees of freedom, above 1 so that there is a mean; None learns them for each element, above 2.
        min_scale: the floor that bounds the likelihood, in prepared units, for pictures half the grey range.
    """
    _accept("student-t", support, "real", "levels", "mixed")
    _below(min_scale, 1.0)
    return by_column(support, lambda real: StudentTHead(real, df, min_scale))


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


@component(
    "likelihood",
    "mixture",
    paper="Uria, Murray and Larochelle 2013, arXiv:1306.0186; Salimans et al. 2017, arXiv:1701.05517",
)
def mixture(support: Support, *, components: Annotated[int, Field(ge=1)] = 5, min_scale: Positive = 0.01) -> Head:
    """Of each number a mixture of densities: normals of reals, logistics cut into bins of levels; all else as `auto`.

    It has several peaks where one value has several explanations. Of a table of mixed columns, reals are mixtures.

    Settings:
        components: densities in the mixture, for each element.
        min_scale: the floor under their scales, in prepared units, of levels half their range.
    """
    if support.kind == "levels":
        return discretized_logistic_mixture(support, components=components, min_scale=min_scale)
    if support.kind not in ("real", "mixed"):
        return auto(support)
    _below(min_scale, NormalMixtureHead.start)
    return by_column(support, lambda real: NormalMixtureHead(real, components, min_scale))


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
