"""Components of zeros and ones, levels and counts, elements independent given the component."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import embedding_bag, softplus

from jensen.conditionals.components import LEAST, Components, Explain, Sums
from jensen.conditionals.heads import Support


class Means(Components):
    """Families whose elements are independent given k, and that are known by their means alone.

    Args:
        smoothing: data of one half in every element, added to those of a component, so that none is impossible.
    """

    def __init__(self, components: int, support: Support, smoothing: float = 1.0):
        super().__init__(components, support)
        self.smoothing = smoothing
        self.natural = nn.Parameter(torch.zeros(components, self.dims, dtype=torch.float64))

    def natural_of(self, means: Tensor) -> Tensor:
        """The natural parameter of a mean."""
        raise NotImplementedError

    def count(self, seen: Any, share: Tensor) -> Sums:
        return {"x": share @ seen}

    @torch.no_grad()
    def set_from(self, sums: Sums, n: Tensor) -> None:
        means = (sums["x"] + self.smoothing / 2) / (n + self.smoothing).clamp_min(LEAST)[:, None]
        self.natural.copy_(torch.where(n[:, None] > LEAST, self.natural_of(means), self.natural))

    @torch.no_grad()
    def start_at(self, k: int, x: Tensor, weights: Tensor, narrow: float) -> None:
        average = (weights / weights.sum()) @ self.means
        self.natural[k] = self.natural_of(x + (average - x) * narrow / 2)


class Bernoullis(Means):
    """p_k(x) = Π_d θ_kd^{x_d} (1 − θ_kd)^{1 − x_d}: the latent class model of zeros and ones."""

    @property
    def support_of_element(self) -> Any:
        return constraints.boolean

    def natural_of(self, means: Tensor) -> Tensor:
        return means.clamp(LEAST, 1 - LEAST).logit()

    def explainer(self) -> Explain:
        natural, total = self.natural, softplus(self.natural).sum(1, keepdim=True)
        return lambda x: (torch.addmm(total, natural, x.mT, beta=-1), x)

    @property
    def means(self) -> Tensor:
        return self.natural.sigmoid()

    @property
    def variances(self) -> Tensor:
        return self.natural.sigmoid() * (-self.natural).sigmoid()

    def draw(self, k: Tensor) -> Tensor:
        return torch.bernoulli(self.means[k])


class Poissons(Means):
    """p_k(x) = Π_d λ_kd^{x_d} exp(−λ_kd) / x_d!."""

    @property
    def support_of_element(self) -> Any:
        return constraints.nonnegative_integer

    def natural_of(self, means: Tensor) -> Tensor:
        return means.clamp_min(LEAST).log()

    def explainer(self) -> Explain:
        natural, total = self.natural, self.natural.exp().sum(1, keepdim=True)
        return lambda x: (torch.addmm(total, natural, x.mT, beta=-1) - torch.lgamma(x + 1).sum(1), x)

    @property
    def means(self) -> Tensor:
        return self.natural.exp()

    @property
    def variances(self) -> Tensor:
        return self.natural.exp()

    def draw(self, k: Tensor) -> Tensor:
        return torch.poisson(self.means[k])


class Categoricals(Components):
    """p_k(x) = Π_d θ_kd[x_d], x_d one of 0..L−1, each with a probability of its own.

    Args:
        smoothing: data added to those of a component, spread evenly over the levels of every element.
    """

    def __init__(self, components: int, support: Support, smoothing: float = 1.0):
        super().__init__(components, support)
        assert support.levels
        self.levels, self.smoothing = support.levels, smoothing
        self.logits = nn.Parameter(torch.zeros(components, self.dims, self.levels, dtype=torch.float64))

    @property
    def support_of_element(self) -> Any:
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def width(self) -> int:
        return self.dims * self.components

    def explainer(self) -> Explain:
        start = torch.arange(0, self.dims * self.levels, self.levels, device=self.logits.device)
        table = self.logits.log_softmax(2).permute(1, 2, 0).flatten(0, 1)  # (D L, K)

        def explain(x: Tensor) -> tuple[Tensor, Any]:
            index = x.long() + start  # of each element's level among all, (N, D)
            return embedding_bag(index, table, mode="sum").mT, index

        return explain

    def count(self, seen: Any, share: Tensor) -> Sums:
        zero = share.new_zeros(self.dims * self.levels, self.components)
        each = share.mT[:, None].expand(-1, self.dims, -1).reshape(-1, self.components)
        return {"x": zero.index_add_(0, seen.flatten(), each)}

    @torch.no_grad()
    def set_from(self, sums: Sums, n: Tensor) -> None:
        counts = sums["x"].unflatten(0, (self.dims, self.levels)).permute(2, 0, 1)
        probs = (counts + self.smoothing / self.levels) / (n + self.smoothing).clamp_min(LEAST)[:, None, None]
        self.logits.copy_(torch.where(n[:, None, None] > LEAST, probs.clamp_min(LEAST).log(), self.logits))

    @torch.no_grad()
    def start_at(self, k: int, x: Tensor, weights: Tensor, narrow: float) -> None:
        average = torch.einsum("k,kdl->dl", weights / weights.sum(), self.logits.softmax(2))
        own = nn.functional.one_hot(x.long(), self.levels)
        self.logits[k] = (own + (average - own) * narrow / 2).clamp_min(LEAST).log()

    @property
    def _values(self) -> Tensor:
        return torch.arange(self.levels, dtype=self.logits.dtype, device=self.logits.device)

    @property
    def means(self) -> Tensor:
        return self.logits.softmax(2) @ self._values

    @property
    def variances(self) -> Tensor:
        return self.logits.softmax(2) @ self._values.square() - self.means.square()

    def draw(self, k: Tensor) -> Tensor:
        gumbel = -torch.empty_like(self.logits[k]).exponential_().log()
        return (self.logits[k] + gumbel).argmax(2).to(self.logits.dtype)
