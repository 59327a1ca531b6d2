"""A finite mixture in its parts: which component a datum comes from, what each component says, and who explains what.

    p(z = k) = π_k        p(x | z) = Π_k p_k(x)^{z_k}        p(z = k | x) = π_k p_k(x) / Σ_j π_j p_j(x)

z is a row of K indicators. Components know the sums that expectation maximisation needs of data, and how to set
themselves from them. All numbers are float64: a mixture is small, and its fit a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, OneHotCategorical, constraints

from jensen.conditionals.heads import Support
from jensen.distributions.mixture import only

LEAST = (
    1e-12  # probability, rate, or excess of a scale over its floor: finite in the logarithm, without effect otherwise
)
CACHE = 2**18  # numbers that are worked on at once: what a core keeps close
Sums = dict[str, Tensor]
Explain = Callable[[Tensor], tuple[Tensor, Any]]


class Which(OneHotCategorical):
    """Which component a datum is of, as indicators."""

    def sampled(self, component: int | None) -> Which:
        """All of that number. Raises `ConfigError` where there is none."""
        return Which(logits=only(self.logits, component), validate_args=False)


class Weights(nn.Module):
    """p(z): π, all equal at first."""

    sampling = "mixture"

    def __init__(self, components: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components, dtype=torch.float64))

    @property
    def log_weights(self) -> Tensor:
        """log π, (K,), in nats."""
        return self.logits.log_softmax(0)

    def forward(self) -> Which:
        return Which(logits=self.logits, validate_args=False)

    @torch.no_grad()
    def set(self, weights: Tensor) -> None:
        """Set π, (K,), up to a factor."""
        self.logits.copy_((weights / weights.sum()).clamp_min(LEAST).log())


class Components(nn.Module):
    """p(x | z): the densities p_k.

    A family defines how it explains data, what it counts, how it is set from that, and how it draws. `seen` is what
    explaining a datum leaves to be counted, so that nothing is computed twice.

    Args:
        components: K.
        support: what x is.
    """

    def __init__(self, components: int, support: Support):
        super().__init__()
        self.components, self.support = components, support
        self.dims = math.prod(support.shape)

    @property
    def support_of_element(self) -> Any:
        """The constraint on one element of x."""
        return constraints.real

    def explainer(self) -> Explain:
        """Gives log p_k(x) in nats, (K, N), of rows (N, D), and what `count` takes, by the parameters as they stand."""
        raise NotImplementedError

    def count(self, seen: Any, share: Tensor) -> Sums:
        """Sums over data, each of them weighed by its share, (K, N), in a component."""
        raise NotImplementedError

    def set_from(self, sums: Sums, n: Tensor) -> None:
        """Maximise the expected log-density of the data; n is the weight of those of each component, (K,)."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget all data."""
        for name, value in self.blank().items():
            getattr(self, name).data.copy_(value)

    def blank(self) -> dict[str, Tensor]:
        """Parameters, by name, before any data were seen."""
        return {name: torch.zeros_like(value) for name, value in self.named_parameters(recurse=False)}

    def start_at(self, k: int, x: Tensor, weights: Tensor, narrow: float) -> None:
        """Put component k about a datum, (D,), so many times as wide as the components of weights (K,) on average."""
        raise NotImplementedError

    def collapsed(self, n: Tensor) -> Tensor:
        """Components that rest on too few data, (K,), bool."""
        return torch.zeros_like(n, dtype=torch.bool)

    @property
    def means(self) -> Tensor:
        """(K, D)."""
        raise NotImplementedError

    @property
    def variances(self) -> Tensor:
        """Of each element, (K, D)."""
        raise NotImplementedError

    def draw(self, k: Tensor) -> Tensor:
        """A datum of each component in k, (N,) → (N, D)."""
        raise NotImplementedError

    @property
    def at_once(self) -> int:
        """Rows that are worked on at once in a pass over data."""
        return max(64, CACHE // self.width)

    @property
    def width(self) -> int:
        """Numbers that explaining and counting a row takes."""
        return self.dims + 3 * self.components

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_k(x) in nats, (N, *event) → (N, K)."""
        return self.explainer()(self.rows(x))[0].mT

    def rows(self, x: Tensor) -> Tensor:
        """Data as float64 rows (N, D)."""
        like = next(self.parameters())
        return x.reshape(-1, self.dims).to(like.dtype)

    def forward(self, z: Tensor) -> Chosen:
        return Chosen(self, z)


class Chosen(Distribution):
    r"""p(x | z), z indicators of one component, (*batch, K).

        log p(x | z) = Σ_k z_k log p_k(x)

    A draw has no gradient. Where z is an expectation, the mean is that of x.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = False
    _validate_args = False

    def __init__(self, components: Components, z: Tensor):
        self.components, self.z = components, z

    @property
    def batch_shape(self) -> torch.Size:
        return self.z.shape[:-1]

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size(self.components.support.shape)

    @property
    def support(self) -> Any:
        """The constraint on one element of x."""
        return self.components.support_of_element

    @property
    def scale(self) -> Tensor:
        """Scales of all components, where they have some."""
        return self.components.scales  # pyright: ignore[reportReturnType]

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`."""
        lead = value.shape[: value.dim() - len(self.event_shape)]
        each = self.components.log_prob(value).reshape(*lead, -1)
        return torch.where(self.z > 0, self.z * each, 0.0).sum(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            k = torch.multinomial(self.z.expand(*shape, -1).reshape(-1, self.z.shape[-1]), 1)[:, 0]
            return self.components.draw(k).reshape(shape + self.event_shape)

    @property
    def mean(self) -> Tensor:
        """`(*batch, *event)`."""
        return (self.z.to(self.components.means.dtype) @ self.components.means).reshape(
            self.batch_shape + self.event_shape
        )

    @property
    def variance(self) -> Tensor:
        """`(*batch, *event)`."""
        return (self.z.to(self.components.variances.dtype) @ self.components.variances).reshape(
            self.batch_shape + self.event_shape
        )

    def unflatten(self, sizes: Sequence[int]) -> Chosen:
        """The first batch dimension, of size K·B, seen as `sizes`, say (K, B)."""
        return Chosen(self.components, self.z.unflatten(0, tuple(sizes)))

    def __repr__(self) -> str:
        return f"Chosen(batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"


class Responsibilities(nn.Module):
    """p(z | x) of a mixture, by Bayes' rule."""

    exact_posterior = True
    discrete = True

    def __init__(self, weights: Weights, components: Components):
        super().__init__()
        self.weights, self.components = weights, components

    def forward(self, x: Tensor) -> OneHotCategorical:
        logits = self.weights.log_weights + self.components.log_prob(x)
        return OneHotCategorical(logits=logits, validate_args=False)
