"""Rows with gaps as normal densities see them, what is missing integrated out.

Of a row whose elements o are there, and m are not,

    x_o ~ N(μ_o, Σ_oo)        x_m | x_o ~ N(μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o), Σ_mm − Σ_mo Σ_oo⁻¹ Σ_om)

Rows that miss the same elements share one Cholesky factor for each component: that of Σ with the rows and columns of
what is missing put in place by those of the identity.

Little and Rubin, "Statistical analysis with missing data", 1987, chapter 8.
Ghahramani and Jordan, "Supervised learning from incomplete data via an EM approach", 1994.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.conditionals.components import Sums


@dataclass(frozen=True)
class Patterns:
    """Rows (N, D) by which elements are there, in groups of rows alike, of one size S, no more than 3 N slots in all.

    Attributes:
        there: of each pattern, (P, D), bool.
        which: the pattern of each row, (N,).
        of: the pattern of each group, (G,).
        row: what is in each slot, (G, S); N where it is empty.
        slot: where each row is among G S slots, (N,).
    """

    there: Tensor
    which: Tensor
    of: Tensor
    row: Tensor
    slot: Tensor

    @classmethod
    def among(cls, there: Tensor) -> Patterns:
        """Those of rows whose elements are `there`, (N, D)."""
        patterns, which, count = torch.unique(there, dim=0, return_inverse=True, return_counts=True)
        n, size = len(there), -(-len(there) // max(1, len(patterns)))
        groups = (count + size - 1) // max(1, size)
        order = which.argsort(stable=True)
        own = which[order]
        rank = torch.arange(n, device=there.device) - (count.cumsum(0) - count)[own]
        at = ((groups.cumsum(0) - groups)[own] + rank // max(1, size)) * size + rank % max(1, size)
        row = torch.full((int(groups.sum()) * size,), n, device=there.device)
        row[at] = order
        slot = torch.empty_like(at)
        slot[order] = at
        of = torch.arange(len(patterns), device=there.device).repeat_interleave(groups)
        return cls(patterns, which, of, row.view(-1, size), slot)

    def of_groups(self, each: Tensor) -> Tensor:
        """What each pattern has, (P, ...), for each group, (G, ...)."""
        return each if len(self.of) == len(each) else each[self.of]


class DensePart:
    """Rows that components with full covariances explain.

    Attributes:
        dims: elements that are there, (N,).
        square: (x_o − μ_o)ᵀ Σ_oo⁻¹ (x_o − μ_o), (K, N).
        log_det: ½ log |Σ_oo|, (K or 1, N).

    Args:
        rows: (N, D), NaN where nothing is there.
        loc: μ, (K, D).
        root: L with Σ = L Lᵀ, (K or 1, D, D).
    """

    def __init__(self, rows: Tensor, loc: Tensor, root: Tensor):
        self.by = by = Patterns.among(~rows.isnan())
        there = by.there.to(rows.dtype)  # (P, D)
        self.there, self.loc = there, loc
        self.covariance = root @ root.mT
        self.known = self.covariance * there[:, None, :, None]  # (P, K, D, D): rows of Σ that are there
        own = self.known * there[:, None, None, :] + torch.diag_embed(1 - there)[:, None]
        self.root = torch.linalg.cholesky(own)
        x = torch.cat([rows.nan_to_num(), torch.zeros_like(rows[:1])])[by.row] if len(rows) else rows[by.row]
        self.off = (x[:, None] - loc[:, None]) * there[by.of][:, None, None]  # (G, K, S, D)
        self.y = torch.linalg.solve_triangular(by.of_groups(self.root), self.off.mT, upper=False)  # (G, K, D, S)
        self.square = self._by_row(self.y.square().sum(2))
        self.log_det = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[by.which].mT
        self.dims = there.sum(1)[by.which]

    def _by_row(self, slots: Tensor) -> Tensor:
        """(G, K, S, ...) to (K, N, ...)."""
        return slots.transpose(0, 1).flatten(1, 2)[:, self.by.slot]

    def _towards(self) -> Tensor:
        """L_oo⁻¹ Σ_o, (P, K, D, D), whose square is what is known of Σ, and which takes y to what is expected."""
        return torch.linalg.solve_triangular(self.root, self.known, upper=False)

    def _expected(self, towards: Tensor) -> Tensor:
        """E[x − μ | x_o], (G, K, S, D)."""
        return torch.where(self.by.there[self.by.of][:, None, None], self.off, self.y.mT @ self.by.of_groups(towards))

    def expected(self) -> Tensor:
        """E[x | x_o], (K, N, D)."""
        return self._by_row(self._expected(self._towards())) + self.loc[:, None]

    def rest(self) -> Tensor:
        """The variance of each element given x_o, (K or 1, N, D); of those that are there their own, as if unknown."""
        own = self.covariance.diagonal(dim1=-2, dim2=-1)
        left = own - self._towards().square().sum(2) * (1 - self.there)[:, None]
        return left.clamp_min(0)[self.by.which].transpose(0, 1)

    def sums(self, weight: Tensor, share: Tensor, inverse: Tensor) -> Sums:
        """Σ w E[y | x_o] and Σ w E[y | x_o] E[y | x_o]ᵀ + r Cov[y | x_o], y = L⁻¹ (x − μ), weights w, r (K, N)."""
        towards = self._towards()
        full = self._expected(towards).transpose(0, 1).flatten(1, 2)  # (K, G S, D)
        slots = torch.cat([weight, torch.zeros_like(weight[:, :1])], 1)[:, self.by.row.flatten()]
        weighed = full * slots[..., None]
        away = 1 - self.there
        of = share.new_zeros(len(share), len(self.there)).index_add_(1, self.by.which, share)  # (K, P)
        left = (self.covariance - towards.mT @ towards) * (away[:, :, None] * away[:, None])[:, None]
        square = weighed.mT @ full + (of.mT[..., None, None] * left).sum(0)
        return {"y": (inverse @ weighed.sum(1)[..., None])[..., 0], "yy": inverse @ square @ inverse.mT}


class DiagonalPart:
    """The same of components whose elements do not correlate: what is missing is left out, and not even expected.

    Args:
        rows: (N, D), NaN where nothing is there.
        loc: μ, (K, D).
        scale: (K, D).
    """

    def __init__(self, rows: Tensor, loc: Tensor, scale: Tensor):
        self.there = (~rows.isnan()).to(rows.dtype)
        self.x, self.loc, self.scale = rows, loc, scale
        y = (rows.nan_to_num().mT - loc[..., None]) / scale[..., None]
        self.y = y * self.there.mT  # (K, D, N)
        self.square, self.log_det = self.y.square().sum(1), scale.log() @ self.there.mT
        self.dims = self.there.sum(1)

    def expected(self) -> Tensor:
        """E[x | x_o], (K, N, D)."""
        return torch.where(self.x.isnan(), self.loc[:, None], self.x)

    def rest(self) -> Tensor:
        """The variance of each element, (K, 1, D)."""
        return self.scale.square()[:, None]

    def sums(self, weight: Tensor, share: Tensor, inverse: Tensor) -> Sums:
        """Σ w y and Σ w y² of what is there, and the weights of each element, all (K, D)."""
        weighed = self.y * weight[:, None]
        counted = {"n of each": share @ self.there, "weight of each": weight @ self.there}
        return {"y": weighed.sum(2), "yy": (weighed * self.y).sum(2), **counted}
