"""A run that was interrupted or killed and resumed equals the uninterrupted one, bit for bit."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jensen.cli.training import sigterm_as_interrupt
from jensen.core import seeded
from jensen.data import Schema, Split, TensorSplit
from jensen.errors import ConfigError, IntegrityError
from jensen.jobs.train import train
from jensen.objectives import GradientPhase, UpdatePhase
from jensen.registry import build
from jensen.training.folder import Folder, load_tensors, save_tensors
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer

SMALL = {"latents": 2, "encoder": {"name": "mlp", "hidden": [6]}, "decoder": {"name": "mlp", "hidden": [6]}}
ROWS, BATCH = 50, 8  # seven batches a pass, the last of two rows


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr("jensen.training.pace.LEAST_PATIENCE_STEPS", 20)


class Killed(BaseException):
    """Stands for a process that ends without a word."""


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def kill() -> None:
    raise Killed


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its data and how it is trained."""

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: str = "vae"
    picture: bool = False
    weighted: bool = False

    def schema(self) -> Schema:
        if self.picture:
            return Schema.of_pictures((1, 2, 3), levels=2, grey=256, binarization="dynamic")
        schema = Schema.of_table(self.rows(), ["a", "b", "c", "d"])
        return schema.with_gaps() if self.training.get("hide") else schema

    def rows(self) -> np.ndarray:
        rng = np.random.default_rng(0)
        if self.picture:
            return rng.integers(0, 256, (ROWS, 1, 2, 3), dtype=np.uint8)
        return rng.normal(size=(ROWS, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(ROWS, 4))

    def split(self) -> TensorSplit:
        weight = np.linspace(0, 2, ROWS) if self.weighted else None
        return Split(self.rows(), weight=weight, redraw=self.picture).to(self.schema())

    def trainer(self, folder: Folder, at: int = 0, then: Callable[[], None] = interrupt) -> Trainer:
        """A trainer in which `then()` happens within step `at`."""
        settings = training_settings({"epochs": 9, "batch_size": BATCH, **self.training})
        with seeded(settings.seed):
            base = SMALL if self.model == "vae" else {}
            model = build(self.model, self.schema(), {**base, **self.settings})
        seen = [0]

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any) -> Any:
                seen[0] += 1
                if seen[0] == at:
                    then()
                return function(*args)

            return run

        def watch(phase: GradientPhase | UpdatePhase) -> GradientPhase | UpdatePhase:
            if isinstance(phase, GradientPhase):
                return dataclasses.replace(phase, loss=watched(phase.loss))
            return dataclasses.replace(phase, accumulate=watched(phase.accumulate))

        stages = [dataclasses.replace(s, phases=tuple(map(watch, s.phases))) for s in model.objective.stages]
        model.objective = dataclasses.replace(model.objective, stages=tuple(stages))
        split = self.split()
        valid = TensorSplit(split.x[:10], top=split.top, seen=None if split.seen is None else split.seen[:10])
        return Trainer(model, split, valid, settings, folder)

    def folder(self, path: Path) -> Folder:
        return Folder.create(path, {"model": self.model, "settings": {}}, self.schema(), overwrite=False)


CASES = {
    "cosine, averaged": Case(),
    "dynamic binarisation": Case(picture=True),
    "cells hidden": Case(training={"hide": 0.8}),
    "linear schedule, clipped sgd": Case(
        training={"optimizer": "sgd", "schedule": "linear", "clip": 0.5, "average": 0.0, "keep": "last"}
    ),
    "muon": Case(training={"optimizer": "muon", "weight_decay": 0.1}),
    "warm-up, decay, dropout": Case(
        settings={"objective.warmup": 0.5, "encoder.dropout": 0.3},
        training={"optimizer": "adamw", "weight_decay": 0.1, "lr_warmup": 0.4},
    ),
    "importance weighting": Case(settings={"objective": {"name": "iw", "particles": 3}}),
    "a critic": Case(
        settings={"objective": {"name": "factor-vae", "critic": {"name": "mlp", "hidden": [5]}, "gamma": 3.0}}
    ),
    "a critic of codes": Case(
        model="wae", settings={"objective": {"name": "adversarial", "critic": {"name": "mlp", "hidden": [6]}}}
    ),
    "row weights": Case(weighted=True),
    "bfloat16": Case(training={"precision": "bf16"}),
    "steps left out": Case(training={"skip_factor": 1.02, "epochs": 12}),
    "last weights": Case(training={"keep": "last"}),
    "until validation stops": Case(
        settings={"encoder": "linear", "decoder": "linear", "objective.warmup": 0.0},
        training={"epochs": None, "patience": 1, "max_epochs": 170, "lr": 0.5},
    ),
    "codes, then their prior": Case(
        model="vqvae",
        settings={
            "halvings": 0,
            "quantizer.codes": 4,
            "quantizer.width": 3,
            "quantizer.revive": 0.5,
            "encoder": "linear",
            "decoder": "linear",
            "prior.width": 4,
            "prior.layers": 2,
            "prior.hidden": 4,
        },
        picture=True,
    ),
    "views": Case(model="self-vae", settings={"encoder.width": 4, "decoder.width": 4, "latents": 1}, picture=True),
    "times and noise": Case(model="diffusion", settings={"network": "linear", "steps": 4}, picture=True),
    "two workers": Case(training={"workers": 2, "hide": 0.5, "clip": 1.0}),
    "two workers and their codebook": Case(
        model="vqvae",
        settings={
            "halvings": 0,
            "quantizer.codes": 4,
            "quantizer.width": 3,
            "encoder": "linear",
            "decoder": "linear",
            "prior.width": 4,
            "prior.layers": 2,
            "prior.hidden": 4,
        },
        training={"workers": 2},
        picture=True,
    ),
    "em": Case(model="ppca", settings={"fit": "em"}),
    "gradient of an exact likelihood": Case(model="ppca", settings={"fit": "gradient"}),
}


def log(folder: Folder) -> list[dict[str, Any]]:
    """The log without what time decides."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "rate")} for line in folder.metrics()]


def assert_equal_runs(one: Folder, two: Folder) -> None:
    assert log(one) == log(two)
    assert len(log(one)) > 0
    for name in ("model_path", "state_path"):
        a, b = load_tensors(getattr(one, name))[0], load_tensors(getattr(two, name))[0]
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), key


def stop(case: Case, folder: Folder, at: int, then: Callable[[], None]) -> None:
    with pytest.raises(KeyboardInterrupt if then is interrupt else Killed):
        case.trainer(folder, at, then).run()


@pytest.mark.parametrize("at", [1, 10, 35])  # the first step, within a pass, and the last of one
@pytest.mark.parametrize("name", CASES)
def test_interrupted(name, at, tmp_path):
    case = CASES[name]
    whole, parts = case.folder(tmp_path / "whole"), case.folder(tmp_path / "parts")
    case.trainer(whole).run()
    stop(case, parts, at, interrupt)
    case.trainer(parts).run(resume=True)
    assert_equal_runs(whole, parts)


@pytest.mark.parametrize("name", ["cosine, averaged", "dynamic binarisation", "until validation stops", "em"])
def test_killed(name, tmp_path):
    """Going on from whatever checkpoint was written last, with the log cut back to it."""
    case = CASES[name]
    case = dataclasses.replace(case, training={**case.training, "checkpoint_seconds": 1e-9})
    whole, parts = case.folder(tmp_path / "whole"), case.folder(tmp_path / "parts")
    case.trainer(whole).run()
    for at in (32, 11):
        with pytest.raises(Killed):
            case.trainer(parts, at, kill).run(resume=True)
    case.trainer(parts).run(resume=True)
    assert_equal_runs(whole, parts)


def test_killed_long_after_a_checkpoint(tmp_path):
    """The log has lines beyond the checkpoint; they are dropped before going on from it."""
    case = Case()
    whole, parts = case.folder(tmp_path / "whole"), case.folder(tmp_path / "parts")
    case.trainer(whole).run()
    stop(case, parts, 10, interrupt)
    with pytest.raises(Killed):
        case.trainer(parts, 40, kill).run(resume=True)
    assert log(parts)[-1]["step"] > 40
    case.trainer(parts).run(resume=True)
    assert_equal_runs(whole, parts)


def test_killed_before_the_first_checkpoint(tmp_path):
    """Nothing was kept but lines of the log; the run starts anew and they go."""
    case = Case()
    whole, parts = case.folder(tmp_path / "whole"), case.folder(tmp_path / "parts")
    case.trainer(whole).run()
    stop(case, parts, 60, kill)
    assert log(parts)
    case.trainer(parts).run(resume=True)
    assert_equal_runs(whole, parts)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    case = Case()
    folder = case.folder(tmp_path / "run")
    case.trainer(folder).run()
    before = log(folder), load_tensors(folder.model_path)[0]
    trainer = case.trainer(folder)
    trainer.run(resume=True)
    assert log(folder) == before[0]
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[1][name])


@pytest.mark.parametrize("ignored", [False, True])
def test_a_step_is_done_and_kept_where_two_signals_come_at_once(tmp_path, ignored):
    """As `timeout` sends them to a process and to its group; also where Ctrl-C is ignored, as in the background."""
    case, folder = Case(), Case().folder(tmp_path / "run")
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        told: list[str] = []
        trainer = case.trainer(folder, 10, twice)
        trainer.listener = lambda event: told.append(event.kind)
        with sigterm_as_interrupt() as asked, pytest.raises(KeyboardInterrupt):
            trainer.run()
        assert signal.getsignal(signal.SIGINT) == (signal.SIG_IGN if ignored else signal.default_int_handler)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert len(asked) == 2
    assert told.count("stop") == 1  # before the step is done
    assert load_tensors(folder.state_path)[1]["position"]["step"] == 10


def test_without_the_state_of_training_a_run_is_not_begun_anew(tmp_path):
    """Its weights would be lost."""
    case = Case()
    folder = case.folder(tmp_path / "run")
    case.trainer(folder).run()
    before = folder.model_path.read_bytes(), log(folder)
    folder.state_path.unlink()
    with pytest.raises(IntegrityError, match=r"trainer.safetensors is missing.*--overwrite"):
        case.trainer(folder).run(resume=True)
    assert (folder.model_path.read_bytes(), log(folder)) == before


def test_a_second_interrupt_stops_at_once(tmp_path):
    case = Case()

    def twice() -> None:
        interrupt()
        time.sleep(1.1)
        interrupt()
        time.sleep(1)
        raise AssertionError("went on after the second interrupt")

    folder = case.folder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        case.trainer(folder, 10, twice).run()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_more_epochs_lengthen_a_finished_run(tmp_path):
    """With nothing that depends on the share done, as if they had been asked for at once."""
    steady = {"schedule": "constant", "lr_warmup": 0.0}
    first = Case({"objective.warmup": 0.0}, {**steady, "epochs": 3})
    longer = Case({"objective.warmup": 0.0}, {**steady, "epochs": 8})
    whole, parts = longer.folder(tmp_path / "whole"), first.folder(tmp_path / "parts")
    longer.trainer(whole).run()
    first.trainer(parts).run()
    longer.trainer(parts).run(resume=True)
    a, b = load_tensors(whole.state_path)[0], load_tensors(parts.state_path)[0]
    for key in (k for k in a if k.startswith(("model.", "average.", "optimizer."))):
        assert torch.equal(a[key], b[key]), key
    assert log(parts)[-1]["step"] == log(whole)[-1]["step"] == 56


def test_fewer_epochs_than_done_end_the_run(tmp_path):
    case = Case(training={"epochs": 30})
    folder = case.folder(tmp_path / "run")
    stop(case, folder, 40, interrupt)
    Case(training={"epochs": 2}).trainer(folder).run(resume=True)
    assert folder.metrics()[-1]["step"] <= 42


# What is on disk is not what it should be


def interrupted(tmp_path: Path) -> tuple[Case, Folder]:
    case = Case()
    folder = case.folder(tmp_path / "run")
    stop(case, folder, 10, interrupt)
    return case, folder


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_state_is_named(share, tmp_path):
    case, folder = interrupted(tmp_path)
    content = folder.state_path.read_bytes()
    folder.state_path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(IntegrityError, match=r"trainer\.safetensors is corrupt or truncated"):
        case.trainer(folder).run(resume=True)
    assert len(folder.state_path.read_bytes()) == int(share * len(content))  # left as it is


def test_a_state_that_is_no_state_is_named(tmp_path):
    case, folder = interrupted(tmp_path)
    folder.state_path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all")
    with pytest.raises(IntegrityError, match="corrupt or truncated"):
        case.trainer(folder).run(resume=True)


@pytest.mark.parametrize("missing", ["rng.cpu", "average.0", "model.", "optimizer.0.0.exp_avg"])
def test_a_state_that_lacks_a_part_is_named(missing, tmp_path):
    case, folder = interrupted(tmp_path)
    tensors, record = load_tensors(folder.state_path)
    kept = {k: v for k, v in tensors.items() if not k.startswith(missing)}
    save_tensors(folder.state_path, kept, record)
    with pytest.raises(IntegrityError, match="does not fit this run"):
        case.trainer(folder).run(resume=True)


def test_the_state_of_another_model_is_refused(tmp_path):
    _, folder = interrupted(tmp_path)
    with pytest.raises(IntegrityError, match="does not fit this run"):
        Case({"latents": 3}).trainer(folder).run(resume=True)


def test_another_batch_size_is_refused(tmp_path):
    _, folder = interrupted(tmp_path)
    with pytest.raises(ConfigError, match="the run has batch size 8, got 9"):
        Case(training={"batch_size": 9}).trainer(folder).run(resume=True)


# Through the job


@pytest.mark.slow
def test_a_killed_process_is_resumed(tmp_path):
    """SIGKILL to a real process; then `jensen.train(..., resume=True)`."""
    rows = tmp_path / "rows.npy"
    np.save(rows, Case().rows())
    options = {
        "settings": SMALL,
        "epochs": 300,
        "batch_size": BATCH,
        "checkpoint_seconds": 1e-9,
        "threads": 1,
    }
    whole = train("vae", rows, out=tmp_path / "whole", **options)
    arguments = f"'vae', {str(rows)!r}, out={str(tmp_path / 'parts')!r}, **{options!r}"
    code = f"from jensen.jobs.train import train; train({arguments})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    parts = Folder(tmp_path / "parts")
    deadline = time.monotonic() + 60
    while (
        not (parts.state_path.exists() and len(parts.metrics()) > 2)
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.kill()
    _, complaint = process.communicate()
    assert process.returncode == -signal.SIGKILL, complaint.decode()
    assert len(parts.metrics()) < len(whole.log)
    resumed = train("vae", rows, out=tmp_path / "parts", resume=True)
    assert whole.folder is not None
    assert_equal_runs(whole.folder, parts)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name])


def test_a_new_budget_is_recorded(tmp_path):
    """So that the next resume does not shorten the run again."""
    data = Case().rows()
    train("vae", data, out=tmp_path / "run", settings=SMALL, epochs=2, batch_size=BATCH)
    train("vae", data, out=tmp_path / "run", resume=True, epochs=4)
    run = train("vae", data, out=tmp_path / "run", resume=True)
    assert run.spec["training"]["epochs"] == 4
    assert run.log[-1]["epoch"] == 4
