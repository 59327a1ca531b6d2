"""Rendered shapes: pictures of which everything is known that went into them.

Each is one white shape on black, drawn from five factors that do not depend on one another: which shape, how large, how
turned, where across and where down. All combinations are there once. The idea is that of dSprites (Matthey et al.
2017); these are our own, smaller, and drawn here.
"""

from __future__ import annotations

import functools
from itertools import product

import numpy as np

SIZE = 32  # pixels across
FINER = 4  # points of a pixel, each way, whose mean is its grey
FACTORS: dict[str, tuple[float, ...]] = {
    "shape": (0, 1, 2),
    "scale": (0.65, 0.8, 0.95, 1.1),
    "turn": tuple(np.arange(6) / 6 * np.pi / 2),
    "across": tuple(np.linspace(-0.45, 0.45, 8)),
    "down": tuple(np.linspace(-0.45, 0.45, 8)),
}
SHAPES = ("square", "ellipse", "triangle")


def factors() -> np.ndarray:
    """Of every picture, in order, which value each factor has: int64 (N, 5), columns as in `FACTORS`."""
    return np.array(list(product(*(range(len(values)) for values in FACTORS.values()))))


@functools.cache
def rendered() -> np.ndarray:
    """The pictures, uint8 (N, 1, 32, 32)."""
    at = (np.arange(SIZE * FINER) + 0.5) / (SIZE * FINER) * 2 - 1
    x, y = np.meshgrid(at, at)
    values = list(FACTORS.values())
    found = []
    for shape, scale, turn, across, down in product(*values):
        u, v = (x - across) / (0.45 * scale), (y - down) / (0.45 * scale)
        u, v = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
        if shape == 0:
            inside = np.maximum(np.abs(u), np.abs(v)) < 0.75
        elif shape == 1:
            inside = u**2 + (v / 0.55) ** 2 < 1
        else:
            inside = (v > -0.5) & (v < 1 - np.sqrt(3) * np.abs(u))
        grey = inside.reshape(SIZE, FINER, SIZE, FINER).mean((1, 3))
        found.append(np.round(255 * grey).astype(np.uint8))
    return np.stack(found)[:, None]
