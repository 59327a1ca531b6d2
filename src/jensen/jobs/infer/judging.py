"""How good q is: draws, importance weights and what they say."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from jensen.conditionals.flows import Flow
from jensen.errors import DataError
from jensen.objectives.defensive import look_again
from jensen.objectives.pareto import smooth
from jensen.objectives.variational import Target, walk
from jensen.transforms import Columns, Composed, Triangular

BLOCK = 2000  # draws walked at once in judging q


@torch.no_grad()
def judge(target: Target, q: nn.Module, transform: Composed, draws: int, like: Tensor) -> dict[str, Any]:
    """Draws, weights, and what they say."""
    target.strict = False
    parts = [walk(target, q, min(BLOCK, draws - done), like) for done in range(0, draws, BLOCK)]
    log_w = torch.cat([e.log_w[:, 0] for e in parts])
    u, log_q = torch.cat([e.values["u"] for e in parts]), torch.cat([e.log_q["u"][:, 0] for e in parts])
    x = transform.forward(u)
    doubts = []
    lost = int((log_w == -math.inf).sum())
    if lost:
        doubts.append(
            f"log_density is -inf at {lost} of {draws} draws of q: the target has no mass where q has some, and the "
            f"bound is -inf; say where the target lives by support"
        )
    if lost == draws:
        raise DataError(f"log_density is -inf at all {draws} draws of q")
    smoothed = smooth(log_w)
    weight = smoothed.log_weights.exp().to(x)
    weighted = weight @ x
    spread = (weight @ (x - weighted).square()).sqrt()
    mean, std = _moments(q, transform, x)
    w = (log_w - log_w.max()).exp()
    chosen = torch.multinomial(weight, draws, replacement=True)
    second = look_again(partial(_plain, target), q(), u, log_w, log_q)
    return {
        "mean": mean,
        "std": std,
        "weighted_mean": weighted,
        "weighted_std": spread,
        "elbo": float(log_w.mean()),
        "elbo_stderr": float(log_w.std() / math.sqrt(draws)),
        "log_evidence": float(log_w.logsumexp(0) - math.log(draws)),
        "log_evidence_stderr": float(w.std() / w.mean() / math.sqrt(draws)),
        "defensive_log_evidence": second.log_evidence,
        "defensive_log_evidence_stderr": second.stderr,
        "k_hat": smoothed.shape,
        "k_hat_stderr": smoothed.stderr,
        "effective_sample_size": float(w.sum().square() / w.square().sum()),
        "draws": x,
        "log_weights": smoothed.log_weights,
        "resampled": x[chosen],
        "doubts": doubts,
    }


def _plain(target: Target, u: Tensor) -> Tensor:
    """log p̃(u), (N,), whatever it is."""
    x, ladj = target.transform.forward_and_ladj(u)
    return target.log_density(x) + ladj


def _moments(q: nn.Module, transform: Composed, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q in the target's coordinates: exact where they are known, else of the draws."""
    affine, onto = transform.chain
    mean, std = x.mean(0), x.std(0)
    if not isinstance(q, Flow) and isinstance(affine, Triangular) and isinstance(onto, Columns):
        dist = q()
        straight = torch.ones(len(mean), dtype=torch.bool)
        for n in range(len(onto.parts)):
            straight[getattr(onto, f"index{n}")] = False
        tril = affine.scale_tril
        if hasattr(dist, "covariance_matrix"):
            variance = ((tril @ dist.covariance_matrix) * tril).sum(1)
        else:  # independent along the axes, and L is diagonal
            variance = tril.square() @ dist.variance
        mean = torch.where(straight, affine.loc + tril @ dist.mean, mean)
        std = torch.where(straight, variance.sqrt(), std)
    return mean, std
