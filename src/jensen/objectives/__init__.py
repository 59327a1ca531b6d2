"""What training maximises or matches."""

from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, UpdatePhase, weighted_mean

__all__ = ["Batch", "GradientPhase", "Objective", "Stage", "Terms", "UpdatePhase", "weighted_mean"]
