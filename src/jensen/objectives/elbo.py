"""The evidence lower bound as an objective.

    ELBO(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))

β, warm-up and free bits change the loss and never what is reported: `elbo` in the log is always the ELBO.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from jensen.core import EXACT, Evidence, Model
from jensen.errors import ConfigError
from jensen.objectives.gradients import BASELINES, Baseline, Learned, score_of_evidence, unreparameterised
from jensen.objectives.gradients.paths import one_path
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean
from jensen.objectives.schedules import Rise
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
    kl: Literal["closed", "monte-carlo", "sticking-the-landing"] = "closed",
    samples: Count = 1,
    beta: Annotated[float, Field(ge=0)] = 1.0,
    warmup: Share = 0.1,
    cycles: Count = 1,
    free_bits: Annotated[float, Field(ge=0)] = 0.0,
    free_bits_each: Literal["dimension", "layer"] = "dimension",
    baseline: Literal["auto", "none", "running", "learned", "leave-one-out"] = "auto",
) -> Objective:
    """Maximise the evidence lower bound.

    Settings:
        kl: in closed form where one is known; or by Monte Carlo; or by Monte Carlo without the score of q, whose mean
            is 0: where q is the exact posterior its gradient has no variance left (Roeder et al. 2017,
            arXiv:1703.09194).
        samples: L draws of z per datum.
        beta: weight of the KL terms once warm-up is over (Higgins et al. 2017); 1 is the bound.
        warmup: share of a cycle over which that weight rises linearly from 0 (Bowman et al. 2016,
            arXiv:1511.06349; Sønderby et al. 2016, arXiv:1602.02282); below its end the loss is no bound.
        cycles: of equal length, that training is divided into; in each the weight rises anew. Fu et al. 2019
            (arXiv:1903.10145) have 4 with a warm-up of 0.5.
        free_bits: nats of KL, averaged over the batch, that cost nothing (Kingma et al. 2016, arXiv:1606.04934).
        free_bits_each: whether each latent dimension has so many, or each layer of a hierarchy as a whole.
        baseline: of the score-function gradient of what is drawn without one of its own, as discrete variables are:
            what is subtracted from the bound of a draw. "auto" is leave-one-out where samples are 2 or more, else
            running; "learned" looks at the datum, averaged down to 64 numbers.
    """
    if baseline == "leave-one-out" and samples < 2:
        raise ConfigError("objective.baseline: leave-one-out compares draws; it needs objective.samples=2 or more")
    stl = kl == "sticking-the-landing"
    if stl and free_bits and free_bits_each == "dimension":
        raise ConfigError("objective.free_bits: needs the KL per dimension in closed form, and objective.kl has none")
    rise = Rise(warmup, cycles)
    expected = _baseline(("leave-one-out" if samples > 1 else "running") if baseline == "auto" else baseline)

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch, particles=samples)
        weight = beta * rise(progress)
        scored = unreparameterised(e)
        closed = kl == "closed" and (not scored or len(e.inferred) == 1)  # else a term depends on several draws
        divergences = _path_divergence(e) if stl else e.divergences(closed)
        if scored and free_bits and not closed and free_bits_each == "dimension":
            raise ConfigError(
                "objective.free_bits: what is drawn without a gradient of its own needs the KL in closed form; "
                "use 0, or objective.free_bits_each=layer"
            )
        bound = objective = e.reconstruction()
        weights: dict[str, float | Tensor] = {}  # of what each draw costs
        for name, divergence in divergences.items():
            bound = bound - divergence
            drawn = name in e.q  # the rest are codes: what they cost is no divergence of a draw
            weights[name] = weight if drawn else 1.0
            if weight != 1.0 or free_bits:
                cost = divergence
                if free_bits and drawn:
                    terms = divergence.unsqueeze(1) if free_bits_each == "layer" else _by_dimension(e, name)
                    cost, above = _spared(terms, free_bits, batch)
                    if free_bits_each == "layer":
                        weights[name] = weight * above
                objective = objective - (weight if drawn else 1.0) * cost
        plain = weight == 1.0 and not free_bits
        total = weighted_mean(bound if plain else objective, batch)
        logged = {"elbo": total.detach() if plain else weighted_mean(bound.detach(), batch)}
        for name, divergence in divergences.items():
            logged[f"kl_{name}"] = weighted_mean(divergence.detach(), batch)
        if scored:
            score = score_of_evidence(e, _by_draw(e, weights, closed), expected, pooled(batch["x"]))
            total = total + weighted_mean(score.value, batch) - score.baseline_loss
        return Terms(-total, logged)

    phase = GradientPhase(loss, lambda model: [*model.parameters(), *expected.parameters()])
    stage = Stage((phase,), rise=rise)
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
def _by_draw(e: Evidence, weights: Mapping[str, float | Tensor], closed: bool) -> Tensor:
    """What is maximised, by draw, (K, B); a KL in closed form is the same for all draws, and costs `weights`."""
    value = sum((e.log_p[name] for name in e.explained()), torch.zeros(()))
    for name, weight in weights.items():
        if closed and e.closed_kl(name) is not None:
            continue
        log_p, log_q = e.log_p.get(name, torch.zeros(())), e.log_q.get(name, torch.zeros(()))
        value = value + weight * (log_p - log_q)
    return value


def _path_divergence(e: Evidence) -> dict[str, Tensor]:
    """Mean over the draws of log q − log p, (B,), by name; its gradient goes along the path of the draw alone."""
    name = one_path(e, "objective.kl: sticking-the-landing", "use objective.kl=closed")
    return {name: (e.log_q_stopped(name) - e.log_p[name]).mean(0)}


def _by_dimension(e: Evidence, name: str) -> Tensor:
    """The KL of each dimension, (B, D)."""
    terms = e.kl_terms(name)
    if terms is None:
        raise ConfigError(
            f"objective.free_bits: no closed-form KL per dimension is known for {name!r}; "
            "use 0, or objective.free_bits_each=layer"
        )
    return terms.flatten(1)


def _spared(terms: Tensor, free_bits: float, batch: Batch) -> tuple[Tensor, Tensor]:
    """The sum of KL terms, (B, D) to (B,), the batch mean of each raised to at least `free_bits`; whether it was above
    that, 0 or 1, (D,).
    """
    weight = batch.get("weight")
    mean = terms.mean(0) if weight is None else (terms * weight[:, None]).sum(0) / weight.sum()
    above = mean > free_bits
    return torch.where(above, terms, free_bits).sum(1), above.to(terms.dtype)
