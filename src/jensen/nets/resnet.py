"""A residual network from pictures of any size to pictures of any other.

It goes down from the size of the inputs to a coarse grid, and up again to the size of the outputs, with residual blocks
on every grid but that of the outputs. No layer depends on the size, and none is dense where both sides are pictures.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jensen.errors import ConfigError
from jensen.nets import stack
from jensen.nets.convolutional import ResidualConv, double, group_norm, halve
from jensen.nets.products import Linear
from jensen.nets.stack import Activation, Rate, Size, Stack
from jensen.registry import component

Shape = tuple[int, ...]
Size2 = tuple[int, int]
LARGEST = 8  # side of the coarse grid of a vector
SMALL = 0.1  # how much smaller than usual the last layer of a network to pictures starts


@component("network", "resnet", paper="He, Zhang, Ren and Sun 2016, arXiv:1603.05027; Wu and He 2018, arXiv:1803.08494")
def resnet(
    inputs: Shape,
    outputs: Shape,
    *,
    width: Size = 32,
    blocks: Size = 1,
    activation: Activation = "silu",
    dropout: Rate = 0.0,
) -> nn.Module:
    """Residual convolutions between pictures of any two sizes, with a linear path past them.

    The coarse grid is half the smaller of both pictures, or at most 8 pixels wide where one side is a vector. Past it,
    every pixel of the outputs is given those of the inputs at its place.

    Settings:
        width: channels of every hidden layer.
        blocks: residual blocks on every grid.
        activation: inside a block.
        dropout: share of each block's hidden layer dropped in training.

    >>> import torch
    >>> resnet((4, 14, 14), (6, 28, 28), width=8)(torch.zeros(5, 4, 14, 14)).shape
    torch.Size([5, 6, 28, 28])
    >>> resnet((1, 13, 7), (20,), width=8)(torch.zeros(5, 1, 13, 7)).shape
    torch.Size([5, 20])
    """

    def residuals() -> list[nn.Module]:
        return [ResidualConv(width, activation, dropout) for _ in range(blocks)]

    pictures = [shape for shape in (inputs, outputs) if len(shape) == 3]
    if not pictures:
        raise ConfigError(
            f"network 'resnet': expected a picture (channels, height, width) on one side, got {inputs} -> {outputs}; "
            "for vectors choose gated, linear, mlp or residual"
        )
    coarse = min((_size(shape) for shape in pictures), key=math.prod)
    if len(pictures) == 2:
        coarse = _half(coarse)
    while max(coarse) > LARGEST and len(pictures) == 1:
        coarse = _half(coarse)

    layers: list[nn.Module] = []
    if len(inputs) == 3:
        layers += [nn.Conv2d(inputs[0], width, 3, padding=1)]
        for size in _steps(_size(inputs), coarse):
            layers += [halve(width, width, size), *residuals()]
        layers += [Resized(coarse)]
    else:
        layers += [Linear(inputs[0], width * math.prod(coarse)), nn.Unflatten(1, (width, *coarse))]
    layers += residuals()
    if len(outputs) != 3:
        layers += [group_norm(width), stack.activation(activation)]
        return Stack(*layers, nn.Flatten(), Linear(width * math.prod(coarse), math.prod(outputs)))
    for size in [*reversed(_steps(_size(outputs), coarse))][:-1]:
        layers += [Resized(size), nn.Conv2d(width, width, 3, padding=1), *residuals()]
    layers += [group_norm(width), stack.activation(activation)]
    if _size(outputs) == coarse:
        layers += [nn.Conv2d(width, outputs[0], 3, padding=1)]
    else:
        layers += [Resized(_half(_size(outputs))), *double(width, outputs[0], _size(outputs), "transposed")]
    body = Stack(*layers)
    with torch.no_grad():
        body.output.weight.mul_(SMALL)  # what it says at first is its bias, which a decoder takes from the data
    return Past(body, inputs[0], outputs) if len(inputs) == 3 else body


class Past(nn.Module):
    """A network of pictures beside a linear map of each pixel: body(x) + W x, where x is resized and W starts at 0."""

    def __init__(self, body: Stack, channels: int, outputs: Shape):
        super().__init__()
        self.body, self.resized = body, Resized(_size(outputs))
        self.linear = nn.Conv2d(channels, outputs[0], 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    @property
    def output(self) -> nn.Linear | nn.Conv2d | nn.ConvTranspose2d:
        """Where an output bias can be set from the data."""
        return self.body.output

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.linear(self.resized(x))


class Resized(nn.Module):
    """Pictures (N, C, H, W) at another size, see `resize`."""

    def __init__(self, size: Size2):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return resize(x, self.size)


def resize(x: Tensor, size: Size2) -> Tensor:
    """Pictures (N, C, H, W) at that size: means on the way down, copies on the way up.

    >>> import torch
    >>> resize(torch.tensor([[[[1.0, 3.0]]]]), (2, 1))
    tensor([[[[2.],
              [2.]]]])
    """
    if x.shape[2:] == size:
        return x
    smaller = min(x.shape[2], size[0]), min(x.shape[3], size[1])
    if x.shape[2:] != smaller:
        x = F.adaptive_avg_pool2d(x, smaller)
    return x if smaller == size else F.interpolate(x, size, mode="nearest")


def _steps(size: Size2, coarse: Size2) -> list[Size2]:
    """Sizes that are halved on the way down to the coarse grid, none to less than it.

    >>> _steps((28, 28), (7, 7)), _steps((10, 28), (5, 14)), _steps((7, 7), (7, 7))
    ([(28, 28), (14, 14)], [(10, 28)], [])
    """
    found = []
    while size != coarse and _half(size)[0] >= coarse[0] and _half(size)[1] >= coarse[1]:
        found.append(size)
        size = _half(size)
    return found


def _size(shape: Shape) -> Size2:
    return shape[1], shape[2]


def _half(size: Size2) -> Size2:
    return -(-size[0] // 2), -(-size[1] // 2)
