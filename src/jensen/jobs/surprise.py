"""Surprise: how unlikely the value in a column is given all the others of its row, and what was expected there.

Where columns are independent given what is hidden, p(x | z) = Π_d p(x_d | z), the particles z_k of weight w_k that
explain the whole row explain it without x_d when its own term is taken out of them,

    p(x_d | x_−d) = 1 / E[1 / p(x_d | z) | x] ≈ Σ_k v_k p(x_d | z_k) / Σ_k v_k        v_k = w_k / p(x_d | z_k)

so that no column needs a walk of its own. Weights above their mean times √K are cut to that (Ionides 2008): where x_d
alone decides z the estimate is of large variance otherwise, and low surprise with it. An autoregressive density has
p(x_d | those before it).

Gelfand, Dey and Chang, "Model determination using predictive distributions", 1992, with importance weights; Ionides,
"Truncated importance sampling", Journal of Computational and Graphical Statistics 17(2), 2008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.conditionals.autoregressive import Autoregression
from jensen.core import Evidence, seeded
from jensen.data import TensorSplit
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.precision import as_in
from jensen.jobs.run import Run
from jensen.units import bits

PARTICLES = 200
VALUES = 1 << 22  # of columns and particles at once
UNORDERED = ("binary", "category", "ordinal")  # of which the likeliest value is expected, not the mean


@dataclass(frozen=True, eq=False)
class Surprise:
    """Of n rows and D columns.

    Attributes:
        bits: −log₂ p(x_d | the others), (n, D), in the units of the data; of real numbers a density, so that it may be
            negative and moves with the unit. NaN where the cell is empty.
        expected: what the others let expect in each column, as the data came, (n, D): the mean, of binary columns and
            categories the likeliest value.
        names: of the columns.
    """

    bits: np.ndarray
    expected: Any
    names: list[str]


@torch.no_grad()
def surprise(run: Run, tensors: TensorSplit, chosen: np.ndarray, particles: int = PARTICLES, seed: int = 0) -> Surprise:
    """How surprising each column of chosen rows is.

    Args:
        tensors: prepared rows, of which those at `chosen` are looked at.
        particles: K, of what is hidden.

    Raises:
        ConfigError: the data are no table.
        CapabilityError: p(x | z) is no product over columns, and not autoregressive.
    """
    if run.schema.is_array:
        raise ConfigError("--columns: expected a table, which has columns; this run is of one array a datum")
    model = run.model.eval()
    k = particles if model.hidden else 1
    size = max(1, VALUES // (k * run.schema.dims))
    found = []
    with seeded(seed, run.device):
        for index in torch.from_numpy(chosen).to(run.device).split(size):
            batch = as_in(model, tensors.take(index))
            e = model.evidence(batch, k)
            log_p, expected = _terms(run, e)
            found.append(
                (torch.where(e.masks.get("x", log_p == log_p), log_p, math.nan).double().cpu(), expected.cpu())
            )
    log_p, expected = (torch.cat(parts) for parts in zip(*found, strict=True))
    scales = torch.tensor([field.scale for field in run.schema.fields], dtype=torch.float64)
    names, restored = run.schema.names, run.schema.restore(expected)
    return Surprise((scales.log() - log_p).numpy() * bits(1.0), restored, names)


def _terms(run: Run, e: Evidence) -> tuple[Tensor, Tensor]:
    """log p(x_d | the others) in nats, and the value expected there, prepared, each (B, D)."""
    dist, x, k, b = e.p[run.model.data], e.values[run.model.data], e.particles, e.batch
    wide = k > 1 and dist.batch_shape[:1] == (k * b,)
    if wide and hasattr(dist, "unflatten"):
        dist = dist.unflatten((k, b))  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(dist, Autoregression):
        terms, means = dist.terms(x), dist.factors(x).mean
    elif hasattr(dist, "log_prob_terms"):
        terms, means = dist.log_prob_terms(x), dist.mean  # pyright: ignore[reportAttributeAccessIssue]
    else:
        raise CapabilityError(
            f"{run.spec['model']} cannot tell columns apart: its density of a row is neither a product over columns "
            "given what is hidden nor autoregressive; leave out --columns"
        )
    terms, means = terms.expand(k, b, -1), means.expand(k, b, -1)
    own = torch.where(e.masks["x"], terms, 0.0) if "x" in e.masks else terms
    log_v = e.log_w[:, :, None] - own  # (K, B, D)
    log_v = torch.minimum(log_v, log_v.logsumexp(0) - math.log(k) + 0.5 * math.log(k))
    log_v = log_v - log_v.logsumexp(0)
    expected = (log_v.exp() * means).sum(0)
    for d, field in enumerate(run.schema.fields):
        if field.kind in UNORDERED:
            expected[:, d] = _likeliest(dist.mode.expand(k, b, -1)[:, :, d], log_v[:, :, d].exp())  # pyright: ignore
    return (log_v + terms).logsumexp(0), expected


def _likeliest(votes: Tensor, weights: Tensor) -> Tensor:
    """The value, a whole number from 0, that has most of the weight, (B,), of votes (K, B)."""
    cast = votes.round().long()
    total = weights.new_zeros(int(cast.max()) + 1, votes.shape[1]).scatter_add_(0, cast, weights)
    return total.argmax(0).to(weights.dtype)
