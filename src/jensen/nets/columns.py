"""Affine maps that lay their result features first in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jensen.nets.stack import Stack


class Columns(nn.Linear):
    """W x + b, `(N, inputs)` to `(N, outputs)`, where each output's values are contiguous in memory, `(outputs, N)`.

    For a network with many outputs of which each is then treated on its own, as the parameters of splines are: what
    reads them reads rows of N numbers, and copies nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.bias is None:
            return (self.weight @ input.mT).mT
        return torch.addmm(self.bias.unsqueeze(1), self.weight, input.mT).mT


def features_first(network: Stack) -> Stack:
    """The same perceptron with `Columns` for its linear layers; names and values of parameters stay.

    >>> features_first(Stack(nn.Linear(3, 2)))(torch.zeros(5, 3)).stride()
    (1, 5)
    """
    for i, layer in enumerate(network):
        if type(layer) is nn.Linear:
            columns = Columns(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
            columns.weight, columns.bias = layer.weight, layer.bias
            network[i] = columns
    return network
