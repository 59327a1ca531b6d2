"""How much of hidden cells the rest of a row can tell at best, and which columns the published figures are of.

The masks are those of `imputation.py`. For each pattern of gaps, extra-trees learn from complete rows, nine tenths at a
time, what the cells that are seen say of those that are hidden; no method that sees the table with its gaps knows as
much. Rows that are wholly hidden can be told by the mean alone. Beside it, random forests column by column, over and
over, as missForest has them: whose published figures say whether the target was a column like others.
"""

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pandas
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
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


def forests(x: np.ndarray, hidden: np.ndarray, trees: int) -> np.ndarray:
    """Hidden cells by a random forest for each column, ten times round, each split among √D columns."""
    forest = RandomForestRegressor(trees, max_features="sqrt", random_state=0, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten rounds are what missForest takes at most
        return IterativeImputer(forest, max_iter=10, random_state=0).fit_transform(np.where(hidden, np.nan, x))


def main() -> None:
    options = arguments(__doc__, tables="banknote,breast,concrete,red wine", masks=2, trees=100)
    rows, values = [], {}
    for table, targets in itertools.product(options.tables.split(","), ("keep", "leave")):
        file, target, rate = TABLES[table]
        frame = pandas.read_csv(Path(os.environ["JENSEN_DATA"]) / file)
        x = (frame.drop(columns=[target]) if targets == "leave" else frame).to_numpy(float)
        x, found = (x - x.mean(0)) / x.std(0), {"whole": [], "forests": [], "empty": []}
        for seed in range(options.masks):
            hidden = mask(x, np.zeros(x.shape[1], dtype=bool), "mcar", rate, seed)
            for name, method in (("whole", told_whole), ("forests", forests)):
                found[name].append(float(np.square(method(x, hidden, options.trees) - x)[hidden].mean()))
            found["empty"].append(float(hidden.all(1).sum() * x.shape[1] / hidden.sum()))
            print(f"{table}, {targets}, mask {seed}: {found}", flush=True)
        told = [
            f"{mean:.3f} ± {stderr:.3f}" for mean, stderr in map(mean_and_stderr, (found["whole"], found["forests"]))
        ]
        published = [f"{PUBLISHED[name][table]:.3f}" for name in PUBLISHED]
        kept = "a column like others" if targets == "keep" else "left out"
        rows.append(
            [f"{table}, target {kept}", told[0], f"{np.mean(found['empty']):.1%}", published[0], told[1], published[1]]
        )
        values[f"{table}, {targets}"] = found
    about = (
        "Mean squared error of hidden numbers, standardised. By extra-trees that learned from rows without any gap: "
        "an estimate of the least that can be reached; and by iterated random forests on the table with its gaps. "
        f"Means of {options.masks} masks, ± one standard error over them."
    )
    columns = ["", "told by whole rows", "cells of rows wholly hidden", "MIWAE, published", "iterated forests"]
    keep_table(
        options.out, about, [*columns, "missForest, published"], rows, {"values": values, "trees": options.trees}
    )


if __name__ == "__main__":
    main()
