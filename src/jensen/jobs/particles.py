"""Particles of what is hidden, given any part of a datum: half of them from q, half from p.

    z_k ~ ½ q(z | x_o) + ½ p(z),        w̃_k ∝ p(x_o, z_k) / (½ q(z_k | x_o) + ½ p(z_k))

The weights are at most 2 p(x_o | z), and at most twice those of q alone. So the particles hold where nothing has been
observed, which p knows by itself, where much has, which q knows, and where q takes no mask and is far too sure of the
guesses that it is shown.

Hesterberg, "Weighted average importance sampling and defensive mixture distributions", 1995, Technometrics 37(2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jensen.conditionals.orderless import OrderlessDensity
from jensen.conditionals.transformed import Transformed
from jensen.core import Evidence, Joint, Model, Observed, evidence
from jensen.distributions import Elementwise, Record
from jensen.errors import CapabilityError
from jensen.jobs.conditioning import answers, density
from jensen.jobs.weighing import propose, usual


@dataclass(frozen=True)
class Particles:
    """What a datum's columns may be, given some of them.

    Attributes:
        columns: p(x | z_k), of batch shape (K·B,), particle-major, and event shape (D,).
        weights: w̃, (K, B), of sum 1 over the particles.
    """

    columns: Elementwise
    weights: Tensor

    @property
    def effective_sample_size(self) -> Tensor:
        """1 / Σ w̃², (B,)."""
        return 1 / self.weights.square().sum(0)

    def column(self, place: int) -> Elementwise:
        """p(x_d | z_k) of one column, of batch shape (K·B,) and event shape (1,)."""
        dist = self.columns
        if isinstance(dist, Record):
            part, at = next(
                (part, places.tolist().index(place))
                for part, places in zip(dist.parts, dist.places, strict=True)
                if place in places.tolist()
            )
        else:
            part, at = dist, place
        return part.expand((self.weights.numel(),))._map(lambda p, own: p.narrow(p.dim() - own - 1, at, 1))

    def log_prob(self, place: int, values: Tensor) -> Tensor:
        """log p(values | z_k) of one column at values (P, B), in nats, (P, K, B)."""
        column = self.column(place).unflatten(self.weights.shape)
        return column.log_prob_terms(values[:, None, :, None]).squeeze(-1)

    def drawn_from(self, draws: int) -> Tensor:
        """Particles by their weights, (M, B): systematic resampling."""
        k, b = self.weights.shape
        at = (torch.rand(b, 1, device=self.weights.device) + torch.arange(draws, device=self.weights.device)) / draws
        return torch.searchsorted(self.weights.T.cumsum(1).contiguous(), at.to(self.weights)).clamp_max(k - 1).T

    def draw(self, place: int, which: Tensor) -> Tensor:
        """Of one column a value of each of the particles (M, B), drawn: (M, B)."""
        b = self.weights.shape[1]
        rows = which * b + torch.arange(b, device=which.device)
        return self.column(place).rows(rows.flatten()).sample().reshape(which.shape)


@dataclass(frozen=True)
class Conditioned(Particles):
    """What a datum's columns may be, each of them p(x_d | x_o) itself, and what they would be if more were known.

    Attributes:
        density: with all its conditionals.
        x, seen: the rows that it is given, (B, D).
    """

    density: OrderlessDensity
    x: Tensor
    seen: Tensor

    @property
    def effective_sample_size(self) -> Tensor:
        return torch.full_like(self.weights[0], math.inf)

    def after(self, place: int, values: Tensor) -> Conditioned:
        """Once a column has been found to have values (P, B): of P·B rows, value by value."""
        p = len(values)
        x, seen = _repeated(self.x, p), _repeated(self.seen, p)
        x[:, place], seen[:, place] = values.flatten().to(x), True
        return Conditioned(self.density.given(x, seen), x.new_ones(1, len(x)), self.density, x, seen)


@torch.no_grad()
def particles(model: Model, x: Tensor, seen: Tensor, context: Mapping[str, Tensor], k: int) -> Particles:
    """Particles of rows of which a part was seen.

    Args:
        x, seen: prepared data, and which of it is known, (B, D).
        context: conditions of the model, by name, (B, ...).
        k: K, an even number.

    Raises:
        CapabilityError: the model hides nothing, or the columns are not independent given what it hides.
    """
    check(model)
    if answers(model):
        p = density(model, context)
        return Conditioned(p.given(x, seen), x.new_ones(1, len(x)), p, x, seen)
    start, half = usual(model, context), k // 2
    walked = propose(model, x, ~seen, context, half, start)
    if not _has_density_anywhere(model, walked):
        walked = propose(model, x, ~seen, context, k, start)
        return Particles(_columns(walked, model), walked.log_w.softmax(0))
    given = {name: _repeated(value, half) for name, value in context.items()}
    fresh = model.sample(half * len(x), given)
    z = {name: torch.cat([walked.values[name], fresh[name]]) for name in model.hidden}
    every = {name: _repeated(value, k) for name, value in {**context, "seen": seen}.items()}
    shown, data = _repeated(walked.values[model.data], k), model.data
    known = {**z, **every}
    q = evidence(model.q, Joint(), {**_only(known, model.q), data: shown})
    p = evidence(model.p, Joint(), {**_only(known, model.p), data: Observed(shown, every["seen"])})
    log_q = _total(q, model.hidden)
    log_prior = _total(p, model.hidden)
    log_w = p.log_w[0] - torch.logaddexp(log_q, log_prior) + math.log(2)
    return Particles(_columns(p, model), log_w.reshape(k, -1).softmax(0))


def check(model: Model) -> None:
    """Raises `CapabilityError` where a column has no density of its own, nor one given what is hidden."""
    if answers(model):
        return
    if all(map(model.is_noise, model.hidden)) or any(getattr(f.module, "completes", False) for f in model.q):
        raise CapabilityError(
            "the model gives no density of one column given some of the others, as flows do not; vae, hvae, ladder, "
            "ppca, mixture, kernels and nade do"
        )


def _has_density_anywhere(model: Model, walked: Evidence) -> bool:
    """Whether p draws all that q does, and q's density is known where p draws."""
    drawn = all(name in model.p and not model.p[name].deterministic for name in model.hidden)
    return drawn and not any(isinstance(dist, Transformed) for dist in walked.q.values())


def _columns(e: Evidence, model: Model) -> Elementwise:
    dist: Any = e.p[model.data]
    if not isinstance(dist, Elementwise) or len(dist.event_shape) != 1:
        raise CapabilityError(
            f"the columns are not independent given what is hidden: a {type(dist).__name__} has no density of single "
            "columns"
        )
    return dist


def _total(e: Evidence, names: list[str]) -> Tensor:
    return torch.stack([e.log_p[name][0] for name in names]).sum(0)


def _only(values: Mapping[str, Tensor], joint: Joint) -> dict[str, Tensor]:
    wanted = {*joint.names, *joint.context}
    return {name: value for name, value in values.items() if name in wanted}


def _repeated(value: Tensor, times: int) -> Tensor:
    return value.repeat(times, *(1,) * (value.dim() - 1))
