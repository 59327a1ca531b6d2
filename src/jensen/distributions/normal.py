"""Densities on the real line: normal, Laplace, Student-t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import scipy.special
import torch
from torch import Tensor
from torch.distributions import Gamma, constraints

from jensen.distributions.elementwise import Elementwise

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class DiagonalNormal(Elementwise):
    r"""Normal density with a diagonal covariance.

        log N(x; μ, σ²) = Σ_d −½ ((x_d − μ_d) / σ_d)² − log σ_d − ½ log 2π

    Args:
        loc: μ, `(*batch, *event)`.
        scale: the standard deviation σ > 0, broadcastable against `loc`.
        event_dims: trailing dimensions that make up one event.

    >>> p = DiagonalNormal(torch.zeros(3, 2), torch.ones(2))
    >>> p.log_prob(torch.zeros(2))
    tensor([-1.8379, -1.8379, -1.8379])
    """

    parameter_dims: ClassVar[dict[str, int]] = {"loc": 0, "scale": 0}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, event_dims: int = 1):
        self.loc, self.scale, self.event_dims = loc, scale, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        return torch.addcmul(self.scale.log() + LOG_SQRT_2PI, z, z, value=0.5).neg()

    def log_prob(self, value: Tensor) -> Tensor:
        return self._log_prob((value - self.loc) / self.scale)

    def _log_prob(self, z: Tensor) -> Tensor:
        """Log-density, `(*batch,)`, of the value that lies z standard deviations from the mean."""
        terms = torch.addcmul(self.scale.log(), z, z, value=0.5)
        constant = LOG_SQRT_2PI * math.prod(terms.shape[terms.ndim - self.event_dims :])
        return -constant - self._sum(terms)

    def log_prob_pairs(self, value: Tensor) -> Tensor:
        """Log-density in nats of each value, `(*, *event)`, under each of K densities of batch shape (K,): `(*, K)`.

        By matrix products, Σ_d (x_d − μ_d)²/σ_d² = x² · σ⁻² − 2 x · (μ/σ²) + Σ_d μ_d²/σ_d², in float64 where no
        gradient is asked for, as the terms cancel.
        """
        value, loc, scale = value - self.loc.mean(0), self.loc - self.loc.mean(0), self.scale.expand(self.loc.shape)
        x, loc, scale = value.flatten(value.dim() - self.event_dims), loc.flatten(1), scale.flatten(1)
        if not torch.is_grad_enabled():
            x, loc, scale = x.double(), loc.double(), scale.double()
        precision = scale.square().reciprocal()
        constant = LOG_SQRT_2PI * loc.shape[1] + (scale.log() + 0.5 * loc.square() * precision).sum(1)
        found = x @ (loc * precision).mT - 0.5 * x.square() @ precision.mT - constant
        return found.to(self.loc)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """μ + σ ε with ε ~ N(0, I)."""
        return torch.addcmul(self.loc, self.scale, self._noise(sample_shape))

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw μ + σ ε, and its log-density from ε itself, which spares a subtraction and a division."""
        noise = self._noise(sample_shape)
        return torch.addcmul(self.loc, self.scale, noise), self._log_prob(noise)

    def _noise(self, sample_shape: Sequence[int]) -> Tensor:
        return torch.randn(self._sample_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)

    @property
    def mean(self) -> Tensor:
        return self._filled(self.loc)

    @property
    def mode(self) -> Tensor:
        return self.mean

    @property
    def stddev(self) -> Tensor:
        """The standard deviation σ, `(*batch, *event)`."""
        return self._filled(self.scale)

    @property
    def variance(self) -> Tensor:
        return self.stddev.square()

    def entropy(self) -> Tensor:
        """Entropy in nats, `(*batch,)`."""
        return self._sum(self.stddev.log() + (0.5 + LOG_SQRT_2PI))

    def quantile(self, u: Tensor) -> Tensor:
        return self.loc + self.scale * torch.special.ndtri(u)

    def tempered(self, temperature: float) -> DiagonalNormal:
        """The same with its scale multiplied."""
        return DiagonalNormal(self.loc, self.scale * temperature, self.event_dims)


class StandardNormal(DiagonalNormal):
    """N(0, I): a DiagonalNormal that knows its parameters, so that its log-density and KL are cheaper.

    Args:
        loc: zeros, `(*batch, *event)`; fixes shape, dtype and device.
        scale: ones.
        event_dims: trailing dimensions that make up one event.

    >>> StandardNormal(torch.zeros(2), torch.ones(2)).log_prob(torch.ones(3, 2))
    tensor([-2.8379, -2.8379, -2.8379])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return self._log_prob(value)

    def _log_prob(self, z: Tensor) -> Tensor:
        terms = z.square()
        if terms.ndim < self.loc.ndim:
            terms = terms.expand(self.loc.shape)
        constant = LOG_SQRT_2PI * math.prod(terms.shape[terms.ndim - self.event_dims :])
        return -constant - 0.5 * self._sum(terms)


class Laplace(Elementwise):
    r"""Laplace density.

        log p(x) = Σ_d −|x_d − μ_d| / s_d − log 2 s_d

    Args:
        loc: μ, `(*batch, *event)`.
        scale: s > 0, broadcastable against `loc`.
        event_dims: trailing dimensions that make up one event.

    >>> Laplace(torch.zeros(1), torch.ones(1)).log_prob(torch.zeros(1))
    tensor(-0.6931)
    """

    parameter_dims: ClassVar[dict[str, int]] = {"loc": 0, "scale": 0}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, event_dims: int = 1):
        self.loc, self.scale, self.event_dims = loc, scale, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        return -(value - self.loc).abs() / self.scale - (2 * self.scale).log()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """μ + s (E₁ − E₂) with E₁ and E₂ exponential."""
        shape = torch.Size((2, *self._sample_shape(sample_shape)))
        first, second = torch.empty(shape, dtype=self.loc.dtype, device=self.loc.device).exponential_()
        return self.loc + self.scale * (first - second)

    def quantile(self, u: Tensor) -> Tensor:
        tail = torch.minimum(u, 1 - u)
        return self.loc + self.scale * (0.5 - u).sign() * torch.log(2 * tail)

    def tempered(self, temperature: float) -> Laplace:
        """The same with its scale multiplied."""
        return Laplace(self.loc, self.scale * temperature, self.event_dims)

    @property
    def mean(self) -> Tensor:
        return self._filled(self.loc)

    @property
    def mode(self) -> Tensor:
        return self.mean

    @property
    def variance(self) -> Tensor:
        return 2 * self._filled(self.scale).square()


class StudentT(Elementwise):
    r"""Student's t density: a normal with heavy tails, for data with outliers.

        log p(x) = Σ_d log Γ((ν+1)/2) − log Γ(ν/2) − ½ log πν − log σ − (ν+1)/2 log(1 + z²/ν),  z = (x − μ)/σ

    Args:
        df: degrees of freedom ν > 0.
        loc: μ, `(*batch, *event)`.
        scale: σ > 0; the standard deviation is σ √(ν/(ν−2)), and finite for ν > 2 only.
        event_dims: trailing dimensions that make up one event.

    >>> StudentT(torch.tensor(3.0), torch.zeros(1), torch.ones(1)).log_prob(torch.zeros(1))
    tensor(-1.0009)
    """

    parameter_dims: ClassVar[dict[str, int]] = {"df": 0, "loc": 0, "scale": 0}
    support = constraints.real
    has_rsample = True

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor, event_dims: int = 1):
        self.df, self.loc, self.scale, self.event_dims = df, loc, scale, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        tail = (self.df + 1) / 2 * torch.log1p(z.square() / self.df)
        return _student_constant(self.df) - self.scale.log() - tail

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """μ + σ ε / √g with ε ~ N(0, 1) and g ~ Gamma(ν/2, ν/2); the gradient reaches ν as well."""
        shape = self._sample_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        precision = Gamma(self.df / 2, self.df / 2, validate_args=False).expand(shape).rsample()
        return self.loc + self.scale * noise * precision.rsqrt()

    def quantile(self, u: Tensor) -> Tensor:
        df, u = torch.broadcast_tensors(self.df.detach(), u)
        found = scipy.special.stdtrit(df.double().cpu().numpy(), u.double().cpu().numpy())
        return self.loc + self.scale * torch.as_tensor(found).to(self.loc)

    def tempered(self, temperature: float) -> StudentT:
        """The same with its scale multiplied."""
        return StudentT(self.df, self.loc, self.scale * temperature, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """μ, or NaN where ν ≤ 1."""
        return self._filled(torch.where(self.df > 1, self.loc, torch.nan))

    @property
    def mode(self) -> Tensor:
        return self._filled(self.loc)

    @property
    def variance(self) -> Tensor:
        """σ² ν/(ν−2), infinite for 1 < ν ≤ 2, NaN for ν ≤ 1."""
        ratio = torch.where(self.df > 2, self.df / (self.df - 2), torch.inf)
        return self._filled(torch.where(self.df > 1, ratio * self.scale.square(), torch.nan))


def _student_constant(df: Tensor) -> Tensor:
    """log Γ((ν+1)/2) − log Γ(ν/2) − ½ log πν; Stirling's series from ν = 50, where float32 cancels."""
    direct = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * torch.log(math.pi * df)
    x = df.clamp(min=1) / 2
    series = -LOG_SQRT_2PI - 1 / (8 * x) + 1 / (192 * x**3) - 1 / (640 * x**5)
    return torch.where(df < 50, direct, series)
