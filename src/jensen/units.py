"""The one place where nats become bits, and what has units of data. Everywhere else log-densities are in nats."""

from __future__ import annotations

import math

LN2 = math.log(2.0)


def bits(nats: float) -> float:
    """An amount of information in bits.

    >>> bits(math.log(256))
    8.0
    """
    return nats / LN2


def bits_per_dim(log_likelihood: float, dims: float) -> float:
    """Bits needed for one dimension of a datum whose log-likelihood, in nats, is given.

    A uniform model over 0..255 spends 8 bits a dimension:

    >>> bits_per_dim(-784 * math.log(256), 784)
    8.0
    """
    if dims <= 0:
        raise ValueError(f"expected dims > 0, got {dims}")
    return -log_likelihood / (dims * LN2)


def perplexity(log_likelihood: float, amount: int) -> float:
    """Among how many equally likely words, say, each was as hard to tell, of a text whose log-likelihood is in nats.

    >>> round(perplexity(-3 * math.log(10), 3), 9)
    10.0
    """
    if amount <= 0:
        raise ValueError(f"expected an amount > 0, got {amount}")
    exponent = -log_likelihood / amount
    return math.exp(exponent) if exponent < 700 else math.inf


def is_bound(name: str) -> bool:
    """Whether a number that is logged is log p(x) or a bound on it."""
    return name in ("elbo", "iw", "log_likelihood")


def is_of_data(name: str) -> bool:
    """Whether a number that is logged is a log density of data, and so changes with their units; not one of codes."""
    return name != "log_prior" and not name.startswith("kl_")
