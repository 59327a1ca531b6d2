"""Networks that read a datum as a row, from the first element to the last, and say what they have seen.

    h_t = embed(x_t) + U c        y = core(h)        output = W y_e + b,  e the last element, or the end of a text

The core is causal, so that y_e has seen all up to e and nothing of what fills the row after it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from jensen.errors import ConfigError
from jensen.nets.causal import Core, Numbers, Symbols
from jensen.nets.products import Linear
from jensen.nets.recurrent import Recurrent
from jensen.nets.stack import Rate, Size
from jensen.nets.transformer import Transformer
from jensen.registry import component


class Reader(nn.Module):
    """A row through a causal core, and what comes out at its end.

    Args:
        outputs: the shape that is given for each datum.
        core: mixes along the row.
    """

    def __init__(self, outputs: tuple[int, ...], core: Core):
        super().__init__()
        self.embed: nn.Module = Numbers(core.width)
        self.core, self.outputs = core, tuple(outputs)
        self.output = Linear(core.width, math.prod(outputs))
        self.end: int | None = None
        self.context: nn.Linear | None = None

    def take_symbols(self, count: int, end: int | None) -> None:
        """From now on x are whole numbers 0..count−1 without an order, and `end` stands after the last of a row."""
        self.embed, self.end = Symbols(self.core.width, count), end

    def take_context(self, size: int) -> None:
        """From now on it is told of each row what that stands under, (N, C)."""
        self.context = Linear(size, self.core.width, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        row, told = x.flatten(1), 0.0
        if self.context is not None:
            assert context is not None
            told = self.context(context)[:, None]
        if self.end is None:
            y = self.core(self.embed(row) + told)[:, -1]
        else:
            last = (row != self.end).sum(1).clamp(max=row.shape[1] - 1)  # the first end, or the last place
            seen = row[:, : int(last.max()) + 1]
            y = self.core(self.embed(seen) + told)[torch.arange(len(row), device=row.device), last]
        return self.output(y).reshape(len(x), *self.outputs)


@component("network", "rnn", paper="Bowman et al. 2016, arXiv:1511.06349")
def recurrent(
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    *,
    cell: Literal["gru", "lstm"] = "gru",
    width: Size = 128,
    layers: Size = 1,
    dropout: Rate = 0.0,
) -> Reader:
    """A recurrent network that reads the row and puts out what it has made of it at the end.

    Settings:
        cell: gated recurrent unit, or long short-term memory.
        width: of the state of each layer.
        layers: one above the other.
        dropout: share of each layer's outputs dropped in training.
    """
    return Reader(outputs, Recurrent(width, layers, cell, dropout))


@component("network", "transformer", paper="Vaswani et al. 2017, arXiv:1706.03762")
def attentive(
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    *,
    width: Size = 64,
    layers: Size = 2,
    heads: Size = 4,
    dropout: Rate = 0.0,
) -> Reader:
    """A Transformer whose last place attends to all of the row.

    Settings:
        width: of the vectors between layers; a multiple of twice the heads.
        layers: blocks of attention and perceptron.
        heads: of the attention.
        dropout: share of each branch's outputs dropped in training.
    """
    if width % (2 * heads):
        raise ConfigError(f"width: expected a multiple of {2 * heads}, twice the heads, got {width}")
    return Reader(outputs, Transformer(width, layers, heads, math.prod(inputs), dropout))
