"""VAE of rows whose gaps may say what was in them: not-MIWAE.

    p(z) p(w | z) p(seen | w)        w the whole row; x is w where it was seen
    q(z | x, seen) q(w | z),         q(w | z) = p(w | z) in what was not seen

where h are the parameters of p(w | z). The weight of a draw is p(x | z) p(z) p(seen | w) / q(z | x, seen): what is
drawn into a gap must explain the gap.
Where p(seen | w) does not depend on w, gaps say nothing, and this is MIWAE.

Ipsen, Mattei and Frellsen, "not-MIWAE: deep generative modelling with missing not at random data", 2021,
arXiv:2006.12871.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from jensen.conditionals.aggregated import completed
from jensen.conditionals.amortized import encoding
from jensen.conditionals.completion import Completed, Seen
from jensen.conditionals.flows import onto
from jensen.conditionals.heads import Head, Support
from jensen.conditionals.hierarchy import Node
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.registry import Likelihood, Missingness, Network, Objective, Posterior, Prior, model


class Rest(nn.Module):
    """q(w | h, x, seen): x where it was seen, and p(w | h) elsewhere, by the same head."""

    is_noise = True  # w represents nothing but the row itself
    completes = True

    def __init__(self, head: Head):
        super().__init__()
        self.head = head

    def forward(self, h: Tensor, x: Tensor, seen: Tensor) -> Completed:
        return Completed(self.head(h), x, seen)


@model("not-miwae", paper="Ipsen, Mattei and Frellsen 2021, arXiv:2006.12871", toy="table with gaps")
def not_miwae(
    schema: Schema,
    *,
    latents: Annotated[int, Field(ge=1)] = 10,
    encoder: Network = "mlp",
    decoder: Network = "mlp",
    prior: Prior = "normal",
    posterior: Posterior = "diagonal",
    likelihood: Likelihood = "auto",
    missingness: Missingness = "self-masking",
    objective: Objective = "iw",
) -> Model:
    """Variational autoencoder of real columns with gaps that depend on what is missing.

    Its score is of the cells that were seen and of which they are, log p(x, seen).

    Settings:
        latents: L, dimensions of z.
        encoder: network of q(z | x, seen).
        decoder: network of p(w | z).
        prior: p(z).
        posterior: the family of q(z | x, seen).
        likelihood: the family of p(w | z).
        missingness: the model of p(seen | w).
        objective: what training maximises.
    """
    support, z = Support.of(schema, gaps=True), (latents,)
    if support.kind != "real" or not support.gaps:
        what = "no gaps" if not support.gaps else f"{support.kind} columns"
        raise ConfigError(
            f"not-miwae: expected a table of real columns with gaps, whose draws carry a gradient; got {what}"
        )
    whole = replace(support, gaps=False)
    head, p_z = likelihood(whole), prior(z)
    decoded = {"h | z": Node(decoder(z, head.parameter_shape))}
    why = missingness(support.shape[0])
    q_z = encoding(encoder, support, onto(posterior(z), p_z, z))
    p = Joint(
        {"z": completed(p_z, q_z, support), **decoded, "w | h": head, "x | w": Seen(whole=False), "seen | w": why}
    )
    q = Joint({"z | x, seen": q_z, **decoded, "w | h, x, seen": Rest(head)})
    return Model(p, q, objective().of_several(objective.name))
