"""Variational autoencoder.

    p(x, z) = p(z) p(x | z)        q(z | x) = N(z | μ(x), diag σ²(x))
    log p(x) ≥ E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))

Kingma and Welling, "Auto-encoding variational Bayes", 2014, arXiv:1312.6114.
Rezende, Mohamed and Wierstra, "Stochastic backpropagation", 2014, arXiv:1401.4082.
"""

from typing import Annotated

from pydantic import Field

from jensen.conditionals.aggregated import completed
from jensen.conditionals.amortized import Amortized, rescaled
from jensen.conditionals.flows import onto
from jensen.conditionals.heads import Support
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.registry import Likelihood, Network, Objective, Posterior, Prior, model


@model("vae", paper="Kingma and Welling 2014, arXiv:1312.6114")
def vae(
    schema: Schema,
    *,
    latents: Annotated[int, Field(ge=1)] = 32,
    encoder: Network = "mlp",
    decoder: Network = "mlp",
    prior: Prior = "normal",
    posterior: Posterior = "diagonal",
    likelihood: Likelihood = "auto",
    objective: Objective = "elbo",
) -> Model:
    """Variational autoencoder: any prior, posterior, likelihood, network and objective.

    Settings:
        latents: L, dimensions of z.
        encoder: network of q(z | x).
        decoder: network of p(x | z).
        prior: p(z).
        posterior: the family of q(z | x).
        likelihood: the family of p(x | z); "auto" follows the data.
        objective: what training maximises.
    """
    support, z = Support.of(schema, symbols=True), (latents,)
    head, p_z = likelihood(support), prior(z)
    code = onto(posterior(z), p_z, z)
    q_z = Amortized(rescaled(encoder(support.shape, code.parameter_shape), support), code)
    p = Joint({"z": completed(p_z, q_z, support), "x | z": Amortized(decoder(z, head.parameter_shape), head)})
    return Model(p, Joint({"z | x": q_z}), objective())
