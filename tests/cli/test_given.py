"""Conditions and filling in from the shell."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from jensen import registry
from jensen.models.flow import flow
from jensen.transforms import Composed, Transform

NAME = "tiny-flow"


class Shear(Transform):
    """x_d = exp(s_d) z_d + Σ_{e<d} L_de x_e + B c: a lower triangular Gaussian with a mean linear in the context."""

    def __init__(self, shape: tuple[int, ...], context: int):
        super().__init__()
        self.domain_shape = self.codomain_shape = shape
        n = int(np.prod(shape))
        self.log_scale, self.lower = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(n, n))
        self.given = nn.Linear(max(1, context), n)
        nn.init.zeros_(self.given.weight)

    def _parts(self, context: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        context = torch.zeros(len(like), self.given.in_features).to(like) if context is None else context.to(like)
        return torch.eye(len(self.lower)).to(like) - self.lower.tril(-1), self.given(context)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        left, shift = self._parts(context, z.flatten(1))
        noise = z.flatten(1) * self.log_scale.exp() + shift
        return torch.linalg.solve(left, noise.T).T.reshape(z.shape), self.log_scale.sum()

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        left, shift = self._parts(context, x.flatten(1))
        z = (x.flatten(1) @ left.T - shift) * (-self.log_scale).exp()
        return z.reshape(x.shape), -self.log_scale.sum()


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    registry.names(registry.MODEL)
    known = dict(registry._components)

    @flow(NAME, paper="a test, 2024")
    def build(event: tuple[int, ...], context: int) -> Transform:
        """A shear."""
        return Composed([Shear(event, context)])

    yield
    registry._components.clear()
    registry._components.update(known)


def rows(n: int = 200, seed: int = 0) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    age, sex = rng.uniform(20, 60, n).round(1), rng.choice(["f", "m"], n)
    x = 10 * (sex == "m") + 0.2 * age + rng.normal(size=n)
    return pandas.DataFrame({"age": age, "x": x.round(3), "sex": sex, "y": (2 * x + rng.normal(size=n)).round(3)})


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    path = tmp_path_factory.mktemp("people") / "people.csv"
    rows().to_csv(path, index=False)
    return path


FAST = ("--epochs", 60, "--batch-size", 80, "--lr", 0.05)


@pytest.fixture(scope="module")
def conditional(trained, people):
    return trained("conditional", NAME, people, "--given", "age,sex", *FAST)


@pytest.fixture(scope="module")
def joint(trained, people):
    return trained("joint", NAME, people, "--drop", "sex", *FAST)


@pytest.fixture(scope="module")
def grey(trained, pictures):
    return trained("grey", NAME, pictures, *FAST)


def test_columns_are_given_at_training(jensen, conditional, people):
    record = json.loads((conditional / "schema.json").read_text())
    assert [field["name"] for field in record["given"]] == ["age", "sex"]
    found = json.loads(jensen("score", conditional, "--json").out)
    assert (found["kind"], found["dims"]) == ("exact", 2)
    assert jensen("diagnose", conditional).code in (0, 4)


def test_data_say_what_is_given(jensen, people):
    shown = jensen("data", people, "--given", "age,sex").out
    assert "given" in shown and "f, m" in shown
    assert json.loads(jensen("data", people, "--given", "sex", "--json").out)["given"][0]["categories"] == ["f", "m"]


def test_samples_under_conditions_are_whole_rows(jensen, conditional, tmp_path):
    out = tmp_path / "new.csv"
    answer = jensen("sample", conditional, "-n", 300, "--given", "age=40", "--given", "sex=m", "--out", out)
    assert answer.code == 0, answer
    drawn = pandas.read_csv(out)
    assert list(drawn.columns) == ["age", "x", "sex", "y"]
    assert (drawn["age"] == 40).all() and (drawn["sex"] == "m").all()
    assert drawn["x"].mean() == pytest.approx(18, abs=0.6)


def test_conditions_come_from_a_file(jensen, conditional, tmp_path):
    rows(7, seed=1).to_csv(tmp_path / "c.csv", index=False)
    answer = jensen("sample", conditional, "--given-from", tmp_path / "c.csv", "--out", "-")
    assert answer.code == 0, answer
    assert [line.split(",")[2] for line in answer.out.splitlines()[1:]] == rows(7, seed=1)["sex"].tolist()


def test_missing_and_wrong_conditions_are_usage_errors(jensen, conditional, joint, fails, tmp_path):
    out = ("--out", tmp_path / "new.csv")
    fails(jensen("sample", conditional, *out), 2, "p(x | c)", "expected values of age, sex", "as --given age=VALUE")
    fails(jensen("sample", conditional, "--given", "age=40", "--given", "sx=m", *out), 2, "did you mean 'sex'?")
    fails(jensen("sample", conditional, "--given", "age=40", "--given", "sex=male", *out), 2, "'male' is no category")
    fails(jensen("sample", conditional, "--given", "age", *out), 2, "expected column=value")
    fails(jensen("sample", joint, "--given", "zz=1", *out), 2, "no column 'zz'")


def test_explained_columns_can_be_held(jensen, joint, tmp_path):
    out = tmp_path / "held.csv"
    answer = jensen("sample", joint, "-n", 200, "--given", "x=15", "--out", out)
    assert answer.code == 0, answer
    assert "effective sample size" in answer.err
    drawn = pandas.read_csv(out)
    assert (drawn["x"] == 15).all()
    assert drawn["y"].mean() == pytest.approx(30, abs=0.6)


def holes() -> pandas.DataFrame:
    frame = rows(30, seed=2).astype({"y": object})
    frame.loc[[1, 4], "y"] = None
    frame.loc[[4, 7], "x"] = np.nan
    return frame


def test_a_table_is_completed_with_its_columns_in_order(jensen, joint, tmp_path):
    before = holes()
    before.to_csv(tmp_path / "holes.csv", index=False)
    out, details, cells = tmp_path / "whole.csv", tmp_path / "details.csv", tmp_path / "cells.csv"
    beside = ("--details", details, "--cells", cells)
    answer = jensen("impute", joint, tmp_path / "holes.csv", "--out", out, *beside)
    assert answer.code == 0, answer
    assert "filled in 4 values in 3 of 30 data" in answer.out
    assert "effective sample size" in answer.out
    whole, before = pandas.read_csv(out), pandas.read_csv(tmp_path / "holes.csv")
    assert list(whole.columns) == list(before.columns)
    assert not whole.isna().any().any()
    assert (whole == before).where(before.notna(), True).all().all()
    assert abs(whole.loc[1, "y"] - 2 * whole.loc[1, "x"]) < 2
    how = pandas.read_csv(details)
    assert (how["effective_sample_size"] > 10).all()
    assert how["method"].tolist().count("none") == 27
    found = pandas.read_csv(cells)
    assert list(found.columns) == ["row", "column", "value", "spread", "effective_sample_size"]
    assert list(zip(found["row"], found["column"], strict=True)) == [(2, "y"), (5, "x"), (5, "y"), (8, "x")]
    for row, column, value, spread, size in found.itertuples(index=False):
        assert whole.loc[row - 1, column] == value
        assert spread > 0
        assert size == how.loc[row - 1, "effective_sample_size"]


def test_draws_are_numbered_and_stdin_is_read(jensen, joint, tmp_path):
    text = holes().to_csv(index=False)
    out = tmp_path / "draws.parquet"
    answer = jensen("impute", joint, "-", "--out", out, "--draws", 3, "--json", stdin=text)
    assert answer.code == 0, answer
    assert json.loads(answer.out)["values_filled"] == 4
    drawn = pandas.read_parquet(out)
    assert list(drawn.columns) == [".imp", ".id", "age", "x", "sex", "y"]
    assert drawn[".imp"].value_counts().to_dict() == {0: 30, 1: 30, 2: 30, 3: 30}
    assert drawn[drawn[".imp"] == 0].isna().any().any()
    assert not drawn[drawn[".imp"] > 0].isna().any().any()
    assert (drawn[".id"].to_numpy().reshape(4, 30) == range(1, 31)).all()
    assert (np.ptp(drawn["y"].to_numpy().reshape(4, 30)[1:], axis=0) > 0).sum() == 2
    arrays = tmp_path / "draws.npz"
    numbers = holes().drop(columns="sex").to_csv(index=False)
    assert jensen("impute", joint, "-", "--out", arrays, "--draws", 2, stdin=numbers).code == 0
    assert np.load(arrays)["X"].shape == (2, 30, 3)


def test_pictures_are_completed_on_a_page(jensen, grey, tmp_path):
    fast = ("--warmup", 20, "--steps", 20)
    out = tmp_path / "page.png"
    answer = jensen("impute", grey, "--region", "bottom", "--limit", 5, "--draws", 2, "--out", out, *fast)
    assert answer.code == 0, answer
    assert "by MCMC" in answer.out
    with Image.open(out) as page:
        assert page.width / page.height == pytest.approx((5 * 7 + 1) / (4 * 7 + 1), rel=0.01)
    arrays = tmp_path / "whole.npz"
    mask = np.zeros((6, 6), bool)
    mask[2:4] = True
    np.save(tmp_path / "mask.npy", mask)
    words = ("--missing", tmp_path / "mask.npy", "--limit", 3, "--seed", 1)
    assert jensen("impute", grey, *words, "--out", arrays, *fast).code == 0
    whole = np.load(arrays)["X"]
    assert whole.shape == (3, 1, 6, 6) and whole.dtype == np.uint8


def test_what_cannot_be_filled_in_is_refused(jensen, joint, grey, ppca, vae, fails, tmp_path, table):
    out = ("--out", tmp_path / "o.npz")
    assert jensen("impute", vae, "--region", "top", "--particles", 9, *out).code == 0
    fails(jensen("impute", vae, "--region", "top", "--method", "mcmc", *out), 4, "z is hidden; use importance")
    fails(jensen("impute", grey, *out), 2, "say what is missing")
    fails(jensen("impute", grey, "--region", "tip", *out), 2, "did you mean 'top'?")
    fails(jensen("impute", joint, "--draws", 0, *out), 2, "--draws: expected >= 1")
    fails(jensen("impute", joint, "--missing", "nowhere.npy", *out), 2, "--missing: cannot read")
    fails(jensen("impute", joint, table, *out), 3, "columns missing")


@pytest.fixture(name="of_arrays")
def _of_arrays(tmp_path_factory):
    """A conditional flow of rows with two conditions: an array `given` and labels `y`, as an .npz has them."""
    import jensen as package

    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("arrays")
    given, y = rng.normal(size=(200, 1)), rng.integers(0, 2, 200)
    np.savez(folder / "data.npz", X=rng.normal(size=(200, 2)) + given + y[:, None], given=given, y=y)
    package.train("maf", folder / "data.npz", conditional=True, epochs=2, out=folder / "run")
    return folder


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_samples_of_arrays_come_with_their_conditions_and_are_read_back(jensen, of_arrays, tmp_path, suffix):
    out = tmp_path / f"drawn.{suffix}"
    answer = jensen("sample", of_arrays / "run", "-n", 6, "--given", "given0=1", "--given", "label=1", "--out", out)
    assert answer.code == 0, answer
    if suffix == "npz":
        with np.load(out) as drawn:
            assert drawn["X"].shape == (6, 2) and (drawn["given"] == 1).all() and drawn["y"].tolist() == [1] * 6
    else:
        assert pandas.read_csv(out).columns.tolist() == ["x0", "x1", "given0", "label"]
    answer = jensen("score", of_arrays / "run", out)
    assert answer.code == 0 and "log p(x | y, c) =" in answer.out, answer
    again = jensen("sample", of_arrays / "run", "--given-from", out, "--out", "-")
    assert pandas.read_csv(io.StringIO(again.out))["given0"].tolist() == [1.0] * 6


def test_conditions_of_numbers_are_read_from_an_npz(jensen, of_arrays):
    answer = jensen("sample", of_arrays / "run", "--given-from", of_arrays / "data.npz", "--out", "-")
    assert answer.code == 0, answer
    found = pandas.read_csv(io.StringIO(answer.out))
    with np.load(of_arrays / "data.npz") as data:
        np.testing.assert_allclose(found["given0"], data["given"][:, 0])
        assert found["label"].tolist() == data["y"].tolist()


def test_a_file_of_no_conditions_is_refused(jensen, of_arrays, tmp_path):
    (tmp_path / "empty.csv").write_text("given0,label\n")
    answer = jensen("sample", of_arrays / "run", "--given-from", tmp_path / "empty.csv", "--out", "-")
    assert answer.code == 3 and "empty.csv: expected at least one row, got none" in answer.err, answer
