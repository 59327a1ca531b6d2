"""The estimators against the runs that they hold, Bayes' rule, scikit-learn's own, and the frames that came."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas
import polars
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jensen.data import Dataset
from jensen.errors import DataWarning
from jensen.estimators import Classifier, DensityEstimator, Embedder, Imputer, OutlierDetector

VAE = {"latents": 2, "encoder.hidden": [16], "decoder.hidden": [16]}
FLOW = {"layers": 2, "hidden": [16]}
QUICK = {"epochs": 3, "batch_size": 64, "random_state": 0}


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return train_test_split(X, y, random_state=0, stratify=y)


@pytest.fixture(scope="module")
def mixed() -> pandas.DataFrame:
    """Columns of many kinds, some with gaps, and an index of their own."""
    rng, n = np.random.default_rng(0), 120
    days = pandas.to_timedelta(rng.integers(0, 1000, n), unit="D")
    frame = pandas.DataFrame(
        {
            "height": rng.normal(170, 10, n).astype("float32"),
            "colour": pandas.Categorical(rng.choice(["red", "green"], n)),
            "visits": pandas.array(rng.poisson(3, n), dtype="Int64"),
            "smokes": rng.random(n) < 0.3,
            "since": pandas.Timestamp("2020-01-01") + days,
        },
        index=np.arange(n) + 1000,
    )
    for name in ("height", "colour", "visits", "since"):
        frame.loc[frame.index[rng.random(n) < 0.2], name] = None
    return frame


def normal(n: int = 300) -> np.ndarray:
    return np.random.default_rng(0).multivariate_normal([10, -2], [[4, 3], [3, 9]], n)


# Density


def test_a_density_is_in_nats_and_in_the_units_of_the_data():
    """Of a linear-Gaussian model, fitted in closed form, against scipy's normal of the same moments."""
    X = normal()
    found = DensityEstimator("ppca", settings={"latents": 1}, validation_fraction=0).fit(X)
    reference = multivariate_normal(X.mean(0), np.cov(X.T, bias=True))
    assert_allclose(found.score_samples(X), reference.logpdf(X), atol=1e-4)
    assert_allclose(found.score(X), reference.logpdf(X).mean(), atol=1e-4)


@pytest.mark.parametrize(("model", "settings"), [("maf", FLOW), ("vae", VAE)])
def test_scores_of_samples_are_rows_of_the_runs_score(model, settings):
    X = normal(20)
    found = DensityEstimator(model, settings=settings, particles=7, **QUICK).fit(X)
    rows = found.score_samples(X)
    score = found.run_.score(X, particles=7, common_draws=True, keep=False)
    assert_array_equal(rows, score.rows)
    alone = [found.run_.score(X[i : i + 1], particles=7, keep=False).nats for i in range(len(X))]
    assert_allclose(rows, alone, rtol=1e-12)


def test_new_rows_are_drawn_from_the_density():
    found = DensityEstimator("ppca", settings={"latents": 1}, validation_fraction=0).fit(normal(2000))
    drawn = found.sample(4000, random_state=1)
    error = np.sqrt(np.diag(np.cov(drawn.T)) / 4000)
    assert (np.abs(drawn.mean(0) - normal(2000).mean(0)) < 4 * error).all()
    assert_array_equal(found.sample(4000, random_state=1), drawn)
    assert not np.array_equal(found.sample(5), found.sample(5))


def test_a_model_without_a_likelihood_is_refused_before_it_is_trained():
    with pytest.raises(ValueError, match="wae: it has no likelihood"):
        DensityEstimator("wae", epochs=10**6).fit(normal())


def test_wrong_parameters_are_value_errors():
    for wrong, message in [
        ({"model": "vea"}, "did you mean 'vae'"),
        ({"settings": {"latent": 2}}, "did you mean 'latents'"),
        ({"settings": 3}, "settings: expected a dictionary"),
        ({"lr": -1.0}, "lr"),
        ({"validation_fraction": 1}, "validation_fraction"),
        ({"epochs": 1, "minutes": 1}, "expected one of them"),
        ({"kinds": {"x9": "count"}}, "x9"),
    ]:
        with pytest.raises(ValueError, match=message):
            DensityEstimator(**wrong).fit(normal())
    with pytest.raises(ValueError, match="contamination"):
        OutlierDetector(contamination=0.6).fit(normal())
    with pytest.raises(ValueError, match="ppca learns no p"):
        Classifier("ppca").fit(normal(), normal()[:, 0] > 10)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        DensityEstimator("ppca").fit([[1.0, np.nan], [2.0, 3.0]])
    with pytest.raises(ValueError, match="infinity"):
        DensityEstimator().fit([[1.0, np.inf], [2.0, 3.0]])


# Embedding and imputation


def test_codes_are_those_of_the_run(cancer):
    X = cancer[0][:60]
    found = Embedder(settings=VAE, **QUICK).fit(X)
    assert_array_equal(found.transform(X).astype(np.float32), found.run_.encode(X))
    assert list(found.get_feature_names_out()) == ["embedder0", "embedder1"]


def test_what_was_observed_stays_and_the_rest_is_filled(mixed):
    found = Imputer(settings=VAE, **QUICK).set_output(transform="pandas").fit_transform(mixed)
    assert not found.isna().any(axis=None)
    pandas.testing.assert_frame_equal(found.where(mixed.notna(), mixed), mixed, check_dtype=False)
    assert found.dtypes.equals(mixed.dtypes) and found.index.equals(mixed.index)


def test_polars_frames_keep_their_dtypes(mixed):
    frame = polars.from_pandas(mixed)
    found = Imputer(settings=VAE, **QUICK).set_output(transform="polars").fit_transform(frame)
    assert found.schema == frame.schema
    assert sum(found.null_count().row(0)) == 0
    drawn = DensityEstimator(settings=VAE, **QUICK).fit(frame).sample(4)
    assert drawn.schema == frame.schema


def test_gaps_of_correlated_columns_are_filled_better_than_by_the_mean():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 1)) @ np.ones((1, 4)) + 0.3 * rng.normal(size=(600, 4))
    holes = rng.random(X.shape) < 0.3
    gappy = np.where(holes, np.nan, X)
    found = Imputer(settings=VAE, particles=100, epochs=20, batch_size=32, lr=1e-2, random_state=0).fit(gappy)
    error = np.sqrt(np.mean((found.transform(gappy) - X)[holes] ** 2))
    means = np.sqrt(np.mean((SimpleImputer().fit_transform(gappy) - X)[holes] ** 2))
    assert error < 0.6 * means
    draws = clone(found).set_params(sample_posterior=True)
    draws.run_, draws._seed, draws.n_features_in_ = found.run_, found._seed, 4
    assert np.std((draws.transform(gappy) - X)[holes]) > 1.1 * error  # a draw has the spread that a mean has not


def test_a_model_that_takes_no_gaps_learns_from_whole_rows_and_fills_in_others():
    """By the conditional mean of a normal with the moments of the whole rows."""
    X = normal(400)
    X[:30, 0] = np.nan
    found = Imputer("ppca", settings={"latents": 1}, validation_fraction=0, particles=4000, random_state=0)
    filled = found.fit_transform(X)
    assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    mean, covariance = X[30:].mean(0), np.cov(X[30:].T, bias=True)
    expected = mean[0] + covariance[0, 1] / covariance[1, 1] * (X[:30, 1] - mean[1])
    error = np.sqrt((covariance[0, 0] - covariance[0, 1] ** 2 / covariance[1, 1]) / 1000)
    assert np.abs(filled[:30, 0] - expected).max() < 5 * error
    with pytest.raises(ValueError, match="rows without gaps"):
        found.fit(np.where(np.arange(2) == 0, np.nan, X))


# Outliers


def test_an_imputer_chooses_its_settings_by_cells_that_it_hides():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 1)) + 0.3 * rng.normal(size=(120, 4))
    holes = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    small = {"encoder.hidden": [8], "decoder.hidden": [8]}
    found = Imputer("auto", settings=small, epochs=3, random_state=0).fit(holes)
    chosen = found.run_.spec["chosen"]
    assert chosen["best"] == min(chosen["errors"], key=lambda name: chosen["errors"][name])
    assert found.run_.spec["training"]["batch_size"] == 64
    assert found.run_.spec["settings"]["encoder"]["hidden"] == [8]
    assert not np.isnan(found.transform(holes)).any()
    few = Imputer("auto", settings=small, epochs=3, random_state=0).fit(holes[:20])
    assert few.run_.spec["chosen"]["errors"] == {}


def test_signs_are_scikit_learns():
    """Beside an isolation forest on the same data: higher is more normal, -1 an outlier, below 0 an outlier."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(285, 3)), rng.uniform(4, 8, size=(15, 3))])
    strange = np.arange(300) >= 285
    for found in (
        OutlierDetector("maf", settings=FLOW, contamination=0.05, epochs=5),
        IsolationForest(contamination=0.05),
    ):
        found.set_params(random_state=0).fit(X)
        assert roc_auc_score(~strange, found.score_samples(X)) > 0.97
        assert_array_equal(found.predict(X), np.where(found.decision_function(X) < 0, -1, 1))
        assert_allclose(found.decision_function(X), found.score_samples(X) - found.offset_)
        assert (found.predict(X) == -1).sum() == 15
        assert (found.predict(X)[strange] == -1).mean() > 0.6


def test_conformal_p_values_are_uniform_of_fresh_rows_and_low_of_outliers():
    """By the definition, row by row; of 2,000 fresh rows a share near α has p ≤ α, given 200 rows for calibration."""
    rng = np.random.default_rng(1)
    X, fresh = rng.normal(size=(800, 2)), rng.normal(size=(2000, 2))
    settings = {"settings": {"latents": 1}, "random_state": 0}
    found = OutlierDetector("ppca", calibration=0.25, **settings).fit(X)
    assert len(found.calibration_scores_) == 200
    p, own = found.p_values(fresh), found.score_samples(fresh)
    expected = [(1 + (found.calibration_scores_ <= s).sum()) / 201 for s in own[:50]]
    assert_allclose(p[:50], expected)
    for alpha in (0.05, 0.2, 0.5):
        sd = (alpha * (1 - alpha) / 200 + alpha * (1 - alpha) / 2000) ** 0.5
        assert abs((p <= alpha).mean() - alpha) < 4 * sd + 1 / 201
    assert found.p_values([[7.0, -7.0]])[0] == 1 / 201
    # No row for calibration moves the fit: the same rows but for theirs, shifted, give the same model.
    kept = np.flatnonzero(np.isin(found.score_samples(X), found.calibration_scores_))
    moved = X.copy()
    moved[kept] += 100
    again = OutlierDetector("ppca", calibration=0.25, **settings).fit(moved)
    assert_allclose(again.score_samples(fresh[:20]), own[:20])
    by_validation = OutlierDetector("ppca", validation_fraction=0.3, **settings).fit(X)
    assert len(by_validation.calibration_scores_) == 240
    without = OutlierDetector("ppca", validation_fraction=0, **settings).fit(X)
    with pytest.raises(ValueError, match="no rows for calibration"):
        without.p_values(X[:2])
    with pytest.raises(ValueError, match="calibration: expected a share"):
        OutlierDetector("ppca", calibration=1.0).fit(X)


# Classification


def test_probabilities_are_bayes_rule(cancer):
    X, B, y, _ = cancer
    found = Classifier("maf", settings=FLOW, **QUICK).fit(X[:, :4], y)
    schema, whole = found.run_.schema, found._dataset(B[:, :4])
    part = whole.splits["all"]
    log_p = np.empty((len(B), 2))
    for k in range(2):
        of_class = Dataset("B", schema, {"all": replace(part, y=np.full(len(B), k))})
        log_p[:, k] = found.run_.score(of_class, keep=False).rows
    shares = np.bincount(y) / len(y)
    assert_allclose(found.predict_proba(B[:, :4]), softmax(log_p + np.log(shares), axis=1), rtol=1e-9)
    assert_allclose(found.predict_joint_log_proba(B[:, :4]), log_p + np.log(shares))
    found.set_params(priors=[1, 0]).fit(X[:, :4], y)
    assert_array_equal(found.predict_proba(B[:, :4])[:, 0], 1)


def test_classes_keep_their_names_and_types():
    X = normal(90)
    for names in (["a", "b", "c"], [3, -1, 7], [True, False, True]):
        y = np.array(names)[np.arange(90) % 3]
        found = Classifier("maf", settings=FLOW, **QUICK).fit(X, y)
        assert_array_equal(found.classes_, np.unique(y))
        assert found.predict(X).dtype == y.dtype


def test_classes_with_far_means_are_told_apart():
    """By normal densities that a linear rule separates, against logistic regression."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    X = np.array([[0, 0], [3, 0], [0, 3]])[y] + rng.normal(size=(400, 2))
    found = Classifier(settings=VAE, particles=20, epochs=30, batch_size=32, lr=1e-2, random_state=0).fit(
        X[:300], y[:300]
    )
    assert found.score(X[300:], y[300:]) > LogisticRegression().fit(X[:300], y[:300]).score(X[300:], y[300:]) - 0.05


# Pipelines, searches, pickles


def test_settings_are_parameters_of_their_own():
    given = {"latents": 2}
    found = DensityEstimator(settings=given)
    assert found.get_params()["settings__latents"] == 2
    found.set_params(settings__decoder__hidden=[8], epochs=1)
    assert found.settings == {"latents": 2, "decoder.hidden": [8]} and given == {"latents": 2}
    assert clone(found).settings == found.settings
    assert found.set_params(**found.get_params()).settings == {"latents": 2, "decoder.hidden": [8]}


def test_a_grid_search_and_a_pipeline_end_to_end(cancer):
    X, B, y, truth = cancer
    density = DensityEstimator("ppca", random_state=0)
    search = GridSearchCV(density, {"settings__latents": [1, 8]}, cv=3).fit(X)
    assert search.best_params_ == {"settings__latents": 8}
    by_hand = clone(density).set_params(settings={"latents": 8}).fit(X).score(B)
    assert search.score(B) == by_hand
    steps = make_pipeline(
        Imputer("ppca", settings={"latents": 4}), StandardScaler(), Embedder("ppca", settings={"latents": 8}),
        LogisticRegression(max_iter=1000),
    )  # fmt: skip
    assert steps.fit(X, y).score(B, truth) > 0.9
    names = steps[:-1].get_feature_names_out()
    assert list(names) == [f"embedder{j}" for j in range(8)]


@pytest.mark.slow  # a fresh process imports everything
def test_a_pickle_gives_the_same_numbers_in_a_fresh_process(mixed, tmp_path):
    y = mixed["smokes"].to_numpy()
    fitted = {
        "score_samples": DensityEstimator(settings=VAE, particles=5, **QUICK).fit(mixed),
        "predict_proba": Classifier(settings=VAE, particles=5, **QUICK).fit(mixed, y),
        "transform": Embedder(settings=VAE, **QUICK).fit(mixed),
        "decision_function": OutlierDetector(settings=VAE, particles=5, **QUICK).fit(mixed),
    }
    wanted = {name: getattr(one, name)(mixed) for name, one in fitted.items()}
    (tmp_path / "all.pickle").write_bytes(pickle.dumps((fitted, wanted, mixed)))
    code = (
        "import pickle, sys, numpy\n"
        "fitted, wanted, rows = pickle.load(open(sys.argv[1], 'rb'))\n"
        "for name, one in fitted.items():\n"
        "    assert numpy.array_equal(getattr(one, name)(rows), wanted[name]), name\n"
        "    assert one.run_.spec['model'] == 'vae' and one.run_.schema.kind == 'mixed'\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "all.pickle")], check=True, timeout=120)


def test_fitting_is_quiet_repeatable_and_leaves_torch_as_it_was(capfd, caplog):
    state, threads, dtype = torch.random.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    numbers = np.random.get_state()[1].copy()  # noqa: NPY002
    scores = [Classifier(settings=VAE, particles=5, **QUICK).fit(normal(40), np.arange(40) % 2).predict_proba(normal(9))
              for _ in range(2)]  # fmt: skip
    assert_array_equal(*scores)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    assert_array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    assert not any(capfd.readouterr()) and not caplog.records


@pytest.mark.filterwarnings("ignore:column .* holds one value")
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (20, 1), (20, 3)])
def test_small_and_constant_tables(shape):
    X = np.zeros(shape)
    for one in (DensityEstimator(settings=VAE, particles=5, **QUICK), OutlierDetector("maf", settings=FLOW, **QUICK)):
        assert np.isfinite(one.fit(X).score_samples(X)).all()
    assert_array_equal(Imputer(settings=VAE, **QUICK).fit_transform(X), X)
    assert Embedder(settings=VAE, **QUICK).fit_transform(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("kind", [DensityEstimator, Embedder, Imputer, OutlierDetector, Classifier])
def test_an_unknown_model_is_told_before_gaps(kind):
    X = np.full((20, 2), np.nan)
    with pytest.raises(ValueError, match="'vaee' is not a model; did you mean 'vae'"):
        kind("vaee").fit(X, np.arange(20) % 2)


def test_a_column_without_a_cell_stays_empty_and_in_its_place():
    X = np.random.default_rng(0).normal(size=(40, 3))
    X[::3, 0], X[:, 1] = np.nan, np.nan
    with pytest.warns(DataWarning, match="'x1' has no cell"):
        whole = Imputer(settings=VAE, **QUICK).fit_transform(X)
    assert np.isnan(whole[:, 1]).all() and np.isfinite(whole[:, [0, 2]]).all()
    assert_array_equal(whole[:, 2], X[:, 2])
