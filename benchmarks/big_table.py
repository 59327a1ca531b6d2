"""A million rows of twenty mixed columns with gaps: peak memory and speed of training, scoring and filling in.

    python benchmarks/big_table.py [--rows 1000000] [--out results/big_table.json]

Each step is a process of its own, from the file on, and its peak is the resident memory that the system tells of it,
the library and the table itself included. Scores are the bound of one draw, timed from the loaded table on; gaps are
filled in by 20 particles a row.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from harness import arguments, keep_table

REAL, COUNTS, NAMES, MISSING = 14, 3, 3, 0.1
SETTINGS = {"latents": 8, "encoder.hidden": [32], "decoder.hidden": [32], "epochs": 1, "batch_size": 1024, "lr": 3e-3}


def table(rows: int, path: Path) -> None:
    """Columns that hang together by three causes, a tenth of the cells empty."""
    rng = np.random.default_rng(0)
    cause = rng.normal(size=(rows, 3)).astype(np.float32)
    columns: dict[str, Any] = {}
    for j in range(REAL):
        columns[f"real{j}"] = cause @ rng.normal(size=3) + rng.normal(size=rows)
    for j in range(COUNTS):
        columns[f"count{j}"] = pandas.array(rng.poisson(np.exp(0.5 * cause[:, j])), dtype="Int64")
    for j in range(NAMES):
        columns[f"name{j}"] = pandas.Categorical.from_codes(np.digitize(cause[:, j], [-1, 0, 1]), list("abcd"))
    frame = pandas.DataFrame(columns)
    for name in frame:
        frame[name] = frame[name].mask(rng.random(rows) < MISSING)
    frame.to_parquet(path, row_group_size=100_000)


def work(pipe: Any, step: str, path: Path, run: Path, threads: int) -> None:
    import torch

    import jensen

    torch.set_num_threads(threads)
    began = time.perf_counter()
    if step == "train":
        jensen.train("vae", path, out=run, overwrite=True, **SETTINGS)
    elif step == "score":
        opened = jensen.open(run)
        loaded = opened.data(path)
        began = time.perf_counter()
        opened.score(loaded, estimator="elbo", particles=1, keep=False)
    else:
        found = jensen.open(run).impute(path, particles=20)
        found.completed()
    seconds = time.perf_counter() - began
    pipe.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def measure(step: str, path: Path, run: Path, threads: int) -> tuple[float, float]:
    """Seconds, and GiB at the peak."""
    here, there = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(there, step, path, run, threads))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def main() -> None:
    options = arguments(__doc__, rows=1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        path, run = Path(folder) / "table.parquet", Path(folder) / "run"
        table(options.rows, path)
        lines, kept = [], {}
        for step in ("train", "score", "impute"):
            seconds, peak = measure(step, path, run, options.threads)
            kept[step] = {"seconds": seconds, "rows_per_second": options.rows / seconds, "peak_gib": peak}
            lines.append([step, f"{peak:.2f} GiB", f"{options.rows / seconds:,.0f} rows/s", f"{seconds:.0f} s"])
    about = f"{options.rows:,} rows x 20 columns, {MISSING:.0%} of cells empty, from Parquet on"
    keep_table(options.out, about, ["step", "peak memory", "speed", "time"], lines, {"steps": kept})


if __name__ == "__main__":
    main()
