"""What a report shows of hidden variables of pictures: traversals, neighbours and the means of clusters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jensen.errors import CapabilityError
from jensen.jobs.encode import decode, encode
from jensen.jobs.given import Given, given_as
from jensen.jobs.report.page import picture, row
from jensen.jobs.report.subject import Subject
from jensen.jobs.run import Run

DIMENSIONS, STEPS, REACH = 10, 11, 2.5  # traversed; pictures of each; standard deviations of codes either way
ASKED, NEAREST, AMONG = 8, 7, 5000  # data whose neighbours are shown; how many of each; data looked through
CLUSTERS = 40


def shows_latents(run: Run) -> bool:
    """Whether there are codes of one vector that can be decoded into pictures."""
    model = run.model
    return bool(run.schema.is_image and len(model.inferred) == 1 and not (model.inverted or model.codes))


@torch.no_grad()
def traversals(run: Run, subject: Subject) -> tuple[str, str]:
    """One latent dimension after another changed, all else held, conditions too."""
    data, name, part = subject.found
    z = encode(run, data, split=name, limit=AMONG)
    if z.shape[1] < 2:
        raise CapabilityError("one latent dimension is traversed by the interpolation")
    mean, spread = z.mean(0), z.std(0)
    busiest = np.argsort(-spread)[:DIMENSIONS]
    typical = np.linalg.norm((z - mean) / spread.clip(1e-6), axis=1).argmin()
    rows = np.repeat(z[typical][None], len(busiest) * STEPS, 0).reshape(len(busiest), STEPS, -1)
    for i, d in enumerate(busiest):
        rows[i, :, d] = mean[d] + np.linspace(-REACH, REACH, STEPS) * spread[d]
    typical_datum = part.rows(run.pick(part, AMONG)[[typical]])
    x = _decoded(run, rows.reshape(-1, z.shape[1]), given_as(run, typical_datum, len(busiest) * STEPS))
    label = "one row a latent dimension, from the one whose codes vary most over data"
    return (
        f"The expected picture E[x | z] as one latent dimension changes, over ±{REACH} standard deviations of its "
        f"codes, while the others{_and_conditions(run)} stay those of a typical datum. From the top: "
        f"{', '.join(f'z{d}' for d in busiest)}.",
        row([picture(x, run.schema.levels or 256, label, label, STEPS)]),
    )


def _and_conditions(run: Run) -> str:
    return ", and the conditions," if run.model.conditions else ""


def neighbours(run: Run, subject: Subject) -> tuple[str, str]:
    """Data whose codes are nearest to a datum's, beside those whose pictures are."""
    data, name, part = subject.found
    index = run.pick(part, AMONG)
    chosen = part.rows(index)
    if len(chosen) <= NEAREST:
        raise CapabilityError(f"it takes more than {NEAREST} data")
    z = encode(run, data, split=name, limit=AMONG)
    shown = subject.shown(chosen)
    asked = np.linspace(0, len(shown) - 1, min(ASKED, len(shown))).astype(int)
    figures = []
    for rows, label in ((z / z.std(0).clip(1e-6), "by codes"), (shown.reshape(len(shown), -1), "by pixels")):
        rows = rows.astype(np.float64)
        apart = ((rows[asked, None] - rows[None]) ** 2).sum(-1)
        nearest = np.argsort(apart, 1, kind="stable")[:, 1 : NEAREST + 1]
        rows_shown = shown[np.concatenate([asked[:, None], nearest], 1).ravel()]
        figures.append(picture(rows_shown, run.schema.levels or 256, label, label, NEAREST + 1))
    return (
        f"Data, first in each row, and the nearest of {len(shown):,}: by the distance of codes, each dimension by its "
        "standard deviation, and by that of pictures. What codes hold to be alike is what the model has learned.",
        row(figures, "wide"),
    )


@torch.no_grad()
def cluster_means(run: Run, subject: Subject) -> tuple[str, str]:
    """What the mean of each component of the prior decodes to."""
    (name,) = run.model.inferred
    prior = run.model.p[name].module()
    weights, means = prior.log_weights.exp(), prior.components.mean.flatten(1)
    order = weights.argsort(descending=True)[:CLUSTERS]
    x = _decoded(run, means[order].float().cpu().numpy(), Given(len(order)))
    share = float(weights[order].sum())
    label = "means of clusters, the heaviest first"
    more = f" The {len(order)} shown weigh {share:.0%}." if len(order) < len(weights) else ""
    return (
        f"What the mean of each of the {len(weights)} components of the prior decodes to; <code>jensen cluster</code> "
        f"says which datum is of which.{more}",
        row([picture(x, run.schema.levels or 256, label, label, min(10, len(x)))]),
    )


def shows_clusters(run: Run) -> bool:
    """Whether the prior of such codes is a mixture, and nothing else is needed to decode its means."""
    if not shows_latents(run) or run.model.conditions:
        return False
    (name,) = run.model.inferred
    return name in run.model.p and not run.model.p[name].parents and _is_mixture(run, name)


@torch.no_grad()
def _is_mixture(run: Run, name: str) -> bool:
    prior = run.model.p[name].module()
    return hasattr(prior, "responsibilities") and hasattr(getattr(prior, "components", None), "mean")


def _decoded(run: Run, z: np.ndarray, given: Given) -> np.ndarray:
    """E[x | z] of codes (n, L), under conditions where the model has any, (n, C, H, W)."""
    (name,) = run.model.inferred
    like: Tensor = next(run.model.parameters())
    rows = torch.as_tensor(z).to(like)
    event = rows.shape[1:]
    if name in run.model.p and not run.model.p[name].parents:
        event = run.model.p[name].module().event_shape
    found = decode(run.model, {name: rows.reshape(-1, *event)}, mean=True, given=given.context)
    return found.cpu().numpy()
