"""Convolutional networks for pictures of any height and width.

Every stage halves or doubles the picture. Sizes are rounded up on the way down (13 x 7, 7 x 4, 4 x 2) and the
same sizes are met on the way up, so nothing is cropped. A kernel that changes the size is divisible by its
stride, so every pixel is covered equally often and no checkerboard appears (Odena, Dumoulin and Olah,
"Deconvolution and checkerboard artifacts", Distill 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from jensen.errors import ConfigError
from jensen.nets import stack
from jensen.nets.products import Linear
from jensen.nets.stack import Activation, Rate, Size, Stack
from jensen.registry import component

Shape = tuple[int, ...]
Size2 = tuple[int, int]
Upsampling = Literal["transposed", "nearest", "bilinear"]
Normalization = Literal["none", "group"]


@component(
    "network",
    "conv",
    paper="Radford, Metz and Chintala 2016, arXiv:1511.06434 (transposed); "
    "Odena, Dumoulin and Olah 2016, Distill (nearest, bilinear)",
)
def conv(
    inputs: Shape,
    outputs: Shape,
    *,
    channels: list[Size] = [32, 64],
    hidden: Size = 256,
    activation: Activation = "relu",
    upsampling: Upsampling = "transposed",
    normalization: Normalization = "none",
) -> Stack:
    """Strided convolutions down from a picture, transposed or resize-convolutions up to one.

    Between picture and picture there is no dense layer. Where one is the other halved so many times, there are so many
    stages, the last channels as often as it takes; else all stages lead down and up again.

    Settings:
        channels: of the stages, from the largest picture to the smallest; each halves the picture.
        hidden: size of the dense layer between vector and picture.
        activation: after every layer but the last.
        upsampling: transposed convolution, or resizing ("nearest", "bilinear") and then a convolution.
        normalization: "group" norm before every activation of a stage.

    >>> import torch
    >>> conv((3, 13, 7), (20,))(torch.zeros(5, 3, 13, 7)).shape
    torch.Size([5, 20])
    >>> conv((20,), (3, 13, 7), upsampling="nearest")(torch.zeros(5, 20)).shape
    torch.Size([5, 3, 13, 7])
    >>> conv((3, 13, 7), (16, 4, 2))(torch.zeros(5, 3, 13, 7)).shape  # two stages, and no dense layer
    torch.Size([5, 16, 4, 2])

    Raises `ConfigError` where neither side is a picture `(C, H, W)`.
    """

    def after(width: int) -> list[nn.Module]:
        norm = [group_norm(width)] if normalization == "group" else []
        return [*norm, stack.activation(activation)]

    def down(n: int, m: int, size: Size2) -> list[nn.Module]:
        return [halve(n, m, size), *after(m)]

    def up(n: int, m: int, size: Size2) -> list[nn.Module]:
        return [*double(n, m, size, upsampling), *after(m)]

    return _hourglass("conv", inputs, outputs, channels, hidden, activation, down, after, up)


@component(
    "network",
    "resconv",
    paper="He, Zhang, Ren and Sun 2016, arXiv:1603.05027; with group norm: Wu and He 2018, arXiv:1803.08494",
)
def resconv(
    inputs: Shape,
    outputs: Shape,
    *,
    channels: list[Size] = [32, 64],
    blocks: Size = 1,
    hidden: Size = 256,
    activation: Activation = "silu",
    upsampling: Upsampling = "nearest",
    dropout: Rate = 0.0,
) -> Stack:
    """As `conv`, with residual blocks and group norm at every size.

    Settings:
        channels: of the stages, from the largest picture to the smallest; each halves the picture.
        blocks: residual blocks a stage.
        hidden: size of the dense layer between vector and picture.
        activation: inside a block.
        upsampling: transposed convolution, or resizing ("nearest", "bilinear") and then a convolution.
        dropout: share of each block's hidden layer dropped in training.

    >>> import torch
    >>> resconv((20,), (1, 28, 28), blocks=2)(torch.zeros(5, 20)).shape
    torch.Size([5, 1, 28, 28])

    Raises `ConfigError` where neither side is a picture `(C, H, W)`.
    """

    def residuals(width: int) -> list[nn.Module]:
        return [ResidualConv(width, activation, dropout) for _ in range(blocks)]

    def down(n: int, m: int, size: Size2) -> list[nn.Module]:
        return [halve(n, m, size), *residuals(m)]

    def up(n: int, m: int, size: Size2) -> list[nn.Module]:
        return [*double(n, m, size, upsampling), *residuals(m)]

    return _hourglass("resconv", inputs, outputs, channels, hidden, activation, down, residuals, up)


class ResidualConv(nn.Module):
    """h + conv(act(norm(conv(act(norm(h)))))), `(N, C, H, W)` to the same."""

    def __init__(self, width: int, activation: Activation, dropout: float):
        super().__init__()
        self.branch = nn.Sequential(
            group_norm(width),
            stack.activation(activation),
            nn.Conv2d(width, width, 3, padding=1),
            group_norm(width),
            stack.activation(activation),
            *stack.dropout(dropout),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


def halve(n: int, m: int, size: Size2) -> nn.Conv2d:
    """Convolution from n channels at `size` to m at half of it, rounded up."""
    return nn.Conv2d(n, m, 4, stride=2, padding=_padding(size))


def double(n: int, m: int, size: Size2, upsampling: Upsampling) -> list[nn.Module]:
    """From n channels at half of `size`, rounded up, to m at `size`."""
    if upsampling == "transposed":
        # The adjoint of `halve`. Both 2s - 1 and 2s come from s: the output padding says which.
        height, width = size
        return [nn.ConvTranspose2d(n, m, 4, stride=2, padding=_padding(size), output_padding=(height % 2, width % 2))]
    return [nn.Upsample(size=size, mode=upsampling), nn.Conv2d(n, m, 3, padding=1)]


def group_norm(width: int) -> nn.GroupNorm:
    """Group norm with eight or more channels a group where there are as many."""
    groups = next(g for g in range(max(1, width // 8), 0, -1) if width % g == 0)
    return nn.GroupNorm(groups, width)


def _padding(size: Size2) -> tuple[int, int]:
    """Padding with which a kernel of 4 and a stride of 2 take s to ceil(s / 2)."""
    height, width = size
    return 1 + height % 2, 1 + width % 2


def _hourglass(
    name: str,
    inputs: Shape,
    outputs: Shape,
    channels: list[int],
    hidden: int,
    activation: Activation,
    down: Callable[[int, int, Size2], list[nn.Module]],
    stay: Callable[[int], list[nn.Module]],
    up: Callable[[int, int, Size2], list[nn.Module]],
) -> Stack:
    """Stages down where the input is a picture, a middle, and stages up where the output is one.

    `down(n, m, size)` takes n channels at `size` to m at half of it; `stay(n)` keeps n channels at their size;
    `up(n, m, size)` takes n channels at half of `size` to m at `size`.
    """
    from_picture, to_picture = len(inputs) == 3, len(outputs) == 3
    if not from_picture and not to_picture:
        raise ConfigError(
            f"network {name!r}: expected a picture (channels, height, width) on one side, "
            f"got {inputs} -> {outputs}; for vectors choose gated, linear, mlp or residual"
        )
    if not channels:
        raise ConfigError(f"network {name!r}: channels: expected one or more, got []")
    if from_picture and to_picture and inputs[1:] != outputs[1:]:
        stages = _stages(inputs, outputs)
        if stages:
            return _one_way(inputs, outputs, [channels[min(i, len(channels) - 1)] for i in range(stages)], down)
        stages = _stages(outputs, inputs)
        if stages:
            widths = [channels[min(i, len(channels) - 1)] for i in range(stages)]
            start = [nn.Conv2d(inputs[0], widths[-1], 3, padding=1), *stay(widths[-1])]
            return Stack(*start, *_one_way(inputs, outputs, widths, up, rising=True))

    layers: list[nn.Module] = []
    middle = inputs
    if from_picture:
        *sizes, smallest = halves(inputs, len(channels))
        for n, m, size in zip([inputs[0], *channels], channels, sizes, strict=False):
            layers += down(n, m, size)
        middle = (channels[-1], *smallest)
    if not to_picture:
        layers += _dense(middle, hidden, outputs, activation)
        return Stack(*layers, *stack.unflatten(outputs))

    *sizes, smallest = halves(outputs, len(channels))
    start = (channels[-1], *smallest)
    if not from_picture:
        layers += _dense(middle, hidden, start, activation)
        layers += [stack.activation(activation), *stack.unflatten(start)]
    elif middle != start:
        layers += [nn.Upsample(size=smallest, mode="nearest")]
    ascending = [*reversed(channels), channels[0]]
    for (n, m), size in zip(pairwise(ascending), reversed(sizes), strict=True):
        layers += up(n, m, size)
    return Stack(*layers, nn.Conv2d(channels[0], outputs[0], 3, padding=1))


def _stages(large: Shape, small: Shape) -> int:
    """How many times a picture is halved to get to the size of another; 0 where it never is.

    >>> _stages((1, 28, 28), (64, 7, 7)), _stages((1, 28, 28), (64, 5, 7))
    (2, 0)
    """
    sizes = halves(large, max(large[1:]).bit_length())
    return sizes.index(small[1:]) if small[1:] in sizes else 0  # pyright: ignore[reportArgumentType]


def _one_way(
    inputs: Shape,
    outputs: Shape,
    channels: list[int],
    step: Callable[[int, int, Size2], list[nn.Module]],
    rising: bool = False,
) -> Stack:
    """Only down, or only up, and a convolution to the output's channels."""
    *sizes, _ = halves(outputs if rising else inputs, len(channels))
    chain = [*reversed(channels), channels[0]] if rising else [inputs[0], *channels]
    steps = zip(pairwise(chain), reversed(sizes) if rising else sizes, strict=True)
    layers = [layer for (n, m), size in steps for layer in step(n, m, size)]
    return Stack(*layers, nn.Conv2d(chain[-1], outputs[0], 3, padding=1))


def _dense(inputs: Shape, hidden: int, outputs: Shape, activation: Activation) -> list[nn.Module]:
    """`(N, *inputs)` to `(N, prod(outputs))` by way of one hidden layer."""
    return [
        *stack.flatten(inputs),
        Linear(math.prod(inputs), hidden),
        stack.activation(activation),
        Linear(hidden, math.prod(outputs)),
    ]


def halves(picture: Shape, times: int) -> list[Size2]:
    """Height and width of a picture, and halved so many times, rounded up.

    >>> halves((1, 13, 7), 2)
    [(13, 7), (7, 4), (4, 2)]
    """
    _, height, width = picture
    return [(-(-height // 2**i), -(-width // 2**i)) for i in range(times + 1)]
