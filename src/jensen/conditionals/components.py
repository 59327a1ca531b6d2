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
from jensen.distributions import ElementMixture, Elementwise
from jensen.distributions.mixture import only

LEAST = (
    1e-12  # probability, rate, or excess of a scale over its floor: finite in the logarithm, without effect otherwise
)
CACHE = 2**18  # numbers that are worked on at once: what a core keeps close
CONDITIONALS = 2**21  # of single elements, that are kept at once
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

    Rows may have gaps, which are NaN: p_k(x_o) is then the density of the elements that are there, the others
    integrated out. Where the support has gaps, EM learns from such rows.

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
        return self.of_parts() if self.support.gaps else self.of_whole()

    def of_whole(self) -> Explain:
        """An explainer of rows without gaps."""
        raise NotImplementedError

    def of_parts(self) -> Explain:
        """An explainer of rows that may have gaps, NaN."""
        raise NotImplementedError

    def count(self, seen: Any, share: Tensor) -> Sums:
        """Sums over data, each of them weighed by its share, (K, N), in a component."""
        raise NotImplementedError

    def set_from(self, sums: Sums, n: Tensor) -> None:
        """Maximise the expected log-density of the data; n is the weight of those of each component, (K,)."""
        raise NotImplementedError

    def look(self, x: Tensor, w: Tensor) -> None:
        """See rows (N, D) of weights w, (N,), before any start."""

    def reset(self) -> None:
        """Forget all data."""
        for name, value in self.blank().items():
            getattr(self, name).data.copy_(value)

    def blank(self) -> dict[str, Tensor]:
        """Parameters, by name, before any data were seen."""
        return {name: torch.zeros_like(value) for name, value in self.named_parameters(recurse=False)}

    def start_at(self, k: int, x: Tensor, weights: Tensor, narrow: float) -> None:
        """Put component k about a datum, (D,), so many times as wide as the components of weights (K,) on average.

        Where the datum has a gap, it is where they are on average.
        """
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

    def alone(self, rows: Tensor) -> Elementwise:
        """The density of each element given k and what is there of rows (N, D), one of batch shape (N, *event, K).

        Of elements that are there it is that of their component.
        """
        raise NotImplementedError

    def complete(self, k: Tensor, x: Tensor, seen: Tensor) -> Tensor:
        """Data x, (N, D), of components k, (N,), with what was not seen drawn given the rest."""
        return torch.where(seen, x, self.draw(k))

    def _each(self, parameter: Tensor, n: int) -> Tensor:
        """A parameter of every element, (K, D, ...), of n data, (n, *event, K, ...)."""
        each = parameter.transpose(0, 1).unflatten(0, self.support.shape)
        return each.expand(n, *each.shape)

    @property
    def at_once(self) -> int:
        """Rows that are worked on at once in a pass over data."""
        return self.parts_at_once if self.support.gaps else max(64, CACHE // self.width)

    @property
    def parts_at_once(self) -> int:
        """Rows with gaps that are worked on at once."""
        return max(64, CACHE // self.width)

    @property
    def width(self) -> int:
        """Numbers that explaining and counting a row takes."""
        return self.dims + 3 * self.components

    def log_prob(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """log p_k(x) in nats, (N, *event) → (N, K), or of those elements that were seen, (N, *event)."""
        if seen is None:
            return self.of_whole()(self.rows(x))[0].mT
        explain = self.of_parts()
        return torch.cat([explain(few)[0].mT for few in self.rows(x, seen).split(self.parts_at_once)])

    def rows(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Data as float64 rows (N, D), NaN where they were not seen."""
        like = next(self.parameters())
        rows = x.reshape(-1, self.dims).to(like.dtype)
        return rows if seen is None else rows.masked_fill(~seen.reshape(-1, self.dims), math.nan)

    def forward(self, z: Tensor) -> Chosen:
        return Chosen(self, z)


class OfComponents(Distribution):
    """A density of x that components make."""

    arg_constraints: ClassVar[dict] = {}
    has_rsample = False
    _validate_args = False
    components: Components

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size(self.components.support.shape)

    @property
    def support(self) -> Any:
        """The constraint on one element of x."""
        return self.components.support_of_element


class Chosen(OfComponents):
    r"""p(x | z), z indicators of one component, (*batch, K).

        log p(x | z) = Σ_k z_k log p_k(x)

    A draw has no gradient. Where z is an expectation, the mean is that of x.
    """

    def __init__(self, components: Components, z: Tensor):
        self.components, self.z = components, z

    @property
    def batch_shape(self) -> torch.Size:
        return self.z.shape[:-1]

    @property
    def scale(self) -> Tensor:
        """Scales of all components, where they have some."""
        return self.components.scales  # pyright: ignore[reportReturnType]

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`."""
        lead = value.shape[: value.dim() - len(self.event_shape)]
        return self._of_z(self.components.log_prob(value).reshape(*lead, -1))

    def log_marginal(self, value: Tensor, seen: Tensor) -> Tensor:
        """log p of the elements that were seen, in nats, `(*batch,)`; of none it is 0.

        Args:
            value: `(*batch, *event)`; what is not seen is never looked at.
            seen: the same shape, or one that expands to it.
        """
        lead = value.shape[: value.dim() - len(self.event_shape)]
        return self._of_z(self.components.log_prob(value, seen.expand(value.shape)).reshape(*lead, -1))

    def _of_z(self, each: Tensor) -> Tensor:
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
    """p(z | x) of a mixture, by Bayes' rule, or p(z | x_o) where a part of x was seen."""

    exact_posterior = True
    discrete = True

    def __init__(self, weights: Weights, components: Components):
        super().__init__()
        self.weights, self.components = weights, components

    def forward(self, x: Tensor, seen: Tensor | None = None) -> OneHotCategorical:
        logits = self.weights.log_weights + self.components.log_prob(x, seen)
        return OneHotCategorical(logits=logits, validate_args=False)

    def summed_out(self) -> SummedOut:
        """p(x), z summed out, with all its conditionals."""
        return SummedOut(self.weights, self.components)


class SummedOut(OfComponents):
    r"""The density of x itself, of no batch shape, and that of any part of it given any other.

    p(x_o) = Σ_k π_k p_k(x_o)        p(x_m | x_o) = Σ_k p(z = k | x_o) p_k(x_m | x_o)
    """

    def __init__(self, weights: Weights, components: Components):
        self.weights, self.components = weights, components

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size()

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`."""
        lead = value.shape[: value.dim() - len(self.event_shape)]
        return self._joint(value).logsumexp(-1).reshape(lead)

    def log_marginal(self, value: Tensor, seen: Tensor) -> Tensor:
        """log p of the elements that were seen, in nats, `(*batch,)`; of none it is 0.

        Args:
            value: `(*batch, *event)`; what is not seen is never looked at.
            seen: the same shape, or `(*event)`.
        """
        lead = value.shape[: value.dim() - len(self.event_shape)]
        return self._joint(value, seen.expand(value.shape)).logsumexp(-1).reshape(lead)

    def _joint(self, value: Tensor, seen: Tensor | None = None) -> Tensor:
        """log π_k p_k(x_o), (N, K)."""
        return self.weights.log_weights + self.components.log_prob(value, seen)

    def given(self, value: Tensor, known: Tensor, row: Tensor | None = None) -> Elementwise:
        """The density of each element of rows (N, *event) alone given those that are known.

        Of elements that are known it is a mixture of their components' densities.
        """
        logits = self._joint(value, known)
        alone = self.components.alone(self.components.rows(value, known))
        dims = len(self.event_shape)
        return ElementMixture(logits.reshape(len(logits), *(1,) * dims, logits.shape[-1]), alone, dims)

    @property
    def at_once(self) -> int:
        """Rows whose conditionals fit into memory together."""
        return max(1, CONDITIONALS // (self.components.components * self.components.dims))

    @torch.no_grad()
    def complete(self, value: Tensor, known: Tensor) -> Tensor:
        """Rows (N, *event) with what is not known drawn jointly: k by p(k | x_o), then the rest by p_k(x_m | x_o)."""
        k = torch.multinomial(self._joint(value, known).softmax(-1), 1)[:, 0]
        x, known = value.flatten(1), known.flatten(1)
        like = next(self.components.parameters())
        return self.components.complete(k, x.to(like.dtype), known).reshape(value.shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """`(*sample_shape, *event)`."""
        z = self.weights().sample(torch.Size(sample_shape))
        return Chosen(self.components, z).sample()

    def __repr__(self) -> str:
        return f"SummedOut(event_shape={tuple(self.event_shape)})"
