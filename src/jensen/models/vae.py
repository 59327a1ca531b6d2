"""Variational autoencoder.

    p(x, z) = p(z) p(x | z)        q(z | x) = N(z | μ(x), diag σ²(x))
    log p(x) ≥ E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))

Given labels or columns c, all of it is conditional: p(x | z, c), q(z | x, c), and p(z) or p(z | c).

Kingma and Welling, "Auto-encoding variational Bayes", 2014, arXiv:1312.6114.
Rezende, Mohamed and Wierstra, "Stochastic backpropagation", 2014, arXiv:1401.4082.
Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models", NeurIPS 2015.
"""

from typing import Annotated

from pydantic import Field

from jensen.conditionals.aggregated import completed
from jensen.conditionals.amortized import Amortized, decoding, encoding
from jensen.conditionals.flows import Context, onto
from jensen.conditionals.heads import Support
from jensen.conditionals.posteriors import diagonal
from jensen.core import Joint, Model, on
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.models.family import given
from jensen.nets import mlp
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
    conditional: bool = False,
    prior_given: bool = False,
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
        conditional: whether p(x | y) is learned, given the labels; columns that are given condition it in any case.
        prior_given: whether what is given moves the prior, p(z | c) a normal by a small network, in place of `prior`.
    """
    support, z = Support.of(schema, symbols=True, cells=True), (latents,)
    parents, context = given(schema, conditional)
    head, p_z = likelihood(support), prior(z)
    if prior_given:
        p_z = _given(z, prior.name, context)
    code = onto(posterior(z), p_z, z)
    p_x = decoding(decoder, z, head, context)
    q_z = encoding(encoder, support, code, context)
    p_z = completed(p_z, q_z, support, context.named(parents) if context else None)
    p = Joint({on("z", *(parents if prior_given else ())): p_z, on("x", "z", *parents): p_x})
    return Model(p, Joint({on("z", *support.parents, *parents): q_z}), objective())


def _given(z: tuple[int, ...], prior: str, context: Context | None) -> Amortized:
    """p(z | c)."""
    if context is None:
        raise ConfigError("prior_given: nothing is given; name columns with --given, or labels with conditional=true")
    if prior != "normal":
        raise ConfigError(f"prior_given: p(z | c) is a normal, and stands in place of prior={prior}; leave that out")
    head = diagonal(z)
    return Amortized(mlp((context.size,), head.parameter_shape, hidden=[64]), head, context)
