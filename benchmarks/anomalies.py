"""Outliers in tables: jensen's detector beside ECOD, isolation forest, nearest neighbours and a kernel density.

    python benchmarks/anomalies.py [--tables cardio,breastw,thyroid,magic-gamma] [--seeds 0,1,2] [--tried]
        [--work runs/anomalies] [--out benchmarks/results/anomalies.json]

Of every table and seed 70 % of the rows, of each class, are for training, of which only the usual ones are used; the
rest is for the test. Rows are standardised by the mean and deviation of what is trained on. AUROC is the chance that an
outlier scores above a usual row; average precision is given beside it in the file. Every detector has the same setting
everywhere, and none has seen an outlier before the test.

Conformal p-values are those of `Modelled`: 15 % of the usual training rows, which chose the epoch and nothing else, are
for calibration, and false alarms are counted among the usual rows of the test.

With `--tried`, what was considered for the setting of ours is run too, but on magic-gamma.

A finished cell (table, seed, detector) is a file in `--work` and is not run again. Needs the tables (`JENSEN_DATA`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy.stats import betabinom
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split

from harness import arguments, keep_table
from jensen.data import load_data
from jensen.data.normal_scores import NormalScores, Standardised
from jensen.jobs.conformal import conformal_p_values
from jensen.jobs.detectors import BATCH, DETECTORS, SETTINGS, VALID, Detector, KernelDensity, Modelled

TARGET = ("cardio", "breastw", "thyroid")  # over which the mean is taken
OURS, ALPHAS = "jensen", (0.01, 0.05, 0.1)


class Squares:
    """Σ of squared normal scores: columns taken to be independent."""

    def fit(self, x: np.ndarray) -> Self:
        self.columns = NormalScores().fit(x)
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        return np.square(self.columns(x)).sum(1)


class OfScores:
    """A kernel density of normal scores, its bandwidth by Scott's rule."""

    def fit(self, x: np.ndarray) -> Self:
        self.columns = NormalScores().fit(x)
        self.density = KernelDensity("scott").fit(self.columns(x))
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        return self.density.score(self.columns(x))


FIXED = {**SETTINGS, "likelihood": {"name": "gaussian", "variance": "fixed"}}
FREE = {**SETTINGS, "likelihood": {"name": "gaussian", "variance": "input"}}
SHORT = 80  # epochs, of what was tried first
WEIGHTS = {"jensen, columns together only": 0.0, "jensen, columns apart only": 1.0}


def short(**options: Any) -> Callable[[int], Detector]:
    """Ours, trained for so many epochs, and not for so many steps, whatever the number of rows."""
    return lambda seed: Epochs(seed, **options)


class Epochs(Modelled):
    """Trained for 80 epochs."""

    def fit(self, x: np.ndarray) -> Self:
        self.steps = SHORT * math.ceil((len(x) - round(VALID * len(x))) / BATCH)
        return super().fit(x)


TRIED: dict[str, Callable[[int], Detector]] = {
    "jensen, 80 epochs": short(),
    "jensen, 80 epochs, columns together": short(apart=0.0),
    "jensen, 80 epochs, columns together, standardised": short(apart=0.0, scores=False),
    "jensen, 80 epochs, columns together, variance fixed at 1": short(apart=0.0, settings=FIXED),
    "jensen, 80 epochs, columns together, variance by row": short(apart=0.0, settings=FREE),
    "squared normal scores": lambda seed: Squares(),
    "KDE of normal scores": lambda seed: OfScores(),
}


def parts(table: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Usual rows to train on, rows of the test and whether these are outliers."""
    data = load_data(table)
    x = np.concatenate([split.x for split in data.splits.values()])
    y = np.concatenate([split.y for split in data.splits.values() if split.y is not None])
    order = np.argsort(np.concatenate([split.index for split in data.splits.values()]))
    x, y = x[order], y[order]
    split = train_test_split(x, y, test_size=0.3, stratify=y, random_state=seed)
    train, test, of_train, of_test = map(np.asarray, split)
    usual = train[of_train == 0]
    standardised = Standardised().fit(usual)
    return standardised(usual), standardised(test), of_test


def cell(table: str, seed: int, make: Callable[[int], Detector]) -> dict[str, Any]:
    """What one detector does on one table."""
    train, test, y = parts(table, seed)
    began = time.process_time()
    detector = make(seed).fit(train)
    score = detector.score(test)
    found: dict[str, Any] = {
        "auroc": 100 * float(roc_auc_score(y, score)),
        "average_precision": 100 * float(average_precision_score(y, score)),
        "cpu_seconds": time.process_time() - began,
        "trained_on": len(train),
        "tested_on": [int((y == 0).sum()), int((y == 1).sum())],
    }
    if isinstance(detector, Modelled):
        calibration = detector.score(detector.held_out)
        p, n = conformal_p_values(calibration, score), len(calibration)
        found["calibration"] = n
        found["alarms"] = {f"{a:g}": int((p[y == 0] <= a).sum()) for a in ALPHAS}
        found["found"] = {f"{a:g}": int((p[y == 1] <= a).sum()) for a in ALPHAS}
        found["most_alarms"] = {f"{a:g}": most_alarms(n, int((y == 0).sum()), a) for a in ALPHAS}
        for name, detector.apart in WEIGHTS.items():
            found[name] = 100 * float(roc_auc_score(y, detector.score(test)))
    return found


def most_alarms(n: int, m: int, alpha: float) -> int:
    """The 97.5 % quantile of false alarms among m fresh data, n data for calibration being random too."""
    k = math.floor(alpha * (n + 1))
    return int(betabinom.ppf(0.975, m, k, n + 1 - k)) if k else 0


def told(values: list[float]) -> str:
    mean, stderr = float(np.mean(values)), _stderr(values)
    return f"{mean:.2f} ± {stderr:.2f}"


def _stderr(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def main() -> None:
    options = arguments(
        __doc__, tables=",".join([*TARGET, "magic-gamma"]), seeds="0,1,2", tried=False, work="runs/anomalies"
    )
    torch.set_num_threads(1)
    tables, seeds = options.tables.split(","), [int(seed) for seed in options.seeds.split(",")]
    detectors = {**DETECTORS, **(TRIED if options.tried else {})}
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in detectors}
    for table in tables:
        for name, make in detectors.items():
            if name in TRIED and table not in TARGET:
                continue
            for seed in seeds:
                path = Path(options.work) / f"{table}-{name.replace(' ', '_').replace(',', '')}-{seed}.json"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(cell(table, seed, make)))
                cells[name].setdefault(table, []).append(json.loads(path.read_text()))
            print(table, name, told([c["auroc"] for c in cells[name][table]]), flush=True)
    keep_table(options.out, *summary(cells, tables, seeds))


def summary(cells: dict[str, Any], tables: list[str], seeds: list[int]) -> tuple[str, list[str], Any, dict[str, Any]]:
    """The table, and the numbers themselves."""
    aim = [table for table in TARGET if table in tables]
    means = {name: np.mean([[c["auroc"] for c in of[t]] for t in aim], axis=0).tolist() for name, of in cells.items()}
    usual = [name for name in DETECTORS if name != OURS]
    best = max(usual, key=lambda name: np.mean(means[name]))
    over = (np.array(means[OURS]) - np.array(means[best])).tolist()
    for name in WEIGHTS if cells.keys() & TRIED.keys() else ():
        cells = {**cells, name: {t: [{"auroc": c[name]} for c in of] for t, of in cells[OURS].items()}}
        means[name] = np.mean([[c["auroc"] for c in cells[name][t]] for t in aim], axis=0).tolist()
    lines, further = [], {*TRIED, *WEIGHTS}
    for name in sorted(cells, key=lambda n: (n in further, -np.mean(means[n]))):
        of = [told([c["auroc"] for c in cells[name][t]]) if t in cells[name] else "" for t in tables]
        lines.append([f"({name})" if name in further else name, *of, told(means[name])])
    alarms = {
        table: {
            f"{a:g}": {
                "rate": sum(c["alarms"][f"{a:g}"] for c in cells[OURS][table])
                / sum(c["tested_on"][0] for c in cells[OURS][table]),
                "of_each_seed": [c["alarms"][f"{a:g}"] for c in cells[OURS][table]],
                "most_of_each_seed": [c["most_alarms"][f"{a:g}"] for c in cells[OURS][table]],
                "found": sum(c["found"][f"{a:g}"] for c in cells[OURS][table])
                / sum(c["tested_on"][1] for c in cells[OURS][table]),
            }
            for a in ALPHAS
        }
        for table in tables
    }
    rates = "; ".join(
        f"{table} " + ", ".join(f"{100 * alarms[table][f'{a:g}']['rate']:.2f}" for a in ALPHAS) for table in tables
    )
    about = (
        f"AUROC × 100 over {len(seeds)} seeds, ± standard error over them; trained on usual rows only. The mean is "
        f"over {', '.join(aim)}: jensen over {best}, the best of the others, {told(over)} (paired). In brackets: what "
        f"else was tried for ours. False alarms of its conformal p-values among fresh usual rows, %, at "
        f"{', '.join(f'{100 * a:g}' for a in ALPHAS)} %: {rates}."
    )
    extra = {
        "seeds": seeds,
        "means": means,
        "over_best": {best: over},
        "false_alarms": alarms,
        "cells": {name: cells[name] for name in cells if name not in WEIGHTS},
    }
    return about, ["detector", *tables, "mean"], lines, extra


if __name__ == "__main__":
    main()
