"""Householder flow: a rotation that depends on the datum, so that a diagonal posterior gets a full covariance.

    x = H₁ … H_k z        H = I − 2 v vᵀ / ‖v‖²        log |det| = 0

Tomczak and Welling, "Improving variational auto-encoders using Householder flow", 2016, arXiv:1611.09630.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from jensen.models.flow import flow
from jensen.models.planar import on_vectors
from jensen.transforms import Reflections, Scaling, Transform


@flow("householder", paper="Tomczak and Welling 2016, arXiv:1611.09630", scale=True)
def householder(
    event: tuple[int, ...],
    context: int,
    *,
    reflections: Annotated[int, Field(ge=1)] = 4,
    scale: bool = False,
) -> Transform:
    """Householder flow: x = H₁ … H_k z with reflections H = I − 2 v vᵀ / ‖v‖², volumes kept.

    For posteriors: a diagonal normal becomes one with a covariance of its own for each datum, v being linear in the
    context. From a standard normal with `scale` it is a normal density whose covariance is learned.

    Settings:
        reflections: k.
        scale: first stretch each dimension by a learned number; without it a standard normal base stays as it is.
    """
    dims = math.prod(event)
    maps = [Scaling((dims,))] if scale else []
    return on_vectors([*maps, Reflections(dims, reflections, context)], event, "sampling")
