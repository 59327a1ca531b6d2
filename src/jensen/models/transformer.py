"""A causal Transformer: each element attends to all before it.

Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762; Radford et al., "Improving language understanding
by generative pre-training", 2018 (as a density of sequences).
"""

from __future__ import annotations

import math

from jensen.conditionals.autoregressive import embedding
from jensen.conditionals.heads import Support
from jensen.errors import ConfigError
from jensen.models.autoregressive import autoregressive
from jensen.nets.causal import SequenceNet
from jensen.nets.stack import Rate, Size
from jensen.nets.transformer import Transformer


@autoregressive("transformer", paper="Vaswani et al. 2017, arXiv:1706.03762")
def transformer(
    support: Support,
    per_element: int,
    context: int,
    *,
    width: Size = 64,
    layers: Size = 2,
    heads: Size = 4,
    dropout: Rate = 0.0,
    positions: bool = True,
) -> SequenceNet:
    """A causal Transformer with rotary positions; work grows with the square of the length.

    Settings:
        width: of the vectors between layers; a multiple of twice the heads.
        layers: blocks of attention and perceptron.
        heads: of the attention.
        dropout: share of each branch's outputs dropped in training.
        positions: whether each position has a vector of its own besides: for data whose elements are not alike.
    """
    if width % (2 * heads):
        raise ConfigError(f"width: expected a multiple of {2 * heads}, twice the heads, got {width}")
    core = Transformer(width, layers, heads, math.prod(support.shape), dropout)
    return SequenceNet(
        support.shape, per_element, embedding(support, width), core, context=context, positions=positions
    )
