"""How a model is trained: stages in sequence, each made of phases that alternate.

A gradient phase takes a step on a loss for every batch (or every n-th); an update phase accumulates statistics over
a pass through the data and applies them once (EM, closed forms). One trainer runs them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from jensen.core import Model
from jensen.errors import ConfigError
from jensen.objectives.schedules import Rise

Batch = Mapping[str, Tensor]
"""By name, (B, *event): `x`, and where there are any `y`, `c` and `weight`. In training also `row`, which rows of the
training data these are, (B,), and `total`, the weight of all of these, (): their number where all count alike."""


class Terms(NamedTuple):
    """What a loss gives: a scalar to minimise and named scalars to log (detached, in nats, means over the batch)."""

    loss: Tensor
    logged: dict[str, Tensor]


@dataclass(frozen=True)
class GradientPhase:
    """Minimise `loss(model, batch, progress)` over some parameters, every n-th batch.

    Progress is in [0, 1]; past the warm-up of its stage a loss is the same at any.
    """

    loss: Callable[[Model, Batch, float], Terms]
    parameters: Callable[[Model], Iterable[nn.Parameter]] = lambda model: model.parameters()
    every: int = 1


@dataclass(frozen=True)
class UpdatePhase:
    """`state = start(model)`; `state = accumulate(model, state, batch)` over a pass; then `apply(model, state)`.

    What the pass measured of the model as it stood, in nats, `apply` may give back to be logged.
    """

    start: Callable[[Model], Any]
    accumulate: Callable[[Model, Any, Batch], Any]
    apply: Callable[[Model, Any], dict[str, Tensor] | None]


@dataclass(frozen=True)
class Stage:
    """Phases that alternate until the stage's budget is spent.

    Attributes:
        phases: gradient phases alternate batch by batch; update phases apply once a pass.
        passes: a fixed number of passes; None leaves the budget to the trainer.
        monitor: what validation measures, higher is better: a name that `validate` logs.
        rise: from 0 to 1, where the loss is the one wanted; early stopping waits for its end, and weights from before
            it are kept only until then.
        share: of --epochs or --minutes that is this stage's; stages share the whole.
    """

    phases: tuple[GradientPhase | UpdatePhase, ...]
    passes: int | None = None
    monitor: str = "elbo"
    rise: Rise = field(default_factory=Rise)
    name: str = "train"
    share: float = 1.0

    @property
    def warmup(self) -> float:
        """The share of training, in [0, 1), during which the loss is not yet the one wanted."""
        return self.rise.end

    @property
    def has_gradient(self) -> bool:
        """Whether a phase steps along a gradient."""
        return any(isinstance(phase, GradientPhase) for phase in self.phases)


@dataclass(frozen=True)
class Objective:
    """Stages in sequence, and what `validate(model, batch)` logs for each datum: (B,) in nats, higher is better.

    `validation_cost` is what validating a datum takes, in steps of training on one, and `validation_estimates` whether
    it is an estimate where a score is exact. `through_draws` says that the gradient passes through q's draws, which
    must then be differentiable. `prepare(model, batch)` sees a few data before
    training starts or resumes, for helpers whose shape is that of what is hidden. `initialize(model, batch)` sets where
    training starts, in place of `Model.initialize`. `several` says that q may infer several variables, `parallel` that
    the data of a batch may be shared among processes.
    """

    stages: tuple[Stage, ...]
    validate: Callable[[Model, Batch], dict[str, Tensor]]
    description: str = ""
    helpers: nn.Module | None = field(default=None)  # critics, baselines: checkpointed, not exported
    validation_cost: float = 1.0
    validation_estimates: bool = False
    through_draws: bool = True
    prepare: Callable[[Model, Batch], None] | None = None
    initialize: Callable[[Model, Batch], None] | None = None
    several: bool = True
    parallel: bool = True

    def of_several(self, name: str) -> Objective:
        """Itself, for a model that infers several variables. Raises `ConfigError` where it is for one."""
        if not self.several:
            raise ConfigError(f"objective: {name!r} needs exactly one hidden variable, and here q infers several")
        return self


def weighted_mean(rows: Tensor, batch: Batch) -> Tensor:
    """Mean over the batch, (B,) → (), by the rows' weights where the data carry them."""
    weight = batch.get("weight")
    return rows.mean() if weight is None else (rows * weight).sum() / weight.sum()
