"""Helmholtz machine: layers of binary units, a sigmoid belief network down and another one up.

    p(x, z) = p(z_L) p(z_{L−1} | z_L) ⋯ p(z_1 | z_2) p(x | z_1)        z_l ∈ {0, 1}^{n_l}
    q(z | x) = q(z_1 | x) q(z_2 | z_1) ⋯ q(z_L | z_{L−1})

Every conditional of a hidden layer is a product of Bernoullis, whose logits are an affine map of the layer it hangs on
(or a network of it); the top layer has logits of its own. Wake-sleep trains both without a gradient through the units.

Dayan, Hinton, Neal and Zemel, "The Helmholtz machine", Neural Computation 7, 1995.
Hinton, Dayan, Frey and Neal, "The wake-sleep algorithm for unsupervised neural networks", Science 268, 1995.
"""

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from jensen.conditionals.amortized import Amortized, rescaled
from jensen.conditionals.heads import BernoulliHead, Support
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.distributions import Bernoulli
from jensen.errors import ConfigError
from jensen.registry import Likelihood, Network, Objective, model


class Units(nn.Module):
    """p(z) = Π_d Bernoulli(z_d; sigmoid b_d): binary units that hang on nothing, their logits b learned from 0."""

    def __init__(self, units: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(units))

    def forward(self) -> Bernoulli:
        return Bernoulli(self.logits)


@model("helmholtz", paper="Dayan, Hinton, Neal and Zemel 1995; Hinton, Dayan, Frey and Neal 1995, Science 268")
def helmholtz(
    schema: Schema,
    *,
    layers: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [200, 200],
    encoder: Network = "linear",
    decoder: Network = "linear",
    likelihood: Likelihood = "auto",
    objective: Objective = "wake-sleep",
) -> Model:
    """Helmholtz machine: layers of binary hidden units, trained by wake-sleep or reweighted wake-sleep.

    Settings:
        layers: binary units in each layer, from the data upwards.
        encoder: network of each q(z_l | layer below); "linear" makes it a sigmoid belief network.
        decoder: network of each p(layer below | z_l).
        likelihood: the family of p(x | z_1); "auto" follows the data.
        objective: how both are trained; one that needs no gradient through draws.
    """
    support, trained = Support.of(schema), objective()
    if trained.through_draws:
        raise ConfigError(
            f"objective: {objective.name!r} passes its gradient through draws, and binary units let none through; use "
            "'wake-sleep', 'reweighted-wake-sleep', 'elbo', or 'iw' with objective.gradient=leave-one-out"
        )
    head, units = likelihood(support), [BernoulliHead(Support("binary", (n,))) for n in layers]
    z = [f"z{level}" for level in range(1, len(layers) + 1)]
    first = rescaled(encoder(support.shape, units[0].parameter_shape), support)
    p: dict[str, nn.Module] = {z[-1]: Units(layers[-1])}
    q: dict[str, nn.Module] = {f"{z[0]} | x": Amortized(first, units[0])}
    for low, high in pairwise(range(len(layers))):
        q[f"{z[high]} | {z[low]}"] = Amortized(encoder((layers[low],), (layers[high],)), units[high])
    for low, high in reversed(list(pairwise(range(len(layers))))):
        p[f"{z[low]} | {z[high]}"] = Amortized(decoder((layers[high],), (layers[low],)), units[low])
    p[f"x | {z[0]}"] = Amortized(decoder((layers[0],), head.parameter_shape), head)
    return Model(Joint(p), Joint(q), trained)
