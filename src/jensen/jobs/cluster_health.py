"""Where a hidden variable is the component of a mixture: which have data, and how well data tell them apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, OneHotCategorical

from jensen.core import Model
from jensen.jobs.finding import Finding

EMPTY_SHARE = 0.01  # of an equal share of the data, below which a component is called empty


def is_component(dist: Distribution | None) -> bool:
    """Whether a variable says which component a datum is of."""
    return isinstance(dist, OneHotCategorical)


@torch.no_grad()
def clusters(model: Model, batch: dict[str, Tensor]) -> Finding | None:
    """Weights of the components, and I(x; z) = H(z) − H(z | x) over these data, in nats."""
    e = model.evidence(batch)
    for name, q in e.q.items():
        p = e.p.get(name)
        if not (isinstance(q, OneHotCategorical) and isinstance(p, OneHotCategorical)):
            continue
        weights, count = p.probs.reshape(-1, q.event_shape[0]).mean(0), q.event_shape[0]
        used = int((weights > EMPTY_SHARE / count).sum())
        told = _entropy(q.probs.mean(0)) - float(_entropies(q.probs).mean())
        return Finding(
            "empty clusters",
            used == count,
            f"{used} of {count} components have data, the largest {weights.max():.1%} of them and the smallest "
            f"{weights.min():.1%}; a datum tells {told:.2f} of the {_entropy(weights):.2f} nats of which one it is of",
            {"used": used, "components": count, "weights": weights.tolist(), "mutual_information": told},
            f"components={max(1, used)}, or starts higher",
        )
    return None


def _entropies(p: Tensor) -> Tensor:
    """Of probabilities (*, K), in nats, (*)."""
    return -torch.xlogy(p, p).sum(-1)


def _entropy(p: Tensor) -> float:
    return math.fsum((-torch.xlogy(p, p)).tolist())
