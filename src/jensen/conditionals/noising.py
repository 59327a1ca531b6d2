"""What noise does to a datum: q(z_t | x) of a diffusion, and the step back that it implies, q(z_{t−1} | z_t, x).

The equations are in `jensen.conditionals.denoising`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from jensen.conditionals.heads import Support
from jensen.distributions import DiagonalNormal

if TYPE_CHECKING:
    from jensen.conditionals.denoising import Denoised

ScheduleName = Literal["cosine", "linear", "learned"]
LEAST = 1e-4  # by which a learned γ rises at each step: of two equal ones no step back has a density


class Schedule(nn.Module):
    """γ_1 < … < γ_T: `forward()` gives them, (T,).

    Args:
        steps: T.
        name: "cosine" of Nichol and Dhariwal 2021 (arXiv:2102.09672); "linear", the rates of Ho et al. 2020 in T steps;
            "learned", every step by the bound, from the cosine on.

    >>> Schedule(3, "linear")().shape
    torch.Size([3])
    """

    fixed: Tensor

    def __init__(self, steps: int, name: ScheduleName):
        super().__init__()
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        if name == "linear":
            log_signal = -(0.1 * u + 9.95 * u.square())
        else:
            signal = torch.cos((u + 0.008) / 1.008 * (math.pi / 2)).square()
            log_signal = (signal[1:] / signal[:-1]).clamp_min(1e-3).log().cumsum(0)  # no step destroys everything
            log_signal = torch.cat([torch.zeros(1, dtype=torch.float64), log_signal])
        gamma = (-torch.expm1(log_signal[1:])).log() - log_signal[1:]
        self.steps, self.learned = steps, name == "learned"
        if self.learned:
            self.start = nn.Parameter(gamma[:1].float())
            self.log_steps = nn.Parameter((gamma.diff() - LEAST).clamp_min(LEAST).log().float())
        else:
            self.register_buffer("fixed", gamma.float(), persistent=False)

    def forward(self) -> Tensor:
        if not self.learned:
            return self.fixed
        return torch.cat([self.start, self.start + (LEAST + self.log_steps.exp()).cumsum(0)])


def signal(gamma: Tensor) -> Tensor:
    """α = (1 + e^γ)^−½."""
    return torch.sigmoid(-gamma).sqrt()


def noise(gamma: Tensor) -> Tensor:
    """σ = (1 + e^−γ)^−½."""
    return torch.sigmoid(gamma).sqrt()


def backwards(z: Tensor, x: Tensor, late: Tensor, early: Tensor, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and scale of q(z_s | z_t, x) for s < t, of γ_t, `late`, and γ_s, `early`, that broadcast against z_t and x.

    μ = (α_{t|s} σ_s²/σ_t²) z_t + α_s c x, and σ² = c σ_s², with α_{t|s} = α_t/α_s and c = 1 − e^(γ_s − γ_t); with a
    share v, σ² = c σ_s^2(1−v) σ_t^2v.
    """
    kept = -torch.expm1(early - late)  # c
    ratio = signal(late) / signal(early) * torch.sigmoid(early) / torch.sigmoid(late)
    scale = noise(early) * kept.sqrt()
    if share is not None:
        scale = scale * (0.5 * share * widening(late, early)).exp()
    return ratio * z + signal(early) * kept * x, scale


def widening(late: Tensor, early: Tensor) -> Tensor:
    """log σ_t²/σ_s²."""
    return F.logsigmoid(late) - F.logsigmoid(early)


class Noised(Distribution):
    """q(z_1, …, z_T | x): x fades and noise grows, a Markov chain whose marginals are N(α_t x, σ_t²).

    Args:
        x: `(*batch, *event)`.
        gamma: (T,).
        event_dims: of x.

    >>> Noised(torch.zeros(5, 2), torch.tensor([-1.0, 0.0, 1.0]), 1).sample().shape
    torch.Size([5, 3, 2])
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = True
    _validate_args = False

    def __init__(self, x: Tensor, gamma: Tensor, event_dims: int):
        self.x, self.gamma, self.event_dims = x, gamma.to(x.dtype), event_dims

    @property
    def batch_shape(self) -> torch.Size:
        return self.x.shape[: self.x.dim() - self.event_dims]

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((len(self.gamma), *self.x.shape[self.x.dim() - self.event_dims :]))

    @property
    def support(self) -> Any:
        """The constraint on one element of z."""
        return constraints.real

    def marginal(self, t: Tensor) -> DiagonalNormal:
        """q(z_t | x) of one t a row, (N,), from 1, where x is (N, *event)."""
        gamma = self._along(self.gamma[t - 1])
        return DiagonalNormal(signal(gamma) * self.x, noise(gamma), self.event_dims)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        log_signal = F.logsigmoid(-self.gamma)  # log α²
        log_kept = torch.cat([log_signal[:1], log_signal.diff()])
        z, chain = self.x.expand(*sample_shape, *self.x.shape), []
        for kept, scale in zip((0.5 * log_kept).exp(), (-torch.expm1(log_kept)).sqrt(), strict=True):
            z = kept * z + scale * torch.randn_like(z)
            chain.append(z)
        return torch.stack(chain, -1 - self.event_dims)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z_T | x) + Σ_t log q(z_{t−1} | z_t, x), in nats, `(*batch,)`."""
        x, gamma = self.x.unsqueeze(-1 - self.event_dims), self._along(self.gamma)
        last = DiagonalNormal(signal(gamma[-1:]) * x, noise(gamma[-1:]), self.event_dims + 1)
        total = last.log_prob(last_of(value, self.event_dims))
        if len(self.gamma) > 1:
            z, towards = pairs(value, self.event_dims)
            step = DiagonalNormal(*backwards(z, x, gamma[1:], gamma[:-1]), self.event_dims + 1)
            total = total + step.log_prob(towards)
        return total

    def divergence_given(self, value: Tensor, p: Denoised) -> Tensor:
        """KL(q ‖ p) by a draw of the chain, each step in closed form given where it starts, in nats, `(*batch,)`."""
        total = self.arrival()
        if len(self.gamma) > 1:
            late = torch.arange(2, len(self.gamma) + 1, device=value.device)
            guess = p.guesses(value)
            error = (self.x.unsqueeze(-1 - self.event_dims) - guess.x).square()  # (*lead, T − 1, *event)
            total = total + self.cost(late, error, guess.share).sum(-1)
        return total

    def cost(self, t: Tensor, error: Tensor, share: Tensor) -> Tensor:
        """KL(q(z_{t−1} | z_t, x) ‖ p(z_{t−1} | z_t)) in nats, `(*, n)`, of t, (n,), from 2 on.

        Args:
            error: squared, of x̂, `(*, n, *event)`.
            share: v.
        """
        late, early = self._along(self.gamma[t - 1]), self._along(self.gamma[t - 2])
        weight = (-early).exp() * -torch.expm1(early - late)
        wider = share * widening(late, early)
        terms = torch.expm1(-wider) + wider + (-wider).exp() * weight * error
        return 0.5 * terms.flatten(-self.event_dims).sum(-1)

    def arrival(self) -> Tensor:
        """KL(q(z_T | x) ‖ N(0, I)) in nats, `(*batch,)`: ½ Σ_d α² (x_d² − 1) − log σ²."""
        left = torch.sigmoid(-self.gamma[-1])
        terms = 0.5 * (left * (self.x.square() - 1) - F.logsigmoid(self.gamma[-1]))
        return terms.flatten(self.x.dim() - self.event_dims).sum(-1)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The batch, of size K·B, seen as `sizes`, say (K, B)."""
        return type(self)(self.x.unflatten(0, tuple(sizes)), self.gamma, self.event_dims)

    def detach(self) -> Self:
        """The same density with its parameters stopped; gradients still reach the value."""
        return type(self)(self.x.detach(), self.gamma.detach(), self.event_dims)

    def _along(self, gamma: Tensor) -> Tensor:
        return gamma.reshape(-1, *(1,) * self.event_dims)


def pairs(value: Tensor, event_dims: int) -> tuple[Tensor, Tensor]:
    """z_2 … z_T and z_1 … z_{T−1} of a chain."""
    dim, steps = value.dim() - event_dims - 1, value.shape[-1 - event_dims]
    return value.narrow(dim, 1, steps - 1), value.narrow(dim, 0, steps - 1)


def last_of(value: Tensor, event_dims: int) -> Tensor:
    """z_T of a chain, the dimension kept."""
    return value.narrow(value.dim() - event_dims - 1, value.shape[-1 - event_dims] - 1, 1)


class Noising(nn.Module):
    """q(z | x). `forward(x)` gives a `Noised`.

    Args:
        features: of a datum, real numbers of order one.
        schedule: gives γ.
    """

    is_noise = True
    """What it draws represents nothing: it is the datum with noise of a law of its own."""

    def __init__(self, features: nn.Module, schedule: Schedule, event_dims: int):
        super().__init__()
        self.features, self.schedule, self.event_dims = features, schedule, event_dims

    def forward(self, x: Tensor) -> Noised:
        return Noised(self.features(x), self.schedule(), self.event_dims)


class Features(nn.Module):
    """Data as numbers of order one: levels and bits in [−1, 1], counts by the logarithm of one more, standardised by
    the first data, real numbers as they are.

    `limit` is what none exceeds in size, or None.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, support: Support):
        super().__init__()
        binary, self.count = support.kind == "binary", support.kind == "count"
        self.limit = 1.0 if support.kind in ("binary", "levels") else None
        middle, unit = (0.5, 0.5) if binary else (support.middle, support.unit)
        self.register_buffer("center", torch.full((), middle), persistent=self.count)
        self.register_buffer("scale", torch.full((), unit), persistent=self.count)

    def forward(self, x: Tensor) -> Tensor:
        return ((x.log1p() if self.count else x) - self.center) / self.scale

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """See the first data, (n, *event)."""
        if self.count:
            self.center.copy_(x.log1p().mean())
            self.scale.copy_(x.log1p().std(correction=0).clamp_min(1e-3))
