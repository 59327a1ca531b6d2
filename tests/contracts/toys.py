"""Data and sizes that are quick to run, one for each kind of data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas

from jensen.data import Schema, load_data
from jensen.data.text_tokens import Tokens
from jensen.jobs.models import gapped
from jensen.registry import Component, find


def columns(rows: np.ndarray, kind: str) -> Schema:
    """A table whose columns are all of one kind."""
    return Schema.of_table(rows, [f"c{i}" for i in range(rows.shape[1])], [kind] * rows.shape[1])  # pyright: ignore


def mixed() -> tuple[Schema, np.ndarray]:
    """A column of every kind, with gaps."""
    rng, n = np.random.default_rng(1), 24
    frame = pandas.DataFrame(
        {
            "real": rng.normal(size=n), "positive": np.exp(rng.normal(size=n)), "share": rng.random(n),
            "count": rng.poisson(3.0, n), "bit": rng.random(n) < 0.5, "name": rng.choice(list("abc"), n),
            "size": rng.choice(list("SML"), n), "day": pandas.date_range("2020-01-01", periods=n),
        }
    )  # fmt: skip
    share: dict[str, object] = {"kind": "bounded", "low": 0, "high": 1}
    told = {"positive": "positive", "share": share, "size": {"kind": "ordinal", "categories": list("SML")}}
    frame = frame.astype({"bit": "boolean"})
    data = load_data(frame.mask(rng.random(frame.shape) < 0.2), kinds=told, fractions=(1.0, 0.0, 0.0))
    return data.schema, data.split("train").x


_RNG = np.random.default_rng(0)
REAL = _RNG.normal(size=(24, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]])
COUNTS = _RNG.poisson(2.0, size=(24, 3)).astype(float)
BITS = _RNG.integers(0, 2, size=(24, 4)).astype(float)
BINARY_PICTURES = _RNG.integers(0, 2, size=(24, 1, 2, 2), dtype=np.uint8)
TEXTS = np.array([[0, 1, 2], [1, 2, 2], [0, 0, 1], [1, 1, 2], [2, 2, 2], [0, 1, 0], [0, 2, 2], [1, 0, 2]] * 3)
HOLES = np.where(_RNG.random(REAL.shape) < 0.3, np.nan, REAL)
GREY_PICTURES = _RNG.integers(0, 3, size=(24, 1, 1, 2), dtype=np.uint8)

DATA: dict[str, tuple[Schema, np.ndarray]] = {
    "real table": (columns(REAL, "real"), REAL),
    "count table": (columns(COUNTS, "count"), COUNTS),
    "binary table": (columns(BITS, "binary"), BITS),
    "binary pictures": (Schema.of_pictures((1, 2, 2), levels=2), BINARY_PICTURES),
    "text": (Schema.of_text(3, Tokens.of_characters(["ab"], lines=True)), TEXTS),
    "grey pictures": (Schema.of_pictures((1, 1, 2), levels=3), GREY_PICTURES),
    "table with gaps": (gapped(columns(REAL, "real")), HOLES),
    "mixed table with gaps": mixed(),
}


SMALL: dict[str, tuple[Any, ...]] = {  # where a model or a part has a setting of that name and type
    "latents": (2, [3, 2]),
    "hidden": ([8, 8], 16),
    "components": (2,),
    "width": (16,),
    "skip": (8,),
    "layers": (2, [6, 4]),
    "channels": ([8, 8], 8),
    "middle": (4,),
    "features": (8,),
    "codes": (4,),
    "levels": ([2, 3],),
    "halvings": (0,),
    "steps": (3,),
}


def small(part: Component, prefix: str = "") -> dict[str, Any]:
    """Settings that make a component, and what by default fills its slots, quick to run."""
    found: dict[str, Any] = {}
    for key, setting in part.settings.items():
        if setting.role and isinstance(setting.default, str):
            found |= small(find(setting.role, setting.default), f"{prefix}{key}.")
        for value in SMALL.get(key, ()):
            if type(setting.default) is type(value):
                found[prefix + key] = value
    return found
