"""Evaluations beside simple methods: masks, errors, what is learnt from synthetic rows, and distances to records."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import KNNImputer
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

import jensen
from jensen.errors import ConfigError, DataError
from jensen.jobs import evaluate
from jensen.jobs.columns import Columns
from jensen.jobs.evaluate.imputation import errors
from jensen.jobs.evaluate.imputers import BASELINES, Gapped
from jensen.jobs.evaluate.masks import mask
from jensen.jobs.evaluate.nearest import from_nearest
from jensen.jobs.evaluate.synthetic import correlations, marginals
from jensen.jobs.privacy import coordinates, nearest, nearness, privacy

RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=(4000, 5)) @ RNG.normal(size=(5, 5))
NONE = np.zeros(5, dtype=bool)


def mixed(n: int, seed: int = 0) -> pd.DataFrame:
    """Rows in which a decides over b, over the word and over the label."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    words = np.array(["low", "middle", "high"], dtype=object)[np.digitize(a + 0.2 * rng.normal(size=n), [-0.5, 0.5])]
    columns = {"a": 5 + 3 * a, "b": 2 * a + 0.3 * rng.normal(size=n), "word": words, "n": rng.integers(0, 9, n)}
    return pd.DataFrame({**columns, "label": (a + 0.3 * rng.normal(size=n) > 0).astype(int)})


# Masks


@pytest.mark.parametrize("mechanism", ["mcar", "mar", "mnar"])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_a_mask_has_its_rate(mechanism: str, rate: float):
    hidden = mask(NUMBERS, NONE, mechanism, rate, seed=1)
    columns = hidden.any(0)
    assert columns.sum() == (3 if mechanism == "mar" else 5)  # 0.3 of the columns, rounded, stay
    stderr = np.sqrt(rate * (1 - rate) / len(NUMBERS))
    np.testing.assert_allclose(hidden[:, columns].mean(0), rate, atol=4 * stderr)
    if mechanism == "mcar":
        assert hidden.sum() == round(rate * hidden.size)


def test_what_is_hidden_hangs_on_what_the_mechanism_says():
    """Rank correlations of being hidden with the cell itself: none, by way of others alone, and direct."""
    independent = np.random.default_rng(2).normal(size=(4000, 6))
    stderr, none = 1 / np.sqrt(len(independent)), np.zeros(6, dtype=bool)

    def correlation(hidden: np.ndarray, i: int, j: int) -> float:
        return float(np.corrcoef(independent[:, i], hidden[:, j])[0, 1])

    mcar, mar, mnar = (mask(independent, none, mechanism, 0.5, seed=3) for mechanism in ("mcar", "mar", "mnar"))
    own = {name: [correlation(m, j, j) for j in range(6) if m[:, j].any()]
           for name, m in (("mcar", mcar), ("mar", mar), ("mnar", mnar))}  # fmt: skip
    assert np.abs(own["mcar"]).max() < 4 * stderr and np.abs(own["mar"]).max() < 4 * stderr
    assert min(own["mnar"]) > 0.5
    stay = [j for j in range(6) if not mar[:, j].any()]
    for j in set(range(6)) - set(stay):
        assert max(abs(correlation(mar, i, j)) for i in stay) > 0.3


def test_masks_are_seeded_and_leave_gaps_alone():
    x = np.where(np.random.default_rng(4).random(NUMBERS.shape) < 0.3, np.nan, NUMBERS)
    for mechanism in ("mcar", "mar", "mnar"):
        hidden = mask(x, NONE, mechanism, 0.5, seed=5)
        assert not (hidden & np.isnan(x)).any()
        np.testing.assert_array_equal(hidden, mask(x, NONE, mechanism, 0.5, seed=5))
        assert (hidden != mask(x, NONE, mechanism, 0.5, seed=6)).any()


def test_categories_may_decide():
    x = np.random.default_rng(7).integers(0, 3, size=(4000, 2)).astype(float)
    hidden = mask(x, np.ones(2, dtype=bool), "mnar", 0.4, seed=0)
    shares = [hidden[x[:, 0] == k, 0].mean() for k in range(3)]
    assert hidden[:, 0].mean() == pytest.approx(0.4, abs=0.04) and max(shares) - min(shares) > 0.1


# Columns


def test_cells_become_numbers_and_come_back():
    frame = mixed(50)
    frame.loc[3, "word"], frame.loc[4, "b"], frame.loc[5, "n"] = None, np.nan, np.nan
    frame["when"] = pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(50), unit="D")
    columns = Columns.of(frame)
    np.testing.assert_array_equal(columns.is_category, [False, False, True, False, True, False])
    scaled = columns.standardised(columns.numbers(frame))
    x = scaled.numbers(frame)
    np.testing.assert_allclose(np.nanmean(x[:, [0, 1, 3]], 0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(x[:, [0, 1, 3]], 0), 1)
    pd.testing.assert_frame_equal(scaled.frame(x), frame, check_dtype=False)


# Errors


def test_kinds_that_are_told_hold():
    frame = mixed(60)
    at = list(frame).index("label")
    assert Columns.of(frame).is_category[at]
    assert not Columns.of(frame, {"label": "real"}).is_category[at]
    common = {"rate": 0.2, "masks": 1, "baselines": ["mean"]}
    numbers = frame.drop(columns="word")
    assert "accuracy" in evaluate.imputation(numbers, **common).values["mean"]
    assert "accuracy" not in evaluate.imputation(numbers, kinds={"label": "real"}, **common).values["mean"]
    with pytest.raises(ConfigError, match="no column 'labl'; did you mean 'label'"):
        evaluate.imputation(frame, kinds={"labl": "real"}, **common)


def test_errors_are_those_of_hidden_cells():
    truth = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    found = np.array([[0.5, 1.0, 2.0], [1.0, 2.0, 9.0], [9.0, 1.0, 1.0]])
    hidden = np.array([[True, False, True], [False, True, False], [False, False, True]])
    got = errors(found, truth, hidden, np.array([False, False, True]))
    assert got == {"mse": pytest.approx((0.25 + 4) / 2), "rmse": pytest.approx(2.125**0.5), "accuracy": 0.5}
    with pytest.raises(DataError, match="left cells empty: 1, first row 1, column 1"):
        errors(np.where(hidden & (found == 0.5), np.nan, found), truth, hidden, NONE[:3])


def test_numbers_that_never_vary_are_not_judged():
    truth, hidden = RNG.normal(size=(50, 3)), RNG.random((50, 3)) < 0.5
    truth[:, 1] = 0.0
    found = np.zeros((50, 3))
    assert errors(found, truth, hidden, NONE[:3])["mse"] == np.square(truth[:, ::2][hidden[:, ::2]]).mean()
    with pytest.raises(DataError, match="expected a column that varies"):
        evaluate.imputation(pd.DataFrame({"a": [1.0] * 30, "b": [2.0] * 30}), masks=1)
    some = evaluate.imputation(pd.DataFrame({"a": RNG.normal(size=200), "b": [2.0] * 200}), masks=2, baselines=["mean"])
    assert some.mean("mean", "mse")[0] == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("protocol", ["paper", "leak-free"])
def test_a_perfect_imputer_is_perfect_and_the_mean_is_one(protocol: str):
    frame = pd.DataFrame(RNG.normal(2, 3, size=(600, 8)), columns=list("abcdefgh"))
    frame["word"] = np.where(frame["a"] > frame["b"], "more", "less")
    frame["label"] = 0
    whole = Columns.of(frame.drop(columns="label"))

    def perfect(train: Gapped, filled: Gapped, seed: int) -> np.ndarray:
        """Looks rows up by what is left of them: any number is in one row alone."""
        own = filled.columns if protocol == "leak-free" else whole.standardised(whole.numbers(frame))
        truth = own.scale(whole.numbers(frame))
        return truth[np.nansum(np.abs(filled.x[:, None] - truth), axis=2).argmin(1)]

    found = evaluate.imputation(
        frame, model=perfect, label="label", protocol=protocol, rate=0.2, masks=3, baselines=["mean"]
    )
    assert found.values["method"] == {"mse": [0, 0, 0], "rmse": [0, 0, 0], "accuracy": [1, 1, 1]}
    assert found.mean("mean", "mse")[0] == pytest.approx(1, abs=0.1)
    less, stderr = found.difference("mean", "mse")
    each = np.array(found.values["method"]["mse"]) - np.array(found.values["mean"]["mse"])
    assert less == pytest.approx(each.mean()) and stderr == pytest.approx(each.std(ddof=1) / np.sqrt(3))
    assert found.to_dict()["seeds"] == [0, 1, 2] and found.to_dict()["rate"] == 0.2
    assert "method − it, mse" in str(found) and "mean" in str(found)
    assert len(found.frame()) == 2 * 3 * 3


def test_the_two_protocols_differ_in_who_knows_what():
    """In the leak-free one the rows filled in are others, and hidden cells do not enter the scale."""
    frame, seen = pd.DataFrame(NUMBERS[:500], columns=list("abcde")), {}

    def spy(train: Gapped, filled: Gapped, seed: int) -> np.ndarray:
        seen["train"], seen["filled"] = train, filled
        return np.nan_to_num(filled.x)

    evaluate.imputation(frame, model=spy, baselines=[], masks=1)
    assert seen["train"] is seen["filled"] and len(seen["train"].x) == 500
    assert abs(np.nanmean(seen["train"].x, 0)).max() > 1e-3
    evaluate.imputation(frame, model=spy, baselines=[], masks=1, protocol="leak-free")
    assert len(seen["train"].x) == 400 and len(seen["filled"].x) == 100
    np.testing.assert_allclose(np.nanmean(seen["train"].x, 0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(seen["train"].x, 0), 1)


# Baselines


def test_the_neighbours_are_those_of_scikit_learn():
    x = np.where(np.random.default_rng(1).random((400, 5)) < 0.3, np.nan, NUMBERS[:400])
    columns = Columns.of(pd.DataFrame(NUMBERS[:400], columns=list("abcde")))
    table = Gapped(x, columns)
    np.testing.assert_allclose(BASELINES["neighbours"](table, table, 0), KNNImputer(n_neighbors=20).fit_transform(x))


@pytest.mark.parametrize("block", [1 << 20, 7000])
def test_nearest_rows_with_little_in_common_are_those_of_scikit_learn(monkeypatch, block: int):
    """Columns of one and of four elements, which are missing together; rows that share nothing with any donor, fewer
    donors than are asked for, a column without any, an empty row, and rows in several blocks.
    """
    monkeypatch.setattr("jensen.jobs.evaluate.nearest.BLOCK", block)
    rng = np.random.default_rng(2)
    starts, x = np.array([0, 1, 2, 6, 10, 11, 12]), rng.normal(size=(300, 12))
    for start, end, rate in zip(starts[:-1], starts[1:], [0.7, 0.7, 0.7, 0.8, 0.99, 1.0], strict=True):
        x[rng.random(300) < rate, start:end] = np.nan
    x[4] = np.nan
    expected = KNNImputer(n_neighbors=5, keep_empty_features=True).fit(x[:200]).transform(x)
    np.testing.assert_allclose(from_nearest(x, x[:200], starts, 5), expected, atol=1e-9)


@pytest.mark.parametrize("name", [*BASELINES])
def test_baselines_fill_in_mixed_tables(name: str):
    frame = mixed(300)
    columns = Columns.of(frame)
    scaled = columns.standardised(columns.numbers(frame))
    x = scaled.numbers(frame)
    x[:, 3] = np.nan  # nothing is known of a column
    hidden = mask(x, columns.is_category, "mcar", 0.2, 0)
    table = Gapped(np.where(hidden, np.nan, x), scaled)
    found = BASELINES[name](table, table, 0)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[~np.isnan(table.x)], table.x[~np.isnan(table.x)], atol=1e-12)
    assert set(found[:, 2]) == {0, 1, 2} and set(found[:, 4]) == {0, 1}
    got = errors(found, x, hidden, columns.is_category)
    if name == "mean":
        words = frame["word"][~hidden[:, 2]]
        usual = [*columns.fields[2].categories].index(words.mode()[0])
        assert set(found[hidden[:, 2], 2]) == {usual}
        assert got["mse"] > 0.8
    else:
        assert got["mse"] < 0.5 and got["accuracy"] > 0.7


def test_a_model_is_trained_on_rows_without_gaps_where_it_takes_none():
    frame = pd.DataFrame(NUMBERS[:400, :3], columns=list("abc"))
    options = {"model": "ppca", "settings": {"latents": 2}, "masks": 1, "baselines": ["mean"]}
    with pytest.raises(ConfigError, match="takes no empty cells"):
        evaluate.imputation(frame, **options, rate=0.2)
    found = evaluate.imputation(frame, **{**options, "model": "realnvp", "settings": {"epochs": 2, "layers": 2}},
                                rate=0.2, complete_rows=True,
                                impute={"method": "importance", "particles": 50})  # fmt: skip
    assert 0 < found.mean("realnvp", "mse")[0] < 3
    with pytest.raises(DataError, match=r"rows have no gaps, expected 20 or more"):
        evaluate.imputation(frame, **options, rate=0.8, complete_rows=True)


def test_all_that_is_wrong_is_told():
    with pytest.raises(ConfigError) as e:
        evaluate.imputation(NUMBERS, model="vaee", protocol="papr", mechanism="mca", rate=1.0, masks=0, baselines=["x"])
    for words in ("did you mean 'paper'", "did you mean 'mcar'", "--rate", "--masks", "--baselines", "'vaee'"):
        assert words in str(e.value)
    with pytest.raises(ConfigError, match="no column 'labl'; did you mean 'label'"):
        evaluate.imputation(mixed(50), label="labl")
    with pytest.raises(DataError, match="expected a table, got pictures"):
        evaluate.imputation(np.zeros((5, 6, 6), np.uint8))


# Synthetic rows


def test_real_rows_as_synthetic_ones_are_real_rows():
    found = evaluate.synthetic(mixed(400), model=lambda train, n, seed: train, label="label", seeds=2)
    assert found.values["method"] == found.values["training rows"]
    assert found.difference("training rows", "accuracy") == (0.0, 0.0)
    assert found.values["method"]["copies"] == [1.0, 1.0] and found.values["independent columns"]["copies"] == [0, 0]
    real, alone = found.mean("training rows", "auroc")[0], found.mean("independent columns", "auroc")[0]
    assert real > 0.9 and real > alone + 0.1


def test_what_is_learnt_is_what_a_forest_learns():
    from jensen.jobs.evaluate.synthetic import learnt

    frame, held = mixed(300), mixed(200, seed=1)
    columns = Columns.of(frame)
    x, real = columns.numbers(frame), columns.numbers(held)
    order = np.random.default_rng(3).permutation(300)
    coded = [np.column_stack([v[:, :2], *((v[:, 2] == k) / np.sqrt(2) for k in range(3)), v[:, 3]]) for v in (x, real)]
    forest = RandomForestClassifier(100, random_state=3).fit(coded[0][order], x[order, 4])
    shares = forest.predict_proba(coded[1])
    got = learnt(x, real, columns, 4, seed=3)
    assert got["accuracy"] == np.mean(shares.argmax(1) == real[:, 4])
    assert got["auroc"] == pytest.approx(roc_auc_score(real[:, 4], shares[:, 1]))


def test_marginal_distances():
    x, real = NUMBERS[:300].copy(), NUMBERS[1000:1400] + 0.3
    x[:, 4], real[:, 4] = np.repeat([0, 1, 2], 100), np.repeat([0, 2], 200)
    got = marginals(x, real, np.array([False] * 4 + [True]))
    np.testing.assert_allclose(got[:4], [ks_2samp(x[:, j], real[:, j]).statistic for j in range(4)])
    assert got[4] == pytest.approx(0.5 * (1 / 6 + 1 / 3 + 1 / 6))
    x[:150, 0] = np.nan
    assert marginals(x, real, NONE)[0] >= 0.5  # half are empty here, none there


def test_correlations_are_those_of_numpy():
    columns = Columns.of(pd.DataFrame(NUMBERS, columns=list("abcde")))
    x, real = NUMBERS[:300], np.random.default_rng(0).normal(size=(400, 5))
    above = np.triu_indices(5, 1)
    expected = np.abs(np.corrcoef(x.T) - np.corrcoef(real.T))[above].mean()
    assert correlations(x, real, columns) == pytest.approx(expected)


# Privacy


def test_nearest_records_are_those_of_a_brute_force_search():
    rows, among = NUMBERS[:500], NUMBERS[500:]
    rows[::50] = among[:10]
    expected = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(among).kneighbors(rows)[0][:, 0]
    got = nearest(rows, among)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert (got[::50] == 0).all()


def test_distances_of_mixed_rows():
    frame = pd.DataFrame({"a": [0.0, 2.0, np.nan], "word": ["x", "y", "x"]})
    columns = Columns.of(frame)
    at = coordinates(columns, columns.numbers(frame))
    squares = np.square(at[:, None] - at).sum(2)
    np.testing.assert_allclose(squares[0], [0, 4 + 1, 0.5])  # a gap: its number is 0, and it is told by half


def test_rows_learnt_by_heart_are_found():
    whole = mixed(1200)
    train, held, fresh = whole[:600], whole[600:900], whole[900:]
    honest = nearness(fresh, train, held)
    assert not honest.warnings
    assert honest.near == pytest.approx(0.05, abs=4 * honest.near_stderr)
    assert honest.closer == pytest.approx(0.5, abs=4 * honest.closer_stderr)
    copied = nearness(train.sample(300, random_state=0), train, held)
    assert copied.copies == 1 and copied.near == 1 and len(copied.warnings) == 3
    noisy = train.sample(300, random_state=0).assign(b=lambda t: t["b"] + 1e-4)
    found = nearness(noisy, train, held)
    assert found.copies == 0 and found.near == 1 and "learnt by heart" in found.warnings[0]
    assert "warning" in str(found) and "warning" not in str(honest)


def test_copies_that_chance_makes_raise_no_alarm():
    """Synthetic, training and held-out rows of one law, with 400 kinds of rows of which some are rare."""
    rng = np.random.default_rng(0)

    def rows(n: int) -> pd.DataFrame:
        return pd.DataFrame({"a": rng.geometric(0.3, n), "b": rng.geometric(0.3, n), "c": rng.geometric(0.5, n)})

    alarms = [
        any("equal a training row" in warning for warning in nearness(rows(100), rows(300), rows(1000)).warnings)
        for _ in range(150)
    ]
    assert sum(alarms) <= 3  # at most 0.13 % each by design: 4 in 150 have a chance below 1e-4
    rare = pd.DataFrame({name: rng.normal(size=300) for name in "abc"})
    told = nearness(
        pd.concat([rare.head(3), rows(40) + 0.5]), rare, pd.DataFrame(rng.normal(size=(900, 3)), columns=[*"abc"])
    )
    assert any("equal a training row" in warning for warning in told.warnings)  # 3 of 43 where 0 of 900 do


def test_privacy_of_a_run():
    run = jensen.train("ppca", NUMBERS[:600], latents=4)
    found = privacy(run, n=200)
    assert found.synthetic == 200 and found.training == 480 and found.held_out == 60 and not found.warnings
    rows = run.data().split("train").x[:100]
    assert run.privacy(rows).copies == 1
    frame = mixed(200)
    frame.loc[::7, "word"], frame.loc[::5, "n"] = None, np.nan
    gapped = jensen.train("vae", frame, latents=2, epochs=1, label="label", conditional=True)
    assert gapped.privacy(n=30).synthetic == 30
    assert gapped.privacy(frame.iloc[gapped.data().split("train").index[:50]]).copies == 1
    with pytest.raises(ConfigError, match="expected a table"):
        privacy(jensen.train("vae", np.zeros((30, 4, 4), np.uint8) + 1, latents=2, epochs=1))


# Outliers


def test_outliers_are_told_by_the_detectors_as_they_stand():
    """The same split, the same standardisation, and scikit-learn's areas."""
    from jensen.data.splits import cut_by_class
    from jensen.jobs.detectors import DETECTORS

    x = np.concatenate([NUMBERS[:400], NUMBERS[400:420] * 3])
    y = np.repeat([0, 1], [400, 20])
    frame = pd.DataFrame(x, columns=list("abcde")).assign(fault=np.where(y, "broken", "fine"))
    found = evaluate.outliers(
        frame, model=lambda seed: DETECTORS["ECOD"](seed), label="fault", detectors=["ECOD", "kNN"], seeds=2
    )
    assert found.values["method"] == found.values["ECOD"] and found.difference("ECOD", "auroc") == (0.0, 0.0)
    assert found.about["outlier"] == "broken" and found.about["trained_on"] == 280
    cut = cut_by_class(y, 0, (0.7, 0.0, 0.3))
    usual, test = x[cut["train"]][y[cut["train"]] == 0], cut["test"]
    scaled = [(v - usual.mean(0)) / usual.std(0) for v in (usual, x[test])]
    distance = NearestNeighbors(n_neighbors=5).fit(scaled[0]).kneighbors(scaled[1])[0][:, -1]
    assert found.values["kNN"]["auroc"][0] == pytest.approx(roc_auc_score(y[test], distance))
    assert found.values["kNN"]["average precision"][0] == pytest.approx(average_precision_score(y[test], distance))


def test_a_model_scores_by_its_density():
    """Of a normal distribution: strange are those far from its middle, in its own units."""
    frame = pd.DataFrame(NUMBERS[:600], columns=list("abcde"))
    apart = np.einsum("ij,jk,ik->i", NUMBERS[:600], np.linalg.inv(np.cov(NUMBERS.T)), NUMBERS[:600])
    frame["far"] = (apart > np.quantile(apart, 0.95)).astype(int)
    found = evaluate.outliers(
        frame, model="ppca", settings={"latents": 4}, label="far", detectors=["isolation forest"], seeds=1
    )
    assert found.mean("ppca", "auroc")[0] > 0.97 and found.difference("isolation forest", "auroc")[0] > 0


def test_what_outliers_need():
    frame = mixed(60)
    with pytest.raises(ConfigError, match="--label: name the column"):
        evaluate.outliers(frame, seeds=1)
    with pytest.raises(ConfigError, match="is never '2'"):
        evaluate.outliers(frame, label="label", outlier=2)
    with pytest.raises(DataError, match="expected two values of 'label'"):
        evaluate.outliers(frame.assign(label=0), label="label")
    with pytest.raises(ConfigError, match="--detectors: 'ECODD' is none; did you mean 'ECOD'"):
        evaluate.outliers(frame, label="label", detectors=["ECODD"])


def test_a_model_learns_from_gaps_and_beats_the_mean():
    """Columns of which any two tell the third, numbers and words."""
    frame = mixed(500).drop(columns=["n", "label"])
    settings = {"latents": 2, "encoder.hidden": [32], "decoder.hidden": [32]}
    budget = {"epochs": 60, "batch_size": 32, "lr": 5e-3}
    found = evaluate.imputation(
        frame, model="vae", settings=settings | budget, rate=0.3, masks=1, baselines=["mean"], protocol="leak-free",
        impute={"particles": 200},
    )  # fmt: skip
    assert found.difference("mean", "mse")[0] < -0.5 and found.difference("mean", "accuracy")[0] > 0.25
