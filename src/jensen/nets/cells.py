"""Cells of a row as numbers that a network takes: whatever a column holds, and which cells are there at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ONE_HOT = 32  # categories of a column up to which each has an indicator; above that, a learned vector
VECTOR = 16  # numbers of such a vector


class Cells(nn.Module):
    """A row (N, D) and which of its cells were seen, (N, D), as numbers of order one, (N, size).

    Numbers are taken as they are, or by a function of their column; categories as indicators, or as learned vectors
    where they are many. What was not seen is 0 throughout, and the mask stands behind.

    Args:
        dims: D.
        gaps: whether there is a mask.
        names: by column, how many categories it has; 0 of numbers.
        shift, scale: of numbers, x as (x − shift) / scale.
        logarithm, squashed: columns whose logarithm is taken, and columns asinh is taken of after that.
    """

    numbers: Tensor
    shift: Tensor
    scale: Tensor
    logs: Tensor
    squashed: Tensor
    few: Tensor
    many: Tensor
    few_start: Tensor
    many_start: Tensor

    def __init__(
        self,
        dims: int,
        gaps: bool,
        names: Sequence[int] = (),
        shift: Sequence[float] = (),
        scale: Sequence[float] = (),
        logarithm: Sequence[int] = (),
        squashed: Sequence[int] = (),
    ):
        super().__init__()
        self.dims, self.gaps = dims, gaps
        counts = list(names) or [0] * dims
        self._index("numbers", [j for j in range(dims) if not counts[j]])
        of_numbers = {j: i for i, j in enumerate(self.numbers.tolist())}
        self.register_buffer("shift", torch.tensor([(shift or [0.0] * dims)[j] for j in of_numbers]), persistent=False)
        self.register_buffer("scale", torch.tensor([(scale or [1.0] * dims)[j] for j in of_numbers]), persistent=False)
        self._index("logs", [of_numbers[j] for j in logarithm])
        self._index("squashed", [of_numbers[j] for j in squashed])
        few = [j for j in range(dims) if 0 < counts[j] <= ONE_HOT]
        many = [j for j in range(dims) if counts[j] > ONE_HOT]
        self._index("few", few)
        self._index("many", many)
        self._index("few_start", _starts([counts[j] for j in few]))
        self._index("many_start", _starts([counts[j] for j in many]))
        self.indicators = sum(counts[j] for j in few)
        self.vectors = nn.Embedding(sum(counts[j] for j in many), VECTOR) if many else None
        self.size = len(of_numbers) + self.indicators + VECTOR * len(many) + (dims if gaps else 0)

    def _index(self, name: str, values: Sequence[int]) -> None:
        self.register_buffer(name, torch.tensor(list(values), dtype=torch.long), persistent=False)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        there = torch.ones_like(x) if seen is None else seen.to(x.dtype)
        parts = [self.of_numbers(x) * there[:, self.numbers]]
        if self.indicators:
            places = x[:, self.few].long() + self.few_start
            parts.append(x.new_zeros(len(x), self.indicators).scatter_(1, places, there[:, self.few]))
        if self.vectors is not None:
            found = self.vectors(x[:, self.many].long() + self.many_start)
            parts.append((found * there[:, self.many].unsqueeze(-1)).flatten(1))
        if self.gaps:
            parts.append(there)
        return torch.cat(parts, 1)

    @property
    def categories(self) -> int:
        """How many there are in all columns together."""
        return self.indicators + (0 if self.vectors is None else self.vectors.num_embeddings)

    def of_names(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Columns of names, and where the name of each cell (N, n) stands among all categories."""
        few = x[:, self.few].long() + self.few_start
        many = x[:, self.many].long() + self.many_start + self.indicators
        return torch.cat([self.few, self.many]), torch.cat([few, many], 1)

    def of_numbers(self, x: Tensor) -> Tensor:
        """Of cells (N, D), those of numbers, of order one."""
        x = x[:, self.numbers]
        if len(self.logs):
            x = x.index_copy(1, self.logs, x[:, self.logs].clamp_min(torch.finfo(x.dtype).tiny).log())
        x = (x - self.shift) / self.scale
        if len(self.squashed):
            x = x.index_copy(1, self.squashed, x[:, self.squashed].asinh())
        return x


def _starts(counts: Sequence[int]) -> list[int]:
    """Where each column's categories start, all in a row."""
    return [sum(counts[:i]) for i in range(len(counts))]
