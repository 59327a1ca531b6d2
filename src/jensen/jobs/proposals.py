"""Proposals r(x_m | x_o) of what is missing of data, from samples of a model or from weighed particles.

West, "Approximating posterior distributions by mixtures", JRSS B 55(2), 1993: kernels about weighed particles, anew.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

NEAREST = 32  # samples of the model that a datum takes
CENTERS = 64  # of a proposal that is made of particles
NUMBERS = 4_000_000  # distances in memory at once
IMPOSSIBLE = -1e30  # a log-weight


class Proposals:
    """Several proposals, of which each gives as many of K particles: r is their mean.

    Owen and Zhou, "Safe and effective importance sampling", 2000: no weight is then more than so many times what it is
    under any one of them. Cornuet, Marin, Mira and Robert, "Adaptive multiple importance sampling", 2012.
    """

    def __init__(self, parts: Sequence[Proposal], k: int):
        self.parts = parts[-k:]  # each gives one at least
        n = len(self.parts)
        self.counts = [k // n + (i < k % n) for i in range(n)]

    def draw(self) -> Tensor:
        """K draws for each row, (K, B, M)."""
        return torch.cat([part.draw(count) for part, count in zip(self.parts, self.counts, strict=True)])

    def log_prob(self, t: Tensor) -> Tensor:
        """Log-density at positions (K, B, M), (K, B)."""
        shares = [math.log(count / sum(self.counts)) for count in self.counts]
        each = (share + part.log_prob(t) for share, part in zip(shares, self.parts, strict=True))
        return functools.reduce(torch.logaddexp, each)


class Proposal:
    """r(x_m | x_o) for B rows: Student-t kernels about some centers, each of several widths, and a wide one about all.

    Args:
        centers: (B, J, M).
        spread: covariance of x_m of each row, as far as it is known, (B, M, M).
        floor: what is added to it in the wide one, (B, M, M) or (M, M).
        widths: of the kernels, as shares of Silverman's for so many centers.
    """

    WIDE, FREEDOM, WIDE_FREEDOM = 0.1, 5.0, 3.0

    def __init__(self, centers: Tensor, spread: Tensor, floor: Tensor, widths: Sequence[float] = (1.0,)):
        j, m = centers.shape[1:]
        shrink = (j * (m + 2) / 4) ** (-1 / (m + 4))
        self.centers, self.middle = centers, centers.mean(1)
        self.kernel = torch.linalg.cholesky(shrink**2 * spread)  # (B, M, M)
        self.wide = torch.linalg.cholesky(2 * spread + floor)
        self.widths = centers.new_tensor(widths)

    def rows(self, some: Tensor) -> Proposal:
        """For some of the rows, (B,)."""
        one = copy.copy(self)
        one.centers, one.middle, one.kernel, one.wide = (
            v[some] for v in (self.centers, self.middle, self.kernel, self.wide)
        )
        return one

    @classmethod
    def near(cls, own: Tensor, features: Tensor, values: Tensor) -> Proposal:
        """From the nearest of some samples: a sample (s_o, s_m) stands for s_m + R (x_o − s_o), R the linear regression
        of the samples' x_m on their x_o.

        Args:
            own: x_o and conditions of the rows, (B, O).
            features: the same of the samples, (R, O).
            values: x_m of the samples, (R, M).
        """
        scale = features.std(0).clamp_min(1e-6)
        f, own = (features - features.mean(0)) / scale, (own - features.mean(0)) / scale
        centred = values - values.mean(0)
        gram = f.T @ f + 1e-3 * len(f) * torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
        slope = torch.linalg.solve(gram, f.T @ centred)  # (O, M)
        left = (centred - f @ slope).T.cov().reshape(values.shape[1], -1)
        distance = torch.cdist(own, f)
        nearest = distance.topk(min(NEAREST, len(f)), largest=False).indices  # (B, J)
        centers = values[nearest] + (own[:, None] - f[nearest]) @ slope  # (B, J, M)
        j, m = centers.shape[1:]
        apart = centers - centers.mean(1)[:, None]
        spread = apart.mT @ apart / max(1, j - 1) + 1e-3 * left + 1e-8 * torch.eye(m, dtype=f.dtype, device=f.device)
        return cls(centers, spread, 0.5 * left)

    @classmethod
    def about(cls, t: Tensor, log_w: Tensor) -> Proposal:
        """From particles, (K, B, M), and their log-weights, (K, B), which are tempered where few have them all."""
        w = _tempered(log_w, min(CENTERS, len(t) / 4))
        which = torch.multinomial(w.T.float(), CENTERS, replacement=True)  # (B, J)
        centers = t.movedim(0, 1).gather(1, which[..., None].expand(-1, -1, t.shape[-1]))
        apart = t - (w[..., None] * t).sum(0)
        spread = torch.einsum("kb,kbi,kbj->bij", w, apart, apart)
        small = 1e-9 * spread.diagonal(dim1=1, dim2=2).mean(1) + 1e-14
        spread = spread + small[:, None, None] * torch.eye(t.shape[-1], dtype=t.dtype, device=t.device)
        return cls(centers, spread, 0 * spread, (1.0, 0.3, 0.1, 0.03))

    def draw(self, k: int) -> Tensor:
        """K draws for each row, (K, B, M)."""
        like = self.centers
        b, j = like.shape[:2]
        which = torch.randint(j, (k, b), device=like.device)
        width = self.widths[torch.randint(len(self.widths), (k, b, 1), device=like.device)]
        centers = self.centers[torch.arange(b, device=like.device), which]  # (K, B, M)
        near = centers + width * _student(k, self.kernel, self.FREEDOM)
        far = self.middle + _student(k, self.wide, self.WIDE_FREEDOM)
        is_far = torch.rand(k, b, 1, dtype=like.dtype, device=like.device) < self.WIDE
        return torch.where(is_far, far, near)

    def log_prob(self, t: Tensor) -> Tensor:
        """Log-density at positions (K, B, M), (K, B)."""
        at_once = max(1, NUMBERS // self.centers[..., 0].numel())
        return torch.cat([self._log_prob(some) for some in t.split(at_once)])

    def _log_prob(self, t: Tensor) -> Tensor:
        b, j = self.centers.shape[:2]
        off = torch.linalg.solve_triangular(self.kernel, (t - self.middle).movedim(0, 2), upper=False).mT  # (B, K, M)
        apart = (self.centers - self.middle[:, None]).mT
        centers = torch.linalg.solve_triangular(self.kernel, apart, upper=False).mT  # (B, J, M)
        square = torch.cdist(off, centers).square()  # (B, K, J)
        near = t.new_full((b, len(t)), -math.inf)
        for h in self.widths:
            each = _log_student(square / h**2, self.kernel[:, None, None] * h, self.FREEDOM)
            near = torch.logaddexp(near, each.logsumexp(-1) - math.log(j * len(self.widths)))
        out = torch.linalg.solve_triangular(self.wide, (t - self.middle).movedim(0, 2), upper=False)  # (B, M, K)
        far = _log_student(out.square().sum(1), self.wide[:, None], self.WIDE_FREEDOM)
        return torch.logaddexp(near + math.log1p(-self.WIDE), far + math.log(self.WIDE)).T


def _tempered(log_w: Tensor, enough: float) -> Tensor:
    """Weights w^β, (K, B), of sum 1, β at most 1 and so small that they are worth so many particles."""
    powers = 0.8 ** torch.arange(40, dtype=log_w.dtype, device=log_w.device)
    shares = (powers[:, None, None] * log_w.clamp_min(IMPOSSIBLE)).softmax(1)  # (P, K, B)
    fine = 1 / shares.square().sum(1) >= enough
    first = torch.where(fine.any(0), fine.int().argmax(0), len(powers) - 1)
    return shares.gather(0, first.expand(1, len(log_w), -1))[0]


def _student(k: int, root: Tensor, freedom: float) -> Tensor:
    """K draws about 0 of a Student-t for each scale matrix, of which `root` is the Cholesky factor: (K, B, M)."""
    b, m, _ = root.shape
    normal = torch.randn(k, b, m, dtype=root.dtype, device=root.device)
    half = torch.full((k, b, 1), freedom / 2, dtype=root.dtype, device=root.device)
    chi_square = 2 * torch._standard_gamma(half)
    return (root @ normal[..., None])[..., 0] * (freedom / chi_square).sqrt()


def _log_student(square: Tensor, root: Tensor, freedom: float) -> Tensor:
    """Log-density of a Student-t at squared distances, in units of its scale, of which `root` is a Cholesky factor."""
    m = root.shape[-1]
    constant = math.lgamma((freedom + m) / 2) - math.lgamma(freedom / 2) - m / 2 * math.log(freedom * math.pi)
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return constant - log_det - (freedom + m) / 2 * torch.log1p(square / freedom)
