"""The density of a row whose columns are of different kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from jensen.distributions.elementwise import Elementwise


class Record(Elementwise):
    r"""Independent columns, each of a density of its own kind, seen as one row.

        log p(x) = Σ_g Σ_{d ∈ g} log p_g(x_d),    the groups g of columns of one kind

    Args:
        parts: densities with event shapes (n_g,).
        places: of each part, which columns of the row are its own; together each column once.

    >>> from jensen.distributions import Bernoulli, DiagonalNormal
    >>> p = Record([Bernoulli(torch.zeros(1)), DiagonalNormal(torch.zeros(2), torch.ones(2))], [[1], [0, 2]])
    >>> p.log_prob_terms(torch.tensor([0.0, 1.0, 0.0]))
    tensor([-0.9189, -0.6931, -0.9189])
    """

    event_dims = 1

    def __init__(self, parts: Sequence[Elementwise], places: Sequence[Sequence[int] | Tensor]):
        self.parts = list(parts)
        self.places = [torch.as_tensor(p) for p in places]
        self.inverse = torch.cat(self.places).argsort()

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Real where a column is, else whole numbers."""
        whole = all(part.support.is_discrete for part in self.parts)
        return constraints.nonnegative_integer if whole else constraints.real

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(part.has_rsample for part in self.parts)

    def log_prob_terms(self, value: Tensor) -> Tensor:
        return self.row([p.log_prob_terms(value[..., i]) for p, i in zip(self.parts, self.places, strict=True)])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.row([part.sample(torch.Size(sample_shape)) for part in self.parts])

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.row([part.rsample(torch.Size(sample_shape)) for part in self.parts])

    def quantile(self, u: Tensor) -> Tensor:
        return self.row([part.quantile(u[..., i]) for part, i in zip(self.parts, self.places, strict=True)])

    def tempered(self, temperature: float) -> Record:
        """Of the parts that have a temperature."""
        made = [p.tempered(temperature) if hasattr(p, "tempered") else p for p in self.parts]  # pyright: ignore
        return Record(made, self.places)

    @property
    def mean(self) -> Tensor:
        """Of numbers; of categories, which have none, the mode stands in."""
        return self.row([part.mode if _is_named(part) else part.mean for part in self.parts])

    @property
    def mode(self) -> Tensor:
        return self.row([part.mode for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return self.row([part.variance for part in self.parts])

    def row(self, values: Sequence[Tensor]) -> Tensor:
        """Values of the parts, (*, n_g), as rows (*, D)."""
        return torch.cat(list(values), -1)[..., self.inverse.to(values[0].device)]

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> Self:
        return type(self)([part._map(function) for part in self.parts], self.places)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        return type(self)([part.unflatten(sizes) for part in self.parts], self.places)

    def rows(self, index: Tensor) -> Self:
        return type(self)([part.rows(index) for part in self.parts], self.places)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        return type(self)([part.expand(batch_shape) for part in self.parts], self.places)

    def detach(self) -> Self:
        return type(self)([part.detach() for part in self.parts], self.places)

    def _element_shape(self) -> torch.Size:
        batches = torch.broadcast_shapes(*(part.batch_shape for part in self.parts))
        return batches + torch.Size((sum(len(places) for places in self.places),))


def _is_named(part: Elementwise) -> bool:
    """Whether values are names in no order."""
    return getattr(part, "named", False)
