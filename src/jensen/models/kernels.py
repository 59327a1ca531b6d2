"""Kernel conditional densities: what rows like this one hold, with a learned sense of what is like.

    p(x_d | x_o) = Σ_i w_i(x_o) K_d(x_d − x_id),    i over training rows        p(x) by a product in an order    exact

Rows with gaps are data like any other, on both sides: what is missing is never looked at.

Rosenblatt, "Conditional probability density and regression estimators", 1969.
Hall, Racine and Li, "Cross-validation and the estimation of conditional probability densities", JASA 99(468), 2004.
Uria, Murray and Larochelle, "A deep and tractable density estimator", 2014, arXiv:1310.1757: training in all orders.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from jensen.conditionals.heads import Support
from jensen.conditionals.kernels import Kernels
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.nets.stack import Size
from jensen.objectives import Batch
from jensen.objectives.likelihood import maximum_likelihood
from jensen.registry import model

MOST, NUMBERS = 2000, 100_000  # rows that are kept by default, and numbers in them: of wide tables fewer rows
LOOKS = 4  # passes with each datum in validation


@model("kernels", paper="Rosenblatt 1969; Hall, Racine and Li 2004, JASA 99(468)", toy="table")
def kernels(
    schema: Schema,
    *,
    rows: Annotated[int, Field(ge=2)] | None = None,
    orderings: Size = 1,
    passes: Size = 1,
    min_scale: Annotated[float, Field(gt=0, lt=1)] = 0.003,
) -> Model:
    """Kernel conditional densities of tables of numbers, with gaps or without. The training rows are part of the model.

    A score takes D passes for each order, and a sample D steps; a guess at what is missing takes one.

    Settings:
        rows: how many training rows are kept, of more as many at random; none is 2,000, of more than 50 columns fewer.
        orderings: how many orders, drawn at random, the density is the average of.
        passes: with each datum in a step of training, with more and more of it shown.
        min_scale: the floor under the scales of kernels, in prepared units; it bounds the density where values repeat.
    """
    support = Support.of(schema, gaps=True)
    if support.kind != "real" or len(support.shape) != 1:
        raise ConfigError(f"kernels: tables of real numbers only, got {support.kind} data; nade takes others")
    dims = support.shape[0]
    kept = rows or max(2, min(MOST, NUMBERS // dims))
    orders = torch.stack([torch.randperm(dims) for _ in range(orderings)])
    p = Kernels(dims, kept, orders, passes, support.gaps, min_scale)
    cost = max(1.0, LOOKS / (3 * passes))  # a pass without a gradient costs a third
    objective = replace(maximum_likelihood(), validate=by_others, validation_cost=cost, validation_estimates=True)
    return Model(Joint({"x": p}), objective=objective)


def by_others(model: Model, batch: Batch) -> dict[str, Tensor]:
    """log p(x) of each datum estimated as in training, (B,), in nats: a row that is kept is told by the others.

    Told by itself as well, where there is nothing but training data to validate on, it would be best told untrained.
    """
    module = model.p["x"].module.train()
    looks = [model.evidence(batch).elbo() for _ in range(LOOKS)]
    module.eval()
    return {"log_likelihood": torch.stack(looks).mean(0)}


kernels.takes_any_part = True  # pyright: ignore[reportFunctionMemberAccess]
