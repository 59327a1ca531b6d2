"""Gated convolutions over pictures, each pixel seeing those above it and those to its left.

    a = V ∗ v          b = H ∗ h + U a        v ← gate(a)        h ← h + W gate(b)        gate(a₁, a₂) = tanh a₁ σ(a₂)

The vertical stack v sees the rows above, the horizontal stack h the pixels to the left in its row and, through a, the
vertical stack: together all that came before, without a blind spot. In the first layer both are strict (mask A), and h
has no residual there. The colours of a pixel follow one another through a masked perceptron.

van den Oord et al., "Conditional image generation with PixelCNN decoders", 2016, arXiv:1606.05328.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jensen.nets.causal import Causal, Step, raster
from jensen.nets.masked import MaskedMLP
from jensen.nets.products import Linear


class PixelCNN(Causal):
    """A picture (C, H, W), pixel by pixel in raster order, the colours of a pixel one after another.

    Walking, the vertical stack is computed once a row and the horizontal stack once a pixel.

    Args:
        width: channels of both stacks.
        layers: of gated convolutions, the strict one included.
        kernel, first: sizes of the convolutions, odd, and of the strict one.
        dilations: how far apart the pixels lie that a convolution sees, of the layers after the strict one in turn.
        hidden: units of the perceptron of a pixel.
        context: C, 0 for none; every layer sees it.
        middle, unit: x enters as (x − middle) / unit.
        symbols: how many there are, where x, of one channel, are symbols; each then has a vector of `width` numbers.
    """

    local = 0

    def __init__(
        self,
        shape: tuple[int, ...],
        per_element: int,
        *,
        width: int,
        layers: int,
        kernel: int,
        first: int,
        hidden: int,
        context: int = 0,
        dilations: Sequence[int] = (1,),
        dropout: float = 0.0,
        middle: float = 0.0,
        unit: float = 1.0,
        symbols: int | None = None,
    ):
        super().__init__(shape, per_element, raster(shape))
        self.width, self.middle, self.unit = width, middle, unit
        self.breadth = 8 * width  # both stacks, before and after their gates
        self.embed = nn.Embedding(symbols, width) if symbols else None
        seen = (width if symbols else shape[0]) + 1  # a plane of ones tells the picture from the padding around it
        self.layers = nn.ModuleList(
            Layer(seen, width, first, context, dropout, strict=True)
            if i == 0
            else Layer(width, width, kernel, context, dropout, dilations[(i - 1) % len(dilations)])
            for i in range(layers)
        )
        self.pixel = Colours(shape[0], per_element, hidden, width)
        self.to(memory_format=torch.channels_last)  # pyright: ignore  # faster on processors

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        n, (c, height, width) = len(x), self.shape
        v = h = self._planes(x)
        given = self._given(context)
        for layer in self.layers:
            v, h = layer(v, h, given)
        pixels = (x.movedim(1, 3).reshape(-1, c) - self.middle) / self.unit
        features = F.elu(h).movedim(1, 3).reshape(-1, self.width)
        parameters = self.pixel(pixels, features)  # (N·H·W, P, C)
        return parameters.view(n, height * width, -1, c).permute(0, 2, 3, 1).flatten(2)

    def _planes(self, x: Tensor) -> Tensor:
        """What the first layer sees, (N, C + 1, H, W)."""
        if self.embed is None:
            x = (x - self.middle) / self.unit
        else:
            x = self.embed(x[:, 0].long()).movedim(3, 1)
        return torch.cat([x, torch.ones_like(x[:, :1])], 1).contiguous(memory_format=torch.channels_last)

    def _given(self, context: Tensor | None) -> Tensor | None:
        """The context as planes, (N, C, H, W), or (N, C, 1, 1) where it is the same for all pixels."""
        if context is None or not self.local:
            return context if context is None else context[:, :, None, None]
        _, height, width = self.shape
        return self.widen(context, height * width).unflatten(2, (height, width))

    def walk(self, rows: int, context: Tensor | None = None) -> Step:
        given = self._given(context)
        stacks = [_Stack(layer, rows, self.shape, given) for layer in self.layers]  # pyright: ignore
        channels, _, width = self.shape
        ones = next(self.parameters()).new_ones(rows)
        h = ones.new_empty(rows, self.width)
        seen: int = self.layers[0].inputs - 1  # pyright: ignore
        pixel = torch.cat([ones.new_zeros(rows, seen), ones.unsqueeze(1)], 1)  # the one that is being drawn
        inner = None
        drawn = -1  # elements whose values are known

        def step(x: Tensor | None) -> Tensor:
            nonlocal inner, drawn
            drawn += 1
            (row, column), colour = divmod(drawn // channels, width), drawn % channels
            if x is not None and self.embed is not None:
                pixel[:, :-1] = self.embed(x.long())
            elif x is not None:
                x = (x - self.middle) / self.unit
                pixel[:, (drawn - 1) % channels] = x
            if colour:
                assert inner is not None
                return inner(x)
            if column:
                stacks[0].put(row, column - 1, pixel)
            else:
                if row:
                    stacks[0].put(row - 1, width - 1, pixel)
                v = None
                for stack in stacks:
                    v = stack.begin(row, v)
            for stack, after in pairwise(stacks):
                stack.step(column, after.slots[column])
            stacks[-1].step(column, h)
            inner = self.pixel.walk(rows, F.elu(h))
            return inner(None)

        return step

    @property
    def last(self) -> nn.Module:
        return self.pixel.last

    def set_output_bias(self, bias: Tensor) -> None:
        with torch.no_grad():
            self.pixel.last.bias.copy_(bias.view(self.per_element, self.shape[0], -1).mean(2).flatten())


class Colours(nn.Module):
    """The parameters of a pixel's colours, (N, P, C), each given those before it, (N, C), and features, (N, width)."""

    def __init__(self, colours: int, per_element: int, hidden: int, width: int):
        super().__init__()
        if colours > 1:
            self.net = MaskedMLP(colours, per_element, [hidden], context=width)
        else:
            self.net = nn.Sequential(Linear(width, hidden), nn.ReLU(), Linear(hidden, per_element))

    @property
    def last(self) -> Any:
        """The layer that gives the parameters."""
        return self.net.linears[-1] if isinstance(self.net, MaskedMLP) else self.net[-1]

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        return self.net(x, features) if isinstance(self.net, MaskedMLP) else self.net(features).unsqueeze(2)

    def walk(self, rows: int, features: Tensor) -> Step:
        if not isinstance(self.net, MaskedMLP):
            parameters = self.net(features)
            return lambda x: parameters
        walk = self.net.walk(rows, features)
        return lambda x: walk.step(None if x is None else x.unsqueeze(1))[:, :, 0]


class Layer(nn.Module):
    """One step of both stacks, (N, inputs, H, W) to (N, width, H, W) each.

    Args:
        dilation: from a pixel that it sees to the next one.
        strict: whether a row sees only rows above it and a pixel only pixels to its left, itself excluded.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        kernel: int,
        context: int,
        dropout: float,
        dilation: int = 1,
        strict: bool = False,
    ):
        super().__init__()
        self.inputs, self.width, self.strict, self.dilation = inputs, width, strict, dilation
        self.rows = self.columns = kernel // 2 + (not strict)  # that are seen, the present one included if not strict
        self.side = kernel // 2 * dilation
        self.vertical = nn.Conv2d(inputs, 2 * width, (self.rows, kernel), dilation=dilation)
        self.horizontal = nn.Conv2d(inputs, 2 * width, (1, self.columns), dilation=dilation)
        self.across = nn.Conv2d(2 * width, 2 * width, 1, bias=False)
        self.out = nn.Conv2d(width, width, 1)
        self.drop = nn.Dropout(dropout)
        self.context = Linear(context, 4 * width, bias=False) if context else None

    @property
    def above(self) -> int:
        """Rows of padding above the picture; columns to its left."""
        return self.dilation * (self.rows if self.strict else self.rows - 1)

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        up, left = F.pad(v, (self.side, self.side, self.above, 0)), F.pad(h, (self.above, 0))
        if self.strict:
            up, left = up[:, :, :-1], left[..., :-1]
        a = self.vertical(up)
        b = self.horizontal(left)
        if self.context is not None:
            to_a, to_b = self.given(context)
            a, b = a + to_a, b + to_b
        b = b + self.across(a)
        y = self.out(self.drop(gate(a=b)))
        return gate(a=a), y if self.strict else h + y

    def given(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the context, as planes, adds to a and to b."""
        assert context is not None
        assert self.context is not None
        to_a, to_b = self.context(context.movedim(1, 3)).movedim(3, 1).chunk(2, 1)
        return to_a, to_b


def gate(a: Tensor) -> Tensor:
    """tanh(a₁) σ(a₂), (N, 2w, ...) to (N, w, ...); with tanh a = 2 σ(2a) − 1, which processors compute much faster."""
    first, second = a.chunk(2, 1)
    second = torch.sigmoid(second)
    return torch.addcmul(-second, torch.sigmoid(first + first), second, value=2)


class _Stack:
    """A layer that meets row after row and pixel after pixel, with what it has seen.

    The context is there as planes, (N, C, H, W).

    A step is bound by the number of operations. With 2 tanh(a) σ(g) = t_a + t_a t_g, where t_a = tanh a and
    t_g = tanh(g / 2), and the halves inside the weights, a pixel takes four: the convolution, tanh, the gate, and what
    is added to h, written where the next layer looks for it. A last unit that is always 1 brings the bias.
    """

    def __init__(self, layer: Layer, rows: int, shape: tuple[int, ...], context: Tensor | None):
        self.layer, (_, height, width) = layer, shape
        like, inputs, above, side = layer.out.weight, layer.inputs, layer.above, layer.side
        self.seen = like.new_zeros(rows, inputs, height + above, width + 2 * side)  # rows above, padded
        if layer.strict:  # the plane of ones
            self.seen[:, -1, above:, side : side + width] = 1
        self.inside = slice(side, side + width)
        self.left = like.new_zeros(rows, (above + width) * inputs)  # of this row, padded, features last
        at = _apart(above + width, layer.dilation)  # what a convolution sees lies together
        pixels = self.left.split(inputs, 1)
        self.slots = [pixels[at[above + c]] for c in range(width)]
        """For each column where the layer's input goes, (N, inputs)."""
        self.windows = [self.left[:, at[c] * inputs : (at[c] + layer.columns) * inputs] for c in range(width)]

        self.halved = torch.cat([like.new_ones(layer.width), like.new_full((layer.width,), 0.5)])
        weight = layer.horizontal.weight[:, :, 0].permute(2, 1, 0).flatten(0, 1)  # (cols · in, 2w)
        self.weight = weight * self.halved
        assert layer.out.bias is not None and layer.horizontal.bias is not None
        self.out = torch.cat([0.5 * layer.out.weight[:, :, 0, 0].mT, layer.out.bias[None]])  # (w + 1, w)
        self.gates = like.new_empty(rows, 2 * layer.width)
        self.first, self.second = self.gates.chunk(2, 1)
        self.u = like.new_ones(rows, layer.width + 1)
        self.gated = self.u[:, :-1]
        self.bias: Tensor = layer.horizontal.bias.unsqueeze(1)
        self.to_a = self.to_b = None
        if layer.context is not None:
            to_a, to_b = (added.expand(-1, -1, height, width) for added in layer.given(context))
            self.to_a, self.to_b = to_a, to_b + self.bias.unsqueeze(2)

    def put(self, row: int, column: int, pixel: Tensor) -> None:
        """A pixel whose value is known, (N, inputs), into what the strict layer sees."""
        self.seen[:, :, self.layer.above + row, self.inside.start + column] = pixel
        self.slots[column].copy_(pixel)

    def begin(self, row: int, v: Tensor | None) -> Tensor:
        """A new row: of the vertical stack all of it, given the layer's input there, (N, inputs, W)."""
        layer = self.layer
        if v is not None:
            self.seen[:, :, layer.above + row, self.inside] = v
        d, vertical = layer.dilation, layer.vertical
        above = self.seen[:, :, row : row + d * layer.rows : d]
        a = F.conv2d(above, vertical.weight, vertical.bias, dilation=(1, d))
        if self.to_a is not None:
            a = a + self.to_a[:, :, row : row + 1]
        bias = self.bias if self.to_b is None else self.to_b[:, :, row]
        across = layer.across(a)[:, :, 0] + bias  # (N, 2w, W)
        self.across = (across.mT * self.halved).transpose(0, 1).contiguous().unbind(0)  # W times (N, 2w)
        self.left.zero_()
        return gate(a)[:, :, 0]

    def step(self, column: int, out: Tensor) -> None:
        """The horizontal stack at a pixel, written to `out`, (N, w); the layer's input there stands in its slot."""
        torch.addmm(self.across[column], self.windows[column], self.weight, out=self.gates).tanh_()
        torch.addcmul(self.first, self.first, self.second, out=self.gated)
        if self.layer.strict:
            torch.mm(self.u, self.out, out=out)
        else:
            torch.addmm(self.slots[column], self.u, self.out, out=out)


def _apart(count: int, step: int) -> list[int]:
    """Where each of `count` positions goes, so that those `step` apart are neighbours.

    >>> _apart(5, 2)
    [0, 3, 1, 4, 2]
    """
    order = [position for first in range(step) for position in range(first, count, step)]
    return [place for _, place in sorted(zip(order, range(count), strict=True))]
