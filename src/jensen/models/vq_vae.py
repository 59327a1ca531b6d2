"""Vector-quantised variational autoencoder: a grid of discrete codes, and an autoregressive prior over them.

    p(x, k) = p(k) p(x | e_k)        h = f(x),  k = argmin_c ‖h − e_c‖ in each cell
    log p(x) ≥ log p(k) + log p(x | e_k)

q gives its code all its mass: log q = 0, and what is scored is a bound. Codes of pictures are a grid, the picture
halved so many times; those of other data a row.

van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", 2017, arXiv:1711.00937.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jensen.conditionals.amortized import Amortized, AmortizedCode, rescaled
from jensen.conditionals.code_priors import code_prior
from jensen.conditionals.heads import Support
from jensen.conditionals.quantizers import Assign, Lookup, Through
from jensen.core import Joint, Model, on
from jensen.data.schema import Schema
from jensen.models.family import given
from jensen.nets.stack import Size
from jensen.objectives.quantized import quantized
from jensen.registry import CausalSlot, Likelihood, Network, QuantizerSlot, model

Halvings = Annotated[int, Field(ge=0, le=8)]
Share = Annotated[float, Field(gt=0, lt=1)]


def arranged(shape: tuple[int, ...], halvings: int, cells: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How the codes of data of that shape are arranged, and the shape of their numbers.

    >>> arranged((1, 28, 28), 2, 8), arranged((14,), 2, 8)
    (((7, 7), (1, 7, 7)), ((8,), (8,)))
    """
    if len(shape) != 3:
        return (cells,), (cells,)
    grid = tuple(-(-size // 2**halvings) for size in shape[1:])
    return grid, (1, *grid)


@model("vqvae", paper="van den Oord, Vinyals and Kavukcuoglu 2017, arXiv:1711.00937")
def vqvae(
    schema: Schema,
    *,
    halvings: Halvings = 2,
    cells: Size = 8,
    quantizer: QuantizerSlot = "ema",
    encoder: Network = "resconv",
    decoder: Network = "resconv",
    prior: CausalSlot = "pixelcnn",
    likelihood: Likelihood = "auto",
    share: Share = 0.5,
    conditional: bool = False,
) -> Model:
    """Vector-quantised autoencoder, and then an autoregressive prior over its codes.

    Settings:
        halvings: how often a picture is halved to get to its grid of codes.
        cells: codes of a datum that is no picture; it takes networks and a prior for rows, as encoder=mlp decoder=mlp
            prior=transformer.
        quantizer: how vectors become codes: "ema" or "codebook", which learn a codebook, or "finite-scalar".
        encoder: network from the datum to a vector in each cell.
        decoder: network of p(x | e).
        prior: the causal network of p(k).
        likelihood: the family of p(x | e); "auto" follows the data.
        share: of the budget that codes and decoder are trained in; the prior has the rest.
        conditional: whether p(k | y) is learned, given the labels; columns that are given condition it in any case.
    """
    support, (parents, context) = Support.of(schema), given(schema, conditional)
    head, codes = likelihood(support), quantizer()
    grid, shape = arranged(support.shape, halvings, cells)
    vectors = (codes.width, *grid)
    p = {
        on("k", *parents): code_prior(prior, codes.codes, shape, context),
        "e | k": Lookup(codes, grid, shape),
        "x | e": Amortized(decoder(vectors, head.parameter_shape), head),
    }
    q = {
        "h | x": AmortizedCode(rescaled(encoder(support.shape, vectors), support)),
        "k | h": Assign(codes, grid, shape),
        "e | h, k": Through(codes, grid, shape),
    }
    return Model(Joint(p), Joint(q), quantized(share))
