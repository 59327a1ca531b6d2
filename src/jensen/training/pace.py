"""How long a stage of training is, how its learning rate moves, how often it is validated, and when it ends.

A budget of minutes becomes a number of steps as soon as the speed is known, and from then on steps count: what is done
in each does not depend on the clock, and a resume goes on with the number that it finds. Steps may become slower, as
those of a neural ODE that stiffens. So each time an eighth of the steps that were left is done, it is seen whether the
others still fit, and where they miss the budget by a twentieth or more their number is changed. Progress, and with it
the learning rate, goes on from where it stands, faster or slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jensen.objectives import Objective, Stage
from jensen.training.position import Position
from jensen.training.settings import Settings

VALIDATION_SHARE = 0.05  # validated data, as a share of the data trained on, in a long run
LEAST_VALIDATIONS = 20  # in a run whose length is known
LEAST_STEPS = 50  # between two validations
OPEN_ENDED_EPOCHS, OPEN_ENDED_STEPS = 100, 3000  # progress without a budget is measured against these
LEAST_PATIENCE_STEPS = 500
LEARNT_STEPS, LEARNT_SECONDS, LEARNT_SHARE = 20, 10.0, 0.05  # which tell the speed, or that share of the time
SLOW_SHARE = 0.25  # of the time, after which even one step does
LOOKS = 8  # the share of the steps left after which the speed is looked at again is one of so many
LEAST_SECONDS = 1.0  # in which it is measured then
MISSED = 0.05  # of the time, by which the end may be missed before the number of steps is changed
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
        elapsed: seconds of this stage, where a time is given, when they were last looked at.
    """

    def __init__(self, settings: Settings, objective: Objective, at: Position, rows: int, validated: int):
        self.settings, self.stages, self.at = settings, objective.stages, at
        self.steps_per_epoch = math.ceil(rows / settings.batch_size)
        self.affordable = max(1, math.ceil(objective.validation_cost * validated / (VALIDATION_SHARE * rows)))
        self.elapsed = 0.0

    @property
    def stage(self) -> Stage:
        return self.stages[self.at.stage]

    def begin_stage(self) -> None:
        """The stage whose number stands in the position."""
        self.at.begin_stage()
        self.elapsed = 0.0
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
            at.total_steps, at.from_step, at.from_progress = self._epochs * self.steps_per_epoch, 0, 0.0
        elif s.minutes is not None and s.minutes != minutes:
            at.total_steps = None
            self.measure_from(at.calibration_seconds)
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
            done, steps = at.stage_step - at.from_step, at.total_steps - at.from_step
            return min(1.0, at.from_progress + (1 - at.from_progress) * done / steps) if steps > 0 else 1.0
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
        many = steps >= min(LEARNT_STEPS, self.steps_per_epoch)
        usual = many and seconds >= min(LEARNT_SECONDS, LEARNT_SHARE * self._seconds)
        return usual or (steps >= 1 and (seconds >= SLOW_SHARE * self._seconds or self._is_spent))

    @property
    def _is_spent(self) -> bool:
        return self.elapsed >= self._seconds

    @property
    def _measured(self) -> tuple[int, float]:
        """Steps and seconds by which the speed is known."""
        return self.at.stage_step - self.at.timed_step, self.elapsed - self.at.timed_seconds

    def measure_from(self, elapsed: float) -> None:
        """What was until now, after so many seconds of the stage, says nothing of the speed of steps to come."""
        self.at.timed_step, self.at.timed_seconds = self.at.stage_step, elapsed

    def leave_out(self, validation: float) -> None:
        """A validation took so many seconds."""
        self.at.validation_seconds = validation
        self.at.timed_seconds += validation

    def fix(self, validate: Callable[[], float]) -> None:
        """Make steps of the time that is left, at the speed so far.

        Args:
            validate: validates once, and says how many seconds that took.
        """
        took = 0.0 if self._is_spent else validate()
        self._aim(self.steps_within(took))
        self.measure_from(self.elapsed + took)
        self.at.validation_seconds = took

    @property
    def is_due(self) -> bool:
        """Whether it is to be seen if the steps of a stage that has a time still fit into it."""
        at = self.at
        if at.total_steps is None or self.settings.minutes is None or self.stage.passes is not None:
            return False
        return at.stage_step - at.timed_step >= max(1, (at.total_steps - at.timed_step) // LOOKS)

    def adjust(self, elapsed: float) -> None:
        """Change the number of steps where those that are left, at the speed of late, miss the end.

        Args:
            elapsed: seconds of this stage.
        """
        self.elapsed = elapsed
        at, (steps, seconds) = self.at, self._measured
        assert at.total_steps is not None
        if seconds < LEAST_SECONDS:
            return
        step, left, planned = seconds / steps, self._seconds - elapsed, at.total_steps - at.stage_step
        validation, often = at.validation_seconds, self.steps_per_epoch * self.validate_every
        if abs(planned * step + validation * max(1.0, planned / often) - left) > MISSED * self._seconds:
            fitting = min((left - validation) / step, left / (step + validation / often))
            self._aim(at.stage_step + max(0, int(fitting)))
        self.measure_from(elapsed)

    def _aim(self, total: int) -> None:
        """Let the stage have so many steps in all, and progress go on from where it stands."""
        self.at.from_progress, self.at.from_step = self.progress, self.at.stage_step
        self.at.total_steps = total

    def steps_within(self, validation: float) -> int:
        """Steps of a timed stage in all, validations of so many seconds included, at the speed so far."""
        at, (steps, seconds) = self.at, self._measured
        step, left = seconds / steps, max(0.0, self._seconds - self.elapsed - validation)
        seldom = left / (step + validation / (self.steps_per_epoch * self.affordable))
        often = (left - LEAST_VALIDATIONS * validation) / step  # where the run is short
        each = (left - validation) / (step + validation / self.steps_per_epoch)  # where it has fewer epochs
        return at.stage_step + max(0, int(min(seldom, max(often, each))))

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
        """Whether none so far was better than a score, which is then known. What was measured while the loss was not
        yet the one wanted counts only until it is."""
        at, early = self.at, self.progress < self.stage.warmup
        best = at.best is None or score >= at.best or (at.best_early and not early)
        if best:
            if at.best is None or score - at.best > self._tolerance(at.best) or at.best_early > early:
                at.patience_step = at.stage_step
            at.best, at.best_step, at.best_early = score, at.step, early
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
