"""Wake-sleep: p learns from what q infers about data, q from what p dreams.

    wake    max_θ  E_{z ~ q(z | x)} [log p(x, z; θ)]          all layers, the top prior included
    sleep   max_φ  E_{(x̃, z) ~ p} [log q(z | x̃; φ)]

Both draw samples, never modes, and no gradient passes through a draw: what is hidden may be discrete. Wake ascends the
ELBO in θ. Sleep does not ascend it in φ: it lowers KL(p(z | x̃) ‖ q(z | x̃)), the other way round and on the model's own
data, so that no bound need rise.

Reweighted wake-sleep weighs K draws, w̃ = w / Σ w, with w = p(x, z) / q(z | x):

    wake    max_θ  Σ_k w̃_k log p(x, z_k; θ)        whose gradient is that of log p(x) as K grows
    wake    max_φ  Σ_k w̃_k log q(z_k | x; φ)       towards KL(p(z | x) ‖ q(z | x)) on the data themselves
"""

from __future__ import annotations

from functools import reduce
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from jensen.core import Joint, Model, evidence
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean
from jensen.registry import component


@component(
    "objective", "wake-sleep", paper="Hinton, Dayan, Frey and Neal 1995, Science 268; Dayan et al. 1995, Neural Comp. 7"
)
def wake_sleep() -> Objective:
    """Wake-sleep: in turn, p learns to explain draws of q, and q to infer what p dreamt. Needs no gradient of draws."""
    phases = (
        GradientPhase(_wake, lambda model: model.p.parameters()),
        GradientPhase(_sleep, lambda model: model.q.parameters()),
    )
    return Objective((Stage(phases),), _validate(1), "wake-sleep", through_draws=False)


@component("objective", "reweighted-wake-sleep", paper="Bornschein and Bengio 2015, arXiv:1406.2751")
def reweighted_wake_sleep(
    *, particles: Annotated[int, Field(ge=2)] = 5, learn_q: Literal["wake", "sleep", "both"] = "both"
) -> Objective:
    """Reweighted wake-sleep: importance weights of K draws make wake's gradient one of log p(x), the better the more.

    Settings:
        particles: K draws of what is hidden for each datum.
        learn_q: from what q learns: "wake", the weighted draws; "sleep", the model's dreams; or "both", the mean
            of the two.
    """

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch, particles, paths=False)
        log_w = e.log_w.detach()
        normalised = torch.softmax(log_w, 0)  # (K, B)
        log_p, log_q = (reduce(torch.add, terms.values()) for terms in (e.log_p, e.log_q))
        objective = weighted_mean((normalised * log_p).sum(0), batch)
        logged = {
            "elbo": weighted_mean(log_w.mean(0), batch),
            "iw": weighted_mean(e.importance_bound().detach(), batch),
        }
        if learn_q != "sleep":
            share = 1.0 if learn_q == "wake" else 0.5
            objective = objective + share * weighted_mean((normalised * log_q).sum(0), batch)
        if learn_q != "wake":
            share = 1.0 if learn_q == "sleep" else 0.5
            objective = objective + share * _dreamt(model, batch)
        return Terms(-objective, logged)

    stage = Stage((GradientPhase(loss),), monitor="iw")
    return Objective((stage,), _validate(particles), "reweighted wake-sleep", through_draws=False)


def _wake(model: Model, batch: Batch, progress: float) -> Terms:
    e = model.evidence(batch, paths=False)
    log_p = reduce(torch.add, e.log_p.values())[0]
    return Terms(-weighted_mean(log_p, batch), {"elbo": weighted_mean(e.elbo().detach(), batch)})


def _sleep(model: Model, batch: Batch, progress: float) -> Terms:
    log_q = _dreamt(model, batch)
    return Terms(-log_q, {"sleep": log_q.detach()})


def _dreamt(model: Model, batch: Batch) -> Tensor:
    """E[log q(z | x̃)] over dreams, (): in a datum's context a dream counts as the datum does, else all alike."""
    log_q = log_q_of_dreams(model, batch)
    return weighted_mean(log_q, batch) if model.context else log_q.mean()


def log_q_of_dreams(model: Model, batch: Batch) -> Tensor:
    """log q(z | x̃) of as many pairs (x̃, z) drawn from p as the batch has data, (B,): a walk with p and q exchanged."""
    given = {name: batch[name] for name in model.context}
    with torch.no_grad():
        dreamt = model.sample(len(batch[model.data]), given)
    return evidence(model.q, Joint(), dreamt).log_w[0]


def _validate(particles: int):
    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        e = model.evidence(batch, particles)
        return {"elbo": e.elbo(), "iw": e.importance_bound()} if particles > 1 else {"elbo": e.elbo()}

    return validate
