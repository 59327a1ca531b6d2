"""Perceptrons that work features first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jensen.nets.stack import Stack


class FeaturesFirst(Stack):
    """Linear layers and activations, `(N, inputs)` to `(N, outputs)`, whose tensors lie `(features, N)` in memory.

    For networks with many outputs of which each is then treated on its own, as the parameters of splines are: what
    reads them reads rows of N numbers. The products are as fast or faster.

    >>> FeaturesFirst(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))(torch.zeros(5, 3)).stride()
    (1, 5)
    """

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        h = x.mT
        for layer in self:
            h = torch.addmm(layer.bias.unsqueeze(1), layer.weight, h) if isinstance(layer, nn.Linear) else layer(h)
        return h.mT
