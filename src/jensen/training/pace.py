"""How long a stage of training is, how its learning rate moves, how often it is validated, and when it ends."""

from __future__ import annotations

import math

from jensen.objectives import Objective, Stage
from jensen.training.position import Position
from jensen.training.settings import Settings

VALIDATION_SHARE = 0.05  # validated data, as a share of the data trained on, in a long run
LEAST_VALIDATIONS = 20  # in a run whose length is known
LEAST_STEPS = 50  # between two validations
OPEN_ENDED_EPOCHS, OPEN_ENDED_STEPS = 100, 3000  # progress without a budget is measured against these
LEAST_PATIENCE_STEPS = 500
DROPS = 1  # times that the learning rate is cut before training without a budget ends


class Pace:
    """The schedule of training, stage by stage.

    Args:
        at: where training stands, always the same object.
        rows: of training data.
        validated: rows of validation data, 0 where training itself is monitored.

    Attributes:
        steps_per_epoch: batches of a pass.
        affordable: epochs between validations that keep their share of the time small.
        elapsed: seconds of this stage, while its number of steps is not fixed.
        compiling: seconds of a first step that compiles.
    """

    def __init__(self, settings: Settings, objective: Objective, at: Position, rows: int, validated: int):
        self.settings, self.stages, self.at = settings, objective.stages, at
        self.steps_per_epoch = math.ceil(rows / settings.batch_size)
        self.affordable = max(1, math.ceil(objective.validation_cost * validated / (VALIDATION_SHARE * rows)))
        self.elapsed = self.compiling = 0.0
        self._measured_from = 0, 0.0  # steps and seconds of the stage that say nothing of its speed now

    @property
    def stage(self) -> Stage:
        return self.stages[self.at.stage]

    def begin_stage(self) -> None:
        """The stage whose number stands in the position."""
        self.at.begin_stage()
        self.elapsed, self._measured_from = 0.0, (0, 0.0)
        if self.stage.passes is not None:
            self.at.total_steps = self.stage.passes * self.steps_per_epoch
        elif self.settings.epochs is not None:
            self.at.total_steps = self._epochs * self.steps_per_epoch

    def extend(self, minutes: float | None) -> None:
        """A budget given on resume lengthens the run, or ends it sooner; a finished run goes on.

        Args:
            minutes: that the run was given before.
        """
        s, at = self.settings, self.at
        if self.stage.passes is not None:
            return
        if s.epochs is not None:
            at.total_steps = self._epochs * self.steps_per_epoch
        elif s.minutes is not None and s.minutes != minutes:
            at.total_steps, self._measured_from = None, (at.stage_step, at.calibration_seconds)  # measured anew
        else:
            return
        fixed, budget = at.total_steps, self._seconds
        more = fixed > at.stage_step if fixed is not None else budget > self.elapsed
        at.done = at.done and not more

    # Length

    @property
    def _epochs(self) -> int:
        """Of this stage, where their number is given."""
        done = sum(stage.share for stage in self.stages[: self.at.stage] if stage.passes is None)
        first, last = (round(share * (self.settings.epochs or 0)) for share in (done, done + self.stage.share))
        return max(1, last - first)

    @property
    def _seconds(self) -> float:
        """That this stage may take, where a time is given."""
        return self.stage.share * 60 * (self.settings.minutes or 0)

    @property
    def open_ended(self) -> bool:
        return self.stage.passes is None and self.settings.epochs is None and self.settings.minutes is None

    @property
    def progress(self) -> float:
        """Share of this stage's training that is done, in [0, 1]."""
        at, s = self.at, self.settings
        if at.total_steps is not None:
            return min(1.0, at.stage_step / at.total_steps)
        if s.minutes is not None:
            return min(1.0, self.elapsed / self._seconds)
        nominal = max(OPEN_ENDED_STEPS, OPEN_ENDED_EPOCHS * self.steps_per_epoch)
        return min(1.0, at.stage_step / min(nominal, s.max_epochs * self.steps_per_epoch))  # a warm-up always ends

    @property
    def is_timed(self) -> bool:
        """Whether a time is given, and it is not known yet how many steps that makes."""
        return self.at.total_steps is None and self.settings.minutes is not None

    @property
    def knows_its_speed(self) -> bool:
        """Whether enough steps of a timed stage are done to tell how long the others take."""
        steps, seconds = self._measured
        return steps >= min(20, self.steps_per_epoch) and seconds >= min(10.0, 0.05 * self._seconds)

    @property
    def _measured(self) -> tuple[int, float]:
        """Steps and seconds by which the speed is known."""
        steps, seconds = self._measured_from
        return self.at.stage_step - steps, self.elapsed - seconds

    def steps_within(self, validation: float) -> int:
        """Steps of a timed stage in all, validations of so many seconds included, at the speed so far."""
        at, (steps, seconds) = self.at, self._measured
        step, left = (seconds - self.compiling) / steps, max(0.0, self._seconds - self.elapsed)
        seldom = left / (step + validation / (self.steps_per_epoch * self.affordable))
        often = (left - LEAST_VALIDATIONS * validation) / step  # where the run is short
        each = (left - 2 * validation) / (step + validation / self.steps_per_epoch)  # where it has fewer epochs
        return at.stage_step + max(1, int(min(seldom, max(often, each))))

    # In training

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        s, progress = self.settings, self.progress
        rise = min(1.0, (progress + 1e-9) / s.lr_warmup) if s.lr_warmup and not self.open_ended else 1.0
        schedule = ("constant" if self.open_ended else "cosine") if s.schedule == "auto" else s.schedule
        if schedule == "cosine":
            rise *= 0.5 * (1 + math.cos(math.pi * progress))
        elif schedule == "linear":
            rise *= 1 - progress
        return s.lr * (rise * 0.1**self.at.drops)

    @property
    def validate_every(self) -> int:
        """Epochs between validations: 50 steps at least, and few enough that validation costs little of the time,
        but twenty in a run whose length is known."""
        if not self.stage.has_gradient:
            return 1
        every = max(math.ceil(LEAST_STEPS / self.steps_per_epoch), self.affordable)
        if self.at.total_steps is not None:
            every = min(every, max(1, self.at.total_steps // self.steps_per_epoch // LEAST_VALIDATIONS))
        return every

    # The end

    @property
    def is_over(self) -> bool:
        """Whether the budget of the stage is spent."""
        at = self.at
        spent = at.total_steps is not None and at.stage_step >= at.total_steps
        return spent or (self.open_ended and at.epoch >= self.settings.max_epochs)

    def improves(self, score: float) -> bool:
        """Whether a score is the best so far, which is then known. What was measured while the loss was not yet the
        one wanted counts only until it is."""
        at, early = self.at, self.progress < self.stage.warmup
        best = at.best is None or score > at.best or (at.best_early and not early)
        if best:
            if at.best is None or score - at.best > self._tolerance(at.best) or at.best_early > early:
                at.patience_step = at.stage_step
            at.best, at.best_step, at.best_early = score, at.stage_step, early
        return best

    def _tolerance(self, best: float) -> float:
        """What counts as improvement: anything for a gradient; EM creeps for ever, so its steps must be visible."""
        return 0.0 if self.stage.has_gradient else 1e-7 * max(1.0, abs(best))

    def loses_patience(self) -> bool:
        """Without a budget: whether validation has stopped improving, the learning rate having been cut once."""
        if not self.open_ended:
            return False
        at = self.at
        if self.progress < self.stage.warmup:
            at.patience_step = at.stage_step
            return False
        epochs = max(self.settings.patience, 3 * self.validate_every)  # nothing improves unmeasured
        patience = max(epochs * self.steps_per_epoch, LEAST_PATIENCE_STEPS)
        if not self.stage.has_gradient:
            patience = 5 * self.steps_per_epoch
        if at.stage_step - at.patience_step < patience:
            return False
        at.patience_step = at.stage_step
        at.drops += 1
        return at.drops > DROPS or not self.stage.has_gradient
