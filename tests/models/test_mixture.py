"""Finite mixtures against scikit-learn, scipy, enumeration and closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture
from torch import Tensor

from jensen.core import EXACT, Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import ConfigError, FitWarning
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.models.mixture import parts_of
from jensen.objectives import UpdatePhase
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer

COVARIANCES = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def clusters(rows: int = 300, dims: int = 3, count: int = 3, seed: int = 0, apart: float = 3.0) -> np.ndarray:
    """Correlated clusters of unequal sizes."""
    rng = np.random.default_rng(seed)
    centres = apart * rng.normal(size=(count, dims))
    roots = rng.normal(size=(count, dims, dims)) / np.sqrt(dims)
    which = rng.choice(count, rows, p=np.arange(1, count + 1) / np.arange(1, count + 1).sum())
    return centres[which] + np.einsum("nij,nj->ni", roots[which], rng.normal(size=(rows, dims)))


def dataset(x: np.ndarray, kind: str = "real", weight: np.ndarray | None = None) -> Dataset:
    schema = Schema.of_table(x, [f"c{i}" for i in range(x.shape[1])], [kind] * x.shape[1])  # pyright: ignore
    return Dataset("made", schema, {"train": Split(x, weight=weight), "test": Split(x)})


def made(x: np.ndarray, kind: str = "real", **settings: Any) -> tuple[Model, Schema]:
    schema = dataset(x, kind).schema
    return build("mixture", schema, settings), schema


def climbed(model: Model, schema: Schema, x: np.ndarray, passes: int, **options: Any) -> list[float]:
    """EM from where the model stands; the mean log-likelihood before each pass, in prepared units."""
    model.objective = dataclasses.replace(model.objective, stages=model.objective.stages[1:])
    settings = training_settings({"epochs": passes, "keep": "last", "batch_size": 100, **options})
    log = Trainer(model, Split(x).to(schema), None, settings).run()
    return [line["train"]["log_likelihood"] for line in log]


def log_p(model: Model, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.evidence({"x": x}).elbo().numpy()


def count_table(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rates = np.array([[1.0, 6.0, 0.2], [5.0, 0.5, 3.0]])
    return rng.poisson(rates[rng.integers(0, 2, 200)]).astype(float)


def bit_table(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    share = np.array([[0.9, 0.8, 0.1, 0.1], [0.2, 0.1, 0.9, 0.7]])
    return (rng.random((200, 4)) < share[rng.integers(0, 2, 200)]).astype(float)


# Against scikit-learn


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("passes", [1, 15])
def test_from_the_same_start_it_is_scikit_learns(covariance, passes):
    """Weights, means, covariances and log-likelihood after the same passes from the same start."""
    x, k = clusters(400, 4, 3), 3
    model, schema = made(x, components=k, covariance=covariance, min_scale=1e-6)
    rows = schema.prepare(x).double().numpy()
    d = rows.shape[1]
    weights, means = np.array([0.5, 0.3, 0.2]), rows[[0, 50, 100]]
    precision = {
        "full": np.stack([np.eye(d)] * k),
        "tied": np.eye(d),
        "diagonal": np.ones((k, d)),
        "spherical": np.ones(k),
    }
    oracle = GaussianMixture(
        k, covariance_type=COVARIANCES[covariance], weights_init=weights, means_init=means,
        precisions_init=precision[covariance], max_iter=passes, tol=0, reg_covar=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        oracle.fit(rows)
    pi, parts = parts_of(model)
    pi.set(torch.from_numpy(weights))
    parts.set(torch.from_numpy(means), torch.eye(d, dtype=torch.float64).expand(1 if covariance == "tied" else k, d, d))
    likelihoods = climbed(model, schema, x, passes)
    np.testing.assert_allclose(pi.log_weights.exp().detach(), oracle.weights_, atol=1e-9)
    np.testing.assert_allclose(parts.means.detach(), oracle.means_, atol=1e-9)
    found = parts.covariances.detach().numpy()
    theirs = {
        "full": lambda c: c,
        "tied": lambda c: np.stack([c] * k),
        "diagonal": lambda c: np.stack([np.diag(row) for row in c]),
        "spherical": lambda c: np.stack([s * np.eye(d) for s in c]),
    }
    np.testing.assert_allclose(found, theirs[covariance](oracle.covariances_), atol=1e-9)
    np.testing.assert_allclose(log_p(model, torch.from_numpy(rows)), oracle.score_samples(rows), atol=1e-8)
    assert oracle.lower_bound_ == pytest.approx(likelihoods[-1], abs=1e-8)
    np.testing.assert_allclose(
        model.q["z"].module(torch.from_numpy(rows)).mean.detach(), oracle.predict_proba(rows), atol=1e-8
    )


def test_starts_find_what_scikit_learn_finds_by_many():
    x = clusters(500, 2, 5, seed=3, apart=4.0)
    run = train("mixture", dataset(x), components=5)
    rows = run.schema.prepare(x).double().numpy()
    best = GaussianMixture(5, n_init=10, random_state=0, reg_covar=0, tol=1e-6, max_iter=500).fit(rows)
    assert log_p(run.model, torch.from_numpy(rows)).mean() > best.score(rows) - 1e-3
    assert run.score().kind == EXACT
    assert run.score().nats == pytest.approx(best.score(rows) + run.schema.log_jacobian, abs=2e-3)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("family", ["gaussian", "student-t"])
def test_expanded_squares_count_as_the_others(covariance, family, monkeypatch):
    """Both ways of measuring: the same densities, and the same maximum."""
    x = clusters(60, 4, 2)
    found = []
    for near in (1e4, 0.0):
        monkeypatch.setattr("jensen.conditionals.elliptical.NEAR", near)
        model, schema = made(x, components=3, covariance=covariance, family=family)
        _, parts = parts_of(model)
        rows = schema.prepare(x).double()
        parts.loc.data.copy_(rows[:3])
        if parts.dense:
            parts.lower.data.copy_(0.3 * torch.sin(torch.arange(parts.lower.numel())).reshape(parts.lower.shape))
        log_prob, seen = parts.explainer()(rows)
        assert seen.y.dim() == (2 if near else 3)
        share = log_prob.softmax(0).detach()
        parts.set_from(parts.count(seen, share), share.sum(1))
        found.append([log_prob, parts.means, parts.covariances, *([parts.df] if parts.student else [])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_far_from_the_origin_and_narrow(covariance):
    """Squares that would lose their digits, expanded, are not: against scipy."""
    x = clusters(50, 3, 2)
    model, _ = made(x, components=2, covariance=covariance)
    _, parts = parts_of(model)
    narrow = torch.eye(3, dtype=torch.float64).expand(1 if covariance == "tied" else 2, 3, 3) * 0.002**2
    centres = torch.tensor([[1e6, -1e6, 3.0], [1e6, 1e6, 5.0]], dtype=torch.float64)
    parts.set(centres, narrow)
    near = centres.repeat(4, 1) + 0.002 * torch.randn(8, 3, dtype=torch.float64)
    truth = [stats.multivariate_normal(c, 0.002**2 * np.eye(3)).logpdf(near) for c in centres.numpy()]
    np.testing.assert_allclose(parts.log_prob(near).detach(), np.stack(truth, 1), rtol=1e-5, atol=1e-5)
    seen = parts.explainer()(near)[1]
    share = torch.eye(2, dtype=torch.float64)[torch.arange(8) % 2].mT
    parts.set_from(parts.count(seen, share), share.sum(1))
    np.testing.assert_allclose(parts.means.detach()[0], near[::2].mean(0), rtol=1e-12)


# Densities of the other families


def test_student_densities_are_scipys():
    x = clusters(80, 3, 2)
    for covariance in COVARIANCES:
        model, schema = made(x, components=2, family="student-t", covariance=covariance)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn_like(p))
        pi, parts = parts_of(model)
        rows = schema.prepare(x).double()
        each = [
            stats.multivariate_t(m, s, df).logpdf(rows)
            for m, s, df in zip(*(v.detach().numpy() for v in (parts.means, parts.covariances, parts.df)), strict=True)
        ]
        truth = logsumexp(np.stack(each, 1) + pi.log_weights.detach().numpy(), axis=1)
        np.testing.assert_allclose(log_p(model, rows), truth, atol=1e-9)
        drawn = model.sample(4000)["x"].detach()
        mean = (pi.log_weights.exp() @ parts.means).detach()
        assert ((drawn.mean(0) - mean).abs() < 6 * drawn.std(0) / 4000**0.5).all()
        expected = model.p["x"].module(torch.eye(2, dtype=torch.float64))
        np.testing.assert_allclose(expected.variance.detach(), _student_variances(parts), rtol=1e-9)


def _student_variances(parts: Any) -> np.ndarray:
    df = parts.df.detach()[:, None]
    return (parts.covariances.diagonal(dim1=1, dim2=2) * df / (df - 2)).detach().numpy()


def test_one_student_component_is_scipys_maximum():
    """In one dimension scipy fits location, scale and degrees of freedom by a search of its own."""
    x = stats.t(4.0, 2.0, 0.5).rvs(1000, random_state=0)[:, None]
    run = train("mixture", dataset(x), components=1, family="student-t", epochs=150, keep="last", batch_size=1000)
    df, loc, scale = stats.t.fit(x[:, 0])
    _, parts = parts_of(run.model)
    assert parts.df.item() == pytest.approx(df, rel=5e-3)
    assert run.score().nats == pytest.approx(stats.t(df, loc, scale).logpdf(x).mean(), abs=1e-6)


@pytest.mark.parametrize("kind", ["binary", "levels"])
def test_probabilities_by_enumeration(kind):
    """p(x) = Σ_k π_k Π_d p_kd(x_d) by plain sums over all there is; they sum to one."""
    if kind == "binary":
        schema, values = dataset(bit_table(), "binary").schema, (0, 1)
    else:
        schema, values = Schema.of_pictures((1, 2, 2), levels=3), (0, 1, 2)
    model = build("mixture", schema, {"components": 3})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    pi, parts = parts_of(model)
    weights = pi.log_weights.exp().tolist()
    if kind == "binary":
        p1 = parts.natural.sigmoid()
        table = torch.stack([1 - p1, p1], -1).tolist()
    else:
        table = parts.logits.softmax(-1).tolist()
    every = list(itertools.product(values, repeat=4))
    truth = [
        sum(w * np.prod([t[d][v] for d, v in enumerate(x)]) for w, t in zip(weights, table, strict=True)) for x in every
    ]
    found = np.exp(log_p(model, torch.tensor(every, dtype=torch.float32).reshape(-1, *schema.event_shape)))
    np.testing.assert_allclose(found, truth, rtol=1e-10)
    assert found.sum() == pytest.approx(1, abs=1e-12)


def test_poisson_densities_are_scipys():
    x = count_table()
    run = train("mixture", dataset(x, "count"), components=2)
    pi, parts = parts_of(run.model)
    each = stats.poisson(parts.means.detach().numpy()[None]).logpmf(x[:, None]).sum(-1)
    truth = logsumexp(each + pi.log_weights.detach().numpy(), axis=1)
    np.testing.assert_allclose(log_p(run.model, torch.from_numpy(x)), truth, atol=1e-9)
    rates = parts.means.detach().numpy()
    np.testing.assert_allclose(rates[rates[:, 0].argsort()], [[1.0, 6.0, 0.2], [5.0, 0.5, 3.0]], atol=0.5)


# Closed forms


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_component_is_the_closed_form(covariance):
    x = clusters(200, 3, 1)
    run = train("mixture", dataset(x), components=1, covariance=covariance)
    rows = run.schema.prepare(x).double().numpy()
    sigma = np.cov(rows.T, bias=True)
    if covariance == "diagonal":
        sigma = np.diag(np.diag(sigma))
    elif covariance == "spherical":
        sigma = np.eye(3) * np.trace(sigma) / 3
    truth = stats.multivariate_normal(rows.mean(0), sigma).logpdf(rows)
    np.testing.assert_allclose(log_p(run.model, torch.from_numpy(rows)), truth, atol=1e-8)


def test_one_bernoulli_component_counts():
    x = bit_table()
    run = train("mixture", dataset(x, "binary"), components=1, smoothing=2.0)
    found = parts_of(run.model)[1].means.detach()[0]
    np.testing.assert_allclose(found, (x.sum(0) + 1) / (len(x) + 2), rtol=1e-9)
    exact = train("mixture", dataset(x, "binary"), components=1, smoothing=0.0)
    np.testing.assert_allclose(parts_of(exact.model)[1].means.detach()[0], x.mean(0), rtol=1e-9)


def test_one_categorical_component_counts():
    schema = Schema.of_pictures((1, 1, 3), levels=4)
    x = np.random.default_rng(0).integers(0, 4, (50, 1, 1, 3)).astype(np.uint8)
    data = Dataset("made", schema, {"train": Split(x), "test": Split(x)})
    run = train("mixture", data, components=1, smoothing=2.0)
    found = parts_of(run.model)[1].logits.softmax(-1).detach()[0].numpy()
    counts = np.stack([(x.reshape(50, 3) == v).sum(0) for v in range(4)], 1)
    np.testing.assert_allclose(found, (counts + 0.5) / 52, rtol=1e-9)
    np.testing.assert_allclose(parts_of(run.model)[1].means.detach()[0], found @ np.arange(4.0), rtol=1e-9)


# EM


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *[("real", {"family": f, "covariance": c}) for f in ("gaussian", "student-t") for c in COVARIANCES],
        ("real", {"family": "student-t", "df": 3.0}),
        ("binary", {"smoothing": 0.0}),
        ("count", {"smoothing": 0.0}),
    ],
    ids=str,
)
def test_em_never_lowers_the_likelihood(kind, settings, seed):
    x = {"real": clusters, "binary": lambda n, seed: bit_table(seed), "count": lambda n, seed: count_table(seed)}
    rows = x[kind](120, seed=seed)
    model, schema = made(rows, kind, components=4, **settings)
    _, parts = parts_of(model)
    with torch.no_grad():
        for p in parts.parameters():
            p.add_(0.5 * torch.randn_like(p))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        likelihoods = np.array(climbed(model, schema, rows, 40))
    assert (np.diff(likelihoods) > -1e-11).all()
    assert likelihoods[-1] > likelihoods[0] + 0.05


def test_the_size_of_batches_does_not_matter():
    x = clusters(130)
    one, two = (made(x, components=3)[0] for _ in range(2))
    two.load_state_dict(one.state_dict())
    for model, size in ((one, 130), (two, 7)):
        parts_of(model)[1].loc.data.copy_(torch.from_numpy(x[:3]) / 5)
        climbed(model, dataset(x).schema, x, 10, batch_size=size)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "settings", "lr"),
    [
        ("real", {}, 0.03),
        ("real", {"family": "student-t", "df": 4.0, "covariance": "diagonal"}, 0.03),
        ("binary", {"smoothing": 0.0}, 0.05),
    ],
    ids=str,
)
def test_the_gradient_climbs_to_the_same_summit(kind, settings, lr):
    x = clusters(100, 2, 2, seed=1) if kind == "real" else bit_table()
    data = dataset(x, kind)
    em = train("mixture", data, components=2, epochs=100, batch_size=200, keep="last", **settings)
    ascent = train(
        "mixture", data, components=2, fit="gradient", epochs=250, batch_size=200, lr=lr, average=0.0, **settings
    )
    best = em.score().nats
    assert ascent.score().nats == pytest.approx(best, abs=2e-3)
    assert ascent.model.objective.description == "maximum likelihood, gradient ascent"


@pytest.mark.parametrize("settings", [{}, {"family": "student-t"}, {"covariance": "spherical"}], ids=str)
def test_weights_equal_repeated_rows(settings):
    x = clusters(60)
    weight = (np.arange(60) % 4).astype(float)
    models = []
    for rows, own in ((x, weight), (np.repeat(x, weight.astype(int), 0), None)):
        model, schema = made(x, components=2, **settings)
        parts_of(model)[1].loc.data.copy_(schema.prepare(x[:2]))
        model.objective = dataclasses.replace(model.objective, stages=model.objective.stages[1:])
        options = training_settings({"epochs": 20, "keep": "last", "batch_size": 50})
        Trainer(model, Split(rows, weight=own).to(schema), None, options).run()
        models.append(model)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), atol=1e-8)


def test_rows_of_weight_zero_start_nothing():
    """Far rows that count for nothing would be the first centres."""
    x = np.concatenate([clusters(100, 2, 2), np.full((30, 2), 500.0) * np.arange(30)[:, None]])
    weight = np.concatenate([np.ones(100), np.full(30, 1e-9)])
    run = train("mixture", dataset(x, weight=weight), components=2)
    pi, parts = parts_of(run.model)
    assert (pi.log_weights.exp() > 0.1).all()
    assert (run.schema.restore(parts.means.detach()).max(0) < x[:100].max(0) + 1).all()


# Components of no use


def test_an_empty_component_is_started_again_and_said():
    x = clusters(300, 2, 3, apart=6.0)
    model, schema = made(x, components=3)
    _, parts = parts_of(model)
    rows = schema.prepare(x).double()
    parts.loc.data.copy_(torch.stack([rows[0], rows[1], torch.full((2,), 1e4)]))
    with pytest.warns(FitWarning, match="component 2 had no data left; it starts again among those"):
        likelihoods = climbed(model, schema, x, 60)
    assert (np.diff(likelihoods) > -1e-9).all()  # squares that are expanded keep eight digits
    assert (parts_of(model)[0].log_weights.exp() > 0.05).all()
    best = GaussianMixture(3, n_init=5, random_state=0).fit(rows.numpy())
    assert log_p(model, rows).mean() > best.score(rows.numpy()) - 0.01


@pytest.mark.parametrize("kind", ["binary", "count"])
def test_an_empty_component_of_whole_numbers(kind):
    x = bit_table() if kind == "binary" else count_table()
    model, schema = made(x, kind, components=3, smoothing=0.0)
    pi, parts = parts_of(model)
    with torch.no_grad():
        parts.natural[:2] = torch.randn(2, x.shape[1])
        pi.logits[2] = -600.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        likelihoods = climbed(model, schema, x, 30)
    assert "component 2" in str(caught[0].message)
    assert (np.diff(likelihoods) > -1e-11).all()


def test_more_components_than_there_are_distinct_rows():
    """Those left over are said to stay empty; the score is that of the others."""
    x = np.repeat([[0.0, 1.0], [4.0, 0.0]], [30, 10], 0)
    with pytest.warns(FitWarning, match="component . has no data left, and no new start helps: it stays empty"):
        run = train("mixture", dataset(x), components=3, covariance="spherical", min_scale=0.1)
    assert np.isfinite(run.score().nats)
    weights = parts_of(run.model)[0].log_weights.exp().sort().values
    np.testing.assert_allclose(weights.detach(), [0, 0.25, 0.75], atol=1e-6)


def test_a_component_on_too_few_data_is_held_at_its_floor_and_said():
    x = np.concatenate([clusters(60, 2, 1), [[50.0, 50.0]]])
    with pytest.warns(FitWarning, match="rests on too few data for its covariance"):
        run = train("mixture", dataset(x), components=2, min_scale=0.01)
    _, parts = parts_of(run.model)
    assert parts.scales.min().item() == pytest.approx(0.01, rel=1e-6)
    assert np.isfinite(run.score().nats)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_constant_columns(covariance):
    x = clusters(100, 3, 2, apart=6.0)
    x[:, 1] = 7.0
    run = train("mixture", dataset(x), components=2, covariance=covariance)
    assert np.isfinite(run.score().nats)
    drawn = run.sample(500)[:, 1]
    spread = 1.5 if covariance == "spherical" else 0.01
    assert np.abs(drawn - 7.0).max() < 5 * spread


def test_the_floor_is_the_best_there_is():
    """Raising eigenvalues to the floor maximises the likelihood among covariances above it: no other does better."""
    x = clusters(30, 3, 1)
    x[:, 2] = x[:, 0] + x[:, 1]
    run = train("mixture", dataset(x), components=1, min_scale=0.2)
    _, parts = parts_of(run.model)
    rows = run.schema.prepare(x).double().numpy()
    sigma = parts.covariances.detach().numpy()[0]
    assert np.linalg.eigvalsh(sigma).min() == pytest.approx(0.04, rel=1e-6)
    best = stats.multivariate_normal(rows.mean(0), sigma).logpdf(rows).mean()
    rng = np.random.default_rng(0)
    for _ in range(200):
        other = sigma + 0.05 * (lambda a: a + a.T)(rng.normal(size=(3, 3)))
        values, vectors = np.linalg.eigh(other)
        other = (vectors * np.maximum(values, 0.04)) @ vectors.T
        assert stats.multivariate_normal(rows.mean(0), other).logpdf(rows).mean() < best + 1e-9


def test_more_components_than_data_are_refused():
    with pytest.raises(ConfigError, match="components: expected at most as many as training data, 5, got 6"):
        train("mixture", dataset(clusters(5)), components=6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "bernoulli"}, "family: 'bernoulli' is not for real data; choose 'gaussian' or 'student-t'"),
        ({"df": 3.0}, "df: only student-t has degrees of freedom, got family 'gaussian'"),
    ],
)
def test_families_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        made(clusters(5), **settings)


# Parameters read back what was set


@given(st.integers(1, 4), st.sampled_from(list(COVARIANCES)), st.floats(-2, 3), st.integers(0, 100))
def test_covariances_read_back(dims, covariance, size, seed):
    rng = np.random.default_rng(seed)
    model, _ = made(
        np.eye(5)[:, :dims] + rng.normal(size=(5, dims)), components=2, covariance=covariance, min_scale=1e-5
    )
    parts: Any = parts_of(model)[1]
    root = rng.normal(size=(2, dims, dims)) + 2 * np.eye(dims)
    sigma = torch.from_numpy(10.0**size * root @ root.transpose(0, 2, 1))
    loc = torch.from_numpy(rng.normal(size=(2, dims)))
    parts.set(loc, sigma[:1] if covariance == "tied" else sigma)
    if covariance == "tied":
        sigma = sigma[:1].expand(2, -1, -1)
    elif covariance != "full":
        diagonal = sigma.diagonal(dim1=1, dim2=2)
        diagonal = diagonal.mean(1, keepdim=True).expand(-1, dims) if covariance == "spherical" else diagonal
        sigma = torch.diag_embed(diagonal)
    np.testing.assert_allclose(parts.covariances.detach(), sigma, rtol=1e-6, atol=1e-9 * 10.0**size)
    np.testing.assert_allclose(parts.means.detach(), loc)
    np.testing.assert_allclose(parts.variances.detach(), sigma.diagonal(dim1=1, dim2=2), rtol=1e-6)


# Through jobs


def test_pictures_in_grey_are_gaussian_on_request():
    schema = Schema.of_pictures((1, 3, 3), levels=256)
    rng = np.random.default_rng(0)
    x = (60 + 130 * rng.integers(0, 2, (80, 1, 1, 1)) + rng.integers(0, 40, (80, 1, 3, 3))).astype(np.uint8)
    data = Dataset("made", schema, {"train": Split(x), "test": Split(x)})
    run = train("mixture", data, components=2, family="gaussian", covariance="diagonal")
    rows = x.reshape(80, 9).astype(float)
    oracle = GaussianMixture(2, covariance_type="diag", reg_covar=0, tol=1e-8, n_init=3, random_state=0).fit(rows)
    assert run.score().nats == pytest.approx(oracle.score(rows), abs=1e-6)
    assert run.measure == "lebesgue" and run.sample(3).shape == (3, 1, 3, 3)


def test_what_is_validated_is_what_a_walk_finds():
    model, schema = made(clusters(40), components=3)
    batch = {"x": schema.prepare(clusters(40))}
    with torch.no_grad():
        found = model.objective.validate(model, batch)["log_likelihood"]
    np.testing.assert_allclose(found, log_p(model, batch["x"]), atol=1e-12)


def test_codes_are_responsibilities_and_what_comes_back_their_means():
    x = clusters(100, 2, 2, apart=5.0)
    run = train("mixture", dataset(x), components=2)
    z = run.encode()
    assert z.shape == (100, 2)
    np.testing.assert_allclose(z.sum(1), 1, rtol=1e-6)
    means = run.schema.restore(parts_of(run.model)[1].means.detach())
    np.testing.assert_allclose(run.reconstruct(), z @ means, rtol=1e-4, atol=1e-4)
    draws = run.encode(draws=3)
    assert set(np.unique(draws)) == {0.0, 1.0} and (draws.sum(-1) == 1).all()


def test_columns_are_filled_in_by_the_conditional_density():
    """One column given the other: E[x₂ | x₁] of a mixture of two normals, by hand."""
    x = clusters(400, 2, 2, seed=2)
    run = train("mixture", dataset(x), components=2)
    pi, parts = parts_of(run.model)
    weights, sigma = pi.log_weights.exp().detach().numpy(), parts.covariances.detach().numpy()
    scale = np.array([f.scale for f in run.schema.fields])
    centre = np.array([f.center for f in run.schema.fields])
    means, sigma = parts.means.detach().numpy() * scale + centre, sigma * np.outer(scale, scale)
    holed = x[:6].copy()
    holed[:, 1] = np.nan
    share = weights * stats.norm(means[:, 0], np.sqrt(sigma[:, 0, 0])).pdf(x[:6, :1])
    share /= share.sum(1, keepdims=True)
    each = means[:, 1] + sigma[:, 1, 0] / sigma[:, 0, 0] * (x[:6, :1] - means[:, 0])
    found = run.impute(holed).mean
    np.testing.assert_allclose(found[:, 1], (share * each).sum(1), atol=1e-5 * scale[1])


def test_runs_resume_and_reopen(tmp_path):
    from jensen.jobs.run import open_run

    data = dataset(clusters(150))
    run = train("mixture", data, out=tmp_path / "r", components=3, epochs=8)
    again: Run = open_run(tmp_path / "r")
    assert torch.equal(run.score(data.split("test").x).rows, again.score(data.split("test").x).rows)  # pyright: ignore
    assert [line["stage"] for line in run.log] == ["start"] + ["em"] * 8
    assert {p.dtype for p in again.model.parameters()} == {torch.float64}


def test_a_second_fit_begins_afresh():
    """What a fit tried and told of its components does not bind the next one of the same object."""
    x = torch.from_numpy(np.repeat([[0.0, 0.0], [1.0, 2.0]], 20, 0)).float()
    model = build("mixture", dataset(x.numpy()).schema, {"components": 3, "starts": 1})

    def told() -> list[str]:
        with warnings.catch_warnings(record=True) as caught, seeded(0):
            warnings.simplefilter("always", FitWarning)
            for stage, passes in zip(model.objective.stages, (1, 6), strict=True):
                for _ in range(passes):
                    (phase,) = stage.phases
                    assert isinstance(phase, UpdatePhase)
                    phase.apply(model, phase.accumulate(model, phase.start(model), {"x": x}))
        return [str(w.message) for w in caught]

    first = told()
    assert first
    assert told() == first
