"""The losses of a model's phases and their gradients, compiled as one where that is asked for and can be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from jensen.core import Model
from jensen.nets.products import lower_products
from jensen.objectives import Batch, GradientPhase, Terms
from jensen.transforms import Transform
from jensen.transforms.compilation import attempted, compiling, is_compiled

Slopes = tuple[Tensor | None, ...]
Descent = Callable[[Model, Batch, float, list[nn.Parameter], Tensor | None], tuple[Terms, Slopes]]
"""Of a model, a batch, progress, parameters and a factor: the loss, and how factor times it changes with them."""


class Gradients:
    """Of losses of whole batches past warm-up, from where on a loss is the same at any progress, the compiled ones.

    Of a model with transforms these are compiled, each for itself, and the loss around them is not.

    Args:
        model: whose losses they are.
        rows: of a whole batch; None compiles nothing.
        begin: called before a phase's first compiled batch, which takes long.
    """

    def __init__(self, model: Model, rows: int | None, begin: Callable[[], None] = lambda: None):
        self.model, self.rows, self.begin = model, rows, begin
        self._as_one = not any(isinstance(module, Transform) for module in model.modules())
        self._of: dict[GradientPhase, tuple[list[nn.Parameter], Descent]] = {}
        self._fast: dict[GradientPhase, Descent] = {}

    def put(
        self, phase: GradientPhase, batch: Batch, progress: float, warmup: float, factor: Tensor | None = None
    ) -> Terms:
        """A phase's loss of a batch; its parameters then have the gradients of `factor` times it, or none.

        Args:
            progress: through training, in [0, 1], whose first share, `warmup`, is that.
            factor: 0-dimensional; None is 1.
        """
        if phase not in self._of:
            parameters = [p for p in phase.parameters(self.model) if p.requires_grad]
            self._of[phase] = parameters, descent(phase)
        parameters, descend = self._of[phase]
        for p in parameters:
            p.grad = None
        with compiling(self.rows):
            if is_compiled(len(batch["x"])) and (progress >= warmup or not self._as_one):
                if phase not in self._fast:
                    self.begin()
                    lower_products()
                    self._fast[phase] = attempted(descend, owner=0) if self._as_one else descend
                descend, progress = self._fast[phase], 1.0 if self._as_one else progress
            terms, slopes = descend(self.model, batch, progress, parameters, factor)
        for p, slope in zip(parameters, slopes, strict=True):
            p.grad = slope if slope is None or slope.stride() == p.stride() else torch.empty_like(p).copy_(slope)
        return terms


def descent(phase: GradientPhase) -> Descent:
    """The loss of a phase with its gradients."""

    def descend(
        model: Model, batch: Batch, progress: float, parameters: list[nn.Parameter], factor: Tensor | None
    ) -> tuple[Terms, Slopes]:
        loss, logged = phase.loss(model, batch, progress)
        aim = loss if factor is None else loss * factor
        slopes = torch.autograd.grad(aim, parameters, allow_unused=True)
        return Terms(loss.detach(), {name: value.detach() for name, value in logged.items()}), slopes

    return descend
