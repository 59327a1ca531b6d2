"""Components of zeros and ones, levels and counts, elements independent given the component."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import embedding_bag, softplus

from jensen.conditionals.components import LEAST, Components, Explain, Sums
from jensen.conditionals.heads import Support
from jensen.distributions import Bernoulli, Categorical, Elementwise, Poisson


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

    def normalizer(self, natural: Tensor) -> Tensor:
        """A of log p(x) = η x − A(η) + h(x), of each element."""
        raise NotImplementedError

    def base(self, x: Tensor) -> Tensor | float:
        """Σ h(x), (N,)."""
        return 0.0

    def of_parts(self) -> Explain:
        natural, total = self.natural, self.normalizer(self.natural)

        def explain(rows: Tensor) -> tuple[Tensor, Any]:
            there, x = (~rows.isnan()).to(rows.dtype), rows.nan_to_num()
            return natural @ x.mT - total @ there.mT + self.base(x), (x, there)

        return explain

    def count(self, seen: Any, share: Tensor) -> Sums:
        x, there = seen
        return {"x": share @ x} | ({} if there is None else {"n": share @ there})

    @torch.no_grad()
    def set_from(self, sums: Sums, n: Tensor) -> None:
        n = n[:, None]
        of_each = sums.get("n", n)  # data in which an element is there
        means = (sums["x"] + self.smoothing / 2) / (of_each + self.smoothing).clamp_min(LEAST)
        some = (n > LEAST) & (of_each + self.smoothing > LEAST)
        self.natural.copy_(torch.where(some, self.natural_of(means), self.natural))

    @torch.no_grad()
    def start_at(self, k: int, x: Tensor, weights: Tensor, narrow: float) -> None:
        average = (weights / weights.sum()) @ self.means
        x = torch.where(x.isnan(), average, x)
        self.natural[k] = self.natural_of(x + (average - x) * narrow / 2)


class Bernoullis(Means):
    """p_k(x) = Π_d θ_kd^{x_d} (1 − θ_kd)^{1 − x_d}: the latent class model of zeros and ones."""

    @property
    def support_of_element(self) -> Any:
        return constraints.boolean

    def natural_of(self, means: Tensor) -> Tensor:
        return means.clamp(LEAST, 1 - LEAST).logit()

    def normalizer(self, natural: Tensor) -> Tensor:
        return softplus(natural)

    def of_whole(self) -> Explain:
        natural, total = self.natural, softplus(self.natural).sum(1, keepdim=True)
        return lambda x: (torch.addmm(total, natural, x.mT, beta=-1), (x, None))

    def alone(self, rows: Tensor) -> Elementwise:
        return Bernoulli(self._each(self.natural, len(rows)), event_dims=0)

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

    def normalizer(self, natural: Tensor) -> Tensor:
        return natural.exp()

    def base(self, x: Tensor) -> Tensor:
        return -torch.lgamma(x + 1).sum(1)

    def of_whole(self) -> Explain:
        natural, total = self.natural, self.natural.exp().sum(1, keepdim=True)
        return lambda x: (torch.addmm(total, natural, x.mT, beta=-1) + self.base(x), (x, None))

    def alone(self, rows: Tensor) -> Elementwise:
        return Poisson(self._each(self.natural, len(rows)), event_dims=0)

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

    def of_whole(self) -> Explain:
        start, table = self._table()

        def explain(x: Tensor) -> tuple[Tensor, Any]:
            index = x.long() + start
            return embedding_bag(index, table, mode="sum").mT, (index, None)

        return explain

    def of_parts(self) -> Explain:
        start, table = self._table()
        nowhere = len(table)
        table = torch.cat([table, torch.zeros_like(table[:1])])  # what is missing adds nothing

        def explain(rows: Tensor) -> tuple[Tensor, Any]:
            there = ~rows.isnan()
            index = torch.where(there, rows.nan_to_num().long() + start, nowhere)
            return embedding_bag(index, table, mode="sum").mT, (index, there.to(rows.dtype))

        return explain

    def _table(self) -> tuple[Tensor, Tensor]:
        """Where the levels of each element begin among all, (D,), and log θ of all, (D L, K)."""
        start = torch.arange(0, self.dims * self.levels, self.levels, device=self.logits.device)
        return start, self.logits.log_softmax(2).permute(1, 2, 0).flatten(0, 1)

    def count(self, seen: Any, share: Tensor) -> Sums:
        index, there = seen
        zero = share.new_zeros(self.dims * self.levels + 1, self.components)  # the last of what is missing
        each = share.mT[:, None].expand(-1, self.dims, -1).reshape(-1, self.components)
        sums = {"x": zero.index_add_(0, index.flatten(), each)[:-1]}
        return sums if there is None else sums | {"n": share @ there}

    def alone(self, rows: Tensor) -> Elementwise:
        return Categorical(self._each(self.logits, len(rows)), event_dims=0)

    @torch.no_grad()
    def set_from(self, sums: Sums, n: Tensor) -> None:
        counts = sums["x"].unflatten(0, (self.dims, self.levels)).permute(2, 0, 1)
        n = n[:, None]
        of_each = sums.get("n", n)  # data in which an element is there
        probs = (counts + self.smoothing / self.levels) / (of_each + self.smoothing).clamp_min(LEAST)[..., None]
        some = (n > LEAST) & (of_each + self.smoothing > LEAST)
        self.logits.copy_(torch.where(some[..., None], probs.clamp_min(LEAST).log(), self.logits))

    @torch.no_grad()
    def start_at(self, k: int, x: Tensor, weights: Tensor, narrow: float) -> None:
        average = torch.einsum("k,kdl->dl", weights / weights.sum(), self.logits.softmax(2))
        own = nn.functional.one_hot(x.nan_to_num().long(), self.levels)
        own = torch.where(x.isnan()[:, None], average, own)
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
