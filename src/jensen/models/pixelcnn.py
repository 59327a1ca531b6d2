"""PixelCNN: pixel by pixel through gated convolutions.

    p(x) = Π_i p(x_i | pixels above, pixels to the left)

van den Oord et al., "Conditional image generation with PixelCNN decoders", 2016, arXiv:1606.05328.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from jensen.conditionals.heads import Support
from jensen.errors import ConfigError
from jensen.models.autoregressive import autoregressive
from jensen.nets.pixelcnn import PixelCNN
from jensen.nets.stack import Rate, Size


def _odd(size: int) -> int:
    if size % 2 == 0 or size < 3:
        raise ValueError("expected an odd number from 3 on")
    return size


Kernel = Annotated[int, AfterValidator(_odd)]


@autoregressive("pixelcnn", paper="van den Oord et al. 2016, arXiv:1606.05328")
def pixelcnn(
    support: Support,
    per_element: int,
    context: int,
    *,
    width: Size = 32,
    layers: Size = 5,
    kernel: Kernel = 3,
    first: Kernel = 7,
    dilations: Annotated[list[Size], Field(min_length=1)] = [1],
    hidden: Size = 64,
    dropout: Rate = 0.0,
) -> PixelCNN:
    """Gated convolutions in two stacks, so that no pixel above or to the left is out of sight.

    Settings:
        width: channels of both stacks.
        layers: of convolutions.
        kernel: size of the convolutions.
        first: size of the first one, which does not see the pixel itself.
        dilations: how far apart the pixels lie that a convolution sees, of the layers after the first in turn: 1, 2, 4
            see far with few weights.
        hidden: units of the perceptron that gives a pixel's parameters, colour by colour.
        dropout: share dropped in training of what each layer adds to the features of a pixel.
    """
    if len(support.shape) != 3:
        raise ConfigError(f"pixelcnn: expected pictures (C, H, W), got data of shape {support.shape}")
    if support.kind == "symbol" and support.shape[0] != 1:
        raise ConfigError(f"pixelcnn: expected one symbol a pixel, got {support.shape[0]}")
    return PixelCNN(
        support.shape,
        per_element,
        width=width,
        layers=layers,
        kernel=kernel,
        first=first,
        dilations=dilations,
        hidden=hidden,
        context=context,
        dropout=dropout,
        middle=support.middle,
        unit=support.unit,
        symbols=support.levels if support.kind == "symbol" else None,
    )
