"""Draws of what is missing of a datum under an autoregressive density p(x) = Π_d p(x_d | x_<d).

- A network trained in any order is given what is known first: what is missing is drawn from p(x_m | x_o) of that order,
  with nothing to weigh. Other orders have conditionals of their own, and so has the average that scores report.
- A network of one order draws each missing element given those before it. What is known after them can only weigh such
  draws, so they are resampled by their weights, and the effective sample size says how much is left of them. Where all
  that is known comes first, nothing is lost.
- One of several orders, not of any, has a share of the draws from each of them, weighed by all that is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from jensen.conditionals.autoregressive import Autoregression, Autoregressive
from jensen.jobs.run import Run

ENOUGH = 100  # draws of a datum from which its mean is taken, at least
TOGETHER = 2048  # rows that walk at once


def sequential(run: Run) -> bool:
    """Whether a model's density of the datum is autoregressive, with nothing hidden."""
    return isinstance(run.model.p[run.model.data].module, Autoregressive) and not run.model.hidden


def complete(
    run: Run,
    x: Tensor,
    missing: Tensor,
    context: Mapping[str, Tensor],
    draws: int,
    particles: int,
    keep: Callable[[Tensor, str, Tensor, Tensor, Tensor, Tensor], None],
    lasting: Tensor | None = None,
    steps: int | None = None,
) -> None:
    """Draw what is missing, each datum by itself.

    Args:
        x, missing: (N, *event).
        context: conditions, by name, (N, ...).
        draws: M, of each datum.
        particles: of importance resampling.
        keep: told of rows (B,), the method, draws (M, B, D), means and spreads (B, D), and effective sample sizes (B,).
        lasting: of texts, where they have not ended, (N, T).
        steps: of texts, after how many tokens nothing is asked for; those stay as they are.
    """
    factor = run.model.p[run.model.data]
    module = factor.module
    assert isinstance(module, Autoregressive)
    network, flat = module.network, missing.flatten(1)
    for pattern, rows in _patterns(flat):
        orderings = range(1 if network.any_order else network.orderings)
        if network.any_order:
            network.arrange(torch.cat([torch.nonzero(~pattern)[:, 0], torch.nonzero(pattern)[:, 0]]))
        else:
            network.use(0)
        behind = pattern[network.order].int().diff().clamp_max(0).any()  # something known follows something missing
        exact = not bool(behind) and len(orderings) == 1 and lasting is None
        k = max(draws, ENOUGH) if exact else max(particles, draws)
        for few in rows.split(max(1, TOGETHER // k)):
            given = [context[name][few] for name in factor.parents]
            p: Autoregression = module(*given)
            if len(orderings) == 1:
                goes_on, most = None if lasting is None else lasting[few], max(1, TOGETHER // len(few))
                noises = (p.noise((min(most, k - i), len(few), *network.shape)) for i in range(0, k, most))
                parts = [p.complete(noise, x[few], ~missing[few], goes_on, steps) for noise in noises]
                found, weight = (torch.cat(part) for part in zip(*parts, strict=True))  # pyright: ignore
            else:
                found, weight = _by_each(p, x[few], ~missing[few], math.ceil(k / len(orderings)))
            found = found.flatten(2)
            if exact:
                keep(few, "ordered", found[:draws], found.mean(0), found.std(0), torch.full((len(few),), float(k)))
                continue
            dead = weight.isneginf().all(0)  # no draw agrees with what is known after it
            weight = weight.masked_fill(dead, 0.0)
            share = weight.softmax(0)
            chosen = torch.multinomial(share.T, draws, replacement=True).T  # (M, B)
            taken = found.gather(0, chosen.unsqueeze(2).expand(-1, -1, found.shape[2]))
            size = torch.exp(2 * weight.logsumexp(0) - (2 * weight).logsumexp(0)).masked_fill(dead, 0.0)
            mean = (share.unsqueeze(2) * found).sum(0)
            spread = (share.unsqueeze(2) * (found - mean).square()).sum(0).sqrt()
            keep(few, "importance", taken, mean, spread, size)


@torch.no_grad()
def _by_each(p: Autoregression, x: Tensor, known: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As many draws by each ordering m, (M · count, B, *event), and log w, (M · count, B), under their average.

    log w takes in all that is known, also what comes first: how likely that is differs from one ordering to the next.
    """
    network, parts = p.of.network, []
    for m in range(network.orderings):
        network.use(m)
        found, _ = p.complete(p.noise((count, len(x), *network.shape)), x, known)
        parts.append((found, torch.where(known, p.terms(found), 0.0).flatten(2).sum(2)))
    found, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return found, weight


def _patterns(missing: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each pattern of what is missing, (D,), with the rows that have it."""
    patterns, which = missing.unique(dim=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        if bool(pattern.any()):
            yield pattern, torch.nonzero(which == i)[:, 0]
