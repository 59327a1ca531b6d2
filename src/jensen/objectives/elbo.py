"""Bounds on the log-likelihood as objectives: the ELBO and its relatives, and the importance-weighted bound.

    ELBO(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))

β, warm-up and free bits change the loss and never what is reported: `elbo` in the log is always the ELBO.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from jensen.core import EXACT, Evidence, Model
from jensen.errors import ConfigError
from jensen.objectives.gradients import BASELINES, Baseline, Learned, score_of_evidence, unreparameterised
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean
from jensen.registry import component

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


def log_likelihood_bound(model: Model, batch: Batch) -> dict[str, Tensor]:
    """One walk with one particle: the ELBO of each datum and its parts, (B,), in nats; exact where q is."""
    e = model.evidence(batch)
    if model.likelihood == EXACT:
        return {"elbo": e.elbo()}
    kl = e.divergences()
    reconstruction = e.reconstruction()
    logged = {"elbo": reconstruction - sum(kl.values(), torch.zeros(()))}
    if kl:
        logged |= {"reconstruction": reconstruction, **{f"kl_{name}": value for name, value in kl.items()}}
    return logged


@component("objective", "elbo", paper="Kingma and Welling 2014, arXiv:1312.6114")
def elbo(
    *,
    kl: Literal["closed", "monte-carlo"] = "closed",
    samples: Count = 1,
    beta: Annotated[float, Field(ge=0)] = 1.0,
    warmup: Share = 0.1,
    free_bits: Annotated[float, Field(ge=0)] = 0.0,
    baseline: Literal["auto", "none", "running", "learned", "leave-one-out"] = "auto",
) -> Objective:
    """Maximise the evidence lower bound.

    Settings:
        kl: in closed form where one is known, or by Monte Carlo.
        samples: L draws of z per datum.
        beta: weight of the KL terms once warm-up is over (Higgins et al. 2017); 1 is the bound.
        warmup: share of training over which that weight rises linearly from 0 (Bowman et al. 2016,
            arXiv:1511.06349; Sønderby et al. 2016, arXiv:1602.02282); below its end the loss is no bound.
        free_bits: nats of KL per latent dimension, averaged over the batch, that cost nothing (Kingma et al. 2016,
            arXiv:1606.04934).
        baseline: of the score-function gradient of what is drawn without one of its own, as discrete variables are:
            what is subtracted from the bound of a draw. "auto" is leave-one-out where samples are 2 or more, else
            running; "learned" looks at the datum, averaged down to 64 numbers.
    """
    if baseline == "leave-one-out" and samples < 2:
        raise ConfigError("objective.baseline: leave-one-out compares draws; it needs objective.samples=2 or more")
    expected = _baseline(("leave-one-out" if samples > 1 else "running") if baseline == "auto" else baseline)

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch, particles=samples)
        weight = beta * (min(1.0, progress / warmup) if warmup else 1.0)
        scored = unreparameterised(e)
        closed = kl == "closed" and (not scored or len(e.inferred) == 1)  # else a term depends on several draws
        divergences = e.divergences(closed)
        bound = objective = e.reconstruction()
        for name, divergence in divergences.items():
            bound = bound - divergence
            if weight != 1.0 or free_bits:
                cost = _spared(e, name, free_bits, batch) if free_bits else divergence
                objective = objective - weight * cost
        plain = weight == 1.0 and not free_bits
        total = weighted_mean(bound if plain else objective, batch)
        logged = {"elbo": total.detach() if plain else weighted_mean(bound.detach(), batch)}
        for name, divergence in divergences.items():
            logged[f"kl_{name}"] = weighted_mean(divergence.detach(), batch)
        if scored:
            score = score_of_evidence(e, _by_draw(e, weight, closed), expected, pooled(batch["x"]))
            total = total + weighted_mean(score.value, batch) - score.baseline_loss
        return Terms(-total, logged)

    phase = GradientPhase(loss, lambda model: [*model.parameters(), *expected.parameters()])
    stage = Stage((phase,), warmup=warmup)
    what = "evidence lower bound, gradient ascent"
    return Objective((stage,), log_likelihood_bound, what, helpers=expected, through_draws=False)


SUMMARY = 64  # numbers of a datum that a learned baseline sees


def _baseline(name: str) -> Baseline:
    if name != "learned":
        return BASELINES[name]()
    hidden = [nn.LayerNorm(SUMMARY), nn.Linear(SUMMARY, SUMMARY), nn.Tanh()]
    return Learned(nn.Sequential(*hidden, nn.Linear(SUMMARY, 1)))


def pooled(x: Tensor) -> Tensor:
    """Data of any shape, averaged down to 64 numbers each, (B, 64)."""
    return adaptive_avg_pool1d(x.flatten(1).nan_to_num().unsqueeze(1), SUMMARY).squeeze(1)


@torch.no_grad()
def _by_draw(e: Evidence, weight: float, closed: bool) -> Tensor:
    """What is maximised, by draw, (K, B); a KL in closed form is the same for all draws."""
    value = sum((e.log_p[name] for name in e.explained()), torch.zeros(()))
    for name in e.inferred:
        if closed and e.closed_kl(name) is not None:
            continue
        log_p, log_q = e.log_p.get(name, torch.zeros(())), e.log_q.get(name, torch.zeros(()))
        value = value + weight * (log_p - log_q)
    return value


@component("objective", "iw", paper="Burda et al. 2016, arXiv:1509.00519; Tucker et al. 2019, arXiv:1810.04152")
def importance_weighted(
    *,
    particles: Count = 5,
    gradient: Literal["doubly-reparameterized", "pathwise", "leave-one-out"] = "doubly-reparameterized",
) -> Objective:
    """Maximise the importance-weighted bound, logmeanexp over K particles of log w.

    Settings:
        particles: K.
        gradient: "doubly-reparameterized" weighs q's path gradient by w̃² and drops its score term, whose signal
            vanishes as K grows; "pathwise" is the plain one; "leave-one-out" is for what is drawn without a gradient,
            as discrete variables are (Mnih and Rezende 2016, arXiv:1602.06725).
    """
    if gradient == "leave-one-out" and particles < 2:
        raise ConfigError("objective.gradient: leave-one-out compares draws; it needs objective.particles=2 or more")

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch, particles=particles)
        if gradient != "doubly-reparameterized":
            log_w = e.log_w
            scored = unreparameterised(e)
            if scored and gradient == "pathwise" and torch.is_grad_enabled():
                raise ConfigError(f"objective.gradient: draws of {scored[0]!r} carry no gradient; use leave-one-out")
            bound = weighted_mean(_log_mean_exp(log_w), batch)
            total = bound
            if scored and gradient == "leave-one-out":
                total = total + weighted_mean(_leave_one_out(e, scored, log_w.detach()), batch)
        else:
            total, log_w = _doubly_reparameterized(e, batch)
            bound = weighted_mean(_log_mean_exp(log_w), batch)
        return Terms(-total, {"elbo": weighted_mean(log_w.detach().mean(0), batch), "iw": bound.detach()})

    stage, through_draws = Stage((GradientPhase(loss),), monitor="iw"), gradient != "leave-one-out"
    return Objective((stage,), _validate(particles), "importance-weighted bound", through_draws=through_draws)


def _doubly_reparameterized(e: Evidence, batch: Batch) -> tuple[Tensor, Tensor]:
    """A surrogate whose gradient is the doubly-reparameterised one, and log w, (K, B), without gradient.

    With w̃ the normalised weights: ∇_θ = Σ w̃ ∂log w/∂θ and ∇_φ = Σ w̃² ∂log w/∂z ∂z/∂φ.

    Raises:
        ConfigError: q draws several variables, or one that carries no gradient.
    """
    if len(e.q) != 1 or len(e.inferred) != 1:
        names = ", ".join(e.inferred) or "nothing"
        raise ConfigError(
            f"objective.gradient: doubly-reparameterized needs exactly one hidden variable, q infers {names}; "
            f"use objective.gradient=pathwise"
        )
    (name,) = e.q
    z = e.values[name]
    if not hasattr(e.q[name], "detach"):
        kind = type(e.q[name]).__name__
        raise ConfigError(
            f"objective.gradient: doubly-reparameterized cannot stop the parameters of a {kind}; "
            f"use objective.gradient=pathwise"
        )
    log_w = e.log_w_stopped
    normalised = torch.softmax(log_w.detach(), 0)
    if z.requires_grad:
        per_draw = normalised.reshape(-1, *(1,) * (z.dim() - 1))
        z.register_hook(lambda gradient: gradient * per_draw)
    elif torch.is_grad_enabled():
        raise ConfigError(f"objective iw: {name!r} is not reparameterised; its draws carry no gradient")
    return weighted_mean((normalised * log_w).sum(0), batch), log_w.detach()


def _leave_one_out(e: Evidence, scored: list[str], log_w: Tensor) -> Tensor:
    """Σ_k (L − L_k) log q(z_k), whose value is made zero, (B,): L is the bound, L_k that without the draw k, in whose
    place stands the geometric mean of the others. Mnih and Rezende 2016, equation 9."""
    k = len(log_w)
    mean_of_others = (log_w.sum(0) - log_w) / (k - 1)
    replaced = torch.where(torch.eye(k, dtype=torch.bool, device=log_w.device)[..., None], mean_of_others, log_w)
    gain = _log_mean_exp(log_w) - _log_mean_exp(replaced.movedim(1, 0))  # (K, B)
    log_q = sum((e.log_q[name] for name in scored), torch.zeros(()))
    return (gain * (log_q - log_q.detach())).sum(0)


def _log_mean_exp(log_w: Tensor) -> Tensor:
    """(K, B) → (B,)."""
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def _validate(particles: int):
    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        e = model.evidence(batch, particles=particles)
        return {"elbo": e.elbo(), "iw": e.importance_bound()}

    return validate


def _spared(e: Evidence, name: str, free_bits: float, batch: Batch) -> Tensor:
    """The KL with each dimension's batch mean raised to at least `free_bits`, (B,)."""
    terms = e.kl_terms(name)
    if terms is None:
        raise ConfigError(f"objective.free_bits: no closed-form KL per dimension is known for {name!r}; use 0")
    terms = terms.flatten(1)  # (B, D)
    weight = batch.get("weight")
    mean = terms.mean(0) if weight is None else (terms * weight[:, None]).sum(0) / weight.sum()
    return torch.where(mean > free_bits, terms, free_bits).sum(1)
