"""The features of a vector, or the channels of a picture, in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jensen.transforms.transform import Shape, Transform


class Permutation(Transform):
    """x_d = z_{order[d]} along the first dimension of the event; log |det| = 0.

    Raises:
        ValueError: `order` is no permutation of the features.

    >>> Permutation((3,), [2, 0, 1])(torch.tensor([[10.0, 11.0, 12.0]]))
    tensor([[12., 10., 11.]])
    """

    forward_steps = inverse_steps = 0
    order: Tensor
    inverse_order: Tensor

    def __init__(self, shape: Shape, order: Sequence[int]):
        super().__init__()
        if sorted(order) != list(range(shape[0])):
            raise ValueError(f"expected an order of {shape[0]} features, got {list(order)}")
        self.domain_shape = self.codomain_shape = tuple(shape)
        self.register_buffer("order", torch.tensor(list(order)))
        self.register_buffer("inverse_order", torch.tensor(list(order)).argsort())

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.index_select(1, self.order), z.new_zeros(())

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.inverse_order), x.new_zeros(())


def reverse(shape: Shape) -> Permutation:
    """The last feature first."""
    return Permutation(shape, range(shape[0] - 1, -1, -1))


def shuffle(shape: Shape) -> Permutation:
    """A random order, drawn once and kept with the weights."""
    return Permutation(shape, torch.randperm(shape[0]).tolist())


def evens_first(shape: Shape) -> Permutation:
    """From the data's features to those of even number, then those of odd number: halves in place of two masks."""
    return Permutation(shape, torch.tensor([*range(0, shape[0], 2), *range(1, shape[0], 2)]).argsort().tolist())
