"""Kernel distances of samples from data: equal to those computed by hand, near zero for a model that is right."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest
import torch

import jensen
from jensen.core import seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.run import Run
from jensen.objectives import kernels

SMALL = {"latents": 2, "encoder.hidden": [8], "decoder.hidden": [8]}


def normals(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]])


def table() -> Dataset:
    x = normals(900, 0)
    parts = {"train": Split(x[:400]), "valid": Split(x[400:500]), "test": Split(x[500:])}
    return Dataset("normals", Schema.of_table(x, ["a", "b", "c"]), parts)


@pytest.fixture(scope="module")
def right() -> Run:
    """PPCA in closed form of normal data is very nearly the distribution that they are from."""
    return jensen.train("ppca", table(), latents=2)


@pytest.fixture(scope="module")
def wrong() -> Run:
    return jensen.train(
        "vae",
        table(),
        epochs=1,
        **SMALL,
        likelihood="gaussian",
        **{"likelihood.variance": "fixed", "likelihood.scale": 2.0},
    )


@pytest.mark.parametrize("features", ["values", "random"])
@pytest.mark.parametrize("kernel", ["imq", "rbf", "polynomial"])
def test_a_model_that_is_right_is_as_near_as_training_data(right, wrong, features, kernel):
    near, far = (run.distance(features=features, kernel=kernel) for run in (right, wrong))
    assert abs(near.mmd2) < 4 * near.stderr
    assert abs(near.train_mmd2) < 4 * near.train_stderr
    assert far.mmd2 > 3 * far.stderr  # tails of the third power are heavy
    assert far.mmd2 > near.mmd2


def test_it_is_the_statistic_of_standardised_features(right):
    """By a function of one's own, on samples drawn with the same seed."""

    def twice(x) -> np.ndarray:
        return np.concatenate([np.asarray(x), np.asarray(x) ** 2, np.ones((len(x), 1))], 1)

    found = right.distance(features=twice, kernel="polynomial", seed=3)
    data = right.data()
    test, train = twice(data.split("test").x), twice(data.split("train").x)
    with seeded(3), torch.no_grad():
        drawn = twice(right.schema.restore(right.model.sample(400)["x"]))
    rows = [torch.from_numpy((f - train.mean(0)) / train.std(0, ddof=1).clip(1e-9))[:, :6] for f in (drawn, test)]
    value, error = kernels.mmd_and_stderr(rows[0], rows[1], kernels.polynomial)
    assert found.features == "twice" and found.n == 400
    assert found.mmd2 == pytest.approx(value, rel=1e-4)
    assert found.stderr == pytest.approx(error, rel=1e-4)


def pictures() -> Dataset:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    x = np.zeros((600, 1, 4, 4), np.uint8)
    x[y == 0, :, :2], x[y == 1, :, 2:] = 1, 1
    x ^= rng.random(x.shape) < 0.1
    schema = Schema.of_pictures((1, 4, 4), levels=2, classes=("top", "bottom"))
    parts = {"train": Split(x[:300], y[:300]), "valid": Split(x[300:350], y[300:350]), "test": Split(x[350:], y[350:])}
    return Dataset("halves", schema, parts)


def test_labels_train_a_classifier_and_conditions_are_those_of_the_data():
    run = jensen.train("vae", pictures(), conditional=True, epochs=20, lr=0.01, batch_size=50, **SMALL)
    found = run.distance(limit=200)
    assert "a small classifier trained on the training data, right on 100% of these data" in found.features
    assert found.n == 200
    assert found == run.distance(limit=200)  # seeded throughout
    assert found.mmd2 != run.distance(limit=200, seed=1).mmd2
    start = jensen.train("vae", pictures(), epochs=1, lr=1e-5, **SMALL)
    assert start.distance(limit=200).mmd2 > found.mmd2 + 4 * found.stderr


def test_refusals(right):
    with pytest.raises(ConfigError, match="'rbff' is no kernel; did you mean 'rbf'"):
        right.distance(kernel="rbff")
    with pytest.raises(ConfigError, match="'valus' are no features; did you mean 'values'"):
        right.distance(features="valus")
    with pytest.raises(ConfigError, match="no labels to train a classifier on"):
        right.distance(features="classifier")
    with pytest.raises(ConfigError, match=r"expected 400 rows of features, got shape \(3,\)"):
        right.distance(features=lambda x: np.zeros(3))
    with pytest.raises(DataError, match="3 data or more"):
        right.distance(normals(2, 1))
    with pytest.raises(CapabilityError, match="cannot distance"):
        jensen.train("autoencoder", table(), epochs=1, **SMALL).distance()


def test_from_the_command_line(tmp_path):
    from typer.testing import CliRunner

    from jensen.cli.app import app

    pandas.DataFrame(normals(60, 0), columns=list("abc")).to_csv(tmp_path / "x.csv", index=False)
    jensen.train("ppca", str(tmp_path / "x.csv"), latents=1, out=tmp_path / "run")
    (tmp_path / "mine.py").write_text("def thirds(x):\n    return x ** 3\n")
    told = CliRunner().invoke(
        app, ["distance", str(tmp_path / "run"), "--features", f"{tmp_path}/mine.py:thirds", "--json"]
    )
    assert told.exit_code == 0
    assert json.loads(told.stdout)["features"] == "thirds"
    shown = CliRunner().invoke(app, ["distance", str(tmp_path / "run"), "--features", "values"])
    assert "what a perfect model would come to" in shown.stdout
    refused = CliRunner().invoke(app, ["distance", str(tmp_path / "run"), "--features", "nowhere:f"])
    assert refused.exit_code == 2
