"""Log-linear conditionals of discrete data, by features that a user names.

    p(x | z, w) = exp(wᵀ f(x, z)) / Σ_x′ exp(wᵀ f(x′, z))        ∂ log p(x | z, w) / ∂w = f(x, z) − E[f(X, z) | z, w]

Values of x and z are enumerated: the sum goes over a fresh x′, all |X| of them. Features are a matrix, dense or sparse,
or a function of x, or of x and z.

Berg-Kirkpatrick, Bouchard-Côté, DeNero and Klein, "Painless unsupervised learning with features", NAACL 2010.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, OneHotCategorical, constraints

from jensen.conditionals.features import Features
from jensen.errors import ConfigError, DataError


class Domain(nn.Module):
    """Every value of x: whole numbers 0..levels−1 in each element, numbered with the last element the fastest.

    Args:
        levels: how many values each element has, in order.
        event_shape: of x; () for a single number.
        names: of the elements, for messages.

    >>> Domain([2, 3], (2,)).index(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([5, 1])
    """

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: Sequence[int], event_shape: tuple[int, ...] = (), names: Sequence[str] = ()):
        super().__init__()
        self.event_shape, self.names = tuple(event_shape), tuple(names)
        self.size = math.prod(levels)
        sizes = torch.tensor(levels, dtype=torch.long)
        strides = torch.tensor([math.prod(levels[d + 1 :]) for d in range(len(levels))], dtype=torch.long)
        self.register_buffer("levels", sizes, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def index(self, x: Tensor) -> Tensor:
        """The number of each value, (*batch,), for x (*batch, *event).

        Raises:
            DataError: a value that is none of these, naming its element.
        """
        flat = x.reshape(*x.shape[: x.dim() - len(self.event_shape)], -1)  # (*batch, D)
        whole = flat.round().long() if flat.is_floating_point() else flat.long()
        wrong = (whole < 0) | (whole >= self.levels)
        if wrong.any():
            at = wrong.nonzero()[0]
            element = int(at[-1])
            name = f"column {self.names[element]!r}" if self.names else f"element {element} of x"
            top, value = int(self.levels[element]) - 1, float(flat[tuple(at)])
            raise DataError(f"{name}: expected 0..{top}, the values that are enumerated, got {value:g}")
        return (whole * self.strides).sum(-1)

    def values(self, index: Tensor | None = None) -> Tensor:
        """x by their numbers, (*batch, *event) whole numbers; all of them by default."""
        index = torch.arange(self.size, device=self.levels.device) if index is None else index
        return (index[..., None] // self.strides % self.levels).reshape(*index.shape, *self.event_shape)


class Enumerated(Distribution):
    """p(x | z) = Σ_k z_k p(x | k), by a table of log-probabilities.

    Args:
        table: log p(x | k), (Z, X).
        z: one number of a class each, (*batch,), or weights of the classes, (*batch, Z), as one-hot vectors are.
        domain: of x.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = False
    _validate_args = False

    def __init__(self, table: Tensor, z: Tensor, domain: Domain):
        self.table, self.z, self.domain = table, z, domain
        self.chosen = not z.is_floating_point()

    @property
    def batch_shape(self) -> torch.Size:
        return self.z.shape if self.chosen else self.z.shape[:-1]

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size(self.domain.event_shape)

    @property
    def support(self) -> Any:
        """The constraint on one element of x."""
        return constraints.integer_interval(0, int(self.domain.levels.max()) - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`."""
        index = self.domain.index(value)
        if self.chosen:
            return self.table[self.z, index]
        weight = self.z / self.z.sum(-1, keepdim=True)
        return (weight.log() + self.table.mT[index]).logsumexp(-1)

    @property
    def probs(self) -> Tensor:
        """Of every x, (*batch, X)."""
        if self.chosen:
            return self.table.exp()[self.z]
        return self.z / self.z.sum(-1, keepdim=True) @ self.table.exp()

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """First a class, then x by the inverse of its cumulative probabilities, which no batch makes larger."""
        shape = torch.Size(sample_shape) + self.batch_shape
        if self.chosen:
            k = self.z.expand(shape).reshape(-1)
        else:
            k = torch.multinomial(self.z.expand(*shape, -1).reshape(-1, self.z.shape[-1]), 1)[:, 0]
        cumulative = self.table.double().exp().cumsum(-1)
        index = torch.empty_like(k)
        for one in k.unique():
            mine = (k == one).nonzero()[:, 0]
            u = torch.rand(len(mine), dtype=torch.float64, device=k.device) * cumulative[one, -1]
            index[mine] = torch.searchsorted(cumulative[one], u, right=True).clamp_max(self.domain.size - 1)
        return self.domain.values(index).to(self.table.dtype).reshape(shape + self.event_shape)

    @property
    def mean(self) -> Tensor:
        """Of the numbers, `(*batch, *event)`."""
        values = self.domain.values().flatten(1) if self.event_shape else self.domain.values()[:, None]
        means = self.table.exp() @ values.to(self.table.dtype)  # (Z, D)
        mean = means[self.z] if self.chosen else self.z / self.z.sum(-1, keepdim=True) @ means
        return mean.reshape(self.batch_shape + self.event_shape)

    @property
    def mode(self) -> Tensor:
        """The likeliest x, `(*batch, *event)`."""
        return self.domain.values(self.probs.argmax(-1)).to(self.table.dtype)

    def detach(self) -> Self:
        """The same with its parameters stopped."""
        return type(self)(self.table.detach(), self.z.detach(), self.domain)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The first batch dimension, of size K·B, seen as `sizes`, say (K, B)."""
        return type(self)(self.table, self.z.unflatten(0, tuple(sizes)), self.domain)

    def __repr__(self) -> str:
        return f"Enumerated({len(self.table)} classes, {self.domain.size} values, batch_shape={self.batch_shape})"


class LogLinear(nn.Module):
    """p(x | z, w) ∝ exp(wᵀ f(x, z)) over an enumerated domain.

    Args:
        features: f, as `Crossed` or `Joint`.
        domain: of x; by default the numbers 0..|X|−1, event shape ().

    Attributes:
        weight: w, zero at first: all x are equally likely.

    >>> from jensen.conditionals.features import Crossed
    >>> p = LogLinear(Crossed(torch.eye(3), classes=2))
    >>> p(torch.tensor([0, 1])).log_prob(torch.tensor([2, 0])).exp()
    tensor([0.3333, 0.3333], grad_fn=<ExpBackward0>)
    """

    def __init__(self, features: Features, domain: Domain | None = None):
        super().__init__()
        self.features = features
        self.domain = domain if domain is not None else Domain([features.sizes[1]])
        if self.domain.size != features.sizes[1]:
            raise ConfigError(f"features: expected those of {self.domain.size:,} values, got {features.sizes[1]:,}")
        self.weight = nn.Parameter(torch.zeros(features.weight_shape))

    @property
    def classes(self) -> int:
        return self.features.sizes[0]

    def table(self) -> Tensor:
        """log p(x | z) of all x and z, (Z, X), in nats: O(|X| |Z|)."""
        return self.features.scores(self.weight).log_softmax(-1)

    def forward(self, z: Tensor) -> Enumerated:
        """z: numbers of classes, (N,), or one-hot vectors or weights of them, (N, Z)."""
        return Enumerated(self.table(), z, self.domain)


class Classes(nn.Module):
    """p(z = k) = π_k, z a one-hot vector, (K,). All are equally likely at first."""

    def __init__(self, classes: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes))

    def forward(self) -> OneHotCategorical:
        return OneHotCategorical(logits=self.logits, validate_args=False)

    @torch.no_grad()
    def set(self, probs: Tensor) -> None:
        """Set π; a class without any share keeps a tiny one, so that its logarithm is finite."""
        self.logits.copy_(probs.double().clamp_min(1e-12).log().log_softmax(-1))


class ClassPosterior(nn.Module):
    """p(z | x, ...) = p(z) Π p(· | z) / Σ_z, exact, by enumeration."""

    exact_posterior = True
    discrete = True

    def __init__(self, prior: Classes, *likelihoods: LogLinear):
        super().__init__()
        self.prior, self.likelihoods = prior, nn.ModuleList(likelihoods)

    def forward(self, *values: Tensor) -> OneHotCategorical:
        logits = self.prior.logits.log_softmax(-1)
        for likelihood, value in zip(self.likelihoods, values, strict=True):
            logits = logits + likelihood.table().mT[likelihood.domain.index(value)]  # pyright: ignore
        return OneHotCategorical(logits=logits, validate_args=False)
