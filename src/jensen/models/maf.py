"""Masked autoregressive flow: every element is shifted and scaled by what the elements before it say.

    x_d = exp(s_d(x_<d)) z_d + t_d(x_<d)        log |det ∂x/∂z| = Σ_d s_d

The density takes one pass of a masked network a layer, a sample one step an element. From layer to layer the order of
the elements is reversed. With rational-quadratic splines in place of shift and scale it is an autoregressive neural
spline flow (Durkan et al. 2019, arXiv:1906.04032).

Papamakarios, Pavlakou and Murray, "Masked autoregressive flow for density estimation", 2017, arXiv:1705.07057.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field

from jensen.errors import ConfigError
from jensen.models.flow import flow
from jensen.nets.masked import MaskedMLP
from jensen.nets.stack import Activation, Size
from jensen.transforms import ActNorm, AffineMap, Composed, MaskedAutoregressive, RationalQuadratic, Reshape, Transform

Positive = Annotated[float, Field(gt=0)]
Shape = tuple[int, ...]


@flow("maf", paper="Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057")
def maf(
    event: Shape,
    context: int,
    *,
    layers: Size = 5,
    hidden: list[Size] = [128, 128],
    activation: Activation = "silu",
    residual: bool = False,
    order: Literal["reversed", "random"] = "reversed",
    normalize: bool = True,
    map: Literal["affine", "spline"] = "affine",
    bound: Positive = 2.0,
    bins: Size = 8,
    tails: Positive = 5.0,
) -> Transform:
    """Masked autoregressive flow: exact density in one pass a layer.

    Settings:
        layers: masked networks, one after the other.
        hidden: sizes of the hidden layers of each.
        activation: of the networks.
        residual: whether hidden layers after the first are residual blocks, of equal sizes.
        order: of the elements in the layers: reversed from one to the next, or random.
        normalize: whether activation normalisation stands between layers.
        map: "affine", or "spline": rational-quadratic, which bends as well.
        bound: of |s|, in nats.
        bins: of a spline.
        tails: a spline is the identity outside [−tails, tails].
    """
    if residual and len(set(hidden)) > 1:
        raise ConfigError(f"maf: hidden: expected layers of one size for residual blocks, got {hidden}")
    dims = math.prod(event)
    chain: list[Transform] = []
    for i in range(layers):
        monotone = AffineMap(bound) if map == "affine" else RationalQuadratic(bins, -tails, tails)
        turned = range(dims - 1, -1, -1) if i % 2 else range(dims)
        network = MaskedMLP(
            dims,
            monotone.size,
            hidden,
            context=context,
            activation=activation,
            residual=residual,
            order=torch.randperm(dims) if order == "random" else turned,
            start_at_zero=True,
        )
        chain += [ActNorm((dims,))] if normalize and chain else []
        chain.append(MaskedAutoregressive(network, monotone))
    return Composed(chain if event == (dims,) else [*chain, Reshape((dims,), event)])
