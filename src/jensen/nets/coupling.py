"""The network inside a coupling: of what is kept it gives the parameters of what changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from jensen.nets.columns import FeaturesFirst
from jensen.nets.dense import mlp
from jensen.nets.stack import Activation

Shape = tuple[int, ...]


def conditioner(
    inputs: Shape,
    outputs: Shape,
    *,
    hidden: Sequence[int],
    channels: int,
    blocks: int,
    kernel: int,
    activation: Activation,
) -> nn.Module:
    """A perceptron with `hidden` layers between vectors, a `PictureConditioner` between pictures."""
    if len(inputs) == 1:
        return FeaturesFirst(*mlp(inputs, outputs, hidden=list(hidden), activation=activation))
    return PictureConditioner(inputs, outputs, channels=channels, blocks=blocks, kernel=kernel, activation=activation)


class PictureConditioner(nn.Module):
    """Convolution in, residual blocks h + W act(V act(h)), convolution out, all at one size, `(N, C, H, W)`.

    With V of size 1 it is the network of Glow, with 3 that of RealNVP, without their normalisation: zero at the start
    in its last layer, it is not needed. Channels are kept last in memory, where processors convolve fastest.

    Args:
        inputs, outputs: shapes of the same height and width.
        channels: of the hidden layers.
        blocks: how many.
        kernel: side of V, odd.
        activation: between the layers.

    >>> PictureConditioner((2, 7, 5), (4, 7, 5), channels=8, blocks=1, kernel=3, activation="relu").output.out_channels
    4
    """

    def __init__(
        self, inputs: Shape, outputs: Shape, *, channels: int, blocks: int, kernel: int, activation: Activation
    ):
        super().__init__()
        self.input = nn.Conv2d(inputs[0], channels, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(channels, kernel, activation) for _ in range(blocks))
        self.activation = _function(activation)
        self.output = nn.Conv2d(channels, outputs[0], 3, padding=1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        h = self.input(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h)
        return self.output(self.activation(h))


class _Block(nn.Module):
    def __init__(self, channels: int, kernel: int, activation: Activation):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(channels, channels, 1)
        self.activation = _function(activation)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(self.activation(self.first(self.activation(h))))


def _function(activation: Activation) -> Callable[[Tensor], Tensor]:
    """An activation that is not in place: h is needed again."""
    return getattr(functional, activation.replace("-", "_"))
