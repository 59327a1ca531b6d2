"""A choice that is not done yet: what was found so far, kept beside the folder of its run until that is complete.

choice.json          what is chosen for which table, and what was found
1/, 2/, ...          runs of trials, in the order in which candidates are tried
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jensen.errors import ConfigError, DataError, IntegrityError
from jensen.training.folder import PATIENCE, Folder, locked, write_atomically


def place_beside(out: str | os.PathLike[str]) -> Path:
    """The folder of trials: `runs/a.trials` of `runs/a`."""
    path = Path(out).absolute()
    return path.with_name(f"{path.name}.trials")


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
        self._task = json.loads(json.dumps(task, default=str))
        self._said: dict[str, Any] = {"task": self._task, "overwrite": overwrite}
        self._resume = resume
        self.out = None if out is None else Path(out)
        self.path = None if out is None else place_beside(out)
        if self.out is None:
            return
        if resume:
            self._go_on()
        elif self._record.exists() and not overwrite:
            raise ConfigError(
                f"--out: of {self.out} a choice is under way, in {self.path}; use --resume to go on or --overwrite to "
                "begin anew"
            )
        if not self["began"]:
            Folder(self.out).stands(self["overwrite"], "--overwrite to replace it")

    @property
    def _record(self) -> Path:
        assert self.path is not None
        return self.path / "choice.json"

    def _go_on(self) -> None:
        if not self._record.exists():
            raise ConfigError(f"--resume: no choice is under way at {self.out}: there is no {self.path}")
        try:
            said = json.loads(self._record.read_text())
            was, now = dict(said["task"]), self._task
        except (ValueError, KeyError, TypeError):
            raise IntegrityError(f"{self._record} is corrupt; --overwrite begins anew") from None
        problems = []
        for key in {**was, **now}:
            a, b = was.get(key), now.get(key)
            told = "another" if isinstance(a, dict) or isinstance(b, dict) else f"{a!r}, got {b!r}"
            if a != b:
                problems.append(f"--resume: {key} was {told} when this choice began; it cannot change now")
        if problems:
            raise ConfigError(problems)
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
                if self._resume:
                    self._go_on()
                else:
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
            Folder(self.out).state_path.unlink(missing_ok=True)  # so that nobody goes on with it
            self.note(began=True)
            self.discard_trials()

    def discard_trials(self) -> None:
        """Remove the runs of the trials."""
        if self.path is not None:
            for spec in self.path.glob("*/spec.yaml"):
                Folder(spec.parent).discard()

    def discard(self) -> None:
        """Remove all of it, and nothing else."""
        if self.path is not None:
            self.discard_trials()
            self._record.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()
