"""Waveforms as whole levels and back: the companding law μ, and equal steps.

    level k = round((f(x) + 1) (L − 1) / 2)        x̂ = f⁻¹(2k / (L − 1) − 1)

with f(x) = sign(x) ln(1 + μ|x|) / ln(1 + μ), μ = L − 1, for "mu-law", and f(x) = x for "linear". The law of ITU-T
G.711 in its continuous form: steps are fine near silence, where most of a sound is, and the ear is most exact.

A step of f is 2 / (L − 1), so that f(x) is kept to half of it, and x to `largest_error`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Encoding = Literal["mu-law", "linear"]


def compress(x: np.ndarray, mu: float) -> np.ndarray:
    """sign(x) ln(1 + μ|x|) / ln(1 + μ): [−1, 1] onto itself.

    >>> compress(np.array([-1.0, 0.0, 1.0]), 255)
    array([-1.,  0.,  1.])
    """
    return np.sign(x) * np.log1p(mu * np.abs(x)) / math.log1p(mu)


def expand(y: np.ndarray, mu: float) -> np.ndarray:
    """The inverse of `compress`: sign(y) ((1 + μ)^|y| − 1) / μ."""
    return np.sign(y) * np.expm1(np.abs(y) * math.log1p(mu)) / mu


def to_levels(x: np.ndarray, levels: int, encoding: Encoding) -> np.ndarray:
    """A waveform in [−1, 1] as the nearest levels 0..L−1, float64 `(*)`; what is beyond is clipped."""
    x = np.clip(np.asarray(x, dtype=np.float64), -1, 1)
    y = compress(x, levels - 1) if encoding == "mu-law" else x
    return np.floor((y + 1) / 2 * (levels - 1) + 0.5)


def to_wave(k: np.ndarray, levels: int, encoding: Encoding) -> np.ndarray:
    """The waveform in [−1, 1] that levels stand for, float64 `(*)`. An expected level need not be whole.

    >>> to_wave(to_levels(np.array([-1.0, 0.5, 1.0]), 256, "linear"), 256, "linear").round(2)
    array([-1. ,  0.5,  1. ])
    """
    y = 2 * np.clip(np.asarray(k, dtype=np.float64), 0, levels - 1) / (levels - 1) - 1
    return expand(y, levels - 1) if encoding == "mu-law" else y


def largest_error(levels: int, encoding: Encoding) -> float:
    """The most that |x − x̂| can be, for any x in [−1, 1].

    Half a step, 1 / (L − 1), where steps are equal. Those of the μ-law are widest at |x| = 1, where the error is
    x − f⁻¹(1 − 1 / (L − 1)) halfway down to the next level.

    >>> round(largest_error(256, "mu-law"), 4), round(largest_error(256, "linear"), 4)
    (0.0216, 0.0039)
    """
    half = 1 / (levels - 1)
    if encoding == "linear":
        return half
    ends = expand(np.array([1 - 2 * half, 1 - half, 1.0]), levels - 1)
    return float(max(ends[2] - ends[1], ends[1] - ends[0]))


@dataclass(frozen=True)
class Loss:
    """What quantising a sound loses.

    Attributes:
        snr: power of the sound over that of the error, in decibels; infinite where nothing is lost.
        largest: the largest error that occurs.
        bound: the largest that can occur.
    """

    snr: float
    largest: float
    bound: float


def loss(x: np.ndarray, levels: int, encoding: Encoding) -> Loss:
    """What quantising waveforms x, `(*)`, loses."""
    x = np.asarray(x, dtype=np.float64)
    error = to_wave(to_levels(x, levels, encoding), levels, encoding) - x
    noise, power = float(np.square(error).sum()), float(np.square(x).sum())
    snr = math.inf if noise == 0 else 10 * math.log10(power / noise) if power else -math.inf
    return Loss(snr, float(np.abs(error).max(initial=0.0)), largest_error(levels, encoding))
