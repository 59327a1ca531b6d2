"""Objectives that weigh what the latent code costs otherwise than the bound does.

    maximise  E_q[log p(x | z)] − cost,        where the bound itself has cost = KL(q(z | x) ‖ p(z))

Whatever the cost is, what is logged as `elbo` is the ELBO.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from jensen.core import Evidence, Model
from jensen.errors import ConfigError
from jensen.objectives.elbo import log_likelihood_bound
from jensen.objectives.gradients import unreparameterised
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean
from jensen.objectives.schedules import Rise


class Cost(NamedTuple):
    """What a code costs, (), and what of it is logged; all in nats, means over the batch."""

    value: Tensor
    logged: dict[str, Tensor]


class Costs(Protocol):
    def __call__(self, e: Evidence, kl: Tensor, batch: Batch, rise: float) -> Cost:
        """The cost of a walk whose KL terms sum to `kl`, (B,), with the warm-up at `rise`, in [0, 1]."""
        ...


def regularised(
    name: str,
    cost: Costs,
    warmup: float,
    *,
    closed: bool = True,
    validate: Callable[[Model, Batch], dict[str, Tensor]] = log_likelihood_bound,
    critic: GradientPhase | None = None,
    helpers: nn.Module | None = None,
    prepare: Callable[[Model, Batch], None] | None = None,
    several: bool = False,
) -> Objective:
    """An objective that maximises reconstruction less a cost.

    Args:
        name: for messages.
        warmup: the share of training over which the cost rises.
        closed: whether KL terms are in closed form where one is known.
        critic: a phase that follows each step, for helpers that learn.
        several: whether q may infer several variables.
    """
    rise = Rise(warmup)

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch)
        expect_paths(e, name)
        divergences, reconstruction = e.divergences(closed), e.reconstruction()
        for code in [name for name in divergences if name not in e.q]:  # of the data: what it costs is no divergence
            reconstruction = reconstruction - divergences.pop(code)
        kl = sum(divergences.values(), torch.zeros_like(reconstruction))
        paid = cost(e, kl, batch, rise(progress))
        logged = {"elbo": weighted_mean((reconstruction - kl).detach(), batch)}
        logged |= {f"kl_{key}": weighted_mean(value.detach(), batch) for key, value in divergences.items()}
        return Terms(paid.value - weighted_mean(reconstruction, batch), logged | paid.logged)

    phases = (GradientPhase(loss), *([critic] if critic else []))
    stage = Stage(phases, rise=rise)
    what = f"evidence lower bound, {name}"
    return Objective((stage,), validate, what, helpers=helpers, prepare=prepare, several=several)


def expect_paths(e: Evidence, name: str) -> None:
    """Raise `ConfigError` where a draw of q carries no gradient."""
    scored = unreparameterised(e)
    if scored:
        raise ConfigError(f"objective: {name!r} differentiates through draws of {scored[0]!r}; use objective=elbo")


def one_code(e: Evidence, name: str) -> str:
    """The name of the one hidden variable of a walk. Raises `ConfigError` where there is none or another."""
    codes = [key for key in e.q if key in e.p]
    if len(codes) != 1:
        found = ", ".join(codes) or "nothing"
        raise ConfigError(
            f"objective: {name!r} needs exactly one hidden variable, q infers {found}; use objective=elbo"
        )
    return codes[0]
