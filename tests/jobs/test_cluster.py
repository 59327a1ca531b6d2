"""Clusters of every kind of model that has a mixture in it, against quadrature, scikit-learn and plain sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import entropy, norm
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from jensen.core import Model
from jensen.data import Dataset, Schema, Split
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.cluster import Clusters
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.models.mixture import parts_of
from jensen.registry import build


def clouds(rows: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds far apart, and which a row is of."""
    rng = np.random.default_rng(0)
    which = np.arange(rows) % 3
    return np.array([[0.0, 0.0], [8.0, 1.0], [-3.0, 9.0]])[which] + rng.normal(size=(rows, 2)), which


def labelled(y: np.ndarray | None = None) -> Dataset:
    x, which = clouds()
    schema = Schema.of_table(x, ["a", "b"], classes=("p", "q", "r"), label="y")
    split = Split(x, which if y is None else y)
    return Dataset("clouds", schema, {"train": split, "test": split})


def run_of(name: str, kind: str = "real", **settings: Any) -> tuple[Run, np.ndarray]:
    """A model with random weights on clouds, or on counts, not trained."""
    x = clouds(30)[0] if kind == "real" else np.random.default_rng(0).poisson(4.0, (30, 2)).astype(float)
    schema = Schema.of_table(x, ["a", "b"], [kind] * 2)  # pyright: ignore
    model: Model = build(name, schema, settings).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return Run({"model": name}, schema, model, None, [], Dataset("made", schema, {"test": Split(x)})), x


def test_a_mixture_clusters_as_scikit_learn():
    data = labelled()
    run = train("mixture", data, components=3)
    found = run.cluster()
    rows = run.schema.prepare(data.split("test").x).double().numpy()
    _, parts = parts_of(run.model)
    oracle = GaussianMixture(3, means_init=parts.means.detach().numpy(), reg_covar=0).fit(rows)
    np.testing.assert_allclose(found.probabilities, oracle.predict_proba(rows), atol=1e-6)
    assert (found.cluster == oracle.predict(rows)).all()
    perfect = {"accuracy": 1.0, "adjusted_rand_index": 1.0, "normalized_mutual_information": 1.0, "labelled": 90}
    assert found.agreement() == perfect
    assert found.to_dict()["sizes"] == [30, 30, 30]
    assert str(found).splitlines()[0] == "90 data of clouds test in 3 of 3 clusters: 30, 30, 30"


@pytest.mark.parametrize("kind", ["real", "count"])
def test_a_mixture_of_flows_by_its_responsibilities(kind):
    """Of whole numbers, averaged over the noise that is added to them."""
    run, x = run_of("flow-mixture", kind, components=3, flow="realnvp")
    found = run.cluster(draws=400)
    value = run.schema.prepare(x)
    name = "x" if kind == "real" else "v"
    with torch.no_grad():
        dist: Any = run.model.p[name].module()
        if kind == "real":
            truth = dist.responsibilities(value)
        else:
            noise = torch.rand(400, *value.shape)
            truth = dist.responsibilities((value + noise).flatten(0, 1)).unflatten(0, (400, -1)).mean(0)
    np.testing.assert_allclose(found.probabilities, truth, atol=1e-5 if kind == "real" else 0.12)


def test_a_flow_from_a_mixture_by_its_base():
    run, x = run_of("realnvp", base="mixture", **{"base.components": 4})
    found = run.cluster()
    with torch.no_grad():
        dist: Any = run.model.p["x"].module()
        truth = dist.base.responsibilities(dist.to_base(run.schema.prepare(x))[0])
    np.testing.assert_allclose(found.probabilities, truth, atol=1e-5)


def test_an_autoencoder_under_a_mixture_by_quadrature():
    """p(k | x) = ∫ q(z | x) p(k | z) dz, z of one dimension."""
    run, x = run_of("vae", latents=1, prior="mixture", **{"prior.components": 3, "encoder.hidden": [8]})
    found = run.cluster(draws=4000)
    with torch.no_grad():
        q: Any = run.model.q["z"].module(run.schema.prepare(x))
        prior: Any = run.model.p["z"].module()
        grid = torch.linspace(-8, 8, 4001)
        share = prior.responsibilities(grid[:, None]).numpy()  # (G, K)
        density = norm(q.mean.numpy(), q.stddev.numpy()).pdf(grid.numpy())  # (n, G)
    truth = trapezoid(density[..., None] * share, grid.numpy(), axis=1)
    np.testing.assert_allclose(found.probabilities, truth, atol=5 * 0.5 / 4000**0.5)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["ppca", "vae"])
def test_a_model_without_mixture_says_why(name):
    run, _ = run_of(name, latents=1)
    with pytest.raises(CapabilityError, match=f"{name} cannot cluster: none of its densities is a mixture"):
        run.cluster()


def test_rows_without_labels_count_for_nothing():
    which = clouds()[1].copy()
    which[::2] = -1
    run = train("mixture", labelled(which), components=2)
    found = run.cluster()
    agreement = found.agreement()
    assert agreement is not None and agreement["labelled"] == 45
    known = which >= 0
    pair = which[known], found.cluster[known]
    assert agreement["adjusted_rand_index"] == pytest.approx(adjusted_rand_score(*pair))
    assert agreement["normalized_mutual_information"] == pytest.approx(normalized_mutual_info_score(*pair))
    assert set(found.table()["label"]) == {"p", "q", "r", ""}


def test_the_table_says_how_sure():
    p = np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
    found = Clusters(p, np.array([4, 7, 9]), None, None, "made", "test")
    table = found.table()
    assert list(table.columns) == ["row", "cluster", "probability", "entropy"]
    assert table["cluster"].tolist() == [1, 0, 0]
    np.testing.assert_allclose(table["probability"], p.max(1))
    np.testing.assert_allclose(table["entropy"], entropy(p, axis=1), atol=1e-15)
    assert found.agreement() is None and "labels" not in str(found)


def test_a_subset_at_random_keeps_its_rows():
    run = train("mixture", labelled(), components=3)
    whole, some = run.cluster(), run.cluster(limit=10, seed=3)
    np.testing.assert_allclose(some.probabilities, whole.probabilities[some.rows])
    with pytest.raises(ConfigError, match="--draws: expected >= 1, got 0"):
        run.cluster(draws=0)


def test_diagnosis_names_empty_components():
    run = train("mixture", labelled(), components=3)
    names = {f.name: f for f in run.diagnose().findings}
    assert "posterior collapse" not in names
    found = names["empty clusters"]
    assert found.ok and found.evidence["mutual_information"] == pytest.approx(np.log(3), abs=1e-3)
    weights, _ = parts_of(run.model)
    weights.set(torch.tensor([0.5, 0.5, 1e-6], dtype=torch.float64))
    found = {f.name: f for f in run.diagnose().findings}["empty clusters"]
    assert not found.ok and found.sentence.startswith("2 of 3 components have data") and "components=2" in found.try_


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mixture", {"components": 3}),
        ("flow-mixture", {"components": 3, "flow": "realnvp"}),
        ("vae", {"latents": 2, "prior": "mixture", "prior.components": 3}),
        ("vae", {"latents": 2, "prior": "vamp", "prior.components": 3}),
    ],
)
def test_draws_of_one_component_alone(name, settings):
    """Draws of component k have the distribution of p(x | k), by its mean; the three together that of p(x)."""
    run, _ = run_of(name, **settings)
    drawn = [run.sample(4000, sampling={"component": k}, seed=k) for k in range(3)]
    means = np.stack([rows.mean(0) for rows in drawn])
    if name == "mixture":
        _, parts = parts_of(run.model)
        wanted = run.schema.restore(parts.means.detach())
        spread = np.stack([rows.std(0) for rows in drawn]) / 4000**0.5
        assert (np.abs(means - np.asarray(wanted)) < 5 * spread).all()
    assert np.abs(means[0] - means[1]).max() > 0.05
    variable = {"mixture": "z", "flow-mixture": "x", "vae": "z"}[name]
    with torch.no_grad():
        weights = run.model.p[variable].module().logits.softmax(-1).numpy()
    whole = run.sample(20_000, seed=9)
    error = (
        whole.std(0) ** 2 / 20_000 + sum(w**2 * d.std(0) ** 2 / 4000 for w, d in zip(weights, drawn, strict=True))
    ) ** 0.5
    assert (np.abs(weights @ means - whole.mean(0)) < 5 * error).all()
    with pytest.raises(ConfigError, match="component: the mixture has 3, numbered from 0 to 2; got 3"):
        run.sample(2, sampling={"component": 3})
