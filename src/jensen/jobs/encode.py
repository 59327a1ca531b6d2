"""Encode, reconstruct, interpolate: between data and what represents them.

What is hidden is inferred, E[z | x]. A flow's code is exact, z = T⁻¹(x): its data come back from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from jensen.conditionals.autoregressive import Autoregression
from jensen.conditionals.quantizers import Lookup
from jensen.core import Model, seeded
from jensen.data import TensorSplit
from jensen.distributions import Symbols
from jensen.errors import CapabilityError, ConfigError, DataError, did_you_mean
from jensen.jobs.given import infer
from jensen.jobs.job import job
from jensen.jobs.precision import as_in, doubled
from jensen.jobs.run import Run
from jensen.jobs.sample import restore
from jensen.objectives import refinement

BATCH = 1000
GREEDY = 1e-9  # share of the mass that the single likeliest symbol has for certain


@job("encode", needs="encode")
@torch.no_grad()
def encode(
    run: Run,
    data: Any = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    draws: int = 0,
    refine: int = 0,
    seed: int = 0,
    codes: bool = False,
) -> np.ndarray:
    """Representations of data: the posterior's mean, the code itself where it is deterministic, T⁻¹(x) of a flow.

    Of a vector quantiser the vectors of the codes, or their numbers.

    Args:
        data: None for the run's own.
        split, limit: which part; a random subset of so many.
        draws: give so many draws of the posterior for each datum instead of its mean; of a flow of whole numbers,
            draws of the noise instead of its middle.
        refine: seek the best posterior of its family for each datum, from the encoder's, in at most so many steps.
        seed: of draws and subset.
        codes: give the numbers of codes, whole numbers, in place of their vectors.

    Returns:
        (n, L) float32; (n, draws, L) with draws. Several hidden variables are joined, in q's order.

    Raises:
        CapabilityError: draws of what has no posterior, or codes of a model that has none.
    """
    if codes and not code_lookups(run.model):
        raise CapabilityError(f"{run.spec['model']} has no discrete codes; leave out codes")
    if draws and not run.model.hidden:
        raise CapabilityError(
            f"{run.spec['model']} has one code for a datum and no posterior to draw from; leave out draws"
        )
    if refine < 0:
        raise ConfigError(f"--refine: expected >= 0, got {refine}")
    model, tensors, chosen = _part(run, data, split, limit, seed)
    parts = []
    with seeded(seed, run.device):
        for index in chosen.split(BATCH):
            batch = as_in(model, tensors.take(index))
            if refine:
                own, parameters = refinement.refine(run.model, batch, refine)
                model, batch = own.model, {**batch, **parameters}
            if not draws:
                found = represent(model, batch)
                parts.append(_join(found if codes else _vectors(model, found)))
                continue
            values = {**batch, **model.evidence(batch, particles=draws).values}
            narrow = {name: value for name, value in values.items() if len(value) == len(index)}
            values |= {name: value.repeat(draws, *(1,) * (value.dim() - 1)) for name, value in narrow.items()}
            z = _join(_codes_of(model, values))
            parts.append(z.unflatten(0, (-1, len(index))).movedim(0, 1))
    z = torch.cat(parts).cpu().numpy()
    return z.astype(np.int64 if codes else np.float32)


def code_lookups(model: Model) -> dict[str, Lookup]:
    """What turns codes into vectors, by the name of the code; empty where no vectors are quantised."""
    lookups = [f for f in model.p if isinstance(f.module, Lookup)]
    return {f.parents[0]: f.module for f in lookups if f.parents[0] in model.codes}  # pyright: ignore


def _vectors(model: Model, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Codes with their vectors in their places."""
    lookups = code_lookups(model)
    return {name: lookups[name](z) if name in lookups else z for name, z in codes.items()}


def code_names(run: Run, width: int, draws: int = 0) -> list[str]:
    """Names of the columns of `encode`, so many: z0, z1, ...; of hidden classes, p(z=0), ..., their probabilities.

    With draws, those of the first and then of the others, z0_draw0, ...; a class that is drawn is 1, z=0_draw0.
    """
    names: list[str] = []
    found = run.toy_evidence()
    for variable in run.model.inferred:
        met: Any = found.q.get(variable)
        if met is None or met.support is not constraints.one_hot:
            names += [f"z{len(names) + j}" for j in range(found.values[variable][0].numel())]
            continue
        classes = met.probs.shape[-1]
        several = met.event_shape.numel() // classes
        each = [variable] if several == 1 else [f"{variable}{v}" for v in range(several)]
        events = [f"{one}={k}" for one in each for k in range(classes)]
        names += events if draws else [f"p({event})" for event in events]
    names += [f"z{j}" for j in range(len(names), width)]
    return [f"{name}_draw{d}" for d in range(draws) for name in names] if draws else names


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
    only: str | Sequence[str] = (),
) -> Any:
    """Data as they come back from the posterior's mean; from a flow's code, as they were.

    Args:
        mean: E[x | z]; else a draw of x.
        only: names of hidden variables from which alone data come back: the upper layers of a hierarchy, or a view.
            "top3" is the three that p draws first.
            What q infers of these takes its mean under q, and the rest that under p; both are drawn where not `mean`.

    Returns:
        As `sample`: pictures (n, C, H, W), float levels where `mean`, else uint8; tables in the user's types.

    Raises:
        ConfigError: the model infers no variable of a name in `only`.
    """
    model, tensors, chosen = _part(run, data, split, limit, seed)
    kept = _kept(run, only)
    parts = []
    with seeded(seed, run.device):
        for index in chosen.split(BATCH):
            batch = as_in(model, tensors.take(index))
            codes = represent(model, batch)
            if not kept:
                parts.append(decode(model, codes, mean, given(model, batch)))
                continue
            known = {**given(model, batch), **{name: codes[name] for name in kept}}
            if mean:
                parts.append(decode(model, infer(model, known, mean), mean, {}))
            else:
                parts.append(model.sample(len(index), infer(model, known))[model.data])
    return restore(run, torch.cat(parts), mean)


def _kept(run: Run, only: str | Sequence[str]) -> list[str]:
    """Names of hidden variables, as they stand in the model."""
    known = [] if run.model.inverted else run.model.inferred
    wanted = []
    for name in [only] if isinstance(only, str) else only:
        counted = re.fullmatch(r"top([1-9]\d*)", name)
        from_the_top = [f.name for f in run.model.p if f.name in known]
        if counted and known and int(counted[1]) > len(from_the_top):
            raise ConfigError(f"--only: {name}: {run.spec['model']} infers {len(known)}: {', '.join(from_the_top)}")
        wanted += from_the_top[: int(counted[1])] if counted and known else [name]
    for name in wanted:
        if name not in known:
            found = f"; it infers {', '.join(known)}: one of these, or top1 to top{len(known)}" if known else ""
            raise ConfigError(f"--only: {run.spec['model']} infers no {name!r}{did_you_mean(name, known)}{found}")
    return wanted


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

    Conditions are those of the nearer end, so that the path ends at the two data. Discrete codes have nothing between
    them: the path leads through their vectors, each point to the nearest code.

    Args:
        start, end: row numbers in the split.
        steps: data on the path, both ends included.
        how: "linear"; "spherical", which keeps the length typical of a high-dimensional normal (Shoemake 1985;
            White 2016, arXiv:1609.04468); "geodesic", a shortest path by the pull-back metric of the decoder's mean,
            its energy minimised over a discretised curve (Arvanitidis et al. 2018, arXiv:1710.11379, whose term
            for the decoder's variance is left out: the path does not shun places without data). A flow has none
            of interest: its map is invertible, so the shortest path is the straight line between the data.

    Returns:
        (steps, ...) as `reconstruct`.

    Raises:
        DataError: a row that the split does not have.
        ConfigError: fewer than two steps, or an unknown kind of path.
        CapabilityError: a geodesic of a flow or of discrete codes.
    """
    if steps < 2:
        raise ConfigError(f"--steps: expected >= 2, got {steps}")
    if how not in ("linear", "spherical", "geodesic"):
        raise ConfigError(f"--how: expected linear, spherical or geodesic, got {how!r}")
    if how == "geodesic" and run.model.inverted:
        raise CapabilityError(
            f"{run.spec['model']} maps its codes to data one to one, so the shortest path by what it decodes to is the "
            "straight line between the two data; use --how linear or --how spherical"
        )
    lookups = code_lookups(run.model)
    if how == "geodesic" and lookups:
        raise CapabilityError(
            f"{run.spec['model']} has discrete codes, and a path through them no length; use --how linear"
        )
    _, name, part = run.split(data, split)
    for row in (start, end):
        if not 0 <= row < len(part):
            raise DataError(
                f"split {name!r} has rows 1 to {len(part)}, got {row + 1} (in Python 0 to {len(part) - 1}, got {row})"
            )
    model = _working(run)
    with torch.no_grad(), seeded(seed, run.device):
        batch = as_in(model, run.tensors(part).take(torch.tensor([start, end], device=run.device)))
        ends = _vectors(model, represent(model, batch))
    shapes = {n: v.shape[1:] for n, v in ends.items()}
    a, b = _join(ends)
    path = (_spherical if how == "spherical" else _linear)(a, b, steps)
    nearer = {n: v[(torch.arange(steps, device=v.device) * 2 >= steps).long()] for n, v in given(model, batch).items()}
    if how == "geodesic":
        path = _geodesic(model, path, shapes, nearer)
    with torch.no_grad(), seeded(seed, run.device):
        points = _separate(path, shapes)
        points |= {name: lookup.nearest(points[name]) for name, lookup in lookups.items()}
        x = decode(model, points, mean, nearer)
    return restore(run, x, mean)


def represent(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What represents data, by name, each (B, *event).

    E[z | x] of each variable that q infers, parents taken at their own means; or z = T⁻¹(x) of what p inverts, noise
    at the middle of its bin.
    """
    model.eval()
    values = dict(batch)
    for factor in model.q:
        if model.is_noisy(factor.name):
            values[factor.name] = values[model.data] + 0.5
        else:
            met = factor.module(*(values[name] for name in factor.parents))
            values[factor.name] = met if isinstance(met, Tensor) else met.mean
    return _codes_of(model, values)


def _codes_of(model: Model, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The representation, given all values that it is read off."""
    found, values = {name: values[name] for name in model.inferred}, dict(values)
    for factor in model.p if model.inverted else ():
        if factor.deterministic and factor.name not in values:
            values[factor.name] = factor.module(*(values[name] for name in factor.parents))
        elif factor.name in model.inverted:
            met = factor.module(*(values[name] for name in factor.parents))
            found[factor.name] = met.to_base(values[factor.name])[0]
    return found


def decode(model: Model, codes: Mapping[str, Tensor], mean: bool, given: Mapping[str, Tensor]) -> Tensor:
    """x at given codes, (n, *event), prepared: its expectation, or a draw. What is not given takes its mean.

    Args:
        given: the context, (n, *event) by name.
    """
    inverted = model.inverted
    values = {**given, **{name: z for name, z in codes.items() if name not in inverted}}
    for factor in model.p:
        if factor.name in values:
            continue
        met = factor.module(*(values[name] for name in factor.parents))
        if isinstance(met, Tensor):
            values[factor.name] = met
        elif factor.name in inverted:
            values[factor.name] = met.from_base(codes[factor.name])[0]
        elif factor.name == model.data:
            n = len(next(iter(codes.values())))
            x = met.sample() if not mean else expectation(met)
            values[factor.name] = x.expand(n, *met.event_shape)
        else:
            values[factor.name] = met.mean
    return values[model.data]


def expectation(met: Any) -> Tensor:
    """E[x] where x are numbers; of symbols, which have none, the likeliest, one after another."""
    if isinstance(met, Symbols):
        return met.mode
    if isinstance(met, Autoregression) and met.of.head.support.kind == "symbol":
        return met.nucleus(GREEDY).sample()
    return met.mean


def given(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The context, of a batch."""
    return {name: batch[name] for name in model.context}


def _working(run: Run) -> Model:
    """The model, in float64 where its codes are exact: there data come back to the last digit that matters."""
    run.model.eval()
    return doubled(run.model) if run.model.inverted else run.model


def _part(run: Run, data: Any, split: str | None, limit: int | None, seed: int) -> tuple[Model, TensorSplit, Tensor]:
    _, _, part = run.split(data, split)
    return _working(run), run.tensors(part), torch.from_numpy(run.pick(part, limit, seed)).to(run.device)


def _join(codes: Mapping[str, Tensor]) -> Tensor:
    """Codes beside one another, (B, L)."""
    parts = [z.flatten(1) for z in codes.values()]
    return torch.cat([z if z.is_floating_point() else z.float() for z in parts], 1)


def _separate(z: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    parts = z.split([math.prod(s) for s in shapes.values()], 1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _linear(a: Tensor, b: Tensor, steps: int) -> Tensor:
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None]
    return a + t * (b - a)


def _spherical(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Along the great circle between the directions, lengths interpolated linearly.

    Linear where the directions are one or opposite.
    """
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None]
    la, lb = a.norm(), b.norm()
    if la == 0 or lb == 0:
        return _linear(a, b, steps)
    angle = torch.arccos((a @ b / (la * lb)).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return _linear(a, b, steps)
    directions = (torch.sin((1 - t) * angle) * a / la + torch.sin(t * angle) * b / lb) / torch.sin(angle)
    return directions * (la + t * (lb - la))


def _geodesic(
    model: Model, path: Tensor, shapes: dict[str, torch.Size], given: Mapping[str, Tensor], iterations: int = 200
) -> Tensor:
    """Minimise the energy Σ |E[x | z_{i+1}] − E[x | z_i]|² over the inner points of the path."""
    ends, inner = (path[:1], path[-1:]), path[1:-1].clone().requires_grad_()
    if not len(inner):
        return path
    optimizer = torch.optim.Adam(
        [inner], lr=0.02 * float((path[-1] - path[0]).norm() / math.sqrt(path.shape[1])) + 1e-6
    )
    for _ in range(iterations):
        optimizer.zero_grad()
        x = decode(model, _separate(torch.cat([ends[0], inner, ends[1]]), shapes), True, given)
        (x[1:] - x[:-1]).square().sum().backward(inputs=[inner])
        optimizer.step()
    return torch.cat([ends[0], inner.detach(), ends[1]])
