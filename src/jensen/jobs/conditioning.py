"""Draws of what is missing of a datum where a density has all its conditionals: p(x_m | x_o) itself.

What each element is on its own, p(x_d | x_o), is one pass: its mean and its spread have no error of drawing. Draws take
a step for each missing element, each given those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from jensen.conditionals.orderless import Orderless, OrderlessDensity
from jensen.core import Model
from jensen.distributions import Elementwise, Names, Record
from jensen.errors import CapabilityError

TOGETHER = 4096  # rows at once
DRAWS = 256  # by which a spread is told that has no closed form

Keep = Callable[[Tensor, str, Tensor, Tensor, Tensor, Tensor], None]
"""Takes rows (B,), the method, draws (M, B, D), points and spreads (B, D), and effective sample sizes (B,)."""


def answers(model: Model) -> bool:
    """Whether a model's density of the datum has all its conditionals, with nothing hidden."""
    return isinstance(model.p[model.data].module, Orderless) and not model.hidden


def density(model: Model, context: Mapping[str, Tensor]) -> OrderlessDensity:
    """The density of the datum under conditions (N, ...)."""
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
    for few in missing.flatten(1).any(1).nonzero()[:, 0].split(max(1, TOGETHER // draws)):
        p = density(model, {name: value[few] for name, value in context.items()})
        known = ~missing[few]
        drawn = p.complete(x[few].repeat(draws, *(1,) * (x.dim() - 1)), known.repeat(draws, *(1,) * (x.dim() - 1)))
        point, spread = points(p.given(x[few], known))
        exact = torch.full((len(few),), math.inf)
        keep(few, "conditional", drawn.unflatten(0, (draws, -1)).flatten(2), point.flatten(1), spread.flatten(1), exact)


def points(dist: Elementwise) -> tuple[Tensor, Tensor]:
    """The mean of each element, of ordinals the median and of names the likeliest, (N, *event); and its standard
    deviation, of names the probability of any other.

    Of counts and bounded numbers the deviation is that of 256 draws.
    """
    if not isinstance(dist, Record):
        return dist.mean, dist.variance.sqrt()
    found = [_of_kind(part) for part in dist.parts]
    first, second = zip(*found, strict=True)
    return dist.row(first), dist.row(second)


def _of_kind(part: Elementwise) -> tuple[Tensor, Tensor]:
    if isinstance(part, Names):
        likeliest = part.probs.max(-1)
        return likeliest.indices.to(part.probs), 1 - likeliest.values
    try:
        spread = part.variance.sqrt()
    except CapabilityError:  # no closed form is known
        spread = part.sample((DRAWS,)).std(0)
    if part.support.is_discrete and getattr(part, "levels", math.inf) < math.inf:
        return part.quantile(torch.full_like(spread, 0.5)), spread
    return part.mean, spread
