"""Paths between data, against curves that are known: great circles of codes, and shortest lines of decoders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial import geometric_slerp
from torch import Tensor, nn

from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model
from jensen.distributions import DiagonalNormal

STEPS = 11


class At(nn.Module):
    """N(f(value), 1)."""

    def __init__(self, mean: Callable[[Tensor], Tensor]):
        super().__init__()
        self.mean = mean

    def forward(self, value: Tensor) -> DiagonalNormal:
        mean = self.mean(value)
        return DiagonalNormal(mean, torch.ones_like(mean))


def decoding(dims: int, decode: Callable[[Tensor], Tensor], encode: Callable[[Tensor], Tensor]) -> Model:
    """Codes z ~ N(0, I) of so many dimensions, decoded to `decode(z)` on average and encoded to `encode(x)`."""
    return Model(Joint({"z": Normal((dims,)), "x | z": At(decode)}), Joint({"z | x": At(encode)}))


def same(value: Tensor) -> Tensor:
    return value


def from_polar(z: Tensor) -> Tensor:
    """Radius and angle (*, 2) as a point of the plane."""
    return torch.stack([z[:, 0] * z[:, 1].cos(), z[:, 0] * z[:, 1].sin()], 1)


def to_polar(x: Tensor) -> Tensor:
    return torch.stack([x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])], 1)


def straight(ends: np.ndarray) -> np.ndarray:
    """Even steps from the first of two rows to the second."""
    return ends[0] + np.linspace(0, 1, STEPS)[:, None] * (ends[1] - ends[0])


def energy(path: np.ndarray) -> float:
    return float((np.diff(path, axis=0) ** 2).sum())


def test_a_spherical_path_turns_evenly_and_its_length_goes_from_one_to_the_other(run_of, columns):
    """SciPy's slerp of the directions, times lengths interpolated linearly."""
    a, b = np.random.default_rng(0).normal(size=(2, 5)) * [[1.0], [3.0]]
    run = run_of(decoding(5, same, same), columns(5), np.stack([a, b]))
    found = run.interpolate(how="spherical", steps=STEPS)
    t, (la, lb) = np.linspace(0, 1, STEPS), np.linalg.norm([a, b], axis=1)
    expected = geometric_slerp(a / la, b / lb, t) * (la + t * (lb - la))[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    linear = run.interpolate(how="linear", steps=STEPS)
    np.testing.assert_allclose(linear, straight(np.stack([a, b])), atol=1e-5)
    assert np.abs(found - linear).max() > 0.3


@pytest.mark.parametrize("end", [[-2.0, -4.0], [3.0, 6.0], [0.0, 0.0]], ids=["opposite", "one way", "the origin"])
def test_a_spherical_path_is_straight_where_there_is_no_one_arc(run_of, columns, end):
    rows = np.array([[1.0, 2.0], end])
    found = run_of(decoding(2, same, same), columns(2), rows).interpolate(how="spherical", steps=STEPS)
    np.testing.assert_allclose(found, straight(rows), atol=1e-5)


def test_a_geodesic_is_the_shortest_line_between_data(run_of, columns):
    """Of codes in polar coordinates the metric is the plane's: from data to data a chord, where a line between codes is
    an arc."""
    radius, half = 2.0, 1.2
    rows = radius * np.array([[np.cos(half), -np.sin(half)], [np.cos(half), np.sin(half)]])
    run = run_of(decoding(2, from_polar, to_polar), columns(2), rows)
    arc, found = (run.interpolate(how=how, steps=STEPS) for how in ("linear", "geodesic"))
    angle = np.linspace(-half, half, STEPS)
    np.testing.assert_allclose(arc, radius * np.stack([np.cos(angle), np.sin(angle)], 1), atol=1e-5)
    chord = straight(rows)
    np.testing.assert_allclose(found[[0, -1]], rows, atol=1e-5)
    np.testing.assert_allclose(found, chord, atol=1e-3)
    assert energy(chord) - 1e-5 <= energy(found) < 1.001 * energy(chord) < 0.65 * energy(arc)


def test_a_geodesic_of_a_linear_decoder_is_the_straight_line(run_of, columns):
    """However the decoder stretches and shears."""
    matrix = torch.tensor([[3.0, 1.0], [0.5, 0.2], [-1.0, 2.0]])
    rows = (np.array([[-1.0, 0.5], [1.0, 2.0]]) @ matrix.T.numpy()).astype(float)
    back = torch.linalg.pinv(matrix)
    run = run_of(decoding(2, lambda z: z @ matrix.T, lambda x: x @ back.T), columns(3), rows)
    found = run.interpolate(how="geodesic", steps=STEPS)
    np.testing.assert_allclose(found, straight(rows), atol=1e-4)
