"""Discrete variables made for hidden layers: one-hot classes, and draws through which a biased gradient passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import one_hot

from jensen.distributions.bernoulli import Bernoulli
from jensen.distributions.closed_kl import register_kl


class OneHot(Distribution):
    r"""V independent variables of C classes, each as C indicators of which one is 1, side by side.

        log p(z) = Σ_v Σ_c z_{v, c} log softmax(l_v)_c

    Args:
        logits: l, `(*batch, V, C)`. A value is `(*batch, V·C)`.

    >>> OneHot(torch.zeros(2, 4)).log_prob(torch.tensor([0.0, 1, 0, 0, 0, 0, 0, 1]))
    tensor(-2.7726)
    """

    arg_constraints: ClassVar[dict] = {}
    support: Any = constraints.one_hot
    _validate_args = False

    def __init__(self, logits: Tensor):
        self.logits = logits

    @property
    def batch_shape(self) -> torch.Size:
        return self.logits.shape[:-2]

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((self.logits.shape[-2] * self.logits.shape[-1],))

    @property
    def probs(self) -> Tensor:
        """`(*batch, V, C)`."""
        return self.logits.softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`."""
        return (value.unflatten(-1, self.logits.shape[-2:]) * self.logits.log_softmax(-1)).sum((-1, -2))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return _hardened(self.logits + _gumbel(self.logits, sample_shape)).flatten(-2)

    @property
    def mean(self) -> Tensor:
        return self.probs.flatten(-2)

    @property
    def mode(self) -> Tensor:
        return _hardened(self.logits).flatten(-2)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def entropy(self) -> Tensor:
        """In nats, `(*batch,)`."""
        return -(self.probs * self.logits.log_softmax(-1)).sum((-1, -2))

    def detach(self) -> Self:
        """The same probabilities with their parameters stopped."""
        return self._with(self.logits.detach())

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The first batch dimension, of size K·B, seen as `sizes`, say (K, B)."""
        return self._with(self.logits.unflatten(0, tuple(sizes))) if self.batch_shape else self

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Self:
        """The same probabilities for every index of a larger batch, without copying."""
        return self._with(self.logits.expand(torch.Size(batch_shape) + self.logits.shape[-2:]))

    def _with(self, logits: Tensor) -> Self:
        return type(self)(logits)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"


class StraightThroughBernoulli(Bernoulli):
    """Bits whose gradient is that of their probability: b + p − stop(p). Biased.

    Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic neurons for conditional
    computation", 2013, arXiv:1308.3432.
    """

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return _through(self.sample(sample_shape), self.logits.sigmoid())


class GumbelBernoulli(Bernoulli):
    r"""Bits 1[l + s > 0], s logistic, whose gradient is that of the relaxed σ((l + s) / τ). Biased; less as τ → 0.

    Maddison, Mnih and Teh, "The Concrete distribution", 2017, arXiv:1611.00712; Jang, Gu and Poole, "Categorical
    reparameterization with Gumbel-softmax", 2017, arXiv:1611.01144, straight through.

    Args:
        logits: l, `(*batch, *event)`.
        temperature: τ > 0.
        event_dims: trailing dimensions that make up one event.
        soft: give the relaxed values themselves, in (0, 1), in place of bits.
    """

    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float, event_dims: int = 1, soft: bool = False):
        super().__init__(logits, event_dims)
        self.temperature, self.soft = temperature, soft

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        u = torch.rand(self._sample_shape(sample_shape), dtype=self.logits.dtype, device=self.logits.device)
        u = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps)
        noisy = self.logits + u.log() - torch.log1p(-u)
        relaxed = (noisy / self.temperature).sigmoid()
        return relaxed if self.soft else _through((noisy > 0).to(relaxed.dtype), relaxed)


class StraightThroughOneHot(OneHot):
    """One-hot draws whose gradient is that of their probabilities. Biased. Bengio et al. 2013, arXiv:1308.3432."""

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return _through(self.sample(sample_shape), self.mean)


class GumbelOneHot(OneHot):
    r"""One-hot argmax_c (l_c + g_c), g Gumbel, whose gradient is that of softmax((l + g) / τ). Biased; less as τ → 0.

    Maddison et al. 2017, arXiv:1611.00712; Jang et al. 2017, arXiv:1611.01144.

    Args:
        logits: l, `(*batch, V, C)`.
        temperature: τ > 0.
        soft: give the relaxed values themselves in place of one-hot ones.
    """

    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float, soft: bool = False):
        super().__init__(logits)
        self.temperature, self.soft = temperature, soft

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        noisy = self.logits + _gumbel(self.logits, sample_shape)
        relaxed = (noisy / self.temperature).softmax(-1)
        return (relaxed if self.soft else _through(_hardened(noisy), relaxed)).flatten(-2)

    def _with(self, logits: Tensor) -> Self:
        return type(self)(logits, self.temperature, self.soft)


@register_kl(OneHot, OneHot)
def _one_hot(q: OneHot, p: OneHot) -> Tensor:
    """Σ_v Σ_c q_vc (log q_vc − log p_vc)."""
    return (q.probs * (q.logits.log_softmax(-1) - p.logits.log_softmax(-1))).sum((-1, -2))


def _through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of one with the gradient of the other; written so that the value is exact."""
    return hard + (soft - soft.detach())


def _hardened(scores: Tensor) -> Tensor:
    return one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)


def _gumbel(logits: Tensor, sample_shape: Sequence[int]) -> Tensor:
    shape = torch.Size(sample_shape) + logits.shape
    return -torch.empty(shape, dtype=logits.dtype, device=logits.device).exponential_().log()
