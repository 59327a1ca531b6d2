"""`train.compile`: the same training, with what can be compiled."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.contracts.toys import DATA, small
from torch import Tensor

from jensen.conditionals.transformed import Transformed
from jensen.core import Model, seeded
from jensen.data import Schema, Split, TensorSplit
from jensen.distributions import StandardNormal
from jensen.errors import ConfigError, DataError
from jensen.registry import build, find, names
from jensen.training import gradients
from jensen.training.folder import Folder, load_tensors
from jensen.training.gradients import pays_to_compile
from jensen.training.settings import training_settings
from jensen.training.trainer import Event, Trainer
from jensen.transforms import Transform
from jensen.transforms.compilation import attempted, compiling, forward_and_ladj, is_compiled

ROWS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
SCHEMA = Schema.of_table(ROWS.numpy(), list("abcd"), ["real"] * 4)


class Counting:
    """Stands for torch.compile: what it compiles runs as it is, and is counted by the number of elements."""

    def __init__(self, delay: float = 0.0):
        self.sizes: list[int] = []
        self.delay = delay

    def __call__(self, function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        def run(first: Tensor, *rest: Any) -> Any:
            if not self.sizes:
                time.sleep(self.delay)
            self.sizes.append(len(first) if isinstance(first, Tensor) else 0)
            return function(first, *rest)

        return run


def trained(listener: Callable[[Event], None] | None = None, **given: Any) -> tuple[Model, list[dict[str, Any]]]:
    """After passes of batches of 20, 20 and 10 rows."""
    with seeded(0):
        model = build("spline", SCHEMA, {"layers": 2, "bins": 2, "hidden": [4], "between": "none"})
    settings = training_settings({"epochs": 2, "batch_size": 20, **given})
    return model, Trainer(model, TensorSplit(ROWS), TensorSplit(ROWS[:20]), settings, listener=listener).run()


def test_only_whole_batches_run_compiled():
    assert not is_compiled(20)
    with compiling(20):
        assert [n for n in range(0, 70, 5) if is_compiled(n)] == [20, 40, 60]
        with compiling(None):
            assert not is_compiled(20)
        assert is_compiled(20)
    assert not is_compiled(20)


def test_training_compiles_the_flow(monkeypatch):
    """In whole batches, whatever came before, so that a resumed run repeats it; never in the last or in validation."""
    count = Counting()
    monkeypatch.setattr(torch, "compile", count)
    model, log = trained(compile=True)
    batches, passes = 2, 2
    assert count.sizes == [20] * (batches * passes)
    plain, plain_log = trained()
    assert len(count.sizes) == batches * passes
    assert [line["valid"] for line in log] == [line["valid"] for line in plain_log]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def vae(
    listener: Callable[[Event], None] | None = None, folder: Folder | None = None, **given: Any
) -> tuple[Model, list[dict[str, Any]]]:
    """After 8 passes of batches of 20, 20 and 10 rows, the first two of which are warm-up."""
    with seeded(0):
        shape = {"latents": 2, "encoder.hidden": [8], "decoder.hidden": [8]}
        model = build("vae", SCHEMA, {**shape, "objective.warmup": 0.25})
    settings = training_settings({"epochs": 8, "batch_size": 20, **given})
    return model, Trainer(model, TensorSplit(ROWS), TensorSplit(ROWS[:20]), settings, folder, listener).run()


def test_where_there_is_no_flow_the_loss_is_compiled_once_warm_up_is_over(monkeypatch):
    count = Counting()
    monkeypatch.setattr(torch, "compile", count)
    model, log = vae(compile=True)
    assert len(count.sizes) == 2 * 6
    plain, plain_log = vae()
    assert [line["valid"] for line in log] == [line["valid"] for line in plain_log]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(("train", "step"), [(trained, 0), (vae, 6)])
def test_it_is_said_once_before_it_compiles(monkeypatch, train, step):
    """A flow at once, a VAE after two passes of three steps."""
    told: list[Event] = []
    monkeypatch.setattr(torch, "compile", Counting())
    train(told.append, compile=True)
    assert [event.step for event in told if event.kind == "compile"] == [step]
    told.clear()
    train(told.append)
    assert "compile" not in [event.kind for event in told]


def test_nothing_is_said_where_nothing_is_compiled(monkeypatch):
    """Flow matching never follows its flow in training."""
    told: list[Event] = []
    count = Counting()
    monkeypatch.setattr(torch, "compile", count)
    with seeded(0):
        model = build("flow-matching", SCHEMA, {})
    settings = training_settings({"epochs": 2, "batch_size": 20, "compile": True})
    Trainer(model, TensorSplit(ROWS), None, settings, listener=told.append).run()
    assert not count.sizes
    assert "compile" not in [event.kind for event in told]


def test_who_listened_may_be_gone_when_it_compiles(monkeypatch, tmp_path):
    """What is done is kept: the run ends where it can be gone on with."""
    monkeypatch.setattr(torch, "compile", Counting())
    folder = Folder.create(tmp_path / "run", {"model": "vae"}, SCHEMA, False)

    def gone(event: Event) -> None:
        if event.kind == "compile" or event.step > 6:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        vae(gone, folder, compile=True)
    assert load_tensors(folder.state_path)[1]["position"]["step"] == 9


@pytest.fixture
def traced(monkeypatch):
    """PyTorch's tracer with its count of recompilations, without its code generator."""
    compile = torch.compile

    def trace(function: Callable[..., Any], dynamic: bool, fullgraph: bool, isolate_recompiles: bool, options: Any):
        return compile(
            function, dynamic=dynamic, fullgraph=fullgraph, isolate_recompiles=isolate_recompiles, backend="eager"
        )

    monkeypatch.setattr(torch, "compile", trace)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")  # torch's
def test_many_losses_of_one_process_are_compiled(traced, caplog):
    """PyTorch compiles lines of code eight times, which here are many losses'."""
    for _ in range(10):
        vae(compile=True)
    assert not [r for r in caplog.records if "cannot be compiled here" in r.getMessage()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")  # torch's
def test_many_flows_of_one_process_are_compiled(traced, caplog):
    """Each counts for itself, so that none hangs on what was trained before it."""
    for width in range(2, 12):
        transform = transform_of("realnvp", hidden=[width])
        found(transform, "inverse", 30)
    assert not [r for r in caplog.records if "cannot be compiled here" in r.getMessage()]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's
def test_where_torch_refuses_to_compile_at_all_it_runs_as_it_is(monkeypatch, caplog):
    """As for a Python that it does not know yet."""

    def refused(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        raise RuntimeError("torch.compile is not supported on Python 3.99")

    monkeypatch.setattr(torch, "compile", refused)
    fast, _ = vae(compile=True)
    assert len([r for r in caplog.records if "not supported on Python 3.99" in r.getMessage()]) == 1
    plain, _ = vae(compile=False)
    assert all(torch.equal(a, b) for a, b in zip(fast.parameters(), plain.parameters(), strict=True))


UNTRACED = {"cnf", "diffusion", "iaf", "kernels", "made", "rnn", "transformer", "vqvae", "vqvae2", "wae"}
"""What is done hangs on the data, or on something that PyTorch's tracer does not take."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")  # torch's
@pytest.mark.parametrize("name", names("model"))
def test_every_model_is_the_same_when_it_is_traced(name, monkeypatch, caplog):
    """By PyTorch's tracer without its code generator. What cannot be traced runs as it is and says so once."""
    compile = torch.compile

    def traced(function: Callable[..., Any], dynamic: bool | None, **how: Any) -> Callable[..., Any]:
        return compile(function, dynamic=dynamic, fullgraph=True, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    for schema, x in DATA.values():
        with contextlib.suppress(ConfigError, DataError):
            found = [steps(name, schema, Split(x).to(schema), compile=compile) for compile in (True, False)]
            break
    else:
        pytest.skip("takes none of the small data")
    said = [r for r in caplog.records if "cannot be compiled here" in r.getMessage()]
    assert len(said) == (name in UNTRACED)
    for ours, truth in zip(*found, strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-5)


def steps(name: str, schema: Schema, rows: TensorSplit, compile: bool) -> list[Tensor]:
    """Weights after four passes of three batches."""
    with seeded(0):
        model = build(name, schema, small(find("model", name)))
    settings = training_settings({"epochs": 4, "batch_size": 8, "compile": compile, "average": 0.0, "keep": "last"})
    Trainer(model, rows, rows, settings).run()
    return [p.detach() for p in model.parameters()]


def test_what_would_be_compiled_at_every_step_runs_as_it_is(caplog):
    """Its work hangs on a number that is no tensor."""

    class Growing(torch.nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    compile, grown = torch.compile, Growing()
    torch._dynamo.reset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda f, **how: compile(f, dynamic=False, fullgraph=True, backend="eager"))
        run = attempted(lambda module, x: module(x), owner=0)
    assert [float(run(grown, torch.ones(()))) for _ in range(12)] == list(range(1, 13))
    assert len([r for r in caplog.records if "cannot be compiled here" in r.getMessage()]) == 1


def no_compiler(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """Stands for torch.compile where there is none."""

    def run(*args: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nand more")

    return run


def test_without_a_compiler_it_runs_as_it_is_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", no_compiler)
    with caplog.at_level(logging.WARNING):
        model, _ = trained(compile=True)
    assert [r.getMessage() for r in caplog.records] == [
        "Composed cannot be compiled here and runs as it is: No working C++ compiler found"
    ]
    plain, _ = trained()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_long_training_of_few_dense_layers_is_compiled_by_itself():
    """Of ten minutes or more, or of so many epochs that at a millisecond a step they take as long."""

    def pays(name: str = "vae", schema: Schema = SCHEMA, rows: int = 50, **given: Any) -> bool:
        return pays_to_compile(build(name, schema, {}), training_settings({"batch_size": 20, **given}), rows)

    assert pays(minutes=10)
    assert not pays(minutes=9.9)
    assert not pays(minutes=10, workers=2)
    assert not pays()  # nobody knows how long it takes
    assert pays(epochs=200_000)  # of three steps each
    assert not pays(epochs=80_000)
    assert pays(epochs=40, rows=300_000)  # of 15,000 steps
    assert not pays(epochs=20, rows=300_000)
    pictures = Schema.of_pictures((1, 28, 28), levels=2)
    assert pays("vae", pictures, minutes=10)
    assert not pays("pixelcnn", pictures, minutes=10)  # convolutions
    assert not pays("self-vae", pictures, minutes=10)
    # The more weights, the longer a step: 3 * 20 * 6.7 million products take another four milliseconds.
    wide = build("vae", pictures, {"encoder.hidden": [4000], "decoder.hidden": [4000]})
    many = training_settings({"batch_size": 20, "epochs": 100_000})
    assert pays_to_compile(wide, many, 50)
    assert not pays_to_compile(build("vae", SCHEMA, {}), many, 50)


def test_by_itself_it_compiles_once_it_is_long_and_says_nothing_where_it_cannot(monkeypatch, caplog):
    monkeypatch.setattr(gradients, "LONG", 0.0)
    count = Counting()
    monkeypatch.setattr(torch, "compile", count)
    vae()
    assert len(count.sizes) == 2 * 6
    vae(compile=False)
    assert len(count.sizes) == 2 * 6
    monkeypatch.setattr(torch, "compile", no_compiler)
    with caplog.at_level(logging.INFO):
        model, _ = vae()
    assert not caplog.records
    plain, _ = vae(compile=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_an_error_of_what_once_worked_is_no_failure_to_compile(monkeypatch):
    class Reciprocal(Transform):
        def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            if z.sum() < 0:
                raise ArithmeticError("negative")
            return 1 / z, torch.zeros(len(z))

    monkeypatch.setattr(torch, "compile", Counting())
    run, transform = attempted(forward_and_ladj, owner=2), Reciprocal()
    assert run(torch.ones(2, 1), None, transform)[0].sum() == 2
    with pytest.raises(ArithmeticError, match="negative"):
        run(-torch.ones(2, 1), None, transform)


def test_time_of_compiling_does_not_shorten_a_budget_in_minutes(monkeypatch):
    """The speed that fixes the number of steps is that of the steps after."""
    monkeypatch.setattr(torch, "compile", Counting(delay=2.0))
    with seeded(0):
        model = build("spline", SCHEMA, {"layers": 1, "bins": 2, "hidden": [4], "between": "none"})
    settings = training_settings({"minutes": 0.1, "batch_size": 25, "compile": True})
    trainer = Trainer(model, TensorSplit(ROWS), None, settings)
    trainer.run()
    assert trainer.at.total_steps is not None
    slowest = 6.0 / trainer.at.total_steps
    assert slowest < 0.5  # seconds a step; 2 and more were 20 steps measured with the delay


def test_time_of_compiling_anew_is_none_of_a_resumed_runs(monkeypatch, tmp_path):
    """The first time it is, as the program's user waits for it."""
    monkeypatch.setattr(torch, "compile", Counting(delay=2.0))
    folder = Folder.create(tmp_path / "run", {"model": "vae"}, SCHEMA, False)

    def impatient(event: Event) -> None:
        if event.kind == "epoch" and event.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vae(impatient, folder, compile=True)
    position = load_tensors(folder.state_path)[1]["position"]
    assert position["compiled"]
    assert 2 < position["calibration_seconds"] < 4
    with seeded(0):
        model = build(
            "vae", SCHEMA, {"latents": 2, "encoder.hidden": [8], "decoder.hidden": [8], "objective.warmup": 0.25}
        )
    settings = training_settings({"epochs": 8, "batch_size": 20, "compile": True})
    monkeypatch.setattr(torch, "compile", Counting(delay=2.0))
    resumed = Trainer(model, TensorSplit(ROWS), TensorSplit(ROWS[:20]), settings, folder)
    began = time.perf_counter()
    resumed.run(resume=True)
    assert time.perf_counter() - began > 2
    assert resumed.at.done
    assert resumed.at.calibration_seconds < 4


def transform_of(model: str, **settings: Any) -> Transform:
    """Of a flow whose weights are not where they start."""
    with seeded(0):
        built = build(model, SCHEMA, {"layers": 2, "hidden": [8], **settings})
        for p in built.parameters():
            p.data.add_(0.3 * torch.randn_like(p))
    return next(m for m in built.modules() if isinstance(m, Transform))


def found(transform: Transform, way: str, rows: int | None) -> list[Tensor]:
    """The result, the log-determinant, and gradients by the rows and all weights."""
    x = ROWS[:30].to(next(transform.parameters())).clone().requires_grad_()
    density = Transformed(StandardNormal(torch.zeros(4).to(x), torch.ones(4).to(x)), transform)
    with compiling(rows):
        y, ladj = density.to_base(x) if way == "inverse" else density.from_base(x)
    inputs = [x, *transform.parameters()]
    slopes = torch.autograd.grad(y.square().sum() + ladj.sin().sum(), inputs, allow_unused=True)
    return [y, ladj, *(x.new_zeros(1) if slope is None else slope for slope in slopes)]


real = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),  # torch's
]


@pytest.mark.parametrize(
    ("model", "settings", "way", "dtype"),
    [
        pytest.param(*case, marks=real)
        for case in (
            ("maf", {}, "inverse", torch.float32),
            ("realnvp", {}, "inverse", torch.float32),
            ("spline", {}, "inverse", torch.float32),
            ("spline", {"kind": "autoregressive"}, "inverse", torch.float64),
            ("realnvp", {"map": "spline"}, "forward", torch.float32),
        )
    ],
)
def test_a_compiled_flow_is_that_of_torch(model, settings, way, dtype, caplog):
    """Values and gradients, to 1e-5 of the largest, or 1e-12 in float64."""
    transform = transform_of(model, **settings).to(dtype)
    with caplog.at_level(logging.WARNING, "jensen"):
        fast = found(transform, way, 30)
    assert not [r for r in caplog.records if r.name.startswith("jensen")]
    near = 1e-5 if dtype == torch.float32 else 1e-12
    for ours, truth in zip(fast, found(transform, way, None), strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=near * max(1.0, float(truth.detach().abs().max())))


@pytest.mark.parametrize("precision", [pytest.param(p, marks=real) for p in ("fp32", "bf16")])
def test_a_compiled_vae_is_trained_to_the_same_weights(precision, caplog):
    """To 1e-4 in float32, whose sums are added up in another order, and to three digits in bfloat16."""
    with caplog.at_level(logging.WARNING, "jensen"):
        fast, _ = vae(compile=True, precision=precision)
    assert not [r for r in caplog.records if "cannot be compiled" in r.getMessage()]
    plain, _ = vae(precision=precision)
    near = 1e-4 if precision == "fp32" else 1e-3
    for ours, truth in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=near)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")  # torch's own
def test_what_cannot_be_compiled_runs_as_it_is_and_others_are_compiled_all_the_same(caplog):
    """The steps of an adaptive solver depend on the data."""
    with seeded(0):
        solver = next(m for m in build("cnf", SCHEMA, {}).modules() if isinstance(m, Transform))
    with caplog.at_level(logging.WARNING, "jensen"):
        with torch.no_grad(), compiling(30):
            density = Transformed(StandardNormal(torch.zeros(4), torch.ones(4)), solver)
            first = density.to_base(ROWS[:30])
        with torch.no_grad():
            plain = density.to_base(ROWS[:30])
    assert all(torch.equal(a, b) for a, b in zip(first, plain, strict=True))
    assert len([r for r in caplog.records if "cannot be compiled here" in r.getMessage()]) == 1
