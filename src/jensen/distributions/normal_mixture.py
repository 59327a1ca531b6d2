"""Mixtures of normal densities, one for each element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from jensen.distributions.elementwise import Elementwise
from jensen.distributions.mixture import component_of


class NormalMixture(Elementwise):
    r"""Mixture of normals for each element.

        p(x) = Σ_k π_k N(x; μ_k, σ_k²)

    Args:
        logits: log π up to a constant, `(*batch, *event, K)`.
        loc: μ, `(*batch, *event, K)`.
        scale: σ > 0, `(*batch, *event, K)`.
        event_dims: trailing dimensions that make up one event, the components not counted.

    >>> p = NormalMixture(torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2))
    >>> p.log_prob(torch.zeros(1)), p.variance
    (tensor(-1.4189), tensor([2.]))
    """

    parameter_dims: ClassVar[dict[str, int]] = {"logits": 1, "loc": 1, "scale": 1}
    support = constraints.real

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, event_dims: int = 1):
        self.logits, self.loc, self.scale, self.event_dims = logits, loc, scale, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        square = ((value.unsqueeze(-1) - self.loc) / self.scale).square()
        terms = self.logits.log_softmax(-1) - self.scale.log() - 0.5 * square
        return terms.logsumexp(-1) - 0.5 * math.log(2 * math.pi)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._sample_shape(sample_shape)
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            loc, scale, _ = component_of(u, self.logits, self.loc, self.scale)
            return loc + scale * torch.randn_like(loc)

    def quantile(self, u: Tensor) -> Tensor:
        """The share u chooses a component, and what is left of it the value: a draw where u is uniform.

        No quantile of the mixture, whose components may lie in any order.
        """
        loc, scale, left = component_of(u, self.logits, self.loc, self.scale)
        return loc + scale * torch.special.ndtri(left)

    def tempered(self, temperature: float) -> NormalMixture:
        """The same with the logits of its components divided, and their scales multiplied."""
        return NormalMixture(self.logits / temperature, self.loc, self.scale * temperature, self.event_dims)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1) * self.loc).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The likeliest of the components' means: where components overlap, near the mode."""
        shape = self._element_shape()
        candidates: Any = self.loc.expand(*shape, -1).movedim(-1, 0)
        best = self.log_prob_terms(candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best).squeeze(0)

    @property
    def variance(self) -> Tensor:
        weights, mean = self.logits.softmax(-1), self.mean
        return (weights * (self.scale.square() + (self.loc - mean.unsqueeze(-1)).square())).sum(-1)
