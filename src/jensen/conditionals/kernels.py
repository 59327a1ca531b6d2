"""All conditionals of a row of numbers by kernels about the rows that were learned from, gaps and all.

    p(x_d | x_o) = Σ_i w_i K_d(x_d − x_id) + w_0 N(x_d; m_d, s_d²),    i over the kept rows in which d is there

    log w_i = log v_i + Σ_{k ∈ o, k ∈ o_i} b_dk − ½ a_dk (x_k − x_ik)² + Σ_s c_dks exp(−½ (x_k − x_ik)² / h_s²)  + const

v_i is the row's own weight, 1 on average. How near two rows are is by the elements that both have, and which of these
count, and how far, is learned for each d: a_dk is a bandwidth, b_dk what it counts that both have k at all, and c_dks
that they agree as nearly as h_s, for in tables values come again. K_d is a narrow and a wide normal. The scales are
learned by leaving out, of each row, the row itself: Habbema, Hermans and van den Broek 1974; Duin 1976.

Rosenblatt, "Conditional probability density and regression estimators", 1969; Hall, Racine and Li, "Cross-validation
and the estimation of conditional probability densities", JASA 99(468), 2004, on bandwidths that leave out columns.
Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary subset sums", JACM 54(6), 2007.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jensen.conditionals.orderless import NUMBERS, Orderless
from jensen.distributions import NormalMixture

AGREE = (0.01, 0.1)  # h: within what two numbers agree, in prepared units
BANDWIDTH, WIDE, NARROW = 0.2, 0.3, 0.02  # where scales start, in prepared units
FEW = 16  # rows that stand in at first
STRETCH = 50.0  # of parameters, all of them logarithms: they have farther to go than weights of networks


class Kernels(Orderless):
    """p(x) by kernels about rows that are kept.

    Until `initialize_from` has given it rows, a few draws of a standard normal stand in.

    Args:
        dims: D.
        rows: n, how many rows are kept at most.
        orders, passes, gaps: as of `Orderless`.
        min_scale: the floor under the scales of kernels, in prepared units.
    """

    keeps_data = True  # a row that was learned from finds itself, unless `learning_terms` leaves it out
    values: Tensor
    there: Tensor
    log_weight: Tensor
    loc: Tensor
    scale: Tensor
    count: Tensor

    def __init__(
        self, dims: int, rows: int, orders: Tensor, passes: int = 1, gaps: bool = False, min_scale: float = 0.003
    ):
        super().__init__((dims,), orders, passes, gaps)
        self.starting_rows, self.min_scale = rows, min_scale
        self.register_buffer("values", torch.randn(rows, dims))
        self.register_buffer("there", torch.ones(rows, dims, dtype=torch.bool))
        self.register_buffer("log_weight", torch.zeros(rows))
        self.register_buffer("count", torch.tensor(min(rows, FEW)))
        self.register_buffer("loc", torch.zeros(dims))
        self.register_buffer("scale", torch.ones(dims))
        self.near = nn.Parameter(torch.zeros(dims, 2 + len(AGREE), dims))  # of a, b and c, by d and k
        self.raw_scales = nn.Parameter(torch.zeros(2, dims))  # of the wide and the narrow normal
        self.narrow = nn.Parameter(torch.zeros(dims))
        self.base = nn.Parameter(torch.zeros(dims))

    @property
    def width(self) -> int:
        return self.shape[0] * (2 * int(self.count) + 1) * 4

    @torch.no_grad()
    def initialize_from(self, data: Mapping[str, Tensor]) -> None:
        """Keep rows of data `x`, (n, D), NaN where they were not seen, of weights `weight`, (n,), if they have some.

        All, or as many as there is room for by priority sampling, which weighs what it keeps so that sums are unbiased.
        """
        x, room = data["x"], len(self.values)
        weight = data["weight"].to(x) if "weight" in data else torch.ones_like(x[:, 0])
        if len(x) > room:
            first, rows = (weight / (1 - torch.rand_like(weight))).topk(room + 1)
            rows = rows[:-1].sort().values
            x, weight = x[rows], weight[rows].clamp_min(first[-1])
        there = ~x.isnan()
        self.count.fill_(len(x))
        self.values[: len(x)], self.there[: len(x)] = x.nan_to_num().to(self.values), there
        self.log_weight[: len(x)] = (weight / weight.mean()).log()
        share = torch.where(there, weight.unsqueeze(1), 0.0)
        share = share / share.sum(0).clamp_min(1e-30)
        self.loc.copy_((share * x.nan_to_num()).sum(0))
        variance = (share * torch.where(there, x - self.loc, 0.0).square()).sum(0)
        self.scale.copy_(torch.where(variance.sqrt() > self.min_scale, variance.sqrt(), 1.0))  # else it hardly varies

    def given(self, x: Tensor, known: Tensor, *conditions: Tensor) -> NormalMixture:
        columns = torch.arange(self.shape[0], device=x.device)
        return self._kernels(self._likeness(x, known), columns)

    def learning_terms(self, x: Tensor, known: Tensor, seen: Tensor, *conditions: Tensor) -> Tensor:
        """As told by the other rows: of those kept, one that is the same in all that was seen is left out."""
        size = len(x) if torch.is_grad_enabled() else max(1, NUMBERS // self.width)
        each = zip(*(part.split(max(1, size)) for part in (x, known, seen)), strict=True)
        return torch.cat([self._by_others(*few) for few in each])

    def _by_others(self, x: Tensor, known: Tensor, seen: Tensor) -> Tensor:
        n = self.count
        same = ((x.unsqueeze(1) == self.values[:n]) & self.there[:n]) | ~seen.unsqueeze(1)
        same = same.all(2) & seen.any(1, keepdim=True)  # (N, n)
        own = (same & (same.cumsum(1) == 1)).unsqueeze(1)
        row, d = (seen & ~known).nonzero(as_tuple=True)
        logits = self._likeness(x, known).masked_fill(own, -math.inf)[row, d]
        terms = self._kernels(logits, d).log_prob_terms(x[row, d])
        return torch.zeros_like(x).index_put((row, d), terms)

    def _likeness(self, x: Tensor, known: Tensor) -> Tensor:
        """Of each row (N, D) and each element of it log w of all kept rows, up to a constant, (N, D, n)."""
        n = self.count
        values, there = self.values[:n].mT, self.there[:n].mT  # (D, n)
        both = known.unsqueeze(2) & there  # (N, D, n)
        square = torch.where(both, x.unsqueeze(2) - values, 0.0).square()
        both = both.to(x.dtype)
        features = [both, -0.5 * square, *(both * torch.exp(-0.5 / h**2 * square) for h in AGREE)]
        like = self._weights.flatten(1) @ torch.cat(features, 1) + self.log_weight[:n]
        return like.masked_fill(~there, -math.inf)

    def _kernels(self, logits: Tensor, d: Tensor) -> NormalMixture:
        """The densities of elements d (M,), of log w of kept rows, (*, M, n): the event is (M,)."""
        n, like = self.count, logits
        values = self.values[:n].mT[d]  # (M, n)
        narrow = STRETCH * self.narrow[d].unsqueeze(1)
        base = (STRETCH * self.base[d].unsqueeze(1)).expand(*like.shape[:-1], 1)
        weights = torch.cat([logits + F.logsigmoid(-narrow), logits + F.logsigmoid(narrow), base], -1)
        loc = torch.cat([values, values, self.loc[d].unsqueeze(1)], 1)
        scales = self.scales[:, d].unsqueeze(2).expand(-1, -1, values.shape[1])
        return NormalMixture(weights, loc, torch.cat([*scales, self.scale[d].unsqueeze(1)], 1))

    @property
    def scales(self) -> Tensor:
        """Of the wide and the narrow normal of each element, (2, D), in prepared units."""
        start = self.raw_scales.new_tensor([[math.log(WIDE)], [math.log(NARROW)]])
        return self.min_scale + (start + STRETCH * self.raw_scales).exp()

    @property
    def _weights(self) -> Tensor:
        """a, b and c, (D, 2 + S, D), in the order of the features."""
        start = -math.log(BANDWIDTH)
        both, precision, *agree = (STRETCH * self.near).unbind(1)
        return torch.stack([start + both, (2 * start + precision).exp(), *agree], 1)
