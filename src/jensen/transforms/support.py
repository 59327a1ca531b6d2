"""Onto the values that columns can take: above a bound, below one, between two, around a circle.

Each element has bounds of its own. A point outside has no pre-image: `inverse_and_ladj` gives that of the nearest point
inside, and −∞, so that its density is 0 and neither it nor a gradient is NaN. Points nearer to a bound than float32
tells apart, in which data come, count as that far inside, where they are met and where they are drawn, in float64 too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.special import ndtr, ndtri

from jensen.transforms.transform import Shape, Transform, sum_over_event

FLOAT32 = torch.finfo(torch.float32)


class Bounded(Transform):
    """From the real line between bounds, x_d in (low_d, high_d), either of them perhaps infinite:

        both finite      x = low + w σ(z)     log ∂x/∂z = log w σ(z) σ(−z),    w = high − low
        low alone        x = low + exp(z)     log ∂x/∂z = z
        high alone       x = high − exp(−z)   log ∂x/∂z = −z
        neither          x = z

    Args:
        low, high: of each element, (D,), infinite where there is none.

    Raises:
        ValueError: an empty interval.

    >>> Bounded(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, math.inf])).inverse(torch.tensor([[0.0, 1.0]]))
    tensor([[0., 0.]])
    """

    forward_steps = inverse_steps = 0
    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor):
        super().__init__()
        if not bool((low < high).all()):
            raise ValueError(f"expected intervals low < high, got {low.tolist()} and {high.tolist()}")
        self.domain_shape = self.codomain_shape = tuple(low.shape)
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.codomain = constraints.interval(low, high)

    def _kinds(self) -> tuple[Tensor, Tensor]:
        return self.low.isfinite(), self.high.isfinite()

    def _clamped(self, x: Tensor) -> Tensor:
        """Inside, by no less than a rounding error."""
        top = torch.finfo(x.dtype).max / 4
        least = _inside(self.low).maximum(self.low.new_tensor(-top))
        return x.maximum(least).minimum((-_inside(-self.high)).minimum(self.high.new_tensor(top)))

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        below, above = self._kinds()
        zero, width = z.new_zeros(()), torch.where(below & above, self.high - self.low, 1.0)
        t = torch.where(above & ~below, -z, z).clamp_max(math.log(torch.finfo(z.dtype).max) - 2)
        grown = torch.where(below ^ above, t, zero).exp()
        x = torch.where(below, self.low + grown, torch.where(above, self.high - grown, z))
        x = torch.where(below & above, self.low + width * z.sigmoid(), x)
        slope = width.log() - torch.nn.functional.softplus(z) - torch.nn.functional.softplus(-z)
        slope = torch.where(below & above, slope, torch.where(below ^ above, t, zero))
        return self._clamped(x), sum_over_event(slope)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        below, above = self._kinds()
        one, zero, v = x.new_ones(()), x.new_zeros(()), self._clamped(x)
        near = torch.where(below, v - self.low, one).log()
        far = torch.where(above, self.high - v, one).log()
        width = torch.where(below & above, self.high - self.low, 1.0).log()
        z = torch.where(below | above, near - far, x)
        slope = torch.where(below & above, width - near - far, torch.where(below | above, -near - far, zero))
        return z, sum_over_event(slope) + _only_inside(x, self.low, self.high)


class Circle(Transform):
    """θ = 2π Φ(z) − π: a standard normal becomes an angle of uniform density on [−π, π].

    log |∂θ/∂z| = log 2π + log φ(z)
    """

    forward_steps = inverse_steps = 0
    codomain = constraints.interval(-math.pi, math.pi)

    def __init__(self, shape: Shape):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(shape)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (2 * math.pi * ndtr(z) - math.pi).clamp(-math.pi, math.pi), self._ladj(z)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        eps = torch.finfo(x.dtype).eps
        z = ndtri(((x + math.pi) / (2 * math.pi)).clamp(eps, 1 - eps))
        return z, -self._ladj(z)

    def _ladj(self, z: Tensor) -> Tensor:
        return sum_over_event(0.5 * math.log(2 * math.pi) - 0.5 * z.square())


class Turn(Transform):
    """x = low + p (θ + π) / 2π: angles θ in [−π, π] in a unit of the user's, p to a turn, from low on.

    Args:
        low, period: of each element, (D,).
    """

    forward_steps = inverse_steps = 0
    domain = constraints.interval(-math.pi, math.pi)
    low: Tensor
    period: Tensor

    def __init__(self, low: Tensor, period: Tensor):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(low.shape)
        self.register_buffer("low", low)
        self.register_buffer("period", period)
        self.codomain = constraints.interval(low, low + period)

    def _ladj(self) -> Tensor:
        return (self.period / (2 * math.pi)).log().sum()

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.low + self.period * ((z + math.pi) / (2 * math.pi)).clamp(0, 1)
        return x.minimum(self.low + self.period), self._ladj()

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        share = ((x - self.low) / self.period).clamp(0, 1)
        return 2 * math.pi * share - math.pi, _only_inside(x, self.low, self.low + self.period) - self._ladj()


class Harmonics(torch.nn.Module):
    """cos θ and sin θ of values x with a period: the same where one turn ends and the next begins, (N, D) → (N, 2D)."""

    low: Tensor
    period: Tensor

    def __init__(self, low: Tensor, period: Tensor):
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("period", period)

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * (x - self.low) / self.period
        return torch.cat((angle.cos(), angle.sin()), 1)


class Staged(Transform):
    """Parts of a vector one after the other, each by a map of its own that is given what came before:

        x_i = T_i(z_i; c, h_1(x_1), …, h_{i−1}(x_{i−1}))        log |det ∂x/∂z| = Σ_i log |det ∂x_i/∂z_i|

    for the Jacobian is triangular in blocks.

    Args:
        parts: T_i, each with the columns of the vector that it has; together they have every column once.
        features: h_i, of all but the last, (N, D_i) → (N, H_i).

    Raises:
        ValueError: columns that are missing or belong to two parts.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], Transform]], features: Sequence[torch.nn.Module]):
        super().__init__()
        columns = [list(own) for own, _ in parts]
        flat = [column for own in columns for column in own]
        if sorted(flat) != list(range(len(flat))) or len(features) != len(parts) - 1:
            raise ValueError(f"expected parts that share all columns, and features of all but the last, got {columns}")
        self.parts = torch.nn.ModuleList(transform for _, transform in parts)
        self.features = torch.nn.ModuleList(features)
        self.sizes = [len(own) for own in columns]
        self.domain_shape = self.codomain_shape = (len(flat),)
        self.register_buffer("columns", torch.tensor(flat))
        self.register_buffer("places", torch.tensor(flat).argsort())
        self.codomain = _side_by_side([t.codomain for _, t in parts], self.sizes, self.places)
        self.forward_steps = sum(t.forward_steps for _, t in parts)
        self.inverse_steps = sum(t.inverse_steps for _, t in parts)

    columns: Tensor
    places: Tensor

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(z, context, "forward_and_ladj")

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(x, context, "inverse_and_ladj")

    def _map(self, value: Tensor, context: Tensor | None, direction: str) -> tuple[Tensor, Tensor]:
        out, total = [], value.new_zeros(())
        for i, v in enumerate(self._split(value)):
            made, ladj = getattr(self.parts[i], direction)(v, context)
            out.append(made)
            total = total + ladj
            context = self._more(i, made if direction.startswith("forward") else v, context)
        return self._join(out), total

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        out = []
        for i, v in enumerate(self._split(z)):
            out.append(self.parts[i].forward(v, context))
            context = self._more(i, out[-1], context)
        return self._join(out)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        out = []
        for i, v in enumerate(self._split(x)):
            out.append(self.parts[i].initialize(v, context))  # pyright: ignore[reportCallIssue]
            context = self._more(i, v, context)
        rows = min(map(len, out))
        return self._join([z[:rows] for z in out])

    def _more(self, i: int, x: Tensor, context: Tensor | None) -> Tensor | None:
        """The context with what the next part is told of this one."""
        if i == len(self.features):
            return context
        told = self.features[i](x)
        return told if context is None else torch.cat((context, told), 1)

    def _split(self, value: Tensor) -> tuple[Tensor, ...]:
        return value.index_select(1, self.columns).split(self.sizes, 1)

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), 1).index_select(1, self.places)


class Told(Transform):
    """T(z, h(c)): a map given a network's view of the context in its place.

    Args:
        network: h, (N, C) → (N, H).
    """

    def __init__(self, network: torch.nn.Module, transform: Transform):
        super().__init__()
        self.network, self.transform = network, transform
        self.domain_shape, self.codomain_shape = transform.domain_shape, transform.codomain_shape
        self.domain, self.codomain = transform.domain, transform.codomain
        self.forward_steps = 1 + transform.forward_steps
        self.inverse_steps = 1 + transform.inverse_steps

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.forward_and_ladj(z, self.network(context))

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.inverse_and_ladj(x, self.network(context))

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.transform.initialize(x, self.network(context))


def _inside(low: Tensor) -> Tensor:
    """The least number above a bound that counts, (D,); −∞ where there is no bound."""
    finite = torch.where(low.isfinite(), low, 0.0)
    gap = (finite.abs() * FLOAT32.eps).clamp_min(FLOAT32.tiny)
    return torch.where(low.isfinite(), finite + gap, low)


def _only_inside(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """0 where all of a row lies between the bounds, but for rounding, else −∞, (N,)."""
    below, above = (2 * FLOAT32.eps * torch.where(end.isfinite(), end.abs(), 1.0).clamp_min(1.0) for end in (low, high))
    inside = (x >= low - below) & (x <= high + above)
    return torch.where(inside.flatten(1).all(1), x.new_zeros(()), -math.inf)


def _side_by_side(
    each: Sequence[constraints.Constraint], sizes: Sequence[int], places: Tensor
) -> constraints.Constraint:
    """The constraint on each element of a vector made of parts; the real line where no part is bounded."""
    if all(constraint is constraints.real for constraint in each):
        return constraints.real
    ends = []
    for name, none in (("lower_bound", -math.inf), ("upper_bound", math.inf)):
        values = [torch.as_tensor(getattr(c, name, none)).expand(n) for c, n in zip(each, sizes, strict=True)]
        ends.append(torch.cat(values).index_select(0, places))
    return constraints.interval(*ends)
