"""Missing values: squared error of hidden cells, on tables whose published figures are known, and Adult with words.

Half of the cells of four tables are hidden completely at random, five times, the numbers having been standardised
before (the protocol "paper" of `jensen evaluate imputation`), and filled in by jensen's model with its default settings
and by simple methods on the same masks. All columns count, the target among them, as numbers: with them in, and not
with them out, iterated forests do as the published ones did (`imputation_limit.py`). `--targets leave` leaves them out.
Of Adult a fifth is hidden; its categories are judged by accuracy.

What is done is kept in `--work`, a file a table, method and mask, so that a run that was stopped goes on where it was,
and `--only 3,4` measures those masks alone, beside another process that measures others; simple methods are taken from
`--out`, too, where that is there already, and so is all of tables that are not asked for: a row says when jensen was
measured on each. `--without "adult jensen,adult neighbours"` leaves out pairs of them. The model
is `auto`, whose settings `jensen choose` chooses on each table by cells that it hides itself.
"""

from __future__ import annotations

import datetime
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from harness import arguments, keep_table
from jensen.errors import JensenError
from jensen.jobs.evaluate import imputation
from jensen.jobs.evaluate.imputers import BASELINES

TABLES = {
    "banknote": ("uci_banknote.csv.gz", "class", 0.5),
    "breast": ("uci_breast_cancer.csv.gz", "target", 0.5),
    "concrete": ("uci_concrete.csv.gz", "strength", 0.5),
    "red wine": ("uci_red_wine.csv.gz", "quality", 0.5),
    "adult": ("adult.csv.gz", None, 0.2),
}
DROPPED = {"adult": ["split"]}
PUBLISHED = {  # Mattei and Frellsen 2019, as quoted by others
    "MIWAE, published": {"banknote": 0.446, "breast": 0.280, "concrete": 0.501, "red wine": 0.643},
    "missForest, published": {"banknote": 0.676, "breast": 0.291, "concrete": 0.510, "red wine": 0.697},
}


def cell(
    work: Path,
    table: str,
    method: str,
    model: str,
    settings: dict[str, Any],
    masks: list[int],
    particles: int,
    targets: str = "keep",
) -> dict[str, Any] | None:
    """What a method reached on a table, mask by mask; None where it cannot be run."""
    each = [one_mask(work, table, method, model, settings, mask, particles, targets) for mask in masks]
    found = [one for one in each if one is not None]
    if len(found) < len(each):
        return None
    values = {name: [value for one in found for value in one["values"][name]] for name in found[0]["values"]}
    about = {**found[-1]["about"], "masks": len(masks), "seeds": masks}
    numbers = {name: round(float(np.mean(v)), 4) for name, v in values.items()}
    seconds = [second for one in found for second in one["seconds"]]
    print(f"{table}, {method}: {numbers}, {np.mean(seconds):.1f} s a mask", flush=True)
    return {"values": values, "about": about, "seconds": seconds}


def one_mask(
    work: Path,
    table: str,
    method: str,
    model: str,
    settings: dict[str, Any],
    mask: int,
    particles: int,
    targets: str,
) -> dict[str, Any] | None:
    """What a method reached on a table under one mask: from its file, or run now; None where it cannot be run."""
    file, target, rate = TABLES[table]
    kept = target is not None and targets == "keep"
    path = work / f"{table} {method} {mask}.json".replace(" ", "-")
    if path.exists():
        return json.loads(path.read_text())
    ours = method == "jensen"
    try:
        found = imputation(
            Path(os.environ["JENSEN_DATA"]) / file,
            label=None if kept else target,
            kinds={target: "real"} if kept else None,
            drop=DROPPED.get(table, ()),
            rate=rate,
            masks=1,
            seed=mask,
            model=model if ours else None,
            settings=settings if ours else None,
            impute={"particles": particles} if particles else None,
            baselines=() if ours else (method,),
        )
    except JensenError as e:
        print(f"{table}, {method}: {e}")
        return None
    about = {**found.about, "data": file, "date": datetime.date.today().isoformat()}
    result = {"values": dict(found.values[model if ours else method]), "about": about}
    result["seconds"] = list(found.seconds[model if ours else method])
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    print(f"{table}, {method}, mask {mask}: {result['values']}", flush=True)
    return result


def mean_and_stderr(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def shown(cells: dict[str, dict[str, Any]], method: str, metric: str) -> str:
    if metric not in cells[method]["values"]:
        return ""
    mean, stderr = mean_and_stderr(cells[method]["values"][metric])
    text = f"{mean:.3f} ± {stderr:.3f}"
    if method != "jensen" and "jensen" in cells:
        less, spread = mean_and_stderr(
            [a - b for a, b in zip(cells["jensen"]["values"][metric], cells[method]["values"][metric], strict=True)]
        )
        text += f" (ours {less:+.3f} ± {spread:.3f})"
    return text


def main() -> None:
    options = arguments(
        __doc__,
        tables=",".join(TABLES),
        methods=",".join(["jensen", *BASELINES]),
        model="auto",
        without="",
        settings="{}",
        masks=5,
        only="",
        particles=0,
        work="runs/imputation",
        targets="keep",
    )
    settings, work = json.loads(options.settings), Path(options.work)
    tables, methods = options.tables.split(","), options.methods.split(",")
    masks = [int(mask) for mask in options.only.split(",")] if options.only else list(range(options.masks))
    before = json.loads(options.out.read_text()) if options.out and options.out.exists() else {"cells": {}}
    kept = before["cells"]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for table in TABLES:
        if table not in tables:
            if table in kept:
                found[table] = kept[table]
                found[table]["jensen"]["about"].setdefault("date", before["date"])
            continue
        for method in methods:
            result = kept.get(table, {}).get(method) if method != "jensen" else None
            if f"{table} {method}" in options.without.split(","):
                continue
            if result is None or result["about"]["masks"] != options.masks:
                result = cell(work, table, method, options.model, settings, masks, options.particles, options.targets)
            if result is not None:
                found.setdefault(table, {})[method] = result
    if options.only:
        return
    told = [(table, metric) for table in found for metric in ("mse", "accuracy") if table == "adult" or metric == "mse"]
    columns = ["", *(f"{table}, {metric}" if table == "adult" else table for table, metric in told)]
    rows = [
        [method, *(shown(found[table], method, metric) if method in found[table] else "" for table, metric in told)]
        for method in methods
        if any(method in cells for cells in found.values())
    ]
    dates = {table: found[table]["jensen"]["about"]["date"] for table in found if "jensen" in found[table]}
    rows.append(["jensen, measured on", *(dates.get(table, "") for table, _ in told)])
    rows += [
        [name, *(f"{figures[table]:.3f}" if table in figures else "" for table, _ in told)]
        for name, figures in PUBLISHED.items()
    ]
    about = (
        "Mean squared error of hidden numbers, standardised before cells were hidden, and accuracy of hidden "
        f"categories; means of {options.masks} masks, ± one standard error over them; in brackets what jensen is above "
        "the method on the same masks. Half of the cells are hidden completely at random, of Adult a fifth. The target "
        + ("is a column like others." if options.targets == "keep" else "is left out.")
    )
    cells = {
        table: {m: {k: c[k] for k in ("values", "seconds", "about")} for m, c in by.items()}
        for table, by in found.items()
    }
    extra = {
        "model": options.model,
        "settings": settings,
        "masks": options.masks,
        "targets": options.targets,
        "published": PUBLISHED,
        "cells": cells,
    }
    keep_table(options.out, about, columns, rows, extra)


if __name__ == "__main__":
    main()
