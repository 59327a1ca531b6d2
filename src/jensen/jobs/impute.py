"""Impute: fill in what is missing of data, by what the model says of it given the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jensen.core import seeded
from jensen.data import Dataset, Schema, Split
from jensen.data.raw import ALL
from jensen.data.sources import Source, open_source
from jensen.errors import CapabilityError, ConfigError, DataError, did_you_mean
from jensen.jobs.averaging import averaged, check_same_cells
from jensen.jobs.ensembles import together
from jensen.jobs.filled import Effort
from jensen.jobs.filling import METHODS, fill
from jensen.jobs.given import context_of
from jensen.jobs.imputation import Imputation, imputation
from jensen.jobs.job import job
from jensen.jobs.run import Run, check_conditions

REGIONS = ("top", "bottom", "left", "right", "center")


@job("impute")
def impute(
    run: Run,
    data: Any = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    missing: Any = None,
    region: str | None = None,
    gap: str | None = None,
    draws: int = 1,
    method: str = "auto",
    particles: int = Effort.particles,
    warmup: int | None = None,
    steps: int | None = None,
    leapfrog: int | None = None,
    ensemble: Sequence[Run | str | os.PathLike[str]] = (),
    seed: int = 0,
    listener: Callable[[float], None] | None = None,
) -> Imputation:
    """Fill in what is missing, each datum by itself: draws of p(missing | observed), and its mean.

    A run that `choose` made fills in by all its members.

    A model that gives the density of the data themselves (a flow) has p(missing | observed) but for a constant. Few
    missing numbers are filled in by importance resampling, many by Hamiltonian chains; both say how many independent
    draws they are worth.

    Args:
        data: a table with empty cells (NaN), pictures, sound, or None for the run's own. For texts see
            `jensen.jobs.fill_texts`.
        split, limit: which part; a random subset of so many.
        missing: True where something is to be filled in, (n, *event) or (*event): besides empty cells.
        region: of pictures, what is missing: the top, bottom, left or right half, or the center.
        gap: of sound, from which second to which each clip is missing, as "0.2-0.35".
        draws: M, of each datum.
        method: "importance", "mcmc", or "auto".
        particles: of importance resampling, of each datum.
        warmup, steps: moves of each of the chains, dropped and kept; by default 300 each, of pictures 100.
        leapfrog: at most so many leapfrog steps a move; by default 10, of pictures 16.
        ensemble: further runs, or their folders, of the same columns: what is filled in is the mean over all.
        listener: told of the share done, in [0, 1].

    Raises:
        CapabilityError: the model does not give the density of the data.
        ConfigError: an option is out of range, or does not go with the data.
        DataError: data that cannot be read or do not fit the model.
    """
    asked = {"particles": particles, "warmup": warmup, "steps": steps, "leapfrog": leapfrog}
    effort = replace(Effort.usual(run), **{name: value for name, value in asked.items() if value is not None})
    _check(run, draws, method, effort, region, gap)
    each = together(run, ensemble)
    runs = [member for one in each for member in (one, *one.members)]
    shares = [share / len(each) for one in each for share in one.shares]
    check_same_cells(runs)
    data, holes = _without_gaps(run, data)
    source = open_source(data, run.schema.missing) if data is not None and not isinstance(data, Dataset) else data
    _, _, part = run.split(source, split, **({} if source is None else {"gaps": True}))
    chosen = run.pick(part, limit, seed)
    mask = _missing(run.schema, part, holes, missing, region, gap)[chosen]
    part = part.rows(chosen)
    if run.schema.is_array and not mask.any():
        kind, option = ("sound", "gap") if run.schema.is_sound else ("pictures", "region")
        ways = f"--{option} or --missing (in Python {option}=, missing=)"
        raise ConfigError(f"impute: say what is missing of the {kind}, with {ways}")
    for member in runs:
        check_conditions(member.model, member.schema, part)
    frame, found = _frame(data, source, part), []
    for k, member in enumerate(runs):
        told = None if listener is None else _part_of(listener, k, len(runs))
        with seeded(seed + k, member.device):
            own = replace(part, x=_values(member, part))
            filled = fill(
                member,
                member.schema.prepare(own.x).to(member.device),
                torch.from_numpy(mask).to(member.device),
                {name: v for name, v in context_of(member, own.y, own.c).items() if name in member.model.context},
                draws,
                method,
                effort,
                told,
            )
        found.append(imputation(member.schema, filled, own, mask, frame, known=holes is None))
    return averaged(found, seed, shares)


def _part_of(listener: Callable[[float], None], k: int, of: int) -> Callable[[float], None]:
    """Told of the share that is done of the k-th of so many parts, it tells that of all."""
    return lambda share: listener((k + share) / of)


def region_mask(shape: tuple[int, ...], region: str) -> np.ndarray:
    """Pixels of a picture (C, H, W), True in the region: a half of it, or the half as high and wide in its center."""
    mask = np.zeros(shape, dtype=bool)
    height, width = shape[1:]
    middle = {
        "top": (slice(0, height // 2), slice(None)),
        "bottom": (slice(height - height // 2, None), slice(None)),
        "left": (slice(None), slice(0, width // 2)),
        "right": (slice(None), slice(width - width // 2, None)),
        "center": (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)),
    }[region]
    mask[:, middle[0], middle[1]] = True
    return mask


def _seconds(gap: str, length: int, rate: int) -> np.ndarray:
    """Samples of a clip (T,), True from one second to another. Raises `ConfigError` where that is none of it."""
    try:
        first, last = (round(float(part) * rate) for part in gap.split("-"))
    except (ValueError, OverflowError):
        raise ConfigError(f"--gap: expected seconds of a clip, as 0.2-0.35, got {gap!r}") from None
    if not 0 <= first < last <= length:
        raise ConfigError(f"--gap: expected a part of the {length / rate:g} seconds of a clip, got {gap}")
    return (np.arange(length) >= first) & (np.arange(length) < last)


def _check(run: Run, draws: int, method: str, effort: Effort, region: str | None, gap: str | None) -> None:
    """Raises `ConfigError` listing every option that is out of range."""
    problems = []
    if run.schema.is_text:
        raise CapabilityError(
            f"{run.spec['model']} cannot impute numbers: of a text, fill_texts fills in what is marked"
        )
    least = {"draws": 1, "particles": 2, "warmup": 0, "steps": 8, "leapfrog": 1}
    given = {"draws": draws, **asdict(effort)}
    problems += [f"--{n}: expected >= {least[n]}, got {v}" for n, v in given.items() if v < least[n]]
    if method not in METHODS:
        problems.append(f"--method: {method!r} is no way to fill in{did_you_mean(method, METHODS)}")
    if region is not None and region not in REGIONS:
        problems.append(f"--region: {region!r} is no region{did_you_mean(region, REGIONS)}")
    if region is not None and not run.schema.is_image:
        what = "of sound, --gap says when" if run.schema.is_sound else "of a table, leave cells empty"
        problems.append(f"--region: expected pictures; {what}")
    if gap is not None and not run.schema.is_sound:
        other = "of pictures, --region says where" if run.schema.is_image else "of a table, leave cells empty"
        problems.append(f"--gap: expected a text or sound; {other}")
    if problems:
        raise ConfigError(problems)


def _without_gaps(run: Run, data: Any) -> tuple[Any, np.ndarray | None]:
    """Pictures in an array of real numbers, NaN where pixels are missing: the rest as it is read, and the gaps."""
    if not run.schema.is_image:
        return data, None
    if isinstance(data, str | os.PathLike) and str(data).lower().endswith(".npy") and Path(data).is_file():
        loaded = np.load(data, allow_pickle=False)
        data = loaded if loaded.dtype.kind == "f" else data
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu().numpy()
    if not isinstance(data, np.ndarray) or data.dtype.kind != "f" or not np.isnan(data).any():
        return data, None
    holes = np.isnan(data)
    shape = run.schema.event_shape
    if data.shape[1:] not in (shape, shape[1:]):
        raise DataError(f"expected pictures of shape {shape}, got {data.shape[1:]}")
    return np.where(holes, 0, data), holes.reshape(-1, *shape)


def _missing(
    schema: Schema, part: Split, holes: np.ndarray | None, missing: Any, region: str | None, gap: str | None
) -> np.ndarray:
    """(n, *event), True where something is to be filled in."""
    shape = (len(part), *schema.event_shape)
    mask = np.isnan(part.x) if part.x.dtype.kind == "f" else np.zeros(shape, dtype=bool)
    if holes is not None:
        mask = mask | holes
    if region is not None:
        mask = mask | region_mask(schema.event_shape, region)
    if gap is not None:
        mask = mask | _seconds(gap, schema.event_shape[0], schema.fields[0].rate or 1)
    if missing is None:
        return mask
    given = np.asarray(missing)
    if given.dtype.kind not in "bui" or not np.isin(given, (0, 1)).all():
        raise ConfigError(f"missing: expected truth values, or 0 and 1, got {given.dtype}")
    fits = [shape, shape[1:]]
    fits += [(len(part), *shape[2:]), shape[2:]] if schema.is_image and shape[1] == 1 else []
    if given.shape not in fits:
        raise ConfigError(f"missing: expected a mask of shape {shape} or {shape[1:]}, got {given.shape}")
    lead = (len(part),) if given.shape in fits[::2] else (1,)
    return mask | given.astype(bool).reshape(*lead, *shape[1:])


def _values(run: Run, part: Split) -> np.ndarray:
    """Rows with finite numbers in place of gaps; pictures that are drawn afresh are drawn once."""
    if part.redraw:
        return part.to(run.schema).take(slice(None))["x"].numpy().astype(np.uint8)
    if part.x.dtype.kind != "f":
        return part.x
    centers = run.schema.in_units(np.zeros(run.schema.event_shape)) if not run.schema.is_array else 0.0
    return np.where(np.isnan(part.x), centers, part.x)


def _frame(data: Any, source: Any, part: Split) -> Any:
    """The user's own table, rows as chosen, with all its columns; None where it brought splits or has no columns."""
    if not isinstance(source, Source) or source.registered or ALL not in source.raw.parts:
        return None
    frame: Any = source.raw.parts[ALL].x
    if isinstance(frame, np.ndarray) or not source.raw.named:
        return None
    if len(part) < len(frame):
        frame = frame.iloc[part.index]
    if hasattr(data, "iloc"):
        frame = frame.set_axis(data.index[part.index]).set_axis(data.columns, axis=1)
    return frame
