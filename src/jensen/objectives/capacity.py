"""A code of controlled capacity: its KL is held at C nats, and C rises.

    maximise  E_q[log p(x | z)] − γ |KL(q(z | x) ‖ p(z)) − C|

Burgess et al., "Understanding disentangling in β-VAE", 2018, arXiv:1804.03599.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from jensen.core import Evidence
from jensen.objectives.phases import Batch, Objective, weighted_mean
from jensen.objectives.regularised import Cost, regularised
from jensen.registry import component

NonNegative = Annotated[float, Field(ge=0)]


@component("objective", "capacity", paper="Burgess et al. 2018, arXiv:1804.03599")
def capacity(
    *, gamma: NonNegative = 1000.0, capacity: NonNegative = 25.0, warmup: Annotated[float, Field(ge=0, lt=1)] = 0.5
) -> Objective:
    """Maximise reconstruction at a KL held near a capacity C, in nats, that rises from 0.

    Settings:
        gamma: weight γ of |KL − C|, the KL averaged over the batch.
        capacity: C where it ends, in nats.
        warmup: share of training over which C rises linearly from 0.
    """

    def cost(e: Evidence, kl: Tensor, batch: Batch, rise: float) -> Cost:
        return Cost(gamma * (weighted_mean(kl, batch) - rise * capacity).abs(), {})

    return regularised("capacity", cost, warmup, several=True)
