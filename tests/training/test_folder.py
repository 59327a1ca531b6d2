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
import safetensors.torch
import torch

from jensen.data import Schema
from jensen.errors import ConfigError, IntegrityError
from jensen.jobs.train import train
from jensen.training.folder import Folder, load_tensors, locked, save_tensors

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


@pytest.mark.parametrize("where", [0.5, 0.999])
def test_a_byte_that_changed_is_noticed(tmp_path: Path, where: float):
    path = tmp_path / "weights.safetensors"
    tensors = {"a": torch.arange(100.0), "b": torch.zeros(0), "c": torch.ones((), dtype=torch.bfloat16)}
    save_tensors(path, tensors, {"step": 3})
    again, metadata = load_tensors(path)
    assert metadata == {"step": 3} and all(torch.equal(again[name], tensors[name]) for name in tensors)
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="corrupt"):
        load_tensors(path)


def test_a_file_without_a_checksum_is_read(tmp_path: Path):
    """As others write them, and as they were."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.ones(3)}, {"json": "{}"}))
    assert torch.equal(load_tensors(path)[0]["a"], torch.ones(3))
