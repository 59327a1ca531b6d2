"""A flat map of the latent space: where data lie in it, and what lies at each place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from jensen.data import Dataset
from jensen.distributions import StandardNormal
from jensen.jobs.encode import decode, encode, represent
from jensen.jobs.run import Run

MANIFOLD_PIXELS = 560  # a manifold shows as many pictures across as fit, between 6 and 20


@dataclass(frozen=True)
class LatentMap:
    """Two coordinates of the latent space, with data placed in it and pictures decoded over it.

    Attributes:
        points: posterior means of the data, (n, 2).
        labels: of the data, (n,), -1 where a datum has none; None where nothing has.
        axes: names of the two coordinates.
        flattened: the share of the variance of the posterior means that the two coordinates hold, where they
            are principal components of more; None where the latent space itself has two dimensions.
        manifold: pictures (rows, columns, C, H, W) in the data's levels, first coordinate to the right and
            second one up; None for tables, and where there is more than one hidden variable or a condition.
        spread: how the places of the manifold were chosen: "prior" or "data".
    """

    points: np.ndarray
    labels: np.ndarray | None
    axes: tuple[str, str]
    flattened: float | None
    manifold: np.ndarray | None
    spread: str


def latent_map(run: Run, data: Dataset, split: str, limit: int = 1000) -> LatentMap:
    """The map of a trained model, over at most `limit` data of a split. A flow of pictures gives no manifold.

    With more than two latent dimensions it shows the plane of the first two principal components of the
    posterior means; with one alone, a line.

    Raises:
        CapabilityError: the model has no representation.
    """
    part = data.split(split)
    z = encode(run, data, split=split, limit=limit).astype(np.float64)
    labels = None if part.y is None else part.y[run.pick(part, limit)]
    center, share = np.zeros(z.shape[1]), None
    if z.shape[1] == 1:
        basis, axes = np.array([[1.0], [0.0]]), ("z₁", "")
    elif z.shape[1] == 2:
        basis, axes = np.eye(2), ("z₁", "z₂")
    else:
        center = z.mean(0)
        _, sizes, directions = np.linalg.svd(z - center, full_matrices=False)
        basis, total = directions[:2], float((sizes**2).sum())
        share = float((sizes[:2] ** 2).sum()) / total if total > 0 else 1.0
        axes = ("first principal component of z", "second principal component of z")
    points = (z - center) @ basis.T  # (n, 2)
    standard = share is None and _has_standard_normal_prior(run)
    manifold = _manifold(run, center, basis, points, standard) if run.schema.is_image else None
    return LatentMap(points, labels, axes, share, manifold, "prior" if standard else "data")


def _has_standard_normal_prior(run: Run) -> bool:
    model = run.model
    if len(model.inferred) != 1 or model.inferred[0] not in model.p:
        return False
    prior = model.p[model.inferred[0]]
    return not prior.parents and isinstance(prior.module(), StandardNormal)


@torch.no_grad()
def _manifold(run: Run, center: np.ndarray, basis: np.ndarray, points: np.ndarray, standard: bool) -> np.ndarray | None:
    """Expected pictures at quantiles of the prior, or of the data's own coordinates."""
    if len(run.model.inferred) != 1 or run.model.codes or run.model.conditions:  # between codes there is nothing
        return None
    (name,) = run.model.inferred
    width = run.schema.event_shape[2]
    n = min(20, max(6, MANIFOLD_PIXELS // width))
    at = (np.arange(n) + 0.5) / n
    if standard:
        across = up = torch.distributions.Normal(0.0, 1.0).icdf(torch.from_numpy(at)).numpy()
    else:
        across, up = np.quantile(points, at, axis=0).T
    up = up[:1] if len(center) == 1 else up
    places = np.stack(np.meshgrid(across, up[::-1]), -1).reshape(-1, 2)
    z = torch.from_numpy(places @ basis + center).float().to(run.device)
    zeros = torch.zeros(1, *run.schema.event_shape, device=run.device)
    shape = represent(run.model, {run.model.data: zeros})[name].shape[1:]
    x = decode(run.model, {name: z.reshape(-1, *shape)}, mean=True, given={})
    return x.cpu().numpy().reshape(len(up), n, *run.schema.event_shape)
