"""Each element of whole-number data carried to a standard normal by its own histogram."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.special import ndtr, ndtri

from jensen.transforms.transform import Shape, Transform, sum_over_event

PRIOR_ROWS = 64.0  # weight of all elements' common histogram in that of each
EDGE = 1e-9  # of probability, kept from 0 and 1


class Marginals(Transform):
    """v_d = F_d⁻¹(Φ(z_d)) onto (0, levels), F_d the cumulative histogram of element d, linear inside a level.

        log |∂v_d/∂z_d| = log φ(z_d) − log p_d(⌊v_d⌋)

    So independent standard normals become numbers whose floor has the histogram p_d, spread evenly over each level, and
    a flow that starts as the identity starts from there. `initialize` counts once, in the first data, to which the
    histogram of all elements is added with a weight of 64 rows, so that no level is impossible. Nothing is learned.

    The first step of Gaussianization: Chen and Gopinath, NeurIPS 2000; Laparra, Camps-Valls and Malo 2011,
    arXiv:1602.00229.

    Args:
        shape: of an event.
        levels: how many whole numbers there are, from 0.

    >>> Marginals((1,), 4)(torch.zeros(1, 1))  # before it has seen data all levels are equally likely
    tensor([[2.]])
    """

    forward_steps = inverse_steps = 0
    shares: Tensor
    initialized: Tensor

    def __init__(self, shape: Shape, levels: int):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(shape)
        self.codomain = constraints.interval(0.0, float(levels))
        self.dims, self.levels = math.prod(shape), levels
        self.register_buffer("shares", torch.full((self.dims, levels), 1 / levels))  # p_d(k), (D, levels)
        self.register_buffer("initialized", torch.tensor(False))

    def _cumulative(self) -> Tensor:
        """F_d at the upper end of each level, `(D, levels)`; in double precision, or rare levels would be lost."""
        return self.shares.double().cumsum(1)

    def _at(self, level: Tensor, cumulative: Tensor) -> tuple[Tensor, Tensor]:
        """F_d at the lower end of a level, and p_d of the level, `(N, D)`."""
        at = level + torch.arange(self.dims, device=level.device) * self.levels
        share = self.shares.reshape(-1)[at].double()
        return cumulative.reshape(-1)[at] - share, share

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        flat, cumulative = z.flatten(1).double(), self._cumulative()
        u = ndtr(flat).clamp(EDGE, 1 - EDGE)
        level = torch.searchsorted(cumulative, u.detach().mT.contiguous()).clamp_max(self.levels - 1).mT
        low, share = self._at(level, cumulative)
        v = level + ((u - low) / share).clamp(0, 1)
        return v.to(z.dtype).reshape(z.shape), self._ladj(flat, share).to(z.dtype)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1).double()
        level = flat.detach().floor().clamp(0, self.levels - 1).long()
        low, share = self._at(level, self._cumulative())
        z = ndtri((low + share * (flat - level)).clamp(EDGE, 1 - EDGE))
        return z.to(x.dtype).reshape(x.shape), -self._ladj(z, share).to(x.dtype)

    def _ladj(self, z: Tensor, share: Tensor) -> Tensor:
        return sum_over_event(-0.5 * z.square() - 0.5 * math.log(2 * math.pi) - share.log())

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not self.initialized:
            level = x.flatten(1).floor().clamp(0, self.levels - 1).long()
            cell = level + torch.arange(self.dims, device=x.device) * self.levels
            counts = torch.bincount(cell.flatten(), minlength=self.dims * self.levels).double().view_as(self.shares)
            common = counts.mean(0) + 1.0
            shares = counts + PRIOR_ROWS * common / common.sum()
            self.shares.copy_(shares / shares.sum(1, keepdim=True))
            self.initialized.fill_(True)
        return self.inverse(x)
