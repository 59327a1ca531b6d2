"""Progress of training on stderr: a live line on a terminal, now and then a plain one elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jensen.cli.printing import duration, note
from jensen.units import is_of_data

if TYPE_CHECKING:
    from jensen.training.trainer import Event

EVERY_SECONDS = 10.0  # between plain lines
PREFERRED = ("elbo", "log_likelihood", "iw", "reconstruction")


class TrainingProgress:
    """A listener of training; use as a context.

    Args:
        quiet: print nothing where stderr is no terminal.
        offset: nats that turn what is logged into the user's units, asked once training has begun.
    """

    def __init__(self, quiet: bool, offset: Callable[[], float] = lambda: 0.0):
        self.live = sys.stderr.isatty()
        self.quiet = quiet and not self.live
        self._offset_of, self._offset = offset, None
        self._said_at, self._train, self._valid, self._name = -EVERY_SECONDS, None, None, ""
        self._last, self._step = "", 0
        self.told = False  # of any step or epoch
        self.title = ""  # of what is trained, where there are several
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> TrainingProgress:
        if self.live:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> Any:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[words]}"),
            console=_stderr(),
            transient=True,
            redirect_stdout=False,
        )
        self._bar.start()
        self._task = self._bar.add_task("starting", total=None, words="")
        return self._bar

    def stop(self) -> None:
        """Clear the live line, until the next event, or say the last plain one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._last:
            note(self._last)
        self._last = ""

    def waits(self, words: str) -> None:
        """Show what is waited for while other processes train."""
        if self.live:
            bar = self._bar or self._start()
            bar.update(self._task, description=words)

    def __call__(self, event: Event) -> None:
        self.told = self.told or event.kind != "end"
        if self.quiet or event.kind == "end":
            return
        if event.step < self._step:  # of another training
            self._train = self._valid = None
        self._step = event.step
        self._remember(event)
        if event.kind == "stop":
            if self._bar is not None:  # which shows it soon: a handler of signals writes nothing itself
                self._bar.update(self._task, words="stops after this step; Ctrl-C again stops at once")
            return
        compiles = event.kind == "compile"
        words = "compiling, which takes tens of seconds" if compiles else ", ".join(self._words(event))
        if self.live:
            bar = self._bar or self._start()
            total = 1.0 if event.remaining is not None else None
            bar.update(
                self._task,
                description=self._where(event),
                completed=event.progress,
                total=total,
                words=words,
            )
        elif compiles:
            note(f"{self._where(event)}: {words}")
        elif event.kind == "epoch":
            self._last = f"{self._where(event)}: {words}"
            if time.monotonic() - self._said_at >= EVERY_SECONDS:
                note(self._last)
                self._said_at, self._last = time.monotonic(), ""

    def _where(self, event: Event) -> str:
        return ", ".join(filter(None, (self.title, event.stage, f"epoch {event.epoch}")))

    def _remember(self, event: Event) -> None:
        """Numbers as of the last event that brought some."""
        if self._offset is None:
            self._offset = self._offset_of()
        train, valid = event.logged.get("train", {}), event.logged.get("valid", {})
        names = (event.monitor, *PREFERRED)  # first of all what the summary will name
        found = next((n for n in names if n in (valid or train)), next(iter(valid or train), ""))
        if found and found != self._name and (valid or self._valid is None):  # numbers stand under one name
            self._name, self._train, self._valid = found, None, None
        changes = self._name in names and is_of_data(self._name)  # a loss of another kind has no units to change
        offset = self._offset if changes else 0.0
        if self._name in train:
            self._train = train[self._name] + offset
        elif valid:  # of another stage, which does not measure it in training
            self._train = None
        if self._name in valid:
            self._valid = valid[self._name] + offset

    def _words(self, event: Event) -> list[str]:
        words = []
        if event.rate:
            words.append(f"{event.rate:,.0f} data/s")
        if event.remaining is not None:
            words.append(f"{duration(max(0.0, event.remaining))} left{' of this stage' if event.stage else ''}")
        both = {"train": self._train, "valid": self._valid}
        if not event.held_out:  # what stands in for validation data is training data
            both = {"train": self._train if self._valid is None else self._valid}
        numbers = [f"{k} {v:.2f}" for k, v in both.items() if v is not None]
        if numbers:
            words.append(f"{self._name.replace('_', ' ')} {' '.join(numbers)}")
        return words


class ShareProgress:
    """A listener that is told the share done, in [0, 1]; shows a bar on a terminal and nothing elsewhere."""

    def __init__(self, title: str):
        self.title = title
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ShareProgress:
        if sys.stderr.isatty():
            from rich.progress import Progress

            self._bar = Progress(console=_stderr(), transient=True, redirect_stdout=False)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, share: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=share)


@contextlib.contextmanager
def working(title: str) -> Iterator[None]:
    """Something turns on a terminal while work is done that cannot say how far it is."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.live import Live
    from rich.spinner import Spinner

    with Live(Spinner("dots", title), console=_stderr(), transient=True, redirect_stdout=False):
        yield


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def log_jacobian_of(out: str) -> float:
    """Nats from prepared to the user's units, by the schema that training has written to its folder."""
    from jensen.training.folder import Folder

    folder = Folder(Path(out))
    return folder.schema().log_jacobian if folder.schema_path.exists() else 0.0
