"""Training throughput of flows of tables, D = 21, 5 layers, networks 128-128, batch 512: ours and others, in turn.

    python benchmarks/flow_training.py [--rounds 10] [--kinds realnvp,maf,spline-coupling,spline-autoregressive]
        [--out benchmarks/results] [--quick]

A whole step counts: density, gradient, Adam. Networks have the same shape in every library, and parameters the same
number (it is printed). One result a kind of flow is kept, `flow_training_KIND.json`.

- **jensen**: the trainer that `jensen train` runs, in the middle of a run, with logging and averaged weights;
  validation is on a single row, to compare like with like. `compiled` is the same with the whole flow compiled;
  the compilation itself falls into the warm-up.
- **zuko, nflows, normflows** (extra `bench`): a plain loop over tensors with a fused Adam, arguments unchecked.

Each contestant has a process of its own, and every process keeps freed memory, as `jensen train` does. Rows are drawn
from a normal distribution: the work does not depend on what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness import arguments, interleave_processes, keep
from jensen.cli.memory import keep_freed_memory
from jensen.core import Model, seeded
from jensen.data import Schema, TensorSplit
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer
from middle import in_the_middle
from peers.flows import KINDS, LIBRARIES, Peer, Shape, peers, versions, without_checks

DIMS, BATCH, STEPS = 21, 512, 40


def settings_of(kind: str, shape: Shape) -> tuple[str, dict[str, Any]]:
    """Name and settings of our model of a kind, without the normalisation between layers that others do not have."""
    common = {"layers": shape.layers, "hidden": list(shape.hidden), "activation": "relu", "normalize": False}
    spline = {"map": "spline", "bins": shape.bins}
    return {
        "realnvp": ("realnvp", common),
        "spline-coupling": ("realnvp", {**common, **spline}),
        "maf": ("maf", common),
        "spline-autoregressive": ("maf", {**common, **spline, "tails": shape.bound}),
    }[kind]


def our_model(kind: str, shape: Shape, more: dict[str, Any] | None = None) -> Model:
    name, settings = settings_of(kind, shape)
    settings |= more or {}
    with seeded(0):
        schema = Schema.of_table(rows(1000, shape.dims).numpy(), [f"x{i}" for i in range(shape.dims)])
        return build(name, schema, settings)


def rows(n: int, dims: int) -> Tensor:
    """Standardised data, (n, D)."""
    torch.manual_seed(0)
    return torch.randn(n, dims)


def ours(kind: str, shape: Shape, steps: int, compiled: bool) -> Callable[[], int]:
    """The real trainer, in the middle of a run of 100 epochs; an epoch a round."""
    keep_freed_memory()
    n = steps * BATCH
    settings = training_settings({"epochs": 100, "batch_size": BATCH, "compile": compiled})
    trainer = Trainer(our_model(kind, shape), *(TensorSplit(rows(k, shape.dims)) for k in (n, 1)), settings)
    return in_the_middle(trainer)


def theirs(library: str, kind: str, shape: Shape, steps: int) -> Callable[[], int]:
    """A plain loop: tensors, fused Adam, nothing else."""
    keep_freed_memory()
    without_checks()
    torch.manual_seed(0)
    peer: Peer = LIBRARIES[library](kind, shape)
    data = rows(steps * BATCH, shape.dims)
    optimizer = torch.optim.Adam(peer.module.parameters(), 1e-3, fused=True)

    def work() -> int:
        for index in torch.randperm(len(data)).split(BATCH):
            loss = -peer.log_prob(data.index_select(0, index)).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return len(data)

    return work


def main() -> None:
    options = arguments(__doc__, rounds=10, kinds=",".join(KINDS), quick=False)
    rounds, steps = (1, 2) if options.quick else (options.rounds, STEPS)
    shape = Shape(DIMS)
    for kind in options.kinds.split(","):
        sizes = {"jensen": sum(p.numel() for p in our_model(kind, shape).parameters())}
        contestants: dict[str, Any] = {
            "jensen": (ours, (kind, shape, steps, False)),
            "jensen compiled": (ours, (kind, shape, steps, True)),
        }
        for library in LIBRARIES:
            contestants[library] = (theirs, (library, kind, shape, steps))
        sizes |= {name: peer.size for name, peer in peers(kind, shape).items()}
        print(f"\n{kind}; parameters: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
        table = interleave_processes(contestants, rounds, unit="rows/s")
        path = options.out / f"flow_training_{kind}.json" if options.out else None
        mine = [name for name in table["rates"] if name.startswith("jensen")]
        about = {"dims": DIMS, "layers": shape.layers, "hidden": list(shape.hidden), "bins": shape.bins, "batch": BATCH}
        keep(path, table, mine, {**about, "parameters": sizes, "versions": versions(), "seed": 0})


if __name__ == "__main__":
    main()
