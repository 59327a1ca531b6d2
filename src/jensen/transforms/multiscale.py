"""Pictures at several scales: pixels become channels, and a part of the channels is finished at each scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from jensen.transforms.transform import Shape, Transform


class Squeeze(Transform):
    """From (4C, H/2, W/2) to a picture (C, H, W): each square of four pixels was four channels; log |det| = 0.

    The channels come as upper left, lower right, upper right, lower left: their halves are the two colours of a
    checkerboard. Dinh, Sohl-Dickstein and Bengio 2017, arXiv:1605.08803, section 3.6.

    Args:
        shape: of the picture, (C, H, W).

    Raises:
        ValueError: an odd height or width.
    """

    forward_steps = inverse_steps = 0

    def __init__(self, shape: Shape):
        super().__init__()
        channels, height, width = shape
        if height % 2 or width % 2:
            raise ValueError(f"expected a picture of even height and width to squeeze, got {tuple(shape)}")
        self.domain_shape, self.codomain_shape = (4 * channels, height // 2, width // 2), tuple(shape)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, d, b, c = z.chunk(4, 1)
        rows = torch.stack((torch.stack((a, b), -1), torch.stack((c, d), -1)), 3)  # (N, C, H/2, 2, W/2, 2)
        return rows.reshape(len(z), *self.codomain_shape), z.new_zeros(())

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c, h, w = self.codomain_shape
        upper, lower = x.reshape(len(x), c, h // 2, 2, w // 2, 2).unbind(3)
        parts = (upper[..., 0], lower[..., 1], upper[..., 1], lower[..., 0])
        return torch.cat(parts, 1), x.new_zeros(())


class MultiScale(Transform):
    """z = (z₁, …, z_L), flat, to a picture: after each level a part of the channels is finished.

        h₀ = x        (h_l, z_l) = T_l⁻¹(h_{l−1})        z_L = T_L⁻¹(h_{L−1})

    with h_l the first channels of what a level gives, as many as the next level takes. Log-determinants add up.
    Dinh, Sohl-Dickstein and Bengio 2017, arXiv:1605.08803, section 3.6.

    Args:
        levels: T₁ (next to the data) to T_L.

    Raises:
        ValueError: a level does not take some of the channels that the one before it gives.
    """

    def __init__(self, levels: Sequence[Transform]):
        super().__init__()
        for above, below in pairwise(levels):
            (channels, *size), (taken, *taken_size) = above.domain_shape, below.codomain_shape
            if size != taken_size or not 0 < taken < channels:
                raise ValueError(
                    f"expected a level that takes some of the channels of {above.domain_shape}, "
                    f"got one that takes {below.codomain_shape}"
                )
        self.levels = torch.nn.ModuleList(levels)
        self.chain = tuple(levels)
        taken = [level.codomain_shape[0] for level in levels[1:]] + [0]
        self._finished = [
            (level.domain_shape[0] - kept, *level.domain_shape[1:]) for level, kept in zip(levels, taken, strict=True)
        ]
        self._sizes = [math.prod(shape) for shape in self._finished]
        self.domain_shape, self.codomain_shape = (sum(self._sizes),), levels[0].codomain_shape
        self.codomain = levels[0].codomain
        self.forward_steps = sum(level.forward_steps for level in levels)
        self.inverse_steps = sum(level.inverse_steps for level in levels)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts = [part.unflatten(1, shape) for part, shape in zip(z.split(self._sizes, 1), self._finished, strict=True)]
        h, total = self.chain[-1].forward_and_ladj(parts[-1], context)
        for level, part in zip(self.chain[-2::-1], parts[-2::-1], strict=True):
            h, ladj = level.forward_and_ladj(torch.cat((h, part), 1), context)
            total = total + ladj
        return h, total

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        finished: list[Tensor] = []
        total: Tensor | None = None
        for level, shape in zip(self.chain, self._finished, strict=True):
            x, ladj = level.inverse_and_ladj(x, context)
            total = ladj if total is None else total + ladj
            x, z = x.split((x.shape[1] - shape[0], shape[0]), 1)
            finished.append(z.flatten(1))
        assert total is not None
        return torch.cat(finished, 1), total

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        finished: list[Tensor] = []
        for level, shape in zip(self.chain, self._finished, strict=True):
            x = level.initialize(x, context if context is None else context[: len(x)])
            x, z = x.split((x.shape[1] - shape[0], shape[0]), 1)
            finished.append(z.flatten(1))
        return torch.cat([z[: len(x)] for z in finished], 1)
