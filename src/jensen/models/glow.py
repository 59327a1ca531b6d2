"""Glow: steps of activation normalisation, an invertible linear map across channels, and an affine coupling.

    step:   h ← exp(s) ⊙ h + b        h ← W h        h_B ← exp(s(h_A)) ⊙ h_B + t(h_A)

At each scale squares of four pixels become channels, some steps follow, and half of the channels are finished: they are
normal given the other half, which goes on. Of a vector W mixes all elements.

Kingma and Dhariwal, "Glow: generative flow with invertible 1×1 convolutions", 2018, arXiv:1807.03039.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from jensen.errors import ConfigError
from jensen.models.flow import flow
from jensen.nets.coupling import conditioner
from jensen.nets.stack import Activation, Size
from jensen.transforms import ActNorm, AffineMap, Composed, LULinear, MultiScale, Squeeze, Transform
from jensen.transforms.coupling import Coupling, Partition, checkerboard, half
from jensen.transforms.spline import RationalQuadratic

Shape = tuple[int, ...]


@flow("glow", paper="Kingma and Dhariwal 2018, arXiv:1807.03039")
def glow(
    event: Shape,
    context: int,
    *,
    layers: Size = 8,
    hidden: list[Size] = [128, 128],
    scales: Size = 3,
    steps: Size = 8,
    channels: Size = 64,
    blocks: Annotated[int, Field(ge=0)] = 1,
    kernel: Literal[1, 3] = 1,
    activation: Activation = "relu",
    map: Literal["affine", "spline"] = "affine",
    bound: Annotated[float, Field(gt=0)] = 2.0,
    bins: Size = 8,
) -> Transform:
    """Flow of affine couplings between learned mixtures of channels, or of a vector's elements.

    Settings:
        layers: of a vector, steps.
        hidden: of a vector, sizes of the hidden layers of a coupling's network.
        scales: of a picture, times that it is halved, as far as height and width are even.
        steps: of a picture, at each scale.
        channels: of a picture, of a network's hidden layers.
        blocks: of a picture, residual blocks of a network.
        kernel: of a picture, side of the convolutions in the blocks; 1 in the paper.
        activation: of the networks.
        map: "affine", or "spline", rational-quadratic on [-5, 5].
        bound: of |s|, in nats.
        bins: of a spline.
    """
    if len(event) not in (1, 3) or math.prod(event) < 2:
        raise ConfigError(f"glow: expected a vector of two elements or more, or a picture, got events {event}")
    monotone = AffineMap(bound) if map == "affine" else RationalQuadratic(bins)

    def couple(partition: Partition) -> Transform:
        network = conditioner(
            *partition.network_shapes(monotone.size, context),
            hidden=hidden, channels=channels, blocks=blocks, kernel=kernel, activation=activation,
        )  # fmt: skip
        return Coupling(partition, network, monotone)

    def step(shape: Shape, number: int) -> list[Transform]:
        """From the data to the base. A picture of one channel has nothing to mix but its pixels."""
        if shape[0] == 1:
            return [ActNorm(shape), couple(checkerboard(shape, number))]
        return [ActNorm(shape), LULinear(shape), couple(half(shape))]

    if len(event) == 1:
        return Composed(reversed([part for i in range(layers) for part in step(event, i)]))
    levels: list[Transform] = []
    shape = event
    while True:
        channels_, height, width = shape
        even = height % 2 == 0 and width % 2 == 0
        chain: list[Transform] = []
        if even:
            chain.append(Squeeze(shape))
            shape = (4 * channels_, height // 2, width // 2)
        chain += [part for i in range(steps) for part in step(shape, i)]
        last = not even or len(levels) + 1 == scales
        if not last:
            chain.append(couple(half(shape)))  # the normal of what is finished, given what goes on
        levels.append(Composed(reversed(chain)))
        if last:
            return MultiScale(levels)
        shape = (shape[0] // 2, *shape[1:])
