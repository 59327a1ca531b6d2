"""Parts of hierarchies: nodes that p and q share, and posteriors merged of what is seen from below and from above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.core import Deterministic
from jensen.distributions import DiagonalNormal
from jensen.nets.batch_norm import by_averages

Sizes = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
"""Of layers, from the data upwards."""


class Node(Deterministic):
    """A value computed by a module of its parents, which has no density.

    Args:
        module: takes the parents, each (N, *event); may run in bfloat16 (`precision`) and gives float32 or better.
        join: makes one input of the parents first.
    """

    def __init__(self, module: nn.Module, join: nn.Module | None = None):
        super().__init__(module)
        self.join = join
        self.precision: torch.dtype | None = None

    def forward(self, *parents: Tensor) -> Tensor:
        if self.join is not None:
            parents = (self.join(*parents),)
        if self.precision is None:
            return self.module(*parents)
        with torch.autocast(parents[0].device.type, self.precision):
            return self.module(*parents).float()


class Joined(nn.Module):
    """Parents beside each other along their channels, or dimensions: (N, A, ...) and (N, B, ...) to (N, A + B, ...)."""

    def forward(self, *parents: Tensor) -> Tensor:
        return torch.cat(parents, 1)


class Through(nn.Module):
    """q(z | x) at the end of a chain: each module takes what the one before gives, and the last gives a density.

    The first takes all that the chain stands on.

    Batch normalisation goes by its averages, since what comes this way is not the batch's data.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__()
        first, *rest = modules
        self.first, self.rest = first, nn.Sequential(*rest)

    def forward(self, *parents: Tensor) -> Distribution:
        with by_averages(self):
            return self.rest(self.first(*parents))


class Drawn(nn.Module):
    """A draw at the end of a chain of densities, each given a draw of the one before."""

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__()
        first, *rest = modules
        self.first, self.rest = first, nn.ModuleList(rest)

    def forward(self, *parents: Tensor) -> Tensor:
        z = self.first(*parents).sample()
        for module in self.rest:
            z = module(z).sample()
        return z


class Merged(nn.Module):
    """q(z | x, above): the product of what the data say and of p(z | above), by their precisions.

        1/σ² = 1/σ̂² + 1/σ_p²        μ = σ² (μ̂/σ̂² + μ_p/σ_p²)

    Sønderby et al., "Ladder variational autoencoders", 2016, arXiv:1602.02282.

    Args:
        seen: gives N(μ̂, σ̂²) of the data's node d.
        prior: gives p(z | above) of the node h; the module that p has.
    """

    def __init__(self, seen: nn.Module, prior: nn.Module):
        super().__init__()
        self.seen, self.prior = seen, prior

    def forward(self, above: Tensor, d: Tensor) -> DiagonalNormal:
        seen, prior = self.seen(d), self.prior(above)
        total = seen.scale.square() + prior.scale.square()
        share = prior.scale.square() / total  # of the precision that comes from the data
        loc = prior.loc + share * (seen.loc - prior.loc)
        scale = seen.scale * prior.scale * total.rsqrt()
        return DiagonalNormal(loc, scale, event_dims=prior.event_dims)
