"""The autoencoder: PCA's subspace where it is linear, noise in training alone, no likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from jensen.data import Dataset, Schema, Split
from jensen.errors import CapabilityError
from jensen.jobs.train import train
from jensen.registry import build

LINEAR = {"encoder": "linear", "decoder": "linear", "likelihood": {"name": "gaussian", "variance": "fixed"}}


def table(rows: int = 300) -> np.ndarray:
    """Standardised columns whose first two principal components stand well above the rest."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(rows, 6))
    return (x - x.mean(0)) / x.std(0)


def dataset(x: np.ndarray) -> Dataset:
    split = Split(x)
    schema = Schema.of_table(x, [f"c{i}" for i in range(x.shape[1])])
    return Dataset("made", schema, {"train": split, "valid": split, "test": split})


def test_a_linear_autoencoder_finds_the_subspace_of_pca():
    x = table()
    run = train("autoencoder", dataset(x), settings={"latents": 2, **LINEAR}, epochs=200, batch_size=100, lr=0.03)
    pca = PCA(2).fit(x)
    decoder = run.model.p["x"].module.network.output.weight.detach().numpy()
    angles = subspace_angles(decoder, pca.components_.T)
    assert np.rad2deg(angles).max() < 0.5
    # And reconstructs as PCA does.
    prepared = run.schema.prepare(x)
    found = run.model.evidence({"x": prepared}).p["x"].mean.detach().numpy()
    np.testing.assert_allclose(found, pca.inverse_transform(pca.transform(x)), atol=0.02)


def test_noise_is_added_in_training_alone():
    model = build("autoencoder", dataset(table()).schema, {"latents": 2, "noise": 0.5, **LINEAR})
    x = torch.from_numpy(table()).float()
    model.eval()
    clean = model.evidence({"x": x}).values["z"]
    torch.testing.assert_close(model.evidence({"x": x}).values["z"], clean)
    torch.testing.assert_close(clean, model.q["z"].module.module(x))
    model.train()
    gap = model.evidence({"x": x}).values["z"] - clean
    weight = model.q["z"].module.module.output.weight
    spread = (0.5 * weight.norm(dim=1)).detach()
    torch.testing.assert_close(gap.detach().std(0), spread, rtol=0.15, atol=0)


def test_noise_on_a_single_number_is_finite():
    schema = Schema.of_table(np.zeros((2, 1)), ["a"])
    model = build("autoencoder", schema, {"latents": 1, "noise": 0.5, **LINEAR})
    model.train()
    assert torch.isfinite(model.evidence({"x": torch.ones(1, 1)}).values["z"]).all()


def test_it_has_no_likelihood_and_no_samples_and_says_why():
    run = train("autoencoder", dataset(table(30)), settings={"latents": 2, **LINEAR}, epochs=1)
    with pytest.raises(CapabilityError, match="autoencoder cannot score: it has no likelihood: 'z' is a deterministic"):
        run.score()
    with pytest.raises(CapabilityError, match="autoencoder cannot sample"):
        run.sample(3)
    assert "reconstruction" in run.log[-1]["valid"]
    assert "elbo" not in run.log[-1]["valid"]
