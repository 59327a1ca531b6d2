"""Where an increasing function crosses zero, element by element: for maps whose inverse has no closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STEPS = 10
"""Evaluations that a root takes, more or less."""
LIMIT = 120
"""Evaluations at most: those of two bisections to the last bit of float64."""

Function = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From v to f(v) and f′(v) > 0, element by element."""


def increasing_root(function: Function, low: Tensor, high: Tensor, size: Tensor) -> Tensor:
    """The v with f(v) = 0, f(low) ≤ 0 ≤ f(high), differentiable in whatever f depends on.

    Newton steps from the middle of the bracket; where one leaves it, or does not halve the step before the last, the
    bracket is bisected. An element rests where f is zero up to the rounding of its terms, so that it does not depend
    on the others. It takes about `STEPS` evaluations, `LIMIT` at most.

    One more Newton step, v − f(v) / f′(v) with the denominator held, carries the gradient of the implicit function,
    −∂f / f′; second derivatives are not those of the root.

    Args:
        function: f and f′.
        low, high: a bracket, of the root's shape.
        size: of the terms that f adds up, likewise.

    Press et al., "Numerical recipes", 3rd ed. 2007, section 9.4.

    >>> y = torch.tensor([8.0], requires_grad=True)
    >>> v = increasing_root(lambda v: (v**3 - y, 3 * v**2), y * 0, y + 10, y)
    >>> v, torch.autograd.grad(v.sum(), y)[0]  # 2 and 1/12
    (tensor([2.], grad_fn=<SubBackward0>), tensor([0.0833]))
    """
    with torch.no_grad():
        v = _search(function, low, high, torch.finfo(low.dtype).eps * size)
    value, slope = function(v)
    return v - value / slope.detach()


def _search(function: Function, low: Tensor, high: Tensor, noise: Tensor) -> Tensor:
    v, eps = (low + high) / 2, torch.finfo(low.dtype).eps
    last = before = high - low
    resting = torch.zeros_like(v, dtype=torch.bool)
    for _ in range(LIMIT):
        value, slope = function(v)
        low, high = torch.where(value < 0, v, low), torch.where(value > 0, v, high)
        newton, middle = v - value / slope, (low + high) / 2
        step = (newton - v).abs()
        moved = torch.where((newton > low) & (newton < high) & (step < before / 2), newton, middle)
        resting = resting | (value.abs() <= noise) | (torch.minimum(step, high - low) <= eps * v.abs())
        if resting.all():
            break
        before, last = last, (moved - v).abs()
        v = torch.where(resting, v, moved)
    return v
