r"""Vector quantisers: a vector becomes the number of a code, and the code has a vector of its own.

    k(h) = argmin_c ‖h − e_c‖        e = e_k        ∂e/∂h := 1 (straight through)

h, (N, D, G), holds a vector of D numbers in each of G cells. Training adds to −log p(x | e), in nats, sums over cells
and dimensions as it is,

    Σ ‖sg[h] − e‖² + β ‖h − sg[e]‖²        sg: no gradient passes

of which the first term moves codes to what is quantised and the second keeps the encoder near its codes.

van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", 2017, arXiv:1711.00937. Codes that are
no longer used start anew at outputs of the encoder: Dhariwal et al., "Jukebox", 2020, arXiv:2005.00341.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jensen.core import Deterministic
from jensen.registry import component

Codes = Annotated[int, Field(ge=2)]
Width = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

ROUNDS = 10  # of K-means
STARTING = 16_384  # vectors that codes start from


class Quantizer(nn.Module):
    """From vectors h, (N, D, G), to the numbers k of their codes, (N, G), and from these to vectors e, (N, D, G).

    Attributes:
        codes: K, so that k is one of 0..K−1.
        width: D.
    """

    def __init__(self, codes: int, width: int):
        super().__init__()
        self.codes, self.width = codes, width

    def assign(self, h: Tensor) -> Tensor:
        """The code of each vector, (N, G), in h's dtype."""
        raise NotImplementedError

    def lookup(self, k: Tensor) -> Tensor:
        """The vector of each code, (N, D, G)."""
        raise NotImplementedError

    def nearest(self, e: Tensor) -> Tensor:
        """The code whose vector is nearest to e, (N, D, G) to (N, G)."""
        return self.assign(e)

    def through(self, h: Tensor, k: Tensor) -> Tensor:
        """The vector of each code, with the gradient of h."""
        return StraightThrough.apply(h, self.lookup(k))  # pyright: ignore[reportReturnType]

    def cost(self, h: Tensor, k: Tensor) -> Tensor:
        """What training adds, in nats, a sum over cells and dimensions, (N,)."""
        return h.new_zeros(len(h))

    def start(self, h: Tensor) -> None:
        """Begin at vectors of the first data."""

    def learn(self, h: Tensor, k: Tensor, weight: Tensor | None = None) -> None:
        """Follow what was quantised in a step of training; rows count by their weight, (N,)."""


class StraightThrough(torch.autograd.Function):
    """e, exactly, with its gradient handed to h."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, e: Tensor) -> Tensor:
        return e.view_as(e)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        return gradient, None


class Codebook(Quantizer):
    """K vectors and how much each is used.

    `counts` are running sums of how many vectors fell to each code, decaying by `decay` a step. A code that has less
    than `revive` of the mean count starts anew at a vector of the batch, chosen at random.
    """

    counts: Tensor
    vectors: Tensor  # (K, D)

    def __init__(self, codes: int, width: int, commitment: float, decay: float, revive: float):
        super().__init__(codes, width)
        self.commitment, self.decay, self.revive = commitment, decay, revive
        self.register_buffer("counts", torch.ones(codes))

    def assign(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            rows = h.mT.reshape(-1, self.width)
            return nearest_rows(rows, self.vectors).reshape(len(h), -1).to(h.dtype)

    def lookup(self, k: Tensor) -> Tensor:
        return F.embedding(k.long(), self.vectors).mT

    @torch.no_grad()
    def start(self, h: Tensor) -> None:
        """K-means of at most 16,384 of the vectors h."""
        rows = h.mT.reshape(-1, self.width)
        rows = rows[torch.randperm(len(rows))[:STARTING].to(rows.device)]
        centres, counts = k_means(rows, self.codes)
        self._put(torch.ones_like(counts, dtype=torch.bool), centres, counts.clamp_min(1.0))

    @torch.no_grad()
    def learn(self, h: Tensor, k: Tensor, weight: Tensor | None = None) -> None:
        rows, index = h.mT.reshape(-1, self.width), k.long().flatten()
        each = rows.new_ones(len(h)) if weight is None else weight.to(rows)
        each = each.repeat_interleave(k.shape[1])
        self._follow(rows, index, each)
        if self.revive:
            dead = self.counts < self.revive * self.counts.mean()
            again = rows[torch.randint(len(rows), (self.codes,), device=rows.device)]
            self._put(dead, again, self.counts.mean().expand(self.codes).clone())

    def _follow(self, rows: Tensor, index: Tensor, each: Tensor) -> None:
        """Count rows, (R, D), of codes `index`, (R,), each by its weight, (R,)."""
        found = torch.zeros_like(self.counts).index_add_(0, index, each.to(self.counts))
        self.counts.lerp_(found, 1 - self.decay)

    def _put(self, where: Tensor, vectors: Tensor, counts: Tensor) -> None:
        """Set vectors, (K, D), and counts, (K,), of the codes where that is true, (K,)."""
        self.vectors.copy_(torch.where(where.unsqueeze(1), vectors, self.vectors))
        self.counts.copy_(torch.where(where, counts.to(self.counts), self.counts))


class GradientCodebook(Codebook):
    """Vectors that are parameters."""

    def __init__(self, codes: int, width: int, commitment: float, decay: float, revive: float):
        super().__init__(codes, width, commitment, decay, revive)
        self.vectors = nn.Parameter(torch.randn(codes, width) * width**-0.5)

    def cost(self, h: Tensor, k: Tensor) -> Tensor:
        e = self.lookup(k)
        moved, held = (h.detach() - e).square(), (h - e.detach()).square()
        return (moved + self.commitment * held).flatten(1).sum(1)


class AveragedCodebook(Codebook):
    r"""Vectors that are running means of what falls to them.

        N_c ← γ N_c + (1 − γ) n_c        m_c ← γ m_c + (1 − γ) Σ h        e_c = m_c / Ñ_c
        Ñ_c = Σ N · (N_c + ε) / (Σ N + K ε)

    n_c vectors of the step fell to code c. The smoothed count Ñ is used, and never written back to N.
    """

    sums: Tensor
    smoothing = 1e-5

    def __init__(self, codes: int, width: int, commitment: float, decay: float, revive: float):
        super().__init__(codes, width, commitment, decay, revive)
        self.register_buffer("vectors", torch.randn(codes, width) * width**-0.5)
        self.register_buffer("sums", self.vectors.clone())

    def cost(self, h: Tensor, k: Tensor) -> Tensor:
        return self.commitment * (h - self.lookup(k)).square().flatten(1).sum(1)

    @property
    def smoothed(self) -> Tensor:
        """Ñ, (K,)."""
        total = self.counts.sum()
        return total * (self.counts + self.smoothing) / (total + self.codes * self.smoothing)

    def _follow(self, rows: Tensor, index: Tensor, each: Tensor) -> None:
        super()._follow(rows, index, each)
        found = torch.zeros_like(self.sums).index_add_(0, index, (each.unsqueeze(1) * rows).to(self.sums))
        self.sums.lerp_(found, 1 - self.decay)
        self.vectors.copy_(self.sums / self.smoothed.unsqueeze(1))

    def _put(self, where: Tensor, vectors: Tensor, counts: Tensor) -> None:
        super()._put(where, vectors, counts)
        self.sums.copy_(torch.where(where.unsqueeze(1), self.vectors * self.counts.unsqueeze(1), self.sums))


class FiniteScalar(Quantizer):
    r"""Each of D numbers rounded to one of L_d levels: K = Π L_d codes, and no codebook.

        t = L σ(h) − ½        e = (2 round(t) − (L − 1)) / (L − 1) ∈ [−1, 1]

    The gradient is that of t in place of round(t). The paper has L tanh, of which the outer levels are half as wide as
    the others and two levels are not to be had; here all are equally wide.
    """

    levels: Tensor

    def __init__(self, levels: list[int]):
        super().__init__(math.prod(levels), len(levels))
        steps = [math.prod(levels[:d]) for d in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels)[:, None], persistent=False)  # (D, 1)
        self.register_buffer("steps", torch.tensor(steps)[:, None], persistent=False)

    steps: Tensor

    def assign(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            return self._number(self.levels * h.sigmoid() - 0.5).to(h.dtype)

    def lookup(self, k: Tensor) -> Tensor:
        levels = k.long().unsqueeze(1) // self.steps % self.levels  # (N, D, G)
        return self._scaled(levels.to(k.dtype))

    def nearest(self, e: Tensor) -> Tensor:
        return self._number((e * (self.levels - 1) + self.levels - 1) / 2).to(e.dtype)

    def through(self, h: Tensor, k: Tensor) -> Tensor:
        return super().through(self._scaled(self.levels * h.sigmoid() - 0.5), k)

    def _number(self, t: Tensor) -> Tensor:
        rounded = torch.minimum(t.round().clamp_min(0).long(), self.levels - 1)
        return (rounded * self.steps).sum(1)

    def _scaled(self, t: Tensor) -> Tensor:
        return (2 * t - (self.levels - 1)) / (self.levels - 1)


# Nodes of a model


class _Node(Deterministic):
    """Of vectors in cells of any arrangement, (N, D, *cells), and codes, (N, *shape)."""

    def __init__(self, quantizer: Quantizer, cells: tuple[int, ...], shape: tuple[int, ...]):
        super().__init__(quantizer)
        self.cells, self.shape = tuple(cells), tuple(shape)

    @property
    def quantizer(self) -> Quantizer:
        assert isinstance(self.module, Quantizer)
        return self.module

    def _vectors(self, e: Tensor) -> Tensor:
        return e.reshape(len(e), -1, *self.cells)


class Assign(_Node):
    """k | h: the code of each vector."""

    discrete = True

    def forward(self, *parents: Tensor) -> Tensor:
        (h,) = parents
        return self.quantizer.assign(h.flatten(2)).reshape(len(h), *self.shape)


class Through(_Node):
    """e | h, k: the vectors of codes, with the gradient of h."""

    def forward(self, *parents: Tensor) -> Tensor:
        h, k = parents
        return self._vectors(self.quantizer.through(h.flatten(2), k.flatten(1)))


class Lookup(_Node):
    """e | k: the vectors of codes."""

    discrete = True

    def forward(self, *parents: Tensor) -> Tensor:
        (k,) = parents
        return self._vectors(self.quantizer.lookup(k.flatten(1)))

    def nearest(self, e: Tensor) -> Tensor:
        """The codes nearest to vectors e, (N, D, *cells) to (N, *shape)."""
        return self.quantizer.nearest(e.flatten(2)).reshape(len(e), *self.shape)


# Arithmetic


def nearest_rows(rows: Tensor, centres: Tensor) -> Tensor:
    """Which of the centres, (K, D), is nearest to each row, (R, D), in the sense of Euclid; (R,)."""
    parts = rows.split(max(1, (1 << 24) // len(centres)))
    squares = centres.square().sum(1)
    return torch.cat([torch.addmm(squares, part, centres.mT, alpha=-2).argmin(1) for part in parts])


def k_means(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """K-means of rows, (R, D), in ten rounds from centres drawn far apart: centres, (K, D), and how many rows each has.

    A centre to which nothing falls stays where it is. Arthur and Vassilvitskii, "k-means++", 2007.
    """
    centres = rows.new_empty(count, rows.shape[1])
    distance = rows.new_ones(len(rows))
    for i in range(count):
        chosen = torch.multinomial(distance + torch.finfo(rows.dtype).tiny, 1)
        centres[i] = rows[chosen[0]]
        new = (rows - centres[i]).square().sum(1)
        distance = new if i == 0 else torch.minimum(distance, new)
    counts = rows.new_zeros(count)
    for _ in range(ROUNDS):
        index = nearest_rows(rows, centres)
        counts = rows.new_zeros(count).index_add_(0, index, rows.new_ones(len(rows)))
        sums = torch.zeros_like(centres).index_add_(0, index, rows)
        centres = torch.where(counts.unsqueeze(1) > 0, sums / counts.unsqueeze(1).clamp_min(1), centres)
    return centres, counts


def use(k: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Perplexity exp H of how often each code occurs, and the share of codes that do, each ()."""
    counts = torch.bincount(k.long().flatten(), minlength=codes).double()
    share = counts / counts.sum()
    return torch.exp(torch.special.entr(share).sum()), (counts > 0).double().mean()


# Components


@component("quantizer", "codebook", paper="van den Oord et al. 2017, arXiv:1711.00937")
def codebook(
    *, codes: Codes = 512, width: Width = 64, commitment: NonNegative = 0.25, decay: Share = 0.99, revive: Share = 0.05
) -> Quantizer:
    """A codebook learned by gradient: codes move to what is quantised.

    Settings:
        codes: K.
        width: D, numbers of a vector.
        commitment: β, how dearly the encoder pays for the distance to its code.
        decay: a step, of the counts of how much a code is used.
        revive: a code that is used less than this share of the mean starts anew at a vector of the batch; 0 never.
    """
    return GradientCodebook(codes, width, commitment, decay, revive)


@component("quantizer", "ema", paper="van den Oord et al. 2017, arXiv:1711.00937, appendix A.1")
def ema(
    *, codes: Codes = 512, width: Width = 64, commitment: NonNegative = 0.25, decay: Share = 0.99, revive: Share = 0.05
) -> Quantizer:
    """A codebook of running means: each code the mean of what lately fell to it, from K-means on.

    Settings:
        codes: K.
        width: D, numbers of a vector.
        commitment: β, how dearly the encoder pays for the distance to its code.
        decay: γ a step, of counts and sums.
        revive: a code that is used less than this share of the mean starts anew at a vector of the batch; 0 never.
    """
    return AveragedCodebook(codes, width, commitment, decay, revive)


@component("quantizer", "finite-scalar", paper="Mentzer, Minnen, Agustsson and Tschannen 2023, arXiv:2309.15505")
def finite_scalar(*, levels: Annotated[list[Codes], Field(min_length=1)] = [8, 5, 5, 5]) -> Quantizer:
    """Every number of a vector rounded to one of a few levels; there is no codebook that could die.

    Settings:
        levels: of each number; the codes are as many as their product. [8, 6, 5] makes 240, [8, 5, 5, 5] 1,000,
            [7, 5, 5, 5, 5] 4,375.
    """
    return FiniteScalar(levels)
