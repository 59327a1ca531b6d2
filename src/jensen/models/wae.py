"""Wasserstein autoencoder: codes of all data together follow the prior, and not each datum's.

    minimise over q, p(x | z)  E_x E_q(z | x)[c(x, z)] + λ D(q(z), p(z))        q(z) = E_x q(z | x)

Where q(z) = p(z), the first term is the cost of carrying the model's data onto the true ones, in the sense of optimal
transport, and its least over q is that of the best plan. c is −log p(x | z) of a likelihood: squared error for a
Gaussian of fixed scale.

Tolstikhin, Bousquet, Gelly and Schölkopf, "Wasserstein auto-encoders", 2018, arXiv:1711.01558.
"""

from typing import Annotated

from pydantic import Field
from torch import nn
from torch.distributions import constraints

from jensen.conditionals.aggregated import completed
from jensen.conditionals.amortized import Amortized, AmortizedCode, rescaled
from jensen.conditionals.flows import carry, onto, support_of
from jensen.conditionals.heads import Support
from jensen.conditionals.posteriors import diagonal
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.objectives.matching import Matching
from jensen.registry import Likelihood, Network, Objective, Prior, model
from jensen.transforms import Composed


class Cost(Amortized):
    """p(x | z) by which c(x, z) = −log p(x | z) is measured."""

    measures_cost = True


@model("wae", paper="Tolstikhin, Bousquet, Gelly and Schölkopf 2018, arXiv:1711.01558")
def wae(
    schema: Schema,
    *,
    latents: Annotated[int, Field(ge=1)] = 16,
    encoder: Network = "mlp",
    decoder: Network = "mlp",
    prior: Prior = "normal",
    stochastic: bool = False,
    likelihood: Likelihood = "auto",
    objective: Objective = "mmd",
) -> Model:
    """Wasserstein autoencoder, by kernel distance or by a critic; it has no likelihood.

    Settings:
        latents: L, dimensions of z.
        encoder: network of q(z | x).
        decoder: network of p(x | z).
        prior: p(z), any that can be drawn from.
        stochastic: whether q(z | x) is a normal density with a diagonal covariance; else z is a function of x.
        likelihood: measures the cost of reconstruction; "auto" follows the data.
        objective: how codes are matched to the prior, mmd or adversarial.
    """
    support, z, trained = Support.of(schema, symbols=True), (latents,), objective()
    if not isinstance(trained, Matching):
        raise ConfigError(f"objective: a Wasserstein autoencoder takes mmd or adversarial, got {objective.name!r}")
    head, p_z = likelihood(support), prior(z)
    if stochastic:
        code = onto(diagonal(z), p_z, z)
        q_z = Amortized(rescaled(encoder(support.shape, code.parameter_shape), support), code)
        p_z = completed(p_z, q_z, support)
    else:
        if getattr(p_z, "needs_posterior", False):
            raise ConfigError(f"prior: {prior.name!r} is made of densities q(z | x); it takes stochastic=true")
        maps = carry(constraints.real, support_of(p_z), z)
        network = rescaled(encoder(support.shape, z), support)
        q_z = AmortizedCode(nn.Sequential(network, Composed(maps)) if maps else network)
    p = Joint({"z": p_z, "x | z": Cost(decoder(z, head.parameter_shape), head)})
    return Model(p, Joint({"z | x": q_z}), trained)
