"""A Markov model of finite memory: a perceptron over the last k elements.

    p(x) = Π_d p(x_d | x_{d−k}, ..., x_{d−1})

Bengio et al., "A neural probabilistic language model", JMLR 3, 2003.
"""

from __future__ import annotations

from jensen.conditionals.autoregressive import embedding
from jensen.conditionals.heads import Support
from jensen.models.autoregressive import autoregressive
from jensen.nets.causal import SequenceNet, Window
from jensen.nets.stack import Activation, Size


@autoregressive("markov", paper="Bengio et al. 2003, JMLR 3")
def markov(
    support: Support,
    per_element: int,
    context: int,
    *,
    memory: Size = 8,
    width: Size = 64,
    layers: Size = 2,
    activation: Activation = "relu",
    positions: bool = True,
) -> SequenceNet:
    """A finite memory: each element given the last k, by one perceptron for all positions.

    Settings:
        memory: k.
        width: of the vectors that stand for elements, and of the hidden layers.
        layers: hidden layers.
        activation: of the hidden layers.
        positions: whether the perceptron is told where it is: for data whose elements are not alike.
    """
    core = Window(width, memory, layers, activation)
    return SequenceNet(
        support.shape, per_element, embedding(support, width), core, context=context, positions=positions
    )
