"""Training with two threads on two processors, alone and beside another program that keeps one of them busy.

    python benchmarks/busy_processor.py [--rounds 5] [--seconds 6] [--out benchmarks/results/busy_processor.json]

A VAE 784-400-20 on the 5,000 digits that a package ships, by `jensen train`, each run a process of its own, in turn:

- **jensen**: as the program sets itself up, threads that wait sleep after 10,000 looks (`cli/threads.py`).
- **as it comes**: GNU OpenMP's own number of looks, 300,000 where there are no more threads than processors.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import arguments, keep_table

AS_IT_COMES = "300000"


def rate(seconds: float, environment: dict[str, str], busy: bool) -> float:
    """Data a second of one short training."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            program = "from jensen.cli import main; main()"
            options = ["vae", "mnist-5k", "--binarize", "static", "latents=20", "encoder.hidden=[400]"]
            command = [sys.executable, "-c", program, "train", *options, "decoder.hidden=[400]", "--out", str(out)]
            limit = ["--minutes", str(seconds / 60)]
            kept = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
            subprocess.run([*command, *limit], env=kept | environment, check=True, capture_output=True)
            log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            return log[-1]["epoch"] / log[-1]["seconds"]
    finally:
        if other is not None:
            other.kill()


def main() -> None:
    options = arguments(__doc__, rounds=5, seconds=6.0)
    found: dict[str, list[float]] = {}
    for turn in range(options.rounds):
        for busy in (False, True):
            for name, environment in (("jensen", {}), ("as it comes", {"GOMP_SPINCOUNT": AS_IT_COMES})):
                key = f"{name}, {'beside a busy program' if busy else 'alone'}"
                found.setdefault(key, []).append(rate(options.seconds, environment, busy))
                print(f"round {turn + 1}: {key}: {found[key][-1]:.2f} epochs a second", flush=True)
    rows = []
    for where in ("alone", "beside a busy program"):
        ours, other = found[f"jensen, {where}"], found[f"as it comes, {where}"]
        times = statistics.median(a / b for a, b in zip(ours, other, strict=True))
        rows.append([where, f"{statistics.median(ours):.2f}", f"{statistics.median(other):.2f}", f"{times:.2f}"])
    keep_table(
        options.out,
        "Epochs a second of a small VAE, two threads on two processors; medians.",
        ["the machine", "jensen", "as it comes", "×"],
        rows,
        {"rates": found, "seed": 0},
    )


if __name__ == "__main__":
    main()
