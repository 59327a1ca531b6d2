"""Hierarchical variational autoencoder, inferred from the bottom up.

    p(x, z) = p(z_L) p(z_{L−1} | z_L) ⋯ p(z_1 | z_2) p(x | z_1)
    q(z | x) = q(z_1 | x) q(z_2 | z_1) ⋯ q(z_L | z_{L−1})

    log p(x) ≥ E_q[log p(x | z_1) + Σ_l log p(z_l | z_{l+1}) − log q(z_l | z_{l−1})],  z_0 = x

z_2 is drawn from z_1, so that the term of z_1 is a log-ratio by Monte Carlo, and may be negative. The upper layers of
such a model tend to collapse; `ladder` infers from the top down and keeps them.

Rezende, Mohamed and Wierstra, "Stochastic backpropagation and approximate inference in deep generative models", 2014,
arXiv:1401.4082. Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016, arXiv:1509.00519.
"""

from itertools import pairwise

from torch import nn

from jensen.conditionals.aggregated import completed
from jensen.conditionals.amortized import Amortized, decoding, encoding
from jensen.conditionals.flows import onto
from jensen.conditionals.heads import Support
from jensen.conditionals.hierarchy import Drawn, Joined, Node, Sizes
from jensen.conditionals.posteriors import diagonal
from jensen.core import Joint, Model, on
from jensen.data.schema import Schema
from jensen.models.family import given
from jensen.registry import Likelihood, Network, Objective, Posterior, Prior, model


@model("hvae", paper="Rezende, Mohamed and Wierstra 2014, arXiv:1401.4082; Burda et al. 2016, arXiv:1509.00519")
def hvae(
    schema: Schema,
    *,
    latents: Sizes = [32, 16],
    encoder: Network = "mlp",
    decoder: Network = "mlp",
    upward: Network = "mlp",
    downward: Network = "mlp",
    skip: bool = False,
    prior: Prior = "normal",
    posterior: Posterior = "diagonal",
    likelihood: Likelihood = "auto",
    objective: Objective = "elbo",
    conditional: bool = False,
) -> Model:
    """Hierarchical VAE of any number of stochastic layers, inferred from the bottom up.

    Settings:
        latents: dimensions of z_1, z_2, ..., from the data upwards.
        encoder: network of q(z_1 | x).
        decoder: network of p(x | z_1).
        upward: network of each q(z_l | z_{l−1}).
        downward: network of each p(z_l | z_{l+1}), a normal density with a diagonal covariance.
        skip: whether the data see all layers, p(x | z_1, ..., z_L), and not only the lowest.
        prior: p(z_L).
        posterior: the family of each q(z_l | z_{l−1}).
        likelihood: the family of p(x | z_1); "auto" follows the data.
        objective: what training maximises.
        conditional: whether p(x | y) is learned, given the labels; columns that are given condition it in any case.
    """
    support, (parents, context) = Support.of(schema, symbols=True, cells=True), given(schema, conditional)
    head, top = likelihood(support), prior((latents[-1],))
    z = [f"z{level}" for level in range(1, len(latents) + 1)]
    codes = [posterior((n,)) for n in latents]
    normals = [diagonal((n,)) for n in latents[:-1]]
    codes = [onto(code, above, (n,)) for code, above, n in zip(codes, [*normals, top], latents, strict=True)]

    q: dict[str, nn.Module] = {on(z[0], *support.parents, *parents): encoding(encoder, support, codes[0], context)}
    for low, high in pairwise(range(len(latents))):
        q[on(z[high], z[low])] = Amortized(upward((latents[low],), codes[high].parameter_shape), codes[high])
    *lower, last = q.values()
    if lower:
        reads = *support.parents, *parents
        top = completed(top, last, Support("real", (latents[-2],)), view=Drawn(lower), reads=reads)
    else:
        top = completed(top, last, support, context.named(parents) if context else None)
    p: dict[str, nn.Module] = {z[-1]: top}
    for low, high in reversed(list(pairwise(range(len(latents))))):
        normal = normals[low]
        p[on(z[low], z[high])] = Amortized(downward((latents[high],), normal.parameter_shape), normal)
    below, size = z[0], latents[0]
    if skip:
        below, size = "h", sum(latents)
        p[on(below, *z)] = Node(Joined())
    p[on("x", below, *parents)] = decoding(decoder, (size,), head, context)
    trained = objective().of_several(objective.name) if len(latents) > 1 else objective()
    return Model(Joint(p), Joint(q), trained)
