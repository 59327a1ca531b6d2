"""Self-supervised variational autoencoder: a poorer picture of the datum, a view of it, is generated first.

    p(x, y, z, u) = p(u) p(y | u) p(z | y, u) p(x | y, z)        q(y, u, z | x) = 1[y = v(x)] q(u | y) q(z | x, y)

    log p(x) ≥ E_q[log p(y | u) + log p(x | y, z)] − KL(q(u | y) ‖ p(u)) − E_q KL(q(z | x, y) ‖ p(z | y, u)),  y = v(x)

A view is discrete, so that log q(y | x) = 0. With several levels it is viewed again, y_{k+1} = v'(y_k), y_0 = x:

    p(u) p(y_K | u) Π_k p(z_k | y_k, z_{k+1}) p(y_{k−1} | y_k, z_k),  z_{K+1} = u

From a small picture or a sketch y the model makes a large one: u ~ q(u | y), z ~ p(z | y, u), x ~ p(x | y, z).

Gatopoulos and Tomczak, "Self-supervised variational auto-encoders", 2020, arXiv:2010.02014.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from jensen.conditionals.aggregated import completed
from jensen.conditionals.amortized import Amortized, Build, Rescale, encoding
from jensen.conditionals.flows import onto
from jensen.conditionals.heads import Head, Support
from jensen.conditionals.posteriors import diagonal
from jensen.conditionals.views import viewed
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.nets.reading import Reader
from jensen.nets.resnet import resize
from jensen.registry import Likelihood, Network, Objective, Prior, ViewSlot, model

SHRUNK = 4  # how many times smaller the picture of u is than y, and that of z than what it adds to


@model("self-vae", paper="Gatopoulos and Tomczak 2020, arXiv:2010.02014")
def self_vae(
    schema: Schema,
    *,
    latents: Annotated[int, Field(ge=1)] = 32,
    details: Annotated[int, Field(ge=0)] = 8,
    depth: Annotated[int, Field(ge=1, le=8)] = 1,
    view: ViewSlot = "downscale",
    coarser: ViewSlot = "downscale",
    encoder: Network = "resnet",
    decoder: Network = "resnet",
    prior: Prior = "normal",
    likelihood: Likelihood = "auto",
    view_likelihood: Likelihood = "auto",
    objective: Objective = "elbo",
) -> Model:
    """Self-supervised VAE: it generates a small picture or a sketch of the datum, and from that the datum.

    Settings:
        latents: channels of u, a picture of a quarter of the height and width of the last view.
        details: channels of z, what is to be added to a view, a picture of a quarter of the size of what is made;
            0 leaves it out, p(u) p(y | u) p(x | y).
        depth: K, views in a row.
        view: y_1, a view of the datum.
        coarser: each further view, y_{k+1} of y_k.
        encoder: networks of q(u | y) and q(z | x, y).
        decoder: networks of p(y | u), p(z | y, u) and p(x | y, z).
        prior: p(u).
        likelihood: the family of p(x | y, z); "auto" follows the data.
        view_likelihood: the family of p(y | u), and of each further view; "auto" follows the view.
        objective: what training maximises.
    """
    support = Support.of(schema)
    views, of = [], [support]
    for k in range(depth):
        views.append(viewed(coarser if k else view, of[-1]))
        of.append(views[-1].support)
    y, z = ([f"{name}{k + 1}" for k in range(depth)] for name in "yz")
    x = ["x", *y]  # what y_k is a view of

    top = _smaller(of[-1], latents)
    p_u = prior(top.shape)
    code = onto(diagonal(top.shape), p_u, top.shape)
    q_u = encoding(encoder, of[-1], code)
    p: dict[str, nn.Module] = {"u": completed(p_u, q_u, of[-1], view=nn.Sequential(*views))}
    q: dict[str, nn.Module] = {f"{y[k]} | {x[k]}": views[k] for k in range(depth)}
    q[f"u | {y[-1]}"] = q_u
    p[f"{y[-1]} | u"] = _planes(decoder, [top], view_likelihood(of[-1]))
    above = "u", top
    for k in reversed(range(depth)):
        head = view_likelihood(of[k]) if k else likelihood(of[k])
        if not details:
            p[f"{x[k]} | {y[k]}"] = _planes(decoder, [of[k + 1]], head)
            continue
        hidden = _smaller(of[k], details)
        normal = diagonal(hidden.shape)
        p[f"{z[k]} | {y[k]}, {above[0]}"] = _planes(decoder, [of[k + 1], above[1]], normal)
        q[f"{z[k]} | {x[k]}, {y[k]}"] = _planes(encoder, [of[k], of[k + 1]], diagonal(hidden.shape))
        p[f"{x[k]} | {y[k]}, {z[k]}"] = _planes(decoder, [of[k + 1], hidden], head)
        above = z[k], hidden
    return Model(Joint(p), Joint(q), objective().of_several(objective.name))


class Planes(nn.Module):
    """Pictures beside one another, as planes at the size of the largest, levels rescaled to −1..1.

    Args:
        supports: what each of them can be.
    """

    def __init__(self, supports: Sequence[Support]):
        super().__init__()
        self.first = nn.ModuleList(Rescale(s.levels or 2) if s.kind == "levels" else nn.Identity() for s in supports)
        height, width = (max(s.shape[i] for s in supports) for i in (1, 2))
        self.shape = (sum(s.shape[0] for s in supports), height, width)

    def forward(self, *pictures: Tensor) -> Tensor:
        size = self.shape[1:]
        return torch.cat([resize(first(x), size) for first, x in zip(self.first, pictures, strict=True)], 1)


def _planes(network: Build, supports: Sequence[Support], head: Head) -> Amortized:
    """A conditional given pictures of these supports."""
    join = Planes(supports)
    built = network(join.shape, head.parameter_shape)
    if isinstance(built, Reader):
        raise ConfigError("encoder, decoder: expected networks of pictures, got one that reads a row of symbols")
    return Amortized(built, head, join)


def _smaller(support: Support, channels: int) -> Support:
    """Real numbers, so many channels of them, on a grid that many times smaller, rounded up."""
    _, height, width = support.shape
    return Support("real", (channels, -(-height // SHRUNK), -(-width // SHRUNK)))
