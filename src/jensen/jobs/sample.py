"""Sample: new data from the model, in the user's own types."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.core import seeded
from jensen.data import Split
from jensen.errors import CapabilityError, ConfigError, did_you_mean
from jensen.jobs.filling import fill
from jensen.jobs.given import Given, by_column, infer, read_given
from jensen.jobs.imputation import Imputation, imputation
from jensen.jobs.job import job
from jensen.jobs.run import Run
from jensen.jobs.writing import write_on
from jensen.registry import configure, find

BATCH = 1000
USUAL = 64  # data, where nothing says how many


@job("sample", needs="sample")
@torch.no_grad()
def sample(
    run: Run,
    n: int | None = None,
    *,
    given: Any = None,
    given_from: Any = None,
    temperature: float | Mapping[str, float] = 1.0,
    seed: int = 0,
    mean: bool = False,
    prefix: str = "",
    length: int | None = None,
    nucleus: float = 1.0,
    sampling: Mapping[str, Any] | None = None,
    listener: Callable[[float], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Any:
    """Draw n data from p, walked from the top.

    Args:
        n: how many; by default 64, or as many as there are rows of what is given.
        given: values by column, one for all data or one for each, taken in turn: a mapping, or a frame. A conditional
            model takes all its conditions (a label by its name or number). Columns that the model itself explains are
            held, and the others drawn from p(others | these), as `impute` does.
        given_from: a table with conditions, its rows taken in turn. Of a model that is given pictures, such pictures;
            of one that makes data from a view of them (a smaller picture, a sketch), such views: what q infers of a
            view is drawn from q, and the rest from p.
        temperature: multiplies the scale of hidden normal variables, and of a flow's normal base; 1 samples the model
            itself, below 1 stays nearer to the mode. Of a hierarchy, by layer too, {"z2": 0.7}; others are at 1.
        seed: equal seeds give equal samples.
        mean: give E[x | z] of each draw of what is hidden instead of a draw of x: smoother, and no sample.
        prefix: of a text, how each begins.
        length: of windows of a text, tokens of each, those of the prefix among them, more than a window's if you like:
            it goes on from the second half of what it has. By default a window's, and after a prefix that has as many
            as much again.
        nucleus: of what is drawn from classes, as tokens, grey levels and levels of sound can be: draw each from the
            likeliest only, the fewest that weigh at least this share.
        sampling: settings of how variables are drawn, where the model can in several ways, as sampler and steps of a
            diffusion model, or sampler="jacobi" of an autoregressive one.
        listener: told of the share done, in [0, 1], where columns are held.
        say: told how far such draws can be trusted; by default a Python warning says so where they cannot.

    Returns:
        Pictures (n, C, H, W): uint8, or float levels where `mean`. Tables: n rows with the columns, order and
        dtypes of the data, those that were given included. Texts (n,).

    Raises:
        CapabilityError: p has no distribution over what is hidden, or no density by which to hold columns.
        ConfigError: n or the temperature is out of range, a flow's base has no scale, a condition is missing, or a
            given column or value unknown.
        DataError: `given_from` holds what the model cannot take.
    """
    _check_temperature(run, temperature)
    if run.schema.is_text:
        if mean:
            raise ConfigError("--mean: a text has no mean; nucleus and temperature draw what is likelier")
        if isinstance(temperature, Mapping):
            raise ConfigError("--temperature: expected one number for a model of text, got one by name")
        how = ways(run, sampling or {})
        asked = given if isinstance(given, Given) else _given_of_texts(run, n, given, given_from)
        return write_on(run, asked, prefix, length, temperature, nucleus, seed, how)
    if prefix or length is not None:
        name = "prefix" if prefix else "length"
        raise ConfigError(f"--{name}: expected a model of text, got one of {run.schema.kind} data")
    how = ways(run, sampling or {})
    asked = given if isinstance(given, Given) else read_given(run, n, given, given_from, USUAL)
    if not 0 < nucleus <= 1:
        raise ConfigError(f"--nucleus: expected a share in (0, 1], got {nucleus}")
    if mean and nucleus != 1:
        raise ConfigError("--nucleus: expected draws, got --mean")
    if asked.x is not None:
        if temperature != 1 or mean or nucleus != 1:
            option = "--mean" if mean else "--temperature" if temperature != 1 else "--nucleus"
            raise ConfigError(f"{option}: expected draws of the model itself where columns that it explains are given")
        held = _hold(run, asked, seed, listener)
        _report(held, say)
        return run.schema.table(held.draws.reshape(asked.n, -1), asked.c, asked.y)
    parts = []
    with seeded(seed, run.device):
        for start in range(0, asked.n, BATCH):
            size = min(BATCH, asked.n - start)
            rows = slice(start, start + size)
            context = {name: value[rows] for name, value in {**asked.context, **asked.hidden}.items()}
            if asked.hidden:
                context = infer(run.model, context)
            try:
                values = run.model.sample(size, context, temperature, how, nucleus)
            except ValueError as e:
                if temperature == 1 and nucleus == 1:
                    raise
                raise ConfigError(f"--{'temperature' if nucleus == 1 else 'nucleus'}: {e}") from None
            parts.append(expected(run, values) if mean else values[run.model.data])
    return restore(run, torch.cat(parts), mean, asked)


def _given_of_texts(run: Run, n: int | None, given: Any, given_from: Any) -> Given:
    given = by_column(given)
    if not run.model.conditions and (given or given_from is not None):
        raise ConfigError("--given: the model is given nothing with a text; --prefix says how it begins")
    return read_given(run, n, given, given_from, USUAL)


def _check_temperature(run: Run, temperature: float | Mapping[str, float]) -> None:
    """Raises `ConfigError` where one is not above 0, or stands at what p does not draw."""
    by_name = temperature if isinstance(temperature, Mapping) else {"": temperature}
    drawn = [f.name for f in run.model.p if not f.deterministic]
    problems = []
    for name, value in by_name.items():
        if name and name not in drawn:
            problems.append(
                f"--temperature: p draws no {name!r}{did_you_mean(name, drawn)}; it draws {', '.join(drawn)}"
            )
        if not value > 0:
            problems.append(f"--temperature: {f'{name}: ' if name else ''}expected > 0, got {value}")
    if problems:
        raise ConfigError(problems)


def ways(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How variables are drawn that can be in several ways, by name: p's part says which component has the `sampling`.

    Raises:
        ConfigError: a setting that no such component has.
    """
    found = {f.name: str(f.module.sampling) for f in run.model.p if hasattr(f.module, "sampling")}
    if settings and not found:
        raise ConfigError(
            f"{', '.join(settings)}: {run.spec['model']} is drawn from in one way, and has no settings of that"
        )
    chosen = {name: find("sampling", component) for name, component in found.items()}
    return {name: component.function(**configure(component, settings)) for name, component in chosen.items()}


def _hold(run: Run, asked: Given, seed: int, listener: Callable[[float], None] | None) -> Imputation:
    """Draws of the columns that are not given: n of one row, or one of each of n rows."""
    assert asked.x is not None
    parts = [v.reshape(asked.n, -1) for v in (asked.x, asked.c, asked.y) if v is not None]
    same = all(np.array_equal(v, np.broadcast_to(v[:1], v.shape), equal_nan=True) for v in parts)
    rows = slice(0, 1) if same else slice(None)
    x, mask = asked.x[rows], np.isnan(asked.x[rows])
    x = np.where(mask, run.schema.in_units(np.zeros(run.schema.event_shape)), x)
    with seeded(seed, run.device):
        filled = fill(
            run,
            run.schema.prepare(x).to(run.device),
            torch.from_numpy(mask).to(run.device),
            {name: value[rows] for name, value in asked.context.items()},
            asked.n if same else 1,
            listener=listener,
        )
    return imputation(run.schema, filled, Split(x), mask)


def _report(held: Imputation, say: Callable[[str], None] | None) -> None:
    """How far draws given columns can be trusted."""
    found = [text.partition(": more --")[0] for text in held.warnings]  # options of impute
    if say is not None:
        for line in [*str(held).splitlines()[1:], *(f"warning: {text}" for text in found)]:
            say(line)
        return
    for text in found:
        warnings.warn(text, stacklevel=4)


def expected(run: Run, values: dict[str, Tensor]) -> Tensor:
    """E[x | parents], (n, *event), prepared; x itself where a map makes it of its base."""
    factor = run.model.p[run.model.data]
    if factor.name in run.model.inverted:
        return values[factor.name]
    given = [values[name] for name in factor.parents]
    dist = factor.module(*given)
    try:
        mean = dist.mean
    except NotImplementedError:
        raise CapabilityError(
            f"--mean: {run.spec['model']} has no mean of all columns at once, as each hangs on those before it; sample "
            "without it"
        ) from None
    return mean if dist.batch_shape else mean.expand(len(next(iter(values.values()))), *mean.shape)


def restore(run: Run, x: Tensor, mean: bool, given: Given | None = None) -> Any:
    """Prepared values (n, *event) in the user's types; means of pictures stay real numbers. A column of which training
    rows had no cell is empty.

    Args:
        given: conditions that take their places in a table.
    """
    if mean and run.schema.is_image:
        return x.cpu().numpy().astype(np.float32)
    if not run.schema.is_array and run.schema.unknown.any():
        x = x.masked_fill(torch.from_numpy(run.schema.unknown).to(x.device), torch.nan)
    return run.schema.restore(x.cpu(), *((given.c, given.y) if given is not None else ()))
