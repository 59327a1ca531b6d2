"""Radial flow: the space is stretched around one point after another.

    x = f_K ∘ … ∘ f_1(z)        f(z) = z + β (z − z₀) / (α + ‖z − z₀‖),  β > −α

Rezende and Mohamed, "Variational inference with normalizing flows", 2015, arXiv:1505.05770.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from jensen.models.flow import flow
from jensen.models.planar import on_vectors
from jensen.transforms import Radial, Transform


@flow("radial", paper="Rezende and Mohamed 2015, arXiv:1505.05770")
def radial(event: tuple[int, ...], context: int, *, layers: Annotated[int, Field(ge=1)] = 16) -> Transform:
    """Radial flow: f(z) = z + β (z − z₀) / (α + ‖z − z₀‖), again and again. Both ways are formulas.

    With a context z₀, α and β are linear in it. Pictures are flattened.

    Settings:
        layers: K.
    """
    dims = math.prod(event)
    return on_vectors([Radial(dims, context) for _ in range(layers)], event, "sampling")
