"""Models and settings that fill in tables, of which `choose` takes some."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jensen.data import Schema
from jensen.data.field import CONTINUOUS
from jensen.errors import ConfigError
from jensen.jobs.train import check
from jensen.registry import build
from jensen.training.settings import ignored

AUTO = "auto"  # in place of a model: one whose settings are chosen so


@dataclass(frozen=True)
class Candidate:
    """A model by name, and its settings.

    Attributes:
        steps: the share of the steps, or minutes, of a training that it takes.
        seeds: how many times as many of it are trained, and how many are tried together.
        widest: the most columns of a table for which it is tried.
    """

    model: str
    settings: Mapping[str, Any]
    steps: float = 1.0
    seeds: int = 1
    widest: float = math.inf


MIWAE: dict[str, Any] = {
    "objective": "iw",
    "objective.particles": 20,
    "encoder.activation": "tanh",
    "decoder.activation": "tanh",
}
EVEN: dict[str, Any] = {**MIWAE, "likelihood": "gaussian", "likelihood.variance": "learned"}
DEEP: dict[str, Any] = {"latents": 10, "encoder.hidden": [128] * 3, "decoder.hidden": [128] * 3}
WHOLE: dict[str, Any] = {"train.keep": "last", "train.learn_valid": True}
NORMALS: dict[str, Any] = {"prior_data": "auto", "starts": 1}
ALIKE: dict[str, Any] = {"components": 60, "starts": 1, "prior_data": 20, "prior_variance": "learned"}
CANDIDATES: dict[str, Candidate] = {
    "wide": Candidate("vae", {**EVEN, "latents": 32, "encoder.hidden": [400], "decoder.hidden": [400]}),
    "deep": Candidate("vae", {**EVEN, **DEEP}),
    "tails": Candidate("vae", {**MIWAE, **DEEP, **WHOLE, "likelihood": "student-t"}, steps=2.0, widest=20),
    "orderless": Candidate("nade", {"network.dropout": 0.1}),
    "kernels": Candidate("kernels", {}, steps=0.2, widest=50),
    "mixture": Candidate("mixture", {**NORMALS, "components": 40, "prior_variance": 0.02}, 0.15, seeds=4, widest=20),
    "smooth": Candidate("mixture", {**NORMALS, "components": 10, "prior_variance": 0.2}, 0.15, seeds=4, widest=20),
    "alike": Candidate("mixture", {**ALIKE, **WHOLE}, 0.4, seeds=4, widest=8),
}
"""VAEs trained by the MIWAE bound, a wide layer for many columns that go together, and several for few that hang
together in a winding way; one variance a column makes the mean of what is missing the aim, and no narrow peaks. The
same with Student-t columns whose scales follow from what is hidden, as Mattei and Frellsen have it, takes longer. All
conditionals by one network, each of which is learned for itself. Of tables of numbers that are not wide also kernels
about rows, for values that come again, and mixtures of normals, narrower or wider, of which several starts are better
than one; of narrow tables also mixtures whose many components learn one shape that they share. Those that are trained
to the end need no rows to watch training by and learn from these, too; each of them learns something by heart, and
their mean little."""


def fit_for(
    schema: Schema, rows: int, candidates: Mapping[str, Candidate], settings: Mapping[str, Any]
) -> dict[str, Candidate]:
    """The candidates that such a table wants, with settings in place of some of theirs.

    Of a table without real columns those that differ by how these are distributed, or in training, are one. Left out
    are those that are for fewer columns, with more components than rows, or whose model has not the settings or takes
    no such table; but where none would be left, all are kept, so that training says what is wrong.
    """
    real = any(field.kind in CONTINUOUS for field in schema.fields)
    asked = {
        name: replace(own, settings={**(own.settings if real else _without(own.settings, "likelihood")), **settings})
        for name, own in candidates.items()
    }
    seen: list[tuple[str, Mapping[str, Any]]] = []
    for name, own in list(asked.items()):
        model = own.model, own.settings if real else _without(own.settings, "train")
        if model in seen:
            del asked[name]
        seen.append(model)
    narrow = {name: own for name, own in asked.items() if len(schema.fields) <= own.widest}
    few = {name: own for name, own in narrow.items() if own.settings.get("components", 0) <= rows}
    return {name: fits for name, own in few.items() if (fits := _fitting(own, schema)) is not None} or asked


def _without(settings: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Settings but those of a part."""
    return {key: value for key, value in settings.items() if key.partition(".")[0] != part}


def _fitting(candidate: Candidate, schema: Schema) -> Candidate | None:
    """The candidate without settings of training that change nothing for its model; None where the model has not its
    settings, or is none of such a table.
    """
    try:
        model = build(candidate.model, schema, check(candidate.model, candidate.settings, None, {})[0])
    except ConfigError:
        return None
    without = ignored(model)
    heeded = {k: v for k, v in candidate.settings.items() if k.removeprefix("train.") not in without}
    if isinstance(nested := heeded.get("train"), Mapping):
        heeded["train"] = {k: v for k, v in nested.items() if k not in without}
    return replace(candidate, settings=heeded)
