"""The losses of a model's phases, compiled where that is asked for and can be."""

from __future__ import annotations

from collections.abc import Callable

from jensen.core import Model
from jensen.nets.products import lower_products
from jensen.objectives import Batch, GradientPhase, Terms
from jensen.transforms import Transform
from jensen.transforms.compilation import attempted, compiling, is_compiled


class Losses:
    """Of whole batches and past warm-up, from where on a loss is the same at any progress, the compiled ones.

    Of a model with transforms these are compiled, each for itself, and the loss around them is not.

    Args:
        model: whose losses they are.
        rows: of a whole batch; None compiles nothing.
    """

    def __init__(self, model: Model, rows: int | None):
        self.model, self.rows = model, rows
        self._as_one = not any(isinstance(module, Transform) for module in model.modules())
        self._fast: dict[GradientPhase, Callable[..., Terms]] = {}

    def of(self, phase: GradientPhase, batch: Batch, progress: float, warmup: float) -> Terms:
        """A phase's loss of a batch, at a progress through training in [0, 1] whose first share, `warmup`, is that."""
        with compiling(self.rows):
            if not self._as_one or progress < warmup or not is_compiled(len(batch["x"])):
                return phase.loss(self.model, batch, progress)
            if phase not in self._fast:
                lower_products()
                self._fast[phase] = attempted(phase.loss, owner=0)
            return self._fast[phase](self.model, batch, 1.0)
