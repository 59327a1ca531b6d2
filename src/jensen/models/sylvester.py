"""Sylvester flow: a planar flow along M directions at once.

    x = f_K ∘ … ∘ f_1(z)        f(z) = z + Q R tanh(S Qᵀz + b),  QᵀQ = I, R and S upper triangular

Van den Berg, Hasenclever, Tomczak and Welling, "Sylvester normalizing flows for variational inference", 2018,
arXiv:1803.05649.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from jensen.errors import ConfigError
from jensen.models.flow import flow
from jensen.models.planar import Direction, on_vectors
from jensen.transforms import Sylvester, Transform

WIDEST = 16  # by default: an inverse takes as many iterations in a row


@flow("sylvester", paper="Van den Berg et al. 2018, arXiv:1803.05649", direction="density")
def sylvester(
    event: tuple[int, ...],
    context: int,
    *,
    layers: Annotated[int, Field(ge=1)] = 4,
    orthogonal: Literal["householder", "triangular"] = "householder",
    width: Annotated[int, Field(ge=1)] | None = None,
    reflections: Annotated[int, Field(ge=1)] = 8,
    direction: Direction = "sampling",
) -> Transform:
    """Sylvester flow: f(z) = z + Q R tanh(S Qᵀz + b). One way is a formula, the other has no closed form.

    With a context all parameters are linear in it. Pictures are flattened. The way without a closed form is found by
    iteration, M increasing equations one after another, to the last digits and with the right gradient.

    Settings:
        layers: K.
        orthogonal: Q as a product of Householder reflections, cut to M columns; or "triangular", the identity and the
            order reversed in turn.
        width: M, at most the dimensions; none takes all of them, up to 16.
        reflections: of each Q.
        direction: which way is the formula: "sampling", from noise to data as in the paper, for a posterior that is
            drawn from at every step; "density", from data to noise, for learning from data by likelihood.

    Raises `ConfigError` where M exceeds the dimensions, or a triangular flow is given an M that is not all of them.
    """
    dims = math.prod(event)
    if orthogonal == "triangular":
        if width not in (None, dims):
            raise ConfigError(f"width: a triangular Sylvester flow has all {dims} dimensions, got {width}")
        maps = [Sylvester(dims, dims, 0, reverse=i % 2 == 1, context=context) for i in range(layers)]
    else:
        m = width or min(dims, WIDEST)
        if m > dims:
            raise ConfigError(f"width: expected at most the {dims} dimensions, got {width}")
        maps = [Sylvester(dims, m, reflections, context=context) for _ in range(layers)]
    return on_vectors(maps, event, direction)
