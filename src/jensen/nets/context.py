"""Networks that are given a context beside their input.

A component of the role `network` whose parameters are `(inputs, outputs, context)` takes a context itself,
`(N, context)`, as a second argument; any other is given it as further inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jensen.registry import Choice

Shape = tuple[int, ...]


class Joined(nn.Module):
    """A network whose context stands among its inputs: behind a vector, or as planes behind a picture.

    >>> Joined(nn.Linear(5, 1))(torch.zeros(4, 2), torch.zeros(4, 3)).shape
    torch.Size([4, 1])
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    @staticmethod
    def shape(inputs: Shape, context: int) -> Shape:
        """Of both together."""
        return (inputs[0] + context, *inputs[1:])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        planes = context.reshape(*context.shape, *(1,) * (x.dim() - 2)).expand(*context.shape, *x.shape[2:])
        return self.network(torch.cat([x, planes.to(x.dtype)], 1))


def contextual(network: Choice, inputs: Shape, outputs: Shape, context: int) -> nn.Module:
    """The chosen network with a context of that size, `(x, context)` to its outputs."""
    if "context" in network.component.positional:
        return network(inputs, outputs, context)
    return Joined(network(Joined.shape(inputs, context), outputs))
