"""Densities that are independent over the event, and the divergences between them."""

from jensen.distributions.affine import Affine
from jensen.distributions.bernoulli import Bernoulli, ContinuousBernoulli
from jensen.distributions.categorical import Categorical, Symbols, after_end
from jensen.distributions.cells import BoundedLogistic, LogNormal, Names, WholeLogisticMixture
from jensen.distributions.counts import NegativeBinomial, Poisson
from jensen.distributions.element_mixture import ElementMixture
from jensen.distributions.elementwise import Elementwise
from jensen.distributions.kl import Divergence, divergence
from jensen.distributions.logistic import DiscretizedLogistic, MixtureDiscretizedLogistic
from jensen.distributions.mixture import Mixture
from jensen.distributions.normal import DiagonalNormal, Laplace, StandardNormal, StudentT
from jensen.distributions.normal_mixture import NormalMixture
from jensen.distributions.record import Record
from jensen.distributions.uniform import Uniform

__all__ = [
    "Affine",
    "Bernoulli",
    "BoundedLogistic",
    "Categorical",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "Divergence",
    "ElementMixture",
    "Elementwise",
    "Laplace",
    "LogNormal",
    "Mixture",
    "MixtureDiscretizedLogistic",
    "Names",
    "NegativeBinomial",
    "NormalMixture",
    "Poisson",
    "Record",
    "StandardNormal",
    "StudentT",
    "Symbols",
    "Uniform",
    "WholeLogisticMixture",
    "after_end",
    "divergence",
]
