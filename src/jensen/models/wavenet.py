"""WaveNet: causal convolutions whose dilation doubles from layer to layer.

van den Oord et al., "WaveNet: a generative model for raw audio", 2016, arXiv:1609.03499.
"""

from __future__ import annotations

from jensen.conditionals.autoregressive import embedding
from jensen.conditionals.heads import Support
from jensen.models.autoregressive import autoregressive
from jensen.nets.causal import Dilated, SequenceNet
from jensen.nets.stack import Size


@autoregressive("wavenet", paper="van den Oord et al. 2016, arXiv:1609.03499")
def wavenet(
    support: Support,
    per_element: int,
    context: int,
    *,
    width: Size = 32,
    skip: Size = 64,
    blocks: Size = 2,
    layers: Size = 6,
    positions: bool = True,
) -> SequenceNet:
    """Gated causal convolutions: a long memory, all positions trained at once.

    An element sees 1 + blocks (2^layers − 1) elements before it.

    Settings:
        width: of the vectors between layers.
        skip: of the sum of all layers' outputs, from which the parameters are computed.
        blocks: times that the dilations start again at 1.
        layers: of each block, with dilations 1, 2, 4, ...
        positions: whether the network is told where it is: for data whose elements are not alike.
    """
    core = Dilated(width, skip, blocks, layers)
    return SequenceNet(
        support.shape, per_element, embedding(support, width), core, context=context, positions=positions
    )
