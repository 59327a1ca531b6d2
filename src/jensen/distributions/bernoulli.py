"""Densities on {0, 1} and on [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from jensen.distributions.elementwise import Elementwise

CACHED = 1 << 17  # logits that stay in a processor's cache with what is computed of them


class Bernoulli(Elementwise):
    r"""Probability of zeros and ones.

        log p(x) = Σ_d x_d l_d − log(1 + exp l_d)

    Args:
        logits: l = log p/(1 − p), `(*batch, *event)`.
        event_dims: trailing dimensions that make up one event.

    >>> Bernoulli(torch.zeros(1, 3)).log_prob(torch.tensor([0.0, 1.0, 1.0]))
    tensor([-2.0794])
    """

    parameter_dims: ClassVar[dict[str, int]] = {"logits": 0}
    support = constraints.boolean

    def __init__(self, logits: Tensor, event_dims: int = 1):
        self.logits, self.event_dims = logits, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        # Forward and backward as fast as a hand-written autograd function, which was measured and dropped.
        return -F.binary_cross_entropy_with_logits(*self._paired(value), reduction="none")

    def log_prob(self, value: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            found = _log_prob_in_cache(self.logits, value, self.event_dims)
            if found is not None:
                return found
        # The sign is changed last, on a number a datum.
        return -self._sum(F.binary_cross_entropy_with_logits(*self._paired(value), reduction="none"))

    def _paired(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and value in one shape and dtype, as ATen's kernel wants them."""
        logits = self.logits
        if value.dtype != logits.dtype:
            value = value.to(logits.dtype)
        if value.shape != logits.shape:
            logits, value = torch.broadcast_tensors(logits, value)
        return logits, value

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Zeros and ones in the dtype of the logits."""
        with torch.no_grad():
            return torch.bernoulli(self.logits.sigmoid().expand(self._sample_shape(sample_shape)))

    def quantile(self, u: Tensor) -> Tensor:
        return (u >= (-self.logits).sigmoid()).to(self.logits.dtype)

    def tempered(self, temperature: float) -> Bernoulli:
        """The same with its logits divided."""
        return Bernoulli(self.logits / temperature, self.event_dims)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        return self.logits.sigmoid() * (-self.logits).sigmoid()


def _log_prob_in_cache(logits: Tensor, value: Tensor, event_dims: int) -> Tensor | None:
    """Σ_d x_d l_d − log(1 + exp l_d), `(*batch,)`, as scores need it that walk thousands of particles on a processor.

    Few rows at a time, which stay in its cache, and one logarithm for four elements, as products take less time. None
    where that does not do: where exponentials overflow, or shapes and types are not the usual ones.
    """
    shape, usual = logits.shape, logits.is_cpu and logits.dtype in (torch.float32, torch.float64)
    if not usual or not 0 < event_dims < len(shape) or not logits.numel() or value.dtype != logits.dtype:
        return None
    if torch.broadcast_shapes(shape, value.shape) != shape:
        return None
    logits, value = logits.flatten(-event_dims), value.expand(shape).flatten(-event_dims)
    if value.stride(0):  # not one that particles share
        logits, value = logits.flatten(0, -2), value.flatten(0, -2)
    found, dims = logits.new_empty(logits.shape[:-1]), logits.shape[-1]
    rows, quarter = max(1, CACHED // logits[0].numel()), dims // 4
    for l, x, out in zip(logits.split(rows), value.split(rows), found.split(rows), strict=True):
        e = l.exp().add_(1)
        pairs = e[..., : 2 * quarter] * e[..., 2 * quarter : 4 * quarter]
        fours = pairs[..., :quarter] * pairs[..., quarter:]
        out.copy_(fours.log_().sum(-1).neg_()).sub_(e[..., 4 * quarter :].log().sum(-1))
        out.add_(torch.mul(l, x, out=e).sum(-1))
    return found.view(shape[:-event_dims]) if bool(found.isfinite().all()) else None


class ContinuousBernoulli(Elementwise):
    r"""Density on [0, 1] that is exponential in x: the likelihood that a Bernoulli on grey pixels is not.

        log p(x) = Σ_d x_d l_d − A(l_d),    A(l) = log ∫₀¹ exp(lx) dx = l/2 + log(sinh(l/2) / (l/2))

    The continuous Bernoulli: fixing a pervasive error in variational autoencoders, Loaiza-Ganem and
    Cunningham 2019, arXiv:1907.06845. There λ = sigmoid(l) is the parameter; in l the normaliser is one even
    function, with a series near 0.

    Args:
        logits: l, `(*batch, *event)`.
        event_dims: trailing dimensions that make up one event.

    >>> ContinuousBernoulli(torch.zeros(1)).log_prob(torch.tensor([0.3])).abs()
    tensor(0.)
    """

    parameter_dims: ClassVar[dict[str, int]] = {"logits": 0}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, event_dims: int = 1):
        self.logits, self.event_dims = logits, event_dims

    def log_prob_terms(self, value: Tensor) -> Tensor:
        # x l − l/2 in one product keeps the digits at both ends of the interval.
        return (value - 0.5) * self.logits - _log_sinhc(self.logits / 2)

    def log_normalizer(self) -> Tensor:
        """A(l), `(*batch, *event)`; its derivative is the mean."""
        return self.logits / 2 + _log_sinhc(self.logits / 2)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._sample_shape(sample_shape)
        return self.quantile(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    def quantile(self, u: Tensor) -> Tensor:
        """In [0, 1]."""
        # For l > 0 by the symmetry x(l, u) = 1 − x(−l, 1 − u): the exponential cannot overflow.
        flip = self.logits > 0
        a = -self.logits.abs()
        near = a > -0.01
        safe = torch.where(near, -1.0, a)
        eps = torch.finfo(a.dtype).eps
        u = torch.where(flip, 1 - u, u).clamp(eps, 1 - eps)
        far_value = torch.log1p(u * torch.expm1(safe)) / safe
        near_value = u + u * (1 - u) * (a / 2 + a.square() / 6 * (1 - 2 * u))
        value = torch.where(near, near_value, far_value)
        return torch.where(flip, 1 - value, value).clamp(0, 1)

    @property
    def mean(self) -> Tensor:
        # A'(l) = ½ + ½ (coth a − 1/a), a = l/2
        a = self.logits / 2
        near = a.abs() < 0.25
        safe, small = torch.where(near, 1.0, a), a.clamp(-0.25, 0.25)
        s = small.square()
        series = small * (1 / 3 - s * (1 / 45 - s * (2 / 945 - s * (1 / 4725 - s * 2 / 93555))))
        return 0.5 + 0.5 * torch.where(near, series, 1 / torch.tanh(safe) - 1 / safe)

    @property
    def mode(self) -> Tensor:
        """The end of the interval where the density is higher; its middle where it is flat."""
        return 0.5 + 0.5 * self.logits.sign()

    @property
    def variance(self) -> Tensor:
        # A''(l) = ¼ (1/a² − 1/sinh² a), a = |l|/2
        a = self.logits.abs() / 2
        safe, s = a.clamp(min=0.5), a.clamp(max=0.5).square()
        far = safe**-2 - 4 * torch.exp(-2 * safe) / torch.expm1(-2 * safe) ** 2
        series = 1 / 3 - s * (1 / 15 - s * (2 / 189 - s * (1 / 675 - s * (2 / 10395 - s * 1382 / 58046625))))
        return 0.25 * torch.where(a < 0.5, series, far)


def _log_sinhc(a: Tensor) -> Tensor:
    """log(sinh(a)/a), even and smooth, without overflow; a series below ¼, where the formula loses digits."""
    a = a.abs()
    # Clamped on either side, for `where` alone lets the NaN of the branch not taken into the gradient.
    safe, s = a.clamp(min=0.25), a.clamp(max=0.25).square()
    far = safe + torch.log(-torch.expm1(-2 * safe)) - torch.log(2 * safe)
    series = s * (1 / 6 - s * (1 / 180 - s * (1 / 2835 - s * (1 / 37800 - s * (1 / 467775)))))
    return torch.where(a < 0.25, series, far)
