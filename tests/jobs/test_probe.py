"""What representations are worth, and whether their dimensions are factors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import jensen
from jensen.data import Dataset, Schema, Split, shapes
from jensen.errors import ConfigError, DataError, DataWarning
from jensen.jobs.disentanglement import VOTES, _concentration, _vote, disentanglement
from jensen.jobs.probe import _stratified, probe

V = shapes.factors()[np.random.default_rng(0).permutation(4608)[:3000]]
NAMES = list(shapes.FACTORS)


def test_factors_are_a_table_of_all_combinations():
    v = shapes.factors()
    assert len(v) == np.prod([len(values) for values in shapes.FACTORS.values()]) == len(shapes.rendered())
    assert len(np.unique(v, axis=0)) == len(v)
    for f, values in enumerate(shapes.FACTORS.values()):
        assert set(np.bincount(v[:, f])) == {len(v) // len(values)}  # each value as often


def test_where_a_shape_is_says_its_factor():
    """The middle of the light moves with the two factors of the place, and its amount with the scale."""
    x, v = shapes.rendered()[:, 0].astype(float), shapes.factors()
    light = x.sum((1, 2))
    at = (np.arange(32) + 0.5) / 16 - 1
    across, down = (x.sum(1) @ at) / light, (x.sum(2) @ at) / light
    squares = (v[:, 0] == 0) & (v[:, 2] == 0)
    placed = np.array(shapes.FACTORS["across"])[v[:, 3]], np.array(shapes.FACTORS["down"])[v[:, 4]]
    np.testing.assert_allclose(across[squares], placed[0][squares], atol=0.02)
    np.testing.assert_allclose(down[squares], placed[1][squares], atol=0.02)
    assert np.corrcoef(light[squares], v[squares, 1])[0, 1] > 0.98


def test_a_perfect_code_scores_one():
    noise = 1e-3 * np.random.default_rng(1).normal(size=V.shape)
    found = disentanglement(V + noise, V, NAMES)
    assert found.mig > 0.99 and found.sap > 0.99 and found.factor_vae == 1
    assert found.disentanglement > 0.99 and found.completeness > 0.99 and found.informativeness > 0.99


def test_the_order_and_sign_of_dimensions_do_not_matter():
    z = -V[:, ::-1].astype(float)
    assert disentanglement(z, V, NAMES).mig == pytest.approx(disentanglement(V.astype(float), V, NAMES).mig, abs=1e-9)


def test_a_rotated_code_knows_all_and_has_no_axes():
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    scaled = (V - V.mean(0)) / V.std(0)
    found = disentanglement(scaled @ rotation, V, NAMES)
    assert found.mig < 0.15 and found.disentanglement < 0.5 and found.completeness < 0.5
    assert found.informativeness > 0.4


def test_noise_scores_nothing():
    found = disentanglement(np.random.default_rng(3).normal(size=(3000, 5)), V, NAMES)
    assert found.mig < 0.02 and found.sap < 0.05 and found.factor_vae < 0.45
    assert found.informativeness < 0.35


def test_a_factor_in_two_dimensions_is_not_complete():
    """Each factor twice: no dimension is best, though each is of one factor."""
    z = np.concatenate([V, V], 1) + 1e-3 * np.random.default_rng(1).normal(size=(len(V), 10))
    found = disentanglement(z, V, NAMES)
    assert found.mig < 0.01 and found.sap < 0.01
    assert found.disentanglement > 0.95 and found.completeness < 0.8


def test_dimensions_that_tell_nothing_do_not_count():
    """Two dimensions, a bit each, and one of noise: of all importance none is the third's, so that DCI stays 1."""
    v = np.random.default_rng(0).integers(2, size=(200, 2))
    z = np.concatenate([v, np.random.default_rng(1).normal(size=(200, 1))], 1)
    found = disentanglement(z, v, ["a", "b"])
    assert found.disentanglement == pytest.approx(1) and found.completeness == pytest.approx(1)


def test_rows_of_importance_count_by_their_share():
    """A dimension of one factor has 8 parts in 10, one of both alike has 2: 0.8 · 1 + 0.2 · 0. Turned round, one factor
    has 9 of 10, of which 8 by one dimension, and the other 1 by one alone."""
    weights = np.array([[8.0, 0.0], [1.0, 1.0]])
    assert _concentration(weights, 1) == pytest.approx(0.8)
    entropy = -(8 / 9 * math.log2(8 / 9) + 1 / 9 * math.log2(1 / 9))
    assert _concentration(weights.T, 1) == pytest.approx(0.9 * (1 - entropy) + 0.1)


def test_information_is_a_share_of_the_factors_entropy():
    """Tables by hand: a bit of entropy H(¼), of whose two rare cases one is seen; and half of the two bits of four
    values."""
    seen, rare = [0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1, 1]
    half, value = [0, 0, 1, 1], [0, 1, 2, 3]
    table = [(s, h, r, u) for s, r in zip(seen, rare, strict=True) for h, u in zip(half, value, strict=True)]
    z, v = np.split(np.array(table * 4), 2, axis=1)
    information = 6 / 8 * math.log(8 / 7) + 1 / 8 * math.log(4 / 7) + 1 / 8 * math.log(4)
    entropy = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    found = disentanglement(z, v, ["rare", "value"])
    np.testing.assert_allclose(found.mutual_information, [[information / entropy, 0], [0, 0.5]], atol=1e-9)
    assert found.mig == pytest.approx((information / entropy + 0.5) / 2)


def test_a_dimension_is_still_by_its_own_measure():
    """The first factor's code varies less where that is fixed, yet more than the second's, which is 0.3 as wide."""
    rng = np.random.default_rng(0)
    v = rng.integers(2, size=(4000, 2))
    z = (2 * v - 1 + 0.5 * rng.normal(size=v.shape)) * [1.0, 0.3]
    assert _vote(z, v, rng) == 1


def test_votes_are_judged_by_others_than_those_that_decide():
    """Sixty dimensions of noise tell none of four factors: 1 in 4, however few votes each dimension has."""
    rng = np.random.default_rng(0)
    found = _vote(rng.normal(size=(40_000, 60)), rng.integers(2, size=(40_000, 4)), rng)
    assert found == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / (VOTES / 2)))


@pytest.fixture(scope="module")
def digits():
    return jensen.load_data("digits")


def test_codes_beside_data_and_components(digits):
    run = jensen.train("ppca", digits, latents=10)
    found = probe(run, labels=[10, 100, "all"], seeds=3)
    cells = {(a.representation, a.classifier, a.labels): a for a in found.accuracies}
    assert {key[0] for key in cells} == {"codes", "data", "components"}
    assert {key[1] for key in cells} == {"neighbours", "linear", "network"}
    assert {key[2] for key in cells} == {10, 100, found.n_train}
    for count in (10, 100, found.n_train):  # the codes are the components, turned and scaled
        assert cells["codes", "linear", count].mean == pytest.approx(
            cells["components", "linear", count].mean, abs=0.12
        )
    few, many = cells["data", "linear", 10], cells["data", "linear", found.n_train]
    assert few.mean + 2 * few.stderr < many.mean > 0.9
    assert cells["data", "linear", found.n_train].stderr == pytest.approx(
        np.sqrt(many.mean * (1 - many.mean) / found.n_test)
    )
    assert "linear on codes" in str(found) and found.factors is None


def test_a_code_that_is_noise_is_worth_nothing(digits):
    run = jensen.train("vae", digits, latents=4, epochs=1)
    with torch.no_grad():
        for p in run.model.q.parameters():
            p.zero_()
    found = probe(run, labels=["all"])
    chance = max(np.bincount(digits.split("test").y)) / found.n_test
    assert all(a.mean < chance + 0.05 for a in found.accuracies if a.representation == "codes")


def test_test_data_keep_their_place_beside_the_training_data():
    """Classes at −4, 0 and 4, alike in training; of the test data all but two lie at 4, and their mean is no origin."""
    rng = np.random.default_rng(0)
    schema = Schema.of_table(np.array([[-1.0] * 3, [1.0] * 3]), list("abc"))

    def part(y: np.ndarray) -> Split:
        return Split(0.1 * rng.normal(size=(len(y), 3)) + 4.0 * (y[:, None] - 1), y)

    splits = {"train": part(np.arange(90) % 3), "test": part(np.array([0, 1] + [2] * 40))}
    run = jensen.train("ppca", Dataset("placed", schema, splits), latents=1)
    assert all(a.mean == 1 for a in probe(run, labels=["all"]).accuracies)


def test_codes_that_never_change_score_nothing():
    factors = np.random.default_rng(0).integers(0, 3, (500, 2))
    found = disentanglement(np.zeros((500, 3)), factors, ["a", "b"])
    assert found.factor_vae == found.disentanglement == found.completeness == found.mig == found.sap == 0


@pytest.mark.parametrize(("count", "taken"), [(100, [90, 9, 1]), (10, [8, 1, 1]), (3, [1, 1, 1]), (990, [891, 89, 10])])
def test_labels_are_taken_class_by_class(count, taken):
    y = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [900, 90, 10]))
    rows = _stratified(y, count, seed=3)
    assert np.bincount(y[rows]).tolist() == taken and len(set(rows)) == count


def test_shapes_have_factors():
    run = jensen.train("vae", jensen.load_data("shapes"), latents=4, epochs=1)
    found = probe(run, labels=[30], seeds=1)
    assert found.factors is not None and found.factors.factors == NAMES
    assert (
        0 <= found.factors.mig <= 1 and "MIG" in str(found) and found.to_dict()["factors"]["mig"] == found.factors.mig
    )


def test_labels_that_a_model_is_given_are_told_of():
    """An encoder that is given the label may write it into its code."""
    x = np.random.default_rng(0).integers(0, 2, (120, 3, 3)).astype(np.uint8)
    y = np.arange(120) % 2
    data = {"train": x[:80], "train_labels": y[:80], "test": x[80:], "test_labels": y[80:]}
    small = {"latents": 2, "encoder.hidden": [8], "decoder.hidden": [8]}
    run = jensen.train("vae", data, settings={**small, "conditional": True}, epochs=1)
    with pytest.warns(DataWarning, match="is given the labels, and so is its encoder"):
        probe(run, labels=[10], seeds=1)
    probe(jensen.train("vae", data, settings=small, epochs=1), labels=[10], seeds=1)  # no warning
    bare = jensen.train("vae", x, settings=small, epochs=1)
    with pytest.raises(DataError, match=r"an \.npz holds them in train_labels"):
        probe(bare)


def test_what_cannot_be(digits):
    run = jensen.train("ppca", np.random.default_rng(0).normal(size=(50, 4)), latents=2)
    with pytest.raises(DataError, match="expected labels"):
        probe(run)
    run = jensen.train("ppca", digits, latents=2)
    with pytest.raises(ConfigError, match="expected numbers from 10 on"):
        probe(run, labels=[3])
    with pytest.raises(DataError, match="a test part"):
        probe(run, Dataset("part", digits.schema, {"train": digits.split("train")}))
