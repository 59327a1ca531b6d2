"""Diffusion: a very deep variational autoencoder whose encoder is fixed, and adds noise.

    q(z | x) = q(z_1 | x) Π_t q(z_t | z_{t−1})                q(z_t | x) = N(α_t x, σ_t²)
    p(x, z)  = N(z_T | 0, I) Π_t p(z_{t−1} | z_t) p(x | z_1)    p(z_{t−1} | z_t) = N(μ(z_t, x̂(z_t, t)), diag)

Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli, "Deep unsupervised learning using nonequilibrium thermodynamics",
2015, arXiv:1503.03585; Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239; Kingma,
Salimans, Poole and Ho, "Variational diffusion models", 2021, arXiv:2107.00630.
"""

from typing import Annotated

from pydantic import Field

from jensen.conditionals.denoising import Denoiser, Denoising, FirstStep, Known, Predict, Variance
from jensen.conditionals.heads import Support
from jensen.conditionals.noising import Features, Noising, Schedule, ScheduleName
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.models.family import given
from jensen.nets.stack import Rate
from jensen.objectives.diffusion import Weighting
from jensen.objectives.diffusion import diffusion as objective
from jensen.registry import Likelihood, Network, model


@model("diffusion", paper="Ho, Jain and Abbeel 2020, arXiv:2006.11239; Kingma et al. 2021, arXiv:2107.00630")
def diffusion(
    schema: Schema,
    *,
    network: Network = "auto",
    steps: Annotated[int, Field(ge=1, le=10_000)] = 100,
    noising: ScheduleName = "cosine",
    predict: Predict = "v",
    variance: Variance = "learned",
    weighting: Weighting = "bound",
    likelihood: Likelihood = "auto",
    conditional: bool = False,
    label_dropout: Rate = 0.1,
) -> Model:
    """Diffusion: data come about from noise in many small steps, each of which a network takes part of the noise away.

    Settings:
        network: what sees z_t and t. "auto" is a U-Net for pictures and a residual perceptron for all else.
        steps: T, of the chain. A score and a sample take as many passes of the network; training one for each datum.
        noising: the schedule of the noise, from almost none to nothing else: cosine (Nichol and Dhariwal 2021,
            arXiv:2102.09672), linear in its rate (Ho et al. 2020), or learned, each step of it, by the bound.
        predict: what the network puts out, the noise, x or v = α ε − σ x (Salimans and Ho 2022, arXiv:2202.00512), of
            which the other two follow.
        variance: of p's steps: learned, for each element between the two that follow; small, that of
            q(z_{t−1} | z_t, x), as if x were known; or large, that of a step of q forwards.
        weighting: of the steps in training, by the bound, or "simple": squared errors of what is predicted count
            alike, which spends less on the finest detail, for better-looking samples at a worse bound.
        likelihood: p(x | z_1), after the last step; "auto" follows the data.
        conditional: whether p(x | y) is learned, given the labels; columns that are given condition it in any case.
        label_dropout: share of data whose conditions are hidden in training, so that sampling can be guided.
    """
    if noising == "learned" and weighting == "simple":
        raise ConfigError("noising: a learned schedule follows the bound; it takes weighting=bound")
    support, (parents, context) = Support.of(schema), given(schema, conditional)
    head, features, gamma = likelihood(support), Features(support), Schedule(steps, noising)
    if head.parameter_shape != (head.per_element * support.shape[0], *support.shape[1:]):
        raise ConfigError(f"likelihood: {likelihood.name!r} has a network of its own; take one of elements alone")
    known = None if context is None else Known(context, label_dropout)
    denoiser = Denoiser(
        network, gamma, support.shape, head.per_element, known.size if known else 0, predict, variance, features.limit
    )
    p = Joint(
        {
            f"z | {', '.join(parents)}" if parents else "z": Denoising(denoiser, known),
            f"x | {', '.join(['z', *parents])}": FirstStep(denoiser, known, head, features),
        }
    )
    return Model(p, Joint({"z | x": Noising(features, gamma, len(support.shape))}), objective(weighting))
