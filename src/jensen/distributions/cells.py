"""Densities of cells of a table: numbers above 0, numbers between bounds, whole numbers without an end, names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from jensen.distributions.categorical import Categorical
from jensen.distributions.elementwise import Elementwise
from jensen.distributions.logistic import MixtureDiscretizedLogistic
from jensen.errors import CapabilityError

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_V = (_NODES + 1) / 2  # u = v² (3 − 2v), which flattens the ends, where quantiles run off as logarithms do
_RULE = (_V**2 * (3 - 2 * _V)).tolist(), (_WEIGHTS * 3 * _V * (1 - _V)).tolist()


class LogNormal(Elementwise):
    r"""Density of numbers above 0 whose logarithm is normal.

        log p(x) = log N(log x; μ, σ²) − log x

    Args:
        loc: μ, `(*batch, *event)`.
        scale: σ > 0, broadcastable against it.
        event_dims: trailing dimensions that make up one event.
    """

    parameter_dims: ClassVar[dict[str, int]] = {"loc": 0, "scale": 0}
    support = constraints.positive
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, event_dims: int = 1):
        self.loc, self.scale, self.event_dims = loc, scale, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        log = value.clamp_min(torch.finfo(self.loc.dtype).tiny).log()  # what is missing is 0, and masked
        unit = (log - self.loc) / self.scale
        return -0.5 * unit.square() - self.scale.log() - log - 0.5 * math.log(2 * math.pi)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._sample_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.exp(self.loc + self.scale * noise)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def quantile(self, u: Tensor) -> Tensor:
        return torch.exp(self.loc + self.scale * torch.special.ndtri(u))

    def tempered(self, temperature: float) -> LogNormal:
        """The same with σ multiplied."""
        return LogNormal(self.loc, self.scale * temperature, self.event_dims)

    @property
    def mean(self) -> Tensor:
        return torch.exp(self.loc + 0.5 * self.scale.square())

    @property
    def mode(self) -> Tensor:
        return torch.exp(self.loc - self.scale.square())

    @property
    def variance(self) -> Tensor:
        return torch.expm1(self.scale.square()) * self.mean.square()


class BoundedLogistic(Elementwise):
    r"""Density of numbers in [0, 1], both ends included: a logistic one cut off at them.

        p(x) = f((x − μ)/s) / (s [F((1 − μ)/s) − F(−μ/s)])

    with F the logistic function and f its derivative.

    Args:
        loc: μ, any number, `(*batch, *event)`.
        scale: s > 0, broadcastable against it.
        event_dims: trailing dimensions that make up one event.
    """

    parameter_dims: ClassVar[dict[str, int]] = {"loc": 0, "scale": 0}
    support = constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, event_dims: int = 1):
        self.loc, self.scale, self.event_dims = loc, scale, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        unit = (value - self.loc) / self.scale
        return F.logsigmoid(unit) + F.logsigmoid(-unit) - self.scale.log() - self._log_mass()

    def _log_mass(self) -> Tensor:
        """log [F(b) − F(a)] = log F(b) + log F(−a) + log(1 − exp(a − b))."""
        a, b = -self.loc / self.scale, (1 - self.loc) / self.scale
        return F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1(-1 / self.scale))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._sample_shape(sample_shape)
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self.quantile(u)

    def quantile(self, u: Tensor) -> Tensor:
        """μ + s logit p with p = (1 − u) F(a) + u F(b); p and 1 − p by their logarithms, so that tails keep digits."""
        a, b = -self.loc / self.scale, (1 - self.loc) / self.scale
        u = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2)
        rest, share = torch.log1p(-u), u.log()
        below = torch.logaddexp(rest + F.logsigmoid(a), share + F.logsigmoid(b))
        above = torch.logaddexp(rest + F.logsigmoid(-a), share + F.logsigmoid(-b))
        return (self.loc + self.scale * (below - above)).clamp(0, 1)

    def tempered(self, temperature: float) -> BoundedLogistic:
        """The same with s multiplied."""
        return BoundedLogistic(self.loc, self.scale * temperature, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """∫₀¹ of the quantile function, by Gauss and Legendre's rule: the closed form cancels in the tails."""
        total = torch.zeros_like(self._filled(self.loc))
        for node, weight in zip(*_RULE, strict=True):
            total = total + weight * self.quantile(torch.full_like(total, node))
        return total

    @property
    def mode(self) -> Tensor:
        return self._filled(self.loc).clamp(0, 1)

    @property
    def variance(self) -> Tensor:
        raise CapabilityError("no closed form is known of this variance: draw instead")


class WholeLogisticMixture(MixtureDiscretizedLogistic):
    r"""Probability of the whole numbers 0, 1, 2, ...: a mixture of logistic densities over bins of width 1.

        p(x) = Σ_k π_k [F((x + ½ − μ_k)/s_k) − F((x − ½ − μ_k)/s_k)],    at x = 0 with all that lies below

    Args:
        logits, loc, scale: π up to a constant and in log, μ, and s > 0, `(*batch, *event, K)`.
        event_dims: trailing dimensions that make up one event, the components not counted.
    """

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, event_dims: int = 1):
        super().__init__(logits, loc, scale, math.inf, event_dims)  # pyright: ignore[reportArgumentType]

    @property
    def support(self) -> Any:
        return constraints.nonnegative_integer

    def tempered(self, temperature: float) -> WholeLogisticMixture:
        """The same with the logits of its components divided, and their scales multiplied."""
        return WholeLogisticMixture(self.logits / temperature, self.loc, self.scale * temperature, self.event_dims)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1) * _mean_of_whole(self.loc, self.scale)).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The likeliest of the numbers where the components lie, and 0."""
        shape = self._element_shape()
        inner = self.loc.expand(*shape, -1).round().clamp_min(0)
        candidates = torch.cat([inner, torch.zeros_like(inner[..., :1])], -1).movedim(-1, 0)
        best = self.log_prob_terms(candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best).squeeze(0)

    @property
    def variance(self) -> Tensor:
        raise CapabilityError("no closed form is known of this variance: draw instead")


WINDOW = 20  # numbers to either side of μ beyond which a logistic of scale 1 has no mass in float32


def _mean_of_whole(loc: Tensor, scale: Tensor) -> Tensor:
    """E max(round x, 0) = Σ_{k ≥ 0} P(x > k + ½) of a logistic x.

    Term by term near μ where the scale is at most 1; above that by Euler and Maclaurin's formula.
    """
    start = (loc - WINDOW).floor().clamp_min(0)
    narrow, s = start.expand(torch.broadcast_shapes(loc.shape, scale.shape)), scale.clamp_max(1.0)
    for k in range(2 * WINDOW + 1):
        narrow = narrow + torch.sigmoid((loc - start - k - 0.5) / s)
    s = scale.clamp_min(1.0)
    at_zero = torch.sigmoid(loc / s)
    wide = s * F.softplus(loc / s) - at_zero * (1 - at_zero) / (24 * s)
    return torch.where(scale > 1, wide, narrow)


class Names(Categorical):
    """Probability of names in no order, of which columns may have different numbers: others have logit −∞.

    Args:
        logits: `(*batch, *event, C)`.
        event_dims: trailing dimensions that make up one event, the names not counted.
    """

    named = True

    @property
    def mean(self) -> Tensor:
        raise CapabilityError("names have no mean, as they have no order")

    @property
    def variance(self) -> Tensor:
        raise CapabilityError("names have no variance, as they have no order")
