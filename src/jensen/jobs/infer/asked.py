"""What is asked of variational inference: a family, where the target lives, where to start, a density of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from jensen.errors import ConfigError, did_you_mean
from jensen.registry import Component, configure, find, names
from jensen.transforms import Affine, Columns, Composed, Exp, Transform, interval

Bounds = tuple[float | None, float | None]


def family_of(name: str, settings: Mapping[str, Any]) -> tuple[Component, dict[str, Any]]:
    """The family's component with its settings, checked; the name of a flow is short for `flow` of that flow."""
    if name in names("flow"):
        component = find("family", "flow")
        try:
            return component, configure(component, {"flow": {"name": name, **settings}})
        except ConfigError as e:  # as the settings were given
            raise ConfigError([problem.removeprefix("flow.") for problem in e.problems]) from None
    if name in names("family"):
        component = find("family", name)
        return component, configure(component, settings)
    raise ConfigError(f"family: {name!r} is none{did_you_mean(name, [*names('family'), *names('flow')])}")


def as_given(chosen: dict[str, Any], family: str, component: Component) -> dict[str, Any]:
    """Settings as they are given."""
    if component.name == "flow" and family != "flow":
        return {key: value for key, value in chosen["flow"].items() if key != "name"}
    return chosen


def bounds_of(support: Any, dim: int) -> list[Bounds]:
    """Where each dimension lives, (low, high) with None for no end."""

    def one(given: Any, where: str) -> Bounds:
        named = {None: (None, None), "real": (None, None), "positive": (0.0, None)}
        if given is None or isinstance(given, str):
            if given not in named:
                raise ConfigError(f"{where}: {given!r} is none; choose real, positive or (low, high)")
            return named[given]
        try:
            low, high = (None if b is None or math.isinf(b) else float(b) for b in given)
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: expected real, positive or (low, high), got {given!r}") from None
        if low is not None and high is not None and not low < high:
            raise ConfigError(f"{where}: expected low < high, got {given!r}")
        return low, high

    if isinstance(support, Mapping):
        wrong = [key for key in support if not isinstance(key, int) or not 0 <= key < dim]
        if wrong:
            raise ConfigError(f"support: expected dimensions in 0..{dim - 1}, got {wrong[0]!r}")
        return [one(support.get(d), f"support[{d}]") for d in range(dim)]
    if isinstance(support, list):
        if len(support) != dim:
            raise ConfigError(f"support: expected one entry for each of {dim} dimensions, got {len(support)}")
        return [one(given, f"support[{d}]") for d, given in enumerate(support)]
    return [one(support, "support")] * dim


def map_onto(bounds: list[Bounds]) -> Transform:
    """From R^D to where the target lives: low + exp, high − exp, or a stretched sigmoid."""
    groups: dict[Bounds, list[int]] = {}
    for d, ends in enumerate(bounds):
        if ends != (None, None):
            groups.setdefault(ends, []).append(d)
    parts: list[tuple[list[int], Transform]] = []
    for (low, high), dims in groups.items():
        shape = (len(dims),)
        if low is not None and high is not None:
            part = interval(shape, low, high)
        elif low is not None:
            part = Composed([Exp(shape), Affine(shape, low)])
        else:
            part = Composed([Exp(shape), Affine(shape, high or 0.0, -1.0)])
        parts.append((dims, part))
    return Columns(len(bounds), parts)


def starting_point(start: Any, bounds: list[Bounds], onto: Transform, like: Tensor) -> Tensor:
    """A point of R^D, (D,)."""
    onto.to(like.dtype)
    if start is None:
        return like.clone()
    x = torch.as_tensor(start).to(like)
    if x.shape != like.shape or not torch.isfinite(x).all():
        raise ConfigError(f"start: expected {len(like)} finite numbers, got {start!r}")
    for d, (low, high) in enumerate(bounds):
        if (low is not None and x[d] <= low) or (high is not None and x[d] >= high):
            raise ConfigError(f"start: dimension {d} is {float(x[d]):g}, outside its support {(low, high)}")
    return onto.inverse(x[None])[0]


def batched(
    function: Callable[[Tensor], Any], point: Tensor, dtype: torch.dtype, needs_slope: bool
) -> Callable[[Tensor], Tensor]:
    """log_density of rows, (N, D) → (N,), whichever way it was written.

    Raises:
        ConfigError: it fails, or gives another shape, or one that depends on the other rows, or has no gradient where
            one is needed.
    """
    rows = torch.stack([point, point + 1e-3 * (1 + point.abs()), point])

    def call(x: Tensor) -> Tensor:
        try:
            return torch.as_tensor(function(x))
        except RuntimeError as e:
            if "dtype" in str(e) or "same type" in str(e):
                raise ConfigError(
                    f"log_density: {str(e).splitlines()[0]}; it is called with {str(dtype).removeprefix('torch.')} "
                    f"(dtype=torch.float32 to change that)"
                ) from None
            raise

    def by_row(x: Tensor) -> Tensor:
        return torch.stack([call(row).to(dtype) for row in x])

    def by_batch(x: Tensor) -> Tensor:
        return call(x).to(dtype)

    single: Tensor | None = None
    try:
        many: Any = call(rows.clone().requires_grad_())
    except ConfigError:
        raise
    except Exception as failure:  # written for one point
        many = failure
    if isinstance(many, Tensor) and many.shape == (3,):
        alone = torch.cat([call(row[None]).reshape(-1)[:1] for row in rows]).to(dtype)
        if torch.allclose(alone, many.detach().to(dtype), rtol=1e-3, atol=1e-6, equal_nan=True):
            return _differentiable(by_batch, rows) if needs_slope else by_batch
    try:
        single = call(point)
    except ConfigError:
        raise
    except Exception:
        single = None
    if single is not None and single.shape == ():
        mapped = torch.func.vmap(lambda x: call(x).to(dtype))
        try:
            mapped(rows)
        except Exception:  # it looks at values, or does what cannot be mapped
            mapped = by_row
        return _differentiable(mapped, rows) if needs_slope else mapped
    if isinstance(many, Exception):
        raise ConfigError(
            f"log_density fails at rows of shape {tuple(rows.shape)}: {type(many).__name__}: {many}; is dim right?"
        ) from many
    shape = tuple(many.shape)
    raise ConfigError(
        f"log_density: expected a number for each row, (3,) for rows {tuple(rows.shape)}, got {shape}"
        + (" that depends on the other rows" if shape == (3,) else "")
    )


def _differentiable(function: Callable[[Tensor], Tensor], rows: Tensor) -> Callable[[Tensor], Tensor]:
    x = rows.clone().requires_grad_()
    value = function(x)
    if not value.requires_grad:
        raise ConfigError(
            "log_density: no gradient reaches its argument (was it computed in NumPy, or detached?); write it in "
            "torch, or use gradient=score"
        )
    return function
