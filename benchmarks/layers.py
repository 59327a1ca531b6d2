"""Five stochastic layers, inferred from the bottom up and from the top down: which of them are used.

    python benchmarks/layers.py [--data binarized-mnist] [--epochs 60] [--folder runs/layers] [--only "ladder"]
        [--out benchmarks/results/layers.json]

The same networks, no way past a layer (`skip=false`), the same warm-up. Of the test set: the ELBO, of its first 2,000
the KL divergence of each layer, on average, and in how many of its dimensions the posterior means move, and of some at
random the importance-weighted bound. Interrupted, it goes on where it stopped; rows that the file already holds, if
measured alike, stay in it. Needs its data (`JENSEN_DATA`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from harness import arguments, keep_table
from jensen.cli.memory import keep_freed_memory
from jensen.core import seeded
from jensen.data import load_data
from jensen.jobs.latent_health import collapse
from jensen.jobs.run import Run, open_run
from jensen.jobs.train import train

FIRST = 2000  # test data whose layers are looked at
SIZES = [64, 32, 16, 8, 4]
BETWEEN = {"name": "gated", "hidden": [300]}
SHARED: dict[str, Any] = {
    "latents": SIZES,
    "decoder": {"name": "gated", "hidden": [300, 300]},
    "upward": BETWEEN,
    "downward": BETWEEN,
    "objective": {"name": "elbo", "warmup": 0.5},
    "train.batch_size": 100,
    "train.schedule": "cosine",
}
CONTESTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "hvae": ("hvae", {"encoder": {"name": "gated", "hidden": [300, 300], "input_dropout": 0.2}}),
    "ladder": ("ladder", {"encoder": {**BETWEEN, "input_dropout": 0.2}, "features": 300}),
    "ladder, no batch norm": (
        "ladder",
        {"encoder": {**BETWEEN, "input_dropout": 0.2}, "features": 300, "batch_norm": False},
    ),
    "ladder, free bits": (
        "ladder",
        {
            "encoder": {**BETWEEN, "input_dropout": 0.2},
            "features": 300,
            "objective": {**SHARED["objective"], "free_bits": 1.0, "free_bits_each": "layer"},
        },
    ),
}


def trained(name: str, data: str, epochs: int, seed: int, folder: Path) -> Run:
    """The run of a contestant: opened, gone on with, or begun."""
    model, own = CONTESTANTS[name]
    at, told = folder / name.replace(", ", "-").replace(" ", "-"), {"settings": {**SHARED, **own}, "epochs": epochs}
    if (at / "spec.yaml").exists():
        train(model, data, out=at, seed=seed, resume=True, **told)
        return open_run(at)
    return train(model, data, out=at, seed=seed, **told)


@torch.no_grad()
def used(run: Run, data: Any) -> list[dict[str, float]]:
    """KL and active units of each layer, from the data upwards, of the first test data."""
    test = run.schema.prepare(data.split("test").x[:FIRST]).to(run.device)
    with seeded(0, run.device):
        found = collapse(run.model.eval(), {"x": test})
    assert found is not None
    layers = found.evidence["layers"]
    return [layers[f"z{level}"] for level in range(1, len(SIZES) + 1)]


def main() -> None:
    defaults = {"data": "binarized-mnist", "epochs": 60, "seed": 0, "folder": "runs/layers", "only": ""}
    options = arguments(__doc__, **defaults, particles=500, limit=1000)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data, lines, numbers = load_data(options.data), [], {}
    for name in options.only.split(";") if options.only else CONTESTANTS:
        run = trained(name, options.data, options.epochs, options.seed, Path(options.folder))
        layers, elbo = used(run, data), run.score(data, estimator="elbo")
        iw = run.score(data, particles=options.particles, limit=options.limit)
        told = [f"{layer['kl']:.2f} ({layer['active_units']} of {layer['units']})" for layer in layers]
        lines.append([name, *told, f"{elbo.nats:.2f}", f"{iw.nats:.2f} ± {iw.stderr:.2f}"])
        print("  ".join(lines[-1]), flush=True)
        numbers[name] = {
            "layers": layers, "elbo": elbo.to_dict(), "iw": iw.to_dict(),
            "settings": {**SHARED, **CONTESTANTS[name][1]},
        }  # fmt: skip
    about = (
        f"{options.data}, five layers, {options.epochs} epochs: of {FIRST:,} test data the KL divergence of "
        "each layer in nats, with how many of its dimensions are active; of the test set the ELBO, and of "
        f"{options.limit:,} of it the importance-weighted bound with {options.particles} particles, ± one standard "
        "error. Higher is better."
    )
    heads = [f"z{level}" for level in range(1, len(SIZES) + 1)]
    columns = ["model", *heads, "ELBO, nats", "IW, nats"]
    if options.out is not None and options.out.exists():  # rows of others that were measured so before
        before = json.loads(options.out.read_text())
        if before["table"]["about"] == about:
            lines = [row for row in before["table"]["rows"] if row[0] not in numbers] + lines
            numbers = before["numbers"] | numbers
    keep_table(options.out, about, columns, lines, {"numbers": numbers, "seed": options.seed})


if __name__ == "__main__":
    main()
