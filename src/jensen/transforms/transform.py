"""Invertible maps with the logarithm of their volume change.

A transform T takes a point z of the base's space to a point x = T(z, c) of the data's, perhaps given a context c:

    forward_and_ladj(z, c)  = x, log |det ∂x/∂z|
    inverse_and_ladj(x, c)  = z, log |det ∂z/∂x|        the same number with the opposite sign, at the same pair

so that log p(x) = log p(z) + inverse ladj = log p(z) − forward ladj. The directions are those of torch.distributions:
forward leads from base to data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn
from torch.distributions import constraints

Shape = tuple[int, ...]


class Transform(nn.Module):
    """An invertible map of events, differentiable both ways.

    A subclass defines `forward_and_ladj` and `inverse_and_ladj`, and says where it differs from what stands here:

    Attributes:
        domain_shape, codomain_shape: event shapes of z and x; the number of elements is the same.
        domain, codomain: constraints on one element of z and of x.
        forward_steps, inverse_steps: evaluations of a network in a row that a direction takes: 1 for a coupling,
            D for the slow direction of an autoregressive map. 0 for a map without a network.
    """

    domain_shape: Shape
    codomain_shape: Shape
    domain: constraints.Constraint = constraints.real
    codomain: constraints.Constraint = constraints.real
    forward_steps: int = 1
    inverse_steps: int = 1

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x = T(z, c), `(N, *codomain_shape)`, and log |det ∂x/∂z| in nats, `(N,)` or `()` where it is constant.

        Args:
            z: `(N, *domain_shape)`.
            context: `(N, C)`, for a conditional map.
        """
        raise NotImplementedError

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = T⁻¹(x, c), `(N, *domain_shape)`, and log |det ∂z/∂x| in nats, `(N,)` or `()` where it is constant."""
        raise NotImplementedError

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """x = T(z, c). A map whose density costs more than its points defines it anew."""
        return self.forward_and_ladj(z, context)[0]

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """z = T⁻¹(x, c)."""
        return self.inverse_and_ladj(x, context)[0]

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Start from data x, `(N, *codomain_shape)`, where the map does so (activation normalisation); gives z.

        It may give z of the first rows alone: what follows a costly map need not see all of the data.
        """
        return self.inverse(x, context)


class Composed(Transform):
    """The composition T = Tₙ ∘ … ∘ T₁: the first of the list is applied to the base first.

        log |det ∂x/∂z| = Σ log |det ∂Tᵢ|

    Raises:
        ValueError: the shapes of two neighbours do not fit.
    """

    def __init__(self, parts: Iterable[Transform]):
        super().__init__()
        flat: list[Transform] = []
        for part in parts:
            flat += part.chain if isinstance(part, Composed) else [part]
        if not flat:
            raise ValueError("expected at least one transform to compose")
        for left, right in pairwise(flat):
            if left.codomain_shape != right.domain_shape:
                raise ValueError(
                    f"{type(left).__name__} gives {left.codomain_shape}, but {type(right).__name__} "
                    f"takes {right.domain_shape}"
                )
        self.chain = tuple(flat)  # the same modules as `parts`, without their registration
        self.parts = nn.ModuleList(flat)
        self.domain_shape, self.domain = flat[0].domain_shape, flat[0].domain
        self.codomain_shape, self.codomain = flat[-1].codomain_shape, flat[-1].codomain
        self.forward_steps = sum(p.forward_steps for p in flat)
        self.inverse_steps = sum(p.inverse_steps for p in flat)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total: Tensor | None = None
        for part in self.chain:
            z, ladj = part.forward_and_ladj(z, context)
            total = ladj if total is None else total + ladj
        assert total is not None
        return z, total

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total: Tensor | None = None
        for part in reversed(self.chain):
            x, ladj = part.inverse_and_ladj(x, context)
            total = ladj if total is None else total + ladj
        assert total is not None
        return x, total

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        for part in self.chain:
            z = part.forward(z, context)
        return z

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for part in reversed(self.chain):
            x = part.inverse(x, context)
        return x

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for part in reversed(self.chain):
            x = part.initialize(x, context if context is None else context[: len(x)])
        return x


class Inverse(Transform):
    """T⁻¹ as a transform: directions, shapes and supports change places.

    >>> import torch
    >>> from jensen.transforms import Affine
    >>> double = Affine((1,), scale=2.0)
    >>> Inverse(double).forward(torch.ones(1, 1))
    tensor([[0.5000]])
    """

    def __init__(self, transform: Transform):
        super().__init__()
        self.transform = transform
        self.domain_shape, self.codomain_shape = transform.codomain_shape, transform.domain_shape
        self.domain, self.codomain = transform.codomain, transform.domain
        self.forward_steps, self.inverse_steps = transform.inverse_steps, transform.forward_steps

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.inverse_and_ladj(z, context)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.forward_and_ladj(x, context)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.transform.inverse(z, context)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.transform.forward(x, context)


class Reshape(Transform):
    """The same elements in another shape; log |det| = 0.

    Raises:
        ValueError: the number of elements differs.
    """

    forward_steps = inverse_steps = 0

    def __init__(self, domain_shape: Shape, codomain_shape: Shape):
        super().__init__()
        if math.prod(domain_shape) != math.prod(codomain_shape):
            raise ValueError(f"expected shapes of as many elements, got {domain_shape} and {codomain_shape}")
        self.domain_shape, self.codomain_shape = tuple(domain_shape), tuple(codomain_shape)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.reshape(len(z), *self.codomain_shape), z.new_zeros(())

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.reshape(len(x), *self.domain_shape), x.new_zeros(())


def sum_over_event(terms: Tensor) -> Tensor:
    """(N, *event) to (N,)."""
    return terms.flatten(1).sum(1)
