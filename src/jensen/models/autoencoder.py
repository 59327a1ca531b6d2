"""Autoencoder: the limit of a variational autoencoder in which the code has no density.

    maximise E[log p(x | z = f(x))]

With a fixed-variance Gaussian likelihood this is least squares, and with linear networks its code spans the
subspace of principal component analysis (Baldi and Hornik 1989; Bourlard and Kamp 1988). There is no p(z): it
encodes and reconstructs, and has no likelihood and no samples.
"""

from typing import Annotated

from pydantic import Field

from jensen.conditionals.amortized import Amortized, AmortizedCode, rescaled
from jensen.conditionals.heads import Support
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.objectives.reconstruction import reconstruction
from jensen.registry import Likelihood, Network, model


@model("autoencoder", paper="Baldi and Hornik 1989; denoising: Vincent et al. 2008")
def autoencoder(
    schema: Schema,
    *,
    latents: Annotated[int, Field(ge=1)] = 32,
    encoder: Network = "mlp",
    decoder: Network = "mlp",
    likelihood: Likelihood = "auto",
    noise: Annotated[float, Field(ge=0)] = 0.0,
) -> Model:
    """Autoencoder, linear (`encoder=linear decoder=linear`), deep, convolutional or denoising.

    Settings:
        latents: L, dimensions of the code z.
        encoder: network from x to z.
        decoder: network from z to the parameters of p(x | z).
        likelihood: measures the reconstruction; "auto" follows the data.
        noise: standard deviation of Gaussian noise added to the encoder's input in training, in units of the
            input's own; above 0 it is a denoising autoencoder.
    """
    support, z = Support.of(schema, symbols=True), (latents,)
    head = likelihood(support)
    p = Joint({"x | z": Amortized(decoder(z, head.parameter_shape), head)})
    q = Joint({"z | x": AmortizedCode(rescaled(encoder(support.shape, z), support), noise)})
    return Model(p, q, reconstruction())
