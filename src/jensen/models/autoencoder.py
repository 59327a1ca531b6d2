"""Autoencoder: the limit of a variational autoencoder in which the code has no density.

    maximise  E[log p(x | z = f(x̃))] − λ E ‖∂f/∂x‖²_F − s Ω(z),        x̃ is x with noise, or x itself

With a fixed-variance Gaussian likelihood this is least squares, and with linear networks its code spans the
subspace of principal component analysis (Baldi and Hornik 1989; Bourlard and Kamp 1988). There is no p(z): it
encodes and reconstructs, and has no likelihood and no samples.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from jensen.conditionals.amortized import Amortized, AmortizedCode, rescaled
from jensen.conditionals.corruption import Corruption, corruption
from jensen.conditionals.heads import Support, expect_numbers
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.objectives.reconstruction import Sparsity, contraction, reconstruction, sparsity
from jensen.registry import Likelihood, Network, model

NonNegative = Annotated[float, Field(ge=0)]
ACTIVATIONS = {"linear": nn.Identity, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}


@model(
    "autoencoder",
    paper="Baldi and Hornik 1989; denoising: Vincent et al. 2008; contractive: Rifai et al. 2011; sparse: Ng 2011",
)
def autoencoder(
    schema: Schema,
    *,
    latents: Annotated[int, Field(ge=1)] = 32,
    encoder: Network = "mlp",
    decoder: Network = "mlp",
    likelihood: Likelihood = "auto",
    code: Literal["linear", "sigmoid", "relu"] = "linear",
    noise: NonNegative = 0.0,
    noise_kind: Corruption = "gaussian",
    contractive: NonNegative = 0.0,
    probes: Annotated[int, Field(ge=0)] = 0,
    sparse: NonNegative = 0.0,
    sparse_kind: Sparsity = "l1",
    activity: Annotated[float, Field(gt=0, lt=1)] = 0.05,
) -> Model:
    """Autoencoder: linear (`encoder=linear decoder=linear`), deep, convolutional, denoising, contractive, sparse.

    Settings:
        latents: L, dimensions of the code z.
        encoder: network from x to z.
        decoder: network from z to the parameters of p(x | z).
        likelihood: measures the reconstruction; "auto" follows the data.
        code: what the encoder's output goes through to be the code.
        noise: put on the encoder's input in training; above 0 it is a denoising autoencoder. If Gaussian, its standard
            deviation in units of the input's own; else the share of elements that it takes.
        noise_kind: "gaussian"; "masking" sets elements to 0; "salt-and-pepper" to their smallest or largest value.
        contractive: λ, weight in nats of ‖∂z/∂x‖²_F, x in the units that the encoder sees; above 0 it is contractive.
        probes: random directions a datum by which ‖∂z/∂x‖²_F is estimated without bias; 0 is exact, at one backward
            pass for each dimension of z.
        sparse: s, weight in nats of the penalty on the code; above 0 it is sparse.
        sparse_kind: "l1", Σ |z_l|; "kl", Σ KL(activity ‖ mean of z_l over the batch), for code=sigmoid.
        activity: of "kl", how much a dimension is to be active on average.
    """
    support, z = Support.of(schema, symbols=True), (latents,)
    if sparse and sparse_kind == "kl" and code != "sigmoid":
        raise ConfigError(f"sparse_kind: kl is for activations in (0, 1), as code=sigmoid gives them; code is {code}")
    penalties = {}
    if contractive:
        expect_numbers(support, "contractive")
        penalties["contraction"] = contraction(contractive, probes, support.unit, squashed=support.kind == "count")
    if sparse:
        penalties["sparsity"] = sparsity(sparse, sparse_kind, activity)
    head, network = likelihood(support), rescaled(encoder(support.shape, z), support)
    if code != "linear":
        network = nn.Sequential(network, ACTIVATIONS[code]())
    p = Joint({"x | z": Amortized(decoder(z, head.parameter_shape), head)})
    q = Joint({"z | x": AmortizedCode(network, corruption(noise_kind, noise, support))})
    return Model(p, q, reconstruction(penalties))
