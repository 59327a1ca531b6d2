"""The self-supervised VAE beside VAEs, each given the same processor time, in bits per dimension.

    python benchmarks/self_vae.py [--data cifar10_subset] [--minutes 30] [--folder runs/self-vae]
        [--out benchmarks/results/self_vae.json] [--picture docs/_static/self_vae.png] [--rows 0]

Time is processor time of one thread: epochs of all are timed in turn on a part of the data, so that a busy machine does
not decide, and as many are trained as fit. The plan and the runs are kept in the folder: started again, the benchmark
goes on where it was. Scores are importance-weighted bounds on test pictures (`JENSEN_DATA`), and differences are those
of the same pictures, with the standard error of their mean. The pictures are, of each model with a view: data, and what
it makes of their views alone, on average and in a draw. `--rows` trains on the first so many data, to try it out.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import arguments, keep_table
from jensen.cli.memory import keep_freed_memory
from jensen.cli.writing import write_result
from jensen.data import Dataset, load_data
from jensen.jobs.given import views_of
from jensen.jobs.run import Run, open_run
from jensen.jobs.train import train
from jensen.units import bits_per_dim

BATCH, RATE, TIMED, ROUNDS, SHOWN = 32, 2e-3, 320, 3, 10
FIRST = "vae, convolutional"
CONV = {"encoder": "conv", "decoder": "conv"}
CONTESTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    FIRST: ("vae", {"latents": 128, **CONV}),
    "vae, residual": ("vae", {"latents": 128, "encoder": "resnet", "decoder": "resnet"}),
    "self-vae, downscale": ("self-vae", {}),
    "self-vae, downscale, no z": ("self-vae", {"details": 0}),
    "self-vae, downscale twice": ("self-vae", {"depth": 2}),
    "self-vae, sketch": ("self-vae", {"view": "sketch"}),
}


def plan(data: Dataset, minutes: float, folder: Path) -> dict[str, dict[str, float]]:
    """How many epochs of each fit into so many minutes of processor time: by the median over rounds in which each is
    timed in turn, on a part of the training data. Made once for a folder."""
    kept = folder / "plan.json"
    if kept.exists():
        found = json.loads(kept.read_text())
        if found["minutes"] != minutes or found["data"] != data.name:
            begun = f"{found['minutes']} minutes of {found['data']}"
            raise SystemExit(f"{folder} was begun with {begun}; name another folder")
        return found["plan"]
    part = data.split("train").rows(np.arange(min(TIMED, len(data.split("train")))))
    few = Dataset(data.name, data.schema, {"train": part})
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(ROUNDS):
        for name, (model, settings) in CONTESTANTS.items():
            took = []
            for epochs in (1, 3):
                began = time.process_time()
                train(model, few, settings=settings, epochs=epochs, lr=RATE, batch_size=BATCH)
                took.append(time.process_time() - began)
            times[name].append((took[1] - took[0]) / 2 / len(part))
    more = 1 + len(data.splits.get("valid", ())) / len(data.split("train")) / 3  # a validation has no backward pass
    each = {name: statistics.median(t) * len(data.split("train")) * more / 60 for name, t in times.items()}
    made = {n: {"epochs": max(1, round(minutes / each[n])), "minutes_an_epoch": each[n]} for n in CONTESTANTS}
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"minutes": minutes, "data": data.name, "plan": made}, indent=1))
    return made


def trained(name: str, data: Dataset, epochs: int, seed: int, folder: Path) -> Run:
    """The run of a contestant: opened, gone on with, or begun."""
    model, settings = CONTESTANTS[name]
    at = folder / name.replace(", ", "-").replace(" ", "-")
    options: dict[str, Any] = {"epochs": epochs, "lr": RATE, "batch_size": BATCH, "seed": seed}
    if (at / "spec.yaml").exists():
        train(model, data, out=at, settings=settings, resume=True, **options)
        return open_run(at)
    return train(model, data, out=at, settings=settings, **options)


def enlarged(run: Run, data: Dataset) -> list[np.ndarray]:
    """Rows of pictures: test data, and what the model makes of their views alone."""
    test = data.split("test")
    few = Dataset(data.name, data.schema, {"test": test.rows(run.pick(test, SHOWN))})
    (name, *_) = views_of(run.model)
    means, drawn = (run.reconstruct(few, only=name, mean=mean) for mean in (True, False))
    return [few.split("test").x.astype(np.float32), means.astype(np.float32), drawn.astype(np.float32)]


def main() -> None:
    defaults = {"data": "cifar10_subset", "minutes": 30.0, "seed": 0, "folder": "runs/self-vae", "rows": 0}
    options = arguments(__doc__, **defaults, particles=64, limit=500, picture="")
    torch.set_num_threads(1)
    keep_freed_memory()
    data, folder = load_data(options.data), Path(options.folder)
    if options.rows:
        splits = {name: part.rows(np.arange(min(options.rows, len(part)))) for name, part in data.splits.items()}
        data = Dataset(data.name, data.schema, splits)
    planned, lines, numbers, rows, drawn = plan(data, options.minutes, folder), [], {}, {}, []
    for name in CONTESTANTS:
        epochs, each = int(planned[name]["epochs"]), planned[name]["minutes_an_epoch"]
        run = trained(name, data, epochs, options.seed, folder)
        elbo = run.score(data, estimator="elbo", particles=4, limit=options.limit)
        iw = run.score(data, particles=options.particles, limit=options.limit)
        assert iw.rows is not None and iw.bits_per_dim is not None and elbo.bits_per_dim is not None
        rows[name] = bits_per_dim(iw.rows.double(), data.schema.dims)
        apart = rows[name] - rows[FIRST]
        stderr = apart.std().item() / math.sqrt(len(apart)) if name != FIRST else 0.0
        size = sum(p.numel() for p in run.model.parameters())
        told = [f"{elbo.bits_per_dim:.4f}", f"{iw.bits_per_dim:.4f}", f"{apart.mean():+.4f} ± {stderr:.4f}"]
        lines.append([name, f"{size:,}", f"{epochs}", f"{epochs * each:.1f}", *told])
        print("  ".join(lines[-1]), flush=True)
        numbers[name] = {
            "parameters": size, "epochs": epochs, "cpu_minutes": epochs * each, "settings": CONTESTANTS[name][1],
            "elbo": elbo.to_dict(), "iw": iw.to_dict(), "difference": apart.mean().item(), "difference_stderr": stderr,
            "curve": [[line["epoch"], line["valid"]["elbo"]] for line in run.log],
        }  # fmt: skip
        if views_of(run.model):
            drawn += enlarged(run, data)
    if options.picture:
        write_result(options.picture, np.concatenate(drawn), levels=data.schema.levels or 256, across=SHOWN)
    about = (
        f"{data.name}: each model is given as many epochs as take {options.minutes:g} minutes of processor time of one "
        f"thread, by the median of {ROUNDS} rounds in which epochs of all were timed in turn. Bits per dimension of "
        f"{options.limit:,} test pictures at random, upper bounds, the second with {options.particles} particles; and "
        f"the latter less that of the first row, of the same pictures, ± one standard error. Lower is better."
    )
    columns = ["model", "parameters", "epochs", "minutes", "ELBO, bits/dim", "IW, bits/dim", "difference"]
    extra = {"numbers": numbers, "seed": options.seed, "batch_size": BATCH, "lr": RATE}
    keep_table(options.out, about, columns, lines, extra)


if __name__ == "__main__":
    main()
