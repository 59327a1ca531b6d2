"""Kullback-Leibler divergences: closed forms where they are known, Monte Carlo elsewhere."""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.distributions.affine import Affine
from jensen.distributions.bernoulli import Bernoulli, ContinuousBernoulli
from jensen.distributions.categorical import Categorical
from jensen.distributions.closed_kl import kl_divergence, register_kl
from jensen.distributions.counts import Poisson
from jensen.distributions.logistic import DiscretizedLogistic, MixtureDiscretizedLogistic
from jensen.distributions.multivariate import FullNormal, LowRankNormal
from jensen.distributions.normal import DiagonalNormal, Laplace, StandardNormal

Levels = Categorical | DiscretizedLogistic | MixtureDiscretizedLogistic


class Divergence(NamedTuple):
    """KL(q‖p) and how it was found."""

    value: Tensor
    """In nats, `(*batch,)`."""
    kind: Literal["closed form", "monte carlo"]
    stderr: Tensor | None
    """Standard error of a Monte Carlo value, `(*batch,)`; None for a closed form."""


def divergence(q: Distribution, p: Distribution, samples: int | None = None) -> Divergence:
    r"""KL(q‖p) = E_q[log q(x) − log p(x)], in nats.

    Args:
        q: the density that the expectation is over.
        p: the other one, of the same event and broadcastable against the batch of `q`.
        samples: draws from `q` for a Monte Carlo estimate (it may come out negative), even where a closed
            form is known. By default the closed form, or 1000 draws where there is none.

    >>> q = DiagonalNormal(torch.ones(1, 2), torch.ones(2))
    >>> divergence(q, StandardNormal(torch.zeros(2), torch.ones(2)))
    Divergence(value=tensor([1.]), kind='closed form', stderr=None)
    """
    if samples is None:
        try:
            return Divergence(kl_divergence(q, p), "closed form", None)
        except NotImplementedError:
            samples = 1000
    if samples < 2:
        raise ValueError(f"samples: expected at least 2, for a standard error, got {samples}")
    terms = _log_ratio(q, p, samples)
    return Divergence(terms.mean(0), "monte carlo", terms.std(0) / samples**0.5)


def _log_ratio(q: Distribution, p: Distribution, samples: int) -> Tensor:
    """log q − log p at draws from q, `(samples, *batch)`."""
    shape = torch.Size((samples,))
    if hasattr(q, "rsample_and_log_prob"):
        value, log_q = q.rsample_and_log_prob(shape)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        value = q.rsample(shape) if q.has_rsample else q.sample(shape)
        log_q = q.log_prob(value)
    return log_q - p.log_prob(value)


@register_kl(DiagonalNormal, DiagonalNormal)
def _normal_normal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    """½ Σ (σ_q² + (μ_q − μ_p)²)/σ_p² − 1 − 2 log(σ_q/σ_p)."""
    ratio = q.scale / p.scale
    distance = (q.loc - p.loc) / p.scale
    return 0.5 * q._sum(ratio.square() + distance.square() - 1 - 2 * ratio.log())


@register_kl(DiagonalNormal, StandardNormal)
def _normal_standard(q: DiagonalNormal, p: StandardNormal) -> Tensor:
    """½ Σ σ² + μ² − 1 − 2 log σ."""
    terms = torch.addcmul(torch.addcmul(q.scale.log().mul(-2) - 1, q.scale, q.scale), q.loc, q.loc)
    return 0.5 * q._sum(terms)


@register_kl(FullNormal, DiagonalNormal)
@register_kl(LowRankNormal, DiagonalNormal)
def _correlated_normal(q: FullNormal | LowRankNormal, p: DiagonalNormal) -> Tensor:
    """½ (Σ_d (Σ_dd + (μ_d − m_d)²)/s_d² − 1 + 2 log s_d − log det Σ): p needs no more of q than its variances."""
    if p.event_dims != 1:
        raise NotImplementedError
    terms = (q.variance + (q.loc - p.loc).square()) / p.scale.square() - 1 + 2 * p.scale.log()
    return 0.5 * (terms.sum(-1) - q.log_det)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli_bernoulli(q: Bernoulli, p: Bernoulli) -> Tensor:
    """Σ π log(π/ρ) + (1 − π) log((1 − π)/(1 − ρ)), where π and ρ are the probabilities of a one."""
    log_sigmoid = torch.nn.functional.logsigmoid
    one = q.mean * (log_sigmoid(q.logits) - log_sigmoid(p.logits))
    zero = (-q.logits).sigmoid() * (log_sigmoid(-q.logits) - log_sigmoid(-p.logits))
    return q._sum(one + zero)


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_continuous(q: ContinuousBernoulli, p: ContinuousBernoulli) -> Tensor:
    """Σ A'(l_q) (l_q − l_p) − A(l_q) + A(l_p)."""
    return q._sum(q.mean * (q.logits - p.logits) - q.log_normalizer() + p.log_normalizer())


@register_kl(Laplace, Laplace)
def _laplace_laplace(q: Laplace, p: Laplace) -> Tensor:
    """Σ r exp(−d) + d′ − 1 − log r, with r = s_q/s_p, d = |μ_q − μ_p|/s_q and d′ the same over s_p."""
    ratio, distance = q.scale / p.scale, (q.loc - p.loc).abs()
    return q._sum(ratio * torch.exp(-distance / q.scale) + distance / p.scale - 1 - ratio.log())


@register_kl(Poisson, Poisson)
def _poisson_poisson(q: Poisson, p: Poisson) -> Tensor:
    """Σ λ_p − λ_q + λ_q log(λ_q/λ_p) = λ_q (expm1(t) − t) with t = log(λ_p/λ_q)."""
    t = p.log_rate - q.log_rate
    return q._sum(q.log_rate.exp() * (torch.expm1(t) - t))


@register_kl(Categorical, Categorical)
def _categorical_categorical(q: Categorical, p: Categorical) -> Tensor:
    """Σ_d Σ_c q_c (log q_c − log p_c)."""
    if q.levels != p.levels:
        raise ValueError(f"expected as many classes in p as in q, {q.levels}, got {p.levels}")
    log_q = q.logits.log_softmax(-1)
    return q._sum((log_q.exp() * (log_q - p.logits.log_softmax(-1))).sum(-1))


@register_kl(Affine, Affine)
def _affine_affine(q: Affine, p: Affine) -> Tensor:
    """In the same units, the divergence of what is underneath: KL does not depend on them."""
    if not (_same(q.shift, p.shift) and _same(q.scale, p.scale)):
        raise NotImplementedError
    return kl_divergence(q.base, p.base)


def _same(a: float | Tensor, b: float | Tensor) -> bool:
    return a is b or torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def _levels_levels(q: Levels, p: Levels) -> Tensor:
    """Σ_d Σ_x q(x) (log q(x) − log p(x)), level by level: all at once would take L times the memory."""
    if q.levels != p.levels:
        raise ValueError(f"expected densities over the same levels, got {q.levels} and {p.levels}")
    terms = zero = getattr(q, next(iter(q.parameter_dims))).new_zeros(())
    for level in range(q.levels):
        log_q = q.log_prob_terms(zero + level)
        terms = terms + log_q.exp() * (log_q - p.log_prob_terms(zero + level))
    return q._sum(terms)


for _q, _p in itertools.product(get_args(Levels), repeat=2):
    if (_q, _p) != (Categorical, Categorical):
        register_kl(_q, _p)(_levels_levels)
