"""One walk down p that writes or reads every variable by its own density: the codec of a whole model.

Encoding and decoding are the same function, over batches of the same size, in the same order: what differs is whether
the coder knows the symbols. Codes of which q is certain come first, then the datum given these, or the codes alone.
What q draws would take bits-back coding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from jensen.codecs.entropy import Coder
from jensen.conditionals.autoregressive import Autoregression
from jensen.conditionals.orderless import OrderlessDensity
from jensen.core import Model
from jensen.distributions import Categorical, Elementwise
from jensen.errors import CapabilityError

MOST_LEVELS = 1 << 13
AT_ONCE = 1 << 20  # values of which densities are computed in one call


def coded(
    model: Model,
    coder: Coder,
    n: int,
    context: Mapping[str, Tensor],
    known: Mapping[str, Tensor] | None,
    lossless: bool,
    real: int,
) -> dict[str, Tensor]:
    """Write or read the variables of n data.

    Args:
        model: in float64 and eval mode.
        context: what data stand under, (n, *event) by name.
        known: the datum and its codes, (n, *event) by name; None where they are to be read.
        lossless: whether the datum itself is coded, or its codes alone.
        real: so many of the n are data, and the others fill up the batch: nothing is coded of them.

    Returns:
        Values by name, (n, *event); of what fills up, zeros.

    Raises:
        CapabilityError: a variable has no density over few whole numbers.
    """
    values = dict(context)
    for factor in model.p:
        if factor.name == model.data and not lossless:
            continue
        met = factor.module(*(values[name] for name in factor.parents))
        if factor.deterministic:
            values[factor.name] = met
            continue
        here = known[factor.name] if known is not None else None
        values[factor.name] = _variable(met, coder, n, here, real, factor.name)
    return values


def _variable(met: Distribution, coder: Coder, n: int, known: Tensor | None, real: int, name: str) -> Tensor:
    if isinstance(met, Autoregression):
        return _one_by_one(met, coder, n, known, real, name)
    if isinstance(met, OrderlessDensity) and not met.of.averages:
        return _in_order(met, coder, n, known, real, name)
    if not isinstance(met, Elementwise):
        raise CapabilityError(f"compress: {name!r} has a {type(met).__name__}, which no coder is built for")
    event = met.event_shape
    log_p = _log_masses(met, (n, *event), name).reshape(n, -1, _levels(met, name))
    dims = log_p.shape[1]
    x = log_p.new_zeros(n, dims)
    for d in range(dims):
        here = known.reshape(n, dims)[:real, d] if known is not None else None
        x[:real, d] = coder.code(log_p[:real, d], here).to(x.dtype)
    return x.reshape(n, *event)


def _one_by_one(met: Autoregression, coder: Coder, n: int, known: Tensor | None, real: int, name: str) -> Tensor:
    """As a sample is drawn: each element given what was coded before it."""
    of, event = met.of, met.event_shape
    of.network.use(0)
    step, elements, last = of.network.walk(n, met.context), of.elements(), None
    x = next(of.parameters()).new_zeros(n, math.prod(event))
    flat = known.reshape(n, -1) if known is not None else None
    going = torch.arange(n) < real
    for position in of.network.order.tolist():
        factor = elements(position)(step(last))
        if going.any():
            log_p = _log_masses(factor, (n, 1), name)[:, 0]
            here = flat[going, position] if flat is not None else None
            x[going, position] = coder.code(log_p[going], here).to(x.dtype)
        if of.end is not None:
            x[~going, position] = of.end
            going = going & (x[:, position] != of.end)
        last = x[:, position]
    return x.reshape(n, *event)


def _in_order(met: OrderlessDensity, coder: Coder, n: int, known: Tensor | None, real: int, name: str) -> Tensor:
    """As its one order has it: each element given those before it."""
    x = next(met.of.parameters()).new_zeros(n, math.prod(met.event_shape))
    there, flat = torch.zeros_like(x, dtype=torch.bool), known.reshape(n, -1) if known is not None else None
    for d in met.of.orders[0].tolist():
        of_all = met.given(x.view(n, *met.event_shape), there.view(n, *met.event_shape))
        log_p = _log_masses(of_all, (n, *met.event_shape), name).flatten(1, -2)[:real, d]
        x[:real, d] = coder.code(log_p, flat[:real, d] if flat is not None else None).to(x.dtype)
        there[:, d] = True
    return x.view(n, *met.event_shape)


def _levels(met: Elementwise, name: str) -> int:
    """K, where values are 0..K−1."""
    if isinstance(met, Categorical):
        levels: Any = met.levels
    elif met.support is constraints.boolean:
        levels = 2
    else:
        levels = getattr(met.support, "upper_bound", math.inf) + 1
        if getattr(met.support, "lower_bound", None) != 0:
            levels = math.inf
    if not levels <= MOST_LEVELS or not met.support.is_discrete:
        raise CapabilityError(
            f"compress: {name!r} has a {type(met).__name__}; expected bits, levels or symbols, {MOST_LEVELS:,} at most"
        )
    return int(levels)


def _log_masses(met: Elementwise, shape: tuple[int, ...], name: str) -> Tensor:
    """Of every value, (*shape, K)."""
    if isinstance(met, Categorical):
        return met.logits.log_softmax(-1).expand(*shape, -1)
    like = getattr(met, next(iter(met.parameter_dims)))
    values = torch.arange(_levels(met, name), dtype=like.dtype, device=like.device)
    parts = values.split(max(1, AT_ONCE // math.prod(shape)))
    each = [met.log_prob_terms(part.reshape(-1, *[1] * len(shape)).expand(-1, *shape)) for part in parts]
    return torch.cat(each).movedim(0, -1)
