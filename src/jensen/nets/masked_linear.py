"""Linear maps of which a mask, a staircase, lets an output see some of the inputs only."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jensen.nets.products import columns

STRIP, STRIPS = 32, 8  # least width of a strip of a matrix, and how many at most: finer ones cost more than they save


class MaskedLinear(nn.Module):
    """(W ∘ M) x + b, features first: `(inputs, N)` to `(outputs, N)`.

    The mask multiplies the weights whenever they are used and is never written into them: weight decay, averages of
    weights and loaded checkpoints leave what is masked masked.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("mask", torch.ones(outputs, inputs), persistent=False)
        self.tiles: Tiles | None = None
        self.levels: tuple[Tensor, Tensor] | None = None

    def connect(self, reach: Tensor, needed: Tensor) -> None:
        """Let an output, of reach r, see the inputs that need no more: those with n ≤ r. Whole numbers, one a unit."""
        if self.levels is None or not (torch.equal(reach, self.levels[0]) and torch.equal(needed, self.levels[1])):
            self.levels, device = (reach, needed), self.weight.device
            self.mask = torch.ge(reach.int().to(device)[:, None], needed.int().to(device)).to(self.weight)
            self.tiles = Tiles.of(reach, needed)

    def reset_parameters(self) -> None:
        """Uniform on ±1/√n, with n the inputs that a unit sees."""
        seen = self.mask.sum(1).clamp_min(1)
        with torch.no_grad():
            self.weight.uniform_(-1, 1).div_(seen.sqrt()[:, None])
            if self.bias is not None:
                self.bias.uniform_(-1, 1).div_(seen.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.mask
        return weight @ x if self.bias is None else columns(x, weight, self.bias)


class Tiles(NamedTuple):
    """A mask cut into strips of rows, each with the columns it sees, and of columns, each with the rows that see it."""

    rows: list[tuple[slice, slice]]
    columns: list[tuple[slice, slice]]

    @classmethod
    def of(cls, reach: Tensor, needed: Tensor) -> Tiles | None:
        """Of the mask 1[needed ≤ reach], (len(reach), len(needed)); None where little is left out."""
        least = min(len(reach), len(needed))
        rows = [(strip, _span(needed <= reach[strip].max())) for strip in _strips(len(reach), least)]
        columns = [(_span(reach >= needed[strip].min()), strip) for strip in _strips(len(needed), least)]
        covered = sum((r.stop - r.start) * (c.stop - c.start) for r, c in rows)
        return cls(rows, columns) if covered < 0.9 * len(reach) * len(needed) else None


def _strips(height: int, least: int) -> list[slice]:
    count = min(STRIPS, least // STRIP) or 1
    return [slice(*ends) for ends in pairwise(round(height * i / count) for i in range(count + 1))]


def _span(seen: Tensor) -> slice:
    """From the first to the last one."""
    found = seen.nonzero().flatten().tolist() or [0]
    return slice(found[0], found[-1] + 1)


def column(shift: Tensor) -> Tensor:
    """What is added to each output, `(H,)` or `(H, N)`, as rows that go with `(H, N)`."""
    return shift.unsqueeze(1) if shift.dim() == 1 else shift
