"""Samples while training: what the model writes as it learns, in the run folder's `samples.txt`."""

from __future__ import annotations

import time
from collections.abc import Callable

from jensen.jobs.run import Run
from jensen.jobs.sample import sample
from jensen.training.trainer import Event

SHARE = 0.02  # of the time of training, at most
LINES = 3
FILE = "samples.txt"


class Diary:
    """A listener that notes a few texts after validations, as seldom as keeps their share of the time small.

    The draws have a seed of their own: training with it is training without it. The weights are those of the step, not
    their average, which is kept.

    Args:
        run: in training, of text, with a folder.
        listener: what else is told.
        resume: add to what is there.
    """

    def __init__(self, run: Run, listener: Callable[[Event], None] | None, resume: bool):
        assert run.folder is not None
        self.run, self.listener, self.path = run, listener, run.folder.path / FILE
        self.began, self.spent = time.perf_counter(), 0.0
        if not resume:
            self.path.unlink(missing_ok=True)

    def __call__(self, event: Event) -> None:
        if self.listener is not None:
            self.listener(event)
        now = time.perf_counter()
        if event.kind != "epoch" or self.spent > SHARE * (now - self.began):
            return
        training = self.run.model.training
        self.run.model.eval()
        texts = sample(self.run, LINES if self.run.schema.tokens.lines else 1)
        self.run.model.train(training)
        head = f"--- epoch {event.epoch}, step {event.step}\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(head + "\n".join(texts) + "\n")
        self.spent += time.perf_counter() - now
