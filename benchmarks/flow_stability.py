"""Every discrete flow on heavy tails: 10,000 steps at learning rate 1e-3, and what is finite after them.

    OMP_NUM_THREADS=1 python benchmarks/flow_stability.py [--steps 10000] [--flows "nice;realnvp;..."] [--seed 0]
        [--out benchmarks/results/flow_stability.json] [--quick]

The data are 64,000 rows of a Student-t of 2 degrees of freedom, in 5 dependent columns, as they come: their variance is
infinite, so that the standardised rows hold both a crowd at 0 and values a hundred deviations away. Each flow is
trained as `jensen train` does it, in batches of 128, with a learning rate that rises for 1 % of the steps and then
stays, without clipping, and a normal base, which has no such tails. The trainer looks at the loss of every step and
stops at the first that is not finite.

Test rows are 20,000 others. Their log-likelihood is told beside the true one of `scipy.stats.multivariate_t`, as a mean
and as a median of what each row is off by: a handful of rows rules the mean, for a normal tail takes r² / 2 nats for
what the truth pays log r. The round trip is x → z → x, the largest |x' − x| / (1 + |x|) of any value, in float32 and
in float64.
"""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import numpy as np
import torch
from scipy.stats import multivariate_t

from harness import arguments, keep_table
from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import TrainingError
from jensen.jobs.train import train

DIMS, DF, BATCH, RATE = 5, 2.0, 128, 1e-3
ROWS, VALID, TEST = 64_000, 2_000, 20_000
SMALL = {"hidden": [32, 32]}
FLOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "nice": ("nice", {**SMALL}),
    "realnvp": ("realnvp", {"layers": 6, **SMALL}),
    "realnvp, splines": ("realnvp", {"layers": 6, "map": "spline", **SMALL}),
    "glow": ("glow", {"layers": 6, **SMALL}),
    "maf": ("maf", {**SMALL}),
    "maf, splines": ("maf", {"map": "spline", **SMALL}),
    "spline": ("spline", {"layers": 4, **SMALL}),
    "iaf": ("iaf", {"layers": 2, **SMALL}),
    "planar": ("planar", {"layers": 8}),
    "radial": ("radial", {"layers": 8}),
    "sylvester": ("sylvester", {}),
}


def heavy(seed: int) -> tuple[Dataset, Any]:
    """Rows of a multivariate t, and its true density."""
    rng = np.random.default_rng(seed)
    root = np.tril(rng.normal(size=(DIMS, DIMS)), -1) + np.diag(np.arange(1.0, DIMS + 1))
    truth = multivariate_t(loc=np.zeros(DIMS), shape=root @ root.T, df=DF)
    x = truth.rvs(ROWS + VALID + TEST, random_state=rng)
    names = [f"x{i}" for i in range(DIMS)]
    parts = {"train": x[:ROWS], "valid": x[ROWS : ROWS + VALID], "test": x[ROWS + VALID :]}
    schema = Schema.of_table(parts["train"], names)
    return Dataset("student-t(2)", schema, {name: Split(rows) for name, rows in parts.items()}), truth


@torch.no_grad()
def densities(model: Model, schema: Schema, x: np.ndarray) -> np.ndarray:
    """log p of each row in the user's units."""
    found = [model.evidence({"x": rows}).log_w[0].double() for rows in schema.prepare(x).split(2000)]
    return torch.cat(found).numpy() + schema.log_jacobian


@torch.no_grad()
def round_trip(model: Model, x: torch.Tensor) -> float:
    """The largest relative error of x → z → x, of prepared rows."""
    flow, worst = model.p["x"].module(), 0.0
    for rows in x.split(2000):
        again = flow.from_base(flow.to_base(rows)[0])[0]
        worst = max(worst, float(((again - rows).abs() / (1 + rows.abs())).max()))
    return worst


def trained(name: str, data: Dataset, truth: Any, steps: int, seed: int) -> dict[str, Any]:
    model, settings = FLOWS[name]
    epochs = max(1, round(steps * BATCH / len(data.split("train"))))
    common = {"batch_size": BATCH, "lr": RATE, "schedule": "constant", "clip": 0.0, "keep": "last", "seed": seed}
    began = time.perf_counter()
    try:
        run = train(model, data, settings={**settings, "train": {**common, "epochs": epochs, "threads": 1}})
    except TrainingError as e:
        return {"finite": False, "error": str(e), "seconds": time.perf_counter() - began}
    seconds = time.perf_counter() - began
    built = run.model.eval()
    out: dict[str, Any] = {"settings": run.spec["settings"], "steps": run.log[-1]["step"], "seconds": seconds}
    out |= {"finite": True, "parameters": sum(p.numel() for p in built.parameters())}
    for part in ("train", "test"):
        x = data.split(part).x[:TEST]
        log_p = densities(built, data.schema, x)
        off = truth.logpdf(x) - log_p
        out |= {
            part: float(log_p.mean()),
            f"{part}_true": float(truth.logpdf(x).mean()),
            f"{part}_median_off": float(np.median(off)),
            f"{part}_not_finite": int((~np.isfinite(log_p)).sum()),
        }
    prepared = data.schema.prepare(data.split("test").x)
    out["round_trip_float32"] = round_trip(built, prepared)
    out["round_trip_float64"] = round_trip(copy.deepcopy(built).double(), prepared.double())
    with seeded(seed), torch.no_grad():
        drawn = built.sample(TEST)["x"]
    out["samples_not_finite"] = int((~torch.isfinite(drawn)).sum())
    return out


def main() -> None:
    options = arguments(__doc__, steps=10_000, flows=";".join(FLOWS), seed=0, quick=False)
    torch.set_num_threads(1)
    steps = 500 if options.quick else options.steps
    data, truth = heavy(options.seed)
    largest = float(data.schema.prepare(data.split("train").x).abs().max())
    results, lines = {}, []
    for name in options.flows.split(";"):
        found = results[name] = trained(name, data, truth, steps, options.seed)
        if not found["finite"]:
            lines.append([name, "no", *[""] * 7])
            print(f"{name}: {found['error']}", flush=True)
            continue
        lost = found["test_not_finite"] + found["train_not_finite"] + found["samples_not_finite"]
        lines.append(
            [
                name,
                "yes" if not lost else f"not {lost} rows",
                f"{found['steps']:,}",
                f"{found['train']:.2f}",
                f"{found['test']:.2f}",
                f"{found['test_median_off']:.3f}",
                f"{found['round_trip_float32']:.0e}",
                f"{found['round_trip_float64']:.0e}",
                f"{found['seconds']:.0f}",
            ]
        )
        print("  ".join(lines[-1]), flush=True)
    true = next((f for f in results.values() if f["finite"]), {})
    about = (
        f"Flows after {steps:,} steps at learning rate {RATE:g} on a Student-t of 2 degrees of freedom in {DIMS} "
        f"columns, whose standardised values reach {largest:.0f}: whether all was finite, and log-likelihoods in nats, "
        f"of which the true ones are {true.get('train_true', math.nan):.2f} and {true.get('test_true', math.nan):.2f}."
    )
    columns = ["flow", "finite", "steps", "train", "test", "median row off by", "round trip", "in float64", "seconds"]
    extra = {"seed": options.seed, "rate": RATE, "batch": BATCH, "largest": largest, "flows": results}
    keep_table(options.out, about, columns, lines, extra)


if __name__ == "__main__":
    main()
