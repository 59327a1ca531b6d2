"""What the trainer guarantees, on models so small that every number is known."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import math
import os
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jensen.core import Joint, Model
from jensen.data import Dataset, Schema, Split, TensorSplit
from jensen.distributions import DiagonalNormal
from jensen.errors import ConfigError, DataError, IntegrityError, ResourceError, TrainingError
from jensen.hardware import flushes_denormals, has_bfloat16, pick_device, pick_precision
from jensen.jobs.run import open_run
from jensen.jobs.train import train
from jensen.objectives import Batch, GradientPhase, Objective, Stage, Terms, UpdatePhase
from jensen.objectives.schedules import Rise
from jensen.training.adam import LeanAdam
from jensen.training.folder import Folder, load_tensors
from jensen.training.pace import Pace
from jensen.training.position import Position
from jensen.training.settings import Settings, training_settings
from jensen.training.trainer import Event, Trainer

SMALL = {"latents": 2, "encoder": {"name": "mlp", "hidden": [6]}, "decoder": {"name": "mlp", "hidden": [6]}}
STEADY = {"optimizer": "sgd", "schedule": "constant", "lr_warmup": 0.0, "average": 0.0, "compile": False}


class Point(nn.Module):
    """N(a, 1), with a bystander b."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1))
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(self.a, torch.ones(1))


def point(*stages: Stage, validate: Callable[..., dict[str, Tensor]] | None = None) -> Model:
    def measure(model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"elbo": model.evidence(batch).log_w[0]}

    return Model(Joint({"x": Point()}), objective=Objective(stages, validate or measure))


def a_of(model: Model) -> nn.Parameter:
    return model.p["x"].module.a  # pyright: ignore


def b_of(model: Model) -> nn.Parameter:
    return model.p["x"].module.b  # pyright: ignore


def ascend(model: Model, batch: Batch, progress: float) -> Terms:
    """Gradient −1 for `a`: each step of plain descent adds lr."""
    loss = -a_of(model).sum()
    return Terms(loss, {"mean": batch["x"].mean()})


def rows(n: int = 10) -> TensorSplit:
    return TensorSplit(torch.arange(float(n))[:, None])


def settings(**given: Any) -> Settings:
    return training_settings({"batch_size": 4, "lr": 0.5, **STEADY, **given})


def momentum(steps: int, lr: float = 0.5) -> float:
    """Where `a` is after so many steps of SGD with momentum 0.9 at a constant gradient."""
    speed = position = 0.0
    for _ in range(steps):
        speed = 0.9 * speed + 1
        position += lr * speed
    return position


# Steps, phases and stages


def test_every_row_once_a_pass_and_epochs_respected():
    seen: list[list[float]] = []

    def look(model: Model, batch: Batch, progress: float) -> Terms:
        seen.append(batch["x"][:, 0].tolist())
        return ascend(model, batch, progress)

    model = point(Stage((GradientPhase(look),)))
    Trainer(model, rows(), None, settings(epochs=3, keep="last")).run()
    assert [len(batch) for batch in seen] == [4, 4, 2] * 3
    passes = [[x for batch in seen[i : i + 3] for x in batch] for i in (0, 3, 6)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert passes[0] != passes[1] != passes[2]
    assert a_of(model).item() == pytest.approx(momentum(9), rel=1e-5)


def test_progress_runs_from_zero_to_one():
    seen: list[float] = []

    def look(model: Model, batch: Batch, progress: float) -> Terms:
        seen.append(progress)
        return ascend(model, batch, progress)

    Trainer(point(Stage((GradientPhase(look),))), rows(), None, settings(epochs=3)).run()
    assert seen == pytest.approx([i / 9 for i in range(9)])


def test_logged_averages_are_weighted_by_size():
    """The last batch is smaller and counts for less."""
    log = Trainer(point(Stage((GradientPhase(ascend),))), rows(), None, settings(epochs=4, keep="last")).run()
    means = [line["train"]["mean"] for line in log]
    assert means == pytest.approx([4.5] * len(means), rel=1e-6)


def test_logged_averages_are_weighted_by_row_weights():
    x, weight = torch.arange(10.0)[:, None], torch.arange(10.0)

    def weighted(model: Model, batch: Batch, progress: float) -> Terms:
        mean = (batch["x"][:, 0] * batch["weight"]).sum() / batch["weight"].sum()
        return Terms(-a_of(model).sum(), {"mean": mean})

    model = point(Stage((GradientPhase(weighted),)))
    log = Trainer(model, TensorSplit(x, weight=weight), None, settings(epochs=1)).run()
    assert log[-1]["train"]["mean"] == pytest.approx(285 / 45)


def test_plain_numbers_are_logged_as_well():
    def tell(model: Model, batch: Batch, progress: float) -> Terms:
        return Terms(-a_of(model).sum(), {"mean": float(batch["x"].mean()), "rows": len(batch["x"])})  # pyright: ignore

    log = Trainer(point(Stage((GradientPhase(tell),))), rows(), None, settings(epochs=1)).run()
    assert log[-1]["train"]["mean"] == pytest.approx(4.5)
    assert log[-1]["train"]["rows"] == pytest.approx((4 * 4 + 4 * 4 + 2 * 2) / 10)


def test_validation_is_weighted_and_counts_the_last_batch():
    n = 2300  # batches of 1,000
    valid = TensorSplit(torch.arange(float(n))[:, None], weight=torch.arange(float(n)) % 3)

    def measure(model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"elbo": batch["x"][:, 0]}

    model = point(Stage((GradientPhase(ascend),)), validate=measure)
    log = Trainer(model, rows(), valid, settings(epochs=1)).run()
    x, w = np.arange(n), np.arange(n) % 3
    assert log[-1]["valid"]["elbo"] == pytest.approx((x * w).sum() / w.sum(), rel=1e-6)


def test_phases_alternate_over_their_own_parameters():
    """A second phase every third batch moves `b` alone, and its log is an average over its own steps."""

    def pull(model: Model, batch: Batch, progress: float) -> Terms:
        loss = b_of(model).sum() - 100 * a_of(model).sum()  # a's share of this gradient is not b's phase's
        return Terms(loss, {"second": torch.tensor(7.0)})

    first = GradientPhase(ascend, parameters=lambda m: [a_of(m)])
    second = GradientPhase(pull, parameters=lambda m: [b_of(m)], every=3)
    model = point(Stage((first, second)))
    log = Trainer(model, rows(), None, settings(epochs=3, keep="last")).run()
    assert a_of(model).item() == pytest.approx(momentum(9), rel=1e-5)
    assert b_of(model).item() == pytest.approx(-momentum(3), rel=1e-5)
    assert log[-1]["train"]["second"] == 7.0
    assert log[-1]["train"]["mean"] == pytest.approx(4.5, rel=1e-6)


def test_an_update_phase_accumulates_a_pass_and_applies_once():
    calls: list[int] = []

    def apply(model: Model, state: tuple[float, int]) -> None:
        calls.append(state[1])
        with torch.no_grad():
            a_of(model).fill_(state[0] / state[1])

    def add(model: Model, state: tuple[float, int], batch: Batch) -> tuple[float, int]:
        assert not torch.is_grad_enabled()
        return state[0] + batch["x"].sum().item(), state[1] + len(batch["x"])

    model = point(Stage((UpdatePhase(lambda m: (0.0, 0), add, apply),), passes=2))
    log = Trainer(model, rows(), None, settings()).run()
    assert calls == [10, 10]
    assert a_of(model).item() == 4.5
    assert len(log) == 2


def test_a_phase_may_have_nothing_to_learn():
    """No parameter, or one that is frozen; the other phase goes on."""
    model = point(Stage((GradientPhase(ascend), GradientPhase(ascend, lambda m: []))))
    Trainer(model, rows(4), None, settings(epochs=1)).run()
    assert a_of(model).item() == 0.5
    model = point(Stage((GradientPhase(ascend, lambda m: [a_of(m)]), GradientPhase(both, lambda m: [b_of(m)]))))
    b_of(model).requires_grad_(False)
    Trainer(model, rows(4), None, settings(epochs=1)).run()
    assert (a_of(model).item(), b_of(model).item()) == (0.5, 0.0)


def both(model: Model, batch: Batch, progress: float) -> Terms:
    """One gradient for both parameters."""
    return Terms(-(a_of(model) + b_of(model)).sum(), {})


@pytest.mark.parametrize("learns", [True, False])
def test_parameters_may_be_frozen_on_the_way(learns):
    """After the first epoch of two, each of one step."""
    model = point(Stage((GradientPhase(both),)))
    b_of(model).requires_grad_(not learns)
    seen: list[float] = []

    def hear(event: Event) -> None:
        if event.kind == "epoch":
            seen.append(b_of(model).item())
            b_of(model).requires_grad_(learns)

    Trainer(model, rows(4), None, settings(epochs=2, keep="last", optimizer="adam"), listener=hear).run()
    assert seen == ([0.0, b_of(model).item()] if learns else [b_of(model).item()] * 2)
    assert 0 < b_of(model).item() < a_of(model).item()


def test_stages_follow_each_other_each_with_its_budget():
    order: list[str] = []

    def first(model: Model, batch: Batch, progress: float) -> Terms:
        order.append("first")
        return ascend(model, batch, progress)

    def second(model: Model, batch: Batch, progress: float) -> Terms:
        order.append("second")
        return Terms(b_of(model).sum(), {})

    def measure(model: Model, batch: Batch) -> dict[str, Tensor]:
        n = len(batch["x"])
        return {"elbo": a_of(model).detach().expand(n), "b": -b_of(model).detach().expand(n)}

    stages = (
        Stage((GradientPhase(first, lambda m: [a_of(m)]),), passes=4, name="one"),
        Stage((GradientPhase(second, lambda m: [b_of(m)]),), passes=2, monitor="b", name="two"),
    )
    model = point(*stages, validate=measure)
    log = Trainer(model, rows(), None, settings(batch_size=4, epochs=50)).run()
    assert order == ["first"] * 12 + ["second"] * 6
    assert [line["stage"] for line in log] == sorted(line["stage"] for line in log)
    assert log[-1]["step"] == 18
    assert b_of(model).item() == pytest.approx(-momentum(6), rel=1e-5)


def test_a_stage_leaves_its_best_weights_to_the_next():
    starts: list[float] = []

    def second(model: Model, batch: Batch, progress: float) -> Terms:
        starts.append(a_of(model).item())
        return Terms(b_of(model).sum(), {})

    def measure(model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"elbo": -((a_of(model).detach() - momentum(60)) ** 2).expand(len(batch["x"]))}

    stages = (
        Stage((GradientPhase(ascend, lambda m: [a_of(m)]),), passes=5),
        Stage((GradientPhase(second, lambda m: [b_of(m)]),), passes=1),
    )
    model = point(*stages, validate=measure)
    Trainer(model, rows(120), None, settings(batch_size=2)).run()  # 60 steps a pass: validated after each
    assert starts[0] == pytest.approx(momentum(60), rel=1e-4)


@pytest.mark.parametrize("monitor", ["elbo", "b"])
def test_a_stage_is_measured_against_the_one_before_where_both_measure_the_same(monitor, tmp_path):
    """The second moves away from where the first one ended; and one that measures something else may."""

    def away(model: Model, batch: Batch, progress: float) -> Terms:
        return Terms(-a_of(model).sum(), {})

    def measure(model: Model, batch: Batch) -> dict[str, Tensor]:
        found = {"elbo": -((a_of(model).detach() - momentum(60)) ** 2), "b": a_of(model).detach()}
        return {name: value.expand(len(batch["x"])) for name, value in found.items()}

    stages = (Stage((GradientPhase(ascend),), passes=1), Stage((GradientPhase(away),), passes=2, monitor=monitor))
    model = point(*stages, validate=measure)
    folder = Folder.create(tmp_path / "run", {"model": "m"}, Schema.of_table(np.zeros((2, 1)), ["x"], ["real"]), False)
    log = Trainer(model, rows(120), None, settings(batch_size=2), folder).run()
    left = momentum(60) if monitor == "elbo" else momentum(60) + momentum(120)
    assert a_of(model).item() == pytest.approx(left, rel=1e-4)
    assert [line["best"] for line in log] == [True, *[monitor == "b"] * 2]
    _, record = load_tensors(folder.model_path)
    assert record["step"] == (60 if monitor == "elbo" else 180)  # of all stages


# Ending


def measured(scores: Callable[[int], float]) -> Callable[[Model, Batch], dict[str, Tensor]]:
    """A validation that gives the n-th number at the n-th call."""
    calls = [0]

    def measure(model: Model, batch: Batch) -> dict[str, Tensor]:
        calls[0] += 1
        return {"elbo": torch.full((len(batch["x"]),), scores(calls[0]))}

    return measure


def test_training_without_a_budget_stops_and_keeps_the_best():
    """After 500 steps without improvement the learning rate falls to a tenth; after 500 more it ends."""
    model = point(Stage((GradientPhase(ascend),)), validate=measured(lambda n: -abs(n - 5.0)))
    log = Trainer(model, rows(100), TensorSplit(torch.zeros(2, 1)), settings(batch_size=2, patience=1)).run()
    assert [line["step"] for line in log] == [50 * (i + 1) for i in range(25)]
    assert a_of(model).item() == pytest.approx(momentum(250), rel=1e-3)
    assert log[14]["lr"] == 0.5
    assert log[16]["lr"] == pytest.approx(0.05)


def test_a_costly_validation_is_seldom():
    """Ten validation rows, each at the cost of training on 20: one twentieth of the time is 40 passes of 100 rows."""
    model = point(Stage((GradientPhase(ascend),)), validate=measured(float))
    model.objective = dataclasses.replace(model.objective, validation_cost=20.0)
    trainer = Trainer(model, rows(100), TensorSplit(torch.zeros(10, 1)), settings(batch_size=20, max_epochs=100))
    assert [line["epoch"] for line in trainer.run()] == [40, 80, 100]


def test_the_last_weights_can_be_kept():
    model = point(Stage((GradientPhase(ascend),)), validate=measured(lambda n: -float(n)))
    Trainer(model, rows(100), TensorSplit(torch.zeros(2, 1)), settings(batch_size=2, epochs=3, keep="last")).run()
    assert a_of(model).item() == pytest.approx(momentum(150), rel=1e-3)


def test_it_waits_for_the_warm_up():
    """Half of the 5,000 steps against which open-ended progress is measured; what is then is the best, for a while."""
    model = point(Stage((GradientPhase(ascend),), rise=Rise(0.5)), validate=measured(lambda n: -float(n)))
    log = Trainer(model, rows(100), TensorSplit(torch.zeros(2, 1)), settings(batch_size=2, patience=1)).run()
    assert log[-1]["step"] == 2500 + 2 * 500


@pytest.mark.parametrize(
    ("model", "given", "weight"),
    [
        ("vae", {"epochs": 1}, "0"),  # one step
        ("vae", {"epochs": 3, "objective.warmup": 0.9}, "0.74"),  # the last of three begins at 2/3
        ("vae", {"epochs": 4, "objective.warmup": 0.9, "objective.cycles": 2}, "0.56"),
        ("vae", {"epochs": 3, "objective": {"name": "beta-tcvae", "warmup": 0.9}}, "0.74"),
        ("vae", {"epochs": 2}, None),
        ("vae", {"epochs": 1, "objective.warmup": 0.0}, None),
        ("vae", {"epochs": 10, "objective.warmup": 0.9}, None),
        ("nice", {"epochs": 1}, None),  # nothing has that weight
    ],
)
def test_a_warm_up_that_does_not_end_is_told(model, given, weight, caplog):
    """Once, with the weight of the last step; a step begins at the share of training that is done."""
    given = {**(SMALL if model == "vae" else {}), **given}
    train(model, np.random.default_rng(0).normal(size=(20, 3)), fractions=(1.0, 0.0, 0.0), settings=given)
    told = [r.getMessage() for r in caplog.records if "warmup" in r.getMessage()]
    assert len(told) == (weight is not None)
    if weight is not None:
        assert f"the weight stood at {weight} and not yet at 1" in told[0] and "train longer" in told[0]


def test_it_ends_after_the_most_epochs():
    model = point(Stage((GradientPhase(ascend),)), validate=measured(float))
    log = Trainer(model, rows(), None, settings(max_epochs=7)).run()
    assert log[-1]["epoch"] == 7


def test_minutes_fix_the_steps_once(monkeypatch, tmp_path):
    """On a clock that ticks a hundredth of a second whenever it is read."""
    clock = [0.0]

    def tick() -> float:
        clock[0] += 0.01
        return clock[0]

    fake = SimpleNamespace(perf_counter=tick, monotonic=tick)
    monkeypatch.setattr("jensen.training.trainer.time", fake)
    folder = Folder.create(tmp_path / "run", {"model": "point"}, Schema.of_table(np.zeros((2, 1)), ["x"]), False)
    seen: list[float] = []

    def look(model: Model, batch: Batch, progress: float) -> Terms:
        seen.append(progress)
        return ascend(model, batch, progress)

    trainer = Trainer(point(Stage((GradientPhase(look),))), rows(), None, settings(minutes=0.5), folder)
    trainer.run()
    assert trainer.at.total_steps == trainer.at.step == len(seen)
    assert 20 < clock[0] < 40
    assert seen == sorted(seen)
    steps = [b - a for a, b in itertools.pairwise(seen)]
    assert max(steps) < 0.02  # no jump where the number becomes known
    assert 0.9 < seen[-1] <= 1


def test_minutes_survive_a_resume(tmp_path):
    """The number of steps is measured once and kept, so that a resumed run is as long as the whole."""
    schema = Schema.of_table(np.zeros((2, 1)), ["x"])
    folder = Folder.create(tmp_path / "run", {"model": "point"}, schema, False)

    def impatient(event: Event) -> None:
        if event.kind == "step" and trainer.at.total_steps is not None:
            raise KeyboardInterrupt

    chosen = settings(minutes=0.01)
    trainer = Trainer(point(Stage((GradientPhase(ascend),))), rows(400), None, chosen, folder, impatient)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    fixed = trainer.at.total_steps
    assert fixed is not None
    again = Trainer(point(Stage((GradientPhase(ascend),))), rows(400), None, chosen, folder)
    again.run(resume=True)
    assert again.at.total_steps == again.at.step == fixed


def test_another_budget_is_measured_by_the_speed_since_the_resume():
    """1,000 steps in 100 seconds, then 50 in 10: in the 90 seconds that are left of 200, 450 more."""
    at = Position(stage_step=1000, calibration_seconds=100.0, total_steps=1500)
    pace = Pace(settings(batch_size=1, minutes=200 / 60), point(Stage((GradientPhase(ascend),))).objective, at, 400, 0)
    pace.elapsed = 100.0
    pace.extend(minutes=150 / 60)
    assert pace.is_timed
    assert not pace.knows_its_speed
    at.stage_step, pace.elapsed = 1020, 104.0
    assert not pace.knows_its_speed  # less than ten seconds, or a twentieth of the whole
    at.stage_step, pace.elapsed = 1050, 110.0
    assert pace.knows_its_speed
    assert pace.steps_within(0.0) == 1050 + 450


class Clock:
    """Stands still but for steps and validations, each of which takes as long as is said of its number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: Callable[[int], float], validation: float = 0.0):
        self.now, self.steps, self.step, self.validation = 0.0, 0, step, validation
        self.progress: list[float] = []
        fake = SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now)
        monkeypatch.setattr("jensen.training.trainer.time", fake)

    def model(self) -> Model:
        def look(model: Model, batch: Batch, progress: float) -> Terms:
            self.now += self.step(self.steps)
            self.steps += 1
            self.progress.append(progress)
            return ascend(model, batch, progress)

        def measure(model: Model, batch: Batch) -> dict[str, Tensor]:
            self.now += self.validation
            return {"elbo": torch.zeros(len(batch["x"]))}

        return point(Stage((GradientPhase(look),)), validate=measure)


@pytest.mark.parametrize(
    ("minutes", "step", "validation"),
    [
        (10, lambda i: 0.1 + i / 5000, 1.0),  # ten times as slow at the end
        (10, lambda i: 0.1 if i < 1000 else 0.4, 1.0),
        (10, lambda i: 0.4 / (1 + i / 300), 1.0),  # faster
        (1, lambda i: 9.0, 4.0),  # a whole fraction of the time each
        (0.5, lambda i: 20.0, 2.0),
    ],
    ids=["stiffening", "four times as slow", "faster", "slow steps", "hardly a step"],
)
def test_minutes_are_kept_where_steps_change_their_pace(monkeypatch, minutes, step, validation):
    """Within 15 % and the validation at the end, and the learning rate comes to its end with no jump."""
    clock = Clock(monkeypatch, step, validation)
    trainer = Trainer(clock.model(), rows(1000), rows(2), settings(minutes=minutes, batch_size=10))
    trainer.run()
    assert 60 * minutes * 0.85 - step(clock.steps) < clock.now < 60 * minutes * 1.15 + validation
    assert trainer.at.total_steps == trainer.at.step == clock.steps
    assert clock.progress == sorted(clock.progress)
    if clock.steps > 100:
        assert max(b - a for a, b in itertools.pairwise(clock.progress)) < 0.02
        assert clock.progress[-1] > 0.98


def test_a_pace_that_was_changed_is_that_of_the_resumed_run(monkeypatch, tmp_path):
    """Stopped after its steps were made fewer: as many in all, at the same rates, to the same weights."""
    schema, chosen = Schema.of_table(np.zeros((2, 1)), ["x"]), settings(minutes=10, batch_size=10)

    def steps(i: int) -> float:
        return 0.1 + i / 5000

    whole = Clock(monkeypatch, steps, 1.0)
    uninterrupted = Trainer(whole.model(), rows(1000), rows(2), chosen)
    uninterrupted.run()

    def impatient(event: Event) -> None:
        if event.kind == "step" and event.step == 860:  # amidst an epoch
            raise KeyboardInterrupt

    clock = Clock(monkeypatch, steps, 1.0)
    folder = Folder.create(tmp_path / "run", {"model": "point"}, schema, False)
    stopped = Trainer(clock.model(), rows(1000), rows(2), chosen, folder, impatient)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    clock.now += 1e5  # meanwhile
    resumed = Trainer(clock.model(), rows(1000), rows(2), chosen, folder)
    resumed.run(resume=True)
    assert stopped.at.from_step > 100  # when the number of steps was changed last
    assert resumed.at.step == uninterrupted.at.step < stopped.at.total_steps
    assert clock.progress == whole.progress
    assert torch.equal(a_of(resumed.model), a_of(uninterrupted.model))


# Averaging and optimisers


def test_averaged_weights_are_validated_and_kept():
    """By hand: every step at first, then every tenth, with a decay that rises to that of the settings."""
    model = point(Stage((GradientPhase(ascend),)))
    Trainer(model, rows(100), None, settings(batch_size=2, epochs=1, average=0.99, keep="last")).run()
    average, decay_most = 0.0, 0.99**10
    for step in range(1, 51):
        if step < 10 or step % 10 == 0:
            updates = step // 10
            decay = min(decay_most, (1 + updates) / (10 + updates))
            average = decay * average + (1 - decay) * momentum(step)
    assert a_of(model).item() == pytest.approx(average, rel=1e-4)


def test_an_average_over_few_steps_is_not_the_start():
    model = point(Stage((GradientPhase(ascend),)))
    Trainer(model, rows(4), None, settings(epochs=3, average=0.999, keep="last")).run()
    assert a_of(model).item() > 0.8 * momentum(3)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_is_that_of_torch(decoupled):
    """Also where a parameter has no gradient in some steps."""
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    b.load_state_dict(a.state_dict())
    decay = 0.1 if decoupled else 0.0
    lean = LeanAdam(list(a.parameters()), 0.01, decay, decoupled)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    plain = kind(b.parameters(), 0.01, weight_decay=decay, fused=True)
    x = torch.randn(20, 5, 3)
    for step in range(20):
        for model, optimizer in ((a, lean), (b, plain)):
            optimizer.zero_grad()
            out = model(x[step]) if step % 4 else x[step] @ model.weight.T
            out.square().sum().backward()
            optimizer.step()
    for one, two in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-7)


def test_the_learning_rate_rises_and_falls():
    def rates(**given: Any) -> list[float]:
        found: list[float] = []
        trainer = Trainer(point(Stage((GradientPhase(look),))), rows(), None, settings(epochs=20, **given))

        def note() -> None:
            found.append(trainer.optimizers[0].param_groups[0]["lr"])

        notes.append(note)
        trainer.run()
        return found

    notes: list[Callable[[], None]] = []

    def look(model: Model, batch: Batch, progress: float) -> Terms:
        notes[-1]()
        return ascend(model, batch, progress)

    steps = np.arange(60) / 60
    np.testing.assert_allclose(rates(schedule="cosine"), 0.25 * (1 + np.cos(np.pi * steps)), rtol=1e-6)
    np.testing.assert_allclose(rates(schedule="linear"), 0.5 * (1 - steps), rtol=1e-6)
    np.testing.assert_allclose(rates(schedule="constant"), 0.5, rtol=1e-6)
    rising = np.minimum(1, steps / 0.5)
    np.testing.assert_allclose(rates(schedule="constant", lr_warmup=0.5), 0.5 * rising, atol=1e-8)


def test_gradients_are_clipped_and_their_norm_is_logged():
    def steep(model: Model, batch: Batch, progress: float) -> Terms:
        return Terms(-100 * a_of(model).sum(), {})

    model = point(Stage((GradientPhase(steep),)))
    log = Trainer(model, rows(), None, settings(epochs=1, clip=2.0, keep="last")).run()
    assert a_of(model).item() == pytest.approx(2 * momentum(3), rel=1e-4)
    assert log[-1]["train"]["gradient_norm"] == pytest.approx(100)


@pytest.mark.parametrize("compile", [False, True])
def test_a_gradient_that_two_parameters_share_is_clipped_once(compile, monkeypatch):
    """(1, 1) to the length 1; as PyTorch's tracer has it, too."""
    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **how: compiler(f, dynamic=False, fullgraph=True, backend="aot_eager")
    )
    model = point(Stage((GradientPhase(both),)))
    Trainer(model, rows(4), None, settings(epochs=1, clip=1.0, compile=compile)).run()
    assert [a_of(model).item(), b_of(model).item()] == pytest.approx([0.5 / math.sqrt(2)] * 2, rel=1e-5)


def test_steps_are_left_out_for_their_gradient():
    """Every third batch has a gradient of 1000, and every fourth none that is finite: both change nothing."""
    seen: list[float] = []

    def uneven(model: Model, batch: Batch, progress: float) -> Terms:
        seen.append(a_of(model).item())
        turn = len(seen) - 1
        factor = 1000.0 if turn % 3 == 2 else float("nan") if turn % 4 == 3 else 1.0
        return Terms(-factor * a_of(model).sum(), {"a": a_of(model).sum().detach()})

    model = point(Stage((GradientPhase(uneven),)))
    log = Trainer(model, rows(48), None, settings(epochs=1, skip_above=100.0, keep="last", lr_warmup=0.0)).run()
    moved = [after != before for before, after in itertools.pairwise([*seen, a_of(model).item()])]
    assert moved == [turn % 3 != 2 and turn % 4 != 3 for turn in range(len(seen))]
    assert log[-1]["train"]["skipped"] == pytest.approx(1 - np.mean(moved))
    assert math.isfinite(log[-1]["train"]["a"])


def test_a_storm_of_steps_left_out_ends_training():
    def steep(model: Model, batch: Batch, progress: float) -> Terms:
        return Terms(-1000 * a_of(model).sum(), {})

    with pytest.raises(
        TrainingError, match=r"10 steps in a row were left out; .* gradient norm of 1000.*train\.skip_above .* allow 5"
    ):
        Trainer(point(Stage((GradientPhase(steep),))), rows(), None, settings(epochs=200, skip_above=5.0)).run()


def test_steps_are_left_out_beyond_what_was_usual():
    """A norm a hundred times the usual changes nothing; norms that grow slowly lose none."""
    seen: list[float] = []

    def loud(model: Model, batch: Batch, progress: float) -> Terms:
        seen.append(a_of(model).item())
        turn = len(seen) - 1
        factor = float("nan") if turn == 30 else 100.0 if turn == 40 else 1.0
        return Terms(-factor * a_of(model).sum(), {})

    model = point(Stage((GradientPhase(loud),)))
    told = settings(epochs=5, batch_size=4, skip_factor=10.0, keep="last", lr_warmup=0.0)
    Trainer(model, rows(48), None, told).run()
    moved = [after != before for before, after in itertools.pairwise([*seen, a_of(model).item()])]
    assert [turn for turn, moves in enumerate(moved) if not moves] == [30, 40]

    grown: list[float] = []

    def growing(model: Model, batch: Batch, progress: float) -> Terms:
        grown.append(1.05 ** len(grown))  # to 18 in sixty steps
        return Terms(-grown[-1] * a_of(model).sum(), {})

    log = Trainer(point(Stage((GradientPhase(growing),))), rows(48), None, told).run()
    assert len(grown) == 60 and log[-1]["train"]["skipped"] == 0


# Failures


def table(n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(n, 4))


def failing_at(step: int, fail: Callable[[Model], Terms]) -> Callable[[Model, Batch, float], Terms]:
    seen = [0]

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        seen[0] += 1
        return fail(model) if seen[0] == step else ascend(model, batch, progress)

    return loss


def run_folder(tmp_path) -> Folder:
    return Folder.create(tmp_path / "run", {"model": "point"}, Schema.of_table(np.zeros((2, 1)), ["x"]), False)


def test_a_term_that_is_no_number_stops_the_run_and_is_named(tmp_path):
    def broken(model: Model) -> Terms:
        return Terms(a_of(model).sum() * math.nan, {"reconstruction": torch.ones(()), "kl_z": torch.tensor(math.nan)})

    folder = run_folder(tmp_path)
    trainer = Trainer(point(Stage((GradientPhase(failing_at(5, broken)),))), rows(), None, settings(epochs=9), folder)
    with pytest.raises(TrainingError) as caught:
        trainer.run()
    message = str(caught.value)
    assert "epoch 2, batch 2 of 3 (step 5): kl_z = nan" in message
    assert "all parameters are finite" in message
    assert f"the last good state is in {folder.path}" in message
    kept = point()
    folder.load_model(kept)
    assert torch.isfinite(a_of(kept)).all()


def test_a_parameter_that_is_no_number_is_named_and_what_was_good_is_kept(tmp_path):
    def ruin(model: Model) -> Terms:
        with torch.no_grad():
            b_of(model).fill_(math.inf)
        return Terms((a_of(model) * b_of(model) * 0).sum(), {"elbo": torch.tensor(math.nan)})

    folder = run_folder(tmp_path)
    loss = failing_at(75, ruin)
    trainer = Trainer(point(Stage((GradientPhase(loss),))), rows(100), None, settings(epochs=9, batch_size=2), folder)
    with pytest.raises(TrainingError, match=r"batch 25 of 50 \(step 75\): elbo = nan; parameter p\.x\.b is not finite"):
        trainer.run()
    kept = point()
    record = folder.load_model(kept)
    assert record["step"] == 50
    assert a_of(kept).item() == pytest.approx(momentum(50), rel=1e-3)


def test_a_ruined_state_is_never_written(tmp_path):
    """Where a gradient is not finite, the loss before it was: the next checkpoint must not take it in."""
    folder, seen = run_folder(tmp_path), [0]

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        seen[0] += 1
        distance = a_of(model) - a_of(model).detach()  # 0, with slope 1
        return Terms((distance.sqrt() if seen[0] == 20 else distance).sum(), {})

    chosen = settings(epochs=20, checkpoint_seconds=1e-9)
    trainer = Trainer(point(Stage((GradientPhase(loss),))), rows(), None, chosen, folder)
    with pytest.raises(TrainingError, match=r"parameter p\.x\.a is not finite; the last good state is in"):
        trainer.run()
    assert seen[0] == 20
    state, _ = load_tensors(folder.state_path)
    assert torch.isfinite(state["model.p.x.a"]).all()
    kept = point()
    folder.load_model(kept)
    assert torch.isfinite(a_of(kept)).all()


def test_a_validation_that_is_no_number_stops_the_run(tmp_path):
    folder = run_folder(tmp_path)
    model = point(Stage((GradientPhase(ascend),)), validate=measured(lambda n: math.nan if n == 3 else 1.0))
    with pytest.raises(TrainingError, match=r"epoch 3: validation elbo = nan; the last good state is in"):
        Trainer(model, rows(100), None, settings(epochs=9, batch_size=2), folder).run()
    folder.load_model(point())


def test_out_of_memory_says_what_to_try():
    def hungry(model: Model) -> Terms:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trainer = Trainer(point(Stage((GradientPhase(failing_at(2, hungry)),))), rows(), None, settings(epochs=1))
    with pytest.raises(ResourceError, match="out of memory at batch size 4; try --batch-size 2"):
        trainer.run()


def test_an_error_of_another_kind_is_not_called_memory():
    def odd(model: Model) -> Terms:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer = Trainer(point(Stage((GradientPhase(failing_at(2, odd)),))), rows(), None, settings(epochs=1))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.run()


def test_validation_shrinks_its_batches_where_memory_is_short():
    def measure(model: Model, batch: Batch) -> dict[str, Tensor]:
        if len(batch["x"]) > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"elbo": batch["x"][:, 0]}

    model = point(Stage((GradientPhase(ascend),)), validate=measure)
    log = Trainer(model, rows(), rows(1500), settings(epochs=1)).run()
    assert log[-1]["valid"]["elbo"] == pytest.approx(749.5)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    data = table()
    train("vae", data, out=tmp_path / "run", settings=SMALL, epochs=2, batch_size=16)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("jensen.training.folder.os.fsync", full)
    with pytest.raises(ResourceError, match="disk full while writing"):
        train("vae", data, out=tmp_path / "run", resume=True, epochs=4)
    monkeypatch.undo()
    names = {p for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert names == set(before)  # nothing half-written is left
    assert all(p.read_bytes() == content for p, content in before.items())
    assert np.isfinite(open_run(tmp_path / "run").score(data, estimator="elbo").nats)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_log(tmp_path):
    folder = run_folder(tmp_path)
    folder.metrics_path.symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"disk full while writing .*metrics\.jsonl"):
        folder.append_metrics({"step": 1})


def test_no_weights_before_the_first_checkpoint(tmp_path):
    with pytest.raises(DataError, match="no weights yet"):
        run_folder(tmp_path).load_model(point())


def test_weights_that_were_there_are_missing(tmp_path):
    run = train("ppca", np.random.default_rng(0).normal(size=(50, 3)), latents=1, out=tmp_path / "run")
    assert run.folder is not None
    run.folder.model_path.unlink()
    with pytest.raises(IntegrityError, match=r"model\.safetensors is missing"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("file", "told"), [("schema.json", "fields.0.name: Field required"), ("spec.yaml", "line 3: could not find")]
)
def test_a_corrupt_record_says_where(tmp_path, file, told):
    train("ppca", np.random.default_rng(0).normal(size=(50, 3)), latents=1, out=tmp_path / "run")
    path = tmp_path / "run" / file
    path.write_text("model: x\nbroken\n" if file == "spec.yaml" else path.read_text().replace('"name"', '"nme"'))
    with pytest.raises(IntegrityError, match=told):
        open_run(tmp_path / "run")


# Randomness, devices, precision


def test_the_callers_random_state_is_untouched():
    torch.manual_seed(123)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    train("vae", table(), settings=SMALL, epochs=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002


def test_one_seed_one_run():
    def weights(seed: int, noise: int) -> Tensor:
        torch.manual_seed(noise)
        model = train("vae", table(), settings=SMALL, epochs=2, seed=seed).model
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1, 10), weights(1, 20))
    assert not torch.equal(weights(1, 10), weights(2, 10))


def test_validation_takes_no_draws_from_training():
    """Weights are the same, however often validation looks."""

    def weights(valid: np.ndarray) -> Tensor:
        schema = Schema.of_table(table(), list("abcd"))
        data = Dataset("made", schema, {"train": Split(table()), "valid": Split(valid)})
        model = train("vae", data, settings=SMALL, epochs=3, batch_size=1, keep="last").model
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(table()[:2]), weights(table()[:50]))


def test_weights_of_rows_equal_repeated_rows():
    """In full-batch gradient ascent of an exact likelihood."""
    x, weight = table(30), np.arange(30) % 3
    schema = Schema.of_table(x, list("abcd"))
    one = Dataset("made", schema, {"train": Split(x, weight=weight.astype(float))})
    two = Dataset("made", schema, {"train": Split(np.repeat(x, weight, 0))})
    options = {"settings": {"latents": 2, "fit": "gradient"}, "epochs": 30, "batch_size": 100, "keep": "last"}
    a, b = (train("ppca", data, **options).model.p["x"].module for data in (one, two))
    torch.testing.assert_close(a.weight, b.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(a.scale, b.scale, rtol=1e-3, atol=1e-4)


def test_bfloat16_in_training_and_float32_in_scoring():
    seen: set[tuple[bool, torch.dtype, torch.dtype]] = set()

    def watch(model: Model) -> None:
        module = model.p["x"].module
        linear = next(m for m in module.network if isinstance(m, nn.Linear))
        hidden: list[torch.dtype] = []
        linear.register_forward_hook(lambda m, args, out: hidden.append(out.dtype))
        module.register_forward_hook(lambda m, args, out: seen.add((model.training, hidden[-1], out.loc.dtype)))

    from jensen.registry import build

    schema = Schema.of_table(table(), list("abcd"))
    model = build("vae", schema, SMALL)
    watch(model)
    split = Split(table()).to(schema)
    Trainer(model, split, split, settings(epochs=3, precision="bf16", lr=0.001)).run()
    assert seen == {(True, torch.bfloat16, torch.float32), (False, torch.bfloat16, torch.float32)}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    seen.clear()
    model.evidence({"x": split.x})
    assert seen == {(False, torch.float32, torch.float32)}


def test_bfloat16_is_chosen_where_the_device_has_it(monkeypatch, caplog):
    cpu, known = torch.device("cpu"), {"avx2": True, "avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert not has_bfloat16(cpu)
    assert (pick_precision("auto", cpu), pick_precision("bf16", cpu)) == (None, torch.bfloat16)
    train("vae", table(), settings=SMALL, epochs=1, precision="bf16")
    assert "imitates" in caplog.text
    caplog.clear()
    train("vae", table(), settings=SMALL, epochs=1, precision="auto")
    assert "imitates" not in caplog.text
    known["avx512_bf16"] = torch.backends.mkldnn.is_available()
    assert pick_precision("auto", cpu) == (torch.bfloat16 if known["avx512_bf16"] else None)
    assert pick_precision("fp32", cpu) is None


@pytest.mark.parametrize("name", ["gpu", "cuda:one", ""])
def test_devices_that_are_none(name):
    with pytest.raises(ConfigError, match=f"expected auto, cpu or cuda, got {name!r}"):
        pick_device(name)


def test_a_device_that_is_not_there():
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        pick_device("cuda")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    inside: list[int] = []

    def look(model: Model, batch: Batch, progress: float) -> Terms:
        inside.append(torch.get_num_threads())
        return ascend(model, batch, progress)

    Trainer(point(Stage((GradientPhase(look),))), rows(), None, settings(epochs=1, threads=2)).run()
    assert set(inside) == {2}
    assert torch.get_num_threads() == before


def test_denormals_are_zero_in_training_and_not_after():
    inside: list[bool] = []

    def look(model: Model, batch: Batch, progress: float) -> Terms:
        inside.append(flushes_denormals())
        return ascend(model, batch, progress)

    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot take denormal numbers for zero")
    torch.set_flush_denormal(False)
    Trainer(point(Stage((GradientPhase(look),))), rows(), None, settings(epochs=1)).run()
    assert set(inside) == {True}
    assert not flushes_denormals()


# Listening


def test_a_listener_hears_of_steps_epochs_and_the_end():
    events: list[Event] = []
    model = point(Stage((GradientPhase(ascend),)))
    log = Trainer(model, rows(100), None, settings(epochs=2, batch_size=2), listener=events.append).run()
    kinds = [e.kind for e in events]
    assert kinds.count("step") == 5
    assert kinds.count("epoch") == len(log) == 2
    assert kinds[-1] == "end"
    assert [e.logged for e in events if e.kind == "epoch"] == log
    assert events[-1].progress == 1
    step = next(e for e in events if e.kind == "step")
    assert step.step == 20
    assert step.rate > 0
    assert step.remaining is not None and step.remaining > 0


def test_the_log_is_json_lines_with_the_true_bound(tmp_path):
    heavy = {**SMALL, "objective": {"name": "elbo", "beta": 20.0, "warmup": 0.9}}
    run = train("vae", table(), out=tmp_path / "run", settings=heavy, epochs=2, batch_size=16)
    assert run.folder is not None
    line = run.folder.metrics()[-1]
    assert line["epoch"] == 2
    valid = line["valid"]
    assert valid["elbo"] == pytest.approx(valid["reconstruction"] - valid["kl_z"], rel=1e-5)
    assert dataclasses.asdict(training_settings({"epochs": 2, "batch_size": 16})) == run.spec["training"]


def test_stages_share_a_short_time(monkeypatch):
    """A quarter and three quarters of 40 seconds, though twenty validations alone would take as long."""
    clock = [0.0]

    def tick() -> float:
        clock[0] += 0.01
        return clock[0]

    def slow(model: Model, batch: Batch) -> dict[str, Tensor]:
        clock[0] += 2
        return {"elbo": torch.zeros(len(batch["x"]))}

    fake = SimpleNamespace(perf_counter=tick, monotonic=tick)
    monkeypatch.setattr("jensen.training.trainer.time", fake)
    model = point(Stage((GradientPhase(ascend),)), validate=slow)
    stages = tuple(
        Stage((GradientPhase(ascend),), name=name, share=share) for name, share in (("a", 0.25), ("b", 0.75))
    )
    model.objective = dataclasses.replace(model.objective, stages=stages)
    log = Trainer(model, rows(600), TensorSplit(torch.zeros(2, 1)), settings(batch_size=2, minutes=40 / 60)).run()
    ends = {line["stage"]: line["seconds"] for line in log}
    assert 6 < ends["a"] < 14
    assert 32 < ends["b"] < 48


@pytest.mark.parametrize(("wanted", "n"), [(0, 20_000), (24_000, 24_000)])
def test_training_starts_from_all_the_data_or_from_some_at_random(wanted, n):
    """Files may be ordered: the first rows are not like the others."""
    seen = []
    look = GradientPhase(lambda model, batch, progress: Terms(a_of(model).sum(), {}))
    model = point(Stage((look,)))
    model.objective = dataclasses.replace(
        model.objective, initialize=lambda model, batch: seen.append(batch["x"][:, 0].clone())
    )
    if wanted:
        model.p["x"].module.starting_rows = wanted  # pyright: ignore
    data = TensorSplit(torch.arange(24_000.0)[:, None])
    Trainer(model, data, TensorSplit(torch.zeros(2, 1)), settings(epochs=1, batch_size=24_000)).run()
    (x,) = seen
    assert len(x.unique()) == len(x) == n
    assert abs(float(x.mean()) - 11_999.5) < 5 * 24_000 / (12 * n) ** 0.5 * (1 - n / 24_000) ** 0.5 + 1e-2


def test_weights_from_before_the_wanted_loss_are_not_kept():
    """Validation falls all the way, as where a KL is driven up; what counts is the best once the warm-up is over."""
    stage = Stage((GradientPhase(ascend, lambda model: [a_of(model)]),), rise=Rise(0.5))
    falling = lambda model, batch: {"elbo": -a_of(model).expand(len(batch["x"]))}  # noqa: E731
    model = point(stage, validate=falling)
    log = Trainer(model, rows(100), rows(4), settings(epochs=20, batch_size=2)).run()
    taken = [line for line in log if line["best"]]
    assert [line["epoch"] for line in taken] == [1, 10]
    assert a_of(model).item() == pytest.approx(-taken[-1]["valid"]["elbo"])
