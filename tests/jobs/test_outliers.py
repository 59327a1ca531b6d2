"""Outliers: scores by definition, p-values that are uniform, surprise in closed form, detectors beside others."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from scipy.stats import betabinom, false_discovery_control, multivariate_normal, norm, rankdata
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from jensen.conditionals.linear_gaussian import LinearGaussian
from jensen.data import Dataset, Schema, Split, TensorSplit
from jensen.data.normal_scores import NormalScores, Standardised
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.conformal import benjamini_hochberg, conformal_p_values
from jensen.jobs.detectors import DETECTORS, Detector, Ecod, Modelled
from jensen.jobs.outliers import outlier_scores
from jensen.jobs.run import Run
from jensen.jobs.surprise import AGAIN, WIDE, _neediest, surprise
from jensen.jobs.train import train
from jensen.models.mixture import parts_of

SMALL = {"encoder.hidden": [16], "decoder.hidden": [16]}
SCALES, SHIFT = np.array([1.0, 0.1, 30.0, 2.0]), np.array([0.0, 5.0, -2.0, 1.0])


def rows(n: int, seed: int) -> np.ndarray:
    """Four columns in units of their own, with two causes, exactly of the family of PPCA but for these units."""
    rng = np.random.default_rng(seed)
    w = np.random.default_rng(9).normal(size=(4, 2))
    return (rng.normal(size=(n, 2)) @ w.T + 0.6 * rng.normal(size=(n, 4))) * SCALES + SHIFT


def made(train_rows: int = 300, valid_rows: int = 400) -> Dataset:
    x = rows(train_rows, 0)
    schema = Schema.of_table(x, ["a", "b", "c", "d"])
    return Dataset("made", schema, {"train": Split(x), "valid": Split(rows(valid_rows, 1)), "test": Split(rows(60, 2))})


@pytest.fixture(scope="module")
def ppca() -> Run:
    return train("ppca", made(), latents=2)


def law(run: Run) -> Any:
    """p(x) of a PPCA in the units of its data."""
    module = run.model.p["x"].module
    assert isinstance(module, LinearGaussian)
    p = module.marginal()
    scale = np.array([field.scale for field in run.schema.fields])
    center = np.array([field.center for field in run.schema.fields])
    cov = p.covariance_matrix.detach().double().numpy() * np.outer(scale, scale)
    return multivariate_normal(p.mean.detach().double().numpy() * scale + center, cov)  # pyright: ignore[reportArgumentType]


# p-values


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30))
def test_a_p_value_is_below_alpha_no_more_often_than_alpha(scores):
    """Each of exchangeable data takes its turn as the fresh one: P(p ≤ k / (n + 1)) ≤ k / (n + 1), ties or not."""
    scores = np.array(scores, dtype=float)
    p = [conformal_p_values(np.delete(scores, i), scores[i : i + 1])[0] for i in range(len(scores))]
    for k in range(1, len(scores) + 1):
        assert np.sum(np.array(p) <= k / len(scores) + 1e-12) <= k


def test_p_values_without_ties_are_uniform():
    scores = np.random.default_rng(0).normal(size=25)
    p = [conformal_p_values(np.delete(scores, i), scores[i : i + 1])[0] for i in range(25)]
    np.testing.assert_allclose(np.sort(p), np.arange(1, 26) / 25)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_benjamini_and_hochberg_as_scipy(p):
    np.testing.assert_allclose(benjamini_hochberg(np.array(p)), false_discovery_control(p), rtol=1e-12)


def test_the_rate_of_false_alarms_holds(ppca):
    """Fresh usual rows: alarms within the 99.9 % of the law that they follow over draws of both parts."""
    n, m = 400, 2000
    p = ppca.outliers(rows(m, 3)).p_value
    for alpha in (0.01, 0.05, 0.1):
        k = int(np.floor(alpha * (n + 1)))
        low, high = betabinom.ppf([0.0005, 0.9995], m, k, n + 1 - k)
        assert low <= (p <= alpha).sum() <= high


def test_outliers_by_alpha_and_by_false_discoveries(ppca):
    x = np.concatenate([rows(40, 4), rows(10, 5) + 8 * SCALES])
    found, judged = ppca.outliers(x, alpha=0.1), ppca.outliers(x, alpha=0.1, fdr=True)
    assert (found.outlier == (found.p_value <= 0.1)).all() and found.outlier[40:].all()
    np.testing.assert_array_equal(judged.outlier, false_discovery_control(found.p_value) <= 0.1)
    assert judged.outlier[40:].all() and judged.outlier.sum() < 14


def test_results_are_shown_in_words(ppca):
    for found in (ppca.outliers(rows(20, 7)), ppca.score(), ppca.diagnose()):
        assert repr(found) == str(found) and "array(" not in repr(found)
    assert repr(ppca.data().split("train")) == "<Split of 300 x 4>"


def test_few_data_for_calibration_are_told_of(ppca):
    few = ppca.outliers(calibration=rows(50, 6), alpha=0.01)
    assert not few.outlier.any() and "50 data" in few.warnings[0]
    assert few.calibration[0] == 50 and not ppca.outliers(alpha=0.01).warnings
    together = ppca.outliers(calibration=rows(99, 6), alpha=0.05, fdr=True)  # 60 rows: k · 0.05 / 60 ≥ 1 / 100
    assert "needs 12 rows" in together.warnings[0]


# Scores, each by its definition


def test_likelihood_is_in_closed_form_and_typicality_its_distance_from_the_usual(ppca):
    x = rows(60, 2)
    np.testing.assert_allclose(ppca.outliers(x).score, -law(ppca).logpdf(x), rtol=1e-4, atol=1e-3)
    usual = -law(ppca).logpdf(rows(300, 0)).mean()
    typical = ppca.outliers(x, method="typicality").score
    np.testing.assert_allclose(typical, np.abs(-law(ppca).logpdf(x) - usual), atol=2e-3)


def test_no_two_parts_have_the_same_draws():
    """Else a score and those that it is ranked among hang together, and its p-value is not uniform."""
    run = train("vae", made(), latents=2, epochs=1, settings=SMALL)
    some = Split(rows(30, 5))
    for method, runs in (("likelihood", [run]), ("typicality", [run]), ("reconstruction", [run])):
        one, other = outlier_scores(method, runs, [some, some], particles=2, seed=3)
        assert (one != other).all(), method
        assert (outlier_scores(method, runs, [some], particles=2, seed=3)[0] == other).all() or method == "typicality"


def test_a_training_row_that_a_model_calls_impossible_leaves_typicality_a_number(ppca, monkeypatch):
    def nats(run: Run, part: Split, particles: int, seed: int) -> np.ndarray:
        return np.where(np.arange(len(part)) == 0, -np.inf, -2.0)

    monkeypatch.setattr("jensen.jobs.outliers._nats", nats)
    (found,) = outlier_scores("typicality", [ppca], [Split(rows(3, 5))])
    assert found.tolist() == [np.inf, 0.0, 0.0]


def test_reconstruction_in_closed_form(ppca):
    """−E_q log p(x | z) of a linear Gaussian."""
    x = rows(20, 2)
    module = ppca.model.p["x"].module
    assert isinstance(module, LinearGaussian)
    w, sigma = module.weight.detach().double().numpy(), float(module.scale.detach())
    inverse = np.linalg.inv(w.T @ w + sigma**2 * np.eye(2))
    centred = ppca.schema.prepare(x).double().numpy() - module.mean.detach().double().numpy()
    residual = centred - centred @ w @ inverse.T @ w.T
    spread = sigma**2 * np.trace(w @ inverse @ w.T)
    nats = 2 * np.log(2 * np.pi * sigma**2) + (np.square(residual).sum(1) + spread) / (2 * sigma**2)
    found = ppca.outliers(x, method="reconstruction", particles=4000).score + ppca.schema.log_jacobian
    np.testing.assert_allclose(found, nats, atol=0.15)


def test_latent_distance(ppca):
    z, codes = ppca.encode(rows(5, 2)), ppca.encode(split="train")
    usual: Any = LedoitWolf().fit(codes.astype(float))
    wanted = [mahalanobis(row, usual.location_, usual.precision_) for row in z]
    np.testing.assert_allclose(ppca.outliers(rows(5, 2), method="latent").score, wanted, rtol=1e-5)


def test_an_ensemble_counts_disagreement_as_strange(ppca):
    others = [train("ppca", made(), latents=1), train("ppca", made(200), latents=2)]
    x = rows(20, 2)
    found = ppca.outliers(x, ensemble=others)
    each = np.stack([law(run).logpdf(x) for run in (ppca, others[0])])
    last = others[1].score(x, keep=False).rows
    assert last is not None
    each = np.concatenate([each, [last.double().numpy()]])
    assert found.method == "ensemble"
    assert [w for w in found.warnings if "trained on other rows" in w]  # the second member was
    assert not ppca.outliers(x, ensemble=others, calibration=rows(60, 3)).elsewhere
    np.testing.assert_allclose(found.score, each.var(0, ddof=1) - each.mean(0), rtol=1e-3, atol=1e-2)


# Surprise by column


def test_surprise_and_what_was_expected_in_closed_form(ppca):
    """p(x_d | the others) of a normal, columns standardised; one value is four deviations off."""
    x = rows(25, 7)
    x[0, 1] += 4 * SCALES[1]
    found = surprise(ppca, ppca.tensors(Split(x)), np.arange(25), particles=2000)
    mean, cov = law(ppca).mean, law(ppca).cov
    nats, expected = np.empty_like(x), np.empty_like(x)
    for d in range(4):
        rest = [j for j in range(4) if j != d]
        gain = cov[d, rest] @ np.linalg.inv(cov[np.ix_(rest, rest)])
        expected[:, d] = mean[d] + (x[:, rest] - mean[rest]) @ gain
        nats[:, d] = -norm.logpdf(x[:, d], expected[:, d], np.sqrt(cov[d, d] - gain @ cov[rest, d]))
    bits = (nats - np.log([field.scale for field in ppca.schema.fields])) / np.log(2)
    error = found.bits - bits
    assert np.abs(error).mean() < 0.05 and np.abs(error.mean(0)).max() < 0.05
    assert np.abs((found.expected - expected) / SCALES).mean() < 0.05
    assert found.bits[0].argmax() == bits[0].argmax() == 1 and abs(error[0, 1]) < 0.2


def test_surprise_under_a_mixture_of_normals_is_that_of_its_joint_density():
    """p(x_d | x_−d) = p(x) / p(x_−d), both sums of scipy's densities; expected is its mean, by quadrature."""
    run = train("mixture", made(), settings={"components": 3})
    x = rows(8, 7)
    x[0, 1] += 4 * SCALES[1]
    x[1, 2] = np.nan
    found = surprise(run, TensorSplit(*_with_gaps(run, x)), np.arange(8))
    weights, parts = parts_of(run.model)
    pi, loc, cov = (t.detach().numpy() for t in (weights.log_weights.exp(), parts.loc, parts.covariances))

    def p(row: np.ndarray, at: list[int]) -> Any:
        of = [multivariate_normal(m[at], c[np.ix_(at, at)]).pdf(row[..., at]) for m, c in zip(loc, cov, strict=True)]
        return pi @ np.array(of)

    units = run.schema.prepare(np.nan_to_num(x)).double().numpy()
    steps = np.linspace(-12, 12, 24_001)
    for n, d in itertools.product(range(8), range(4)):
        there = [j for j in range(4) if not np.isnan(x[n, j])]
        rest = [j for j in there if j != d]
        line = np.repeat(units[n : n + 1], len(steps), 0)
        line[:, d] = steps
        density = p(line, sorted([*rest, d])) / p(units[n], rest)
        assert np.trapezoid(density, steps) == pytest.approx(1, abs=1e-6)
        mean = run.schema.fields[d].scale * np.trapezoid(density * steps, steps) + run.schema.fields[d].center
        assert float(found.expected[n, d]) == pytest.approx(mean, rel=1e-4, abs=1e-4 * SCALES[d])
        if d in there:
            assert found.bits[n, d] == pytest.approx(-np.log2(p(units[n], there) / p(units[n], rest)), abs=1e-4)
    assert np.isnan(found.bits[1, 2]) and np.isnan(found.bits).sum() == 1


def _with_gaps(run: Run, x: np.ndarray) -> Any:
    """Of rows with gaps what a `TensorSplit` takes: prepared values."""
    return (run.schema.prepare(np.nan_to_num(x)), None, None, None, None, torch.from_numpy(~np.isnan(x)))


def test_surprise_under_a_mixture_of_bits_by_enumeration():
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 2, 300)[:, None] ^ (rng.random((300, 3)) < 0.2)).astype(float)
    schema = Schema.of_table(x, list("abc"), ["binary"] * 3)  # pyright: ignore[reportArgumentType]
    data = Dataset("bits", schema, {"train": Split(x[:200]), "valid": Split(x[200:250]), "test": Split(x[250:260])})
    run = train("mixture", data, settings={"components": 2})
    found = run.outliers(columns=True).surprise
    assert found is not None
    every = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    weights, parts = parts_of(run.model)
    mean = parts.means.detach().numpy()  # of bits the probability of a one
    p = np.prod(np.where(every[:, None] == 1, mean, 1 - mean), 2) @ weights.log_weights.exp().detach().numpy()
    for (i, row), d in itertools.product(enumerate(run.data().split("test").x), range(3)):
        others = [j for j in range(3) if j != d]
        fits = (every[:, others] == row[others]).all(1)
        one = p[fits & (every[:, d] == 1)].sum() / p[fits].sum()
        assert found.bits[i, d] == pytest.approx(-np.log2(one if row[d] else 1 - one), abs=1e-5)
        assert float(found.expected[i, d]) == (one > 0.5)


@pytest.mark.parametrize(("columns", "most"), [(100, 100), (WIDE, AGAIN // WIDE), (WIDE + 1, 0)])
def test_of_many_columns_the_neediest_are_looked_at_again(columns: int, most: int):
    """Of a row as many as the columns allow, whose weights are worth the fewest particles, and no others."""
    size = torch.rand(3, columns, generator=torch.Generator().manual_seed(0))
    needy = size < torch.tensor([[0.9], [0.9], [5 / columns]])
    found = _neediest(size, needy)
    assert (found.sum(1) == needy.sum(1).clamp_max(most)).all()
    assert not (found & ~needy).any()
    left = needy & ~found
    assert (torch.where(found, size, 0).amax(1) <= torch.where(left, size, 2).amin(1)).all()


def test_terms_of_an_autoregressive_density_sum_to_it():
    run = train("made", made(100, 50), settings={"hidden": [16]}, epochs=1)
    found = run.outliers(columns=True)
    assert found.surprise is not None
    nats = found.surprise.bits.sum(1) * np.log(2) - run.schema.log_jacobian
    np.testing.assert_allclose(nats, found.score, rtol=1e-4)


def test_of_binary_columns_the_likelier_value_is_expected():
    """With one latent that decides all columns, the one that is wrong is the surprise."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, 400)
    x = (z[:, None] ^ (rng.random((400, 5)) < 0.02)).astype(float)
    schema = Schema.of_table(x, list("abcde"), ["binary"] * 5)  # pyright: ignore[reportArgumentType]
    data = Dataset("bits", schema, {"train": Split(x[:300]), "valid": Split(x[300:])})
    run = train("vae", data, latents=2, epochs=40, batch_size=32, lr=1e-2, settings=SMALL)
    found = run.outliers(np.array([[1.0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]), columns=True, particles=500)
    assert found.surprise is not None
    assert (found.surprise.expected == [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).all()
    assert found.surprise.bits[0].argmax() == 2 and found.surprise.bits[0, 2] > 2
    assert found.score[0] > found.score[1]


def test_columns_of_an_autoregressive_model_of_bits():
    """By enumeration: p(x_d | those before it), and in any order p(x_d | all others), d being last."""
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 2, 300)[:, None] ^ (rng.random((300, 3)) < 0.2)).astype(float)
    schema = Schema.of_table(x, list("abc"), ["binary"] * 3)  # pyright: ignore[reportArgumentType]
    data = Dataset("bits", schema, {"train": Split(x[:200]), "valid": Split(x[200:250]), "test": Split(x[250:260])})
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    for settings in ({}, {"order": "any", "orderings": 2}):
        run = train("made", data, settings={"hidden": [16], **settings}, epochs=5)
        found = run.outliers(columns=True)
        assert found.surprise is not None
        dist = run.model.p["x"].module()
        for d in range(3):
            if settings:
                dist.of.network.arrange(torch.tensor([*(j for j in range(3) if j != d), d]))
            before = [j for j in range(3) if j != d] if settings else list(range(d))
            with torch.no_grad():
                p = dist.terms(every).sum(1).double().exp()
            for i, row in enumerate(run.data().split("test").x):
                fits = (every[:, before] == torch.tensor(row[before]).float()).all(1)
                one = (p[fits & (every[:, d] == 1)].sum() / p[fits].sum()).item()
                mine = one if row[d] else 1 - one
                assert found.surprise.bits[i, d] == pytest.approx(-np.log2(mine), abs=1e-4)
                assert float(found.surprise.expected[i, d]) == (one > 0.5)


def test_columns_of_an_average_over_orders_are_refused():
    run = train("made", made(100, 50), settings={"hidden": [16], "orderings": 3}, epochs=1)
    with pytest.raises(CapabilityError, match="the average over 3 orders"):
        run.outliers(columns=True)


# What cannot be


def test_refusals(ppca):
    with pytest.raises(ConfigError, match="did you mean 'likelihood'"):
        ppca.outliers(method="likelyhood")
    with pytest.raises(ConfigError, match=r"(?s)--alpha: .*--particles: .*--ensemble"):
        ppca.outliers(method="latent", alpha=0.0, particles=0, ensemble=[ppca])
    with pytest.raises(ConfigError, match="fitted to the training part"):
        ppca.outliers(calibration="train")
    flow = train("realnvp", made(60, 30), settings={"layers": 2, "hidden": [8]}, epochs=1)
    with pytest.raises(CapabilityError, match="use --method likelihood"):
        flow.outliers(method="reconstruction")
    with pytest.raises(CapabilityError, match="leave out --columns"):
        flow.outliers(columns=True)
    forgetful = Run(ppca.spec | {"data": {"ref": None, "name": "made"}}, ppca.schema, ppca.model)
    with pytest.raises(DataError, match="--calibration"):
        forgetful.outliers(rows(5, 2))
    assert (forgetful.outliers(rows(5, 2), calibration=rows(50, 6)).p_value > 0).all()


# Detectors

A = [[25, 9, 9], [1, 1, 0], [0, 0, 1], [16, 9, 25], [9, 9, 25], [16, 9, 9], [9, 25, 1], [16, 16, 0], [4, 25, 9],
     [0, 16, 16], [25, 1, 0], [25, 0, 9]]  # fmt: skip
B = [[-1, 1, 3], [2, 2, -1], [-1, 0, -1], [5, 3, 4], [1, 4, 5]]


def test_ecod_as_its_authors_code():
    """PyOD 3.6.7's `ECOD().fit(A).decision_function`, of B at once and row by row."""
    at_once = [3.93529184, 3.91467255, 6.01473338, 2.02574934, 2.43121444]
    by_row = [4.29365069, 4.6991158, 6.59623578, 2.68421278, 2.90735633]
    a, b = np.array(A, dtype=float), np.array(B, dtype=float)
    np.testing.assert_allclose(Ecod(together=True).fit(a).score(b), at_once, rtol=1e-8)
    np.testing.assert_allclose(Ecod().fit(a).score(b), by_row, rtol=1e-8)


def test_normal_scores_are_those_of_ranks_whatever_the_units():
    x = np.random.default_rng(0).integers(0, 9, (40, 2)).astype(float)
    scores = NormalScores().fit(x)
    np.testing.assert_allclose(scores(x), norm.ppf(rankdata(x, axis=0) / 41))
    bent = NormalScores().fit(np.exp(x / 3))
    np.testing.assert_allclose(bent(np.exp(x / 3)), scores(x))
    far = scores(np.array([[20.0, np.nan]]))
    assert far[0, 0] == pytest.approx(norm.ppf(40.5 / 41) + 12 / x[:, 0].std()) and np.isnan(far[0, 1])
    constant = NormalScores().fit(np.ones((9, 1)))
    np.testing.assert_allclose(constant(np.array([[1.0], [3.0]])), [[0.0], [norm.ppf(0.95) + 2]])


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "jensen"])
def test_detectors_find_what_is_far(name):
    found: Detector = DETECTORS[name](0).fit(rows(100, 0) / SCALES)
    _separates(found, lambda x: x / SCALES)


def test_our_detector_finds_what_is_far_and_what_hangs_together_otherwise():
    settings = {"latents": 2, "likelihood": {"name": "gaussian", "variance": "learned"}, "train": {"lr": 1e-2}}
    detector = Modelled(settings=settings | SMALL, steps=300, members=2).fit(rows(200, 0))
    assert len(detector.held_out) == 30
    _separates(detector, lambda x: x)
    mixed = np.random.default_rng(3).permuted(rows(500, 9), axis=0)  # each value usual, and of another row
    score, apart = (detector.score(np.concatenate([rows(500, 8), mixed])) for detector.apart in (0.5, 1.0))
    which = np.arange(1000) >= 500
    assert roc_auc_score(which, score) > 0.6 and abs(roc_auc_score(which, apart) - 0.5) < 0.05
    detector.apart = 0.5
    p = conformal_p_values(detector.score(detector.held_out), detector.score(rows(500, 8)))
    k = 3  # of 31
    assert betabinom.ppf(0.0005, 500, k, 31 - k) <= (p <= 0.1).sum() <= betabinom.ppf(0.9995, 500, k, 31 - k)


def _separates(detector: Detector, units) -> None:
    """Rows far outside, against usual ones; and each row scored by itself, but for ECOD with all together."""
    usual, far = units(rows(50, 1)), units(rows(10, 2) + 9 * SCALES * np.array([1, -1, 1, 1]))
    score = detector.score(np.concatenate([usual, far]))
    assert roc_auc_score(np.arange(60) >= 50, score) == 1.0


def test_standardised_keeps_constant_columns():
    x = np.array([[1.0, 5.0], [3.0, 5.0]])
    np.testing.assert_array_equal(Standardised().fit(x)(np.array([[4.0, 7.0]])), [[2.0, 2.0]])


def test_a_mixed_table_with_gaps():
    """Names and numbers together: a wrong name is the surprise, and an empty cell has none."""
    import pandas

    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, 400)
    frame = pandas.DataFrame(
        {
            "height": 5.0 * z + 0.3 * rng.normal(size=400),
            "kind": np.array(["ash", "birch", "elm"])[z],
            "leaf": np.array(["a", "b", "c"])[z],
            "age": rng.poisson(4 + 5 * z),
        }
    )
    frame.loc[rng.random(400) < 0.1, "kind"] = None
    run = train("vae", frame, latents=2, epochs=30, batch_size=32, lr=1e-2, settings=SMALL)
    new = pandas.DataFrame({"height": [0.0, 10.0], "kind": ["elm", None], "leaf": ["a", "c"], "age": [4, 14]})
    found = run.outliers(new, columns=True)
    assert found.surprise is not None and found.usual_bits is not None
    assert found.score[0] > found.score[1] and found.outlier.tolist() == [True, False]
    assert (found.surprise.bits[0] - found.usual_bits).argmax() == 1 and found.surprise.expected["kind"][0] == "ash"
    assert np.isnan(found.surprise.bits[1, 1]) and found.surprise.expected["kind"][1] == "elm"
    assert np.isfinite(found.surprise.bits[1, [0, 2, 3]]).all()
    assert "kind elm" in str(found) and "ash" in str(found)
