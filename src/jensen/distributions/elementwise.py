"""The base of all densities that are independent over the elements of a datum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

# Trailing dimensions to sum over, by their number; a table, for this is asked at every training step.
_TRAILING = [tuple(range(-n, 0)) for n in range(9)]


class Elementwise(Distribution):
    r"""A density that factorises over the elements of the event.

        log p(x) = Σ_d log p(x_d; θ_d)

    Parameters are tensors shaped `(*batch, *event)`, plus trailing dimensions of their own where a subclass
    says so (a Categorical's classes). They need only be broadcastable against one another, and one of them at
    least spans the event. A value broadcasts against the batch: parameters `(K, B, *event)` and a value
    `(B, *event)` give a log-density `(K, B)`. Nothing is validated, and shapes are computed only when asked
    for: building one costs less than a microsecond.

    A subclass names its parameter tensors in `parameter_dims` and defines `log_prob_terms`, `mean`, `mode`,
    `variance` and one of `sample` or `rsample` (the latter with `has_rsample = True`). It may override
    `log_prob` and `rsample_and_log_prob` only by something equal and faster. Where there is a temperature,
    `tempered(temperature)` is the same density with scales multiplied by it, and logits of choices divided.
    """

    arg_constraints: ClassVar[dict] = {}
    support: Any = None  # pyright: ignore[reportIncompatibleMethodOverride]
    """The constraint on one element; `support.is_discrete` tells counting measure from Lebesgue measure."""

    parameter_dims: ClassVar[dict[str, int]] = {}
    """Names of the parameter tensors, each with the number of trailing dimensions of its own."""

    _validate_args = False
    event_dims: int
    """Number of trailing dimensions of a value that make up one event."""

    # --- what a subclass defines ---

    def log_prob_terms(self, value: Tensor) -> Tensor:
        """Log-density of each element, in nats, `(*batch, *event)`."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """Expected value, `(*batch, *event)`."""
        raise NotImplementedError

    @property
    def mode(self) -> Tensor:
        """Most likely value of each element, `(*batch, *event)`."""
        raise NotImplementedError

    @property
    def variance(self) -> Tensor:
        """Variance of each element, `(*batch, *event)`."""
        raise NotImplementedError

    def quantile(self, u: Tensor) -> Tensor:
        """The value below or at which a share u in (0, 1) of each element's mass lies, `(*batch, *event)`.

        With u uniform it is a draw: samplers that must agree share their u.
        """
        raise NotImplementedError(f"{type(self).__name__} has no quantile function")

    # --- what follows from it ---

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density summed over the event, in nats, `(*batch,)`."""
        return self._sum(self.log_prob_terms(value))

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw `(*sample_shape, *batch, *event)`, reparameterised where it can be, and its log-density."""
        shape = torch.Size(sample_shape)
        value = self.rsample(shape) if self.has_rsample else self.sample(shape)
        return value, self.log_prob(value)

    @property
    def batch_shape(self) -> torch.Size:
        shape = self._element_shape()
        return shape[: len(shape) - self.event_dims]

    @property
    def event_shape(self) -> torch.Size:
        shape = self._element_shape()
        return shape[len(shape) - self.event_dims :]

    def detach(self) -> Self:
        """The same density with its parameters stopped; gradients still reach the value."""
        return self._map(lambda parameter, _: parameter.detach())

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The first batch dimension, of size K·B, seen as `sizes`, say (K, B).

        Parameters without that dimension, or of size 1 in it, pass through.
        """
        sizes, dims = tuple(sizes), len(self._element_shape())
        if not len(self.batch_shape):
            return self

        def split(parameter: Tensor, own: int) -> Tensor:
            if parameter.ndim - own < dims or parameter.shape[0] != math.prod(sizes):
                return parameter
            return parameter.unflatten(0, sizes)

        return self._map(split)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Self:
        """The same density for every index of a larger batch, without copying."""
        shape = torch.Size(batch_shape) + self.event_shape
        return self._map(lambda parameter, own: parameter.expand(shape + parameter.shape[parameter.ndim - own :]))

    def rows(self, index: Tensor) -> Self:
        """Of batch shape (N,), those at an index (M,)."""
        n = self.batch_shape[0]
        return self.expand((n,))._map(lambda parameter, _: parameter[index])

    def pick(self, k: Tensor) -> Self:
        """Of batch shape `(*batch, K)`, those of number k in the last dimension: of the shape of k, `(*more, *batch)`.

        The batch dimensions before the last are those of k on the right.
        """
        lead = len(self.batch_shape) - 1
        whole = self.expand(self.batch_shape)

        def chosen(parameter: Tensor, own: int) -> Tensor:
            rest = parameter.shape[lead + 1 :]
            index = k.reshape(*k.shape, 1, *(1,) * len(rest)).expand(*k.shape, 1, *rest)
            every = parameter.expand(*k.shape, *parameter.shape[lead:])
            return every.gather(k.dim(), index).squeeze(k.dim())

        return whole._map(chosen)

    def __repr__(self) -> str:
        name, batch, event = type(self).__name__, tuple(self.batch_shape), tuple(self.event_shape)
        return f"{name}(batch_shape={batch}, event_shape={event})"

    # --- for subclasses ---

    def _map(self, function: Callable[[Tensor, int], Tensor]) -> Self:
        """A copy whose parameters are `function(parameter, own_dims)`."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        for name, own in self.parameter_dims.items():
            setattr(new, name, function(getattr(self, name), own))
        return new

    def _element_shape(self) -> torch.Size:
        """`(*batch, *event)`."""
        shapes = []
        for name, own in self.parameter_dims.items():
            shape = getattr(self, name).shape
            shapes.append(shape[: len(shape) - own])
        if all(shape == shapes[0] for shape in shapes):
            return shapes[0]
        return torch.broadcast_shapes(*shapes)

    def _sample_shape(self, sample_shape: Sequence[int]) -> torch.Size:
        """`(*sample_shape, *batch, *event)`."""
        return torch.Size(sample_shape) + self._element_shape()

    def _sum(self, terms: Tensor) -> Tensor:
        """Sum over the event. (`sum(())` would sum over everything.)"""
        return terms.sum(_TRAILING[self.event_dims]) if self.event_dims else terms

    def _filled(self, parameter: Tensor) -> Tensor:
        """A parameter without dimensions of its own, expanded to `(*batch, *event)`."""
        return parameter.expand(self._element_shape())
