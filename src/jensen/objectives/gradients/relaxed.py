"""Gradients through discrete draws, as if these were continuous: quiet and biased."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, Independent, OneHotCategorical

from jensen.distributions import Bernoulli
from jensen.distributions.discrete import (
    GumbelBernoulli,
    GumbelOneHot,
    OneHot,
    StraightThroughBernoulli,
    StraightThroughOneHot,
)
from jensen.errors import ConfigError
from jensen.objectives.gradients.estimator import Estimator, Function, Surrogate


class StraightThrough(Estimator):
    """∇ f(z) taken as if ∂z/∂θ were ∂E[z]/∂θ, for bits and one-hot classes. Biased, unless f is linear.

    Bengio, Léonard and Courville 2013, arXiv:1308.3432.
    """

    biased = True

    def forward(self, q: Distribution, f: Function, samples: int = 1, context: Tensor | None = None) -> Surrogate:
        logits, bits, dims = _logits_of(q)
        through = StraightThroughBernoulli(logits, dims) if bits else StraightThroughOneHot(logits)
        return _mean(f, through, samples)


class GumbelSoftmax(Estimator):
    """∇ f(z) by way of softmax((l + g) / τ), g Gumbel, for bits and one-hot classes.

    Biased: more the higher τ, noisier the lower. Maddison et al. 2017, arXiv:1611.00712; Jang et al. 2017,
    arXiv:1611.01144.

    Args:
        temperature: τ > 0.
        hard: whether f sees discrete values, straight through, or the relaxed ones, for which it must be defined.
    """

    biased = True

    def __init__(self, temperature: float = 0.5, hard: bool = True):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature: expected more than 0, got {temperature}")
        self.temperature, self.hard = temperature, hard

    def forward(self, q: Distribution, f: Function, samples: int = 1, context: Tensor | None = None) -> Surrogate:
        logits, bits, dims = _logits_of(q)
        soft = not self.hard
        relaxed = (
            GumbelBernoulli(logits, self.temperature, dims, soft)
            if bits
            else GumbelOneHot(logits, self.temperature, soft)
        )
        return _mean(f, relaxed, samples)


def _mean(f: Function, q: Distribution, samples: int) -> Surrogate:
    value = f(q.rsample(torch.Size((samples,)))).mean(0)
    return Surrogate(value, value.new_zeros(()))


def _logits_of(q: Distribution) -> tuple[Tensor, bool, int]:
    """Logits, whether they are of bits, and how many trailing dimensions make an event."""
    dims, base = 0, q
    while isinstance(base, Independent):
        dims, base = dims + base.reinterpreted_batch_ndims, base.base_dist
    if isinstance(base, TorchBernoulli):
        return base.logits, True, dims
    if isinstance(base, Bernoulli):
        return base.logits, True, base.event_dims
    if isinstance(base, OneHotCategorical) and not dims:
        return base.logits.unsqueeze(-2), False, 1
    if isinstance(base, OneHot):
        return base.logits, False, 1
    raise ConfigError(f"gradient: relaxed ones are for bits and one-hot classes, not for {type(q).__name__}")
