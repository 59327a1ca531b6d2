"""Log-linear model of classes.

    p(x, z) = p(z) p(x | z, w)        p(x | z, w) = exp(wᵀ f(x, z)) / Σ_x′ exp(wᵀ f(x′, z))

x and z are discrete and enumerated, so likelihood, posterior and samples are exact. Where z is observed the gradient
of log p(x | z, w) is f(x, z) − E[f(X, z) | z, w]; where it is hidden, expectation maximisation takes the expected
counts of x and z for observed ones. Features of a table are indicators of its columns' values, and products of two of
them, each with weights of its own for every class; with `features=main` this is latent class analysis.

Berg-Kirkpatrick, Bouchard-Côté, DeNero and Klein, "Painless unsupervised learning with features", NAACL 2010.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from jensen.conditionals.features import Crossed
from jensen.conditionals.loglinear import Classes, ClassPosterior, Domain, LogLinear
from jensen.conditionals.matrices import check_sizes
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.objectives import Objective
from jensen.objectives.log_linear import log_linear as objective_of
from jensen.registry import model


@model("log-linear", paper="Berg-Kirkpatrick et al. 2010, NAACL; latent classes: Goodman 1974", toy="whole numbers")
def log_linear(
    schema: Schema,
    *,
    classes: Annotated[int, Field(ge=1)] = 4,
    features: Literal["main", "pairs"] = "pairs",
    shared: bool = False,
    labels: bool = False,
    fit: Literal["em", "gradient"] = "em",
    steps: Annotated[int, Field(ge=1)] = 10,
    l1: Annotated[float, Field(ge=0)] = 0.0,
    l2: Annotated[float, Field(ge=0)] = 1e-4,
    top: Annotated[int, Field(ge=1)] = 9,
) -> Model:
    """Log-linear classes of discrete data, every value enumerated: exact likelihood, posterior and samples.

    Settings:
        classes: K, of z; with `labels`, as many as there are.
        features: "main", indicators of each column's values; "pairs", products of two of them, too.
        shared: whether each feature has a weight that all classes share, beside those of the classes.
        labels: whether z is a row's label, where it has one.
        fit: expectation maximisation, or gradient ascent of log p(x) by the trainer's optimizer.
        steps: of L-BFGS in each M-step.
        l1: λ₁ of the penalty λ₁ ‖w‖₁, in nats a datum; weights become exactly 0 with fit=em only.
        l2: λ₂ of the penalty λ₂/2 ‖w‖²; 0 lets a weight grow without bound where nothing holds it, with a warning.
        top: the highest count that is enumerated, of columns of counts.
    """
    schema.expect_numbers()
    schema.expect_one_kind()
    schema.expect_no_gaps()
    if labels and not schema.classes:
        raise ConfigError("labels: expected data with labels, got none")
    k = len(schema.classes) if labels and schema.classes else classes
    levels = _levels(schema, top)
    check_sizes(math.prod(levels), k, math.prod(levels) * _count(levels, features), _sizes(levels))
    matrix, names = indicators(levels, features, schema.names if not schema.is_image else [])
    of_z = torch.cat([torch.ones(k, 1), torch.eye(k)], 1) if shared else k
    of_z_names = (["all"] if shared else []) + [f"z = {i}" for i in range(k)]
    domain = Domain(levels, schema.event_shape, schema.names if not schema.is_image else [])
    likelihood = LogLinear(Crossed(matrix, of_z, names, class_names=of_z_names), domain)
    return latent_classes({"x": likelihood}, objective_of(fit, l1, l2, steps, labels))


def latent_classes(
    likelihoods: Mapping[str, LogLinear], objective: Objective | None = None, spread: float = 1.0
) -> Model:
    """p(z) Π p(· | z), all of them log-linear given one class, with the exact q(z | ...).

    Weights start at random, so that classes differ: scores wᵀ f have a standard deviation of `spread` over x and z.

    Args:
        likelihoods: by the names of what they explain, `x` among them.

    >>> p = LogLinear(Crossed(np.eye(5), classes=2))
    >>> str(latent_classes({"x": p}))
    'p = (z) (x | z), q = (z | x)'
    """
    parts = list(likelihoods.values())
    prior = Classes(parts[0].classes)
    for name, likelihood in likelihoods.items():
        if likelihood.classes != parts[0].classes:
            raise ConfigError(f"{name}: expected {parts[0].classes} classes as the others, got {likelihood.classes}")
        with torch.no_grad():
            likelihood.weight.normal_()
            likelihood.weight.mul_(spread / likelihood.features.scores(likelihood.weight).std().clamp_min(1e-6))
    p = Joint({"z": prior, **{f"{name} | z": likelihood for name, likelihood in likelihoods.items()}})
    q = Joint({f"z | {', '.join(likelihoods)}": ClassPosterior(prior, *parts)})
    return Model(p, q, objective or objective_of(), data=next(iter(likelihoods)))


def _levels(schema: Schema, top: int) -> list[int]:
    """How many values each element of x has."""
    if schema.kind == "real":
        column = next(field.name for field in schema.fields if field.kind == "real")
        raise ConfigError(
            f"log-linear enumerates x: expected binary columns or counts, got the real column {column!r}; "
            f"whole numbers are counts where kinds='{{{column}: count}}' says so"
        )
    one = top + 1 if schema.kind == "count" else schema.levels or 2
    return [one] * schema.dims


def _sizes(levels: list[int]) -> str:
    return f"{len(levels)} columns of {levels[0]}"


def _count(levels: list[int], features: str) -> int:
    """How many indicators there are."""
    single = [n - 1 for n in levels]
    total, squares = sum(single), sum(n * n for n in single)
    return total + ((total * total - squares) // 2 if features == "pairs" else 0)


def indicators(levels: list[int], features: str, columns: list[str]) -> tuple[np.ndarray, list[str]]:
    """1[x_d = c], c ≥ 1, and products of two of different columns, (X, F), with their names.

    >>> indicators([2, 2], "pairs", ["a", "b"])[1]
    ['a=1', 'b=1', 'a=1 & b=1']
    """
    values = Domain(levels, (len(levels),)).values().numpy()
    columns = columns or [f"x{d}" for d in range(len(levels))]
    at = [(d, c) for d, n in enumerate(levels) for c in range(1, n)]
    single = [values[:, d] == c for d, c in at]
    names = [f"{columns[d]}={c}" for d, c in at]
    chosen = [(i,) for i in range(len(at))]
    if features == "pairs":
        chosen += [(i, j) for i, j in itertools.combinations(range(len(at)), 2) if at[i][0] != at[j][0]]
    matrix = np.empty((len(values), len(chosen)))
    for column, some in enumerate(chosen):
        matrix[:, column] = np.logical_and.reduce([single[i] for i in some])
    return matrix, [" & ".join(names[i] for i in some) for some in chosen]
