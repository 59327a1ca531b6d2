"""Maximise log p(x | z) at a deterministic code: least squares where the likelihood is a Gaussian of fixed scale."""

from __future__ import annotations

from torch import Tensor

from jensen.core import Model
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean


def reconstruction() -> Objective:
    """The objective of an autoencoder. Logged as `reconstruction`, in nats; it is no bound on anything."""

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"reconstruction": model.evidence(batch).reconstruction()}

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        total = weighted_mean(model.evidence(batch).reconstruction(), batch)
        return Terms(-total, {"reconstruction": total.detach()})

    stage = Stage((GradientPhase(loss),), monitor="reconstruction")
    return Objective((stage,), validate, "reconstruction, gradient ascent")
