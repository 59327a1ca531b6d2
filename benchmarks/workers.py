"""Training throughput of several workers, one thread each, beside one process of one thread and of as many threads.

    python benchmarks/workers.py [--rounds 10] [--workers 2] [--models "a;b"] [--out benchmarks/results/workers.json]

The trainer that `jensen train` runs, in the middle of a run; each contestant has processes of its own, in turn. Data
are drawn at random: the work does not depend on what they show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness import arguments, interleave_processes, keep_table, ratio
from jensen.cli.memory import keep_freed_memory
from jensen.core import seeded
from jensen.data import Schema, TensorSplit
from jensen.jobs.train import load_preset
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer
from middle import in_the_middle

PICTURES = Schema.of_pictures((1, 28, 28), levels=2)
COLUMNS = 21


class Work(NamedTuple):
    """A model, data in a step, steps in a round."""

    model: str
    settings: dict[str, Any]
    batch: int
    steps: int
    table: bool = False


FLOW = {"layers": 5, "hidden": [128, 128]}
PIXELCNN = {k: v for k, v in load_preset("pixelcnn-binarized-mnist")["settings"].items() if not k.startswith("train.")}
MLP = {"latents": 20, "encoder.hidden": [400], "decoder.hidden": [400]}
WORKS = {
    "maf, 512 rows": Work("maf", FLOW, 512, 40, True),
    "maf, 4,096 rows": Work("maf", FLOW, 4096, 8, True),
    "spline maf, 512 rows": Work("maf", {**FLOW, "map": "spline"}, 512, 20, True),
    "spline maf, 4,096 rows": Work("maf", {**FLOW, "map": "spline"}, 4096, 4, True),
    "vae 784-400-20, 128 digits": Work("vae", MLP, 128, 200),
    "vae 784-400-20, 1,024 digits": Work("vae", MLP, 1024, 40),
    "convolutional vae, 128 digits": Work("vae", {"encoder": "conv", "decoder": "conv", "latents": 20}, 128, 10),
    "made, 8,000 units, 100 digits": Work("made", {"hidden": [8000]}, 100, 10),
    "pixelcnn, preset, 16 digits": Work("pixelcnn", PIXELCNN, 16, 10),
}


def data(work: Work, n: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(n, COLUMNS) if work.table else (torch.rand(n, 1, 28, 28) < 0.13).float()


def contestant(name: str, workers: int, threads: int) -> Callable[[], int]:
    torch.set_num_threads(threads)
    keep_freed_memory()
    work = WORKS[name]
    x = data(work, work.steps * work.batch)
    schema = Schema.of_table(x[:1000].numpy(), [f"x{i}" for i in range(COLUMNS)]) if work.table else PICTURES
    with seeded(0):
        model = build(work.model, schema, work.settings)
    settings = training_settings({"epochs": 10_000, "batch_size": work.batch, "workers": workers})
    return in_the_middle(Trainer(model, TensorSplit(x), TensorSplit(x[:2]), settings))


def main() -> None:
    options = arguments(__doc__, rounds=10, workers=2, models=";".join(WORKS))
    n, lines, rates = options.workers, [], {}
    for name in options.models.split(";"):
        contestants: dict[str, Any] = {
            "one thread": (contestant, (name, 1, 1)),
            f"{n} threads": (contestant, (name, 1, n)),
            f"{n} workers": (contestant, (name, n, 1)),
        }
        print(f"\n{name}")
        found = interleave_processes(contestants, options.rounds, unit="data/s")["rates"]
        rates[name] = {key: [round(rate, 1) for rate in values] for key, values in found.items()}
        medians = [torch.tensor(values).median().item() for values in found.values()]
        gains = [ratio(found, f"{n} workers", other) for other in ("one thread", f"{n} threads")]
        lines.append([name, *(f"{rate:,.0f}" for rate in medians), *(f"{gain:.2f}" for gain in gains)])
    columns = ["", "one thread", f"{n} threads", f"{n} workers", "× by workers, of one thread", f"of {n} threads"]
    keep_table(options.out, "Data a second in training", columns, lines, {"rounds": options.rounds, "rates": rates})


if __name__ == "__main__":
    main()
