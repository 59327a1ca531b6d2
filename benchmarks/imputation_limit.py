"""How much of hidden cells the rest of a row can tell at best: an estimate, by rows that are told whole.

The protocol and the masks are those of `imputation.py`. For each pattern of gaps, extra-trees learn from complete rows,
nine tenths at a time, what the cells that are seen say of those that are hidden; no method that sees the table with its
gaps knows as much. Rows that are wholly hidden can be told by the mean alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold

from harness import arguments, keep_table
from imputation import PUBLISHED, TABLES, mean_and_stderr
from jensen.jobs.evaluate.masks import mask


def told_whole(x: np.ndarray, hidden: np.ndarray, trees: int) -> np.ndarray:
    """Hidden cells of rows (N, D) by trees that learned from other rows as a whole."""
    found = np.zeros_like(x)
    for train, test in KFold(10, shuffle=True, random_state=0).split(x):
        for pattern in np.unique(hidden[test], axis=0):
            rows = test[(hidden[test] == pattern).all(1)]
            if pattern.all() or not pattern.any():
                continue
            forest = ExtraTreesRegressor(trees, min_samples_leaf=2, random_state=0, n_jobs=1)
            target = x[train][:, pattern]
            forest.fit(x[train][:, ~pattern], target[:, 0] if target.shape[1] == 1 else target)
            found[np.ix_(rows, pattern)] = forest.predict(x[rows][:, ~pattern]).reshape(len(rows), -1)
    return found


def main() -> None:
    options = arguments(__doc__, tables="banknote,concrete", masks=5, trees=200)
    rows, extra = [], {}
    for table in options.tables.split(","):
        file, label, rate = TABLES[table]
        x = pandas.read_csv(Path(os.environ["JENSEN_DATA"]) / file).drop(columns=[label]).to_numpy(float)
        x, errors, empty = (x - x.mean(0)) / x.std(0), [], []
        for seed in range(options.masks):
            hidden = mask(x, np.zeros(x.shape[1], dtype=bool), "mcar", rate, seed)
            errors.append(float(np.square(told_whole(x, hidden, options.trees) - x)[hidden].mean()))
            empty.append(float(hidden.all(1).sum() * x.shape[1] / hidden.sum()))
            print(f"{table}, mask {seed}: {errors[-1]:.4f}", flush=True)
        mean, stderr = mean_and_stderr(errors)
        published = PUBLISHED["MIWAE, published"][table]
        rows.append([table, f"{mean:.3f} ± {stderr:.3f}", f"{np.mean(empty):.1%}", f"{published:.3f}"])
        extra[table] = {"mse": errors, "cells_of_empty_rows": empty, "published": published}
    about = (
        "Mean squared error of hidden numbers, standardised, by extra-trees that learned from rows without any gap: an "
        f"estimate of the least that can be reached; means of {options.masks} masks, ± one standard error over them."
    )
    columns = ["", "told by whole rows", "cells of rows wholly hidden", "MIWAE, published"]
    keep_table(options.out, about, columns, rows, {"values": extra, "trees": options.trees})


if __name__ == "__main__":
    main()
