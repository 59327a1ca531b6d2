"""Several processes that train one model do what one process does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jensen.core import seeded
from jensen.data import Schema, Split
from jensen.errors import ConfigError, TrainingError
from jensen.jobs.train import train
from jensen.objectives import GradientPhase, Terms
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer
from jensen.training.workers import together

ROWS = 61  # of batches of 10 the last has one row, fewer than there are workers


def rows(n: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.exp(0.3 * rng.normal(size=(n, 3)) @ rng.normal(size=(3, 3)))


def trainer(model: str, settings: dict[str, Any], weighted: bool = False, **training: Any) -> Trainer:
    x = rows()
    schema = Schema.of_table(x, ["a", "b", "c"])
    with seeded(0):
        built = build(model, schema, settings)
    weight = np.random.default_rng(1).uniform(0.1, 3, len(x)) if weighted else None
    chosen = training_settings({"epochs": 6, "batch_size": 10, "average": 0.0, "keep": "last", **training})
    return Trainer(built, Split(x, weight=weight).to(schema), Split(x[:17]).to(schema), chosen)


def children() -> set[int]:
    """Processes that this one began and has not waited for, as Linux tells."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.add(int(stat.parent.name))
    return found


BEFORE: set[int] = set()


@pytest.fixture(autouse=True)
def _children_before() -> None:
    """Tests before may have left some, as loky does, which keeps a process for its next pool."""
    BEFORE.clear()
    BEFORE.update(children())


def no_children() -> bool:
    if not Path("/proc/self").exists():  # where nothing else tells, there must be none at all
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
            return False
        return True
    return children() <= BEFORE


# Against one process


EXACT = {
    "a flow": ("maf", {"layers": 2, "hidden": [8]}, {}),
    "coupling, clipped": ("realnvp", {"layers": 2, "hidden": [8]}, {"clip": 0.5}),
    "sgd": ("maf", {"layers": 1, "hidden": [8]}, {"optimizer": "sgd", "lr": 0.01}),
    "muon": ("maf", {"layers": 1, "hidden": [8]}, {"optimizer": "muon"}),
    "row weights": ("maf", {"layers": 2, "hidden": [8]}, {"weighted": True}),
    "steps left out": ("maf", {"layers": 2, "hidden": [8]}, {"skip_factor": 1.1}),
    "exact ppca": ("ppca", {"fit": "gradient", "latents": 2}, {}),
}


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", EXACT)
def test_without_draws_the_weights_are_those_of_one_process(name, workers):
    """Gradients are sums over data, so that who computes them changes no more than rounding."""
    model, settings, training = EXACT[name]
    alone, shared = trainer(model, settings, **training), trainer(model, settings, workers=workers, **training)
    before = {k: v.clone() for k, v in alone.model.state_dict().items()}
    one, several = alone.run(), shared.run()
    moved = 0.0
    for key, value in alone.model.state_dict().items():
        torch.testing.assert_close(shared.model.state_dict()[key], value, rtol=2e-3, atol=2e-5, msg=key)
        moved += float((value.double() - before[key].double()).abs().sum())
    assert moved > 0.1
    for a, b in zip(one, several, strict=True):
        assert b["valid"] == pytest.approx(a["valid"], rel=1e-4)
        assert b["train"] == pytest.approx(a["train"], rel=1e-3, abs=1e-4)
    assert no_children()


@pytest.mark.parametrize("number", [2, 3])
def test_steps_in_float64_are_the_same_to_rounding(number):
    """Parts of a batch of 10 are of 5, or of 3 and 4 rows."""
    shape = {"layers": 1, "hidden": [8]}
    training = {"epochs": 1, "optimizer": "sgd", "lr": 0.01, "lr_warmup": 0.0, "schedule": "constant"}
    start = dict(trainer("maf", shape).model.double().named_parameters())

    def after(workers: int) -> dict[str, torch.Tensor]:
        t = trainer("maf", shape, workers=workers, **training)
        t.model.double()
        t.train.x, t.valid.x = t.train.x.double(), t.valid.x.double()  # pyright: ignore
        t.run()
        return t.model.state_dict()

    alone, shared = after(1), after(number)
    assert max(float((alone[key] - before.detach()).abs().max()) for key, before in start.items()) > 1e-3
    for key, value in alone.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-12, atol=1e-13, msg=key)


def test_workers_draw_apart():
    """In a step of two workers the mean square of what they draw is not the square of its mean."""
    t = trainer("vae", {"latents": 2, "encoder": "linear", "decoder": "linear"}, workers=2, epochs=3, batch_size=ROWS)
    phase = t.objective.stages[0].phases[0]

    def loss(*args: Any) -> Terms:
        terms, drawn = phase.loss(*args), torch.randn(())  # pyright: ignore
        return Terms(terms.loss, {**terms.logged, "drawn": drawn, "squared": drawn**2})

    means = [line["train"] for line in _with_phase(t, GradientPhase(loss)).run()]
    assert len(means) == 3
    assert len({line["drawn"] for line in means}) == 3
    assert all(line["squared"] - line["drawn"] ** 2 > 1e-6 for line in means)


def _with_phase(t: Trainer, phase: GradientPhase) -> Trainer:
    stage = dataclasses.replace(t.objective.stages[0], phases=(phase,))
    t.model.objective = dataclasses.replace(t.objective, stages=(stage,))
    return Trainer(t.model, t.train, t.valid, t.settings)


@pytest.mark.parametrize("number", [2, 3])
def test_what_workers_tell_one_another(number):
    """Many exchanges in a row, of sizes that change, from workers of uneven pace: sums, means, and the first's word."""
    with together(number, 80_000) as workers:
        rng = np.random.default_rng(workers.rank)
        for step in range(300):
            if rng.random() < 0.05:
                time.sleep(0.002 * rng.random())
            size = 1 + 37 * step % 5000
            gradient, follows = torch.full((size,), float(workers.rank + step)), torch.full((2, 3), 1 / 3 + step)
            apart = torch.full((4,), float(workers.rank))
            (whole,), sums = workers.combine([gradient], [follows, apart], [1.0, float(workers.rank)])
            total = number * (number - 1) / 2
            assert sums == [number, total]
            assert whole.eq(number * step + total).all()
            assert follows.eq(torch.tensor(1 / 3 + step)).all()
            torch.testing.assert_close(apart, torch.full((4,), (number - 1) / 2))
            assert workers.first(float(workers.rank) + 7.5) == 7.5
            assert workers.sum([float(step)]) == [number * step]
        part, share = workers.part(torch.arange(11))
        assert workers.sum([share, float(len(part)), float(part.sum())]) == pytest.approx([1.0, 11.0, 55.0])
        start, end = workers.range(10)
        assert workers.sum([end - start]) == [10.0]
    assert workers.rank == 0
    assert no_children()


# What goes wrong


def at_step(t: Trainer, number: int, then: Callable[[], None]) -> Trainer:
    """A trainer in which `then()` happens in the workers beside the first, before a step."""
    first, seen = os.getpid(), [0]
    phase = t.objective.stages[0].phases[0]
    assert isinstance(phase, GradientPhase)

    def loss(*args: Any) -> Terms:
        seen[0] += 1
        if seen[0] == number and os.getpid() != first:
            then()
        return phase.loss(*args)

    return _with_phase(t, GradientPhase(loss, phase.parameters))


def test_a_killed_worker_ends_training_and_is_told():
    t = at_step(trainer("maf", {"layers": 1}, workers=3), 4, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(TrainingError, match=r"worker [23] of 3: killed by signal 9, maybe for memory"):
        t.run()
    assert no_children()


def test_what_a_worker_raised_is_told():
    def fail() -> None:
        raise ValueError("a column of lead")

    t = at_step(trainer("maf", {"layers": 1}, workers=2), 3, fail)
    with pytest.raises(TrainingError, match=r"worker 2 of 2: a column of lead"):
        t.run()
    assert no_children()


def test_weights_that_differ_are_noticed():
    t = trainer("maf", {"layers": 1}, workers=2)
    model = t.model

    def spoil() -> None:
        with torch.no_grad():
            next(iter(model.parameters())).add_(1e-3)

    with pytest.raises(TrainingError, match="come to differ"):
        at_step(t, 3, spoil).run()
    assert no_children()


def test_a_loss_that_is_not_finite_in_one_part_stops_all():
    t = trainer("maf", {"layers": 1}, workers=2)
    t.train.x[7] = float("nan")
    with pytest.raises(TrainingError, match=r"epoch 1, batch \d of 7 .*log_likelihood = nan"):
        t.run()
    assert no_children()


@pytest.mark.parametrize(
    ("model", "settings", "training", "message"),
    [
        ("ppca", {"fit": "em"}, {}, "whole passes through the data"),
        ("vae", {"objective": "per-datum"}, {}, "keeps something of each datum"),
        ("maf", {}, {"batch_size": 1}, "a batch has 1 data"),
        ("maf", {}, {"threads": 2}, "each has one thread, and train.threads is 2"),
    ],
)
def test_what_cannot_be_shared_is_refused(model, settings, training, message, tmp_path):
    with pytest.raises(ConfigError, match=f"train.workers: 2 cannot share the work: .*{message}"):
        train(model, rows(), out=tmp_path / "run", settings=settings, epochs=1, workers=2, **training)
    assert not (tmp_path / "run").exists()


# Through the job


def test_minutes_are_those_of_the_first_worker(tmp_path):
    run = train("maf", rows(200), out=tmp_path / "run", minutes=0.02, batch_size=20, workers=2)
    assert run.log[-1]["seconds"] < 20
    again = train("maf", rows(200), out=tmp_path / "run", resume=True, minutes=0.03)  # with another number, too
    assert again.log[-1]["step"] >= run.log[-1]["step"]


def test_several_workers_compile_nothing_and_say_so(monkeypatch, caplog):
    def forbidden(*_: Any, **__: Any) -> Any:
        raise RuntimeError("who asked?")

    monkeypatch.setattr(torch, "compile", forbidden)
    compile = {"train.compile": True, "layers": 1, "hidden": [8]}
    train("maf", rows(40), settings=compile, epochs=2, batch_size=10, workers=2)
    assert "nothing is compiled where several workers share" in caplog.text
    assert "who asked?" not in caplog.text
    caplog.clear()
    train("maf", rows(40), settings=compile, epochs=2, batch_size=10)
    assert "cannot be compiled here and runs as it is: who asked?" in caplog.text
    assert "nothing is compiled" not in caplog.text
