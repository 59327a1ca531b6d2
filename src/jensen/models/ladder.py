"""Ladder variational autoencoder: a hierarchy inferred from the top down, with the decoder's own way down.

    p(x, z) = p(z_L) Π_l p(z_l | z_{l+1}) p(x | z_1)
    q(z | x) = q(z_L | x) Π_l q(z_l | z_{l+1}, x),        q(z_l | z_{l+1}, x) ∝ N(z_l; μ̂_l(x), σ̂²_l(x)) p(z_l | z_{l+1})

On the way up d_l = network(d_{l−1}), d_0 = x, gives μ̂_l and σ̂_l; on the way down h_l = network(z_{l+1}) gives the prior
of z_l, which q merges with them: computed once for both. Below the top every KL term is in closed form given the layer
above. Both ways are normalised over the batch: else what tells data apart fades along them, and upper layers are left
unused.

Sønderby, Raiko, Maaløe, Sønderby and Winther, "Ladder variational autoencoders", 2016, arXiv:1602.02282.
"""

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import nn

from jensen.conditionals.aggregated import completed
from jensen.conditionals.amortized import Amortized, decoding, reading
from jensen.conditionals.flows import onto
from jensen.conditionals.heads import Support
from jensen.conditionals.hierarchy import Joined, Merged, Node, Sizes, Through
from jensen.conditionals.posteriors import diagonal
from jensen.core import Joint, Model, on
from jensen.data.schema import Schema
from jensen.models.family import given
from jensen.nets import linear
from jensen.nets.batch_norm import Normalized
from jensen.registry import Likelihood, Network, Objective, Posterior, Prior, model


@model("ladder", paper="Sønderby et al. 2016, arXiv:1602.02282")
def ladder(
    schema: Schema,
    *,
    latents: Sizes = [32, 16],
    features: Annotated[int, Field(ge=1)] = 256,
    encoder: Network = "mlp",
    decoder: Network = "mlp",
    upward: Network = "mlp",
    downward: Network = "mlp",
    batch_norm: bool = True,
    skip: bool = False,
    prior: Prior = "normal",
    posterior: Posterior = "diagonal",
    likelihood: Likelihood = "auto",
    objective: Objective = "elbo",
    conditional: bool = False,
) -> Model:
    """Ladder VAE: any number of stochastic layers, inferred from the top down on the decoder's own way.

    Settings:
        latents: dimensions of z_1, z_2, ..., from the data upwards.
        features: size of each d_l, and of each h_l where they are normalised.
        encoder: network from x to d_1.
        decoder: network of p(x | z_1).
        upward: network from each d_l to d_{l+1}.
        downward: network from each z_{l+1} to h_l, which gives p(z_l | z_{l+1}).
        batch_norm: whether each d_l and h_l is normalised over the batch, with p(z_l | z_{l+1}) linear in h_l.
        skip: whether the data see all layers, p(x | z_1, ..., z_L), and not only the lowest.
        prior: p(z_L).
        posterior: the family of q(z_L | x).
        likelihood: the family of p(x | z_1); "auto" follows the data.
        objective: what training maximises.
        conditional: whether p(x | y) is learned, given the labels; columns that are given condition it in any case.
    """
    support, (parents, context) = Support.of(schema, symbols=True, cells=True), given(schema, conditional)
    head, top = likelihood(support), prior((latents[-1],))
    levels = range(1, len(latents) + 1)
    z, d, h = ([f"{letter}{level}" for level in levels] for letter in "zdh")

    p: dict[str, nn.Module] = {}

    def node(network: nn.Module, join: nn.Module | None = None) -> Node:
        return Node(Normalized(network, features) if batch_norm else network, join)

    first, join = reading(encoder, support, (features,), context)
    up = [node(first, join), *(node(upward((features,), (features,))) for _ in z[1:])]
    q: dict[str, nn.Module] = {on(d[0], *support.parents, *parents): up[0]}
    q |= {on(d[high], d[low]): up[high] for low, high in pairwise(range(len(z)))}

    code = onto(posterior((latents[-1],)), top, (latents[-1],))
    q[on(z[-1], d[-1])] = last = Amortized(linear((features,), code.parameter_shape), code)
    p[z[-1]] = completed(top, Through([*up, last]), support, context.named(parents) if context else None)
    for low, high in reversed(list(pairwise(range(len(z))))):
        size, normal = (latents[high],), diagonal((latents[low],))
        way = downward(size, (features,) if batch_norm else normal.parameter_shape)
        q[on(h[low], z[high])] = p[on(h[low], z[high])] = node(way)
        above = Amortized(linear((features,), normal.parameter_shape), normal) if batch_norm else normal
        p[on(z[low], h[low])] = above
        seen = Amortized(linear((features,), normal.parameter_shape), normal)
        q[on(z[low], h[low], d[low])] = Merged(seen, above)

    below, size = z[0], latents[0]
    if skip:
        below, size = "all", sum(latents)
        p[on(below, *z)] = Node(Joined())
    p[on("x", below, *parents)] = decoding(decoder, (size,), head, context)
    trained = objective().of_several(objective.name) if len(latents) > 1 else objective()
    return Model(Joint(p), Joint(q), trained)
