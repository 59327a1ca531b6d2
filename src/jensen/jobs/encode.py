"""Encode, reconstruct, interpolate: between data and what is hidden."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jensen.core import Model, seeded
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.job import job
from jensen.jobs.run import Run
from jensen.jobs.sample import restore

BATCH = 1000


@job("encode", needs="encode")
@torch.no_grad()
def encode(
    run: Run, data: Any = None, *, split: str | None = None, limit: int | None = None, draws: int = 0, seed: int = 0
) -> np.ndarray:
    """Representations of data: the posterior's mean (or the code itself where it is deterministic).

    Args:
        data: None for the run's own.
        split, limit: which part; a random subset of so many.
        draws: give so many draws of the posterior for each datum instead of its mean.
        seed: of draws and subset.

    Returns:
        (n, L) float32; (n, draws, L) with draws. Several hidden variables are joined, in q's order.
    """
    if draws and not run.model.hidden:
        raise CapabilityError(
            f"{run.spec['model']} has one code for a datum and no posterior to draw from; leave out draws"
        )
    tensors, chosen = _part(run, data, split, limit, seed)
    parts = []
    with seeded(seed, run.device):
        for index in chosen.split(BATCH):
            batch = tensors.take(index)
            if not draws:
                parts.append(_join(posterior_means(run.model, batch)))
                continue
            e = run.model.evidence(batch, particles=draws)
            z = _join({name: e.values[name] for name in code_names(run.model)})
            parts.append(z.unflatten(0, (-1, len(index))).movedim(0, 1))
    return torch.cat(parts).cpu().numpy()


@job("reconstruct", needs="encode")
@torch.no_grad()
def reconstruct(
    run: Run,
    data: Any = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    mean: bool = True,
) -> Any:
    """Data as they come back from the posterior's mean.

    Args:
        mean: E[x | z]; else a draw of x.

    Returns:
        As `sample`: pictures (n, C, H, W), float levels where `mean`, else uint8; tables in the user's types.
    """
    tensors, chosen = _part(run, data, split, limit, seed)
    parts = []
    with seeded(seed, run.device):
        for index in chosen.split(BATCH):
            codes = posterior_means(run.model, tensors.take(index))
            parts.append(decode(run.model, codes, mean))
    return restore(run, torch.cat(parts), mean)


@job("interpolate", needs="encode")
def interpolate(
    run: Run,
    data: Any = None,
    *,
    start: int = 0,
    end: int = 1,
    steps: int = 11,
    how: Literal["linear", "spherical", "geodesic"] = "linear",
    split: str | None = None,
    seed: int = 0,
    mean: bool = True,
) -> Any:
    """A path from one datum to another, by way of the latent space.

    Args:
        start, end: row numbers in the split.
        steps: data on the path, both ends included.
        how: "linear"; "spherical", which keeps the length typical of a high-dimensional normal (Shoemake 1985;
            White 2016, arXiv:1609.04468); "geodesic", a shortest path by the pull-back metric of the decoder's mean,
            its energy minimised over a discretised curve (Arvanitidis et al. 2018, arXiv:1710.11379, whose term
            for the decoder's variance is left out: the path does not shun places without data).

    Returns:
        (steps, ...) as `reconstruct`.

    Raises:
        DataError: a row that the split does not have.
        ConfigError: fewer than two steps, or an unknown kind of path.
    """
    if steps < 2:
        raise ConfigError(f"--steps: expected >= 2, got {steps}")
    if how not in ("linear", "spherical", "geodesic"):
        raise ConfigError(f"--how: expected linear, spherical or geodesic, got {how!r}")
    _, name, part = run.split(data, split)
    for row in (start, end):
        if not 0 <= row < len(part):
            raise DataError(f"split {name!r} has rows 0..{len(part) - 1}, got {row}")
    with torch.no_grad():
        codes = posterior_means(run.model, run.tensors(part).take(torch.tensor([start, end], device=run.device)))
    shapes = {n: v.shape[1:] for n, v in codes.items()}
    a, b = _join(codes)
    path = (_spherical if how == "spherical" else _linear)(a, b, steps)
    if how == "geodesic":
        path = _geodesic(run.model, path, shapes)
    with torch.no_grad(), seeded(seed, run.device):
        x = decode(run.model, _separate(path, shapes), mean)
    return restore(run, x, mean)


def code_names(model: Model) -> list[str]:
    """What q gives and p uses: the representation, in q's order."""
    return [f.name for f in model.q if f.name in model.p or any(f.name in g.parents for g in model.p)]


def posterior_means(model: Model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """E[z | x] of each hidden variable, (B, *event), parents taken at their own means."""
    model.eval()
    values = dict(batch)
    for factor in model.q:
        met = factor.module(*(values[name] for name in factor.parents))
        values[factor.name] = met if isinstance(met, Tensor) else met.mean
    return {name: values[name] for name in code_names(model)}


def decode(model: Model, codes: dict[str, Tensor], mean: bool) -> Tensor:
    """x at given codes, (n, *event), prepared: its expectation, or a draw. What is not given takes its mean."""
    values = dict(codes)
    for factor in model.p:
        if factor.name in values:
            continue
        met = factor.module(*(values[name] for name in factor.parents))
        if isinstance(met, Tensor):
            values[factor.name] = met
        elif factor.name == model.data:
            n = len(next(iter(values.values())))
            values[factor.name] = (met.mean if mean else met.sample()).expand(n, *met.event_shape)
        else:
            values[factor.name] = met.mean
    return values[model.data]


def _part(run: Run, data: Any, split: str | None, limit: int | None, seed: int) -> tuple[Any, Tensor]:
    _, _, part = run.split(data, split)
    run.model.eval()
    return run.tensors(part), torch.from_numpy(run.pick(part, limit, seed)).to(run.device)


def _join(codes: dict[str, Tensor]) -> Tensor:
    if not codes:
        raise CapabilityError("this model has no hidden variables")
    return torch.cat([z.flatten(1).float() for z in codes.values()], 1)


def _separate(z: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    parts = z.split([math.prod(s) for s in shapes.values()], 1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _linear(a: Tensor, b: Tensor, steps: int) -> Tensor:
    t = torch.linspace(0, 1, steps, device=a.device)[:, None]
    return a + t * (b - a)


def _spherical(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Along the great circle between the directions, lengths interpolated linearly.

    Linear where the directions are one or opposite.
    """
    t = torch.linspace(0, 1, steps, device=a.device)[:, None]
    la, lb = a.norm(), b.norm()
    if la == 0 or lb == 0:
        return _linear(a, b, steps)
    angle = torch.arccos((a @ b / (la * lb)).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return _linear(a, b, steps)
    directions = (torch.sin((1 - t) * angle) * a / la + torch.sin(t * angle) * b / lb) / torch.sin(angle)
    return directions * (la + t * (lb - la))


def _geodesic(model: Model, path: Tensor, shapes: dict[str, torch.Size], iterations: int = 200) -> Tensor:
    """Minimise the energy Σ |E[x | z_{i+1}] − E[x | z_i]|² over the inner points of the path."""
    ends, inner = (path[:1], path[-1:]), path[1:-1].clone().requires_grad_()
    if not len(inner):
        return path
    optimizer = torch.optim.Adam(
        [inner], lr=0.02 * float((path[-1] - path[0]).norm() / math.sqrt(path.shape[1])) + 1e-6
    )
    for _ in range(iterations):
        optimizer.zero_grad()
        x = decode(model, _separate(torch.cat([ends[0], inner, ends[1]]), shapes), mean=True)
        (x[1:] - x[:-1]).square().sum().backward(inputs=[inner])
        optimizer.step()
    return torch.cat([ends[0], inner.detach(), ends[1]])
