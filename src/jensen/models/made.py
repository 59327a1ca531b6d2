"""MADE: a masked perceptron whose outputs each see only the inputs before them.

    p(x) = Π_d p(x_d | x_<d; W ∘ M)

Germain, Gregor, Murray and Larochelle, "MADE: masked autoencoder for distribution estimation", 2015, arXiv:1502.03509.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from jensen.conditionals.heads import Support, expect_numbers
from jensen.models.autoregressive import autoregressive
from jensen.nets.made import MADE
from jensen.nets.stack import Activation, Size


@autoregressive("made", paper="Germain et al. 2015, arXiv:1502.03509")
def made(
    support: Support,
    per_element: int,
    context: int,
    *,
    hidden: list[Size] = [500],
    activation: Activation = "relu",
    residual: bool = False,
    orderings: Size = 1,
    order: Literal["given", "random", "any"] = "given",
) -> MADE:
    """A masked perceptron: one pass gives all conditionals; a sample computes each hidden unit once.

    Settings:
        hidden: sizes of the hidden layers.
        activation: between the layers.
        residual: whether hidden layers after the first are residual blocks, of equal sizes.
        orderings: how many orders of the elements are trained at once; the density is their average. More than one are
            random orders.
        order: of the elements where there is one: as they come, or at random. "any" trains a fresh order at every step,
            so that whatever is missing can be drawn given the rest, unweighted, under an order that has it first;
            the density is another one, the average over as many random orders as `orderings` says (Uria, Murray and
            Larochelle 2014, arXiv:1310.1757).
    """
    expect_numbers(support, "made")
    dims, at_random = math.prod(support.shape), order != "given" or orderings > 1
    return MADE(
        support.shape,
        per_element,
        hidden,
        context=context,
        activation=activation,
        residual=residual,
        orders=torch.stack([torch.randperm(dims) if at_random else torch.arange(dims) for _ in range(orderings)]),
        any_order=order == "any",
        middle=support.middle,
        unit=support.unit,
        logarithm=support.kind == "count",
    )
