"""What every estimator of ∇ E_q[f] has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.distributions import Distribution

Function = Callable[[Tensor], Tensor]
"""f of values (*, *event), giving (*); of any number of leading dimensions."""


class Surrogate(NamedTuple):
    """What an estimator gives.

    Attributes:
        value: a Monte Carlo estimate of E_q[f], `(*batch,)`, whose gradient estimates ∇ E_q[f], with respect to the
            parameters of q and to what else f depends on.
        baseline_loss: to be minimised besides, whatever is done with the value; 0 unless a baseline is learned, ().
    """

    value: Tensor
    baseline_loss: Tensor


class Estimator(nn.Module):
    """An estimator of ∇ E_q[f(z)].

        surrogate = estimator(q, f, samples=8)
        (-surrogate.value.mean() + surrogate.baseline_loss).backward()        # ascends E_q[f]

    Mohamed, Rosca, Figurnov and Mnih, "Monte Carlo gradient estimation in machine learning", 2020, arXiv:1906.10652.
    """

    biased = False
    """Whether the gradient is wrong on average, however many samples are drawn."""

    def forward(self, q: Distribution, f: Function, samples: int = 1, context: Tensor | None = None) -> Surrogate:
        """Estimate.

        Args:
            q: of any batch shape; its parameters carry the gradient.
            f: see `Function`; differentiable where the estimator needs it.
            samples: S, draws of z.
            context: `(*batch, C)`, what a learned baseline looks at.

        Raises:
            ConfigError: the estimator cannot be used with q.
        """
        raise NotImplementedError
