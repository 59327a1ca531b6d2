"""Recurrent networks: an unbounded memory in a state of fixed size.

    s_d = f(s_{d−1}, x_{d−1})        p(x) = Π_d p(x_d | s_d)

Cho et al. 2014, arXiv:1406.1078 (GRU); Hochreiter and Schmidhuber 1997 (LSTM); Graves 2013, arXiv:1308.0850 (as a
density of sequences).
"""

from __future__ import annotations

from typing import Literal

from jensen.conditionals.autoregressive import embedding
from jensen.conditionals.heads import Support
from jensen.models.autoregressive import autoregressive
from jensen.nets.causal import SequenceNet
from jensen.nets.recurrent import Recurrent
from jensen.nets.stack import Rate, Size


@autoregressive("rnn", paper="Graves 2013, arXiv:1308.0850")
def rnn(
    support: Support,
    per_element: int,
    context: int,
    *,
    cell: Literal["gru", "lstm"] = "gru",
    width: Size = 128,
    layers: Size = 1,
    dropout: Rate = 0.0,
    weight_dropout: Rate = 0.0,
    positions: bool = True,
    truncate: Size | None = None,
) -> SequenceNet:
    """A recurrent network: each element given a state that has seen all before it.

    Settings:
        cell: gated recurrent unit, or long short-term memory.
        width: of the state of each layer.
        layers: one above the other.
        dropout: share of each layer's outputs dropped in training.
        weight_dropout: share of the weights from state to state dropped in training, against learning by heart.
        positions: whether the network is told where it is: for data whose elements are not alike.
        truncate: how many elements back a gradient reaches, for long rows; the state is carried on. None is to the
            first.
    """
    core = Recurrent(width, layers, cell, dropout, truncate, weight_dropout)
    return SequenceNet(
        support.shape, per_element, embedding(support, width), core, context=context, positions=positions
    )
