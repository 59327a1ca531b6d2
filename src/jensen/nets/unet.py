"""U-Nets: pictures to pictures of the same size, on a way down through smaller sizes and up again.

What a size on the way down has seen goes straight over to the same size on the way up. So a U-Net keeps every detail of
its input: it suits what removes noise or labels pixels, and no decoder of a latent code.

Ronneberger, Fischer and Brox, "U-Net", 2015, arXiv:1505.04597; with residual blocks that a context scales and shifts,
group norm and attention at small sizes: Ho, Jain and Abbeel 2020, arXiv:2006.11239; Dhariwal and Nichol 2021,
arXiv:2105.05233.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jensen.errors import ConfigError
from jensen.nets import dense, stack
from jensen.nets.context import Joined
from jensen.nets.convolutional import group_norm
from jensen.nets.products import Linear
from jensen.nets.stack import Activation, Rate, Size
from jensen.registry import component

Shape = tuple[int, ...]
Patch = Annotated[int, Field(ge=1, le=8)]


class UNet(nn.Module):
    """`(N, C, H, W)` and a context `(N, size)` to `(N, P, H, W)`, for any H and W.

    Sizes are halved rounding up, and met again on the way up, so nothing is cropped.

    Args:
        inputs, outputs: channels C and P.
        context: size of the context; 0 for none.
        channels: of the sizes, from the largest picture to the smallest.
        attends: of each size, whether its blocks attend.
        blocks: residual blocks a size, down and up.
        patch: side of the squares of pixels that become channels first, and pixels again at the end.
        dropout: share of each block's hidden layer dropped in training.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        context: int,
        channels: list[int],
        attends: list[bool],
        blocks: int,
        patch: int,
        activation: Activation,
        dropout: float,
    ):
        super().__init__()
        self.patch = patch
        size = 4 * channels[0] if context else 0
        self.embed = None
        if context:
            act = stack.activation(activation), stack.activation(activation)
            self.embed = nn.Sequential(Linear(context, size), act[0], Linear(size, size), act[1])

        def several(first: int, width: int, attend: bool) -> nn.ModuleList:
            widths = [first, *[width] * (blocks - 1)]
            return nn.ModuleList(Block(n, width, size, activation, dropout, attend) for n in widths)

        self.first = nn.Conv2d(inputs * patch**2, channels[0], 3, padding=1)
        self.down, self.halves = nn.ModuleList(), nn.ModuleList()
        self.up, self.doubles = nn.ModuleList(), nn.ModuleList()
        for width, after, attend in zip(channels, [*channels[1:], channels[-1]], attends, strict=True):
            self.down.append(several(width, width, attend))
            self.up.append(several(2 * width, width, attend))
            self.halves.append(nn.Conv2d(width, after, 3, stride=2, padding=1))
            self.doubles.append(nn.Conv2d(after, width, 3, padding=1))
        self.halves, self.doubles = self.halves[:-1], self.doubles[:-1]
        self.middle = several(channels[-1], channels[-1], attends[-1])
        self.norm, self.activation = group_norm(channels[0]), stack.activation(activation)
        self.last = nn.Conv2d(channels[0], outputs * patch**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    @property
    def output(self) -> nn.Conv2d | None:
        """The layer whose bias is that of the output's channels."""
        return self.last if self.patch == 1 else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        size = x.shape[2:]
        c = None if self.embed is None else self.embed(context)
        h, across = self.first(self._patches(x)), []
        for i, level in enumerate(self.down):
            h = self._through(level, h, c)
            across.append(h)
            if i < len(self.halves):
                h = self.halves[i](h)
        h = self._through(self.middle, h, c)
        for i in reversed(range(len(self.up))):
            if i < len(self.doubles):
                h = self.doubles[i](F.interpolate(h, size=across[i].shape[2:], mode="nearest"))
            h = self._through(self.up[i], torch.cat([h, across[i]], 1), c)
        h = self.last(self.activation(self.norm(h)))
        return h if self.patch == 1 else F.pixel_shuffle(h, self.patch)[:, :, : size[0], : size[1]]

    @staticmethod
    def _through(blocks: nn.Module, h: Tensor, c: Tensor | None) -> Tensor:
        for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
            h = block(h, c)
        return h

    def _patches(self, x: Tensor) -> Tensor:
        if self.patch == 1:
            return x
        height, width = (-side % self.patch for side in x.shape[2:])
        return F.pixel_unshuffle(F.pad(x, (0, width, 0, height)), self.patch)


class Block(nn.Module):
    """skip(h) + conv(act(norm(conv(act(norm(h)))) ⊙ (1 + g(c)) + s(c))), n to m channels, and then attention."""

    def __init__(self, n: int, m: int, context: int, activation: Activation, dropout: float, attends: bool):
        super().__init__()
        self.before, self.first = group_norm(n), nn.Conv2d(n, m, 3, padding=1)
        self.between, self.second = group_norm(m), nn.Conv2d(m, m, 3, padding=1)
        self.context = Linear(context, 2 * m) if context else None
        self.activations = nn.ModuleList(stack.activation(activation) for _ in range(2))
        self.dropout = nn.Sequential(*stack.dropout(dropout))
        self.skip = nn.Conv2d(n, m, 1) if n != m else nn.Identity()
        self.attention = Attention(m) if attends else nn.Identity()
        with torch.no_grad():
            self.second.weight.mul_(0.1)  # a deep stack starts near the identity

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor:
        r = self.between(self.first(self.activations[0](self.before(h))))
        if self.context is not None:
            gain, shift = self.context(c)[:, :, None, None].chunk(2, 1)
            r = torch.addcmul(shift, r, 1 + gain)
        return self.attention(self.skip(h) + self.second(self.dropout(self.activations[1](r))))


class Attention(nn.Module):
    """h + W softmax(q k / √d) v: each pixel looks at all others, `(N, C, H, W)` to the same.

    Args:
        width: C; heads have 32 channels or more.
    """

    def __init__(self, width: int):
        super().__init__()
        self.heads = next(n for n in range(max(1, width // 32), 0, -1) if width % n == 0)
        self.norm = group_norm(width)
        self.project, self.join = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        with torch.no_grad():
            self.join.weight.mul_(0.1)

    def forward(self, h: Tensor) -> Tensor:
        parts = self.project(self.norm(h)).flatten(2).unflatten(1, (3, self.heads, -1)).mT  # (N, 3, heads, HW, d)
        q, k, v = parts.unbind(1)
        seen = F.scaled_dot_product_attention(q, k, v).mT.flatten(1, 2)  # (N, C, HW)
        return h + self.join(seen.unflatten(2, h.shape[2:]))


@component(
    "network",
    "unet",
    paper="Ronneberger, Fischer and Brox 2015, arXiv:1505.04597; Ho, Jain and Abbeel 2020, arXiv:2006.11239",
)
def unet(
    inputs: Shape,
    outputs: Shape,
    context: int = 0,
    *,
    channels: Annotated[list[Size], Field(min_length=1)] = [32, 64, 64],
    blocks: Size = 1,
    attention: Annotated[int, Field(ge=0)] = 8,
    patch: Patch = 1,
    activation: Activation = "silu",
    dropout: Rate = 0.0,
) -> UNet:
    """A U-Net: residual blocks with group norm on a way down through halved sizes and up again.

    It goes from a picture to one of the same size, any size, and keeps all of its input: no decoder of a code.

    Settings:
        channels: of the sizes, from the largest picture to the smallest; each is half of that before it.
        blocks: residual blocks a size, on the way down and on the way up.
        attention: blocks attend where height and width are no more than this; 0 for none.
        patch: side of squares of pixels that are taken together as channels; 2 takes a quarter of the time.
        activation: inside a block.
        dropout: share of each block's hidden layer dropped in training.

    >>> import torch
    >>> unet((3, 13, 7), (2, 13, 7), channels=[8, 8])(torch.zeros(5, 3, 13, 7)).shape
    torch.Size([5, 2, 13, 7])

    Raises `ConfigError` unless both are pictures (C, H, W) of one size.
    """
    if len(inputs) != 3 or len(outputs) != 3 or inputs[1:] != outputs[1:]:
        raise ConfigError(
            f"network 'unet': expected pictures (channels, height, width) of one size on both sides, got {inputs} -> "
            f"{outputs}. What it sees goes straight over to what it says, past the narrow middle: as a decoder of x it "
            "would have to be given x, and bypass z. Choose conv or resconv"
        )
    sides = [-(-max(inputs[1:]) // (patch * 2**i)) for i in range(len(channels))]
    attends = [1 < side <= attention for side in sides]  # a single pixel has no other to look at
    return UNet(inputs[0], outputs[0], context, channels, attends, blocks, patch, activation, dropout)


@component("network", "auto")
def auto(inputs: Shape, outputs: Shape, context: int = 0, *, width: Annotated[int, Field(ge=4)] = 64) -> nn.Module:
    """What fits the data: a U-Net between pictures of one size, else a residual perceptron.

    Settings:
        width: of a U-Net, channels of its smaller sizes, and twice those of the largest; a perceptron has four times as
            many units.
    """
    if len(inputs) == 3 and len(outputs) == 3 and inputs[1:] == outputs[1:]:
        return unet(inputs, outputs, context, channels=[width // 2, width, width])
    network = dense.residual(Joined.shape(inputs, context), outputs, width=4 * width)
    return Joined(network) if context else network
