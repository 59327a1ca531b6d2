"""Hierarchies, models of views and of codes, and diffusion: training throughput and memory, in turn, in one run.

    python benchmarks/deep_models.py [--rounds 5] [--batch 64] [--batches 4] [--out benchmarks/results/deep_models.json]

Grey pictures of 28 × 28 drawn at random, float32, every model as it comes: the real trainer, each contestant
in a process of its own, a first stage where there are two. Rates are data a second, medians over rounds. Memory is the
peak of resident memory over the rounds, beyond what the process held before its first step.
"""

from __future__ import annotations

import os
import resource
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness import arguments, interleave_processes, keep_table, ratio
from jensen.core import seeded
from jensen.data import Schema, TensorSplit
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer
from middle import in_the_middle

SCHEMA = Schema.of_pictures((1, 28, 28))
PLAIN = "vae"
DEEPEST = {"layers": [8, 12, 12, 12]}
CONTESTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("vae", {}),
    "vae, convolutional": ("vae", {"encoder": "conv", "decoder": "conv"}),
    "hvae, 2 layers": ("hvae", {}),
    "ladder, 2 layers": ("ladder", {}),
    "ladder, 5 layers": ("ladder", {"latents": [64, 32, 16, 8, 4]}),
    "very-deep, 20 layers": ("very-deep", {}),
    "very-deep, 44 layers": ("very-deep", DEEPEST),
    "very-deep, 44 layers, light": ("very-deep", {**DEEPEST, "light": True}),
    "self-vae, downscale": ("self-vae", {}),
    "vqvae": ("vqvae", {}),
    "vqvae2": ("vqvae2", {}),
    "diffusion": ("diffusion", {}),
}


def contestant(name: str, settings: dict[str, Any], batch: int, batches: int, where: str) -> Callable[[], int]:
    """So many batches of the trainer, in the middle of a run; the memory that they took is written to a file."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (batch * batches, 1, 28, 28)).float()
    with seeded(0):
        model = build(name, SCHEMA, settings)
    trainer = Trainer(
        model, TensorSplit(x), TensorSplit(x[:1]), training_settings({"epochs": 10_000, "batch_size": batch})
    )
    epoch = in_the_middle(trainer)
    before = resident()

    def work() -> int:
        done = epoch()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        Path(where).write_text(f"{peak - before} {sum(p.numel() for p in model.parameters())}")
        return done

    return work


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    import tempfile

    options = arguments(__doc__, rounds=5, batch=64, batches=4)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / f"{i}") for i, name in enumerate(CONTESTANTS)}
        table = interleave_processes(
            {
                name: (contestant, (*given, options.batch, options.batches, files[name]))
                for name, given in CONTESTANTS.items()
            },
            options.rounds,
            unit="data/s",
        )
        noted = {name: [float(v) for v in Path(file).read_text().split()] for name, file in files.items()}
    lines, kept = [], {}
    for name in CONTESTANTS:
        rate, cost = statistics.median(table["rates"][name]), ratio(table["rates"], PLAIN, name)
        memory, size = noted[name]
        kept[name] = {"data_per_second": rate, "plain_steps": cost, "mib": memory, "parameters": int(size)}
        lines.append([name, f"{size / 1e6:.2f}", f"{rate:,.0f}", f"{cost:.1f}", f"{memory:,.0f}"])
    about = f"Training throughput and memory on grey pictures of 28 × 28, batches of {options.batch}."
    columns = ["model", "million weights", "data/s", "steps of the first", "MiB"]
    extra = {"contestants": kept, "rounds": options.rounds, "batch": options.batch, "seed": 0}
    keep_table(options.out, about, columns, lines, {**extra, "rates": table["rates"]})


if __name__ == "__main__":
    main()
