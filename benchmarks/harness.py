"""Times contestants in turn, prints a table of medians and ratios, and keeps the result."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jensen.nets import products


def arguments(about: str | None, **defaults: Any) -> argparse.Namespace:
    """Options common to all benchmarks, and a benchmark's own with their defaults."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def interleave(contestants: dict[str, Callable[[], int]], rounds: int, unit: str) -> dict[str, Any]:
    """Run each contestant once a round, after one round of warm-up. A contestant returns the work it did.

    Returns:
        rates of every round by contestant, in `unit`.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, work in contestants.items():
            began = time.perf_counter()
            done = work()
            rate = done / (time.perf_counter() - began)
            if turn:
                rates[name].append(rate)
        if turn:
            print(f"round {turn}: " + ", ".join(f"{n} {r[-1]:,.0f}" for n, r in rates.items()), file=sys.stderr)
    return {"unit": unit, "rounds": rounds, "rates": rates}


Factory = Callable[..., Callable[[], int]]


def as_pytorch_does(work: Callable[[], int]) -> Callable[[], int]:
    """The same work with products of matrices as PyTorch takes them by itself: what naive code would cost."""

    def plain() -> int:
        ours, products.ONEDNN = products.ONEDNN, False
        try:
            return work()
        finally:
            products.ONEDNN = ours

    return plain


def interleave_processes(
    contestants: dict[str, tuple[Factory, tuple[Any, ...]]], rounds: int, unit: str
) -> dict[str, Any]:
    """As `interleave`, each contestant in a process of its own, so that none runs in what another left behind.

    Args:
        contestants: by name, a factory and its arguments; the factory is called in the contestant's process, once.
            One that cannot be made, as its library is not installed, raises ImportError and is left out.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[str, tuple[Any, Any]] = {}
    for name, (factory, arguments) in contestants.items():
        here, there = context.Pipe()
        process = context.Process(target=_contend, args=(there, torch.get_num_threads(), factory, arguments))
        process.start()
        there.close()
        missing = here.recv()
        if missing:
            print(f"{name} is left out: {missing}", file=sys.stderr)
            process.join()
        else:
            workers[name] = (process, here)

    def asked(pipe: Any) -> Callable[[], int]:
        def work() -> int:
            pipe.send("go")
            return pipe.recv()

        return work

    try:
        return interleave({name: asked(pipe) for name, (_, pipe) in workers.items()}, rounds, unit)
    finally:
        for process, pipe in workers.values():
            pipe.close()
            process.join(10)


def _contend(pipe: Any, threads: int, factory: Factory, arguments: tuple[Any, ...]) -> None:
    """A contestant's process: make it, then work each time it is asked to."""
    torch.set_num_threads(threads)
    try:
        work = factory(*arguments)
    except ImportError as e:
        pipe.send(str(e))
        return
    pipe.send("")
    with contextlib.suppress(EOFError):
        while pipe.recv():
            pipe.send(work())


def ratio(rates: dict[str, list[float]], a: str, b: str) -> float:
    """Median over rounds of the rate of a over that of b in the same round."""
    return statistics.median(x / y for x, y in zip(rates[a], rates[b], strict=True))


def keep(path: Path | None, table: dict[str, Any], ours: str | list[str], extra: dict[str, Any]) -> None:
    """Print the table, and write it with command, date and kind of machine."""
    rates, names = table["rates"], [ours] if isinstance(ours, str) else ours
    width = max(map(len, rates))
    print(f"{'':{width}}  {table['unit']:>12}" + "".join(f"  {'× by ' + n:>16}" for n in names))
    ratios: dict[str, dict[str, float]] = {n: {} for n in names}
    for other in rates:
        row = f"{other:{width}}  {statistics.median(rates[other]):12,.0f}"
        for n in names:
            ratios[n][other] = ratio(rates, n, other)
            row += f"  {ratios[n][other]:16.2f}"
        print(row)
    result = {
        **extra,
        "unit": table["unit"],
        "rounds": table["rounds"],
        "medians": {n: statistics.median(r) for n, r in rates.items()},
        "ratios": ratios,
        "rates": {n: [round(x, 1) for x in r] for n, r in rates.items()},
    }
    _write(path, result)


def keep_table(
    path: Path | None, about: str, columns: list[str], lines: list[list[str]], extra: dict[str, Any]
) -> None:
    """Print a table of any kind, and write it as `keep` does; the docs show it as it stands.

    Args:
        about: a sentence above the table.
        extra: the numbers themselves, unrounded, and how they came about.
    """
    widths = [max(len(line[i]) for line in [columns, *lines]) for i in range(len(columns))]
    print(f"\n{about}")
    for line in [columns, *lines]:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]))
    _write(path, {**extra, "table": {"about": about, "columns": columns, "rows": lines}})


def _write(path: Path | None, result: dict[str, Any]) -> None:
    """With command, date and machine."""
    if path is None:
        return
    conditions = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**conditions, **result}, indent=1) + "\n")
    print(f"kept in {path}")


def machine() -> dict[str, Any]:
    """The kind of machine: processor, cores, threads used, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    flags: list[str] = []
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        model = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), model)
        known = next((line for line in text.splitlines() if line.startswith("flags")), "")
        flags = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in known.split()]
    return {
        "processor": model,
        "features": flags,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
