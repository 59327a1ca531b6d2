"""Orderless NADE: every conditional of a datum by one network, whichever elements are known.

    p(x) = mean over orders σ of Π_i p(x_σ(i) | x_σ(<i))        exact

Rows with gaps are data like any other: what is missing is never looked at, and drawn from p(missing | seen) directly.

Uria, Murray and Larochelle, "A deep and tractable density estimator", 2014, arXiv:1310.1757.
Uria, Côté, Gregor, Murray and Larochelle, "Neural autoregressive distribution estimation", JMLR 17(205), 2016.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from jensen.conditionals.amortized import Beside
from jensen.conditionals.autoregressive import factorised
from jensen.conditionals.heads import Support
from jensen.conditionals.orderless import OrderlessNetwork
from jensen.conditionals.record import cells
from jensen.core import Joint, Model, on
from jensen.data.schema import Schema
from jensen.models.family import given
from jensen.nets.stack import Size
from jensen.objectives.likelihood import maximum_likelihood
from jensen.registry import Likelihood, Network, model


@model("nade", paper="Uria, Murray and Larochelle 2014, arXiv:1310.1757", toy="table")
def nade(
    schema: Schema,
    *,
    network: Network = "residual",
    likelihood: Likelihood = "mixture",
    orderings: Size = 1,
    passes: Size = 4,
    conditional: bool = False,
) -> Model:
    """Orderless NADE: exact densities of rows with or without gaps, and what is missing in one pass.

    A score takes D passes for each order, and a sample D steps; a guess at what is missing takes one.

    Settings:
        network: of the elements that are known, and of which they are, to the density of each.
        likelihood: the family of each element given those that are known.
        orderings: how many orders, drawn at random, the density is the average of.
        passes: with each datum in a step of training, with more and more of it shown.
        conditional: whether p(x | y) is learned, given the labels; columns that are given condition it in any case.
    """
    support, (parents, context) = Support.of(schema, cells=True), given(schema, conditional)
    dims, head = math.prod(support.shape), factorised(likelihood(support), "likelihood")
    first = cells(replace(support, gaps=True))
    assert first is not None
    join = first if context is None else Beside(context, first, own=2)
    inputs = (first.size + (context.size if context is not None else 0),)
    orders = torch.stack([torch.randperm(dims) for _ in range(orderings)])
    cost = max(1.0, dims * orderings / (3 * passes))  # a pass without a gradient costs a third
    p = OrderlessNetwork(network(inputs, head.parameter_shape), join, head, orders, passes, support.gaps)
    return Model(Joint({on("x", *parents): p}), objective=replace(maximum_likelihood(), validation_cost=cost))


nade.takes_any_part = True  # pyright: ignore[reportFunctionMemberAccess]
