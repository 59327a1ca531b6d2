"""Rows with gaps for densities that take whole rows: the whole row w is hidden, and what was seen of it is x.

    p(w) p(x | w),    p(x | w) = 1 where x is w in all that was seen
    q(w | x, seen):   w is x in all that was seen, and drawn in the rest

So log p(w) − log q(w_rest | x, seen) is a bound on log p(x_seen), by which both are learned, and its weights fill in
what is missing. Richardson, Wu, Lin, Xu and Bernal, "MCFlow", 2020, arXiv:2003.12628, fill in by the flow alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from jensen.conditionals.heads import Head, Support
from jensen.conditionals.record import cells
from jensen.distributions import Elementwise
from jensen.nets import mlp

HIDDEN = [128, 128]


class Same(Elementwise):
    """A row that is w, as far as it was seen.

    Args:
        value: w, `(*batch, D)`.
        whole: whether its values are whole numbers.
    """

    parameter_dims: ClassVar[dict[str, int]] = {"value": 0}
    event_dims = 1

    def __init__(self, value: Tensor, whole: bool):
        self.value, self.whole = value, whole

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return constraints.nonnegative_integer if self.whole else constraints.real

    def log_prob_terms(self, value: Tensor) -> Tensor:
        return torch.zeros_like(value + self.value)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.value.expand(self._sample_shape(sample_shape))

    @property
    def mean(self) -> Tensor:
        return self.value

    @property
    def mode(self) -> Tensor:
        return self.value

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.value)


class Seen(nn.Module):
    """p(x | w): what was seen of a whole row."""

    def __init__(self, whole: bool):
        super().__init__()
        self.whole = whole

    def forward(self, w: Tensor) -> Same:
        return Same(w, self.whole)


class Completed(Elementwise):
    """A row of which some is known, and the rest has a density.

    Args:
        rest: the density of all elements.
        x, seen: what is known, and where, `(*batch, D)`.
    """

    event_dims = 1

    def __init__(self, rest: Elementwise, x: Tensor, seen: Tensor):
        self.rest, self.x, self.seen = rest, x, seen

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.rest.support

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.rest.has_rsample

    def log_prob_terms(self, value: Tensor) -> Tensor:
        terms = self.rest.log_prob_terms(value)
        return torch.where(self.seen, torch.zeros((), dtype=terms.dtype), terms)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.where(self.seen, self.x, self.rest.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.where(self.seen, self.x, self.rest.sample(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        return torch.where(self.seen, self.x, self.rest.mean)

    @property
    def mode(self) -> Tensor:
        return torch.where(self.seen, self.x, self.rest.mode)

    @property
    def variance(self) -> Tensor:
        return torch.where(self.seen, 0.0, self.rest.variance)

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> Self:
        return type(self)(self.rest._map(function), function(self.x, 0), function(self.seen, 0))

    def unflatten(self, sizes: Sequence[int]) -> Self:
        sizes = tuple(sizes)
        return type(self)(self.rest.unflatten(sizes), self.x.unflatten(0, sizes), self.seen.unflatten(0, sizes))

    def _element_shape(self) -> torch.Size:
        return self.x.shape


class Completer(nn.Module):
    """q(w | x, seen): a network of what was seen says what the rest may be.

    Args:
        support: with gaps.
        head: the density of an element.
    """

    is_noise = True  # w represents nothing but the row itself
    completes = True

    def __init__(self, support: Support, head: Head):
        super().__init__()
        first = cells(support)
        assert first is not None
        self.cells, self.head = first, head
        self.network = mlp((first.size,), head.parameter_shape, hidden=HIDDEN)

    def forward(self, x: Tensor, seen: Tensor) -> Completed:
        return Completed(self.head(self.network(self.cells(x, seen))), x, seen)

    @torch.no_grad()
    def initialize_from(self, data: Mapping[str, Tensor]) -> None:
        """Start from the marginals of data `x`, (n, D), NaN where they were not seen."""
        bias = self.head.initial_bias(data["x"])
        if bias is not None:
            self.network.output.bias.copy_(bias)  # pyright: ignore
