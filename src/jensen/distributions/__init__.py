"""Densities that are independent over the event, and the divergences between them."""

from jensen.distributions.bernoulli import Bernoulli, ContinuousBernoulli
from jensen.distributions.elementwise import Elementwise
from jensen.distributions.kl import Divergence, divergence
from jensen.distributions.normal import DiagonalNormal, StandardNormal

__all__ = [
    "Bernoulli",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "Divergence",
    "Elementwise",
    "StandardNormal",
    "divergence",
]
