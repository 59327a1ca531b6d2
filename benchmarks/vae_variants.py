"""Training throughput of the VAE family against the plain VAE, in turn, in one run.

    python benchmarks/vae_variants.py [--rounds 5] [--latents 40] [--hidden 300] [--particles 5] [--batches 40]
        [--out benchmarks/results/vae_variants.json]

784-300-300-40, batch 128, float32, binary pictures drawn at random: the real trainer, each contestant in a process of
its own. Rates are data a second; the last column says how many steps of the plain VAE one of the variant's costs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from harness import arguments, interleave_processes, keep, ratio
from jensen.cli.memory import keep_freed_memory
from jensen.core import seeded
from jensen.data import Schema, TensorSplit
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer
from middle import in_the_middle

BATCH = 128
SCHEMA = Schema.of_pictures((1, 28, 28), levels=2)
PLAIN = "normal prior, diagonal posterior, elbo"


def variants(particles: int) -> dict[str, dict[str, Any]]:
    """Settings of the VAE by name."""
    priors = {
        "vamp, 500 pseudo-inputs": {"prior": "vamp", "prior.components": 500},
        "aggregated, 500 data": {"prior": "aggregated", "prior.components": 500},
        "mixture of 10": {"prior": "mixture"},
        "flow (realnvp)": {"prior": "flow"},
        "autoregressive (made)": {"prior": "autoregressive"},
    }
    posteriors = {
        "full": {"posterior": "full"},
        "low-rank": {"posterior": "low-rank"},
        **{f"flow ({flow})": {"posterior": "flow", "posterior.flow": flow} for flow in FLOWS},
    }
    objectives = {
        f"iw, {particles} particles": {"objective": "iw", "objective.particles": particles},
        "sticking the landing": {"objective.kl": "sticking-the-landing"},
        **{name: {"objective": name} for name in ("beta-tcvae", "factor-vae", "dip-vae", "capacity")},
    }
    found = {PLAIN: {}}
    found |= {f"prior: {name}": settings for name, settings in priors.items()}
    found |= {f"posterior: {name}": settings for name, settings in posteriors.items()}
    return found | {f"objective: {name}": settings for name, settings in objectives.items()}


FLOWS = ("planar", "radial", "householder", "sylvester", "iaf", "spline")


def contestant(settings: dict[str, Any], latents: int, hidden: int, batches: int) -> Callable[[], int]:
    """So many batches of the trainer, in the middle of a run."""
    keep_freed_memory()
    torch.manual_seed(0)
    x = (torch.rand(batches * BATCH, 1, 28, 28) < 0.13).float()
    sizes = {"latents": latents, "encoder.hidden": [hidden, hidden], "decoder.hidden": [hidden, hidden]}
    with seeded(0):
        model = build("vae", SCHEMA, {**sizes, **settings})
    training = training_settings({"epochs": 10_000, "batch_size": BATCH})
    trainer = Trainer(model, TensorSplit(x), TensorSplit(x[:1]), training)
    return in_the_middle(trainer)


def main() -> None:
    options = arguments(__doc__, rounds=5, latents=40, hidden=300, particles=5, batches=40)
    sizes = options.latents, options.hidden, options.batches
    found = variants(options.particles)
    table = interleave_processes(
        {name: (contestant, (settings, *sizes)) for name, settings in found.items()}, options.rounds, unit="data/s"
    )
    cost = {name: round(ratio(table["rates"], PLAIN, name), 3) for name in found}
    for name, times in cost.items():
        print(f"{name:42} {statistics.median(table['rates'][name]):10,.0f}  {times:6.2f} plain steps")
    shape = {"latents": options.latents, "hidden": [options.hidden] * 2, "batch": BATCH}
    keep(options.out, table, PLAIN, {"cost_in_plain_steps": cost, **shape, "seed": 0})


if __name__ == "__main__":
    main()
