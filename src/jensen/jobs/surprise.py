"""Surprise: how unlikely the value in a column is given all the others of its row, and what was expected there.

Where columns are independent given what is hidden, p(x | z) = Π_d p(x_d | z), the particles z_k of weight w_k that
explain the whole row explain it without x_d when its own term is taken out of them,

    p(x_d | x_−d) = 1 / E[1 / p(x_d | z) | x] ≈ Σ_k v_k p(x_d | z_k) / Σ_k v_k        v_k = w_k / p(x_d | z_k)

so that no column needs a walk of its own. But where x_d, and more so a wrong x_d, decides what z is, few of the
particles say what the others would. Such cells are looked at again: values x̃_d are drawn from that first estimate
r(x̃_d), and z from q given the row with x̃_d in its place, with weights p(x̃_d, x_−d, z) / (r(x̃_d) q(z)), which
hardly differ where r and q are right. As each of them takes the whole row again, in a table of many columns only those
are looked at again of which the fewest particles say what the others would, and in a wide one, where one among so many
hardly decides what z is, none. A density that has all its conditionals, as a mixture's, is asked for p(x_d | x_−d). An
autoregressive one has p(x_d | those before it), and where it works in any order, p(x_d | x_−d).

Weights above their mean times √K are cut to that.

Gelfand, Dey and Chang, "Model determination using predictive distributions", 1992; Ionides, "Truncated importance
sampling", Journal of Computational and Graphical Statistics 17(2), 2008.
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
from jensen.jobs.conditioning import answers, density
from jensen.jobs.precision import as_in
from jensen.jobs.run import Run
from jensen.units import bits

PARTICLES = 200
VALUES = 1 << 21  # of columns and particles at once
ENOUGH = 0.5  # share of the particles that weights without a column are to be worth
TRIED = 64  # values that are tried in a cell that is looked at again; with many particles, a quarter as many as these
AGAIN, WIDE = 1 << 14, 512  # cells of a row looked at again times columns, at most; columns above which none is
UNORDERED = ("binary", "category", "ordinal")  # of which the likeliest value is expected, not the mean


@dataclass(frozen=True, eq=False)
class Surprise:
    """Of n rows and D columns.

    Attributes:
        bits: −log₂ p(x_d | the others), (n, D), NaN where the cell is empty. Of real numbers p is a density, of the
            column standardised, so that columns compare; it may be above 1, and bits below 0. Of whole numbers in a
            wide range each is improbable: what counts is how much more a value surprises than is usual of the column.
        expected: what the others let expect in each column, as the data came, (n, D): the mean, of binary columns and
            categories the likeliest value.
        values: the rows, as the data came, with what was expected in empty cells.
        names: of the columns.
        constant: of each, whether it held one value throughout in training, (D,).
    """

    bits: np.ndarray
    expected: Any
    values: Any
    names: list[str]
    constant: np.ndarray


@torch.no_grad()
def surprise(run: Run, tensors: TensorSplit, chosen: np.ndarray, particles: int = PARTICLES, seed: int = 0) -> Surprise:
    """How surprising each column of chosen rows is.

    Args:
        tensors: prepared rows, of which those at `chosen` are looked at.
        particles: K, of what is hidden.

    Raises:
        ConfigError: the data are no table.
        CapabilityError: p(x | z) is no product over columns, not autoregressive, and without conditionals of its own.
    """
    if run.schema.is_array:
        raise ConfigError("--columns: expected a table, which has columns; this run is of one array a datum")
    model = run.model.eval()
    k = particles if model.hidden and not answers(model) else 1
    size = max(1, VALUES // (k * run.schema.dims))
    found = []
    with seeded(seed, run.device):
        for index in torch.from_numpy(chosen).to(run.device).split(size):
            batch = as_in(model, tensors.take(index))
            e = model.evidence(batch, k)
            log_p, expected = _by_column(run, batch, e)
            found.append(
                (
                    torch.where(e.masks.get(model.data, torch.ones_like(log_p, dtype=torch.bool)), log_p, math.nan)
                    .double()
                    .cpu(),
                    expected.cpu(),
                )
            )
    log_p, expected = (torch.cat(parts) for parts in zip(*found, strict=True))
    whole = torch.where(log_p.isnan(), expected, tensors.x[torch.from_numpy(chosen)].cpu())
    restored = run.schema.restore(expected), run.schema.restore(whole)
    return Surprise(-log_p.numpy() * bits(1.0), *restored, run.schema.names, run.schema.constant)


def _by_column(run: Run, batch: dict[str, Tensor], e: Evidence) -> tuple[Tensor, Tensor]:
    """log p(x_d | the others) in nats, and the value expected there, prepared, each (B, D)."""
    name, k, kinds = run.model.data, e.particles, [field.kind for field in run.schema.fields]
    dist, x = e.p[name], e.values[name]
    if isinstance(dist, Autoregression):
        return _in_order(run, dist, x, kinds)
    seen = e.masks.get(name, torch.ones_like(x, dtype=torch.bool))
    if answers(run.model):
        return _asked(density(run.model, batch), x, seen, kinds)
    if not hasattr(dist, "log_prob_terms") or run.model.completes:
        raise CapabilityError(
            f"{run.spec['model']} cannot tell columns apart: its density of a row is neither a product over columns "
            "given what is hidden nor autoregressive; leave out --columns"
        )
    terms, means, modes = _given_hidden(e, name, x)
    log_v, size = _without(e.log_w[:, :, None] - torch.where(seen, terms, 0.0))
    log_p, expected = (log_v + terms).logsumexp(0), _expected(log_v, means, modes, kinds)
    needy = _neediest(size, (size < ENOUGH * k) & seen)
    if not needy.any():
        return log_p, expected
    tried, log_r = _drawn(e, name, x, log_v)  # (M, B, D)
    m, each = len(tried), math.ceil(k / len(tried))
    rows, columns = needy.nonzero(as_tuple=True)
    for some in torch.arange(len(rows), device=rows.device).split(max(1, VALUES // (each * m * x.shape[1]))):
        row, d = rows[some], columns[some]
        changed = x[row].repeat(m, 1)  # (M·N, D)
        at = torch.arange(len(changed), device=d.device), d.repeat(m)
        changed[at] = tried[:, row, d].flatten()
        other = run.model.evidence({n: v[row.repeat(m)] for n, v in batch.items()} | {name: changed}, each)
        found = _given_hidden(other, name, x[row].repeat(m, 1))
        value, mean, mode = (t[:, at[0], at[1]].reshape(-1, len(row)) for t in found)  # (K/M · M, N)
        log_u, _ = _without((other.log_w - log_r[:, row, d].flatten()).reshape(-1, len(row)))
        log_p[row, d] = (log_u + value).logsumexp(0)
        for j in d.unique().tolist():
            mine = d == j
            told = _expected(log_u[:, mine, None], mean[:, mine, None], mode[:, mine, None], [kinds[j]])
            expected[row[mine], j] = told[:, 0]
    return log_p, expected


def _in_order(run: Run, dist: Autoregression, x: Tensor, kinds: list[Any]) -> tuple[Tensor, Tensor]:
    """log p(x_d | those before it), and what is expected there, each (B, D); in any order each d comes last."""
    network = dist.of.network
    if network.any_order:
        log_p, expected = torch.empty_like(x), torch.empty_like(x)
        columns = torch.arange(x.shape[1], device=x.device)
        for d in range(x.shape[1]):
            network.arrange(torch.cat([columns[columns != d], columns[d : d + 1]]))
            p = dist.factors(x)
            log_p[:, d] = p.log_prob_terms(x)[:, d]
            expected[:, d] = (p.mode if kinds[d] in UNORDERED else p.mean)[:, d]
        return log_p, expected
    if network.orderings > 1:
        raise CapabilityError(
            f"{run.spec['model']} is the average over {network.orderings} orders of the columns, and what comes before "
            "one differs between them; leave out --columns, or train with orderings=1 or order=any"
        )
    network.use(0)
    p = dist.factors(x)
    unordered = torch.tensor([kind in UNORDERED for kind in kinds], device=x.device)
    expected = torch.where(unordered, p.mode, p.mean) if unordered.any() else p.mean
    return p.log_prob_terms(x), expected


def _asked(dist: Any, x: Tensor, seen: Tensor, kinds: list[Any]) -> tuple[Tensor, Tensor]:
    """log p(x_d | the others) of a density that has all its conditionals, and what is expected there, each (B, D)."""
    log_p, expected = torch.empty_like(x), torch.empty_like(x)
    for d in range(x.shape[1]):
        others = seen.clone()
        others[:, d] = False
        p = dist.given(x, others)
        log_p[:, d] = p.log_prob_terms(x)[:, d]
        expected[:, d] = (p.mode if kinds[d] in UNORDERED else p.mean)[:, d]
    return log_p, expected


def _neediest(size: Tensor, needy: Tensor) -> Tensor:
    """Of cells (B, D) that are to be looked at again, at most so many of each row, those of the least size."""
    columns = needy.shape[1]
    if columns > WIDE:
        return torch.zeros_like(needy)
    rank = torch.where(needy, size, math.inf).argsort(1).argsort(1)
    return needy & (rank < max(1, AGAIN // columns))


def _drawn(e: Evidence, name: str, x: Tensor, log_v: Tensor) -> tuple[Tensor, Tensor]:
    """Values of every cell from Σ_k v_k p(x_d | z_k), and the logarithm of that density there, each (M, B, D)."""
    dist, k = _by_particle(e, name), e.particles
    m = min(k, max(TRIED, k // 4))
    which = torch.distributions.Categorical(logits=log_v.movedim(0, -1)).sample((m,))  # (M, B, D)
    tried = dist.sample().expand(k, *x.shape).gather(0, which)
    return tried, torch.stack([(log_v + dist.log_prob_terms(values)).logsumexp(0) for values in tried])


def _by_particle(e: Evidence, name: str) -> Any:
    """p(x | z), its batch (K, B) where z differs between particles."""
    dist: Any = e.p[name]
    wide = e.particles > 1 and dist.batch_shape[:1] == (e.particles * e.batch,)
    return dist.unflatten((e.particles, e.batch)) if wide else dist


def _given_hidden(e: Evidence, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x_d | z_k) of rows (B, D), and the means and modes of these densities, each (K, B, D)."""
    dist = _by_particle(e, name)
    shape = (e.particles, e.batch, x.shape[1])
    return tuple(t.expand(shape) for t in (dist.log_prob_terms(x), dist.mean, dist.mode))  # pyright: ignore


def _without(log_v: Tensor) -> tuple[Tensor, Tensor]:
    """Log-weights (K, ...), cut and normalised, and how many particles they are worth, (...)."""
    k = len(log_v)
    log_v = log_v - log_v.logsumexp(0)
    size = (-(2 * log_v).logsumexp(0)).exp()
    cut = torch.minimum(log_v, torch.full_like(log_v, -0.5 * math.log(k)))
    return cut - cut.logsumexp(0), size


def _expected(log_v: Tensor, means: Tensor, modes: Tensor, kinds: list[Any]) -> Tensor:
    """The mean of each column, or the value that is the likeliest under most of the weight, (B, D)."""
    expected = (log_v.exp() * means).sum(0)
    for d, kind in enumerate(kinds):
        if kind in UNORDERED:
            expected[:, d] = _likeliest(modes[:, :, d], log_v[:, :, d].exp())
    return expected


def _likeliest(votes: Tensor, weights: Tensor) -> Tensor:
    """The value, a whole number from 0, that has most of the weight, (B,), of votes (K, B)."""
    cast = votes.round().long()
    total = weights.new_zeros(int(cast.max()) + 1, votes.shape[1]).scatter_add_(0, cast, weights)
    return total.argmax(0).to(weights.dtype)
