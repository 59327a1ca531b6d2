"""Whole numbers as the floor of a continuous variable: x = ⌊v⌋.

    P(x) = ∫ p(v) 1[⌊v⌋ = x] dv        log P(x) ≥ E_{q(v | x)}[log p(v) − log q(v | x)],  q on [x, x + 1)

so a density p(v) becomes a model of whole numbers, and its score a lower bound. Uniform q: Theis, van den Oord and
Bethge 2016, arXiv:1511.01844. Learned q: Ho et al., "Flow++", 2019, arXiv:1902.00275.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from jensen.conditionals.amortized import Rescale
from jensen.conditionals.flows import Flow
from jensen.conditionals.heads import Support
from jensen.conditionals.priors import UnitCube
from jensen.conditionals.transformed import Transformed
from jensen.distributions import Elementwise
from jensen.nets import mlp
from jensen.nets.stack import Size
from jensen.registry import component
from jensen.transforms import AffineMap, Composed, Monotone, Sigmoid, Transform
from jensen.transforms.coupling import Partition, alternating, checkerboard

GRID = 2.0**-16  # of u: 255 + u is exact in float32, so that the floor is never the next number


class Floored(Elementwise):
    """P(x | v) = 1[x = ⌊v⌋], v below 0 counted as 0 and v above the top as the top.

    Args:
        v: (*batch, *event).
        top: the largest whole number, or None.
        event_dims: of an event.
    """

    parameter_dims: ClassVar[dict[str, int]] = {"v": 0}
    support = constraints.nonnegative_integer

    def __init__(self, v: Tensor, top: int | None, event_dims: int):
        self.v, self.top, self.event_dims = v, top, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        same = value == self.mode
        return torch.where(same, torch.zeros((), dtype=self.v.dtype, device=self.v.device), -torch.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.mode.expand(self._sample_shape(sample_shape))

    @property
    def mean(self) -> Tensor:
        return self.mode

    @property
    def mode(self) -> Tensor:
        return self.v.floor().clamp(0, self.top)

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.v)


class Floor(nn.Module):
    """p(x | v): the whole number below v. `forward(v)` gives a `Floored`."""

    sequential_steps = 0

    def __init__(self, support: Support):
        super().__init__()
        self.top = {"binary": 1, "levels": (support.levels or 1) - 1, "count": None}[support.kind]
        self.event_dims = len(support.shape)

    def forward(self, v: Tensor) -> Floored:
        return Floored(v, self.top, self.event_dims)


class UniformOnBins(Elementwise):
    """Uniform density on [x, x + 1)^D, drawn on a grid of 2⁻¹⁶; log-density 0 there and −∞ elsewhere.

    Args:
        x: whole numbers, `(*batch, *event)`.
        large: whether they may exceed 255.
    """

    parameter_dims: ClassVar[dict[str, int]] = {"x": 0}
    support = constraints.real
    has_rsample = False

    def __init__(self, x: Tensor, event_dims: int, large: bool = False):
        self.x, self.event_dims, self.large = x, event_dims, large

    def log_prob_terms(self, value: Tensor) -> Tensor:
        inside = (value >= self.x) & (value < self.x + 1)
        return torch.where(inside, torch.zeros((), dtype=self.x.dtype, device=self.x.device), -torch.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._sample_shape(sample_shape)
        u = torch.randint(0, 2**16, shape, device=self.x.device, dtype=torch.int32)
        v = torch.add(self.x, u.to(self.x.dtype), alpha=GRID)
        return below_next(self.x, v) if self.large else v

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        v = self.sample(sample_shape)
        return v, v.new_zeros(v.shape[: v.dim() - self.event_dims])

    density_comes_with_draw = True

    @property
    def mean(self) -> Tensor:
        return self.x + 0.5

    @property
    def mode(self) -> Tensor:
        return self.mean

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.x, 1 / 12)


def below_next(x: Tensor, v: Tensor) -> Tensor:
    """v, or the last number before x + 1 where rounding x + u has reached that; of need where x exceeds 255."""
    return torch.minimum(v, torch.nextafter(x + 1, x))


class UniformDequantizer(nn.Module):
    """q(v | x): v = x + u, u uniform on [0, 1)."""

    dequantizes = True

    def __init__(self, support: Support):
        super().__init__()
        self.event_dims, self.large = len(support.shape), support.kind == "count"

    def forward(self, x: Tensor) -> Distribution:
        return UniformOnBins(x, self.event_dims, self.large)


@component("dequantizer", "uniform", paper="Theis, van den Oord and Bethge 2016, arXiv:1511.01844")
def uniform(support: Support) -> nn.Module:
    """Uniform noise on [0, 1) added to whole numbers."""
    return UniformDequantizer(support)


class LearnedOnBins(Distribution):
    """v = x + u with u from a density on (0, 1)^D, log q(v | x) = log q(u | x); −∞ outside [x, x + 1)^D.

    The log-density that comes with a draw is that of u as it was drawn, before v is rounded to below x + 1.

    Args:
        x: whole numbers, `(N, *event)`.
        noise: q(u | x), of batch shape (N,).
        large: whether x may exceed 255.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = True
    density_comes_with_draw = True
    _validate_args = False

    def __init__(self, x: Tensor, noise: Transformed, large: bool = False):
        self.x, self.noise, self.large = x, noise, large

    @property
    def batch_shape(self) -> torch.Size:
        return self.x.shape[: self.x.dim() - len(self.event_shape)]

    @property
    def event_shape(self) -> torch.Size:
        return self.noise.event_shape

    @property
    def support(self) -> Any:
        """The constraint on one element of v."""
        return constraints.real

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw `(*sample_shape, *batch, *event)` and its log-density, with no inverse."""
        u, log_q = self.noise.rsample_and_log_prob(sample_shape)
        return self._noisy(u), log_q

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._noisy(self.noise.rsample(sample_shape))

    def _noisy(self, u: Tensor) -> Tensor:
        v = self.x + u.clamp(0, 1 - GRID)
        return below_next(self.x, v) if self.large else v

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(v | x) in nats, `(*batch,)`. A v rounded to x itself is taken as the middle of the first step."""
        u = value - self.x
        inside = ((u >= 0) & (u < 1)).flatten(u.dim() - len(self.event_shape)).all(-1)
        log_q = self.noise.log_prob(u.clamp(GRID / 2, 1 - GRID / 2))
        return torch.where(inside, log_q, -torch.inf)

    @property
    def mean(self) -> Tensor:
        """Expected value, `(*batch, *event)`, by 256 draws: an estimate, the same at every call."""
        return self.x + self.noise.mean

    @property
    def variance(self) -> Tensor:
        """Variance, `(*batch, *event)`, by 256 draws: an estimate, the same at every call."""
        return self.noise.variance

    def detach(self) -> Self:
        """The same density with its parameters stopped; gradients still reach the value."""
        return type(self)(self.x, self.noise.detach(), self.large)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The batch, of size K·B, seen as `sizes`, say (K, B)."""
        return type(self)(self.x.unflatten(0, tuple(sizes)), self.noise.unflatten(sizes), self.large)


class Conditioned(Transform):
    """x = f(z; θ(c)), element by element, for a context of the event's shape.

    Args:
        network: from a context `(N, *event)` to `(N, P · first, ...)`. It starts at zero, and so the map as the
            identity.
        monotone: f.
    """

    def __init__(self, shape: tuple[int, ...], network: nn.Module, monotone: Monotone):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(shape)
        self.network, self.monotone = network, monotone

    def parameters_of(self, context: Tensor | None) -> Tensor:
        return self.network(context).unflatten(1, (self.monotone.size, self.domain_shape[0]))

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.monotone.forward_and_ladj(z, self.parameters_of(context))

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.monotone.inverse_and_ladj(x, self.parameters_of(context))


class Beside(Transform):
    """A coupling whose network sees, beside what is kept, all of a context of the event's shape.

        x_A = z_A        x_B = f(z_B; θ(z_A, c_A, c_B))

    Args:
        partition: says what A and B are.
        network: from kept, kept and changed features to P times the changed ones. It starts at zero.
        monotone: f.
    """

    def __init__(self, partition: Partition, network: nn.Module, monotone: Monotone):
        super().__init__()
        self.domain_shape = self.codomain_shape = partition.shape
        self.partition, self.network, self.monotone = partition, network, monotone

    def parameters_of(self, kept: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None
        raw = self.network(torch.cat([kept, *self.partition.split(context)], 1))
        return self.partition.restrict(raw.unflatten(1, (self.monotone.size, self.partition.changed_shape[0])))

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, changed = self.partition.split(z)
        changed, ladj = self.monotone.forward_and_ladj(changed, self.parameters_of(kept, context))
        return self.partition.join(kept, changed), ladj

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, changed = self.partition.split(x)
        changed, ladj = self.monotone.inverse_and_ladj(changed, self.parameters_of(kept, context))
        return self.partition.join(kept, changed), ladj


class LogOfCounts(nn.Module):
    """log(1 + x): counts as numbers of order one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log1p()


class VariationalDequantizer(nn.Module):
    """q(v | x): v = x + u, u = sigmoid(T(ε, x)) with logistic ε: a conditional flow on (0, 1)^D.

    T scales and shifts each element by a network of x, then couplings let the elements depend on one another. Ho et al.
    start from normal noise; from logistic noise, and networks that put out zero, u starts uniform.

    Args:
        support: of x.
        width: of the networks' hidden layers.
        couplings: how many follow.
    """

    dequantizes = True

    def __init__(self, support: Support, width: int, couplings: int):
        super().__init__()
        shape = support.shape
        self.large = support.kind == "count"
        self.features = LogOfCounts() if self.large else Rescale(support.levels or 2)
        monotone = AffineMap(bound=1.0)  # wider logits only pile up at the ends of the bin
        chain: list[Transform] = [Conditioned(shape, _network(shape, monotone.size * shape[0], width), monotone)]
        for parity in range(couplings if math.prod(shape[1:] or shape) > 1 else 0):
            partition = checkerboard(shape, parity) if len(shape) == 3 else alternating(shape, parity)
            (kept, *rest), (changed, *_) = partition.kept_shape, partition.changed_shape
            network = _network((2 * kept + changed, *rest), monotone.size * changed, width)
            chain.append(Beside(partition, network, monotone))
        self.noise = Flow(UnitCube(shape), Composed([*chain, Sigmoid(shape)]), self.features)

    def forward(self, x: Tensor) -> LearnedOnBins:
        return LearnedOnBins(x, self.noise(x), self.large)


def _network(inputs: tuple[int, ...], outputs: int, width: int) -> nn.Module:
    """Two hidden layers, of a picture or of a vector, and a last one of zeros."""
    if len(inputs) == 3:
        network = nn.Sequential(
            nn.Conv2d(inputs[0], width, 3, padding=1),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, outputs, 3, padding=1),
        )
    else:
        network = mlp(inputs, (outputs,), hidden=[width, width], activation="silu")
    last = network[-1]
    nn.init.zeros_(last.weight)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
    return network


@component("dequantizer", "variational", paper="Ho et al. 2019, arXiv:1902.00275")
def variational(
    support: Support,
    *,
    width: Size = 32,
    couplings: Annotated[int, Field(ge=0)] = 2,
) -> nn.Module:
    """Noise on [0, 1) whose density is learned: a small flow given x, which starts uniform. A tighter bound.

    Settings:
        width: of the networks' hidden layers (channels, for pictures).
        couplings: that let the noise of one element depend on that of others; 0 for none.
    """
    return VariationalDequantizer(support, width, couplings)
