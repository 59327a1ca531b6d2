"""The density of a transformed variable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from jensen.nets.products import lower_products
from jensen.transforms import Transform
from jensen.transforms.compilation import Way, compiled, forward_and_ladj, inverse_and_ladj, is_compiled

DRAWS_OF_MOMENTS = 256


class Transformed(Distribution):
    r"""The density of x = T(z, c), z from a base density.

        log p(x | c) = log p(z) + log |det ∂z/∂x|,    z = T⁻¹(x, c)

    Its batch is that of the base or, where the base has none, the rows of the context.

    Args:
        base: over `transform.domain_shape`, of batch shape () or (N,).
        transform: from base to data.
        context: c, `(N, C)`, or None.
        batch: shape in which the context's rows are seen, where the base has no batch; default (N,).

    >>> from jensen.distributions import StandardNormal
    >>> from jensen.transforms import Affine
    >>> p = Transformed(StandardNormal(torch.zeros(1), torch.ones(1)), Affine((1,), 1.0, 0.75))
    >>> p.log_prob(torch.ones(1))  # N(1, 0.75²)
    tensor(-0.6313)
    """

    arg_constraints: ClassVar[dict] = {}
    density_comes_with_draw = True
    """A draw's density costs nothing beside the draw, and the inverse may be slow."""
    _validate_args = False

    def __init__(
        self,
        base: Distribution,
        transform: Transform | _Stopped,
        context: Tensor | None = None,
        batch: Sequence[int] | None = None,
    ):
        self.base, self.transform, self.context, self._batch = base, transform, context, batch

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.has_rsample

    @property
    def batch_shape(self) -> torch.Size:
        if self.base.batch_shape or self.context is None:
            return self.base.batch_shape
        return self.context.shape[:1] if self._batch is None else torch.Size(self._batch)

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size(self.transform.codomain_shape)

    @property
    def support(self) -> Any:
        """The constraint on one element of x."""
        return self.transform.codomain

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x | c) in nats, `(*batch,)`."""
        z, ladj = self.to_base(value)
        return self.base.log_prob(z) + ladj

    def to_base(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """z = T⁻¹(x, c), `(*batch, *domain)`, and log |det ∂z/∂x|, `(*batch,)`, in nats."""
        rows, lead = self._rows(value, self.event_shape)
        z, ladj = self._apply(inverse_and_ladj, rows)
        return z.reshape(lead + z.shape[1:]), ladj.expand(len(rows)).reshape(lead)

    def from_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = T(z, c), `(*batch, *event)`, and log |det ∂x/∂z|, `(*batch,)`, in nats."""
        rows, lead = self._rows(z, torch.Size(self.transform.domain_shape))
        x, ladj = self._apply(forward_and_ladj, rows)
        return x.reshape(lead + x.shape[1:]), ladj.expand(len(rows)).reshape(lead)

    def _apply(self, way: Way, rows: Tensor) -> tuple[Tensor, Tensor]:
        """A direction of the transform, compiled where training asks for it."""
        if isinstance(self.transform, nn.Module) and is_compiled(len(rows)):
            lower_products()
            way = compiled(way, self.transform)
        return way(rows, self._context(len(rows)), self.transform)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        rows, lead = self._rows(self._draw(sample_shape), torch.Size(self.transform.domain_shape))
        x = self.transform.forward(rows, self._context(len(rows)))
        return x.reshape(lead + x.shape[1:])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw `(*sample_shape, *batch, *event)` and its log-density, with no inverse."""
        z = self._draw(sample_shape)
        x, ladj = self.from_base(z)
        return x, self.base.log_prob(z) - ladj

    @property
    def mean(self) -> Tensor:
        """Expected value, `(*batch, *event)`, by 256 draws: an estimate, the same at every call."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """Variance, `(*batch, *event)`, by 256 draws: an estimate, the same at every call."""
        return self._moments()[1]

    def detach(self) -> Self:
        """The same density with its parameters stopped; gradients still reach the value."""
        context = None if self.context is None else self.context.detach()
        base = self.base.detach()  # pyright: ignore[reportAttributeAccessIssue]
        return type(self)(base, _Stopped(self.transform), context, self._batch)

    def tempered(self, temperature: float) -> Self:
        """The same with the scale of its base multiplied. Raises `ValueError` where that is not normal."""
        if not hasattr(self.base, "tempered"):
            raise ValueError(f"a temperature multiplies the scale of a normal base, and this is {self.base}")
        base = self.base.tempered(temperature)  # pyright: ignore[reportAttributeAccessIssue]
        return type(self)(base, self.transform, self.context, self._batch)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The batch, of size K·B, seen as `sizes`, say (K, B)."""
        if not self.batch_shape:
            return self
        base = self.base.unflatten(sizes) if self.base.batch_shape else self.base  # pyright: ignore
        return type(self)(base, self.transform, self.context, tuple(sizes))

    def pick(self, k: Tensor) -> Self:
        """Of batch shape (K,), those of number k."""
        context = None if self.context is None else self.context[k].flatten(0, k.dim() - 1)
        base = self.base.pick(k) if self.base.batch_shape else self.base  # pyright: ignore[reportAttributeAccessIssue]
        return type(self)(base, self.transform, context, k.shape)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Self:
        """The same density for every index of a larger batch."""
        return type(self)(self.base.expand(torch.Size(batch_shape)), self.transform, self.context)

    def __repr__(self) -> str:
        batch, event = tuple(self.batch_shape), tuple(self.event_shape)
        return f"Transformed(batch_shape={batch}, event_shape={event})"

    def _draw(self, sample_shape: Sequence[int]) -> Tensor:
        shape = torch.Size(sample_shape)
        if not self.base.batch_shape:
            shape = shape + self.batch_shape
        return self.base.rsample(shape) if self.base.has_rsample else self.base.sample(shape)

    def _moments(self) -> tuple[Tensor, Tensor]:
        device = self.context.device if self.context is not None else None
        with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
            torch.manual_seed(0)
            x = self.rsample((DRAWS_OF_MOMENTS,))
        return x.mean(0), x.var(0)

    def _rows(self, value: Tensor, event: torch.Size) -> tuple[Tensor, torch.Size]:
        """A value as rows (N, *event), and the leading shape that they had; widened to the batch where smaller."""
        lead = value.shape[: value.dim() - len(event)]
        if math.prod(lead) < math.prod(self.batch_shape):
            lead = torch.broadcast_shapes(lead, self.batch_shape)
            value = value.expand(lead + event)
        return value.reshape(-1, *event), lead

    def _context(self, rows: int) -> Tensor | None:
        if self.context is None or len(self.context) == rows:
            return self.context
        return self.context.repeat(rows // len(self.context), *(1,) * (self.context.dim() - 1))


class _Stopped:
    """A transform whose parameters take no gradient."""

    def __init__(self, transform: Transform | _Stopped):
        self._transform: nn.Module = transform._transform if isinstance(transform, _Stopped) else transform
        self._values = {name: p.detach() for name, p in self._transform.named_parameters()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transform, name)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return functional_call(_Method(self._transform, "forward_and_ladj"), self._named(), (z, context))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return functional_call(_Method(self._transform, "forward"), self._named(), (z, context))

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return functional_call(_Method(self._transform, "inverse_and_ladj"), self._named(), (x, context))

    def _named(self) -> dict[str, Tensor]:
        return {f"module.{name}": value for name, value in self._values.items()}


class _Method(nn.Module):
    """A method of a module as the forward of one."""

    def __init__(self, module: nn.Module, method: str):
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *args: Any) -> Any:
        return getattr(self.module, self.method)(*args)
