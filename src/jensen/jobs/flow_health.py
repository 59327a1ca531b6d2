"""Faults of invertible maps, each looked for with evidence.

A flow's density is exact only as far as the map is inverted, its volume change is the true one, and neither stretches
so much that no digits are left (Behrmann et al., "Understanding and mitigating exploding inverses in invertible neural
networks", 2021, arXiv:2006.09347).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jensen.conditionals.transformed import Transformed
from jensen.core import ESTIMATE, Model, mean_and_stderr
from jensen.data import Dataset
from jensen.jobs.finding import Finding
from jensen.jobs.precision import as_in, doubled, log_densities
from jensen.jobs.run import Run
from jensen.objectives.estimators import elbo, importance
from jensen.transforms import Continuous, Transform

Batch = dict[str, Tensor]

ROWS = 200  # data and samples that are sent through the map and back, fewer where that takes many passes
PASSES = 40_000  # of a network in a row times rows, at most
TRIP_32, TRIP_64 = 1e-2, 1e-3  # largest error of a round trip, in standard deviations, that is none to speak of; where
# a solver's tolerance stops it and not the digits, the first of these counts in both
ROUNDING = 1e-6  # the same, beyond which float64 does not round but an iteration stops
LOG_DENSITY_NATS = 0.01  # mean difference between float32 and float64 that is none to speak of
GAIN = 1e3  # of a layer, beyond which it costs float32 three of its seven digits
EXACT_DIMS, GAIN_ROWS, POWER_STEPS = 32, 16, 12
INTEGRAL_ERROR, EVALUATIONS, SPLITS, DRAWS = 0.01, 250_000, 5, 20_000
NEGLIGIBLE = 1e-8  # mass of a cell
SAMPLES = 2000
OUTSIDE, FAR = 0.05, 0.005  # share of samples outside a column's range, beyond what chance gives; and far outside
GAP_DATA, GAP_PARTICLES, GAP_NATS_PER_DIM = 50, 20, 0.1


@dataclass(frozen=True)
class Map:
    """A conditional of p that is an invertible map, met with its parents: the same in two precisions.

    Attributes:
        name: of its variable.
        single, double: its density in the model's precision and in float64.
        values: of its variable, (N, *event), in float64: data, or what stands for them.
        module: the whole map, in float64.
    """

    name: str
    single: Transformed
    double: Transformed
    values: Tensor
    module: Transform


@torch.no_grad()
def findings(run: Run, data: Dataset, batch: Batch) -> list[Finding]:
    """What is found about every invertible map in p; none where there is none."""
    names = [f.name for f in run.model.p if getattr(f.module, "invertible", False)]
    if not names:
        return []
    double = doubled(run.model)
    maps = [_map(run.model, double, name, batch) for name in names]
    found: list[Finding] = []
    for each in maps:
        of = "" if each.name in run.model.inverted else f" of p({run.model.p[each.name]})"
        found += [_round_trip(each, of, run), _gains(each, of, run)]
    estimated = run.model.likelihood == ESTIMATE  # with other probes every time
    found += [] if estimated else [_digits(run, double, batch)]
    for each in maps:
        if each.name in run.model.inverted:
            found += [_integral(each, estimated), _range(run, data, batch)]
    if any(map(run.model.is_noisy, run.model.hidden)):
        found.append(_noise(run.model, batch))
    return found


def _map(model: Model, double: Model, name: str, batch: Batch) -> Map:
    """The map of a variable, at up to `ROWS` data."""
    factor = model.p[name]
    steps = max(factor.module.transform.forward_steps, factor.module.transform.inverse_steps)  # pyright: ignore
    rows = int(min(ROWS, max(8, PASSES // max(1, steps))))
    values = model.evidence(as_in(model, {key: value[:rows] for key, value in batch.items()})).values
    if model.is_noisy(name):
        values[name] = values[model.data] + 0.5  # whose code stands for the datum
    wide = as_in(double, {key: values[key] for key in (name, *factor.parents)})
    single = factor.module(*(values[parent] for parent in factor.parents))
    module = double.p[name].module
    return Map(name, single, module(*(wide[p] for p in factor.parents)), wide[name], module.transform)  # pyright: ignore


# There and back


def _round_trip(of: Map, name: str, run: Run) -> Finding:
    """|T(T⁻¹(x)) − x| of data and |T⁻¹(T(z)) − z| of the base's draws, in standard deviations, the largest element."""
    spread = _spread(of.values)
    base = of.double.base
    z = base.sample(torch.Size([] if base.batch_shape else [len(of.values)]))
    evidence: dict[str, Any] = {}
    for label, density in (("float32", of.single), ("float64", of.double)):
        dtype = torch.float32 if label == "float32" else torch.float64
        there = _error(lambda x, d=density: d.from_base(d.to_base(x)[0])[0], of.values.to(dtype), spread)
        back = _error(lambda u, d=density: d.to_base(d.from_base(u)[0])[0], z.to(dtype), z.std())
        evidence[label] = {
            "data_max": float(there.max()), "data_median": float(there.median()),
            "samples_max": float(back.max()), "samples_median": float(back.median()),
        }  # fmt: skip
    single, exact = evidence["float32"], evidence["float64"]
    most = TRIP_32 if any(isinstance(part, Continuous) for part in of.module.modules()) else TRIP_64
    holds = exact["data_max"] <= most and exact["samples_median"] <= most
    kept = single["data_max"] <= TRIP_32 and single["samples_median"] <= TRIP_32
    what = "codes" if name else "data"
    text = (
        f"{what}, mapped to the base and back, are off by at most {single['data_max']:.1e} of a standard deviation in "
        f"float32 and {exact['data_max']:.1e} in float64; samples, the other way, by {single['samples_max']:.1e} and "
        f"{exact['samples_max']:.1e}"
    )
    if run.model.is_noisy(of.name):
        back = of.single.from_base(of.single.to_base(of.values.to(torch.float32))[0])[0]
        lost = float((back.floor() != of.values.floor()).flatten(1).any(1).double().mean())
        evidence["whole_numbers_lost"] = lost
        come = "all" if lost == 0 else f"all but {lost:.1%}"
        text += f"; {come} of the data come back as the same whole numbers from float32"
        kept = kept and lost == 0
    if exact["samples_max"] > most >= exact["samples_median"]:
        text += "; the farthest samples lie where the map saturates"
    if not holds:
        text += ": the map is not inverted, even with twice the digits"
    elif exact["data_max"] > ROUNDING:
        text += ": the tolerance of a solver"
    elif not kept:
        text += ": float32 has not digits enough; encoding, reconstruction and scores take float64 by themselves"
    return Finding(f"round trip{name}", holds and kept, text, evidence, _tighter(run) or _tamer(run))


def _error(trip: Callable[[Tensor], Tensor], x: Tensor, spread: Tensor) -> Tensor:
    """The largest element of each row's error, (N,), infinite where a row does not come back as a number."""
    error = ((trip(x) - x).double() / spread).abs().flatten(1).amax(1)
    return error.nan_to_num(math.inf, math.inf)


def _spread(x: Tensor) -> Tensor:
    """Standard deviation of each column of a table, or of all pixels; a constant column takes that of all."""
    whole = x.std().clamp_min(1e-12)
    if x.dim() > 2:
        return whole
    own = x.std(0)
    return torch.where(own > 1e-3 * whole, own, whole)


def _tighter(run: Run) -> str:
    """Settings of a solver that follows a map more closely; empty where there is none."""
    settings = run.spec.get("settings", {})
    known = [name for name in ("rtol", "atol") if isinstance(settings.get(name), float)]
    return " ".join(f"{name}={settings[name] / 100:g}" for name in known)


def _tamer(run: Run) -> str:
    """Settings that make a map gentler, of those that there are."""
    settings = run.spec.get("settings", {})
    bound = [f"bound={settings['bound'] / 2:g}"] if isinstance(settings.get("bound"), float) else []
    fewer = [f"layers={max(1, settings['layers'] // 2)}"] if isinstance(settings.get("layers"), int) else []
    return ", ".join([*bound, *fewer, "train.optimizer=adamw train.weight_decay=0.01", "train.clip=1"])


# How much a layer stretches


@torch.no_grad()
def _gains(of: Map, name: str, run: Run) -> Finding:
    """The largest singular value of each layer's Jacobian over data, in both directions."""
    rows = of.values[:GAIN_ROWS]
    context = None if of.double.context is None else of.double.context[:GAIN_ROWS]
    met = _layers(of.module, rows, context)
    layers: list[dict[str, Any]] = []
    for i, layer in enumerate(met):
        to_base, to_data = _largest_gains(layer)
        learned = any(True for _ in layer.transform.parameters())
        layers.append(
            {"number": i + 1, "layer": type(layer.transform).__name__, "to_base": to_base, "to_data": to_data,
             "learned": learned}
        )  # fmt: skip
    judged = [x for x in layers if x["learned"]] or layers
    worst = max(judged, key=lambda x: max(x["to_base"] or 0.0, x["to_data"] or 0.0))
    gain = max(worst["to_base"] or 0.0, worst["to_data"] or 0.0)
    direction = "to the base" if gain == worst["to_base"] else "to the data"
    unmeasured = any(x["to_data"] is None for x in layers)
    text = (
        f"over {len(rows)} data no learned layer stretches by more than {gain:.3g} "
        f"({worst['layer']}, number {worst['number']} from the data, {direction})"
    )
    if unmeasured:
        text += "; the way to the data was left out where it takes many passes"
    if gain > GAIN:
        text += f": each such layer costs float32 {math.log10(gain):.0f} of its seven digits"
    evidence = {"largest": gain, "layers": layers, "rows": len(rows)}
    return Finding(f"stretching{name}", gain <= GAIN, text, evidence, _tamer(run))


@dataclass(frozen=True)
class Layer:
    """A map that is not made of others, at the values that it met on the way from the data.

    `from_data(x)` is its direction towards the base, `to_data(z)` the other; both act on rows.
    """

    transform: Transform
    x: Tensor
    from_data: Callable[[Tensor], Tensor]
    to_data: Callable[[Tensor], Tensor]
    to_data_steps: int


def _layers(transform: Transform, x: Tensor, context: Tensor | None) -> list[Layer]:
    """The layers of a map, from the data on, each with its input when x is sent to the base."""
    met: list[Layer] = []

    def recording(part: Transform, direction: str) -> Callable[..., tuple[Tensor, Tensor]]:
        other = "forward_and_ladj" if direction == "inverse_and_ladj" else "inverse_and_ladj"
        own, back = (functools.partial(getattr(type(part), name), part) for name in (direction, other))
        steps = part.forward_steps if direction == "inverse_and_ladj" else part.inverse_steps

        def record(value: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
            there, home = (functools.partial(_first, method, given) for method in (own, back))
            met.append(Layer(part, value, there, home, steps))
            return own(value, given)

        return record

    leaves = [
        part
        for part in transform.modules()
        if isinstance(part, Transform) and not any(isinstance(m, Transform) for m in part.modules() if m is not part)
    ]
    with contextlib.ExitStack() as stack:
        for part in leaves:
            for direction in ("inverse_and_ladj", "forward_and_ladj"):
                stack.enter_context(_replaced(part, direction, recording(part, direction)))
        transform.inverse_and_ladj(x, context)
    return met


@contextlib.contextmanager
def _replaced(part: Transform, method: str, by: Any) -> Iterator[None]:
    object.__setattr__(part, method, by)
    try:
        yield
    finally:
        object.__delattr__(part, method)


def _first(method: Callable[..., tuple[Tensor, Tensor]], context: Tensor | None, value: Tensor) -> Tensor:
    return method(value, context)[0]


def _largest_gains(layer: Layer) -> tuple[float, float | None]:
    """Largest stretch towards the base and, where it is cheap to find, towards the data."""
    if layer.x[0].numel() <= EXACT_DIMS:
        sizes = torch.linalg.svdvals(_jacobians(layer.from_data, layer.x))
        return float(sizes[:, 0].max()), float((1 / sizes[:, -1]).max())
    z = layer.from_data(layer.x)
    to_data = _power(layer.to_data, z) if layer.to_data_steps <= POWER_STEPS else None
    return _power(layer.from_data, layer.x), to_data


@torch.enable_grad()
def _jacobians(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∂f/∂x of each row, (N, D, D), a row of it at a time: rows do not meet in a transform."""
    x = x.detach().requires_grad_()
    y = f(x).flatten(1)
    rows = [torch.autograd.grad(y[:, d].sum(), x, retain_graph=True)[0].flatten(1) for d in range(y.shape[1])]
    return torch.stack(rows, 1)


def _power(f: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The largest singular value of ∂f/∂x over rows by power iteration on JᵀJ; J v by a central difference."""
    v = _unit(torch.randn(x.shape, dtype=x.dtype, device=x.device))
    step = 1e-6 * x.std().clamp_min(1e-6)
    length = x.new_zeros(len(x))
    for _ in range(POWER_STEPS):
        u = (f(x + step * v) - f(x - step * v)) / (2 * step)
        length = u.flatten(1).norm(dim=1)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (v,) = torch.autograd.grad((f(at) * u).sum(), at)
        v = _unit(v)
    return float(length.max())


def _unit(v: Tensor) -> Tensor:
    size = v.flatten(1).norm(dim=1).clamp_min(1e-300)
    return v / size.reshape(-1, *(1,) * (v.dim() - 1))


# Digits of the density


def _digits(run: Run, double: Model, batch: Batch) -> Finding:
    """The log-density of data in float32 against float64."""
    single, exact = log_densities(run.model, double, batch)
    error = (single - exact).abs().nan_to_num(math.inf, math.inf)
    mean, most = float(error.mean()), float(error.max())
    text = f"log-densities in float32 differ from float64 by {mean:.1e} nats on average, {most:.1e} at most"
    if mean > LOG_DENSITY_NATS:
        text += ": score takes float64 by itself, training does not"
    evidence = {"mean_difference": mean, "largest_difference": most}
    return Finding("digits of the density", mean <= LOG_DENSITY_NATS, text, evidence, _tamer(run))


# Normalisation


def _integral(of: Map, estimated: bool) -> Finding:
    """∫ p over a box that holds the data and nearly all samples, against the share of samples in it."""
    shape, base, context = of.double.event_shape, of.double.base, of.double.context
    dims = math.prod(shape)
    given = "" if context is None else ", given the conditions of one datum"
    skipped = {
        f"a grid serves for one or two dimensions, and here are {dims}": dims > 2,
        "the density is an estimate, another one every time": estimated,
        "the base differs from datum to datum": bool(base.batch_shape),
    }
    for reason, applies in skipped.items():
        if applies:
            return Finding("normalisation", True, f"not integrated: {reason}", {"skipped": reason})
    p = Transformed(base, of.module, None if context is None else context[:1])
    draws = p.sample((DRAWS,)).reshape(-1, dims)
    seen = torch.cat([draws[:2000], of.values.flatten(1)])
    seen = seen[seen.isfinite().all(1)]
    low, high = seen.amin(0), seen.amax(0)
    margin = 0.5 * (high - low).clamp_min(1e-6)
    low, high = low - margin, high + margin
    inside = float(((draws > low) & (draws < high)).all(1).double().mean())
    budget = max(20_000, EVALUATIONS // max(1, of.module.inverse_steps // 8))
    found, error = _quadrature(lambda x: p.log_prob(x.reshape(-1, *shape)), low, high, draws, budget)
    evidence = {"integral": found, "error": error, "samples_inside": inside}
    text = f"the density integrates to {found:.4f} ± {error:.4f} where {inside:.2%} of samples fall{given}"
    if error > INTEGRAL_ERROR:
        return Finding("normalisation", True, f"{text}: too sharp for a grid to tell", evidence)
    ok = abs(found - inside) <= INTEGRAL_ERROR + error
    if not ok:
        text += ": the log-determinant does not belong to the map"
    return Finding("normalisation", ok, text, evidence, "report it: this is a fault of the model's code")


def _quadrature(
    log_p: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, draws: Tensor, budget: int
) -> tuple[float, float]:
    """∫ exp log p over a box by the midpoint rule, cells with mass split until they agree with their parts.

    Args:
        log_p: of points (n, D).
        low, high: corners of the box, (D,).
        draws: of the density, (m, D): their share in a cell is what may be in it, whatever is found in its middle.
        budget: evaluations at most, spent where most is in doubt.

    Returns:
        The integral, and its error: of cells that were split the sum of the last differences between them and their
        parts, of others all that may be in them.
    """
    dims = len(low)
    per_side, parts = (64, 4) if dims == 2 else (1024, 8)
    size = (high - low) / per_side
    axes = [low[d] + (torch.arange(per_side, dtype=low.dtype, device=low.device) + 0.5) * size[d] for d in range(dims)]
    centers = torch.cartesian_prod(*axes).reshape(-1, dims)
    offsets = torch.cartesian_prod(*[(torch.arange(parts) + 0.5) / parts - 0.5] * dims).reshape(-1, dims).to(low)

    def mass(points: Tensor, size: Tensor) -> Tensor:
        values = torch.cat([log_p(part) for part in points.split(20_000)])
        return values.exp().nan_to_num(0.0) * size.prod()

    masses, spent = mass(centers, size), len(centers)
    cell = ((draws - low) / size).floor().long()
    cell = cell[((cell >= 0) & (cell < per_side)).all(1)]
    place = cell @ cell.new_tensor([1] if dims == 1 else [per_side, 1])
    doubt = masses.maximum(torch.bincount(place, minlength=len(masses)).to(masses) / len(draws))
    total = error = 0.0
    for _ in range(SPLITS):
        split = doubt.argsort(descending=True)[: max(0, budget - spent) // len(offsets)]
        split = split[doubt[split] > NEGLIGIBLE]
        if not len(split):
            break
        kept = torch.ones(len(masses), dtype=torch.bool, device=low.device)
        kept[split] = False
        total, error = total + float(masses[kept].sum()), error + float(doubt[kept].sum())
        children, size = (centers[split, None] + offsets * size).reshape(-1, dims), size / parts
        inner = mass(children, size)
        spent += len(children)
        change = (inner.reshape(len(split), -1).sum(1) - masses[split]).abs()
        centers, masses, doubt = children, inner, change.repeat_interleave(len(offsets)) / len(offsets)
    return total + float(masses.sum()), error + float(doubt.sum())


# Samples


def _range(run: Run, data: Dataset, batch: Batch) -> Finding:
    """Samples against the range of the data, column by column; one that never varied in training has no range."""
    names = [field.name for field in run.schema.fields if not field.constant]
    if not names:
        return Finding("range of samples", True, "not looked at: no column varies", {"skipped": "no column varies"})
    part = data.splits.get("train") or max(data.splits.values(), key=len)
    rows = part.to(run.schema).take(slice(None))["x"].flatten(1).double()
    noisy = any(map(run.model.is_noisy, run.model.hidden))
    low, high = rows.amin(0), rows.amax(0) + (1.0 if noisy else 0.0)
    if run.schema.is_array:
        low, high = low.new_zeros(()), high.new_tensor(float(run.schema.levels or 1))
    given = {name: batch[name] for name in run.model.context}
    turn = torch.arange(SAMPLES) % len(batch[run.model.data])
    values = run.model.sample(SAMPLES, {name: value[turn.to(value.device)] for name, value in given.items()})
    drawn = values[run.model.inverted[0]].flatten(1).double().cpu()
    if not run.schema.is_array:
        varies = torch.from_numpy(~run.schema.constant)
        low, high, drawn = low[varies], high[varies], drawn[:, varies]
    width = (high - low).clamp_min(1e-12)
    outside = ((drawn < low) | (drawn > high) | ~drawn.isfinite()).double().mean(0)
    far = ((drawn < low - width) | (drawn > high + width) | ~drawn.isfinite()).any(1).double().mean()
    by_chance = 0.0 if run.schema.is_array else 2 / (len(rows) + 1)
    settings = run.spec.get("settings", {})
    evidence: dict[str, Any] = {"far_outside": float(far), "by_chance": by_chance, "samples": SAMPLES}
    if run.schema.is_array:
        share, what = float(outside.mean()), "pixels" if run.schema.is_image else "elements"
        text = f"{share:.2%} of the {what} of samples lie outside the levels: cut to the nearest, and lost to the bound"
        evidence["outside"] = share
        narrower = [f"alpha={settings['alpha'] / 10:g}"] if settings.get("alpha") else []
    else:
        share, worst = float(outside.max()), names[int(outside.argmax())]
        text = (
            f"{share:.2%} of samples lie outside the training data's range in column {worst!r}, the worst "
            f"(by chance {by_chance:.2%})"
        )
        evidence["outside"] = dict(zip(names, outside.tolist(), strict=True))
        narrower = [f"bounded=[{worst}:LOW:HIGH] where its values end"] if "bounded" in settings else []
    text += f"; {float(far):.2%} lie beyond it by more than its width; told from {OUTSIDE:.0%} and {FAR:.1%} on"
    ok = share <= OUTSIDE + by_chance and float(far) <= FAR
    advice = ", ".join(
        [*narrower, "longer training, a more flexible flow, or --temperature 0.9 where samples are drawn"]
    )
    return Finding("range of samples", ok, text, evidence, advice)


def _noise(model: Model, batch: Batch) -> Finding:
    """IW bound − ELBO where only noise is drawn: what the noise costs, at least."""
    few = {name: value[:GAP_DATA] for name, value in batch.items()}
    gap, stderr = mean_and_stderr(importance(model, few, GAP_PARTICLES).rows - elbo(model, few, GAP_PARTICLES).rows)
    dims = math.prod(batch[model.data].shape[1:])
    return Finding(
        "cost of the noise",
        gap <= GAP_NATS_PER_DIM * dims,
        f"IW-{GAP_PARTICLES} − ELBO = {gap:.2f} ± {stderr:.2f} nats: at least so much of the bound is lost by the "
        "noise that makes whole numbers continuous",
        {"gap": gap, "stderr": stderr, "particles": GAP_PARTICLES},
        "a learned dequantizer, as dequantizer=variational",
    )
