"""Memory of a deep flow in training, 32 affine couplings with networks 256-256, D = 64, batch 4096: ours and others.

    python benchmarks/flow_memory.py [--repeats 3] [--out benchmarks/results/flow_memory.json] [--quick]

The peak of resident memory over two whole steps, beyond what the process held after a step with 8 rows, which has
loaded the library and made parameters, gradients and Adam's moments. Each measurement is a fresh process.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flow_training import our_model, rows
from harness import arguments, keep_table
from jensen.training.adam import LeanAdam
from peers.flows import LIBRARIES, Shape, versions, without_checks

DEEP = Shape(64, layers=32, hidden=(256, 256))


def ours(shape: Shape, settings: dict[str, Any]) -> tuple[Callable[[Tensor], Tensor], list[Any]]:
    model = our_model("realnvp", shape, settings)
    model.initialize({"x": rows(1000, shape.dims)})
    return lambda x: -model.evidence({"x": x}).elbo().mean(), list(model.parameters())


def theirs(library: str, shape: Shape) -> tuple[Callable[[Tensor], Tensor], list[Any]]:
    peer = LIBRARIES[library]("realnvp", shape)
    return lambda x: -peer.log_prob(x).mean(), list(peer.module.parameters())


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(pipe: Any, threads: int, batch: int, make: Callable[..., Any], made_from: tuple[Any, ...]) -> None:
    """In a process of its own: parameters, and MiB beyond the start."""
    torch.set_num_threads(threads)
    without_checks()
    torch.manual_seed(0)
    try:
        loss, parameters = make(*made_from)
    except ImportError as e:
        pipe.send(str(e))
        return
    optimizer = LeanAdam(parameters, 1e-3)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    data = rows(batch, DEEP.dims)
    step(data[:8])
    before = resident()
    for _ in range(2):
        step(data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    pipe.send({"parameters": sum(p.numel() for p in parameters), "before": before, "beyond": peak - before})


def fresh(*arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=measure, args=(there, *arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def main() -> None:
    options = arguments(__doc__, repeats=3, batch=4096, quick=False)
    repeats, batch = (1, 64) if options.quick else (options.repeats, options.batch)
    contestants: dict[str, tuple[Any, tuple[Any, ...]]] = {"jensen": (ours, (DEEP, {}))}
    contestants |= {name: (theirs, (name, DEEP)) for name in LIBRARIES}
    found: dict[str, list[Any]] = {}
    for _ in range(repeats):
        for name, (make, made_from) in contestants.items():
            result = fresh(options.threads, batch, make, made_from)
            if isinstance(result, str):
                print(f"{name} is left out: {result}")
            else:
                found.setdefault(name, []).append(result)
                print(f"{name}: {result['beyond']:,.0f} MiB", flush=True)
    median = {name: statistics.median(r["beyond"] for r in results) for name, results in found.items()}
    lines = [
        [name, f"{results[0]['parameters']:,}", f"{median[name]:,.0f}", f"{median[name] / median['jensen']:.2f}"]
        for name, results in found.items()
    ]
    about = f"Peak memory of a training step, batch {batch}, beyond parameters and optimizer; median of {repeats}."
    extra = {"batch": batch, "shape": DEEP._asdict(), "versions": versions(), "MiB": median, "seed": 0}
    keep_table(options.out, about, ["", "parameters", "MiB", "× jensen"], lines, extra)


if __name__ == "__main__":
    main()
