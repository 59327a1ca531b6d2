"""Bounds on the log-likelihood as objectives: the ELBO and its relatives, and the importance-weighted bound.

    ELBO(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))

β, warm-up and free bits change the loss and never what is reported: `elbo` in the log is always the ELBO.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from jensen.core import EXACT, Evidence, Model
from jensen.errors import ConfigError
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
    """

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch, particles=samples)
        weight = beta * (min(1.0, progress / warmup) if warmup else 1.0)
        divergences = e.divergences(closed=kl == "closed")
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
        return Terms(-total, logged)

    stage = Stage((GradientPhase(loss),), warmup=warmup)
    return Objective((stage,), log_likelihood_bound, "evidence lower bound, gradient ascent")


@component("objective", "iw", paper="Burda et al. 2016, arXiv:1509.00519; Tucker et al. 2019, arXiv:1810.04152")
def importance_weighted(
    *, particles: Count = 5, gradient: Literal["doubly-reparameterized", "pathwise"] = "doubly-reparameterized"
) -> Objective:
    """Maximise the importance-weighted bound, logmeanexp over K particles of log w.

    Settings:
        particles: K.
        gradient: "doubly-reparameterized" weighs q's path gradient by w̃² and drops its score term, whose signal
            vanishes as K grows; "pathwise" is the plain one.
    """

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch, particles=particles)
        if gradient == "pathwise":
            log_w = e.log_w
            bound = weighted_mean(_log_mean_exp(log_w), batch)
            total = bound
        else:
            total, log_w = _doubly_reparameterized(e, batch)
            bound = weighted_mean(_log_mean_exp(log_w), batch)
        return Terms(-total, {"elbo": weighted_mean(log_w.detach().mean(0), batch), "iw": bound.detach()})

    return Objective((Stage((GradientPhase(loss),), monitor="iw"),), _validate(particles), "importance-weighted bound")


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
