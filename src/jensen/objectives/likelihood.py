"""Maximum likelihood where log p(x) is exact."""

from __future__ import annotations

from torch import Tensor

from jensen.core import Model
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, UpdatePhase, weighted_mean


def exact_log_likelihood(model: Model, batch: Batch) -> dict[str, Tensor]:
    """log p(x) of each datum, (B,), in nats; one walk suffices as log w is constant."""
    return {"log_likelihood": model.evidence(batch).elbo()}


def maximum_likelihood() -> Objective:
    """Ascend the exact log-likelihood by its gradient."""

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        total = weighted_mean(model.evidence(batch).elbo(), batch)
        return Terms(-total, {"log_likelihood": total.detach()})

    stage = Stage((GradientPhase(loss),), monitor="log_likelihood")
    return Objective((stage,), exact_log_likelihood, "maximum likelihood, gradient ascent")


def updates(phase: UpdatePhase, description: str, passes: int | None) -> Objective:
    """Maximum likelihood by an update once a pass: a closed form (one pass) or expectation maximisation."""
    return Objective((Stage((phase,), passes, "log_likelihood"),), exact_log_likelihood, description)
