"""Parameters of a map: learned numbers, or a function of the context."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Parameters(nn.Module):
    """θ(c) = θ₀ + A c: amortised by a linear map; without a context θ₀ itself. A starts at 0.

    Args:
        start: θ₀ by name, tensors of any shape.
        context: C, the size of the context, 0 for none.

    Called with a context `(N, C)` it gives each tensor with a dimension in front, of size N, or 1 without a context.

    >>> [p.shape for p in Parameters({"w": torch.zeros(3, 2), "b": torch.zeros(())}, 5)(torch.zeros(4, 5))]
    [torch.Size([4, 3, 2]), torch.Size([4])]
    """

    def __init__(self, start: Mapping[str, Tensor], context: int):
        super().__init__()
        self.shapes = [value.shape for value in start.values()]
        self.start = nn.Parameter(torch.cat([value.flatten() for value in start.values()]))
        self.weight = nn.Parameter(torch.zeros(len(self.start), context)) if context else None

    def forward(self, context: Tensor | None) -> list[Tensor]:
        flat = self.start[None]
        if self.weight is not None:
            if context is None:
                raise ValueError(f"expected a context of size {self.weight.shape[1]}, got none")
            flat = linear(context, self.weight, self.start)
        parts = flat.split([shape.numel() for shape in self.shapes], 1)
        return [part.reshape(len(flat), *shape) for part, shape in zip(parts, self.shapes, strict=True)]
