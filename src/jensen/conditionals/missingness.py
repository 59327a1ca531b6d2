"""Why cells are missing: p(seen | w), the probability that each cell of a row w is seen.

Rubin, "Inference and missing data", Biometrika 1976: at random, where what is missing plays no part in it; else not.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jensen.distributions import Bernoulli
from jensen.registry import component


def share(seen: Tensor) -> Tensor:
    """Log-odds of being seen, by column, of masks (n, D)."""
    return ((seen.float().sum(0) + 0.5) / (len(seen) + 1)).logit()


class SelfMasking(nn.Module):
    """Each cell by its own value: log-odds of being seen a_d w_d + b_d.

    Args:
        columns: D.
        sign: of all a_d, where it is known.
    """

    def __init__(self, columns: int, sign: Literal["any", "positive", "negative"]):
        super().__init__()
        self.sign = {"any": 0, "positive": 1, "negative": -1}[sign]
        self.slope, self.start = nn.Parameter(torch.zeros(columns)), nn.Parameter(torch.zeros(columns))

    def forward(self, w: Tensor) -> Bernoulli:
        slope = self.slope if not self.sign else self.sign * F.softplus(self.slope)
        return Bernoulli(slope * w + self.start)

    @torch.no_grad()
    def initialize(self, seen: Tensor, *parents: Tensor) -> None:
        """Start from the shares of masks, (n, D)."""
        self.start.copy_(share(seen))


class Logistic(nn.Module):
    """Each cell by the whole row: log-odds of being seen A w + b."""

    def __init__(self, columns: int):
        super().__init__()
        self.map = nn.Linear(columns, columns)
        nn.init.zeros_(self.map.weight)

    def forward(self, w: Tensor) -> Bernoulli:
        return Bernoulli(self.map(w))

    @torch.no_grad()
    def initialize(self, seen: Tensor, *parents: Tensor) -> None:
        """Start from the shares of masks, (n, D)."""
        self.map.bias.copy_(share(seen))


class AtRandom(nn.Module):
    """Each cell with a probability of its column."""

    def __init__(self, columns: int):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(columns))

    def forward(self, w: Tensor) -> Bernoulli:
        return Bernoulli(self.start.expand(w.shape))

    @torch.no_grad()
    def initialize(self, seen: Tensor, *parents: Tensor) -> None:
        """Start from the shares of masks, (n, D)."""
        self.start.copy_(share(seen))


@component("missingness", "self-masking", paper="Ipsen et al. 2021, arXiv:2006.12871")
def self_masking(columns: int, *, sign: Literal["any", "positive", "negative"] = "any") -> SelfMasking:
    """A cell is seen or not by its own value: log-odds a_d w_d + b_d.

    Settings:
        sign: of a, where it is known: "negative" where large values tend to be missing. It is often not to be told from
            the data, and knowing it helps much.
    """
    return SelfMasking(columns, sign)


@component("missingness", "logistic", paper="Ipsen et al. 2021, arXiv:2006.12871")
def logistic(columns: int) -> Logistic:
    """A cell is seen or not by all values of its row: log-odds A w + b."""
    return Logistic(columns)


@component("missingness", "at-random")
def at_random(columns: int) -> AtRandom:
    """A cell is seen or not whatever the values are: MIWAE, with the probability of the gaps beside it."""
    return AtRandom(columns)
