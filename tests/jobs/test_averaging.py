"""What several models fill in is the mixture of what each does."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pandas
import pytest

import jensen
from jensen.errors import ConfigError
from jensen.jobs.averaging import averaged
from jensen.jobs.candidates import Candidate
from jensen.jobs.choose import choose
from jensen.jobs.imputation import Imputation
from jensen.jobs.run import Run

RNG = np.random.default_rng(5)
DRAWS = 4000


def table(n: int = 60) -> pandas.DataFrame:
    cause = RNG.normal(size=n)
    frame = pandas.DataFrame({"a": cause, "b": cause + 0.1 * RNG.normal(size=n)})
    frame["side"] = np.where(cause > 0.5, "up", np.where(cause > -0.5, "level", "down"))
    frame["size"] = pandas.Categorical.from_codes(
        np.digitize(cause, [-0.5, 0.0, 0.5]), ["s", "m", "l", "xl"], ordered=True
    )
    return frame.mask(RNG.random(frame.shape) < 0.3)


@pytest.fixture(scope="module")
def run() -> Run:
    return jensen.train("nade", table(), epochs=1, settings={"network.width": 8})


def told(like: Imputation, points: list[float], spreads: list[float], draws: np.ndarray) -> Imputation:
    """An imputation with the same values in all cells of a column."""
    column = np.nonzero(like.missing)[1]
    return replace(
        like,
        drawn=draws,
        expected=np.array(points)[column],
        uncertainty=np.array(spreads)[column],
        effective_sample_size=np.where(like.method == "none", np.inf, 30.0),
    )


@pytest.fixture(scope="module")
def two(run) -> tuple[Imputation, Imputation, Imputation]:
    """Of two that differ, and their mixture."""
    like = run.impute(table(), draws=DRAWS, particles=4)
    assert [f.kind for f in like.schema.fields] == ["real", "real", "category", "ordinal"]
    cells = (DRAWS, like.missing.sum())
    one = told(like, [1.0, -2.0, 0, 1], [0.5, 1.0, 0.1, 0.4], RNG.normal(1.0, 0.5, cells))
    other = told(like, [3.0, -2.0, 1, 3], [1.0, 2.0, 0.45, 0.6], RNG.normal(3.0, 1.0, cells))
    return one, other, averaged([one, other])


def test_numbers_have_mean_and_spread_of_the_mixture(two):
    both, column = two[2], np.nonzero(two[2].missing)[1]
    here = column == 0
    draws = np.concatenate([RNG.normal(1.0, 0.5, 200_000), RNG.normal(3.0, 1.0, 200_000)])
    np.testing.assert_allclose(both.expected[here], draws.mean(), atol=0.02)
    np.testing.assert_allclose(both.uncertainty[here], draws.std(), atol=0.02)
    np.testing.assert_allclose(both.drawn[:, here].mean(), both.expected[here][0], atol=0.05)
    np.testing.assert_allclose(both.drawn[:, here].std(), both.uncertainty[here][0], atol=0.05)
    np.testing.assert_allclose(both.uncertainty[column == 1], np.sqrt((1 + 4) / 2))


def test_names_go_by_probability_and_ordered_ones_by_the_median(two):
    one, other, both = two
    column = np.nonzero(both.missing)[1]
    assert (both.expected[column == 2] == 0).all()  # 0.9 against 0.55
    np.testing.assert_allclose(both.uncertainty[column == 2], 1 - 0.9 / 2)
    assert (both.expected[column == 3] == 1).all()
    three = averaged([one, other, other])
    assert (three.expected[column == 2] == 1).all()  # 0.9 against twice 0.55
    np.testing.assert_allclose(three.uncertainty[column == 2], 1 - 1.1 / 3)
    assert (three.expected[column == 3] == 3).all()


def test_shares_are_those_of_the_mixture(two):
    one, other, _ = two
    column = np.nonzero(one.missing)[1]
    found = averaged([one, other], shares=[0.25, 0.75])
    draws = np.concatenate([RNG.normal(1.0, 0.5, 100_000), RNG.normal(3.0, 1.0, 300_000)])
    np.testing.assert_allclose(found.expected[column == 0], draws.mean(), atol=0.02)
    np.testing.assert_allclose(found.uncertainty[column == 0], draws.std(), atol=0.02)
    assert (found.drawn == other.drawn).mean() == pytest.approx(0.75, abs=0.02)
    assert (found.expected[column == 2] == 1).all()  # 0.25 of 0.9 against 0.75 of 0.55
    assert (found.expected[column == 3] == 3).all()
    assert (averaged([one, other], shares=[0.5, 0.5]).expected[column == 3] == 1).all()


def test_spreads_of_numbers_far_from_zero(two):
    """As of seconds since 1970."""
    numbers = np.nonzero(two[2].missing)[1] < 2
    far = averaged([replace(f, expected=f.expected + 1.6e9 * numbers) for f in two[:2]])
    np.testing.assert_allclose(far.uncertainty[numbers], two[2].uncertainty[numbers], rtol=1e-4)


def test_a_draw_of_a_row_is_of_one_model(two):
    one, other, both = two
    row = np.nonzero(both.missing)[0]
    of_one, of_other = both.drawn == one.drawn, both.drawn == other.drawn
    assert (of_one | of_other).all()
    whole = [of_one[:, row == r].all(1) | of_other[:, row == r].all(1) for r in np.unique(row)]
    assert np.all(whole)
    assert abs(of_one.mean() - 0.5) < 0.02


def test_draws_of_several_are_worth_as_many_as_all_together(two):
    both = two[2]
    filled = both.method != "none"
    np.testing.assert_allclose(both.effective_sample_size[filled], 60.0)
    assert np.isinf(both.effective_sample_size[~filled]).all()
    assert set(both.method) == {"ensemble", "none"}
    assert "by several models" in str(both)


NADE = Candidate("nade", {"network.width": 8, "lr": 1e-2})
VAE = Candidate("vae", {"latents": 1, "encoder.hidden": [8], "decoder.hidden": [8], "lr": 1e-2})


def test_a_chosen_run_fills_in_by_all_its_members(tmp_path):
    frame = table(200)
    run = choose(frame, candidates={"nade": NADE, "vae": VAE}, epochs=8, seeds=2, out=tmp_path / "r")
    chosen = run.spec["chosen"]
    assert len(run.members) == 2 * len(chosen["taken"]) - 1
    assert chosen["best"] == min(("nade", "vae"), key=lambda name: chosen["errors"][name])
    found = run.impute(frame, particles=20)
    alone = [replace_members(one).impute(frame, particles=20, seed=k) for k, one in enumerate([run, *run.members])]
    numbers = np.nonzero(found.missing)[1] < 2
    np.testing.assert_allclose(found.expected[numbers], np.mean([a.expected[numbers] for a in alone], 0))
    for again in (jensen.open(tmp_path / "r"), pickle.loads(pickle.dumps(run))):
        np.testing.assert_array_equal(again.impute(frame, particles=20).expected, found.expected)
    folders = sorted(path.name for path in (tmp_path / "r" / "members").iterdir())
    assert folders == [str(k) for k in range(1, len(run.members) + 1)]
    fewer = choose(frame, candidates={"nade": NADE}, epochs=1, seeds=1, out=tmp_path / "r", overwrite=True)
    assert fewer.members == jensen.open(tmp_path / "r").members == []
    assert not (tmp_path / "r" / "members").exists()


def replace_members(run: Run) -> Run:
    """The same without those that fill in with it."""
    return Run(run.spec, run.schema, run.model)


def test_an_ensemble_is_of_the_same_columns(run, tmp_path):
    frame = table()
    other = jensen.train("nade", frame, epochs=1, seed=3, settings={"network.width": 8}, out=tmp_path / "other")
    both = run.impute(frame, particles=20, ensemble=[tmp_path / "other"])
    numbers = np.nonzero(both.missing)[1] < 2
    mean = (run.impute(frame, particles=20).expected + other.impute(frame, particles=20, seed=1).expected) / 2
    np.testing.assert_allclose(both.expected[numbers], mean[numbers])
    stranger = jensen.train("nade", frame.rename(columns={"a": "z"}), epochs=1, out=tmp_path / "stranger")
    with pytest.raises(ConfigError, match="stranger was trained on other columns"):
        run.impute(frame, ensemble=[stranger])


def test_no_seeds_are_refused():
    with pytest.raises(ConfigError, match="seeds: expected >= 1"):
        choose(table(), seeds=0)
