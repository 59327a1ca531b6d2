"""The ascent: step sizes that fall, each until the bound stops rising, and averages of what was last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jensen.errors import DataError
from jensen.jobs.infer.found import Progress
from jensen.objectives.variational import Gradient, Target, bound
from jensen.training.adam import LeanAdam

FALL, LEVELS = 0.25, 5  # the step size falls by this factor, so many times in all
PATIENCE = 2  # windows in a row that do not rise, before it falls
TOLERANCE = 1e-3  # nats: a rise that matters
RUNAWAY = 1e6  # first guesses, beyond which a scale has no end


@dataclass(frozen=True)
class Fit:
    steps: int
    converged: bool


def ascend(
    target: Target, q: nn.Module, gradient: Gradient, samples: int, window: int, max_steps: int, size: float,
    listener: Callable[[Progress], None] | None, like: Tensor,
) -> Fit:  # fmt: skip
    """Adam at step sizes that fall; each holds until the bound, by windows, stops rising, and ends in an average."""
    parameters = list(q.parameters())
    step = 0
    for level in range(LEVELS):
        optimizer = LeanAdam(parameters, size * FALL**level)
        optimizer.param_groups[0]["betas"] = (0.9, 0.99)  # an outlier among the gradients is soon forgotten
        flat, last = 0, None
        while flat < PATIENCE:
            bounds, average = [], [torch.zeros_like(p) for p in parameters]
            for _ in range(window):
                value, log_w = bound(target, q, samples, gradient, like)
                gradients = torch.autograd.grad(-value, parameters, allow_unused=True)
                _refuse_not_finite(gradients, q)
                for p, g in zip(parameters, gradients, strict=True):
                    p.grad = g
                optimizer.step()
                torch._foreach_add_(average, [p.detach() for p in parameters], alpha=1 / window)
                bounds.append(log_w.mean())
            step += window
            means = torch.stack(bounds).double()
            now = float(means.mean()), float(means.std() / math.sqrt(window))
            if listener is not None:
                listener(Progress(step, *now, size * FALL**level))
            _refuse_runaway(q)
            rose = last is None or now[0] - last[0] > max(TOLERANCE, math.hypot(now[1], last[1]))
            flat, last = (0 if rose else flat + 1), now
            if step >= max_steps:
                break
        with torch.no_grad():
            for p, kept in zip(parameters, average, strict=True):
                p.copy_(kept)
        if step >= max_steps and (level < LEVELS - 1 or flat < PATIENCE):
            return Fit(step, False)
    return Fit(step, True)


def _refuse_not_finite(gradients: Sequence[Tensor | None], q: nn.Module) -> None:
    for (name, _), g in zip(q.named_parameters(), gradients, strict=True):
        if g is not None and not torch.isfinite(g).all():
            raise DataError(
                f"the gradient of the bound with respect to q's {name} is not finite: log_density is finite at the "
                f"draws but its own gradient is not (a square root at 0, a where() that hides NaN?)"
            )


@torch.no_grad()
def _refuse_runaway(q: nn.Module) -> None:
    """Stop where nothing bounds a scale."""
    scale = getattr(q, "log_scale", None)
    scale = getattr(getattr(q, "base", None), "log_scale", None) if scale is None else scale
    if scale is not None and scale.numel() and float(scale.max()) > math.log(RUNAWAY):
        where = int(scale.flatten().argmax()) % scale.shape[-1]
        raise DataError(
            f"q grew without end along dimension {where}, to {RUNAWAY:.0e} times the first guess of its scale: nothing "
            f"bounds it, so the integral of exp(log_density) seems infinite (an improper target)"
        )
