r"""Covariances of the aggregated posterior drawn to the identity: disentangled inferred prior (DIP).

    maximise  ELBO − λ_od Σ_{i≠j} C_ij² − λ_d Σ_i (C_ii − 1)²
    DIP-I     C = Cov_x[μ(x)]
    DIP-II    C = Cov_x[μ(x)] + E_x[Cov(z | x)], the covariance of q(z) = E_x q(z | x)

Kumar, Sattigeri and Balakrishnan, "Variational inference of disentangled latent concepts from unlabeled observations",
2018, arXiv:1711.00848.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution

from jensen.core import Evidence
from jensen.distributions import Elementwise
from jensen.errors import ConfigError
from jensen.objectives.phases import Batch, Objective, weighted_mean
from jensen.objectives.regularised import Cost, one_code, regularised
from jensen.registry import component

NonNegative = Annotated[float, Field(ge=0)]


@component("objective", "dip-vae", paper="Kumar, Sattigeri and Balakrishnan 2018, arXiv:1711.00848")
def dip_vae(
    *,
    variant: Literal["i", "ii"] = "ii",
    off_diagonal: NonNegative = 10.0,
    diagonal: NonNegative | None = None,
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1,
) -> Objective:
    """Maximise the bound, less how far the codes' covariance over the batch is from the identity.

    Settings:
        variant: "i", of the posterior means; "ii", of the aggregated posterior.
        off_diagonal: λ_od, weight of the squared covariances.
        diagonal: λ_d, weight of the squared distances of variances from 1; none is the paper's, 10 λ_od for "i" and
            λ_od for "ii".
        warmup: share of training over which the weight of KL and penalty rises linearly from 0.
    """
    on_diagonal = diagonal if diagonal is not None else {"i": 10.0, "ii": 1.0}[variant] * off_diagonal

    def cost(e: Evidence, kl: Tensor, batch: Batch, rise: float) -> Cost:
        c = code_covariance(e.q[one_code(e, "dip-vae")], batch, within=variant == "ii")
        variances = c.diagonal()
        apart = off_diagonal * (c.square().sum() - variances.square().sum())
        penalty = apart + on_diagonal * (variances - 1).square().sum()
        return Cost(rise * (weighted_mean(kl, batch) + penalty), {"penalty": penalty.detach()})

    return regularised("dip-vae", cost, warmup)


def code_covariance(q: Distribution, batch: Batch, within: bool) -> Tensor:
    """Covariance over the batch of the means of q, (D, D), by the rows' weights; `within` adds the mean covariance.

    Raises:
        ConfigError: q's moments are not known.
    """
    if not (isinstance(q, Elementwise) or hasattr(q, "covariance_matrix")):
        raise ConfigError(
            f"objective: 'dip-vae' needs the moments of q(z | x), and those of a {type(q).__name__} are not known; use "
            "posterior=diagonal"
        )
    n = len(batch["x"])
    mean = q.mean.expand(n, *q.event_shape).flatten(1)
    weight = batch.get("weight", mean.new_ones(n)).to(mean.dtype)
    share = (weight / weight.sum())[:, None]
    centred = mean - (share * mean).sum(0)
    between = centred.mT @ (share * centred)
    if not within:
        return between
    if isinstance(q, Elementwise):
        inside = torch.diag_embed(q.variance.expand(n, *q.event_shape).flatten(1))
    else:
        known: Any = q
        inside = known.covariance_matrix
    return between + (share[..., None] * inside).sum(0)
