"""Samples while training: what the model makes as it learns, in the run folder."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jensen.data.audio import wav
from jensen.jobs import pictures
from jensen.jobs.given import given_as
from jensen.jobs.report.subject import Subject
from jensen.jobs.run import Run
from jensen.jobs.sample import sample
from jensen.training.folder import write_atomically
from jensen.training.trainer import Event

SHARE = 0.02  # of the time of training, at most
LINES, PICTURES, CLIPS = 3, 10, 4  # at a time
MARGIN, HEIGHT = 40, 6000  # pixels of a sheet, left of the pictures and in all


class Diary:
    """A listener that notes a few draws after validations, as seldom as keeps their share of the time small.

    Texts stand one after the other in `samples.txt`, pictures in rows of `samples.png`, the number of its epoch before
    each, clips in a file an epoch, `samples-EPOCH.wav`. The draws have a seed of their own: training with it is
    training without it. The weights are those of the step, not their average, which is kept.

    Args:
        run: in training, of what can be noted, with a folder.
        listener: what else is told.
        resume: add to what is there.
    """

    def __init__(self, run: Run, listener: Callable[[Event], None] | None, resume: bool):
        assert run.folder is not None
        self.run, self.listener, self.folder = run, listener, run.folder.path
        self.began, self.spent = time.perf_counter(), 0.0
        if not resume:
            for old in run.folder.samples():
                old.unlink()

    def __call__(self, event: Event) -> None:
        if self.listener is not None:
            self.listener(event)
        now = time.perf_counter()
        if event.kind != "epoch" or self.spent > SHARE * (now - self.began):
            return
        training, schema = self.run.model.training, self.run.schema
        self.run.model.eval()
        if schema.is_text:
            texts = self._drawn(LINES if schema.tokens.lines else 1)
            with (self.folder / "samples.txt").open("a", encoding="utf-8") as file:
                file.write(f"--- epoch {event.epoch}, step {event.step}\n" + "\n".join(texts) + "\n")
        elif schema.is_sound:
            clip = np.concatenate(list(self._drawn(CLIPS)))
            write_atomically(self.folder / f"samples-{event.epoch:04}.wav", wav(clip, schema.fields[0].rate or 1))
        else:
            path = self.folder / "samples.png"
            write_atomically(path, below(path, event.epoch, self._drawn(PICTURES), schema.levels or 256))
        self.run.model.train(training)
        self.spent += time.perf_counter() - now

    def _drawn(self, n: int) -> Any:
        """n draws, under conditions of the data where there are any."""
        if not self.run.model.conditions:
            return sample(self.run, n)
        return sample(self.run, given=given_as(self.run, Subject(self.run, None).few(n)[1], n))


def can_note(run: Run) -> bool:
    """Whether a model makes what a `Diary` can keep."""
    return run.folder is not None and run.capabilities.sample and run.schema.is_array


def below(path: Path, epoch: int, drawn: np.ndarray, levels: int) -> bytes:
    """A sheet with one more row of pictures, as a .png; the first rows go where it becomes too high.

    Args:
        path: of the sheet so far, which may not be there.
        drawn: (n, C, H, W).
    """
    row = pictures.grid(drawn, len(drawn), levels).convert("RGB")
    labelled = Image.new("RGB", (MARGIN + row.width, row.height), "white")
    labelled.paste(row, (MARGIN, 0))
    ImageDraw.Draw(labelled).text((4, row.height / 2), str(epoch), "black", anchor="lm")
    sheets = [labelled]
    if path.exists():
        with Image.open(io.BytesIO(path.read_bytes())) as before:
            sheets.insert(0, before.convert("RGB"))
    height = sum(sheet.height for sheet in sheets)
    whole = Image.new("RGB", (labelled.width, height), "white")
    whole.paste(sheets[0], (0, 0))
    whole.paste(labelled, (0, height - labelled.height))
    rows = max(1, HEIGHT // labelled.height)
    return pictures.png(whole.crop((0, max(0, height - rows * labelled.height), whole.width, height)))
