"""Precision: what float32 makes of a log-density, and the same in float64."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from jensen.core import Joint, Model, Observed, evidence


def doubled(model: Model) -> Model:
    """A copy of a model in float64; the model itself stays as it is."""
    return copy.deepcopy(model).double().eval()


def as_in(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch with its real numbers in the model's precision."""
    dtype = precision(model)
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


def precision(model: Model) -> torch.dtype:
    """float32 or float64."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


@torch.no_grad()
def log_densities(model: Model, double: Model, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Σ log p of all variables at the same values, in the model's precision and in float64, each (B,), in nats.

    What is hidden is drawn once, by the model itself.
    """
    e = model.evidence(as_in(model, batch))
    single = torch.stack([log_p[0] for log_p in e.log_p.values()]).sum(0)
    values = as_in(double, {name: e.values[name] for name in [*model.p.names, *model.context] if name in e.values})
    known = {name: Observed(value, e.masks[name]) if name in e.masks else value for name, value in values.items()}
    return single.double(), evidence(double.p, Joint(), known).log_w[0]
