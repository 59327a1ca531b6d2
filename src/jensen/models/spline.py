"""Neural spline flow: every element is bent by a spline whose knots and slopes a network gives.

    x_d = f(z_d; θ_d)        log |det ∂x/∂z| = Σ_d log f′(z_d)

with f rational-quadratic on [−b, b] and the identity outside. θ comes from half of the elements, for the other half
(coupling: density and sampling in one pass each), or from the elements before (autoregressive: a sample takes one step
an element). Between layers stands a learned linear map, P L U, that starts as a permutation, or a permutation.

Durkan, Bekasov, Murray and Papamakarios, "Neural spline flows", 2019, arXiv:1906.04032.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from jensen.errors import ConfigError
from jensen.models.flow import flow
from jensen.nets import mlp
from jensen.nets.columns import FeaturesFirst
from jensen.nets.masked import MaskedMLP
from jensen.nets.stack import Activation, Size
from jensen.transforms import (
    ActNorm,
    Composed,
    Coupling,
    LULinear,
    MaskedAutoregressive,
    RationalQuadratic,
    Reshape,
    Transform,
)
from jensen.transforms.coupling import half
from jensen.transforms.permutation import shuffle

Shape = tuple[int, ...]
MIXERS = {"linear": partial(LULinear, start="permutation"), "permutation": shuffle, "none": None}


@flow("spline", paper="Durkan, Bekasov, Murray and Papamakarios 2019, arXiv:1906.04032")
def spline(
    event: Shape,
    context: int,
    *,
    kind: Literal["coupling", "autoregressive"] = "coupling",
    layers: Size = 5,
    bins: Annotated[int, Field(ge=1, le=500)] = 8,
    tails: Annotated[float, Field(gt=0)] = 5.0,
    hidden: list[Size] = [128, 128],
    activation: Activation = "silu",
    between: Literal["linear", "permutation", "none"] = "linear",
    normalize: bool = True,
) -> Transform:
    """Neural spline flow: exact density, more flexible a layer than shift and scale.

    Settings:
        kind: "coupling", fast both ways, or "autoregressive", finer but with a sample of one step an element.
        layers: of splines.
        bins: of each spline.
        tails: a spline is the identity outside [−tails, tails].
        hidden: sizes of the hidden layers of each network.
        activation: of the networks.
        between: what mixes the elements between layers: a learned linear map, a random permutation, or nothing but
            that couplings take turns and orders are reversed.
        normalize: whether activation normalisation stands between layers.
    """
    dims = math.prod(event)
    if kind == "coupling" and dims < 2:
        raise ConfigError(f"spline: a coupling needs two elements or more, got an event of shape {event}")
    chain: list[Transform] = []
    for i in range(layers):
        if chain:
            chain += [ActNorm((dims,))] if normalize else []
            chain += [mixer((dims,))] if (mixer := MIXERS[between]) is not None else []
        f = RationalQuadratic(bins, -tails, tails)
        if kind == "coupling":
            part = half((dims,), keep_first=i % 2 == 0)
            shapes = part.network_shapes(f.size, context)
            chain.append(Coupling(part, FeaturesFirst(*mlp(*shapes, hidden=hidden, activation=activation)), f))
        else:
            order = range(dims) if i % 2 == 0 else range(dims - 1, -1, -1)
            network = MaskedMLP(
                dims, f.size, hidden, context=context, activation=activation, order=order, start_at_zero=True
            )
            chain.append(MaskedAutoregressive(network, f))
    return Composed(chain if event == (dims,) else [*chain, Reshape((dims,), event)])
