"""RealNVP: affine couplings between complementary parts of the data.

    x_A = z_A        x_B = exp(s(z_A)) ⊙ z_B + t(z_A)        log |det ∂x/∂z| = Σ s

Pictures are taken apart first by the colours of a checkerboard; then squares of four pixels become channels, which are
taken apart in turn; then half of the channels are finished and the others go on at the next scale, z = (z₁, …, z_L).

Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017, arXiv:1605.08803. Here activation
normalisation stands in place of batch normalisation, and s is bounded softly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from jensen.errors import ConfigError
from jensen.models.flow import flow
from jensen.nets.coupling import conditioner
from jensen.nets.stack import Activation, Size
from jensen.transforms import ActNorm, AffineMap, Composed, MultiScale, Squeeze, Transform
from jensen.transforms.coupling import Coupling, Partition, alternating, checkerboard, half
from jensen.transforms.permutation import evens_first
from jensen.transforms.spline import RationalQuadratic

Shape = tuple[int, ...]


@flow("realnvp", paper="Dinh, Sohl-Dickstein and Bengio 2017, arXiv:1605.08803")
def realnvp(
    event: Shape,
    context: int,
    *,
    layers: Size = 8,
    hidden: list[Size] = [128, 128],
    scales: Size = 3,
    couplings: Size = 3,
    channels: Size = 64,
    blocks: Annotated[int, Field(ge=0)] = 1,
    kernel: Literal[1, 3] = 3,
    activation: Activation = "silu",
    map: Literal["affine", "spline"] = "affine",
    bound: Annotated[float, Field(gt=0)] = 2.0,
    bins: Size = 8,
    normalize: bool = True,
) -> Transform:
    """Flow of affine couplings: exact density and sampling in one pass each, of vectors and of pictures.

    Settings:
        layers: of a vector, couplings, which change the elements of even number and of odd number in turn.
        hidden: of a vector, sizes of the hidden layers of a coupling's network.
        scales: of a picture, times that it is halved, as far as height and width are even.
        couplings: of a picture, how many with each kind of mask at each scale.
        channels: of a picture, of a network's hidden layers.
        blocks: of a picture, residual blocks of a network.
        kernel: of a picture, side of the convolutions in the blocks.
        activation: of the networks.
        map: "affine", or "spline", rational-quadratic on [-5, 5].
        bound: of |s|, in nats.
        bins: of a spline.
        normalize: whether activation normalisation stands between couplings.
    """
    if len(event) not in (1, 3) or math.prod(event) < 2:
        raise ConfigError(f"realnvp: expected a vector of two elements or more, or a picture, got events {event}")
    monotone = AffineMap(bound) if map == "affine" else RationalQuadratic(bins)

    def couple(partition: Partition) -> list[Transform]:
        network = conditioner(
            *partition.network_shapes(monotone.size, context),
            hidden=hidden, channels=channels, blocks=blocks, kernel=kernel, activation=activation,
        )  # fmt: skip
        coupling = Coupling(partition, network, monotone)
        return [ActNorm(partition.shape), coupling] if normalize else [coupling]

    if len(event) == 1:
        parts = [part for i in range(layers) for part in couple(half(event, keep_first=i % 2 == 0))]
        return Composed(reversed([evens_first(event), *parts]))
    return MultiScale(_levels(event, scales, couplings, couple))


def _levels(
    shape: Shape, scales: int, couplings: int, couple: Callable[[Partition], list[Transform]]
) -> list[Transform]:
    """From the data to the base: checkerboards, a squeeze, channels; half of the channels go on to the next level."""
    levels: list[Transform] = []
    while len(levels) < scales:
        channels, height, width = shape
        chain: list[Transform] = []
        if height * width > 1:
            chain += [part for i in range(couplings) for part in couple(checkerboard(shape, i))]
        even = height % 2 == 0 and width % 2 == 0
        if even:
            chain.append(Squeeze(shape))
            shape = (4 * channels, height // 2, width // 2)
        if shape[0] > 1:
            chain += [part for i in range(couplings) for part in couple(alternating(shape, i))]
        levels.append(Composed(reversed(chain)))
        if not even:
            break
        shape = (shape[0] // 2, *shape[1:])
    return levels
