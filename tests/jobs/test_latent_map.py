"""The map of a latent space whose codes are grey levels, (x − 127.5) / 64, so that each place of it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.decomposition import PCA
from torch import Tensor, nn

from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model
from jensen.data import Schema
from jensen.distributions import DiagonalNormal
from jensen.jobs.latent_map import latent_map
from jensen.jobs.run import Run

ACROSS = 20  # pictures of a manifold, of pictures as narrow as these
AT = (np.arange(ACROSS) + 0.5) / ACROSS


class Grey(nn.Module):
    """Codes (*, L) as the mean of pictures (*, 1, 1, W), their first pixels; the others are 7."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, z: Tensor) -> DiagonalNormal:
        others = z.new_full((len(z), self.width - z.shape[1]), 7.0)
        mean = torch.cat([127.5 + 64 * z, others], 1).reshape(-1, 1, 1, self.width)
        return DiagonalNormal(mean, torch.ones_like(mean), 3)


class Code(nn.Module):
    """The code of pictures."""

    def __init__(self, latents: int):
        super().__init__()
        self.latents = latents

    def forward(self, x: Tensor) -> DiagonalNormal:
        mean = code(x.flatten(1))[:, : self.latents]
        return DiagonalNormal(mean, torch.ones_like(mean))


class Wide(nn.Module):
    """A prior of two dimensions that is not the standard normal."""

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(torch.zeros(2), torch.full((2,), 3.0))


def code(x: Any) -> Any:
    """Of grey levels, a tensor or an array."""
    return (x - 127.5) / 64


def made(run_of: Callable[..., Run], latents: int, width: int, prior: nn.Module | None = None) -> Run:
    """A run of 60 pictures, labelled by whether the first pixel is light."""
    p = Joint({"z": prior or Normal((latents,)), "x | z": Grey(width)})
    schema = Schema.of_pictures((1, 1, width), classes=("dark", "light"))
    grey = np.random.default_rng(0).integers(0, 256, size=(60, 1, 1, width))
    x = (grey * np.linspace(0.3, 1, width)).astype(np.uint8)
    return run_of(Model(p, Joint({"z | x": Code(latents)})), schema, x, (x[:, 0, 0, 0] > 40).astype(np.int64))


@pytest.mark.parametrize("limit", [1000, 25])
def test_points_are_codes_of_data_beside_their_labels(run_of, limit):
    run = made(run_of, 2, 2)
    found, part = latent_map(run, run.data(), "test", limit), run.data().split("test")
    every = code(part.x.reshape(60, 2).astype(float))
    distance = np.abs(found.points[:, None] - every[None]).max(-1)  # each point is the code of one picture
    assert len(found.points) == min(limit, 60) and distance.min(1).max() < 1e-5
    assert len({tuple(point) for point in found.points.round(4)}) == len(found.points)
    assert found.labels is not None and {0, 1} == set(found.labels)
    np.testing.assert_array_equal(found.labels, found.points[:, 0] > code(40.0))
    assert found.axes == ("z₁", "z₂") and found.flattened is None


def test_pictures_stand_at_equal_steps_of_probability_of_the_prior(run_of):
    """The first coordinate goes to the right, the second up."""
    run = made(run_of, 2, 2)
    found = latent_map(run, run.data(), "test")
    assert found.manifold is not None and found.spread == "prior"
    across, up = np.meshgrid(norm.ppf(AT), norm.ppf(AT)[::-1])
    assert found.manifold.shape == (ACROSS, ACROSS, 1, 1, 2)
    np.testing.assert_allclose(code(found.manifold[:, :, 0, 0]), np.stack([across, up], -1), atol=1e-4)


def test_under_another_prior_pictures_stand_at_quantiles_of_the_data(run_of):
    run = made(run_of, 2, 2, Wide())
    found = latent_map(run, run.data(), "test")
    assert found.manifold is not None and found.spread == "data"
    across, up = np.quantile(code(run.data().split("test").x.reshape(60, 2).astype(float)), AT, axis=0).T
    np.testing.assert_allclose(code(found.manifold[:, :, 0, 0, 0]), np.tile(across, (ACROSS, 1)), atol=1e-4)
    np.testing.assert_allclose(code(found.manifold[:, :, 0, 0, 1]), np.tile(up[::-1, None], ACROSS), atol=1e-4)


def test_more_dimensions_are_flattened_to_their_principal_components(run_of):
    """As scikit-learn has them, up to signs; what is decoded lies in their plane, at quantiles of the points."""
    run = made(run_of, 5, 5)
    found, z = latent_map(run, run.data(), "test"), code(run.data().split("test").x.reshape(60, 5).astype(float))
    pca = PCA(2).fit(z)
    expected = pca.transform(z)
    sign = np.sign((found.points * expected).sum(0))
    np.testing.assert_allclose(found.points * sign, expected, atol=1e-4)
    assert found.flattened == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-5)
    assert pca.explained_variance_ratio_.sum() < 0.9 and found.axes[0].startswith("first principal component")
    assert found.manifold is not None and found.spread == "data"
    places = code(found.manifold.reshape(-1, 5))
    np.testing.assert_allclose(pca.inverse_transform(pca.transform(places)), places, atol=1e-4)
    across, up = np.quantile(found.points, AT, axis=0).T
    grid = np.stack(np.meshgrid(across, up[::-1]), -1).reshape(-1, 2)
    np.testing.assert_allclose(pca.transform(places) * sign, grid, atol=1e-4)


def test_one_dimension_is_a_line(run_of):
    run = made(run_of, 1, 2)
    found = latent_map(run, run.data(), "test")
    first = code(run.data().split("test").x[:, 0, 0, 0].astype(float))
    np.testing.assert_allclose(found.points, np.stack([first, np.zeros(60)], 1), atol=1e-5)
    assert found.axes == ("z₁", "") and found.manifold is not None
    assert found.manifold.shape == (1, ACROSS, 1, 1, 2) and (found.manifold[..., 1] == 7).all()
    assert found.spread == "prior"
    np.testing.assert_allclose(code(found.manifold[0, :, 0, 0, 0]), norm.ppf(AT), atol=1e-4)


def test_a_table_has_points_and_no_pictures(run_of, columns):
    rows = np.random.default_rng(0).normal(size=(60, 2))
    model = Model(Joint({"z": Normal((2,)), "x | z": Code(2)}), Joint({"z | x": Code(2)}))
    run = run_of(model, columns(2), rows)
    found = latent_map(run, run.data(), "test")
    assert found.manifold is None and found.labels is None
    np.testing.assert_allclose(found.points, code(rows), atol=1e-5)
