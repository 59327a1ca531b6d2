"""Inverse autoregressive flow: every element is shifted and scaled by what the noise of the elements before it says.

    z_d = exp(s_d(z⁰_<d)) z⁰_d + t_d(z⁰_<d)        log |det ∂z/∂z⁰| = Σ_d s_d

The mirror image of a masked autoregressive flow: a draw with its density takes one pass of a masked network a layer,
the density of a given point one step an element. So it serves as a posterior.

Kingma et al., "Improving variational inference with inverse autoregressive flow", 2016, arXiv:1606.04934.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from jensen.models.flow import flow
from jensen.models.maf import maf
from jensen.nets.stack import Activation, Size
from jensen.transforms import Composed, Inverse, Reshape, Transform

Shape = tuple[int, ...]


@flow("iaf", paper="Kingma et al. 2016, arXiv:1606.04934")
def iaf(
    event: Shape,
    context: int,
    *,
    layers: Size = 4,
    hidden: list[Size] = [64, 64],
    activation: Activation = "elu",
    order: Literal["reversed", "random"] = "reversed",
    bound: Annotated[float, Field(gt=0)] = 2.0,
) -> Transform:
    """Inverse autoregressive flow: draws with their density in one pass a layer.

    Settings:
        layers: masked networks, one after the other.
        hidden: sizes of the hidden layers of each.
        activation: of the networks.
        order: of the elements in the layers: reversed from one to the next, or random.
        bound: of |s|, in nats.
    """
    flat = (math.prod(event),)
    made = maf(
        flat, context, layers=layers, hidden=hidden, activation=activation, order=order, normalize=False, bound=bound
    )
    return Inverse(made) if event == flat else Composed([Inverse(made), Reshape(flat, event)])
