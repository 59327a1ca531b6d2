"""What each model offers, computed from its (p, q)."""

from __future__ import annotations

from typing import Any

import numpy as np

from jensen.core import Model, seeded
from jensen.data import Schema
from jensen.registry import MODEL, build, find, names

TOYS = {
    "picture": lambda: Schema.of_pictures((1, 8, 8), levels=2),
    "table": lambda: Schema.of_table(np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]), ["a", "b", "c"]),
}


def toy(name: str) -> tuple[Schema, Model]:
    """A model built with its default settings on the kind of data that it declares."""
    schema = TOYS[find(MODEL, name).toy]()
    with seeded(0):
        return schema, build(name, schema)


def table() -> list[dict[str, Any]]:
    """One row a model: training, likelihood, sampling, encoding and both kinds of compression.

    Nothing here is typed in: each model is built on a toy schema and its pair (p, q) is read. `steps` counts the
    network passes that one sample takes in a row.
    """
    from jensen.jobs.run import Run

    rows = []
    for name in names(MODEL):
        schema, model = toy(name)
        c = Run({"model": name}, schema, model.eval()).capabilities
        rows.append(
            {
                "model": name,
                "training": model.objective.description,
                "likelihood": (c.likelihood or "none").replace("_", " "),
                "sampling": ("fast" if c.sequential_steps <= FAST else "slow") if c.sample else "no",
                "steps": c.sequential_steps if c.sample else None,
                "encoding": "yes" if c.encode else "no",
                "lossy compression": c.lossy,
                "lossless compression": c.lossless,
                "p": str(model.p),
                "q": str(model.q),
                "about": find(MODEL, name).summary,
            }
        )
    return rows


FAST = 20  # sequential network passes up to which sampling is called fast
