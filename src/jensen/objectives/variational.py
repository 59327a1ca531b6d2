"""Variational inference for a density known up to a constant, log p̃(z) = log p(z) + log Z.

    ELBO = E_q[log p̃(z) − log q(z)] = log Z − KL(q ‖ p)

The target is a conditional of p without normaliser, so the bound, its importance-weighted relatives and the weights
are those of any walk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from jensen.core import Evidence, Joint, evidence
from jensen.distributions import DiagonalNormal, Mixture
from jensen.errors import ConfigError, DataError
from jensen.objectives.gradients import MeasureValued, Pathwise, ScoreFunction
from jensen.transforms import Transform

Gradient = Literal["auto", "pathwise", "sticking-the-landing", "score", "measure-valued"]


class Unnormalised(Distribution):
    """log p̃(T(u)) + log |det ∂T/∂u|, a density on R^D up to a constant. Nothing can be drawn from it."""

    arg_constraints: ClassVar[dict] = {}
    support: Any = constraints.real
    has_rsample = False
    _validate_args = False

    def __init__(self, log_density: Callable[[Tensor], Tensor], transform: Transform, strict: bool):
        super().__init__(event_shape=torch.Size(transform.domain_shape), validate_args=False)
        self.log_density, self.transform, self.strict = log_density, transform, strict

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, up to a constant, `(*batch,)`.

        Raises:
            DataError: it is NaN or +∞ somewhere; or −∞, if `strict`.
        """
        rows = value.reshape(-1, *self.event_shape)
        x, ladj = self.transform.forward_and_ladj(rows)
        log_p = self.log_density(x)
        self._check(log_p, x)
        return (log_p + ladj).reshape(value.shape[: value.dim() - 1])

    def _check(self, log_p: Tensor, x: Tensor) -> None:
        with torch.no_grad():
            if torch.isfinite(log_p).all():
                return
            n = len(log_p)
            for bad, what, why in (
                (log_p.isnan(), "NaN", ""),
                (log_p == torch.inf, "+inf", ": no density is infinite on more than a point"),
            ):
                if bad.any():
                    raise DataError(f"log_density is {what} at {int(bad.sum())} of {n} draws, {_where(x, bad)}{why}")
            if self.strict:
                bad = log_p == -torch.inf
                raise DataError(
                    f"log_density is -inf at {int(bad.sum())} of {n} draws, {_where(x, bad)}: the target has no mass "
                    f"there, but q has. Say where the target lives, as support='positive' or support={{0: (0, 1)}}; "
                    f"or, if the number was too large to compute, give a start nearer to the target"
                )


def _where(x: Tensor, bad: Tensor) -> str:
    first = x[bad][0].tolist()
    shown = ", ".join(f"{value:.4g}" for value in first[:6]) + (", ..." if len(first) > 6 else "")
    return f"first at ({shown})"


class Target(nn.Module):
    """The conditional p̃(u) over the real line, of a density p̃(x) where x = T(u).

    Args:
        log_density: of rows x, (N, D), giving (N,), in nats.
        transform: T, from R^D to where the target lives.

    `strict` says whether −∞ is an error, as it is while q is fitted, or a weight of zero.
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor], transform: Transform):
        super().__init__()
        self.log_density, self.transform, self.strict = log_density, transform, True

    def forward(self) -> Unnormalised:
        return Unnormalised(self.log_density, self.transform, self.strict)


def walk(target: Target, family: nn.Module, particles: int, like: Tensor) -> Evidence:
    """The evidence of K draws of u from q, (K, 1): log w = log p̃(u) + log |det| − log q(u)."""
    return evidence(Joint({"u": target}), Joint({"u": family}), {"given": like.new_zeros(1)}, particles)


def bound(target: Target, family: nn.Module, samples: int, gradient: Gradient, like: Tensor) -> tuple[Tensor, Tensor]:
    """The ELBO by S draws, (), with the gradient asked for, and log w without gradient, (S,).

    - "pathwise": by reparameterisation, entropy term included.
    - "sticking-the-landing": the same without ∇ log q at fixed z, whose mean is 0: no noise is left where q is the
      target (Roeder, Wu and Duvenaud 2017, arXiv:1703.09194).
    - "score": score function with the other draws as baseline; the target need not be differentiable.
    - "measure-valued": for a mean-field normal; the target need not be differentiable.

    A mixture is drawn component by component, see `gradients.Pathwise`.
    """
    kept: list[Tensor] = []
    q = family()
    stopped = q.detach() if gradient == "sticking-the-landing" else q

    def log_w(u: Tensor) -> Tensor:
        value = target().log_prob(u) - stopped.log_prob(u)
        kept.append(value.detach())
        return value

    if gradient == "measure-valued":
        if not isinstance(q, DiagonalNormal):
            raise ConfigError("gradient: measure-valued is known for family=mean-field only")
        value = MeasureValued()(q, log_w, samples).value
        return value, kept[0].flatten()
    if gradient == "score":
        value = ScoreFunction()(q, torch.no_grad()(log_w), samples).value
        return value, kept[0]
    if isinstance(q, Mixture):
        value = Pathwise()(q, log_w, max(1, round(samples / len(q.logits)))).value
        weights = q.log_weights.detach().exp()
        return value, (kept[0] * weights).sum(-1)
    e = walk(target, family, samples, like)
    if gradient == "sticking-the-landing":
        weights = e.log_w_stopped[:, 0]
        return weights.mean(), weights.detach()
    weights = e.log_w[:, 0]
    return weights.mean(), weights.detach()
