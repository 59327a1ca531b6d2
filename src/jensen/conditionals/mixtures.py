"""A mixture of conditionals, each of any kind: p(x | c) = Σ_k π_k(c) p_k(x | c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.conditionals.flows import Flow
from jensen.distributions.mixture import only
from jensen.registry import component
from jensen.transforms.parameters import Parameters

ROUNDS = 10  # of Lloyd's algorithm, which only starts the components apart


class MixtureOf(Distribution):
    r"""p(x) = Σ_k π_k p_k(x) of densities that need not be of one family.

        log p(x) = logsumexp_k (log π_k + log p_k(x)),    p(k | x) = π_k p_k(x) / p(x)

    A draw has no gradient.

    Args:
        logits: log π up to a constant, `(*batch, K)`.
        parts: K densities of that batch shape and of one event shape.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = False
    _validate_args = False

    def __init__(self, logits: Tensor, parts: Sequence[Any]):
        self.logits, self.parts = logits, tuple(parts)

    @property
    def batch_shape(self) -> torch.Size:
        return self.parts[0].batch_shape

    @property
    def event_shape(self) -> torch.Size:
        return self.parts[0].event_shape

    @property
    def support(self) -> Any:
        """The constraint on one element of x."""
        return self.parts[0].support

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`."""
        return self._joint(value).logsumexp(-1)

    def responsibilities(self, value: Tensor) -> Tensor:
        """p(k | x), `(*batch, K)`."""
        return self._joint(value).softmax(-1)

    def _joint(self, value: Tensor) -> Tensor:
        """log π_k p_k(x), `(*batch, K)`."""
        return self.logits.log_softmax(-1) + torch.stack([p.log_prob(value) for p in self.parts], -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """First k, then x given k: each part draws all, where it has a batch, else only what it is chosen for."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            chance = self.logits.softmax(-1).expand(*shape, -1)
            k = torch.multinomial(chance.reshape(-1, len(self.parts)), 1)[:, 0]
            x = None
            for i, part in enumerate(self.parts):
                mine = torch.nonzero(k == i)[:, 0]
                if self.batch_shape:
                    drawn = part.sample(torch.Size(sample_shape)).reshape(-1, *self.event_shape)[mine]
                else:
                    drawn = part.sample(mine.shape)
                x = drawn.new_empty(len(k), *self.event_shape) if x is None else x
                x[mine] = drawn
        assert x is not None
        return x.reshape(shape + self.event_shape)

    @property
    def mean(self) -> Tensor:
        """Σ π_k μ_k, `(*batch, *event)`, as good as the parts' means."""
        return self._average([p.mean for p in self.parts])

    @property
    def variance(self) -> Tensor:
        """Σ π_k (σ²_k + (μ_k − μ)²), element by element, `(*batch, *event)`."""
        mean = self.mean
        return self._average([p.variance + (p.mean - mean).square() for p in self.parts])

    def _average(self, values: Sequence[Tensor]) -> Tensor:
        weights = self.logits.softmax(-1).unbind(-1)
        dims = (1,) * len(self.event_shape)
        return torch.stack([w.reshape(*w.shape, *dims) * v for w, v in zip(weights, values, strict=True)]).sum(0)

    def detach(self) -> Self:
        """The same density with its parameters stopped; gradients still reach the value."""
        return type(self)(self.logits.detach(), [p.detach() for p in self.parts])

    def tempered(self, temperature: float) -> Self:
        """The same with the scale of each part multiplied."""
        return type(self)(self.logits, [p.tempered(temperature) for p in self.parts])

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The first batch dimension, of size K·B, seen as `sizes`, say (K, B)."""
        if not self.batch_shape:
            return self
        logits = self.logits.unflatten(0, tuple(sizes)) if len(self.logits) > 1 else self.logits
        return type(self)(logits, [p.unflatten(sizes) for p in self.parts])

    def sampled(self, component: int | None) -> Self:
        """Drawn from the part of that number alone. Raises `ConfigError` where there is none."""
        return type(self)(only(self.logits, component), self.parts)

    def __repr__(self) -> str:
        batch, event = tuple(self.batch_shape), tuple(self.event_shape)
        return f"MixtureOf({len(self.parts)} parts, batch_shape={batch}, event_shape={event})"


@component("sampling", "mixture", paper="McLachlan and Peel 2000")
def mixture(*, component: Annotated[int | None, Field(ge=0)] = None) -> int | None:
    """How a mixture is drawn from.

    Settings:
        component: the number of the component that all draws are of, from 0 on as `jensen cluster` counts; by default
            each is of one chosen by the weights. Those of a VampPrior belong to its pseudo-inputs.
    """
    return component


class FlowMixture(nn.Module):
    """p(x | c) = Σ_k π_k(c) p_k(x | c), each p_k a flow, log π linear in c. All weights start equal.

    The sum over k is taken in full, so log p is exact: no k is hidden or drawn in training.
    """

    sampling = "mixture"

    def __init__(self, flows: Sequence[Flow]):
        super().__init__()
        self.flows = nn.ModuleList(flows)
        size = getattr(flows[0].context, "size", 0)
        self.logits = Parameters({"logits": torch.zeros(len(flows))}, size)

    @property
    def sequential_steps(self) -> int:
        """Network passes in a row that one sample takes."""
        return max(flow.sequential_steps for flow in self.flows)  # pyright: ignore

    def forward(self, *parents: Tensor) -> MixtureOf:
        context = self.flows[0].context
        (logits,) = self.logits(context(*parents) if context else None)  # pyright: ignore
        return MixtureOf(logits if context else logits[0], [flow(*parents) for flow in self.flows])

    @torch.no_grad()
    def initialize(self, x: Tensor, *parents: Tensor) -> None:
        """Start each flow from data of its own, (n, *event): the n/K nearest to a centre found by K-means.

        Flows that start from the same data, most of them as the identity, would learn the same.
        """
        for flow, nearest in zip(self.flows, _neighbourhoods(x.flatten(1), len(self.flows)), strict=True):
            flow.initialize(x[nearest], *(parent[nearest] for parent in parents))  # pyright: ignore


def _neighbourhoods(x: Tensor, count: int) -> list[Tensor]:
    """Rows of x, (n, D), nearest to each of the centres, n / count of them or two.

    K-means, from centres drawn far apart: Arthur and Vassilvitskii, "k-means++", 2007.
    """
    x = (x - x.mean(0)) / x.std(0, correction=0).clamp_min(1e-12)
    centres = x[torch.randint(len(x), (1,))]
    for _ in range(count - 1):
        distance = torch.cdist(x, centres).min(1).values.square()
        centres = torch.cat([centres, x[torch.multinomial(distance + 1e-12, 1)]])
    for _ in range(ROUNDS):
        nearest = torch.cdist(x, centres).argmin(1)
        moved = [x[nearest == k].mean(0) if (nearest == k).any() else c for k, c in enumerate(centres)]
        centres = torch.stack(moved)
    size = min(len(x), max(2, len(x) // count))
    return [row.topk(size, largest=False).indices for row in torch.cdist(centres, x)]
