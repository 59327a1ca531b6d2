r"""Bounds on importance weights, with w = p(x, z) / q(z | x):

    IWAE     IW_K   = E log (1/K) Σ_k w_k
    MIWAE    IW_M,K = E (1/M) Σ_m log (1/K) Σ_k w_mk
    CIWAE    β ELBO + (1 − β) IW_K

More particles make the bound tighter and, of the plain gradient, the signal in q's part fainter; averages M and the
share β of the ELBO trade the one for the other (Rainforth et al. 2018, arXiv:1802.04537).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from jensen.core import Evidence, Model
from jensen.errors import ConfigError
from jensen.objectives.gradients import unreparameterised
from jensen.objectives.gradients.paths import one_path, unstoppable
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean
from jensen.registry import component

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Combined:
    """share · ELBO + (1 − share) · IW_K of K particles, averaged over M groups of them: all bounds above in one."""

    particles: int
    averages: int = 1
    share: float = 0.0

    def groups(self, log_w: Tensor) -> Tensor:
        """(M·K, ...) as (M, K, ...)."""
        return log_w.unflatten(0, (self.averages, self.particles))

    def bound(self, groups: Tensor) -> Tensor:
        """Of each group, (M, K, ...) to (M, ...)."""
        tight = torch.logsumexp(groups, 1) - math.log(self.particles)
        return tight if not self.share else self.share * groups.mean(1) + (1 - self.share) * tight

    def __call__(self, log_w: Tensor) -> Tensor:
        """(M·K, B) to (B,)."""
        return self.bound(self.groups(log_w)).mean(0)

    def weights(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """∂/∂log w_k of the bound, and what takes its place along the path of z_k, each (M·K, B).

        share/K + (1 − share) w̃ and share/K + (1 − share) w̃², over M.
        """
        normalised = torch.softmax(self.groups(log_w), 1).flatten(0, 1)
        even, rest = self.share / self.particles, 1 - self.share
        return (even + rest * normalised) / self.averages, (even + rest * normalised.square()) / self.averages


@component(
    "objective",
    "iw",
    paper="Burda et al. 2016, arXiv:1509.00519; Rainforth et al. 2018, arXiv:1802.04537; "
    "Tucker et al. 2019, arXiv:1810.04152",
)
def importance_weighted(
    *,
    particles: Count = 5,
    averages: Count = 1,
    elbo_share: Annotated[float, Field(ge=0, le=1)] = 0.0,
    gradient: Literal["auto", "doubly-reparameterized", "pathwise", "leave-one-out"] = "auto",
) -> Objective:
    """Maximise the importance-weighted bound, logmeanexp over K particles of log w, or MIWAE or CIWAE.

    Settings:
        particles: K.
        averages: M bounds of K particles each, averaged (MIWAE); M K draws in all.
        elbo_share: weight β of the ELBO of the same draws beside the bound, which has 1 − β (CIWAE).
        gradient: "doubly-reparameterized" weighs q's path gradient by w̃² and drops its score term, whose signal
            vanishes as K grows; "pathwise" is the plain one; "leave-one-out" is for what is drawn without a gradient,
            as discrete variables are (Mnih and Rezende 2016, arXiv:1602.06725). "auto" is the first where q draws one
            variable, whose parameters can be stopped, and the second where it draws several.
    """
    if gradient == "leave-one-out" and particles < 2:
        raise ConfigError("objective.gradient: leave-one-out compares draws; it needs objective.particles=2 or more")
    combined = Combined(particles, averages, elbo_share)

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch, particles=particles * averages)
        if gradient != "doubly-reparameterized" and (gradient != "auto" or len(e.q) != 1 or unstoppable(e)):
            log_w = e.log_w
            scored = unreparameterised(e)
            if scored and gradient != "leave-one-out" and torch.is_grad_enabled():
                raise ConfigError(f"objective.gradient: draws of {scored[0]!r} carry no gradient; use leave-one-out")
            rows = combined(log_w)
            if scored and gradient == "leave-one-out":
                rows = rows + _leave_one_out(e, scored, log_w.detach(), combined)
        else:
            rows, log_w = _doubly_reparameterized(e, combined)
        total, log_w = weighted_mean(rows, batch), log_w.detach()
        tight = Combined(particles, averages)(log_w)
        return Terms(-total, {"elbo": weighted_mean(log_w.mean(0), batch), "iw": weighted_mean(tight, batch)})

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        e = model.evidence(batch, particles=particles)
        return {"elbo": e.elbo(), "iw": e.importance_bound()}

    return Objective(
        (Stage((GradientPhase(loss),), monitor="iw"),),
        validate,
        "importance-weighted bound",
        through_draws=gradient != "leave-one-out",
        several=gradient != "doubly-reparameterized",
    )


def _doubly_reparameterized(e: Evidence, combined: Combined) -> tuple[Tensor, Tensor]:
    """A surrogate, (B,), whose gradient is the doubly-reparameterised one, and log w, (K, B).

    With w̃ the normalised weights: ∇_θ = Σ w̃ ∂log w/∂θ and ∇_φ = Σ w̃² ∂log w/∂z ∂z/∂φ. The ELBO's share has equal
    weights in both: what it drops is the score, whose mean is 0.

    Raises:
        ConfigError: q draws several variables, or one that carries no gradient.
    """
    name = one_path(e, "objective.gradient: doubly-reparameterized", "use objective.gradient=pathwise")
    z, log_w = e.values[name], e.log_w_stopped
    plain, path = combined.weights(log_w.detach())
    if z.requires_grad:
        ratio = path / plain.clamp_min(torch.finfo(plain.dtype).tiny)
        per_draw = ratio.reshape(-1, *(1,) * (z.dim() - 1))
        z.register_hook(lambda gradient: gradient * per_draw)
    return (plain * log_w).sum(0), log_w


def _leave_one_out(e: Evidence, scored: list[str], log_w: Tensor, combined: Combined) -> Tensor:
    """Σ_k (L − L_k) log q(z_k), whose value is made zero, (B,): L is the bound of the draw's group, L_k that without
    the draw k, in whose place stands the geometric mean of the others. Mnih and Rezende 2016, equation 9."""
    groups, k = combined.groups(log_w), combined.particles
    mean_of_others = (groups.sum(1, keepdim=True) - groups) / (k - 1)
    same = torch.eye(k, dtype=torch.bool, device=log_w.device)[..., None]
    replaced = torch.where(same, mean_of_others[:, None], groups[:, None])  # (M, K replaced, K, B)
    without = torch.stack([combined.bound(one) for one in replaced.unbind(1)], 1)
    gain = (combined.bound(groups)[:, None] - without).flatten(0, 1) / combined.averages  # (M K, B)
    log_q = sum((e.log_q[name] for name in scored), torch.zeros(()))
    return (gain * (log_q - log_q.detach())).sum(0)
