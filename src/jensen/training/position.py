"""Where training stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Position:
    """Where training stands. Everything here and the tensors beside it make a resume exact."""

    stage: int = 0
    epoch: int = 0  # complete passes in this stage
    batch: int = 0  # batches done in this pass
    step: int = 0  # batches done in all
    stage_step: int = 0
    total_steps: int | None = None  # of this stage, once known
    from_step: int = 0  # of this stage, when that became known, or was last changed
    from_progress: float = 0.0  # then
    timed_step: int = 0  # of this stage, from which on its speed is measured
    timed_seconds: float = 0.0  # then, and of what has been done since besides steps
    validation_seconds: float = 0.0  # of the last validation
    best: float | None = None
    best_step: int = 0  # of all stages
    best_early: bool = False  # measured while the loss was not yet the one wanted
    drops: int = 0  # times that the learning rate was cut
    compiled: bool = False  # in this stage, what can be
    skipped: int = 0  # steps left out since the last one taken
    norms: int = 0  # gradient norms that were finite
    usual_norm: float = 0.0  # their geometric mean, of late
    patience_step: int = 0
    seconds: float = 0.0
    done: bool = False
    calibration_seconds: float = 0.0  # of this stage
    extra: dict[str, Any] = field(default_factory=dict)

    def begin_stage(self) -> None:
        """At the beginning of the stage whose number stands here."""
        self.epoch = self.batch = self.stage_step = self.drops = self.skipped = self.patience_step = 0
        self.from_step = self.timed_step = 0
        self.compiled = False
        self.total_steps, self.best, self.best_early, self.calibration_seconds = None, None, False, 0.0
        self.from_progress = self.timed_seconds = 0.0

    def spend(self, seconds: float) -> None:
        """Of training."""
        self.seconds += seconds
        self.calibration_seconds += seconds

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: value for name, value in self.__dict__.items() if name != "extra"}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Stand where a record says. Raises `TypeError` where it holds something else."""
        self.__dict__.update(Position(**record).__dict__)
