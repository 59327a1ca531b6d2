"""p(x | labels, columns): trained, scored against a closed form, sampled with what is given, refused without it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas
import polars
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

import jensen
from jensen import registry
from jensen.errors import ConfigError, DataError, DataWarning
from jensen.jobs.run import Run
from jensen.models.flow import flow
from jensen.transforms import Transform


class LinearInContext(Transform):
    """x = exp(s) z + t with s, t linear in the context: p(x | c) = N(t(c), diag exp 2 s(c))."""

    def __init__(self, shape: tuple[int, ...], context: int):
        super().__init__()
        self.domain_shape = self.codomain_shape = shape
        self.made = nn.Linear(max(1, context), 2 * int(np.prod(shape)))
        nn.init.zeros_(self.made.weight)
        nn.init.zeros_(self.made.bias)

    def parameters_at(self, like: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        context = torch.zeros(len(like), 1) if context is None else context
        s, t = self.made(context.to(like)).chunk(2, 1)
        return s.reshape(like.shape), t.reshape(like.shape)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s, t = self.parameters_at(z, context)
        return z * s.exp() + t, s.flatten(1).sum(1)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s, t = self.parameters_at(x, context)
        return (x - t) * (-s).exp(), -s.flatten(1).sum(1)


NAME = "linear-in-context"


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    """A small conditional flow, a model like any other for the time of these tests."""
    registry.names(registry.MODEL)
    known = dict(registry._components)

    @flow(NAME, paper="a test, 2024")
    def build(event: tuple[int, ...], context: int) -> Transform:
        """A scale and a shift that are linear in the context."""
        return LinearInContext(event, context)

    yield
    registry._components.clear()
    registry._components.update(known)


def people(n: int = 1500, seed: int = 0) -> pandas.DataFrame:
    """Height depends on sex and age, weight on the kind."""
    rng = np.random.default_rng(seed)
    sex = rng.choice(["f", "m"], n)
    age = rng.uniform(20, 60, n).round(1)
    kind = rng.choice(["a", "b", "c"], n)
    return pandas.DataFrame(
        {
            "age": age,
            "height": (160 + 12 * (sex == "m") - 0.1 * (age - 40) + 5 * rng.normal(size=n)).astype("float32"),
            "sex": sex,
            "weight": 60 + 10 * (kind == "b") + (2 + 4 * (kind == "c")) * rng.normal(size=n),
            "kind": kind,
        }
    )


OPTIONS = {"epochs": 80, "batch_size": 100, "lr": 0.05}


@pytest.fixture(scope="module")
def run(_registered, tmp_path_factory) -> Run:
    out = tmp_path_factory.mktemp("given") / "run"
    return jensen.train(NAME, people(), given=["age", "sex"], label="kind", conditional=True, out=out, **OPTIONS)


def truth(frame: pandas.DataFrame) -> np.ndarray:
    """log p(height, weight | age, sex, kind) by which the data were made, in nats, (n,)."""
    mean = 160 + 12 * (frame["sex"] == "m") - 0.1 * (frame["age"] - 40)
    weight = norm(60 + 10 * (frame["kind"] == "b"), 2 + 4 * (frame["kind"] == "c"))
    return np.asarray(norm(mean, 5).logpdf(frame["height"]) + weight.logpdf(frame["weight"]))


def test_it_learns_the_conditional_in_the_units_of_the_data(run):
    new = people(400, seed=1)
    score = run.score(new)
    assert str(run.model) == "p = (x | y, c), q = 1"
    assert score.kind == "exact"
    assert score.rows is not None
    assert score.nats == pytest.approx(truth(new).mean(), abs=0.05)
    assert np.corrcoef(score.rows, truth(new))[0, 1] > 0.98


def test_conditions_are_worth_what_they_tell():
    """Without them the score is lower, by what age, sex and kind say of height and weight."""
    frame = people()
    joint = jensen.train(NAME, frame[["height", "weight"]], **OPTIONS)
    new = people(400, seed=1)
    assert joint.score(new).nats < truth(new).mean() - 0.5


def test_it_is_saved_and_opened(run):
    again = jensen.open(run.folder.path)
    new = people(50, seed=2)
    assert torch.equal(again.score(new).rows, run.score(new).rows)
    assert again.schema == run.schema
    assert again.schema.given_names == ["age", "sex"]


def test_new_data_must_bring_conditions_and_labels(run):
    new = people(20, seed=1)
    with pytest.raises(DataError, match="columns missing that the model is given: sex"):
        run.score(new.drop(columns="sex"))
    with pytest.raises(DataError, match="expected labels in the column 'kind', got data without any"):
        run.score(new.drop(columns="kind"))
    with pytest.raises(DataError, match=r"one of a, b, c; row 4 has none"):
        run.score(new.assign(kind=new["kind"].where(new.index != 3)))
    with pytest.raises(DataError, match=r"row 1 has none"):
        run.score(new.assign(kind="d"))
    with pytest.raises(DataError, match="'x' is no category"):
        run.score(new.assign(sex="x"))
    for job in (run.encode, run.reconstruct):
        with pytest.raises(DataError, match="expected labels"):
            job(new.drop(columns="kind"))


def test_the_codes_of_data_are_standard_normal_given_their_conditions(run):
    new = people(500, seed=3)
    z = run.encode(new)
    assert z.shape == (500, 2)
    trained_on = 1200
    assert abs(z.mean(0)).max() < 4.5 * math.sqrt(1 / 500 + 1 / trained_on)
    assert abs(z.std(0) - 1).max() < 4.5 * math.sqrt(1 / 1000 + 1 / (2 * trained_on))
    men = (new["sex"] == "m").to_numpy()
    assert abs(z[men, 0].mean() - z[~men, 0].mean()) < 4.5 * math.sqrt(4 / 500 + 4 / trained_on)


# Sampling


def test_samples_stand_in_the_user_s_table(run):
    drawn = run.sample(500, given={"age": 30, "sex": "m", "kind": "b"})
    frame = people(5)
    assert list(drawn.columns) == list(frame.columns)
    assert list(drawn.dtypes) == list(frame.dtypes)
    assert (drawn["age"] == 30).all() and (drawn["sex"] == "m").all() and (drawn["kind"] == "b").all()
    assert drawn["height"].mean() == pytest.approx(173, abs=1)
    assert drawn["weight"].mean() == pytest.approx(70, abs=0.6)
    other = run.sample(500, given={"age": 30, "sex": "f", "kind": "a"})
    assert drawn["height"].mean() - other["height"].mean() == pytest.approx(12, abs=1.5)


def test_a_label_is_given_by_name_or_number(run):
    common = {"age": 30, "sex": "f"}
    by_name = run.sample(4, given={**common, "kind": "c"})
    for alias in ({"kind": 2}, {"label": "c"}, {"y": 2}):
        pandas.testing.assert_frame_equal(run.sample(4, given={**common, **alias}), by_name)


def test_values_may_differ_from_row_to_row(run):
    sexes = ["f", "m", "m"]
    drawn = run.sample(given={"age": [20, 30, 40], "sex": sexes, "kind": "a"})
    assert drawn["sex"].tolist() == sexes
    assert drawn["age"].tolist() == [20.0, 30.0, 40.0]
    assert run.sample(6, given={"age": 20, "sex": sexes, "kind": "a"})["sex"].tolist() == sexes * 2
    with pytest.raises(ConfigError, match="columns of one length"):
        run.sample(given={"age": [20, 30], "sex": sexes, "kind": "a"})


@pytest.mark.parametrize("library", [pandas, polars], ids=lambda library: library.__name__)
def test_a_frame_gives_a_row_for_each_draw(run, library):
    """Of conditions and of a column to hold, as the same values by column do, whatever its index."""
    values = {"age": [20.0, 30.0, 40.0], "sex": ["f", "m", "m"], "kind": ["a", "b", "a"]}
    frame = library.DataFrame(values)
    frame = frame.set_index([[7, 7, 9]]) if library is pandas else frame
    drawn = run.sample(given=frame)
    pandas.testing.assert_frame_equal(drawn, run.sample(given=values))
    assert drawn["age"].tolist() == values["age"]
    with pytest.raises(ConfigError, match="no column 'agee'; did you mean 'age'"):
        run.sample(given=library.DataFrame({"agee": [1.0]}))


@pytest.mark.parametrize("given", [np.ones((2, 3)), [1.0, 2.0], "age=3"], ids=lambda given: type(given).__name__)
def test_values_without_columns_are_told_of(run, given):
    with pytest.raises(ConfigError, match=f"given: expected values by column, as .* got {type(given).__name__}"):
        run.sample(given=given)


def test_conditions_may_come_from_a_table(run, tmp_path):
    table = people(30, seed=5)
    drawn = run.sample(given_from=table)
    for name in ("age", "sex", "kind"):
        assert drawn[name].tolist() == table[name].tolist()
    assert not np.allclose(drawn["height"], table["height"])
    table.to_csv(tmp_path / "table.csv", index=False)
    pandas.testing.assert_frame_equal(run.sample(given_from=tmp_path / "table.csv"), drawn)
    assert (run.sample(given_from=table, given={"sex": "m"})["sex"] == "m").all()
    assert len(run.sample(45, given_from=table)) == 45
    with pytest.raises(DataError, match="column 'age', which the model is given, is empty at row 2"):
        run.sample(given_from=table.assign(age=table["age"].where(table.index != 1)))


def test_a_known_condition_and_a_held_column_go_together(run):
    """weight is explained, and held; height is drawn given it and the conditions, on which alone it depends."""
    said: list[str] = []
    drawn = run.sample(400, given={"age": 30, "sex": "m", "kind": "a", "weight": 61.0}, say=said.append)
    assert (drawn["weight"] == 61).all()
    assert drawn["height"].mean() == pytest.approx(173, abs=1)
    assert list(drawn.columns) == list(people(1).columns)
    assert said[0].startswith("effective sample size")


def test_all_that_is_missing_or_wrong_is_said_at_once(run):
    with pytest.raises(ConfigError) as caught:
        run.sample(3, given={"agee": 3, "kind": "a"})
    assert len(caught.value.problems) == 2
    assert "no column 'agee'; did you mean 'age'?" in str(caught.value)
    assert "the model is p(x | y, c): expected values of age, sex, as --given age=VALUE (in Python" in str(caught.value)
    with pytest.raises(ConfigError, match="expected values of kind, age, sex"):
        run.sample(3)
    with pytest.raises(ConfigError, match="kind: 'd' is no label; choose from a, b, c"):
        run.sample(3, given={"age": 3, "sex": "m", "kind": "d"})
    with pytest.raises(ConfigError, match=r"'male' is no category of this column; choose from f, m$"):
        run.sample(3, given={"age": 3, "sex": "male", "kind": "a"})
    with pytest.raises(ConfigError, match=r"'age' is not numeric: row 1 holds 'old'$"):
        run.sample(3, given={"age": "old", "sex": "m", "kind": "a"})
    with pytest.raises(ConfigError, match="--temperature: expected draws of the model itself"):
        run.sample(3, given={"age": 3, "sex": "m", "kind": "a", "height": 170}, temperature=0.5)


def test_an_unconditional_model_says_how_to_become_conditional():
    data = people().drop(columns=["sex"])
    run = jensen.train(NAME, data, label="kind", epochs=1)
    with pytest.raises(ConfigError, match="not trained on labels as a condition"):
        run.sample(3, given={"kind": "a"})


def test_models_that_take_no_conditions_are_not_given_any():
    with pytest.raises(ConfigError, match="given: ppca takes no conditions"):
        jensen.train("ppca", people(50).drop(columns=["kind"]), given=["sex"], latents=1)
    with pytest.raises(ConfigError, match="conditional: the data have no labels"):
        jensen.train(NAME, people(50)[["height"]], conditional=True)


def test_rows_without_label_cannot_train_a_conditional_model():
    frame = people(60)
    frame.loc[7, "kind"] = None
    with pytest.raises(DataError, match="row 8 has none"):
        jensen.train(NAME, frame.drop(columns=["sex"]), label="kind", conditional=True, epochs=1, fractions=(1, 0, 0))


def test_weights_and_conditions_stay_together():
    """Rows of weight 0 are left out of training, with their conditions."""
    frame = people(300)
    frame["w"] = (frame.index % 2).astype(float)
    frame.loc[frame["w"] == 0, "age"] = 1e6  # nonsense where it does not count
    run = jensen.train(NAME, frame.drop(columns=["kind"]), given=["sex"], drop="age", weight="w", **OPTIONS)
    drawn = run.sample(300, given={"sex": ["f", "m"]}).groupby("sex")["height"].mean()
    assert drawn["m"] - drawn["f"] == pytest.approx(12, abs=2.5)


def test_pictures_are_drawn_by_label():
    """One grey level a class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = (y[:, None, None] * 80 + rng.integers(0, 20, (300, 2, 2))).astype(np.uint8)
    data = {"train": x, "train_labels": y, "test": x[:50], "test_labels": y[:50]}
    run = jensen.train(NAME, _npz(data), conditional=True, **OPTIONS)
    means = [run.sample(100, given={"label": k}).mean() for k in range(3)]
    assert np.allclose(means, [10, 90, 170], atol=12)
    assert run.sample(given={"y": [0, 1, 2]}).shape == (3, 1, 2, 2)
    with pytest.raises(ConfigError, match="expected a value of label, as --given label=VALUE"):
        run.sample(3)


def _npz(arrays: dict[str, np.ndarray]):
    import tempfile
    from pathlib import Path

    path = Path(tempfile.mkdtemp()) / "pictures.npz"
    np.savez(path, **arrays)
    return path


def test_a_report_of_a_conditional_model_is_whole(run, tmp_path):
    page = run.report(tmp_path / "report.html").read_text()
    assert "p(x | y, c)" in page
    assert 'id="samples"' in page
    assert "Left out: " not in page.split('id="samples"')[1].split("</section>")[0]


def test_scores_compare_on_the_same_conditions(run):
    other = jensen.train(NAME, people(), given=["age", "sex"], drop="kind", **OPTIONS)
    found = jensen.compare([run, other])
    assert found.differences[1] is not None
    assert found.differences[1].nats < 0  # without the kind less is known
    assert math.isfinite(found.differences[1].stderr)


def test_what_a_model_has_no_use_for_is_refused():
    """A file of what is given says nothing to a model without conditions, and is not passed over in silence."""
    pictures = (np.random.default_rng(0).random((40, 1, 4, 4)) < 0.5).astype(np.uint8)
    run = jensen.train("vae", pictures, epochs=1, settings={"latents": 2})
    for given_from in (pictures, pandas.DataFrame({"a": [1.0, 2.0]})):
        with pytest.raises(ConfigError, match="given_from: vae was trained without conditions"):
            run.sample(given_from=given_from)
    table = pandas.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    run = jensen.train("vae", table, epochs=1, settings={"latents": 1})
    with pytest.raises(DataError, match="expected columns among a, b, got none of them"):
        run.sample(given_from=table.rename(columns={"a": "A", "b": "B"}))
    with pytest.raises(DataError, match="expected columns among a, b, got none of them"):
        run.sample(given_from=pictures)


def test_scores_say_what_is_given():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 200)
    x = rng.normal(size=(200, 2)) + 3 * y[:, None]
    data = jensen.load_data({"X": x, "y": y})
    plain = jensen.train("maf", data, epochs=1)
    told = jensen.train("maf", data, epochs=1, settings={"conditional": True})
    assert str(plain.score(data)).startswith("log p(x) =")
    assert str(told.score(data)).startswith("log p(x | y) =") and told.score(data).to_dict()["given"] == "y"
    mixed, alike = str(jensen.compare([plain, told], data)), str(jensen.compare([told, told], data))
    lines = mixed.splitlines()
    assert (
        sum(line.endswith(", log p(x | y)") for line in lines)
        == sum(line.endswith(", log p(x)") for line in lines)
        == 1
    )
    assert "not all are given the same" in lines[-1] and "given" not in alike


def test_nothing_and_what_was_never_seen_are_told_of():
    x = np.random.default_rng(0).normal(size=(300, 3))
    run = jensen.train("maf", pandas.DataFrame(x, columns=["a", "b", "c"]), epochs=2)
    for nothing in (math.nan, None, "nan"):
        with pytest.raises(ConfigError, match="given: a: expected a value, got"):
            run.sample(2, given={"a": nothing})
    with pytest.warns(DataWarning, match=r"given: a=100 lies \d+ deviations from the mean of training data"):
        run.sample(2, given={"a": 100.0}, say=lambda _: None)
    mixed = pandas.DataFrame({"age": np.arange(300) % 70 + 18, "word": ["a", "b", "c"] * 100})
    run = jensen.train("nade", mixed, epochs=1)
    with pytest.warns(DataWarning, match="given: age=90000 lies"):  # a count
        run.sample(2, given={"age": 90_000}, say=lambda _: None)
