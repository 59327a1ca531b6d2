"""Probabilities of whole levels 0..L−1, as a picture's grey levels, from a logistic density cut into bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from jensen.distributions.elementwise import Elementwise
from jensen.distributions.mixture import component_of


class DiscretizedLogistic(Elementwise):
    r"""Probability of the levels 0..L−1: a logistic density integrated over bins of width 1.

        p(x) = σ((x + ½ − μ)/s) − σ((x − ½ − μ)/s)

    The first and the last bin take the tails, so that it sums to one. Improved variational inference with
    inverse autoregressive flow, Kingma et al. 2016, arXiv:1606.04934; the edges as in PixelCNN++, Salimans et
    al. 2017, arXiv:1701.05517, but without its fallback for thin bins: see `discretized_logistic_log_prob`.

    Args:
        loc: μ, in levels, `(*batch, *event)`.
        scale: s > 0, in levels, broadcastable against `loc`.
        levels: L.
        event_dims: trailing dimensions that make up one event.

    >>> p = DiscretizedLogistic(torch.tensor([1.3]), torch.tensor([0.8]), levels=4)
    >>> p.log_prob(torch.arange(4.0).unsqueeze(-1)).exp().sum().round(decimals=4)
    tensor(1.)
    """

    parameter_dims: ClassVar[dict[str, int]] = {"loc": 0, "scale": 0}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256, event_dims: int = 1):
        self.loc, self.scale, self.levels, self.event_dims = loc, scale, levels, event_dims

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return constraints.integer_interval(0, self.levels - 1)

    def log_prob_terms(self, value: Tensor) -> Tensor:
        return discretized_logistic_log_prob(value, self.loc, self.scale, self.levels)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Levels, in the dtype of `loc`."""
        with torch.no_grad():
            noise = _standard_logistic(self._sample_shape(sample_shape), self.loc)
            return torch.round(self.loc + self.scale * noise).clamp(0, self.levels - 1)

    def quantile(self, u: Tensor) -> Tensor:
        return _level(self.loc, self.scale, u, self.levels)

    def tempered(self, temperature: float) -> DiscretizedLogistic:
        """The same with its scale multiplied."""
        return DiscretizedLogistic(self.loc, self.scale * temperature, self.levels, self.event_dims)

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def mode(self) -> Tensor:
        """The bin where μ lies, or an edge bin where a tail weighs more."""
        inner = self._filled(self.loc).round().clamp(0, self.levels - 1)
        candidates = torch.stack([inner, torch.zeros_like(inner), torch.full_like(inner, self.levels - 1)])
        best = self.log_prob_terms(candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best).squeeze(0)

    @property
    def variance(self) -> Tensor:
        mean, square = self._moments()
        return (square - mean.square()).clamp(min=0)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """E x and E x², from the probabilities of exceeding k; a loop, for L times the memory is too much."""
        mean = square = torch.zeros_like(self._filled(self.loc))
        for k in range(self.levels - 1):
            above = torch.sigmoid((self.loc - (k + 0.5)) / self.scale)
            mean, square = mean + above, square + (2 * k + 1) * above
        return mean, square


class MixtureDiscretizedLogistic(Elementwise):
    r"""Mixture of discretised logistics for each element.

        p(x) = Σ_k π_k [σ((x + ½ − μ_k)/s_k) − σ((x − ½ − μ_k)/s_k)]

    PixelCNN++, Salimans et al. 2017, arXiv:1701.05517, without its dependence between colour channels.

    Args:
        logits: log π up to a constant, `(*batch, *event, K)`.
        loc: μ, in levels, `(*batch, *event, K)`.
        scale: s > 0, in levels, `(*batch, *event, K)`.
        levels: number of levels.
        event_dims: trailing dimensions that make up one event, the components not counted.

    >>> one = torch.ones(1, 2)
    >>> p = MixtureDiscretizedLogistic(0 * one, torch.tensor([[0.5, 2.0]]), 0.4 * one, levels=4)
    >>> p.log_prob(torch.arange(4.0).unsqueeze(-1)).exp().sum().round(decimals=4)
    tensor(1.)
    """

    parameter_dims: ClassVar[dict[str, int]] = {"logits": 1, "loc": 1, "scale": 1}

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, levels: int = 256, event_dims: int = 1):
        self.logits, self.loc, self.scale = logits, loc, scale
        self.levels, self.event_dims = levels, event_dims

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return constraints.integer_interval(0, self.levels - 1)

    def log_prob_terms(self, value: Tensor) -> Tensor:
        terms = discretized_logistic_log_prob(value.unsqueeze(-1), self.loc, self.scale, self.levels)
        return torch.logsumexp(self.logits.log_softmax(-1) + terms, -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Levels, in the dtype of `loc`."""
        with torch.no_grad():
            shape = self._sample_shape(sample_shape)
            logits, loc, scale = (p.expand(*shape, -1) for p in (self.logits, self.loc, self.scale))
            gumbel = -torch.empty_like(logits).exponential_().log()
            chosen = (logits + gumbel).argmax(-1, keepdim=True)
            loc, scale = loc.gather(-1, chosen).squeeze(-1), scale.gather(-1, chosen).squeeze(-1)
            return torch.round(loc + scale * _standard_logistic(shape, loc)).clamp(0, self.levels - 1)

    def quantile(self, u: Tensor) -> Tensor:
        """The share u chooses a component, and what is left of it the level: a draw where u is uniform.

        No quantile of the mixture, whose components may lie in any order.
        """
        loc, scale, left = component_of(u, self.logits, self.loc, self.scale)
        return _level(loc, scale, left, self.levels)

    def tempered(self, temperature: float) -> MixtureDiscretizedLogistic:
        """The same with the logits of its components divided, and their scales multiplied."""
        logits, scale = self.logits / temperature, self.scale * temperature
        return MixtureDiscretizedLogistic(logits, self.loc, scale, self.levels, self.event_dims)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1) * self._components()._moments()[0]).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The likeliest of the components' modes."""
        candidates = self._components().mode.movedim(-1, 0)
        best = self.log_prob_terms(candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best).squeeze(0)

    @property
    def variance(self) -> Tensor:
        weights = self.logits.softmax(-1)
        mean, square = ((weights * moment).sum(-1) for moment in self._components()._moments())
        return (square - mean.square()).clamp(min=0)

    def _components(self) -> DiscretizedLogistic:
        """All components, each of the mixture's full shape, `(*batch, *event, K)`."""
        shape = self._element_shape()
        loc, scale = self.loc.expand(*shape, -1), self.scale.expand(*shape, -1)
        return DiscretizedLogistic(loc, scale, self.levels, self.event_dims + 1)


def discretized_logistic_log_prob(value: Tensor, loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    r"""Log-probability of each level under a logistic density cut into bins, elementwise and in nats.

        log(σ(a) − σ(b)) = log σ(a) + log σ(−b) + log(1 − exp(b − a)),    a − b = 1/s

    is exact, and every term and its gradient is finite in float32 for scales from 1e-4 to 1e4: nothing
    underflows that has to be replaced by the density at the bin's centre, as is usual. The edge bins, which
    take the tails, have one of the first two terms.
    """
    thinness = scale.reciprocal()
    centre, half = (value - loc) * thinness, 0.5 * thinness
    # Masks as numbers: every term is finite, and `where` costs more than a logarithm on a CPU.
    not_first, not_last = (value > 0).to(loc.dtype), (value < levels - 1).to(loc.dtype)
    below = not_last * F.logsigmoid(centre + half)
    above = not_first * F.logsigmoid(half - centre)
    return below + above + not_first * not_last * torch.log(-torch.expm1(-thinness))


def _level(loc: Tensor, scale: Tensor, u: Tensor, levels: int) -> Tensor:
    """The level in whose bin the quantile μ + s logit u lies."""
    return torch.round(loc + scale * torch.logit(u)).clamp(0, levels - 1)


def _standard_logistic(shape: torch.Size, like: Tensor) -> Tensor:
    """Logistic noise; both tails are reached alike, as the difference of two Gumbel draws."""
    first, second = torch.empty(torch.Size((2, *shape)), dtype=like.dtype, device=like.device).exponential_()
    return second.log() - first.log()
