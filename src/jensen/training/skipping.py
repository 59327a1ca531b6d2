"""Steps that are left out for their gradient.

Child, "Very deep VAEs generalize autoregressive models and can outperform them on images", 2021, arXiv:2011.10650.
"""

from __future__ import annotations

import math

import torch

from jensen.training.position import Position
from jensen.training.settings import Settings

STORM = 100  # steps left out in a row, or all of a pass, that end training: it has lost its way
LEAST_STORM = 10
NORMS = 50  # steps that a usual gradient norm is a mean of, about
LEAST_NORMS = 20  # steps before it is known


class Skipping:
    """Which steps are taken: those with a finite loss and a gradient norm within a limit.

    Args:
        at: where training stands, with what is known of norms.
    """

    def __init__(self, settings: Settings, at: Position):
        self.settings, self.at = settings, at

    @property
    def limit(self) -> float:
        """The gradient norm up to which a step is taken."""
        s, at = self.settings, self.at
        by_factor = s.skip_factor * at.usual_norm if s.skip_factor and at.norms >= LEAST_NORMS else math.inf
        return min(s.skip_above or math.inf, by_factor, torch.finfo(torch.float32).max)

    def takes(self, loss: float, norm: float) -> bool:
        """Whether a step is taken. Its norm enters the usual one in any case: where norms grow, it grows."""
        taken = math.isfinite(loss) and norm <= self.limit
        if math.isfinite(norm):
            self._remember(norm)
        self.at.skipped = 0 if taken else self.at.skipped + 1
        return taken

    def storm(self, steps_per_epoch: int) -> int | None:
        """How many steps were left out in a row, where it is too many."""
        many = min(STORM, max(LEAST_STORM, steps_per_epoch))
        return many if self.at.skipped >= many else None

    def _remember(self, norm: float) -> None:
        at = self.at
        at.norms, share = at.norms + 1, max(1 / (at.norms + 1), 1 / NORMS)
        size = max(norm, torch.finfo(torch.float32).tiny)
        at.usual_norm = size if at.norms == 1 else at.usual_norm ** (1 - share) * size**share
