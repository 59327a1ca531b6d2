"""Different maps for different elements of a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from jensen.transforms.transform import Transform


class Columns(Transform):
    """x_I = T_I(z_I) for groups I of the elements of a vector, x_d = z_d elsewhere; log |det| is the sum.

    Where the groups live on different sets, `codomain` is no constraint on all of them and stays the real line.

    Args:
        dims: D.
        parts: groups of indices, each with a transform of vectors of that length.

    Raises:
        ValueError: an index is out of range or in two groups, or a transform has another length.

    >>> from jensen.transforms import Exp
    >>> Columns(2, [([1], Exp((1,)))]).forward_and_ladj(torch.tensor([[3.0, 0.0]]))
    (tensor([[3., 1.]]), tensor([0.]))
    """

    def __init__(self, dims: int, parts: Sequence[tuple[Sequence[int], Transform]]):
        super().__init__()
        self.domain_shape = self.codomain_shape = (dims,)
        chosen = [i for indices, _ in parts for i in indices]
        if len(set(chosen)) != len(chosen) or any(not 0 <= i < dims for i in chosen):
            raise ValueError(f"expected indices in 0..{dims - 1}, each once, got {chosen}")
        for indices, part in parts:
            if part.domain_shape != (len(indices),):
                raise ValueError(f"expected a transform of {len(indices)} elements, got one of {part.domain_shape}")
        self.parts = nn.ModuleList(part for _, part in parts)
        self._chain = [part for _, part in parts]
        for n, (indices, _) in enumerate(parts):
            self.register_buffer(f"index{n}", torch.tensor(list(indices)), persistent=False)
        if len(parts) == 1 and len(chosen) == dims:
            self.domain, self.codomain = parts[0][1].domain, parts[0][1].codomain
        self.forward_steps = max((part.forward_steps for part in self._chain), default=0)
        self.inverse_steps = max((part.inverse_steps for part in self._chain), default=0)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._each(z, lambda part, own: part.forward_and_ladj(own, context))

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._each(x, lambda part, own: part.inverse_and_ladj(own, context))

    def _each(self, x: Tensor, map: Callable[[Transform, Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        y, total = x, x.new_zeros(len(x))
        for n, part in enumerate(self._chain):
            index = getattr(self, f"index{n}")
            value, ladj = map(part, x[:, index])
            y, total = y.index_copy(1, index, value), total + ladj
        return y, total
