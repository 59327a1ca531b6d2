"""Discrete hidden variables: bits and classes, as priors and as posteriors.

No gradient passes through a discrete draw. With `gradient=score` the objective adds that of the score function, which
is unbiased; "straight-through" and "gumbel" pass a biased one through the draw. Values are discrete in any case, so
bounds stay bounds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from jensen.distributions import Bernoulli
from jensen.distributions.discrete import (
    GumbelBernoulli,
    GumbelOneHot,
    OneHot,
    StraightThroughBernoulli,
    StraightThroughOneHot,
)
from jensen.errors import ConfigError
from jensen.registry import component

Through = Literal["score", "straight-through", "gumbel"]
Classes = Annotated[int, Field(ge=2)]
Temperature = Annotated[float, Field(gt=0)]


class BitsPrior(nn.Module):
    """p(z) = Π_d Bernoulli(z_d; σ(l_d)), l learned from 0."""

    discrete = True
    support: Any = constraints.boolean

    def __init__(self, event_shape: tuple[int, ...]):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(event_shape))

    def forward(self) -> Bernoulli:
        return Bernoulli(self.logits, event_dims=self.logits.dim())


class ClassesPrior(nn.Module):
    """p(z) = Π_v Categorical(z_v; softmax(l_v)), one-hot, l learned from 0."""

    discrete = True
    support: Any = constraints.one_hot

    def __init__(self, variables: int, classes: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(variables, classes))

    def forward(self) -> OneHot:
        return OneHot(self.logits)


class _Posterior(nn.Module):
    """A head whose network puts out the logits of a code."""

    discrete = True

    def __init__(self, latents: int, gradient: Through, temperature: float):
        super().__init__()
        self.parameter_shape = (latents,)
        self.gradient, self.temperature = gradient, temperature

    def initial_bias(self, x: Tensor) -> None:
        return None


class BitsPosterior(_Posterior):
    """q(z | x) = Π_d Bernoulli(z_d; σ(l_d(x)))."""

    support: Any = constraints.boolean

    def forward(self, logits: Tensor) -> Distribution:
        if self.gradient == "gumbel":
            return GumbelBernoulli(logits, self.temperature)
        return (StraightThroughBernoulli if self.gradient == "straight-through" else Bernoulli)(logits)


class ClassesPosterior(_Posterior):
    """q(z | x) = Π_v Categorical(z_v; softmax(l_v(x))), one-hot."""

    support: Any = constraints.one_hot

    def __init__(self, variables: int, classes: int, gradient: Through, temperature: float):
        super().__init__(variables * classes, gradient, temperature)
        self.shape = (variables, classes)

    def forward(self, logits: Tensor) -> Distribution:
        logits = logits.unflatten(-1, self.shape)
        if self.gradient == "gumbel":
            return GumbelOneHot(logits, self.temperature)
        return (StraightThroughOneHot if self.gradient == "straight-through" else OneHot)(logits)


@component("prior", "bernoulli", paper="Mnih and Gregor 2014, arXiv:1402.0030")
def bernoulli_prior(latents: tuple[int, ...]) -> nn.Module:
    """Independent bits, with learned probabilities. For a posterior of bits, `posterior=bernoulli`."""
    return BitsPrior(latents)


@component("prior", "categorical", paper="Jang, Gu and Poole 2017, arXiv:1611.01144")
def categorical_prior(latents: tuple[int, ...], *, classes: Classes = 8) -> nn.Module:
    """Independent classes, one-hot, with learned probabilities. For `posterior=categorical` of as many classes.

    Settings:
        classes: C of each variable; latents are the C indicators of all, so that there are latents / C variables.
    """
    return ClassesPrior(_variables(latents, classes), classes)


@component(
    "posterior",
    "bernoulli",
    paper="Mnih and Gregor 2014, arXiv:1402.0030; Bengio et al. 2013, arXiv:1308.3432; Maddison et al. 2017, "
    "arXiv:1611.00712; Jang et al. 2017, arXiv:1611.01144",
)
def bernoulli_posterior(
    latents: tuple[int, ...], *, gradient: Through = "score", temperature: Temperature = 0.5
) -> nn.Module:
    """Bits whose probabilities come from the network; with `prior=bernoulli`.

    Settings:
        gradient: "score" leaves it to the objective, which estimates it without bias (see objective.baseline);
            "straight-through" and "gumbel" pass a biased and quieter one through the draw.
        temperature: of the relaxation by "gumbel": lower is less biased and noisier.
    """
    (size,) = latents
    return BitsPosterior(size, gradient, temperature)


@component(
    "posterior",
    "categorical",
    paper="Jang, Gu and Poole 2017, arXiv:1611.01144; Maddison, Mnih and Teh 2017, arXiv:1611.00712",
)
def categorical_posterior(
    latents: tuple[int, ...], *, classes: Classes = 8, gradient: Through = "score", temperature: Temperature = 0.5
) -> nn.Module:
    """Classes, one-hot, whose probabilities come from the network; with `prior=categorical` of as many classes.

    Settings:
        classes: C of each variable; latents are the C indicators of all, so that there are latents / C variables.
        gradient: "score" leaves it to the objective, which estimates it without bias (see objective.baseline);
            "straight-through" and "gumbel" pass a biased and quieter one through the draw.
        temperature: of the relaxation by "gumbel": lower is less biased and noisier.
    """
    return ClassesPosterior(_variables(latents, classes), classes, gradient, temperature)


def _variables(latents: tuple[int, ...], classes: int) -> int:
    if len(latents) != 1 or latents[0] % classes:
        raise ConfigError(
            f"latents: expected a multiple of the {classes} classes of each variable, got {'x'.join(map(str, latents))}"
        )
    return latents[0] // classes


bernoulli_prior.beside = {
    "posterior": "bernoulli"
}  # a prior of bits needs a posterior of bits, and the other way round
bernoulli_posterior.beside = {"prior": "bernoulli"}
categorical_prior.beside = {"latents": 6, "prior.classes": 3, "posterior": "categorical", "posterior.classes": 3}
categorical_posterior.beside = {"latents": 6, "posterior.classes": 3, "prior": "categorical", "prior.classes": 3}
