"""Draws of what is missing of a datum where a density has all its conditionals: p(x_m | x_o) itself.

What each element is on its own, p(x_d | x_o), is one pass: its mean has no error of drawing, nor has its spread where
that is known in closed form. Draws take
a step for each missing element, each given those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from jensen.conditionals.orderless import Orderless
from jensen.core import Model
from jensen.distributions import Elementwise, Names, Record
from jensen.errors import CapabilityError

NUMBERS = 1 << 18  # cells at once, with all their draws
DRAWS, FEW = 256, 8  # by which a spread is told that has no closed form, and so many at once

Keep = Callable[[Tensor, str, Tensor, Tensor, Tensor, Tensor], None]
"""Takes rows (B,), the method, draws (M, B, D), points and spreads (B, D), and effective sample sizes (B,)."""


def answers(model: Model) -> bool:
    """Whether a model's density of the datum has all its conditionals, what is hidden, if anything, summed out."""
    if model.hidden:
        return len(model.hidden) == 1 and hasattr(model.q[model.hidden[0]].module, "summed_out")
    return isinstance(model.p[model.data].module, Orderless)


def density(model: Model, context: Mapping[str, Tensor]) -> Any:
    """The density of the datum under conditions (N, ...): it can be asked for `given` and to `complete`."""
    if model.hidden:
        posterior: Any = model.q[model.hidden[0]].module
        return posterior.summed_out()
    factor: Any = model.p[model.data]
    return factor.module(*(context[name] for name in factor.parents))


@torch.no_grad()
def condition(model: Model, x: Tensor, missing: Tensor, context: Mapping[str, Tensor], draws: int, keep: Keep) -> None:
    """Fill in rows of which something is missing.

    Args:
        x, missing: prepared data, and what of it is missing, (N, *event).
        context: conditions of the model, by name, (N, ...).
        draws: M, of each datum.
        keep: told of each few rows, once they are done.
    """
    rows = max(1, min(NUMBERS // (draws * x[:1].numel()), density(model, context).at_once))
    some = missing.flatten(1).any(1).nonzero()[:, 0]
    for few in some.split(rows) if len(some) else ():
        p = density(model, {name: value[few] for name, value in context.items()})
        known = ~missing[few]
        drawn = p.complete(x[few].repeat(draws, *(1,) * (x.dim() - 1)), known.repeat(draws, *(1,) * (x.dim() - 1)))
        alone = p.given(x[few], known)
        point, spread = points(alone), spreads(alone)
        point = torch.where(point.isnan(), drawn.unflatten(0, (draws, -1)).median(0).values, point)  # there is no mean
        spread = spread.nan_to_num(math.inf, math.inf)  # and no variance
        exact = torch.full((len(few),), math.inf)
        keep(few, "conditional", drawn.unflatten(0, (draws, -1)).flatten(2), point.flatten(1), spread.flatten(1), exact)


def points(dist: Elementwise) -> Tensor:
    """The mean of each element, of ordinals the median and of names the likeliest, (N, *event)."""
    return dist.row([_point(part) for part in dist.parts]) if isinstance(dist, Record) else dist.mean


def spreads(dist: Elementwise) -> Tensor:
    """The standard deviation of each element, of names the probability of any other than the likeliest, (N, *event).

    Of counts and bounded numbers it is that of 256 draws.
    """
    return dist.row([_spread(part) for part in dist.parts]) if isinstance(dist, Record) else dist.variance.sqrt()


def _point(part: Elementwise) -> Tensor:
    if isinstance(part, Names):
        return part.mode
    if part.support.is_discrete and getattr(part, "levels", math.inf) < math.inf:
        return part.quantile(torch.full_like(part.mean, 0.5))
    return part.mean


def _spread(part: Elementwise) -> Tensor:
    if isinstance(part, Names):
        return 1 - part.probs.amax(-1)
    try:
        return part.variance.sqrt()
    except CapabilityError:  # no closed form is known
        first = part.mean
        squares = sum(((part.sample((FEW,)) - first).square().sum(0) for _ in range(DRAWS // FEW)), first * 0)
        return (squares / DRAWS).sqrt()
