"""Whether the draws of q have seen all of a target's mass: a second look by a wider density with heavy tails.

    log w = log p̃(u) − log(½ q(u) + ½ t(u)),        Z ≈ mean of w over N draws of q and N of t

Weights by the whole mixture, whichever half a draw came from, are at most 2 p̃/q and at most 2 p̃/t. So they see mass
that q's own weights do not: there q hardly ever draws, and p̃/q is huge where nobody looks. t is Student's t with the
mean of q's draws and their covariance, inflated.

Hesterberg, "Weighted average importance sampling and defensive mixture distributions", 1995, Technometrics 37(2); the
weights: Veach and Guibas, "Optimally combining sampling techniques for Monte Carlo rendering", 1995.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.errors import JensenError

DEGREES = 3.0  # of freedom of t: heavy tails that have a variance
WIDER = 2.0  # t's scales, in standard deviations of q's draws
LARGEST_COVARIANCE = 300  # dimensions, above which t is independent along the axes
SIGNIFICANT = 4.0  # standard errors
MATTERS = 0.05  # nats of log Z: a twentieth of the mass
FAILURES = 5000  # calls of the target that may fail, before the draws that are left count as of no weight
BLOCK = 2000  # draws at once


class Wider(NamedTuple):
    """Student's t with ν degrees of freedom: mean μ, (D,), and lower triangular scale L, (D, D), or diagonal, (D,)."""

    loc: Tensor
    scale: Tensor

    @classmethod
    def around(cls, u: Tensor) -> Wider:
        """About draws u, (N, D), with `WIDER` times their spread."""
        n, d = u.shape
        loc, std = u.mean(0), u.std(0)
        if 2 * d < n and d <= LARGEST_COVARIANCE:
            centred = u - loc
            tril, failed = torch.linalg.cholesky_ex(centred.T @ centred / (n - 1))
            if not failed:
                return cls(loc, WIDER * tril)
        return cls(loc, WIDER * std)

    def sample(self, n: int) -> Tensor:
        """(n, D)."""
        noise = torch.randn(n, len(self.loc), dtype=self.loc.dtype)
        share = torch._standard_gamma(torch.full((n, 1), DEGREES / 2, dtype=self.loc.dtype)) * 2 / DEGREES
        noise = noise / share.sqrt()
        return self.loc + (noise @ self.scale.T if self.scale.dim() == 2 else noise * self.scale)

    def log_prob(self, u: Tensor) -> Tensor:
        """In nats, (N,)."""
        d, centred = len(self.loc), u - self.loc
        if self.scale.dim() == 2:
            standard = torch.linalg.solve_triangular(self.scale, centred.T, upper=False).T
            size = self.scale.diagonal().log().sum()
        else:
            standard, size = centred / self.scale, self.scale.log().sum()
        constant = (
            math.lgamma((DEGREES + d) / 2) - math.lgamma(DEGREES / 2) - d / 2 * math.log(DEGREES * math.pi) - size
        )
        return constant - (DEGREES + d) / 2 * torch.log1p(standard.square().sum(1) / DEGREES)


class SecondLook(NamedTuple):
    """log Z by draws of q and of a wider density, and its standard error, in nats.

    What the target is where it cannot be computed counts as nothing, so that log Z is never too high for it.
    """

    log_evidence: float
    stderr: float

    def misses(self, log_evidence: float, stderr: float) -> bool:
        """Whether it lies above log Z by q alone, beyond both errors and by what matters.

        >>> SecondLook(0.69, 0.01).misses(0.44, 0.001), SecondLook(0.69, 0.1).misses(0.44, 0.001)
        (True, False)
        """
        rise = self.log_evidence - log_evidence
        return rise > max(MATTERS, SIGNIFICANT * math.hypot(self.stderr, stderr))


@torch.no_grad()
def look_again(
    log_target: Callable[[Tensor], Tensor], q: Distribution, u: Tensor, log_w: Tensor, log_q: Tensor
) -> SecondLook:
    """log Z by as many draws again, from a wider density.

    Args:
        log_target: log p̃ of rows u, (N, D), giving (N,), in nats. May fail, or be NaN, where q does not draw.
        q: the density of batch shape () over (D,).
        u: draws from q, (N, D).
        log_w: log p̃(u) − log q(u), (N,).
        log_q: log q(u), (N,).
    """
    n, dtype = len(u), u.dtype
    u, log_w, log_q = u.double(), log_w.double(), log_q.double()
    wider = Wider.around(u)
    far = wider.sample(n).to(dtype)
    log_p_far, failures = [], [0]
    for block in far.split(BLOCK):
        log_p_far.append(_where_it_can(log_target, block, failures))
    log_q_far = torch.cat([_density(q, block) for block in far.split(BLOCK)])
    unknown = log_q_far.isnan()
    log_p = torch.cat([log_w + log_q, torch.cat(log_p_far).masked_fill(unknown, -torch.inf)])
    log_q = torch.cat([log_q, log_q_far.masked_fill(unknown, -torch.inf)])
    log_t = wider.log_prob(torch.cat([u, far]))
    log_w = log_p - torch.logaddexp(log_q, log_t) + math.log(2)
    top = log_w.max()
    by_q, by_t = (log_w - top).exp().chunk(2)
    mean = (by_q.mean() + by_t.mean()) / 2
    stderr = ((by_q.var() + by_t.var()) / (4 * n)).sqrt() / mean
    return SecondLook(float(mean.log() + top), float(stderr))


def _where_it_can(log_target: Callable[[Tensor], Tensor], u: Tensor, failures: list[int]) -> Tensor:
    """log p̃, (N,); −∞ for rows where it fails or is no number, which are found by halving."""
    nothing = torch.full((len(u),), -torch.inf, dtype=torch.float64)
    if failures[0] >= FAILURES:
        return nothing
    try:
        return torch.nan_to_num(log_target(u).double(), nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    except Exception:  # a user's function, at values it was not written for
        failures[0] += 1
    if len(u) == 1:
        return nothing
    return torch.cat([_where_it_can(log_target, half, failures) for half in u.chunk(2)])


def _density(q: Distribution, u: Tensor) -> Tensor:
    """log q, (N,); NaN where it cannot be computed, as an inverse that ends nowhere."""
    try:
        log_q = q.log_prob(u).double()
    except (ArithmeticError, RuntimeError, ValueError, JensenError):
        return torch.full((len(u),), torch.nan, dtype=torch.float64)
    return torch.where(log_q == torch.inf, torch.nan, log_q)
