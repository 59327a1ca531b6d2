"""Passages: a window of a text scored given the window before it, so that no token goes without a context.

A model of windows of T tokens gives p(x_t | those before it), T − 1 of them at most. On its own, a window gives its
first tokens little to go by. Here each is given at least C < T: rows of T tokens are laid T − C apart over the text,
and of each row the last T − C tokens count. Their sum over the text is its log p under a process of finite memory,
exact like that of windows on their own. It takes T / (T − C) passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jensen.conditionals.autoregressive import Autoregression
from jensen.core import EXACT, Model
from jensen.data import TensorSplit
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.precision import as_in
from jensen.jobs.run import Run


def check_context(run: Run, context: int) -> None:
    """Raises:
    ConfigError: negative, or not less than a window.
    CapabilityError: the data are no windows of a text, or their tokens do not follow one another.
    """
    if context < 0:
        raise ConfigError(f"--context: expected >= 0, got {context}")
    if not context:
        return
    name = run.spec["model"]
    if not run.schema.is_text or run.schema.tokens.lines:
        raise CapabilityError(f"--context: only a window of a text has tokens before it; {name} is not of such data")
    if run.model.likelihood != EXACT or run.model.hidden:
        raise CapabilityError(f"--context: {name} has no exact p(token | those before it) of a text alone")
    length = run.schema.event_shape[0]
    if context >= length:
        raise ConfigError(f"--context: expected less than a window, {length} {run.schema.tokens.words}, got {context}")


@torch.no_grad()
def log_p_in_context(model: Model, tensors: TensorSplit, chosen: Tensor, context: int) -> Tensor:
    """log p of windows, each token given at least so many before it, (n,), float64, in nats.

    The first window of a text has nothing before it.

    Args:
        tensors: windows one after another, (N, T).
        chosen: which of them, (n,).

    Raises:
        CapabilityError: it is not known which windows begin a text.
    """
    factor = model.p[model.data]
    chosen = chosen.to(tensors.x.device)
    if tensors.starts is None:
        raise CapabilityError("--context: expected a text; of rows of tokens it is not known which follow one another")
    batch = as_in(model, tensors.take(chosen))
    x, given = batch[model.data], [batch[name] for name in factor.parents]  # the same of all windows of a text
    met: Any = factor.module(*given)
    assert isinstance(met, Autoregression)
    terms, length = met.terms(x).double(), x.shape[1]
    before = as_in(model, tensors.take((chosen - 1).clamp_min(0)))[model.data]
    follows = ~tensors.starts[chosen]
    passage = torch.cat([before, x], 1)[follows]  # (m, 2T)
    fresh, met = length - context, factor.module(*(value[follows] for value in given))
    for start in range(fresh, length, fresh):
        seen = met.terms(passage[:, start : start + length]).double()
        terms[follows, start - fresh : start] = seen[:, context:]
    return terms.sum(1)
