"""Flow matching: a continuous flow is learned by regression, without solving its equation.

    x_t = (1 − (1 − σ) t) x_0 + t x_1        x_0 ~ base, x_1 ~ data, t ~ U(0, 1)
    loss = E ‖f(t, x_t, c) − (x_1 − (1 − σ) x_0)‖²

The minimum is the mean velocity of all such lines through (t, x_t), whose flow carries the base to the data, with
normal noise of deviation σ. Lipman et al., "Flow matching for generative modeling", 2023, arXiv:2210.02747; σ = 0 is
the rectified flow of Liu, Gong and Liu, "Flow straight and fast", 2023, arXiv:2209.03003.
"""

from __future__ import annotations

from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from jensen.conditionals.transformed import Transformed
from jensen.core import Evidence, Model
from jensen.errors import ConfigError
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean
from jensen.transforms import Composed, Continuous

Times = Literal["uniform", "late"]
Pairs = Literal["independent", "optimal"]
SOLVES = 40.0  # a datum's validation, a solve with its density, in training steps of a datum


def flow_matching(
    monitor: str = "log_likelihood", sigma: float = 0.0, times: Times = "uniform", pairs: Pairs = "independent"
) -> Objective:
    """Regress the velocities of straight lines from the base to the data.

    It learns the field alone: base, dequantiser and what follows the continuous flow must have nothing to learn.
    Validation measures what the model is used for, log p by solving the equation (of whole numbers the bound).

    Args:
        monitor: what validation calls that.
        sigma: σ.
        times: t uniform, or of density 2t ("late"): the same minimum, with more of the error's weight near the data,
            where velocities vary most.
        pairs: x_0 and x_1 independent, or paired within a batch so that Σ ‖x_1 − x_0‖² is least, which straightens
            the paths (Tong et al. 2024, arXiv:2302.00482; Pooladian et al. 2023, arXiv:2304.14772).
    """

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        field, x0, x1, context = _ends(model.evidence(batch))
        if pairs == "optimal":
            if context is not None or "weight" in batch:
                raise ConfigError("pairs: optimal ones are known for data without conditions and without weights only")
            x0 = paired(x0, x1)
        n = len(x1)
        t = (torch.rand((), device=x1.device) + torch.arange(n, device=x1.device) / n).frac().to(x1)  # evenly spread
        t = t.sqrt() if times == "late" else t
        wide = t.view(-1, *(1,) * (x1.dim() - 1))
        x = (1 - (1 - sigma) * wide) * x0 + wide * x1
        error = field(t, x, context) - (x1 - (1 - sigma) * x0)
        total = weighted_mean(error.square().flatten(1).mean(1), batch)
        return Terms(total, {"flow_matching_loss": total.detach()})

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        return {monitor: model.evidence(batch).elbo()}

    stage = Stage((GradientPhase(loss),), monitor=monitor)
    return Objective((stage,), validate, "flow matching, gradient descent", validation_cost=SOLVES)


@torch.no_grad()
def _ends(e: Evidence) -> tuple[torch.nn.Module, Tensor, Tensor, Tensor | None]:
    """The field, ends of lines in the base and in the data as the continuous flow sees them, and the context."""
    for name, dist in e.p.items():
        if not isinstance(dist, Transformed) or not isinstance(dist.transform, Composed | Continuous):
            continue
        first, *rest = dist.transform.chain if isinstance(dist.transform, Composed) else (dist.transform,)
        if isinstance(first, Continuous):
            x = e.values[name]
            for part in reversed(rest):
                x = part.inverse(x, dist.context)
            return first.field, dist.base.sample(x.shape[:1]), x, dist.context
    raise ConfigError("flow matching trains a continuous flow, and the model has none")


def paired(x0: Tensor, x1: Tensor) -> Tensor:
    """The rows of x0, each once, in the order that makes Σ ‖x_1 − x_0‖² least; n rows take O(n³)."""
    cost = torch.cdist(x1.flatten(1), x0.flatten(1)).square()
    _, order = linear_sum_assignment(cost.cpu().numpy())
    return x0[torch.from_numpy(order).to(x0.device)]
