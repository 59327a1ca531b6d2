"""The losses of a model's phases and their gradients, compiled as one where that is asked for and can be."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from jensen.core import Model
from jensen.hardware import pick_device
from jensen.nets.products import lower_products
from jensen.objectives import Batch, GradientPhase, Terms
from jensen.training.settings import Settings
from jensen.transforms import Transform
from jensen.transforms.compilation import attempted, compiling, is_compiled

LONG = 10.0  # minutes, from which a training is long
LAYERS = 100  # parameters of a model that is soon compiled, at most
STEP, SPEED = 1e-3, 1e11  # seconds that any step takes, and multiplications a second of two processors
Factor = Tensor | float | None
Function = Callable[
    [Model, Batch, float, list[nn.Parameter], Factor],
    tuple[Terms, tuple[Tensor | None, ...]],
]
"""Of a model, a batch, progress, parameters and a factor: the loss, and the gradient of factor times it by each."""


class Gradients:
    """What a model's phases lose, and the gradients, which are left with the parameters.

    Of whole batches past warm-up, from where on a loss is the same at any progress, both are compiled as one function.
    Of a model with transforms these are compiled, each for itself, and the loss around them is not.

    Args:
        model: whose losses they are.
        rows: of a whole batch; None compiles nothing.
        announce: called before something is compiled, which takes long.
        asked: whether who trains asked for it, and is warned where it cannot be.
    """

    def __init__(self, model: Model, rows: int | None, announce: Callable[[], None] = lambda: None, asked: bool = True):
        self.model, self.rows, self.announce, self.asked = model, rows, announce, asked
        self._as_one = not any(isinstance(module, Transform) for module in model.modules())
        self._parameters: dict[int, list[nn.Parameter]] = {}  # of a phase, by its id
        self._compiled: dict[int, Function] = {}

    def backward(
        self, phase: GradientPhase, batch: Batch, progress: float, warmup: float, factor: Factor = None
    ) -> Terms:
        """A phase's loss of a batch; its parameters then have the gradients of `factor` times it, or none.

        Args:
            progress: through training, in [0, 1], whose first share, `warmup`, is that.
            factor: a number, or 0-dimensional; None is 1.

        Returns:
            The loss and what is logged, 0-dimensional, in nats, detached.
        """
        parameters = self._parameters.setdefault(id(phase), [])
        if not parameters:
            parameters += phase.parameters(self.model)
        for p in parameters:
            p.grad = None
        learning = [p for p in parameters if p.requires_grad]
        function = with_gradients(phase)
        with compiling(self.rows, self.announce, self.asked):
            if self._as_one and progress >= warmup and is_compiled(len(batch["x"])):
                if id(phase) not in self._compiled:
                    lower_products()
                    self._compiled[id(phase)] = attempted(function, owner=0)
                function, progress = self._compiled[id(phase)], 1.0
            terms, gradients = function(self.model, batch, progress, learning, factor)
        given: set[int] = set()  # what one parameter has is no other's: what scales gradients does so in place
        for p, gradient in zip(learning, gradients, strict=True):
            if gradient is None:
                continue
            place = gradient.untyped_storage().data_ptr()
            own = place not in given and gradient.stride() == p.stride()
            p.grad = gradient if own else torch.empty_like(p).copy_(gradient)
            given.add(place)
        return terms


def pays_to_compile(model: Model, settings: Settings, rows: int) -> bool:
    """Whether compiling is made up for by the steps that it makes shorter.

    So it is as a rule with few dense layers, whose many small operations become one, in many minutes of training on a
    CPU. It follows from the model, its data and its settings, and not from what is measured, so that a resumed run does
    as the uninterrupted one.

    Args:
        rows: of training data.
    """
    parameters = list(model.parameters())
    if pick_device(settings.device).type != "cpu" or settings.workers > 1 or len(parameters) > LAYERS:
        return False
    if any(p.dim() > 2 for p in parameters):  # convolutions
        return False
    if settings.minutes is not None:
        return settings.minutes >= LONG
    products = 3 * settings.batch_size * sum(p.numel() for p in parameters)  # at least: forward, and twice back
    steps = (settings.epochs or 0) * math.ceil(rows / settings.batch_size)
    return steps * (STEP + products / SPEED) >= 60 * LONG


def with_gradients(phase: GradientPhase) -> Function:
    """The loss of a phase, and its gradients."""

    def function(
        model: Model, batch: Batch, progress: float, parameters: list[nn.Parameter], factor: Factor
    ) -> tuple[Terms, tuple[Tensor | None, ...]]:
        loss, logged = phase.loss(model, batch, progress)
        aim = loss if factor is None else loss * factor
        gradients = torch.autograd.grad(aim, parameters, allow_unused=True) if parameters else ()
        told = {name: torch.as_tensor(value).detach() for name, value in logged.items()}  # a plain number does, too
        return Terms(loss.detach(), told), gradients

    return function
