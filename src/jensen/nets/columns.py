"""Perceptrons that work features first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jensen.nets.products import columns
from jensen.nets.stack import Stack


class FeaturesFirst(Stack):
    """Linear layers and activations, `(N, inputs)` to `(N, outputs)`, whose tensors lie `(features, N)` in memory.

    For networks with many outputs of which each is then treated on its own, as the parameters of splines are: what
    reads them reads rows of N numbers. The products are as fast or faster.

    >>> FeaturesFirst(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))(torch.zeros(5, 3)).stride()
    (1, 5)
    """

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        *inner, last = self
        if torch.is_grad_enabled():
            h = x.mT
            for layer in inner:
                h = _linear(layer, h) if isinstance(layer, nn.Linear) else layer(h)
        else:  # products are faster with rows first, but for their gradients
            h = x
            for layer in inner:
                h = layer(h)
            h = h.mT
        return _linear(last, h).mT


def _linear(layer: Any, h: Tensor) -> Tensor:
    """(inputs, N) to (outputs, N)."""
    return columns(h, layer.weight, layer.bias)
