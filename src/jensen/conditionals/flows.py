"""Conditionals made of an invertible map: p(x | c) of a flow, a flow as p(z), and a flow as q(z | x)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import one_hot

from jensen.conditionals.heads import positive
from jensen.conditionals.ranges import Ranges
from jensen.conditionals.transformed import Transformed
from jensen.distributions import DiagonalNormal
from jensen.errors import ConfigError
from jensen.nets.convolutional import conv
from jensen.nets.resnet import resize
from jensen.registry import FlowSlot, Prior, component
from jensen.transforms import Composed, Inverse, Sigmoid, Softplus, Transform, interval


class Flow(nn.Module):
    """x = T(z, c) with z from a base density, so that log p(x | c) = log p(z) + log |det ∂z/∂x|.

    Args:
        base: `base()` gives a density of batch shape () over `transform.domain_shape`.
        transform: from base to data. Where it does not start from the base's support, a fixed map leads there.
        context: turns the parents into one context, (N, C); None where there are no parents.
        ranges: of columns onto which the transform leads, None where they are all real numbers.

    Rezende and Mohamed, "Variational inference with normalizing flows", 2015, arXiv:1505.05770; Papamakarios et al.,
    "Normalizing flows for probabilistic modeling and inference", 2021, arXiv:1912.02762.
    """

    invertible = True
    """Data can be encoded exactly: z = T⁻¹(x, c)."""

    def __init__(
        self, base: nn.Module, transform: Transform, context: nn.Module | None = None, ranges: Ranges | None = None
    ):
        super().__init__()
        if getattr(base, "needs_posterior", False):
            raise ConfigError("base: this density is made of a posterior q(z | x), and a flow has none")
        between = carry(support_of(base), transform.domain, transform.domain_shape)
        self.base, self.context, self.ranges = base, context, ranges
        self.transform = Composed([*between, transform]) if between else transform

    @property
    def support(self) -> Any:
        """The constraint on one element of x."""
        return self.transform.codomain

    @property
    def sequential_steps(self) -> int:
        """Network passes in a row that one sample takes."""
        return max(1, self.transform.forward_steps)

    def forward(self, *parents: Tensor) -> Transformed:
        return Transformed(self.base(), self.transform, self.context(*parents) if self.context else None)

    @torch.no_grad()
    def initialize(self, x: Tensor, *parents: Tensor) -> None:
        """Let layers that start from data see x, (n, *event)."""
        self.transform.initialize(x, self.context(*parents) if self.context else None)


def support_of(module: nn.Module) -> Any:
    """The constraint on one element of what a prior or a posterior gives: the real line unless `support` is one."""
    support = getattr(module, "support", None)
    return support if isinstance(support, constraints.Constraint) else constraints.real


def carry(start: Any, end: Any, shape: tuple[int, ...]) -> list[Transform]:
    """Fixed maps of each element that lead from one support onto another, by way of the real line.

    Raises:
        ConfigError: one of them is discrete, or else unknown: no map leads there.

    >>> [type(t).__name__ for t in carry(constraints.real, constraints.unit_interval, (2,))]
    ['Sigmoid']
    """
    if start is end or str(start) == str(end):
        return []
    if start.is_discrete or end.is_discrete:
        raise ConfigError(
            f"posterior and prior, or base and flow, live on different sets: {_named(start)}, {_named(end)}"
        )
    there, back = _from_the_real_line(end, shape), _from_the_real_line(start, shape)
    return [*([Inverse(back)] if back else []), *([there] if there else [])]


def _named(support: Any) -> str:
    """A support in words."""
    words = {"Boolean()": "bits", "OneHot()": "one-hot classes", "Real()": "real numbers"}
    return words.get(str(support), str(support))


def _from_the_real_line(support: Any, shape: tuple[int, ...]) -> Transform | None:
    if support is constraints.real:
        return None
    if support is constraints.unit_interval:
        return Sigmoid(shape)
    if support is constraints.positive:
        return Softplus(shape)
    if isinstance(support, constraints.interval):
        return interval(shape, float(support.lower_bound), float(support.upper_bound))
    raise ValueError(f"expected the real line, the positive numbers or an interval, got {support}")


class Labels(nn.Module):
    """Labels y = 0, 1, ... as a context: one indicator a class, all zero for a row without label (y < 0)."""

    like: Tensor
    dtype = torch.int64  # of y
    event_shape = ()

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        self.register_buffer("like", torch.zeros(()), persistent=False)  # dtype and device

    @property
    def size(self) -> int:
        return self.classes

    def forward(self, y: Tensor) -> Tensor:
        return (one_hot(y.clamp_min(0), self.classes) * (y >= 0).unsqueeze(-1)).to(self.like)


class Columns(nn.Module):
    """Prepared columns c, `(N, size)`, as a context: as they are."""

    dtype = torch.float32

    def __init__(self, size: int):
        super().__init__()
        self.size, self.event_shape = size, (size,)

    def forward(self, c: Tensor) -> Tensor:
        return c


class Picture(nn.Module):
    """A picture c, `(N, C, H, W)`, as a context: features of it by a small convolutional network, `(N, size)`.

    Args:
        shape: (C, H, W).
        levels: c has values 0..levels−1.
        size: how many features.
    """

    dtype = torch.float32

    def __init__(self, shape: tuple[int, ...], levels: int, size: int = 64):
        super().__init__()
        self.event_shape = shape
        self.size, self.channels, self.middle = size, shape[0], (levels - 1) / 2
        self.network = conv(shape, (size,), channels=[16, 32], hidden=128)

    def forward(self, c: Tensor) -> Tensor:
        return self.network(self.planes(c))

    def planes(self, c: Tensor) -> Tensor:
        """The picture with its levels brought to −1..1."""
        return c / self.middle - 1.0


class Context(nn.Module):
    """Several conditions as one context, side by side, one part for each parent.

    Attributes:
        size: C, numbers of the context.
        channels: planes that the conditions make beside a picture: one for each number, and those of pictures.
    """

    def __init__(self, parts: Iterable[Labels | Columns | Picture]):
        super().__init__()
        chain = list(parts)
        self.parts, self.size = nn.ModuleList(chain), sum(part.size for part in chain)
        self.channels = sum(part.channels if isinstance(part, Picture) else part.size for part in chain)
        self.holds_pictures = any(isinstance(part, Picture) for part in chain)

    def named(self, parents: Sequence[str]) -> dict[str, Any]:
        """The part of each parent."""
        return dict(zip(parents, self.parts, strict=True))

    def forward(self, *parents: Tensor) -> Tensor:
        return torch.cat([part(parent) for part, parent in zip(self.parts, parents, strict=True)], 1)

    def planes(self, size: tuple[int, int], *parents: Tensor) -> Tensor:
        """The conditions as planes of that height and width, `(N, channels, H, W)`, pictures resized."""
        found = []
        for part, parent in zip(self.parts, parents, strict=True):
            if isinstance(part, Picture):
                found.append(resize(part.planes(parent), size))
            else:
                c = part(parent)
                found.append(c.reshape(*c.shape, 1, 1).expand(*c.shape, *size))
        return torch.cat(found, 1)


@component("prior", "flow", paper="Rezende and Mohamed 2015, arXiv:1505.05770; Chen et al. 2017, arXiv:1611.02731")
def flow_prior(latents: tuple[int, ...], *, flow: FlowSlot = "realnvp", base: Prior = "normal") -> nn.Module:
    """A normalizing flow as prior, z = T(ε).

    Settings:
        flow: the transform, any that `jensen models` lists as a flow.
        base: density of ε.
    """
    transform = flow(latents, 0)
    return Flow(base(transform.domain_shape), transform)


class FlowPosterior(nn.Module):
    """q(z | x): z = T(ε, h) with ε ~ N(μ(x), diag σ²(x)) and a context h(x), all put out by one network."""

    def __init__(self, latents: tuple[int, ...], transform: Transform, context: int, min_scale: float):
        super().__init__()
        (self.latents,) = latents
        between = carry(constraints.real, transform.domain, latents)
        self.transform = Composed([*between, transform]) if between else transform
        self.context, self.min_scale = context, min_scale

    @property
    def support(self) -> Any:
        """The constraint on one element of z."""
        return self.transform.codomain

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return (2 * self.latents + self.context,)

    def initial_bias(self, x: Tensor) -> None:
        return None

    def forward(self, parameters: Tensor) -> Transformed:
        loc, raw, context = parameters.split([self.latents, self.latents, self.context], 1)
        base = DiagonalNormal(loc, positive(raw, self.min_scale, 1.0))
        return Transformed(base, self.transform, context if self.context else None)


@component(
    "posterior", "flow", paper="Rezende and Mohamed 2015, arXiv:1505.05770; Kingma et al. 2016, arXiv:1606.04934"
)
def flow_posterior(
    latents: tuple[int, ...],
    *,
    flow: FlowSlot = "iaf",
    context: Annotated[int, Field(ge=0)] = 32,
    min_scale: Annotated[float, Field(gt=0, lt=1)] = 1e-3,
) -> nn.Module:
    """A normalizing flow on top of a diagonal normal.

    Settings:
        flow: the transform; one whose forward direction is fast, for it is drawn from at every step.
        context: size of h(x), on which the transform depends; 0 for none.
        min_scale: floor under the base's σ.
    """
    return FlowPosterior(latents, flow(latents, context), context, min_scale)


class Carried(nn.Module):
    """A posterior carried onto another support: a logit-normal q(z | x) on (0, 1), say."""

    def __init__(self, posterior: nn.Module, transform: Transform, support: Any):
        super().__init__()
        self.posterior, self.transform, self.support = posterior, transform, support

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return self.posterior.parameter_shape  # pyright: ignore[reportReturnType]

    def initial_bias(self, x: Tensor) -> Tensor | None:
        return self.posterior.initial_bias(x)  # pyright: ignore[reportCallIssue]

    def forward(self, parameters: Tensor) -> Distribution:
        return Transformed(self.posterior(parameters), self.transform)


def onto(posterior: nn.Module, prior: nn.Module, latents: tuple[int, ...]) -> Any:
    """A posterior that lives where the prior does: as it is, or carried there."""
    maps = carry(support_of(posterior), support_of(prior), latents)
    return Carried(posterior, Composed(maps), support_of(prior)) if maps else posterior
