"""Probabilities of counts 0, 1, 2, …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torch.distributions import Gamma, constraints

from jensen.distributions.elementwise import Elementwise


class Poisson(Elementwise):
    r"""Poisson probability of counts.

        log p(x) = Σ_d x_d log λ_d − λ_d − log x_d!

    Args:
        log_rate: log λ, `(*batch, *event)`.
        event_dims: trailing dimensions that make up one event.

    >>> Poisson(torch.zeros(1)).log_prob(torch.tensor([2.0]))
    tensor(-1.6931)
    """

    parameter_dims: ClassVar[dict[str, int]] = {"log_rate": 0}
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, event_dims: int = 1):
        self.log_rate, self.event_dims = log_rate, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        return value * self.log_rate - self.log_rate.exp() - torch.lgamma(value + 1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts, in the dtype of the rate."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._sample_shape(sample_shape)))

    def quantile(self, u: Tensor) -> Tensor:
        return _quantile(stats.poisson, u, self.log_rate.exp())

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    @property
    def mode(self) -> Tensor:
        return self.mean.floor()

    @property
    def variance(self) -> Tensor:
        return self.mean


class NegativeBinomial(Elementwise):
    r"""Negative binomial probability of counts: a Poisson whose rate is itself gamma distributed.

        log p(x) = Σ_d log Γ(x + r) − log Γ(r) − log x! + r log r/(r + μ) + x log μ/(r + μ),    r = 1/α

    Mean μ, variance μ + α μ².

    Args:
        log_mean: log μ, `(*batch, *event)`.
        dispersion: α > 0, broadcastable against `log_mean`; towards 0 it becomes a Poisson.
        event_dims: trailing dimensions that make up one event.

    >>> NegativeBinomial(torch.zeros(1), torch.ones(1)).log_prob(torch.tensor([0.0]))  # geometric
    tensor(-0.6931)
    """

    parameter_dims: ClassVar[dict[str, int]] = {"log_mean": 0, "dispersion": 0}
    support = constraints.nonnegative_integer

    def __init__(self, log_mean: Tensor, dispersion: Tensor, event_dims: int = 1):
        self.log_mean, self.dispersion, self.event_dims = log_mean, dispersion, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        spread = F.softplus(self.log_mean + self.dispersion.log(), threshold=40)  # log(1 + αμ)
        return (
            _log_rising(value, self.dispersion)
            - torch.lgamma(value + 1)
            + value * (self.log_mean - spread)
            - spread / self.dispersion
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Counts, in the dtype of the mean."""
        with torch.no_grad():
            shape = self._sample_shape(sample_shape)
            gamma = Gamma(1 / self.dispersion, 1 / self.dispersion, validate_args=False).expand(shape)
            return torch.poisson(self.log_mean.exp() * gamma.sample())

    def quantile(self, u: Tensor) -> Tensor:
        return _quantile(stats.nbinom, u, 1 / self.dispersion, 1 / (1 + self.dispersion * self.log_mean.exp()))

    @property
    def mean(self) -> Tensor:
        return self._filled(self.log_mean).exp()

    @property
    def mode(self) -> Tensor:
        return (self.mean * (1 - self.dispersion)).clamp(min=0).floor()

    @property
    def variance(self) -> Tensor:
        return self.mean + self.dispersion * self.mean.square()


def _quantile(family: Any, u: Tensor, *parameters: Tensor) -> Tensor:
    """Of one of scipy's families of counts, elementwise."""
    u, *given = (v.detach().double().cpu().numpy() for v in torch.broadcast_tensors(u, *parameters))
    return torch.as_tensor(family.ppf(u, *given)).to(parameters[0])


def _log_rising(x: Tensor, dispersion: Tensor) -> Tensor:
    """log Γ(x + r) − log Γ(r) − x log r with r = 1/α: the log of (1)(1 + α)⋯(1 + (x−1)α).

    By Stirling's series for r above 20, where the difference of two large numbers has few digits in float32.
    """
    small = dispersion.clamp(max=0.05)
    large = dispersion.clamp(min=0.05)
    direct = torch.lgamma(x + 1 / large) - torch.lgamma(1 / large) + x * large.log()
    r = 1 / small
    series = (r + x - 0.5) * torch.log1p(x * small) - x + _stirling(r + x) - _stirling(r)
    return torch.where(dispersion < 0.05, series, direct)


def _stirling(x: Tensor) -> Tensor:
    """What Stirling's formula leaves out of log Γ(x)."""
    return (1 / 12 - (1 / 360 - 1 / (1260 * x.square())) / x.square()) / x
