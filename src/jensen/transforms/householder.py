"""Reflections whose vectors may depend on a context."""

from __future__ import annotations

import torch
from torch import Tensor

from jensen.transforms.parameters import Parameters
from jensen.transforms.transform import Transform


class Reflections(Transform):
    r"""x = H₁ … H_k z with H = I − 2 v vᵀ / ‖v‖²: a rotation that keeps volumes, log |det ∂x/∂z| = 0.

    Tomczak and Welling, "Improving variational auto-encoders using Householder flow", 2016, arXiv:1611.09630. There
    each v is a linear map of the one before it, and the first of the encoder's last layer; here each is one of the
    context, which is the same family.

    Args:
        dims: D. Events are `(D,)`.
        count: k.
        context: size of the context that the vectors depend on linearly; 0 to learn them.
    """

    def __init__(self, dims: int, count: int, context: int = 0):
        super().__init__()
        self.domain_shape = self.codomain_shape = (dims,)
        self.parameters_of = Parameters({"vectors": torch.randn(count, dims)}, context)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        (vectors,) = self.parameters_of(context)
        return reflect(z, vectors.flip(1)), z.new_zeros(())

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        (vectors,) = self.parameters_of(context)
        return reflect(x, vectors), x.new_zeros(())


def reflect(z: Tensor, vectors: Tensor) -> Tensor:
    """H_k … H₁ z, (N, D), for vectors v₁ … v_k, (N or 1, k, D)."""
    scaled = vectors * (2 / vectors.square().sum(2, keepdim=True).clamp_min(1e-12))
    for v, w in zip(vectors.unbind(1), scaled.unbind(1), strict=True):
        z = z - (v * z).sum(1, keepdim=True) * w
    return z
