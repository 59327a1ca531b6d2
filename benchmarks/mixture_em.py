"""A pass of expectation maximisation for a mixture of normals: ours through the trainer, and scikit-learn's.

    python benchmarks/mixture_em.py [--rows 100000] [--columns 20] [--components 16] [--passes 10]
        [--covariance full] [--rounds 5] [--threads 1] [--out benchmarks/results/mixture_em.json]

Both start from the same weights, means and covariances, in float64, make as many passes, and must end at the same
log-likelihood. Ours reads the data in batches in an order drawn anew for each pass, and measures its progress on 10,000
rows after each.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture

from harness import arguments, interleave_processes, keep
from jensen.data import Schema, Split
from jensen.models.mixture import parts_of
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer

KINDS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def problem(rows: int, columns: int, components: int) -> tuple[np.ndarray, Schema]:
    """Overlapping clusters of unequal shapes, standardised and rounded to float32 as the schema has them."""
    rng = np.random.default_rng(0)
    centres = 1.5 * rng.normal(size=(components, columns))
    roots = 0.5 * np.eye(columns) + 0.5 * rng.normal(size=(components, columns, columns)) / np.sqrt(columns)
    which = np.sort(rng.integers(0, components, rows))
    x = centres[which] + np.concatenate(
        [rng.normal(size=(int((which == k).sum()), columns)) @ roots[k] for k in range(components)]
    )
    x = x[rng.permutation(rows)]
    schema = Schema.of_table(x, [f"c{j}" for j in range(columns)])
    return schema.prepare(x).double().numpy(), schema


def ours(rows: int, columns: int, components: int, passes: int, covariance: str, batch: int) -> Callable[[], int]:
    """Passes of EM through the trainer."""
    train_ours = trained(rows, columns, components, passes, covariance, batch)

    def work() -> int:
        train_ours()
        return rows * passes

    return work


def trained(rows: int, columns: int, components: int, passes: int, covariance: str, batch: int) -> Callable[[], Any]:
    x, schema = problem(rows, columns, components)
    split = Split(x * schema._scales + schema._centers).to(schema)
    split.x = torch.from_numpy(x).float()  # to the last digit what scikit-learn is given
    settings = training_settings({"epochs": passes, "batch_size": batch, "keep": "last", "device": "cpu"})

    def train() -> Any:
        model = build("mixture", schema, {"components": components, "covariance": covariance, "min_scale": 1e-6})
        _, parts = parts_of(model)
        eye = torch.eye(columns, dtype=torch.float64)
        parts.set(torch.from_numpy(x[:components]), eye.expand(1 if covariance == "tied" else components, -1, -1))
        model.objective = dataclasses.replace(model.objective, stages=model.objective.stages[1:])
        Trainer(model, split, None, settings).run()
        return model

    return train


def theirs(rows: int, columns: int, components: int, passes: int, covariance: str) -> Callable[[], int]:
    """The same by scikit-learn."""
    fit = fitted(rows, columns, components, passes, covariance)

    def work() -> int:
        fit()
        return rows * passes

    return work


def fitted(rows: int, columns: int, components: int, passes: int, covariance: str) -> Callable[[], Any]:
    x, _ = problem(rows, columns, components)
    one = np.eye(columns)
    precisions = {
        "full": np.stack([one] * components),
        "tied": one,
        "diagonal": np.ones((components, columns)),
        "spherical": np.ones(components),
    }[covariance]

    def fit() -> Any:
        mixture = GaussianMixture(
            components, covariance_type=KINDS[covariance], weights_init=np.full(components, 1 / components),
            means_init=x[:components], precisions_init=precisions, max_iter=passes, tol=0, reg_covar=0,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged: so many passes are asked for
            return mixture.fit(x)

    return fit


def main() -> None:
    options = arguments(
        __doc__, rows=100_000, columns=20, components=16, passes=10, covariance="full", rounds=5, batch=8192
    )
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # of the contestants' processes
    size = (options.rows, options.columns, options.components, options.passes, options.covariance)
    x, _ = problem(*size[:3])
    model = trained(*size, options.batch)()
    with torch.no_grad():
        parts = torch.from_numpy(x).split(8192)
        here = float(torch.cat([model.evidence({"x": part}).elbo() for part in parts]).mean())
    there = float(fitted(*size)().score(x))
    print(f"log-likelihood after {options.passes} passes: {here:.9f}, scikit-learn's {there:.9f} nats", file=sys.stderr)
    load = os.getloadavg()[0]
    contestants: dict[str, Any] = {
        "jensen": (ours, (*size, options.batch)),
        "jensen, batches of 128": (ours, (*size, 128)),
        "scikit-learn": (theirs, size),
    }
    table = interleave_processes(contestants, options.rounds, "rows/s")
    extra = {
        "log_likelihood": {"jensen": here, "scikit-learn": there, "difference": here - there},
        "load": {"before": load, "after": os.getloadavg()[0]},
        "settings": {k: v for k, v in vars(options).items() if k != "out"},
    }
    keep(options.out, table, "jensen", extra)


if __name__ == "__main__":
    main()
