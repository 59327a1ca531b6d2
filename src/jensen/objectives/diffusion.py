"""The bound of a diffusion model, one of its T terms at a time.

    ELBO(x) = E log p(x | z_1) − Σ_t E KL(q(z_{t−1} | z_t, x) ‖ p(z_{t−1} | z_t)) − KL(q(z_T | x) ‖ p(z_T))

With t uniform on 1 … T, T times the term of t is right on average: that of 1 is −log p(x | z_1), that of t > 1 the KL
of the step from t to t − 1; what is left at T is known. Over a batch the t are evenly spread, which takes noise out.
Kingma, Salimans, Poole and Ho, "Variational diffusion models", 2021, arXiv:2107.00630. With all errors weighed alike:
Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from jensen.conditionals.denoising import Denoiser
from jensen.conditionals.noising import Noised, Noising
from jensen.core import Model
from jensen.errors import ConfigError
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean

Weighting = Literal["bound", "simple"]
TERMS = 2000  # of a batch in validation, at least


class Term(NamedTuple):
    """Of each datum one term of the bound, and what is left at T, in nats, (B,), and the term in plain weights."""

    nats: Tensor
    arrival: Tensor
    plain: Tensor


def diffusion(weighting: Weighting = "bound") -> Objective:
    """Learn to take noise away, by a random term of the bound for each datum.

    Args:
        weighting: "bound", the terms as they are; or "simple", the mean squared error of what the network predicts,
            whatever t, and of t = 1 the nats per element; variances are learned by the bound. What is logged is the
            bound.
    """

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        steps = _noising(model)[1].schedule.steps
        term = one_term(model, batch, spread(len(batch["x"]), steps, batch["x"].device))
        bound = -steps * term.nats - term.arrival
        minimised = -bound if weighting == "bound" else term.plain
        return Terms(weighted_mean(minimised, batch), {"elbo": weighted_mean(bound.detach(), batch)})

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        n, steps = len(batch["x"]), _noising(model)[1].schedule.steps
        times = min(steps, -(-TERMS // n))  # few data have several terms each
        seen = {k: v.repeat(times, *(1,) * (v.dim() - 1)) for k, v in batch.items() if k in ("x", *model.context)}
        term = one_term(model, seen, spread(times * n, steps, batch["x"].device))
        return {"elbo": (-steps * term.nats - term.arrival).view(times, n).mean(0)}

    what = "evidence lower bound a term at a time, gradient descent"
    return Objective((Stage((GradientPhase(loss),)),), validate, what, validation_cost=0.4)


def spread(n: int, steps: int, device: torch.device | str = "cpu") -> Tensor:
    """t of n data, (n,), each uniform on 1 … T and together evenly spread."""
    u = (torch.rand((), device=device) + torch.arange(n, device=device) / n).frac()
    return (u * steps).long().clamp(max=steps - 1) + 1


def one_term(model: Model, batch: Batch, t: Tensor, z: Tensor | None = None) -> Term:
    """The term of t, (B,) from 1, for each datum.

    Args:
        z: z_t, (B, *event); by default drawn.
    """
    name, noising = _noising(model)
    q: Noised = noising(batch["x"])
    z = q.marginal(t).rsample() if z is None else z
    nats = plain = z.new_zeros(len(z))
    first, later = (t == 1).nonzero()[:, 0], (t > 1).nonzero()[:, 0]
    if len(first):
        rows = {key: value[first] for key, value in batch.items() if key in ("x", *model.context)}
        found = -model.evidence({**rows, name: z[first].unsqueeze(1)}).log_p[model.data][0]
        nats = nats.index_add(0, first, found)
        plain = plain.index_add(0, first, found / rows["x"][0].numel())
    if len(later):
        p = model.p[name]
        denoiser: Denoiser = p.module.denoiser  # pyright: ignore[reportAssignmentType]
        context = p.module(*(batch[parent][later] for parent in p.parents)).context
        guess = denoiser.guess(z[later], t[later], context)
        error = (q.x[later] - guess.x).square()
        nats = nats.index_add(0, later, q.cost(t[later], error, guess.share))
        weight = denoiser.error_weight(q.gamma[t[later] - 1])
        width = q.cost(t[later], error.detach(), guess.share) / error[0].numel()  # of p's steps, to learn v
        plain = plain.index_add(0, later, weight * error.flatten(1).mean(1) + width)
    return Term(nats, q.arrival(), plain)


def _noising(model: Model) -> tuple[str, Noising]:
    """The chain that q draws."""
    for factor in model.q:
        if isinstance(factor.module, Noising):
            return factor.name, factor.module
    raise ConfigError("the bound of a diffusion model needs a chain that q noises, and this model has none")
