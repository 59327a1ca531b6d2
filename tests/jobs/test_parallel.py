"""Tasks in processes side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest

from jensen.errors import DataError, DataWarning, TrainingError
from jensen.jobs.parallel import side_by_side


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_what_tasks_give_comes_in_their_order(workers):
    told: list[int] = []
    found = side_by_side([partial(pow, base, 2) for base in range(5)], workers, told.append)
    assert list(found) == [0, 1, 4, 9, 16]
    assert told == sorted(told) and (told[:1], told[-1:]) == (([], []) if workers == 1 else ([0], [5]))


def test_one_thread_each():
    def threads() -> tuple[int, int]:
        import torch

        return os.getpid(), torch.get_num_threads()

    found = list(side_by_side([threads] * 2, 2))
    assert all(pid != os.getpid() and n == 1 for pid, n in found)


@pytest.mark.parametrize("workers", [1, 2])
def test_warnings_and_errors_are_those_of_one_process(workers):
    def fails() -> None:
        warnings.warn("odd rows", DataWarning, stacklevel=1)
        raise DataError("bad rows", "; leave them out")

    with pytest.warns(DataWarning, match="odd rows"), pytest.raises(DataError, match="bad rows; leave") as told:
        list(side_by_side([fails, partial(pow, 2, 2)], workers))
    assert (told.value.said, told.value.advice) == ("bad rows", "; leave them out")


def test_a_worker_that_is_killed_is_told_of():
    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(TrainingError, match="a worker was killed, maybe for memory; take fewer --workers"):
        list(side_by_side([killed, partial(pow, 2, 2)], 2))


SLEEPERS = """
import os, time
from functools import partial
from jensen.jobs.parallel import side_by_side

def sleeps(k):
    open(f"{k}.pid", "w").write(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    list(side_by_side([partial(sleeps, k) for k in range(2)], 2))
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_workers_end_soon_after_a_process_that_was_killed(tmp_path):
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    parent = subprocess.Popen([sys.executable, "sleepers.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        pids = [tmp_path / f"{k}.pid" for k in range(2)]
        assert _within(120, lambda: all(path.exists() and path.read_text() for path in pids))
        workers = [Path("/proc") / path.read_text() for path in pids]
        assert all(worker.exists() for worker in workers)
    finally:
        parent.kill()
        parent.wait()
    assert _within(20, lambda: not any(_lives(worker) for worker in workers))


def _lives(process: Path) -> bool:
    """Whether a process is there and is none that has ended and is waited for."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _within(seconds: float, done) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if done():
            return True
        time.sleep(0.2)
    return False
