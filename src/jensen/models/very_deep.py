"""Very deep variational autoencoder: tens of stochastic layers from the top down, over pictures of many sizes.

    p(x, z) = p(z_T) Π_t p(z_t | h_t) p(x | h_0)        h_{t−1} = block(h_t + V_t z_t)
    q(z | x) = q(z_T | x) Π_t q(z_t | h_t, d_s(x))

The state h_t holds all layers above and is computed once for p and q; d_s(x) is what the way up gives at the size of
the picture at which z_t stands. Below the top every KL term is in closed form given the layers above.

Child, "Very deep VAEs generalize autoregressive models and can outperform them on images", 2021, arXiv:2011.10650.
Vahdat and Kautz, "NVAE: a deep hierarchical variational autoencoder", 2020, arXiv:2007.03898.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from jensen.conditionals.aggregated import completed
from jensen.conditionals.amortized import Amortized, rescaled
from jensen.conditionals.flows import onto
from jensen.conditionals.heads import Support
from jensen.conditionals.hierarchy import Joined, Node, Sizes, Through
from jensen.conditionals.posteriors import diagonal
from jensen.core import Joint, Model, on
from jensen.data.schema import Schema
from jensen.nets.bottleneck import Bottleneck, StateAfter, enter, leave
from jensen.nets.convolutional import halves
from jensen.nets.resnet import Resized
from jensen.registry import Likelihood, Objective, Prior, model

Count = Annotated[int, Field(ge=1)]


@model("very-deep", paper="Child 2021, arXiv:2011.10650")
def very_deep(
    schema: Schema,
    *,
    layers: Sizes = [2, 4, 6, 8],
    latents: Count = 8,
    channels: Count = 48,
    middle: Count = 24,
    light: bool = False,
    prior: Prior = "normal",
    likelihood: Likelihood = "auto",
    objective: Objective = "elbo",
) -> Model:
    """Very deep VAE: residual blocks from the top down over many sizes of the picture, a stochastic layer in each.

    Settings:
        layers: stochastic layers at each size of the picture, from its own on; each size is half the one before.
        latents: channels of each z_t.
        channels: of the states h and d.
        middle: channels inside a residual block.
        light: keep less for the backward pass and compute it again, which takes less memory and more time.
        prior: p(z_T), over the smallest picture.
        likelihood: the family of p(x | z); "auto" follows the data.
        objective: what training maximises.
    """
    support = Support.of(schema)
    picture = support.shape if len(support.shape) == 3 else (*support.shape, 1, 1)
    head, places, depth = likelihood(support), halves(picture, len(layers) - 1), sum(layers)
    scales = [s for s, count in enumerate(layers) for _ in range(count)]  # of z_1, z_2, ...

    def block(size: tuple[int, int]) -> Bottleneck:
        return Bottleneck(channels, middle, size, depth, light)

    def normal(size: tuple[int, int], inputs: int, top: nn.Module | None = None) -> Amortized:
        """A normal density of z, given a picture of so many channels; it starts as N(0, I), carried to the prior."""
        z = diagonal((latents, *size))
        z = onto(z, top, (latents, *size)) if top is not None else z
        output = nn.Conv2d(channels, z.parameter_shape[0], 1)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)  # pyright: ignore[reportArgumentType]
        first = [nn.Conv2d(inputs, channels, 1)] if inputs != channels else []
        network = nn.Sequential(*first, block(size), nn.SiLU(), output)
        return Amortized(network, z, Joined() if inputs != channels else None)

    p: dict[str, nn.Module] = {}
    q: dict[str, nn.Module] = {}
    up: list[nn.Module] = []
    for s, (size, count) in enumerate(zip(places, layers, strict=True)):
        start = [Resized(size)] if s else enter(support.shape, channels, size)
        stage = nn.Sequential(*start, *(block(size) for _ in range(max(1, count // 2))))
        up.append(Node(stage if s else rescaled(stage, support)))
        q[on(f"d{s}", f"d{s - 1}" if s else "x")] = up[-1]

    for t in range(depth, 0, -1):
        size, d = places[scales[t - 1]], f"d{scales[t - 1]}"
        z, h = f"z{t}", f"h{t}"
        if t == depth:
            top = prior((latents, *size))
            q[on(z, d)] = normal(size, channels, top)
            p[z] = completed(top, Through([*up, q[on(z, d)]]), support)
        else:
            q[on(z, h, d)], p[on(z, h)] = normal(size, 2 * channels), normal(size, channels)
        project = nn.Conv2d(latents, channels, 1)
        with torch.no_grad():
            project.weight.mul_(1 / math.sqrt(depth))
            project.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        after = Node(StateAfter(project, block(size), places[scales[t - 2]] if t > 1 else size))
        parents = (z,) if t == depth else (z, h)
        q[on(f"h{t - 1}", *parents)] = p[on(f"h{t - 1}", *parents)] = after
    p[on("x", "h0")] = Amortized(leave(channels, head.parameter_shape, places[0]), head)
    del q[on("h0", *(("z1",) if depth == 1 else ("z1", "h1")))]  # p alone needs it
    for part in (*p.values(), *q.values()):
        part.to(memory_format=torch.channels_last)  # pyright: ignore  # a third faster on processors
    trained = objective().of_several(objective.name) if depth > 1 else objective()
    return Model(Joint(p), Joint(q), trained)
