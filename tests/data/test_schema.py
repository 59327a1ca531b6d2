"""A schema prepares data for a model and gives them back as they came."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jensen.data import Schema, Split, load_data
from jensen.errors import DataError

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def restored(frame: pandas.DataFrame) -> pandas.DataFrame:
    """All rows of a frame, prepared and restored, in their old order."""
    data = load_data(frame)
    parts = [data.schema.restore(data.schema.prepare(split.x)).set_axis(split.index) for split in data.splits.values()]
    return pandas.concat(parts).sort_index()


def test_a_table_comes_back_with_its_names_order_and_dtypes():
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "z": rng.integers(-1000, 1000, 50).astype("int16"),
            "a": rng.normal(size=50),
            "flag": rng.random(50) < 0.5,
            "n": pandas.array(rng.integers(0, 2**23, 50), dtype="Int64"),
            "f": rng.normal(size=50).astype("float32"),
            "ok": pandas.array(rng.random(50) < 0.5, dtype="boolean"),
        }
    )
    back = restored(frame)
    assert list(back.columns) == list(frame.columns)
    assert list(back.dtypes) == list(frame.dtypes)
    for exact in ("z", "flag", "n", "ok"):
        assert (back[exact] == frame[exact]).all()
    np.testing.assert_allclose(back["a"], frame["a"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 2, 2)])
def test_pictures_come_back_exactly(shape):
    x = np.random.default_rng(0).integers(0, 256, (7, *shape)).astype(np.uint8)
    schema = Schema.of_pictures(shape)
    prepared = schema.prepare(x)
    assert prepared.dtype == torch.float32
    assert prepared.max() > 1  # grey levels, not fractions
    np.testing.assert_array_equal(schema.restore(prepared), x)


def test_pictures_are_kept_as_bytes_and_taken_as_the_numbers_that_a_model_sees():
    x = np.random.default_rng(0).integers(0, 256, (7, 1, 4, 5)).astype(np.uint8)
    schema = Schema.of_pictures((1, 4, 5))
    kept = Split(x).to(schema)
    assert kept.x.dtype == torch.uint8
    for rows in (slice(2, 6), torch.tensor([6, 0, 3])):
        taken = kept.take(rows)["x"]
        assert taken.dtype == torch.float32
        np.testing.assert_array_equal(taken, schema.prepare(x)[rows])
    with pytest.raises(DataError, match="expected data of shape"):
        Split(x[..., :4]).to(schema)


def test_restoring_rounds_and_clips_to_what_the_dtype_holds():
    frame = pandas.DataFrame({"b": np.array([1, 200, 7, 9], dtype="uint8")})
    schema = load_data(frame).schema
    extreme = schema.restore(torch.tensor([[-1e9], [1e9]]))["b"]
    assert extreme.tolist() == [0, 255]
    big = Schema.of_table(np.array([[0.0], [1.0]]), ["i"], ["real"], ["int64"], container="pandas")
    assert big.restore(torch.tensor([[3e38]]))["i"][0] > 2**62


def test_restoring_a_nan_into_integers_names_the_column():
    schema = Schema.of_table(np.array([[0.0], [1.0]]), ["age"], ["real"], ["int64"])
    with pytest.raises(DataError, match=r"'age'.*NaN"):
        schema.restore(torch.tensor([[float("nan")]]))


@given(arrays(np.float64, (6, 3), elements=finite))
def test_json_is_exact(x):
    schema = Schema.of_table(x, ["a", "b", "ü"], classes=("no", "yes"))
    assert Schema.model_validate_json(schema.model_dump_json()) == schema


@given(arrays(np.float64, (6, 3), elements=finite))
def test_preparation_round_trips_in_float32(x):
    schema = Schema.of_table(x, ["a", "b", "c"])
    back = schema.restore(schema.prepare(x))
    # float32 keeps 24 bits of the distance from the centre
    scale = np.abs(x - x.mean(0)).max(0) + 1e-30
    assert (np.abs(back - x) <= 1e-6 * scale + 1e-9 * np.abs(x)).all()


def test_log_jacobian_is_that_of_the_preparation():
    x = np.random.default_rng(0).normal(size=(40, 3)) * [0.01, 1.0, 300.0]
    schema = Schema.of_table(x, ["a", "b", "c"])
    point = torch.zeros(3, dtype=torch.float64)

    def prepare(row):
        centers = torch.tensor([f.center for f in schema.fields], dtype=torch.float64)
        scales = torch.tensor([f.scale for f in schema.fields], dtype=torch.float64)
        return (row - centers) / scales

    jacobian = torch.autograd.functional.jacobian(prepare, point)
    assert schema.log_jacobian == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-12)
    # and by finite differences of `prepare` itself
    steps = np.array([0.01, 1.0, 300.0])
    slopes = (schema.prepare(steps[None]) - schema.prepare(0 * steps[None])).numpy()[0] / steps
    assert schema.log_jacobian == pytest.approx(np.log(np.abs(slopes)).sum(), abs=1e-4)


def test_density_in_the_users_units():
    """log N(x; m, s) = log N(prepared; 0, 1) + log_jacobian."""
    x = np.random.default_rng(1).normal(3, 20, size=(1000, 1))
    schema = Schema.of_table(x, ["a"])
    prepared = torch.distributions.Normal(0.0, 1.0).log_prob(schema.prepare(x)).numpy() + schema.log_jacobian
    users = torch.distributions.Normal(x.mean(), x.std()).log_prob(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(prepared, users, atol=1e-4)


@pytest.mark.parametrize("value", [0.1, 1e300, -3.0, 0.0])
def test_constant_columns_have_scale_one(value):
    schema = Schema.of_table(np.full((7, 1), value), ["c"])
    assert (schema.fields[0].center, schema.fields[0].scale) == (value, 1.0)
    assert schema.log_jacobian == 0


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_extreme_columns_are_standardised(size):
    x = np.array([[1.0], [2.0], [4.0]]) * size
    prepared = Schema.of_table(x, ["c"]).prepare(x)
    assert prepared.mean().item() == pytest.approx(0, abs=1e-6)
    assert prepared.std(correction=0).item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("schema", "kind", "measure", "levels", "shape"),
    [
        (Schema.of_pictures((1, 2, 3)), "levels", "counting", 256, (1, 2, 3)),
        (Schema.of_pictures((1, 2, 3), 2), "binary", "counting", 2, (1, 2, 3)),
        (Schema.of_table(np.zeros((2, 2)), ["a", "b"], ["binary"] * 2), "binary", "counting", None, (2,)),
        (Schema.of_table(np.zeros((2, 2)), ["a", "b"], ["count"] * 2), "count", "counting", None, (2,)),
        (Schema.of_table(np.zeros((2, 2)), ["a", "b"], ["binary", "real"]), "real", "lebesgue", None, (2,)),
    ],
)
def test_what_x_is(schema, kind, measure, levels, shape):
    assert (schema.kind, schema.measure, schema.levels, schema.event_shape) == (kind, measure, levels, shape)
    assert schema.dims == np.prod(shape)


def test_another_shape_is_refused():
    schema = Schema.of_pictures((1, 2, 3))
    with pytest.raises(DataError, match=r"expected data of shape \(N, 1, 2, 3\), got \(4, 6\)"):
        schema.prepare(np.zeros((4, 6)))
    with pytest.raises(DataError, match=r"got \(4, 6\)"):
        schema.restore(torch.zeros(4, 6))
