"""NICE: additive couplings, which keep volumes, and a diagonal scaling.

    x_A = z_A        x_B = z_B + m(z_A)        and first of all z = exp(s) ⊙ ε

so that log |det ∂x/∂ε| = Σ s_d, the same everywhere: dimensions of little use get a small scale.

Dinh, Krueger and Bengio, "NICE: non-linear independent components estimation", 2015, arXiv:1410.8516.
"""

from __future__ import annotations

import math

from jensen.errors import ConfigError
from jensen.models.flow import flow
from jensen.nets import mlp
from jensen.nets.stack import Activation, Size
from jensen.transforms import AdditiveMap, Composed, Reshape, Scaling, Transform
from jensen.transforms.coupling import Coupling, half
from jensen.transforms.permutation import evens_first

Shape = tuple[int, ...]


@flow("nice", paper="Dinh, Krueger and Bengio 2015, arXiv:1410.8516")
def nice(
    event: Shape,
    context: int,
    *,
    layers: Size = 4,
    hidden: list[Size] = [256, 256],
    activation: Activation = "relu",
) -> Transform:
    """Additive couplings and a diagonal scaling; pictures are vectors.

    Settings:
        layers: couplings, which change the elements of even number and of odd number in turn.
        hidden: sizes of the hidden layers of a coupling's network.
        activation: of the networks.
    """
    dims = math.prod(event)
    if dims < 2:
        raise ConfigError(f"nice: a coupling needs two elements or more, got an event of shape {event}")
    chain: list[Transform] = [Scaling((dims,))]
    for i in range(layers):
        part = half((dims,), keep_first=i % 2 == 0)
        network = mlp(*part.network_shapes(AdditiveMap.size, context), hidden=hidden, activation=activation)
        chain.append(Coupling(part, network, AdditiveMap()))
    chain.append(evens_first((dims,)))
    return Composed([*chain, Reshape((dims,), event)] if len(event) > 1 else chain)
