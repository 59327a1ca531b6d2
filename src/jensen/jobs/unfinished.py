"""A choice that is not done yet: what was found so far, kept beside the folder of its run until that is complete.

choice.json          what is chosen for which table, and what was found
1/, 2/, ...          runs of trials, in the order in which candidates are tried; later what become members of the run
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jensen.errors import ConfigError, DataError, IntegrityError
from jensen.jobs.run import Run, open_run
from jensen.training.folder import PATIENCE, Folder, locked, write_atomically

RECORD = "choice.json"


def place_beside(out: str | os.PathLike[str]) -> Path:
    """The folder of trials: `runs/a.trials` of `runs/a`."""
    path = Path(out).absolute()
    return path.with_name(f"{path.name}.trials")


def plain(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task as JSON has it, so that it equals what was kept."""
    return json.loads(json.dumps(task, default=str))


def finished(out: str | os.PathLike[str], task: Mapping[str, Any]) -> Run | None:
    """The run of a choice that is over; None where none is, or another one is under way.

    Raises:
        ConfigError: it was another task.
    """
    folder = Folder(out)
    if (place_beside(out) / RECORD).exists() or not folder.spec_path.exists() or "choice" not in folder.spec():
        return None
    if folder.spec()["choice"] != signature(task):
        raise ConfigError(f"--resume: the choice for {out} is done; it was of other data, or by other arguments")
    return open_run(out)


def signature(task: Mapping[str, Any]) -> str:
    """What tells a task from others."""
    return hashlib.sha256(json.dumps(task).encode()).hexdigest()


def check_same(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises `ConfigError` naming what is another in two tasks."""
    problems = []
    for key in {**was, **now}:
        a, b = was.get(key), now.get(key)
        told = "another" if isinstance(a, dict | list) else f"{a!r}, got {b!r}"
        if a != b:
            problems.append(f"--resume: {key} was {told} when this choice began; it cannot change now")
    if problems:
        raise ConfigError(problems)


class Unfinished:
    """Notes of a choice, and where its trials stand; of one in memory nothing is kept.

    Args:
        out: the folder of the run.
        task: all that what is found depends on, as plain values by name.
        overwrite: replace what is in `out`, and other notes.
        resume: go on by the notes that are there.

    Raises:
        ConfigError: `out` exists, or there are notes, and it was not said what to do; there are none to go on with; or
            those are of another task.
        IntegrityError: notes that cannot be read.
    """

    def __init__(self, out: str | os.PathLike[str] | None, task: Mapping[str, Any], overwrite: bool, resume: bool):
        self._task = task
        self._said: dict[str, Any] = {"task": task, "overwrite": overwrite}
        self._resume = resume
        self.out = None if out is None else Path(out)
        self.path = None if out is None else place_beside(out)
        if self.out is None:
            return
        self._check()

    def _check(self) -> None:
        """Raises `ConfigError` where it may not be chosen here."""
        assert self.out is not None and self.path is not None
        if self._resume:
            self._go_on()
        elif self._record.exists() and not self["overwrite"]:
            raise ConfigError(
                f"--out: of {self.out} a choice is under way, in {self.path}; use --resume to go on or --overwrite to "
                "begin anew"
            )
        elif not self._record.exists() and self.path.exists() and self._others():
            raise ConfigError(f"--out: trials for {self.out} stand in {self.path}, and something else is there already")
        if not self["began"]:
            Folder(self.out).stands(self["overwrite"], "--overwrite to replace it")

    def _others(self) -> list[Path]:
        """What is in the folder of trials where no notes say that they are such."""
        assert self.path is not None
        half = f".{self._record.name}."  # of notes, by a process that was killed
        return [path for path in self.path.iterdir() if not path.name.startswith(half)]

    def _trials(self) -> list[Path]:
        """The folders of trials."""
        assert self.path is not None
        return [path for path in self.path.glob("[0-9]*") if path.name.isdecimal()]

    @property
    def _record(self) -> Path:
        assert self.path is not None
        return self.path / RECORD

    def _go_on(self) -> None:
        if not self._record.exists():
            raise ConfigError(f"--resume: no choice is under way at {self.out}: there is no {self.path}")
        try:
            said = json.loads(self._record.read_text())
            was = dict(said["task"])
        except (ValueError, KeyError, TypeError):
            raise IntegrityError(f"{self._record} is corrupt; --overwrite begins anew") from None
        check_same(was, self._task)
        self._said = said

    def __getitem__(self, name: str) -> Any:
        """What was noted under a name, or None."""
        return self._said.get(name)

    def note(self, **said: Any) -> None:
        """Keep plain values by name."""
        self._said |= said
        if self.path is not None:
            write_atomically(self._record, json.dumps(self._said, indent=1))

    @contextmanager
    def held(self) -> Iterator[None]:
        """While this process chooses here. What is refused before anything was trained leaves nothing behind.

        Raises:
            ConfigError: another process chooses here.
        """
        if self.path is None:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path, PATIENCE):
                self._check()  # again: meanwhile another process may have been here
                if not self._resume:
                    self.discard_trials()
                self.note()
                try:
                    yield
                except (ConfigError, DataError):
                    if not self["began"] and not any(self.path.glob("*/state/*")):
                        self.discard()
                    raise
        except BlockingIOError:
            raise ConfigError(
                f"--out: another process is choosing for {self.out}; wait for its end, or name another folder"
            ) from None

    def trial(self, number: int) -> Path | None:
        """The folder of a trial's run; None where nothing is kept."""
        return None if self.path is None else self.path / str(number)

    def begin_last(self) -> None:
        """Note that what stood in `out` makes way for what was chosen."""
        if self.out is not None and not self["began"]:
            folder = Folder(self.out)
            folder.stands(self["overwrite"], "--overwrite to replace it")  # that came during the trials
            folder.state_path.unlink(missing_ok=True)  # so that nobody goes on with it
            for path in folder.members_path.glob("*/spec.yaml"):
                Folder(path.parent).discard()
            self.discard_trials()
            self.note(began=True)

    def last(self, number: int) -> Path | None:
        """Where one of the last trainings stands: the first, 0, in `out`, others among trials until all are done."""
        if self.out is None or number == 0:
            return self.out
        own = self._member(number)
        return own.path if own.spec_path.exists() else self.trial(number)

    def placed(self, count: int) -> list[Folder | None]:
        """The folders of so many last trainings, all done: those after the first moved into the first one's."""
        if self.out is None or self.path is None:
            return [None] * count
        members = [self._member(number) for number in range(1, count)]
        for number, own in enumerate(members, 1):
            if not own.spec_path.exists():
                Folder(self.path / str(number)).move(own.path)
        return [Folder(self.out), *members]

    def _member(self, number: int) -> Folder:
        assert self.out is not None
        return Folder(Folder(self.out).members_path / str(number))

    def discard_trials(self) -> None:
        """Remove the runs of the trials."""
        if self.path is not None:
            for path in self._trials():
                Folder(path).discard()

    def discard(self) -> None:
        """Remove all of it, and nothing else."""
        if self.path is not None:
            self.discard_trials()
            for path in (*self.path.glob(f".{self._record.name}.*"), self._record):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()
