"""Fully connected networks. Pictures are flattened on the way in and shaped again on the way out."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from jensen.nets import stack
from jensen.nets.products import Linear
from jensen.nets.stack import Activation, Rate, Size, Stack
from jensen.registry import component

Shape = tuple[int, ...]


@component("network", "linear")
def linear(inputs: Shape, outputs: Shape) -> Stack:
    """One affine map, W x + b.

    >>> import torch
    >>> linear((1, 28, 28), (20,))(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 20])
    """
    return _perceptron(inputs, outputs, [], lambda n, m: [Linear(n, m)])


@component("network", "mlp")
def mlp(
    inputs: Shape,
    outputs: Shape,
    *,
    hidden: list[Size] = [400],
    activation: Activation = "relu",
    dropout: Rate = 0.0,
    input_dropout: Rate = 0.0,
) -> Stack:
    """Multilayer perceptron, h = act(W x + b) per layer.

    Settings:
        hidden: sizes of the hidden layers; none of them leaves one affine map.
        activation: between the layers.
        dropout: share of each hidden layer dropped in training.
        input_dropout: share of the inputs dropped in training.

    >>> import torch
    >>> mlp((20,), (1, 28, 28), hidden=[400])(torch.zeros(5, 20)).shape
    torch.Size([5, 1, 28, 28])
    """

    def layer(n: int, m: int) -> list[nn.Module]:
        return [Linear(n, m), stack.activation(activation)]

    return _perceptron(inputs, outputs, hidden, layer, dropout, input_dropout)


@component(
    "network",
    "gated",
    paper="Dauphin, Fan, Auli and Grangier 2017, arXiv:1612.08083; in VAEs: Tomczak and Welling 2018, arXiv:1705.07120",
)
def gated(
    inputs: Shape,
    outputs: Shape,
    *,
    hidden: list[Size] = [300, 300],
    dropout: Rate = 0.0,
    input_dropout: Rate = 0.0,
) -> Stack:
    """Perceptron of gated linear units, h = (W x + b) * sigmoid(V x + c) per layer.

    Settings:
        hidden: sizes of the hidden layers.
        dropout: share of each hidden layer dropped in training.
        input_dropout: share of the inputs dropped in training.

    >>> import torch
    >>> gated((1, 28, 28), (40,))(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 40])
    """

    def layer(n: int, m: int) -> list[nn.Module]:
        return [Linear(n, 2 * m), nn.GLU()]  # W and V in one matrix product

    return _perceptron(inputs, outputs, hidden, layer, dropout, input_dropout)


@component(
    "network",
    "residual",
    paper="He, Zhang, Ren and Sun 2016, arXiv:1512.03385; "
    "normalised before the branch: Xiong et al. 2020, arXiv:2002.04745",
)
def residual(
    inputs: Shape,
    outputs: Shape,
    *,
    width: Size = 256,
    blocks: Size = 2,
    activation: Activation = "relu",
    dropout: Rate = 0.0,
    input_dropout: Rate = 0.0,
) -> Stack:
    """Residual perceptron with layer norm, h + V act(W norm(h)) per block.

    Settings:
        width: size of every hidden layer.
        blocks: number of residual blocks.
        activation: inside a block.
        dropout: share of each block's hidden layer dropped in training.
        input_dropout: share of the inputs dropped in training.

    >>> import torch
    >>> residual((9,), (3,), blocks=4)(torch.zeros(5, 9)).shape
    torch.Size([5, 3])
    """
    return Stack(
        *stack.flatten(inputs),
        *stack.dropout(input_dropout),
        Linear(math.prod(inputs), width),
        *(Residual(width, activation, dropout) for _ in range(blocks)),
        nn.LayerNorm(width),
        Linear(width, math.prod(outputs)),
        *stack.unflatten(outputs),
    )


class Residual(nn.Module):
    """h + V act(W norm(h)), `(N, width)` to `(N, width)`."""

    def __init__(self, width: int, activation: Activation, dropout: float):
        super().__init__()
        self.branch = nn.Sequential(
            nn.LayerNorm(width),
            Linear(width, width),
            stack.activation(activation),
            *stack.dropout(dropout),
            Linear(width, width),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


def _perceptron(
    inputs: Shape,
    outputs: Shape,
    hidden: list[int],
    layer: Callable[[int, int], list[nn.Module]],
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> Stack:
    """Layers of the given kind from width to width, then one affine map to the outputs."""
    layers = [*stack.flatten(inputs), *stack.dropout(input_dropout)]
    widths = [math.prod(inputs), *hidden]
    for n, m in pairwise(widths):
        layers += [*layer(n, m), *stack.dropout(dropout)]
    return Stack(*layers, Linear(widths[-1], math.prod(outputs)), *stack.unflatten(outputs))
