"""Probabilities of counts 0, 1, 2, …"""

from __future__ import annotations

import math
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
        dtype, x, log_rate = torch.result_type(value, self.log_rate), value.double(), self.log_rate.double()
        large = x * (log_rate - (x + 4).log() + 1) - log_rate.exp()
        return large.to(dtype) - _of_factorial(value.to(dtype))

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
        dtype = torch.result_type(value, self.log_mean)
        x, log_mean, dispersion = value.double(), self.log_mean.double(), self.dispersion.double()
        r, log_odds = 1 / dispersion, log_mean + dispersion.log()  # log αμ
        n = x + r  # log Γ(n) − log Γ(r) = log n! − log r! − log(n / r), and n / r = 1 + αx
        large = (
            x * (log_odds + (n + 4).log() - (x + 4).log())
            + r * torch.log1p(x / (r + 4))
            - n * F.softplus(log_odds, threshold=40)
        )
        small = _stirling(n.to(dtype)) - _stirling(r.to(dtype)) - torch.log1p((x * dispersion).to(dtype))
        return large.to(dtype) + (small - _of_factorial(value.to(dtype)))

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


# Terms as large as x log x all but cancel in these densities: float64 sums them, also where the result is float32. What
# log y! = log Γ(y + 1) has besides y log(y + 4) − y grows as ½ log y only, and float32 holds it.


def _stirling(y: Tensor) -> Tensor:
    """log y! − y log(y + 4) + y, by Stirling's series for (y + 3)! = (y + 1) (y + 2) (y + 3) y!"""
    w = 1 / (y + 4)
    v = w * w
    series = (1 / 12 - (1 / 360 - (1 / 1260 - v / 1680) * v) * v) * w
    factors = (1 - w) * (1 - 2 * w) * (1 - 3 * w)
    return series + (0.5 * math.log(2 * math.pi) - 4) - (factors * w.sqrt()).log()


def _of_factorial(x: Tensor) -> Tensor:
    """The same for counts: exactly 0 of 0, so that the probability of 0 keeps its digits."""
    return _stirling(x).masked_fill(x == 0, 0.0)
