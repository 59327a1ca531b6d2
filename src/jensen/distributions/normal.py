"""Densities on the real line: normal, Laplace, Student-t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

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
