"""Density of real tables: our best flow beside the best of zuko and of normflows, as large and as long in training.

    python benchmarks/flow_tables.py [--seconds 90] [--seeds 0,1,2] [--tables protein,magic-gamma,...]
        [--work runs/flow_tables] [--out benchmarks/results/flow_tables.json] [--quick]

For every table and seed each contestant has

- the same prepared rows, batch size, Adam with the same learning rate falling along a cosine, and the same clipping;
- as many parameters, within 3 %: the width of its networks is chosen so;
- the same budget: seconds of one processor core in training steps. Validation, twenty times in a run, is not counted
  (its cost is much the same for all); the weights of the best validation are the ones that are tested.

The loop is the same for all, ours too: what differs is the flow. Test log-likelihoods are in nats in the units of the
table, and differences are paired, row by row. A row that is outside the reach of a model counts as its density says.

A finished cell (table, seed, contestant) is a file in `--work` and is not run again, so an interrupted benchmark goes
on where it stopped. Needs the tables (`JENSEN_DATA`) and the extra `bench`.

Of each library the first seed runs all that follow, and the others the one whose validation was the best there.
Networks are with ReLU, as each library has it, or with SiLU.

- **jensen silu, jensen relu**: `spline` of the kind "autoregressive".
- **zuko relu, zuko silu**: its NSF, autoregressive, with random orders of the columns (better in short trials than its
  default).
- **normflows ar relu, ar silu, coupling**: its spline flows, autoregressive and coupling, two residual blocks a network
  and learned linear maps between the layers as in its examples, splines on [-5, 5] (better in short trials than its
  [-3, 3]).
"""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harness import arguments, keep_table
from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, load_data
from jensen.registry import build

TABLES = "protein,magic-gamma,bsds300-patches-63,miniboone-head"
BATCH, RATE, CLIP, VALIDATIONS = 512, 1e-3, 5.0, 20
LAYERS, HIDDEN, BINS = 5, (128, 128), 8  # of zuko's flow, whose size is that of all
EVALUATED = 2000  # rows at once


class Flow(NamedTuple):
    """What is trained, log p(x) in nats, (N,), and what a start from data does."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    initialize: Callable[[Tensor], None] = lambda x: None

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.module.parameters())


def jensen(**more: Any) -> Callable[[Schema, int], Flow]:
    def make(schema: Schema, width: int) -> Flow:
        settings = {"kind": "autoregressive", "layers": LAYERS, "hidden": [width] * len(HIDDEN), "bins": BINS, **more}
        model: Model = build("spline", schema, settings)
        return Flow(model, lambda x: model.evidence({"x": x}).elbo(), lambda x: model.initialize({"x": x}))

    return make


def zuko(activation: type[nn.Module] = nn.ReLU) -> Callable[[Schema, int], Flow]:
    def make(schema: Schema, width: int) -> Flow:
        from zuko.flows import NSF

        more: dict[str, Any] = {"hidden_features": (width,) * len(HIDDEN), "activation": activation}
        flow = NSF(schema.dims, transforms=LAYERS, bins=BINS, randperm=True, **more)
        return Flow(flow, lambda x: flow().log_prob(x))

    return make


def normflows(autoregressive: bool, activation: type[nn.Module] = nn.ReLU) -> Callable[[Schema, int], Flow]:
    def make(schema: Schema, width: int) -> Flow:
        import normflows as nf

        flows: list[nn.Module] = []
        for i in range(LAYERS):
            common: dict[str, Any] = {"num_blocks": 2, "num_hidden_channels": width, "num_bins": BINS}
            common |= {"tail_bound": 5.0, "activation": activation}
            if autoregressive:
                flows.append(nf.flows.AutoregressiveRationalQuadraticSpline(schema.dims, **common))
            else:
                reverse = bool(i % 2)
                flows.append(nf.flows.CoupledRationalQuadraticSpline(schema.dims, **common, reverse_mask=reverse))
            flows.append(nf.flows.LULinearPermute(schema.dims))
        model = nf.NormalizingFlow(nf.distributions.DiagGaussian(schema.dims, trainable=False), flows)
        return Flow(model, model.log_prob)

    return make


CONTESTANTS: dict[str, Callable[[Schema, int], Flow]] = {
    "jensen silu": jensen(activation="silu"),
    "jensen relu": jensen(activation="relu"),
    "zuko relu": zuko(),
    "zuko silu": zuko(nn.SiLU),
    "normflows ar relu": normflows(True),
    "normflows ar silu": normflows(True, nn.SiLU),
    "normflows coupling": normflows(False),
}


def made(name: str, schema: Schema, seed: int) -> Flow:
    """A contestant with the width that makes it as large as zuko's flow."""
    target = zuko()(schema, HIDDEN[0]).size
    low, high = 4, 1024
    while low < high:  # the least width that is not too small
        middle = (low + high) // 2
        low, high = (low, middle) if CONTESTANTS[name](schema, middle).size >= target else (middle + 1, high)
    width = min((low - 1, low), key=lambda w: abs(CONTESTANTS[name](schema, w).size - target))
    with seeded(seed):
        flow = CONTESTANTS[name](schema, width)
    if abs(flow.size / target - 1) > 0.03:
        raise SystemExit(f"{name}: {flow.size:,} parameters at width {width}, expected {target:,} within 3 %")
    return flow


@torch.no_grad()
def densities(flow: Flow, x: Tensor) -> Tensor:
    """log p of each row, (N,), prepared units."""
    flow.module.eval()
    found = torch.cat([flow.log_prob(part) for part in x.split(EVALUATED)])
    flow.module.train()
    return found


def trained(flow: Flow, data: Dataset, seconds: float, rate: float, seed: int) -> dict[str, Any]:
    """Train within the budget; what came of it, with the test rows of the best weights."""
    train, valid, test = (data.split(name).to(data.schema).x for name in ("train", "valid", "test"))
    with seeded(seed):
        flow.initialize(train[:20_000])
        parameters = list(flow.module.parameters())
        optimizer = torch.optim.Adam(parameters, rate, fused=True)
        best, kept, step, spent, validated = -math.inf, copy.deepcopy(flow.module.state_dict()), 0, 0.0, 0
        curve: list[tuple[float, float]] = []
        began_wall, wall = time.perf_counter(), 0.0
        while spent < seconds:
            for index in torch.randperm(len(train)).split(BATCH):
                began, began_wall = time.process_time(), time.perf_counter()
                for group in optimizer.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * min(1.0, spent / seconds)))
                loss = -flow.log_prob(train.index_select(0, index)).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, CLIP)
                optimizer.step()
                step += 1
                spent, wall = spent + time.process_time() - began, wall + time.perf_counter() - began_wall
                if spent >= seconds * (validated + 1) / VALIDATIONS:
                    validated = int(spent / seconds * VALIDATIONS)
                    score = float(densities(flow, valid).mean())
                    curve.append((round(spent, 2), score + data.schema.log_jacobian))
                    if score > best:  # never where it is not a number
                        best, kept = score, copy.deepcopy(flow.module.state_dict())
                if spent >= seconds:
                    break
        flow.module.load_state_dict(kept)
    rows = densities(flow, test).double() + data.schema.log_jacobian
    return {
        "parameters": flow.size,
        "steps": step,
        "epochs": round(step * BATCH / len(train), 2),
        "cpu_seconds": round(spent, 1),
        "wall_seconds": round(wall, 1),
        "best_after": max(curve, key=lambda at: at[1])[0] if math.isfinite(best) else None,
        "valid": best + data.schema.log_jacobian,
        "test": float(rows.mean()),
        "test_stderr": float(rows.std() / len(rows) ** 0.5),
        "curve": [(t, round(v, 4)) for t, v in curve],
        "rows": [round(row, 4) for row in rows.tolist()],
    }


def cell(folder: Path, data: Dataset, name: str, seed: int, seconds: float, rate: float) -> dict[str, Any]:
    """A finished cell from its file, or a new one."""
    path = folder / f"{data.name}-{name.replace(' ', '-')}-{seed}-{seconds:g}s-{rate:g}.json"
    digest = data.split("test").sha256
    if path.exists():
        found = json.loads(path.read_text())
        if found["split_sha256"] == digest:
            return found
    result = trained(made(name, data.schema, seed), data, seconds, rate, seed)
    result = {"table": data.name, "contestant": name, "seed": seed, "split_sha256": digest, **result}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(path)
    print(
        f"{data.name:20} seed {seed}  {name:20} {result['parameters']:9,} parameters {result['epochs']:7.1f} epochs"
        f"  valid {result['valid']:9.3f}  test {result['test']:9.3f} ± {result['test_stderr']:.3f}",
        flush=True,
    )
    return result


def difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean of a over b on the same test rows and seeds, and its standard error: of rows, and of seeds."""
    d = np.array([x["rows"] for x in a]) - np.array([x["rows"] for x in b])  # (seeds, N)
    of_rows = d.mean(0).std(ddof=1) / d.shape[1] ** 0.5
    of_seeds = d.mean(1).std(ddof=1) / d.shape[0] ** 0.5 if len(d) > 1 else 0.0
    return float(d.mean()), float(math.hypot(of_rows, of_seeds))


def summary(name: str, cells: dict[str, list[dict[str, Any]]]) -> tuple[list[list[str]], dict[str, Any]]:
    """Lines of the table and their numbers, seeds averaged."""

    lines, numbers = [], {}
    ours = next(results for contestant, results in cells.items() if contestant.startswith("jensen"))
    for contestant, results in cells.items():
        test = float(np.mean([r["test"] for r in results]))
        stderr = float(np.mean([r["rows"] for r in results], 0).std(ddof=1) / len(results[0]["rows"]) ** 0.5)
        over, spread = difference(ours, results)
        told = "" if results is ours else f"{over:+.3f} ± {spread:.3f}"
        epochs = float(np.mean([r["epochs"] for r in results]))
        size = results[0]["parameters"]
        lines.append([name, contestant, f"{size:,}", f"{epochs:.0f}", f"{test:.3f} ± {stderr:.3f}", told])
        numbers[contestant] = {"test": test, "stderr": stderr, "ours_over_it": over, "ours_over_it_stderr": spread}
    return lines, numbers


def chosen(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Whom the next seed runs: of each library the one that validated best with the first seed; all, before it."""
    if not all(results.values()):
        return list(results)
    best: dict[str, str] = {}
    for name in results:
        library = name.split()[0]
        if library not in best or results[name][0]["valid"] > results[best[library]][0]["valid"]:
            best[library] = name
    return list(best.values())


def main() -> None:
    options = arguments(
        __doc__, tables=TABLES, seeds="0,1,2", seconds=90.0, rate=RATE, work="runs/flow_tables", quick=False
    )
    torch.set_num_threads(1)
    torch.distributions.Distribution.set_default_validate_args(False)
    warnings.filterwarnings("ignore", category=UserWarning)  # normflows, of its own softmax
    seconds = 2.0 if options.quick else options.seconds
    seeds = [0] if options.quick else [int(seed) for seed in options.seeds.split(",")]
    tables = options.tables.split(",")
    minutes = len(tables) * len(seeds) * len(CONTESTANTS) * seconds * 1.15 / 60
    print(f"{len(tables)} tables, {len(seeds)} seeds, {len(CONTESTANTS)} contestants, {seconds:g} s: {minutes:.0f} min")
    lines: list[list[str]] = []
    numbers: dict[str, Any] = {}
    cells: list[dict[str, Any]] = []
    for table in tables:
        data = load_data(table)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
        for seed in seeds:
            for name in chosen(results):
                results[name].append(cell(Path(options.work), data, name, seed, seconds, options.rate))
        results = {name: results[name] for name in chosen(results)}
        more, numbers[data.name] = summary(data.name, results)
        lines += more
        cells += [{k: v for k, v in r.items() if k != "rows"} for found in results.values() for r in found]
    about = (
        f"Test log-likelihood in nats, mean of {len(seeds)} seeds, after {seconds:g} seconds of one core in training; "
        f"± is one standard error. The last column is what jensen is better by, paired row by row; its standard error "
        f"is that of rows and seeds together."
    )
    extra = {
        "seeds": seeds,
        "seconds": seconds,
        "rate": options.rate,
        "batch": BATCH,
        "clip": CLIP,
        "versions": {name: metadata.version(name) for name in ("jensen", "zuko", "normflows")},
        "numbers": numbers,
        "cells": cells,
    }
    keep_table(
        options.out, about, ["table", "flow", "parameters", "epochs", "test, nats", "jensen over it"], lines, extra
    )


if __name__ == "__main__":
    main()
