r"""Diffusion: a chain z = (z_1, …, z_T), ever noisier, that q draws by a fixed law and p walks back.

    q(z_t | x) = N(α_t x, σ_t²)        α_t² = 1/(1 + e^γ_t),  σ_t² = 1 − α_t²,  γ_1 < … < γ_T
    p(z) = N(z_T | 0, I) Π_t p(z_{t−1} | z_t)

γ_t is minus the logarithm of the signal-to-noise ratio. p(z_{t−1} | z_t) has the mean of q(z_{t−1} | z_t, x = x̂), x̂ a
network of z_t and t, and its variance or more: up to that of a step forwards, σ_t²/σ_{t−1}² times as much, by a share v
of it, in logarithms, that the network says of each element. Given z_t, what a step costs is known in closed form, with
r = (σ_{t−1}²/σ_t²)^v:

    KL(q(z_{t−1} | z_t, x) ‖ p(z_{t−1} | z_t)) = ½ Σ_d r_d − 1 − log r_d + r_d (e^−γ_{t−1} − e^−γ_t) (x_d − x̂_d)²

Where x̂ is as good as can be, v = 0 is right for what z_t tells of x for certain, and v = 1 for what it tells nothing
of; with v = 0 throughout, real data lose most of a nat per element, at 100 steps as at 20.

Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239; Kingma, Salimans, Poole and Ho,
"Variational diffusion models", 2021, arXiv:2107.00630; v: Nichol and Dhariwal 2021, arXiv:2102.09672.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from jensen.conditionals.flows import Context, Labels
from jensen.conditionals.heads import Head
from jensen.conditionals.noising import (
    Features,
    Schedule,
    backwards,
    last_of,
    noise,
    pairs,
    signal,
)
from jensen.distributions import DiagonalNormal
from jensen.errors import ConfigError
from jensen.nets.context import contextual
from jensen.registry import Choice, component

Predict = Literal["noise", "x", "v"]
Variance = Literal["learned", "small", "large"]
OCTAVES = 8  # of time, as a network sees it
ROWS = 256  # that a network takes at once where no gradient is asked for


class Guess(NamedTuple):
    """Of z_t: x̂, and the share v in [0, 1] that says how wide p(z_s | z_t) is; each (N, *event), or v a number."""

    x: Tensor
    share: Tensor


Denoise = Callable[[Tensor, Tensor, Tensor | None], Guess]
"""Of z_t (N, *event), t (N,) from 1, and the context (N, C) or None."""


class Known(nn.Module):
    """Conditions as a context, with a 1 behind them; all zeros for rows without label, or whose conditions are hidden.

    Args:
        context: turns the parents into one context, (N, C).
        dropout: share of rows that count as not known, in training.
    """

    def __init__(self, context: Context, dropout: float):
        super().__init__()
        self.context, self.dropout = context, dropout
        self.size = context.size + 1

    def forward(self, *parents: Tensor) -> Tensor:
        c = self.context(*parents)
        known = torch.ones_like(c[:, :1])
        for part, parent in zip(self.context.parts, parents, strict=True):
            if isinstance(part, Labels):
                known = known * (parent >= 0).unsqueeze(1)
        c = torch.cat([c, known], 1) * known
        if self.training and self.dropout:
            c = c * (torch.rand_like(c[:, :1]) >= self.dropout)
        return c


class Denoiser(nn.Module):
    """x̂(z_t, t, c), what was there before the noise, by a network that may rather predict the noise or v.

        noise:  x̂ = (z_t − σ_t F)/α_t        x:  x̂ = F        v:  x̂ = α_t z_t − σ_t F

    v = α_t ε − σ_t x: Salimans and Ho, "Progressive distillation", 2022, arXiv:2202.00512.

    Args:
        network: F; one that takes a context is given time and c so, another has them as further inputs.
        event: shape of x.
        more: numbers that F puts out beside, for each element.
        context: size of c.
        variance: v, learned by the network too; "small" is 0 and "large" 1.
        limit: that x̂ keeps to outside of training, or None.
    """

    octaves: Tensor
    share: Tensor

    def __init__(
        self,
        network: Choice,
        schedule: Schedule,
        event: tuple[int, ...],
        more: int,
        context: int,
        predict: Predict,
        variance: Variance,
        limit: float | None,
    ):
        super().__init__()
        self.schedule, self.event, self.steps = schedule, event, schedule.steps
        self.predict: Predict = predict
        self.context, self.limit, self.precision = context, limit, None
        self.learned = variance == "learned"
        self.register_buffer("share", torch.tensor(float(variance == "large")), persistent=False)
        outputs = (event[0] * (1 + self.learned + more), *event[1:])
        self.network = contextual(network, event, outputs, 2 * OCTAVES + context)
        self.register_buffer("octaves", math.pi / 2 * 2.0 ** torch.arange(OCTAVES), persistent=False)

    def forward(self, z: Tensor, t: Tensor, context: Tensor | None) -> tuple[Guess, Tensor]:
        """x̂ and v, and what else the network says, (N, more · event[0], ...)."""
        first = self.event[0]
        put_out = self._run(z, self._time(t, context))
        said, share, more = put_out.tensor_split([first, first * (1 + self.learned)], 1)
        share = share.sigmoid() if self.learned else self.share
        gamma = self.schedule()[t - 1].to(z.dtype).reshape(-1, *(1,) * len(self.event))
        alpha, sigma = signal(gamma), noise(gamma)
        if self.predict == "noise":
            x = (z - sigma * said) / alpha
        else:
            x = said if self.predict == "x" else alpha * z - sigma * said
        x = x if self.limit is None or self.training else x.clamp(-self.limit, self.limit)
        return Guess(x, share), more

    def guess(self, z: Tensor, t: Tensor, context: Tensor | None) -> Guess:
        """x̂ and v alone."""
        return self(z, t, context)[0]

    def error_weight(self, gamma: Tensor) -> Tensor:
        """What a squared error of x̂ is in squared errors of what the network predicts."""
        return {"noise": (-gamma).exp(), "x": torch.ones_like(gamma), "v": 1 / torch.sigmoid(gamma)}[self.predict]

    def _time(self, t: Tensor, context: Tensor | None) -> Tensor:
        phase = (t / self.steps).to(self.octaves)[:, None] * self.octaves
        parts = [phase.cos(), phase.sin()]
        if self.context:
            parts.append(phase.new_zeros(len(t), self.context) if context is None else context.to(phase))
        return torch.cat(parts, 1)

    def _run(self, z: Tensor, c: Tensor) -> Tensor:
        if self.precision is None:
            return self.network(z, c)
        with torch.autocast(z.device.type, self.precision):
            return self.network(z, c).float()


@dataclass(frozen=True)
class Sampling:
    """How a chain is walked back: passes of the network, None for all; η of DDIM, None for p itself; guidance."""

    passes: int | None = None
    eta: float | None = None
    guidance: float = 0.0


@component(
    "sampling",
    "chain",
    paper="Ho et al. 2020, arXiv:2006.11239; Song, Meng and Ermon 2020, arXiv:2010.02502; "
    "Ho and Salimans 2022, arXiv:2207.12598",
)
def chain(
    *,
    sampler: Literal["ancestral", "ddim"] = "ancestral",
    steps: Annotated[int | None, Field(ge=2)] = None,
    eta: Annotated[float | None, Field(ge=0, le=1)] = None,
    guidance: Annotated[float, Field(ge=0)] = 0.0,
) -> Sampling:
    """How a diffusion model walks from noise to data.

    Settings:
        sampler: "ancestral", the model itself where all steps are taken; "ddim", without noise on the way.
        steps: passes of the network, evenly spread over the chain; all by default.
        eta: of ddim, how much noise is added on the way: 0, as by default, for none; 1 for as much as the ancestral
            sampler adds where variance=small.
        guidance: w, by which x̂ moves on from what it is without conditions to what it is with them, and beyond,
            (1 + w) x̂(z, c) − w x̂(z); 0 is the conditional model.
    """
    if eta is not None and sampler == "ancestral":
        raise ConfigError("eta: says how much noise ddim adds; it takes sampler=ddim")
    return Sampling(steps, None if sampler == "ancestral" else eta or 0.0, guidance)


class Denoised(Distribution):
    """p(z | c): from noise, step by step back to z_1.

    Args:
        denoise: x̂.
        gamma: (T,).
        event: shape of x.
        context: c, `(*batch, C)`; None where nothing is given.
        without: whether x̂ is known without conditions too.
        limit: that x̂ keeps to when it is guided, or None.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = False
    _validate_args = False

    def __init__(
        self,
        denoise: Denoise,
        gamma: Tensor,
        event: tuple[int, ...],
        context: Tensor | None,
        without: bool = False,
        limit: float | None = None,
    ):
        self.denoise, self.gamma, self.context, self.without, self.limit = denoise, gamma, context, without, limit
        self.event, self.event_dims = event, len(event)
        self.temperature, self.sampling = 1.0, None

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size() if self.context is None else self.context.shape[:-1]

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((len(self.gamma), *self.event))

    @property
    def support(self) -> Any:
        """The constraint on one element of z."""
        return constraints.real

    def log_prob(self, value: Tensor) -> Tensor:
        """log N(z_T | 0, I) + Σ_t log p(z_{t−1} | z_t), in nats, `(*batch,)`."""
        gamma = self.gamma.to(value.dtype).reshape(-1, *(1,) * self.event_dims)
        one = gamma.new_ones(())
        total = DiagonalNormal(0 * one, one, self.event_dims + 1).log_prob(last_of(value, self.event_dims))
        if len(self.gamma) > 1:
            z, towards = pairs(value, self.event_dims)
            guess = self.guesses(value)
            loc, scale = backwards(z, guess.x, gamma[1:], gamma[:-1], guess.share)
            total = total + DiagonalNormal(loc, scale, self.event_dims + 1).log_prob(towards)
        return total

    def guesses(self, value: Tensor) -> Guess:
        """x̂(z_t, t) and v of t = 2 … T of chains, `(*lead, T − 1, *event)`."""
        z, _ = pairs(value, self.event_dims)
        lead = z.shape[: z.dim() - self.event_dims]  # (*lead, T − 1)
        t = torch.arange(2, len(self.gamma) + 1, device=value.device).expand(lead).reshape(-1)
        c = None
        if self.context is not None:
            c = self.context.unsqueeze(-2).expand(*lead, self.context.shape[-1]).reshape(len(t), -1)
        flat = z.reshape(len(t), *self.event)
        size = max(1, len(t)) if torch.is_grad_enabled() else ROWS
        parts = [
            self.denoise(flat[i : i + size], t[i : i + size], None if c is None else c[i : i + size])
            for i in range(0, len(t), size)
        ]
        x, share = (torch.cat(part) if part[0].dim() else part[0] for part in zip(*parts, strict=True))
        return Guess(x.reshape(z.shape), share.reshape(z.shape) if share.dim() else share)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A chain, `(*sample_shape, *batch, T, *event)`; where `sampled` otherwise, its end z_1 alone, T = 1."""
        lead = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            c = None if self.context is None else self.context.expand(*lead, self.context.shape[-1]).reshape(
                lead.numel(), -1
            )  # fmt: skip
            found = self._walk(lead.numel(), c)
        kept = found if self.sampling is None else found[:1]
        return torch.stack(kept, 1).reshape(*lead, len(kept), *self.event)

    def _walk(self, n: int, c: Tensor | None) -> list[Tensor]:
        """z_1, …, z_T as visited, each (n, *event)."""
        how, steps = self.sampling or Sampling(), len(self.gamma)
        like = self.gamma if c is None else c
        gamma = self.gamma.to(like.dtype)
        visited = torch.linspace(steps, 1, how.passes or steps).round().long().tolist() if steps > 1 else [1]
        z = self.temperature * torch.randn(n, *self.event, dtype=like.dtype, device=like.device)
        found = [z]
        for t, s in pairwise(visited):
            late, early = gamma[t - 1], gamma[s - 1]
            guess = self._guided(z, torch.full((n,), t, device=z.device), c, how.guidance)
            if how.eta is None:
                z, added = backwards(z, guess.x, late, early, guess.share)
            else:
                added = how.eta * noise(early) * (-torch.expm1(early - late)).sqrt()
                kept = (torch.sigmoid(early) - added.square()).clamp_min(0).sqrt()
                z = signal(early) * guess.x + kept * (z - signal(late) * guess.x) / noise(late)
            if how.eta != 0:
                z = z + self.temperature * added * torch.randn_like(z)
            found.append(z)
        return found[::-1]

    def _guided(self, z: Tensor, t: Tensor, c: Tensor | None, guidance: float) -> Guess:
        parts = []
        for i in range(0, len(z), ROWS):
            rows, times = z[i : i + ROWS], t[i : i + ROWS]
            given = None if c is None else c[i : i + ROWS]
            x, share = self.denoise(rows, times, given)
            if guidance and given is not None:
                x = x + guidance * (x - self.denoise(rows, times, torch.zeros_like(given)).x)
                x = x if self.limit is None else x.clamp(-self.limit, self.limit)
            parts.append((x, share))
        return Guess(*(torch.cat(part) if part[0].dim() else part[0] for part in zip(*parts, strict=True)))

    def sampled(self, how: Sampling) -> Self:
        """The same, its draws walked as told, of which only the end is kept.

        Raises:
            ConfigError: more passes than there are steps, or guidance where x̂ is not known without conditions.
        """
        steps = len(self.gamma)
        if how.passes is not None and how.passes > steps:
            raise ConfigError(f"steps: the chain has {steps}, got {how.passes}")
        if how.guidance and self.context is None:
            raise ConfigError("guidance: the model has no conditions to be guided by; train with conditional=true")
        if how.guidance and not self.without:
            raise ConfigError("guidance: the model was trained with label_dropout=0, and knows no x without conditions")
        return self._with(sampling=how)

    def tempered(self, temperature: float) -> Self:
        """The same with all its noise multiplied."""
        return self._with(temperature=self.temperature * temperature)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The batch, of size K·B, seen as `sizes`, say (K, B)."""
        return self if self.context is None else self._with(context=self.context.unflatten(0, tuple(sizes)))

    def _with(self, **changed: Any) -> Self:
        new = copy.copy(self)
        new.__dict__.update(changed)
        return new


class Denoising(nn.Module):
    """p(z | c). `forward(*conditions)` gives a `Denoised`.

    Args:
        context: turns the conditions into c; None where there are none.
    """

    sampling = "chain"
    """Settings of its draws: the component of that name with the role `sampling`."""

    def __init__(self, denoiser: Denoiser, context: Known | None):
        super().__init__()
        self.denoiser, self.context = denoiser, context

    @property
    def sequential_steps(self) -> int:
        """Network passes in a row that one sample takes."""
        return self.denoiser.steps - 1

    def forward(self, *conditions: Tensor) -> Denoised:
        c = None if self.context is None else self.context(*conditions)
        without = self.context is not None and self.context.dropout > 0
        d = self.denoiser
        return Denoised(d.guess, d.schedule(), d.event, c, without, d.limit)


class FirstStep(nn.Module):
    """p(x | z_1, c): a head on what the network says of z_1. `forward(z, *conditions)` takes the chain, or z_1 alone.

    Where the head's first parameter is a location, x̂ is added there. To the log-odds of bits is added what z_1 itself
    tells, 2 α_1 z_1/σ_1², so that the network need say only what the other bits tell.
    """

    def __init__(self, denoiser: Denoiser, context: Known | None, head: Head, features: Features):
        super().__init__()
        self.denoiser, self.context, self.head, self.features = denoiser, context, head, features
        self.bias = nn.Parameter(torch.zeros(head.parameter_shape))

    def forward(self, z: Tensor, *conditions: Tensor) -> Distribution:
        z = z[:, 0]
        c = None if self.context is None else self.context(*conditions)
        (x, _), more = self.denoiser(z, torch.ones(len(z), dtype=torch.long, device=z.device), c)
        parameters = more + self.bias
        if self.head.first is not None:
            gamma, first = self.denoiser.schedule()[0], x.shape[1]
            told = x if self.head.first == "location" else 2 * z * signal(gamma) / torch.sigmoid(gamma)
            parameters = torch.cat([parameters[:, :first] + told, parameters[:, first:]], 1)
        return self.head(parameters)

    @torch.no_grad()
    def initialize(self, x: Tensor, *parents: Tensor) -> None:
        """Start from the marginal of the data x, (n, *event), or, around x̂, from the width of z_1's noise."""
        self.features.initialize(x)
        if self.head.first == "location":
            gamma = self.denoiser.schedule()[0]
            support, width = self.head.support, float((gamma / 2).exp())  # σ_1/α_1
            x = support.middle + support.unit * width * torch.randn(1000, *support.shape, device=x.device)
        bias = self.head.initial_bias(x)
        if bias is not None:
            self.bias.copy_(bias)
