"""Settings of training, checked like a model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from jensen.core import Model
from jensen.errors import ConfigError
from jensen.objectives import UpdatePhase
from jensen.registry import component, configure, find

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]

OF_STEPS = (
    "lr", "optimizer", "weight_decay", "schedule", "lr_warmup", "clip", "skip_above", "skip_factor", "average",
    "compile",
)  # fmt: skip
OF_BUDGET = ("epochs", "minutes", "patience", "max_epochs")


@dataclass(frozen=True)
class Settings:
    """See `settings` for their meaning."""

    epochs: int | None
    minutes: float | None
    batch_size: int
    lr: float
    optimizer: str
    weight_decay: float
    schedule: str
    lr_warmup: float
    clip: float
    skip_above: float
    skip_factor: float
    average: float
    patience: int
    max_epochs: int
    keep: str
    precision: str
    compile: bool | Literal["auto"]
    device: str
    seed: int
    threads: int | None
    workers: int
    checkpoint_seconds: float
    hide: float
    learn_valid: bool

    @property
    def skips(self) -> bool:
        """Whether steps are left out for their gradient."""
        return bool(self.skip_above or self.skip_factor)


@component("training", "gradient")
def settings(
    *,
    epochs: Annotated[int | None, Field(ge=1)] = None,
    minutes: Annotated[float | None, Field(gt=0)] = None,
    batch_size: Count = 128,
    lr: Positive = 1e-3,
    optimizer: Literal["adam", "adamw", "muon", "sgd"] = "adam",
    weight_decay: Annotated[float, Field(ge=0)] = 0.0,
    schedule: Literal["auto", "constant", "cosine", "linear"] = "auto",
    lr_warmup: Share = 0.01,
    clip: Annotated[float, Field(ge=0)] = 0.0,
    skip_above: Annotated[float, Field(ge=0)] = 0.0,
    skip_factor: Annotated[float, Field(ge=0)] = 0.0,
    average: Share = 0.999,
    patience: Count = 15,
    max_epochs: Count = 2000,
    keep: Literal["best", "last"] = "best",
    precision: Literal["fp32", "bf16", "auto"] = "fp32",
    compile: bool | Literal["auto"] = "auto",
    device: str = "auto",
    seed: Annotated[int, Field(ge=0)] = 0,
    threads: Annotated[int | None, Field(ge=1)] = None,
    workers: Count = 1,
    checkpoint_seconds: Positive = 30.0,
    hide: Annotated[float, Field(ge=0, le=1)] = 0.0,
    learn_valid: bool = False,
) -> Settings:
    """How a model is trained.

    Settings:
        epochs: passes through the data; None and no `minutes`: until validation stops improving.
        minutes: wall-clock budget; the number of steps is fixed early from the measured speed, and changed where steps
            become so much slower or faster that the end is missed.
        batch_size: data per step.
        lr: learning rate at its highest.
        optimizer: "adam" (fused), "adamw", "sgd" (momentum 0.9), or "muon": orthogonalised momentum for the weights of
            linear maps, convolutions and recurrent networks, Adam for all else, at the same learning rate or a few
            times that; far ahead of Adam in short trainings of convolutions, not of small or masked networks.
        weight_decay: of all but "adam".
        schedule: of the learning rate over progress; "auto" is cosine with a budget, else constant, and cut to
            a tenth when validation stops improving, before it ends training.
        lr_warmup: share of training over which the learning rate rises from 0.
        clip: largest global gradient norm; 0 does not clip.
        skip_above: global gradient norm above which a step is left out, as is one whose loss or gradient is not finite
            (Child 2021, arXiv:2011.10650); the log has the share that was. 0 leaves out none.
        skip_factor: the same, in multiples of the gradient norm that was usual of late, the geometric mean of about 50
            steps: it fits any data and follows norms that grow, as those of sharp likelihoods do. 0 leaves out none.
        average: decay a step of the exponential moving average of weights that is validated and kept; 0 for none.
        patience: epochs without improvement (at least 500 steps) that end training without a budget.
        max_epochs: most epochs without a budget.
        keep: the weights of the best validation or the last ones.
        precision: "bf16" runs networks in bfloat16, "auto" where the device has instructions for it (others are several
            times slower so); densities never.
        compile: whether flows are compiled in the first step, and losses of other models once warm-up is over, each
            with its gradients; it takes ten seconds to a minute and a C++ compiler, and pays in runs of minutes, most
            of all with splines and small networks. "auto" compiles models of few dense layers on a CPU where training
            has 10 minutes or more, or so many epochs that it takes about as long. What cannot be compiled, and all
            where there is no compiler, runs as always; the log says so where it was asked for. With several workers
            nothing is compiled.
        device: "auto", "cpu", "cuda" or "cuda:1".
        seed: of initial weights, order of data and draws.
        threads: of the CPU; None leaves them as they are.
        workers: processes of this machine that share each batch, each with one thread of the CPU. It pays where a step
            is long and weights are few. A loss that compares the data of a batch compares those of a part.
        checkpoint_seconds: least time between checkpoints.
        hide: of a table, the largest share of a row's cells that a step does not see: each time, of each row, a share
            drawn from [0, hide] is hidden at random, so that all p(x_o) are learned, and an encoder takes any gaps.
            Validation hides as much, always the same cells.
        learn_valid: whether the rows of "valid" are in "train", where training needs none to know its end and what to
            keep; it is then watched by data that it learns from, and the run has no "valid".
    """
    return Settings(
        epochs, minutes, batch_size, lr, optimizer, weight_decay, schedule, lr_warmup, clip, skip_above,
        skip_factor, average,
        patience, max_epochs, keep, precision, compile, device, seed, threads, workers,
        checkpoint_seconds, hide, learn_valid,
    )  # fmt: skip


def training_settings(given: Mapping[str, Any]) -> Settings:
    """Checked settings with defaults filled in. Raises `ConfigError` listing all problems."""
    found = find("training", "gradient")
    configured = configure(found, given, path="train.")
    if configured["epochs"] is not None and configured["minutes"] is not None:
        raise ConfigError("train.epochs and train.minutes: expected one of them, got both")
    return found.function(**configured)


def ignored(model: Model) -> dict[str, str]:
    """Settings that change nothing for a model, by name, and why: read off its stages and parts."""
    found: dict[str, str] = {}
    stages = model.objective.stages
    if not any(stage.has_gradient for stage in stages):
        found |= dict.fromkeys(OF_STEPS, "no step along a gradient is taken")
        if not any(hasattr(part, "precision") for part in model.modules()):
            found["precision"] = "there is no network"
    if all(stage.passes is not None for stage in stages):
        passes = sum(stage.passes or 0 for stage in stages)
        found |= dict.fromkeys(OF_BUDGET, f"the data are passed {'once' if passes == 1 else f'{passes} times'}, always")
    return found


def unshareable(model: Model) -> str | None:
    """Why several workers cannot train a model together, or None."""
    if any(isinstance(phase, UpdatePhase) for stage in model.objective.stages for phase in stage.phases):
        return "it learns from whole passes through the data, not batch by batch"
    return (
        None
        if model.objective.parallel
        else f"its objective ({model.objective.description}) keeps something of each datum"
    )
