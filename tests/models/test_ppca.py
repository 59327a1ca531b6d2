"""Probabilistic PCA: its three ways of fitting agree with each other and with scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA, FactorAnalysis

from jensen.core import EXACT
from jensen.data import Dataset, Schema, Split
from jensen.errors import ConfigError
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.registry import build

LATENTS = 2


def table(rows: int = 400, dims: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(dims, LATENTS)) * [2.0, 1.0]
    return rng.normal(size=(rows, LATENTS)) @ w.T + 0.5 * rng.normal(size=(rows, dims)) + np.arange(dims)


def dataset(x: np.ndarray, weight: np.ndarray | None = None) -> Dataset:
    schema = Schema.of_table(x, [f"c{i}" for i in range(x.shape[1])])
    split = Split(x, weight=weight)
    return Dataset("made", schema, {"train": split, "valid": split, "test": Split(x)})


def fitted(data: Dataset, fit: str, **options) -> Run:
    return train("ppca", data, latents=LATENTS, fit=fit, **options)


def prepared(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


def parameters(run: Run) -> tuple[np.ndarray, float, np.ndarray]:
    """W Wᵀ, σ² and μ, which are what the likelihood knows."""
    p = run.model.p["x"].module
    w = p.weight.detach().double().numpy()
    return w @ w.T, p.scale.item() ** 2, p.mean.detach().double().numpy()


def sklearn_truth(x: np.ndarray) -> tuple[np.ndarray, float, PCA]:
    """W Wᵀ and σ² from principal components of the maximum-likelihood covariance."""
    n = len(x)
    pca = PCA(LATENTS).fit(x)
    share = (n - 1) / n  # scikit-learn divides by n − 1
    variance = pca.noise_variance_ * share
    stretch = np.diag(pca.explained_variance_ * share - variance)
    return pca.components_.T @ stretch @ pca.components_, variance, pca


@pytest.mark.parametrize(
    ("fit", "options", "tolerance"),
    [
        ("closed-form", {}, 1e-5),
        ("em", {"epochs": 300, "batch_size": 400}, 1e-4),
        ("gradient", {"epochs": 600, "batch_size": 400, "lr": 0.03, "average": 0.0}, 2e-3),
    ],
)
def test_all_fits_find_the_maximum(fit, options, tolerance):
    x = table()
    covariance, variance, _ = sklearn_truth(prepared(x))
    found_covariance, found_variance, found_mean = parameters(fitted(dataset(x), fit, **options))
    np.testing.assert_allclose(found_covariance, covariance, atol=tolerance)
    assert found_variance == pytest.approx(variance, abs=tolerance)
    np.testing.assert_allclose(found_mean, 0, atol=tolerance)


def test_score_is_that_of_scikit_learn():
    """scikit-learn's PCA scores under the same model, its covariance divided by n − 1; so compare by hand."""
    x = table()
    run = fitted(dataset(x), "closed-form")
    score = run.score()
    covariance, variance, _ = sklearn_truth(prepared(x))
    noise = variance * np.eye(5)
    truth = multivariate_normal(np.zeros(5), covariance + noise).logpdf(prepared(x)) - np.log(x.std(0)).sum()
    assert score.kind == EXACT
    assert score.measure == "lebesgue"
    assert score.rows is not None
    np.testing.assert_allclose(score.rows, truth, atol=2e-4)
    assert score.nats == pytest.approx(
        PCA(LATENTS).fit(prepared(x)).score(prepared(x)) - np.log(x.std(0)).sum(), abs=5e-3
    )


def test_em_with_small_batches_is_em():
    """Statistics are accumulated over the pass, so that the batch size does not matter."""
    x = table(100)
    a = parameters(fitted(dataset(x), "em", epochs=5, batch_size=100))
    b = parameters(fitted(dataset(x), "em", epochs=5, batch_size=7))
    for one, two in zip(a, b, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_em_never_lowers_the_likelihood():
    run = fitted(dataset(table(200)), "em", epochs=40)
    likelihoods = np.array([line["valid"]["log_likelihood"] for line in run.log])
    assert len(likelihoods) == 40
    assert (np.diff(likelihoods) > -1e-5).all()
    assert likelihoods[-1] > likelihoods[0] + 0.1


def test_em_without_a_budget_ends_by_itself():
    run = fitted(dataset(table(200)), "em")
    _, variance, _ = sklearn_truth(prepared(table(200)))
    assert len(run.log) < 500
    assert parameters(run)[1] == pytest.approx(variance, rel=0.01)


@pytest.mark.parametrize("fit", ["closed-form", "em"])
def test_weights_equal_repeated_rows(fit):
    x = table(60)
    weight = np.arange(60) % 4
    schema = dataset(x).schema  # one preparation for both
    weighed = dataclasses.replace(dataset(x, weight.astype(float)), schema=schema)
    repeated = dataclasses.replace(dataset(np.repeat(x, weight, 0)), schema=schema)
    a = parameters(fitted(weighed, fit, epochs=30, keep="last"))
    b = parameters(fitted(repeated, fit, epochs=30, keep="last"))
    for one, two in zip(a, b, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


@pytest.mark.parametrize("fit", ["closed-form", "em", "gradient"])
def test_constant_columns(fit):
    x = table(50)
    x[:, 2] = 7.0
    run = fitted(dataset(x), fit, epochs=5)
    score = run.score()
    assert np.isfinite(score.nats)
    drawn = run.model.sample(200)["x"][:, 2].detach()
    assert drawn.abs().mean() < 2
    if fit == "closed-form":
        covariance, _, _ = parameters(run)
        np.testing.assert_allclose(covariance[2], 0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_fewer_rows_than_dimensions(rows):
    """σ meets its floor and the score stays finite and equal to the marginal's."""
    x = table(rows, dims=8)
    run = fitted(dataset(x), "closed-form")
    p = run.model.p["x"].module
    if rows <= LATENTS + 1:  # nothing is left over for σ
        assert p.scale.item() == pytest.approx(1e-3, rel=0.01)
    w = p.weight.detach().double().numpy()
    covariance = w @ w.T + p.scale.item() ** 2 * np.eye(8)
    z = run.schema.prepare(x).double().numpy() - p.mean.detach().double().numpy()
    truth = multivariate_normal(np.zeros(8), covariance).logpdf(z) + run.schema.log_jacobian
    score = run.score()
    assert score.rows is not None
    # In float32 σ = 0.001 leaves about three digits of a squared distance that is 0 or a few.
    np.testing.assert_allclose(score.rows, np.atleast_1d(truth), atol=5e-3)


def test_nearly_singular_data_score_exactly():
    """Columns that all but repeat each other: eigenvalues six orders of magnitude apart."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, LATENTS))
    x = np.concatenate([base, base @ rng.normal(size=(2, 20))], 1) + 0.003 * rng.normal(size=(300, 22))
    run = fitted(dataset(x), "closed-form")
    p = run.model.p["x"].module
    w = p.weight.detach().double().numpy()
    covariance = w @ w.T + p.scale.item() ** 2 * np.eye(22)
    truth = multivariate_normal(p.mean.detach().double().numpy(), covariance).logpdf(run.schema.prepare(x).double())
    score = run.score()
    assert score.rows is not None
    np.testing.assert_allclose(score.rows - run.schema.log_jacobian, truth, atol=1e-3)


def test_encodings_are_posterior_means():
    """E[z | x] equals scikit-learn's factor-analysis formula at the same parameters."""
    x = table()
    run = fitted(dataset(x), "closed-form")
    p = run.model.p["x"].module
    oracle = FactorAnalysis(LATENTS)
    oracle.components_ = p.weight.detach().double().numpy().T
    oracle.mean_ = p.mean.detach().double().numpy()
    oracle.noise_variance_ = np.full(5, p.scale.item() ** 2)
    z = run.model.q["z"].module(run.schema.prepare(x)).mean.detach()
    np.testing.assert_allclose(z, oracle.transform(prepared(x)), atol=1e-4)


def test_fits_pictures_too():
    schema = Schema.of_pictures((1, 3, 4), levels=256)
    x = np.random.default_rng(0).integers(0, 256, (40, 1, 3, 4), dtype=np.uint8)
    data = Dataset("made", schema, {"train": Split(x), "test": Split(x)})
    run = fitted(data, "closed-form")
    assert np.isfinite(run.score().nats)
    assert run.model.sample(3)["x"].shape == (3, 1, 3, 4)


def test_as_many_latents_as_dimensions_are_refused():
    schema = Schema.of_table(np.zeros((2, 3)), ["a", "b", "c"])
    with pytest.raises(ConfigError, match="latents: expected fewer than the data's 3 dimensions, got 3"):
        build("ppca", schema, {"latents": 3})


def test_scale_reads_back_what_was_set():
    p = build("ppca", Schema.of_table(np.zeros((2, 3)), ["a", "b", "c"])).p["x"].module.double()
    for scale in (2e-3, 0.5, 1.0, 30.0):
        p.set_scale(torch.tensor(scale, dtype=torch.float64))
        assert p.scale.item() == pytest.approx(scale, rel=1e-9)
    p.set_scale(torch.tensor(0.0))
    assert p.scale.item() == pytest.approx(p.min_scale, rel=1e-6)
