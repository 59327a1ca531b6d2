"""What each model offers, computed from its (p, q)."""

from __future__ import annotations

from typing import Any

import numpy as np

from jensen.core import Capabilities, Model, seeded
from jensen.data import Schema
from jensen.errors import ConfigError
from jensen.registry import MODEL, build, find, names

TOYS = {
    "picture": lambda: Schema.of_pictures((1, 8, 8), levels=2),
    "table": lambda: Schema.of_table(np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]), ["a", "b", "c"]),
    "table with gaps": lambda: gapped(TOYS["table"]()),
    "whole numbers": lambda: Schema.of_table(
        np.array([[0.0] * 3, [9.0] * 3]), ["a", "b", "c"], ["count", "count", "count"]
    ),
}


def gapped(schema: Schema) -> Schema:
    """The same columns, in which cells may be missing."""
    fields = tuple(field.model_copy(update={"gaps": True, "present": 0.5}) for field in schema.fields)
    return schema.model_copy(update={"fields": fields})


def toy(name: str, kind: str | None = None) -> tuple[Schema, Model]:
    """A model built with its default settings on a kind of data, by default that which it declares."""
    schema = TOYS[kind or find(MODEL, name).toy]()
    with seeded(0):
        return schema, build(name, schema)


def table() -> list[dict[str, Any]]:
    """One row a model: training, likelihood, sampling, encoding and both kinds of compression.

    Nothing here is typed in: each model is built on a toy schema and its pair (p, q) is read. `steps` counts the
    network passes that one sample takes in a row. Only whole numbers have a lossless code, so that is asked of the
    model of such data.
    """
    rows = []
    for name in names(MODEL):
        _, model = toy(name)
        c = _capabilities(name)
        rows.append(
            {
                "model": name,
                "training": model.objective.description,
                "likelihood": (c.likelihood or "none").replace("_", " "),
                "sampling": ("fast" if c.sequential_steps <= FAST else "slow") if c.sample else "no",
                "steps": c.sequential_steps if c.sample else None,
                "encoding": "yes" if c.encode else "no",
                "lossy compression": c.lossy,
                "lossless compression": _lossless(name, c),
                "p": str(model.p),
                "q": str(model.q),
                "about": find(MODEL, name).summary,
            }
        )
    return rows


def _capabilities(name: str, kind: str | None = None) -> Capabilities:
    from jensen.jobs.run import Run

    schema, model = toy(name, kind)
    return Run({"model": name}, schema, model.eval()).capabilities


def _lossless(name: str, declared: Capabilities) -> str:
    if declared.lossless != "no":
        return declared.lossless
    try:
        return _capabilities(name, "whole numbers").lossless
    except ConfigError:  # takes no such data
        return "no"


FAST = 20  # sequential network passes up to which sampling is called fast
