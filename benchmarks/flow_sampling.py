"""Sampling speed of flows of tables, D = 21, 5 layers, networks 128-128: this package and others, in turn.

    python benchmarks/flow_sampling.py [--rounds 10] [--kinds realnvp,maf,spline-coupling,spline-autoregressive]
        [--rows 2048] [--out benchmarks/results] [--quick]

An autoregressive flow is sampled column by column in every layer; others run their whole network for each column. Each
contestant has a process of its own, and draws ten times in a round, so that it does not matter who came before. One
result a kind is kept, `flow_sampling_KIND.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from flow_training import DIMS, our_model, rows
from harness import arguments, interleave_processes, keep
from jensen.cli.memory import keep_freed_memory
from peers.flows import KINDS, LIBRARIES, Shape, peers, versions, without_checks

DRAWS = 10  # a round


def ours(kind: str, shape: Shape, n: int) -> Callable[[], int]:
    keep_freed_memory()
    model = our_model(kind, shape)
    model.initialize({"x": rows(1000, shape.dims)})
    model.eval()

    @torch.no_grad()
    def work() -> int:
        return sum(len(model.sample(n)["x"]) for _ in range(DRAWS))

    return work


def theirs(library: str, kind: str, shape: Shape, n: int) -> Callable[[], int]:
    keep_freed_memory()
    without_checks()
    torch.manual_seed(0)
    peer = LIBRARIES[library](kind, shape)
    peer.module.eval()

    @torch.no_grad()
    def work() -> int:
        return sum(len(peer.sample(n)) for _ in range(DRAWS))

    return work


def main() -> None:
    options = arguments(__doc__, rounds=10, kinds=",".join(KINDS), rows=2048, quick=False)
    rounds, n = (1, 16) if options.quick else (options.rounds, options.rows)
    shape = Shape(DIMS)
    for kind in options.kinds.split(","):
        sizes = {"jensen": sum(p.numel() for p in our_model(kind, shape).parameters())}
        sizes |= {name: peer.size for name, peer in peers(kind, shape).items()}
        contestants: dict[str, Any] = {"jensen": (ours, (kind, shape, n))}
        contestants |= {name: (theirs, (name, kind, shape, n)) for name in LIBRARIES}
        print(f"\n{kind}, {n} rows at once; parameters: " + ", ".join(f"{k} {v:,}" for k, v in sizes.items()))
        table = interleave_processes(contestants, rounds, unit="rows/s")
        path = options.out / f"flow_sampling_{kind}.json" if options.out else None
        about = {"dims": DIMS, "layers": shape.layers, "hidden": list(shape.hidden), "bins": shape.bins, "rows": n}
        keep(path, table, "jensen", {**about, "parameters": sizes, "versions": versions(), "seed": 0})


if __name__ == "__main__":
    main()
