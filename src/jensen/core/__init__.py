"""The idea in four files: joint, evidence (the walk), model, score."""

from jensen.core.evidence import Evidence, Observed, evidence
from jensen.core.joint import Deterministic, Factor, Joint, on
from jensen.core.model import ESTIMATE, EXACT, LOWER_BOUND, Capabilities, Model, frozen
from jensen.core.randomness import seeded
from jensen.core.score import Difference, Score, Shown, difference, mean_and_stderr

__all__ = [
    "ESTIMATE",
    "EXACT",
    "LOWER_BOUND",
    "Capabilities",
    "Deterministic",
    "Difference",
    "Evidence",
    "Factor",
    "Joint",
    "Model",
    "Observed",
    "Score",
    "Shown",
    "difference",
    "evidence",
    "frozen",
    "mean_and_stderr",
    "on",
    "seeded",
]
