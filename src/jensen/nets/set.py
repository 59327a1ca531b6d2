"""A network of the cells of a row as a set: each that was seen says its part, and the order of columns says nothing.

    h = ρ(Σ_{d seen} φ(token_d)),    token_d = x_d v_d + e_d of numbers, v_{d, x_d} + e_d of names

Zaheer et al., "Deep sets", 2017, arXiv:1703.06114; Ma et al., "EDDI", 2019, arXiv:1809.11142.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from jensen.nets import stack
from jensen.nets.cells import Cells
from jensen.nets.products import Linear
from jensen.nets.stack import Activation, Size
from jensen.registry import component


class SetNetwork(nn.Module):
    """Cells, and which of them were seen, each (N, D), to (N, *outputs); invariant to what was not seen.

    Args:
        inputs: the shape of a row; numbers, until it takes cells of other kinds.
        outputs: the shape that is given for each row.
        width: of the tokens and of what they add up to.
        hidden: sizes of the layers of ρ.
    """

    takes_parents = True

    def __init__(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], width: int, hidden: list[int], activation: Activation
    ):
        super().__init__()
        self.outputs, self.width = outputs, width
        layers: list[nn.Module] = [stack.activation(activation), Linear(width, width)]
        self.each = nn.Sequential(*layers, stack.activation(activation), Linear(width, width))
        layers = []
        for n, m in pairwise([width, *hidden]):
            layers += [stack.activation(activation), Linear(n, m)]
        self.body = nn.Sequential(*layers, stack.activation(activation))
        self.output = Linear([width, *hidden][-1], math.prod(outputs))
        self.take_cells(Cells(math.prod(inputs), False))

    def take_cells(self, cells: Cells) -> None:
        """From now on rows are of these columns."""
        self.cells, numbers = cells, len(cells.numbers)
        self.slopes = nn.Parameter(torch.randn(numbers, self.width) / self.width**0.5)
        self.places = nn.Parameter(torch.randn(cells.dims, self.width) / self.width**0.5)
        self.names = nn.Embedding(cells.categories, self.width) if cells.categories else None

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        tokens = self.places.expand(len(x), -1, -1)  # (N, D, W)
        numbers = self.cells.of_numbers(x).unsqueeze(-1) * self.slopes
        tokens = tokens.index_add(1, self.cells.numbers, numbers)
        if self.names is not None:
            columns, rows = self.cells.of_names(x)
            tokens = tokens.index_add(1, columns, self.names(rows))
        each = self.each(tokens)
        if seen is not None:
            each = each * seen.unsqueeze(-1)
        return self.output(self.body(each.sum(1))).reshape(len(x), *self.outputs)


@component("network", "set", paper="Zaheer et al. 2017, arXiv:1703.06114; Ma et al. 2019, arXiv:1809.11142")
def set_network(
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    *,
    width: Size = 64,
    hidden: list[Size] = [128],
    activation: Activation = "relu",
) -> SetNetwork:
    """A network of the cells that were seen, as a set.

    Settings:
        width: of what each cell says.
        hidden: sizes of the layers after the sum.
        activation: between the layers.
    """
    return SetNetwork(inputs, outputs, width, hidden, activation)
