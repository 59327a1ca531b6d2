"""Two processes in one run folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jensen.data import Schema
from jensen.errors import ConfigError
from jensen.jobs.train import train
from jensen.training.folder import Folder, locked

X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
FORK: Any = multiprocessing.get_context("fork")


def hold(folder: Path, held: Any) -> None:
    with Folder(folder).in_training():
        held.set()
        time.sleep(60)


def add_scores(folder: Path, name: str, n: int) -> None:
    for i in range(n):
        Folder(folder).add_score({"name": f"{name}{i}"})


@pytest.fixture
def elsewhere(tmp_path: Path):
    """A run folder in which another process trains, and that process."""
    folder, held = tmp_path / "a", FORK.Event()
    train("vae", X, out=folder, epochs=1)
    other = FORK.Process(target=hold, args=(folder, held))
    other.start()
    assert held.wait(30)
    yield folder, other
    other.kill()
    other.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}])
def test_a_folder_is_trained_in_by_one_process(elsewhere: Any, how: dict[str, bool], monkeypatch: Any):
    folder, _ = elsewhere
    monkeypatch.setattr("jensen.training.folder.PATIENCE", 0.1)
    before = contents(folder)
    with pytest.raises(ConfigError, match="another process is training in"):
        train("vae", X, out=folder, epochs=2, **how)
    assert contents(folder) == before


def test_a_killed_process_holds_nothing(elsewhere: Any):
    folder, other = elsewhere
    os.kill(other.pid, signal.SIGKILL)
    assert len(train("vae", X, out=folder, epochs=2, resume=True).log) == 2


def test_a_folder_in_training_can_be_used(elsewhere: Any):
    folder, _ = elsewhere
    Folder(folder).add_score({"name": "now"})
    assert [score["name"] for score in Folder(folder).scores()] == ["now"]


def test_scores_of_several_processes_are_all_kept(tmp_path: Path):
    train("ppca", X, out=tmp_path / "a", latents=1)
    others = [FORK.Process(target=add_scores, args=(tmp_path / "a", name, 40)) for name in "xyz"]
    for other in others:
        other.start()
    for other in others:
        other.join()
    names = {score["name"] for score in Folder(tmp_path / "a").scores()}
    assert names == {f"{name}{i}" for name in "xyz" for i in range(40)}


def test_folders_without_locks_are_used_all_the_same(tmp_path: Path, monkeypatch: Any):
    def refuse(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path), locked(tmp_path, 0.0):
        pass


def test_a_lock_leaves_no_file(tmp_path: Path):
    schema = Schema.of_table(X, ["a", "b", "c"])
    folder = Folder.create(tmp_path / "a", {"model": "x"}, schema, False)
    before = contents(tmp_path)
    with folder.in_training():
        assert contents(tmp_path) == before
