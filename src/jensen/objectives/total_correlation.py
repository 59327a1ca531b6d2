r"""The KL of a code taken apart at the aggregated posterior q(z) = (1/N) Σ_n q(z | x_n):

    E_x KL(q(z | x) ‖ p(z))  =  E log q(z | x)/q(z)  +  E log q(z)/Π_d q(z_d)  +  E log Π_d q(z_d)/p(z)
                                mutual information      total correlation       KL by dimension

    β-TCVAE      maximise  E log p(x | z) − α MI − β TC − γ (KL by dimension), q(z) estimated from a batch
    FactorVAE    maximise  ELBO − γ TC, by the logit of a critic that tells q(z) from Π_d q(z_d)

The sum is the KL whatever estimates q(z), for that cancels. From M rows of N, log q(z_i) is taken as
log Σ_j s_ij q(z_i | x_j), with shares

    stratified   s_ii = 1/N and s_ij = (N − 1)/(N (M − 1)): of mean q(z_i) over batches with x_i in them
    weighted     s_ij = 1/(N M): too low, where all rows are seen by log N

Chen, Li, Grosse and Duvenaud, "Isolating sources of disentanglement in VAEs", 2018, arXiv:1802.04942; Kim and Mnih,
"Disentangling by factorising", 2018, arXiv:1802.05983; Hoffman and Johnson, "ELBO surgery", 2016.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from jensen.core import Evidence, Model
from jensen.distributions import Elementwise
from jensen.errors import ConfigError
from jensen.objectives.critic import Critic
from jensen.objectives.phases import Batch, GradientPhase, Objective, Terms, weighted_mean
from jensen.objectives.regularised import Cost, expect_paths, one_code, regularised
from jensen.registry import Network, component

NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Sampling = Literal["stratified", "weighted"]
BLOCK = 128  # rows whose densities under all posteriors of a batch are computed at once


class Decomposition(NamedTuple):
    """Of the KL of each datum, in nats, (B,): the three sum to log q(z | x) − log p(z)."""

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_kl: Tensor


@component("objective", "beta-tcvae", paper="Chen, Li, Grosse and Duvenaud 2018, arXiv:1802.04942")
def beta_tcvae(
    *,
    alpha: NonNegative = 1.0,
    beta: NonNegative = 6.0,
    gamma: NonNegative = 1.0,
    sampling: Sampling = "stratified",
    warmup: Share = 0.1,
) -> Objective:
    """Maximise the bound with the parts of its KL weighed apart; all three are logged, and their sum is the KL.

    In validation the rows that are measured at once are taken for all the data there are.

    Settings:
        alpha: weight of the mutual information between datum and code.
        beta: weight of the total correlation; the others at 1, 1 is the bound.
        gamma: weight of the KL dimension by dimension.
        sampling: how a batch stands for all the data: "stratified", or "weighted".
        warmup: share of training over which these weights rise linearly from 0.
    """

    def cost(e: Evidence, kl: Tensor, batch: Batch, rise: float) -> Cost:
        parts = decompose(e, one_code(e, "beta-tcvae"), log_shares(batch, sampling))
        value = alpha * parts.mutual_information + beta * parts.total_correlation + gamma * parts.dimension_kl
        logged = {name: weighted_mean(part.detach(), batch) for name, part in parts._asdict().items()}
        return Cost(rise * weighted_mean(value, batch), logged)

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        e = model.evidence(batch)
        name = one_code(e, "beta-tcvae")
        parts = decompose(e, name, log_shares({k: v for k, v in batch.items() if k != "total"}, "stratified"))
        return {
            "elbo": e.elbo(),
            "reconstruction": e.reconstruction(),
            f"kl_{name}": e.kl(name, False),
            **parts._asdict(),
        }

    return regularised("beta-tcvae", cost, warmup, closed=False, validate=validate)


def decompose(e: Evidence, name: str, log_share: Tensor) -> Decomposition:
    """The KL of a hidden variable, taken apart at its aggregated posterior.

    Args:
        e: a walk of one particle.
        log_share: what each datum's posterior counts in the aggregate that a datum's draw is measured by, (B, B).

    Raises:
        ConfigError: the elements of z depend on one another under q.
    """
    q, z = e.q[name], e.values[name]
    if not isinstance(q, Elementwise):
        raise ConfigError(
            f"objective: 'beta-tcvae' needs the density of single elements of {name!r} under q, and a "
            f"{type(q).__name__} has none; use posterior=diagonal, or objective=factor-vae"
        )
    log_joint, log_marginals = aggregate(q, z, log_share)
    log_q, log_p = e.log_q[name][0], e.log_p[name][0]
    return Decomposition(log_q - log_joint, log_joint - log_marginals, log_marginals - log_p)


def aggregate(q: Elementwise, z: Tensor, log_share: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ_j s_ij q(z_i | x_j) and Σ_d log Σ_j s_ij q(z_id | x_j), each (B,); O(B² D) in time and memory."""
    joint, marginals = aggregate_terms(q, z, log_share)
    return joint, marginals.sum(1)


def aggregate_terms(q: Elementwise, z: Tensor, log_share: Tensor) -> tuple[Tensor, Tensor]:
    """As `aggregate`, with log Σ_j s_ij q(z_id | x_j) of each dimension, (B, D)."""
    joint, marginals = [], []
    for rows, shares in zip(z.split(BLOCK), log_share.split(BLOCK), strict=True):
        terms = q.log_prob_terms(rows.unsqueeze(1))
        terms = terms.expand(len(rows), len(z), *q.event_shape).flatten(2)  # (b, B, D)
        joint.append(torch.logsumexp(terms.sum(2) + shares, 1))
        marginals.append(torch.logsumexp(terms + shares.unsqueeze(2), 1))
    return torch.cat(joint), torch.cat(marginals)


def log_shares(batch: Batch, sampling: Sampling) -> Tensor:
    """log s_ij, (B, B), by the rows' weights; a batch that does not say its `total` is taken for all the data."""
    x = batch["x"]
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    weight = batch.get("weight", torch.ones(len(x), dtype=dtype, device=x.device))
    here = weight.sum()
    total = batch.get("total", here)
    if sampling == "weighted":
        return (weight / (len(weight) * total)).log().expand(len(weight), -1)
    own = (weight / total).clamp_max(1.0) if len(weight) > 1 else torch.ones_like(weight)  # alone, it is the aggregate
    others = weight / (here - weight).clamp_min(torch.finfo(weight.dtype).tiny)[:, None]
    shares = (1 - own)[:, None] * others
    return shares.fill_diagonal_(0.0).add(torch.diag(own)).log()


@component("objective", "factor-vae", paper="Kim and Mnih 2018, arXiv:1802.05983")
def factor_vae(
    *,
    gamma: NonNegative = 10.0,
    critic: Network = {"name": "mlp", "hidden": [256, 256, 256], "activation": "leaky-relu"},
    warmup: Share = 0.1,
) -> Objective:
    """Maximise the bound, less the total correlation of the codes, which a critic estimates; any prior and posterior.

    Settings:
        gamma: weight of the total correlation.
        critic: network that tells codes from codes whose elements were exchanged between data; it learns beside the
            model, at the same rate.
        warmup: share of training over which the weight of KL and total correlation rises linearly from 0.
    """
    judge = Critic(critic)

    def cost(e: Evidence, kl: Tensor, batch: Batch, rise: float) -> Cost:
        z = e.values[one_code(e, "factor-vae")]
        correlation = weighted_mean(judge(z), batch)  # log q(z) − log Π_d q(z_d), where the critic is at its best
        value = rise * (weighted_mean(kl, batch) + gamma * correlation)
        return Cost(value, {"total_correlation": correlation.detach()})

    def learn(model: Model, batch: Batch, progress: float) -> Terms:
        with torch.no_grad():
            e, other = model.evidence(batch), model.evidence(batch)
            name = one_code(e, "factor-vae")
            exchanged = exchange(other.values[name], batch.get("weight"))
        real, shuffled = judge(e.values[name]), judge(exchanged)
        loss = 0.5 * (weighted_mean(softplus(-real), batch) + softplus(shuffled).mean())
        return Terms(loss, {"critic": loss.detach()})

    return regularised(
        "factor-vae",
        cost,
        warmup,
        critic=GradientPhase(learn, lambda model: judge.parameters()),
        helpers=judge,
        prepare=lambda model, batch: judge.prepare(code_of(model, batch)),
    )


def code_of(model: Model, batch: Batch) -> Tensor:
    """A draw of the one hidden variable. Raises `ConfigError` where it does not fit."""
    e = model.evidence(batch)
    expect_paths(e, "factor-vae")
    return e.values[one_code(e, "factor-vae")]


def exchange(z: Tensor, weight: Tensor | None = None) -> Tensor:
    """Draws from the product of the marginals: each element of z, (B, *event), taken from a row of its own.

    Rows are permuted for each element, or, where they have weights, drawn by these.
    """
    flat = z.flatten(1)
    if weight is None:
        order = torch.rand(flat.shape, device=z.device).argsort(0)
    else:
        order = torch.multinomial(weight, flat.numel(), replacement=True).view_as(flat)
    return flat.gather(0, order).view_as(z)
