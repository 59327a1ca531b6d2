"""Maximum likelihood where log p(x) is exact."""

from __future__ import annotations

from torch import Tensor

from jensen.core import Model
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, UpdatePhase, weighted_mean


def maximum_likelihood(monitor: str = "log_likelihood") -> Objective:
    """Ascend by its gradient the exact log-likelihood, or, named "elbo", the bound of one draw."""

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        total = weighted_mean(model.evidence(batch).elbo(), batch)
        return Terms(-total, {monitor: total.detach()})

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        return {monitor: model.evidence(batch).elbo()}

    what = "maximum likelihood" if monitor == "log_likelihood" else "evidence lower bound"
    return Objective((Stage((GradientPhase(loss),), monitor=monitor),), validate, f"{what}, gradient ascent")


def log_likelihood(model: Model, batch: Batch) -> dict[str, Tensor]:
    """log p(x) of each datum, (B,), in nats; one walk suffices where log w is constant."""
    return {"log_likelihood": model.evidence(batch).elbo()}


def updates(phase: UpdatePhase, description: str, passes: int | None) -> Objective:
    """Maximum likelihood by an update once a pass: a closed form (one pass) or expectation maximisation."""
    return Objective((Stage((phase,), passes, "log_likelihood"),), log_likelihood, description)
