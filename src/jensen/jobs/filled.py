"""What was filled in of data, and how much was computed for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jensen.jobs.run import Run


@dataclass(frozen=True)
class Filled:
    """Draws for N data of D elements, prepared; of whole numbers, whole. What is drawn is kept of the C missing
    elements alone, in the order of `x[missing]`.

    Attributes:
        missing: True where an element is missing, (N, D).
        first: where the elements of each datum begin among the C, (N,).
        draws: (M, C).
        mean: of p(x_m | x_o), (C,).
        spread: standard deviation of each element given what is observed, (C,), of names the probability of any other.
        method: of each datum, (N,): "none" where nothing is missing, "direct" where all is, "conditional" by
            p(x_m | x_o) itself, "ordered" where what is missing was drawn after all that is observed, "importance" or
            "mcmc".
        size: effective sample size of each datum, (N,), of its worst element; inf where nothing is missing,
            or nothing was drawn for the mean.
        r_hat: R̂ of each datum, (N,), of its worst element; NaN where no chain ran.
    """

    missing: Tensor
    first: Tensor
    draws: Tensor
    mean: Tensor
    spread: Tensor
    method: np.ndarray
    size: Tensor
    r_hat: Tensor

    @classmethod
    def of(cls, x: Tensor, missing: Tensor, draws: int) -> Filled:
        """Nothing filled in yet of data (N, D), prepared."""
        n, count = len(x), missing.sum(1)
        nothing = x.new_full((int(count.sum()),), math.nan)
        return cls(
            missing=missing,
            first=count.cumsum(0) - count,
            draws=nothing.expand(draws, -1).clone(),
            mean=nothing,
            spread=nothing.clone(),
            method=np.full(n, "none", dtype=object),
            size=torch.full((n,), math.inf, dtype=torch.float64),
            r_hat=torch.full((n,), math.nan, dtype=torch.float64),
        )

    def keep(
        self,
        rows: Tensor,
        how: str,
        draws: Tensor,
        mean: Tensor,
        spread: Tensor,
        size: Tensor,
        r_hat: float | Tensor = math.nan,
    ) -> None:
        """What was found of rows (B,): draws (M, B, D), means and spreads (B, D), and of each row its size and R̂."""
        here = self.missing[rows]
        place = (self.first[rows].unsqueeze(1) + here.cumsum(1) - 1)[here]
        self.draws[:, place] = draws[:, here].to(self.draws)
        self.mean[place] = mean[here].to(self.mean)
        self.spread[place] = spread[here].to(self.spread)
        self.method[rows.cpu().numpy()] = how
        self.size[rows.cpu()] = size.double().cpu()
        self.r_hat[rows.cpu()] = torch.as_tensor(r_hat, dtype=torch.float64).cpu()


@dataclass(frozen=True)
class Effort:
    """How much is computed for a datum.

    Attributes:
        particles: of importance resampling.
        warmup, steps: moves of a chain, dropped and kept.
        leapfrog: at most so many leapfrog steps a move; many dimensions take long moves.
    """

    particles: int = 1000
    warmup: int = 300
    steps: int = 300
    leapfrog: int = 10

    @classmethod
    def usual(cls, run: Run) -> Effort:
        """What suits the data: of pictures, where a step is dear, fewer and longer moves."""
        return cls(warmup=100, steps=100, leapfrog=16) if run.schema.is_image else cls()
