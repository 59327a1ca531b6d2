"""The trainer that `jensen train` runs, in the middle of a run, as a contestant."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import ExitStack

from jensen.conditionals.amortized import set_precision
from jensen.hardware import no_denormals, pick_precision
from jensen.training.trainer import FIRST_ROWS, Trainer
from jensen.training.workers import together


def in_the_middle(trainer: Trainer, epochs: int = 1) -> Callable[[], int]:
    """So many epochs a round; a round gives the number of data that were trained on.

    Workers beside the first one live as long as this process.
    """
    model, objective = trainer.model, trainer.objective
    set_precision(model, pick_precision(trainer.settings.precision, trainer.device))
    if objective.prepare is not None:
        objective.prepare(model, trainer.train.take(slice(0, 2)))
    (objective.initialize or type(model).initialize)(model, trainer.train.take(slice(0, FIRST_ROWS)))
    trainer._start_stage()
    trainer.at.stage_step = (trainer.at.total_steps or 0) // 2
    stack = ExitStack()
    trainer.workers = stack.enter_context(together(trainer.settings.workers, trainer._message_bytes))
    with no_denormals():
        while trainer.workers.rank:  # it waits in the first exchange until the first worker comes
            trainer._epoch()
    atexit.register(stack.close)

    def work() -> int:
        with no_denormals():  # as in `run`
            for _ in range(epochs):
                trainer._epoch()  # what `run` repeats
        return epochs * len(trainer.train)

    return work
