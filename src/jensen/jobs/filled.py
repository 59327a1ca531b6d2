"""What was filled in of data, and how much was computed for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.jobs.run import Run


@dataclass(frozen=True)
class Filled:
    """Draws for N data of D elements, prepared; of whole numbers, whole.

    Attributes:
        draws: (M, N, D).
        mean: of p(x_m | x_o), (N, D).
        method: of each datum: "none" where nothing is missing, "direct" where all is, "ordered" where what is missing
            was drawn after all that is observed, "importance" or "mcmc".
        size: effective sample size of each datum, (N,), of its worst element; inf where nothing is missing.
        r_hat: R̂ of each datum, (N,), of its worst element; NaN where no chain ran.
        spread: standard deviation of each element given what is observed, (N, D), of names the probability of any
            other; 0 where it is observed, NaN where it is not known.
    """

    draws: Tensor
    mean: Tensor
    method: list[str]
    size: Tensor
    r_hat: Tensor
    spread: Tensor

    @classmethod
    def of(cls, x: Tensor, draws: int) -> Filled:
        """Data (N, D) as they are, nothing filled in yet."""
        return cls(
            draws=x.expand(draws, *x.shape).clone(),
            mean=x.clone(),
            method=["none"] * len(x),
            size=torch.full((len(x),), math.inf, dtype=torch.float64),
            r_hat=torch.full((len(x),), math.nan, dtype=torch.float64),
            spread=torch.full_like(x, math.nan),
        )


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
