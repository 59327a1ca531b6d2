"""Planar flow: the space is stretched along one direction after another.

    x = f_K ∘ … ∘ f_1(z)        f(z) = z + û tanh(wᵀz + b),  wᵀû > −1

Rezende and Mohamed, "Variational inference with normalizing flows", 2015, arXiv:1505.05770.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from jensen.models.flow import flow
from jensen.transforms import Composed, Inverse, Planar, Reshape, Transform

Direction = Literal["sampling", "density"]


@flow("planar", paper="Rezende and Mohamed 2015, arXiv:1505.05770", direction="density")
def planar(
    event: tuple[int, ...],
    context: int,
    *,
    layers: Annotated[int, Field(ge=1)] = 16,
    direction: Direction = "sampling",
) -> Transform:
    """Planar flow: f(z) = z + û tanh(wᵀz + b), again and again. One way is a formula, the other has no closed form.

    With a context w, u and b are linear in it. Pictures are flattened. The way without a closed form is found by
    iteration, to the last digits and with the right gradient, at a few times the cost.

    Settings:
        layers: K.
        direction: which way is the formula: "sampling", from noise to data as in the paper, for a posterior that is
            drawn from at every step; "density", from data to noise, for learning from data by likelihood.
    """
    dims = math.prod(event)
    return on_vectors([Planar(dims, context) for _ in range(layers)], event, direction)


def on_vectors(maps: Sequence[Transform], event: tuple[int, ...], direction: Direction) -> Transform:
    """Maps of vectors in a row as one of events of any shape, the other way round for "density"."""
    chain: list[Transform] = [Inverse(m) for m in maps] if direction == "density" else [*maps]
    if len(event) != 1:
        chain.append(Reshape((math.prod(event),), event))
    return Composed(chain)
