r"""Maximise log p(x | z) at a deterministic code, less penalties: what autoencoders are trained by.

    maximise  E[log p(x | z = f(x))] − λ E ‖∂f/∂x‖²_F − s Ω(f)

With a Gaussian likelihood of fixed scale this is least squares.

Contractive: Rifai, Vincent, Muller, Glorot and Bengio, 2011, ICML. Sparse: Lee, Ekanadham and Ng, 2008, NeurIPS; Ng,
"Sparse autoencoder", 2011. Probes: Hutchinson, 1990, Communications in Statistics 19(2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from jensen.core import Evidence, Model
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean

Sparsity = Literal["l1", "kl"]
NEAR_ZERO = 1e-6  # mean activations are kept that far from 0 and 1, where their divergence is infinite


class Penalty(NamedTuple):
    """A weight, and what it is on: a mean over the batch, ()."""

    weight: float
    value: Callable[[Model, Evidence, Batch], Tensor]


def reconstruction(penalties: Mapping[str, Penalty] | None = None) -> Objective:
    """The objective of an autoencoder. Logged as `reconstruction`, in nats; it is no bound on anything.

    Args:
        penalties: by the name under which each is logged, without its weight.
    """
    penalties = penalties or {}

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"reconstruction": model.evidence(batch).reconstruction()}

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch)
        total = weighted_mean(e.reconstruction(), batch)
        loss, logged = -total, {"reconstruction": total.detach()}
        for name, penalty in penalties.items():
            value = penalty.value(model, e, batch)
            loss, logged[name] = loss + penalty.weight * value, value.detach()
        return Terms(loss, logged)

    stage = Stage((GradientPhase(loss),), monitor="reconstruction")
    return Objective((stage,), validate, " and ".join(["reconstruction", *penalties]) + ", gradient ascent")


def contraction(weight: float, probes: int, unit: float, squashed: bool = False) -> Penalty:
    """λ ‖∂z/∂x‖²_F of the code of the datum as it is, averaged over the batch.

    Args:
        probes: random directions of Hutchinson's estimate; 0 is exact.
        unit: of x, in which the network sees it.
        squashed: whether the network sees asinh x, whose unit at x is √(1 + x²).
    """

    def value(model: Model, e: Evidence, batch: Batch) -> Tensor:
        (factor,) = model.q
        code: Any = factor.module.code
        x = batch[model.data]
        steps = (1 + x.square()).sqrt() if squashed else unit
        return weighted_mean(squared_jacobian(code, x, probes, steps), batch)

    return Penalty(weight, value)


def squared_jacobian(
    function: Callable[[Tensor], Tensor], x: Tensor, probes: int = 0, unit: float | Tensor = 1.0
) -> Tensor:
    """‖∂f/∂x‖²_F of each row, (B,), for f that takes rows one by one, (B, *event) to (B, *code), x in those units.

    Exact by one backward pass for each element of the code; or by probes v of signs, E ‖vᵀ ∂f/∂x‖² = ‖∂f/∂x‖²_F.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        z = function(x).flatten(1)
        if probes:
            directions = [torch.randint_like(z, 2) * 2 - 1 for _ in range(probes)]
        else:
            directions = list(torch.eye(z.shape[1], dtype=z.dtype, device=z.device).unsqueeze(1).expand(-1, *z.shape))
        total = torch.zeros(len(z), dtype=z.dtype, device=z.device)
        for direction in directions:
            (slope,) = torch.autograd.grad(z, x, direction, create_graph=True)
            total = total + (unit * slope).square().flatten(1).sum(1)
    return total / (probes or 1)


def sparsity(weight: float, kind: Sparsity, activity: float) -> Penalty:
    """On the code z, (B, L): "l1" is Σ_l |z_l| averaged over the batch; "kl" is Σ_l KL(ρ ‖ ρ̂_l), ρ̂ the batch's mean."""

    def value(model: Model, e: Evidence, batch: Batch) -> Tensor:
        (factor,) = model.q
        return SPARSITIES[kind](e.values[factor.name].flatten(1), batch, activity)

    return Penalty(weight, value)


def _l1(z: Tensor, batch: Batch, activity: float) -> Tensor:
    return weighted_mean(z.abs().sum(1), batch)


def _divergence(z: Tensor, batch: Batch, activity: float) -> Tensor:
    """ρ log ρ/ρ̂ + (1 − ρ) log (1 − ρ)/(1 − ρ̂), of activations in (0, 1)."""
    weight = batch.get("weight")
    mean = z.mean(0) if weight is None else (z * weight[:, None]).sum(0) / weight.sum()
    rho, mean = torch.as_tensor(activity, dtype=z.dtype, device=z.device), mean.clamp(NEAR_ZERO, 1 - NEAR_ZERO)
    return (rho * (rho.log() - mean.log()) + (1 - rho) * (torch.log1p(-rho) - torch.log1p(-mean))).sum()


SPARSITIES: dict[str, Callable[[Tensor, Batch, float], Tensor]] = {"l1": _l1, "kl": _divergence}
