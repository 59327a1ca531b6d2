"""Columns that a model is given: taken out of x, prepared, checked in new data, put back in their places."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch

from jensen.data import Schema, describe, load_data
from jensen.errors import ConfigError, DataError


def people(n: int = 60, seed: int = 0) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    return pandas.DataFrame(
        {
            "age": rng.integers(18, 90, n),
            "height": rng.normal(170, 10, n).astype("float32"),
            "city": rng.choice(["Oslo", "Bergen", "Bodø"], n),
            "weight": rng.normal(70, 12, n),
            "smokes": rng.random(n) < 0.3,
            "rooms": rng.integers(1, 5, n),
            "kind": rng.choice(["a", "b"], n),
        }
    )


GIVEN = ["city", "age", "smokes", "rooms"]


def test_given_columns_are_taken_out_and_prepared():
    frame = people()
    data = load_data(frame, given=GIVEN, label="kind")
    schema, train = data.schema, data.split("train")
    assert schema.names == ["height", "weight"]
    assert schema.given_names == GIVEN
    assert [field.categories for field in schema.given] == [
        ("Bergen", "Bodø", "Oslo"), None, ("False", "True"), ("1", "2", "3", "4"),
    ]  # fmt: skip
    batch = train.to(schema).take(torch.arange(5))
    rows = frame.iloc[train.index]
    age = (rows["age"] - rows["age"].mean()) / rows["age"].std(ddof=0)
    expected = np.stack(
        [
            *(rows["city"] == city for city in ("Bergen", "Bodø", "Oslo")),
            age,
            ~rows["smokes"],
            rows["smokes"],
            *(rows["rooms"] == n for n in (1, 2, 3, 4)),
        ],
        axis=1,
    ).astype(np.float32)
    assert schema.given_width == expected.shape[1] == batch["c"].shape[1]
    np.testing.assert_allclose(batch["c"].numpy(), expected[:5], atol=1e-6)
    assert "c" not in load_data(frame[["height", "weight"]]).split("train").to(schema).take(slice(3))


def test_the_schema_is_stored_and_old_ones_are_read():
    schema = load_data(people(), given=GIVEN, label="kind").schema
    assert Schema.model_validate_json(schema.model_dump_json()) == schema
    old = '{"fields": [{"name": "a", "kind": "real"}], "classes": null, "label": null}'
    assert Schema.model_validate_json(old).given == ()


def test_a_table_comes_back_with_what_was_given_in_its_place():
    frame = people()
    data = load_data(frame, given=GIVEN, label="kind")
    part = data.split("test")
    back = data.schema.restore(data.schema.prepare(part.x), part.c, part.y)
    rows = frame.iloc[part.index].reset_index(drop=True)
    assert list(back.columns) == list(frame.columns)
    assert list(back.dtypes) == list(frame.dtypes)
    exact = [*GIVEN, "kind"]
    pandas.testing.assert_frame_equal(back[exact], rows[exact])
    without = data.schema.restore(data.schema.prepare(part.x))
    assert list(without.columns) == ["height", "weight"]


def test_an_array_comes_back_as_an_array():
    rows = np.random.default_rng(0).normal(size=(30, 3))
    rows[:, 1] = np.arange(30) % 3
    data = load_data(rows, given="x1", kinds={"x1": "category"})
    assert data.schema.given[0].categories == ("0", "1", "2")
    part = data.split("test")
    back = data.schema.restore(data.schema.prepare(part.x), part.c)
    np.testing.assert_allclose(back, rows[part.index], atol=1e-6)


def test_new_data_are_fitted_by_name_or_by_position():
    frame = people()
    schema = load_data(frame, given=GIVEN, label="kind").schema
    new = people(20, seed=1)
    again = load_data(new[new.columns[::-1]], schema=schema).split("all")
    np.testing.assert_array_equal(again.c, load_data(new, schema=schema).split("all").c)
    assert (schema.table(again.x, again.c)["city"] == new["city"]).all()
    named = load_data(frame[["age", "height", "weight"]], given=["age"]).schema
    array = frame[["age", "height", "weight"]].to_numpy()
    np.testing.assert_array_equal(load_data(array, schema=named).split("all").c[:, 0], frame["age"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="city"), ["columns missing that the model is given: city"]),
        (lambda f: f.replace({"city": {"Oslo": "Osl"}}), ["'city'", "row ", "'Osl' is no category", "mean 'Oslo'"]),
        (lambda f: f.assign(age=f["age"].where(f.index != 3)), ["'age'", "row 4", "empty"]),
        (lambda f: f.assign(city=f["city"].where(f.index != 2)), ["'city'", "row 3", "empty"]),
        (lambda f: f.assign(age="old"), ["'age'", "not numeric"]),
        (lambda f: f.assign(rooms=f["rooms"] + 0.5), ["'rooms'", "real number"]),
    ],
)
def test_new_data_that_do_not_fit_are_refused_by_name(change, words):
    schema = load_data(people(), given=GIVEN, drop="kind").schema
    with pytest.raises(DataError) as caught:
        load_data(change(people(20, seed=1)), schema=schema)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"given": "citty"}, "given: frame has no column 'citty'; did you mean 'city'?"),
        ({"given": ["city", "city"]}, "'city' stands twice"),
        ({"given": "city", "label": "city"}, "named by label, too"),
        ({"given": "city", "drop": ["city"]}, "named by drop, too"),
        ({"given": "city", "kinds": {"city": "count"}}, "expected real or category"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        load_data(people().drop(columns="kind"), **options)


def test_pictures_have_no_columns_to_give():
    with pytest.raises(ConfigError, match="given: expected a table"):
        load_data(np.zeros((9, 4, 4), np.uint8), given="a")


def test_the_digest_knows_conditions_and_is_as_ever_without():
    frame = people().drop(columns=["kind", "city"])
    plain = load_data(frame[["height", "weight"]]).split("test")
    by_age = load_data(frame[["height", "weight", "age"]], given="age").split("test")
    other = load_data(frame[["height", "weight", "age"]].assign(age=lambda f: f["age"] + 1), given="age").split("test")
    np.testing.assert_array_equal(plain.x, by_age.x)
    assert len({plain.sha256, by_age.sha256, other.sha256}) == 3


def test_registered_sets_are_found_again_with_their_conditions():
    data = load_data("iris", given=["sepal_width", "target"])
    assert data.schema.label is None  # the set's own label is given instead
    assert data.recipe == ("iris", {"given": ["sepal_width", "target"]})
    again = load_data(data.recipe[0], **data.recipe[1])
    assert again.schema == data.schema
    assert again.split("test").sha256 == data.split("test").sha256
    scored = load_data("iris", schema=data.schema).split("test")
    assert scored.sha256 == data.split("test").sha256


def test_a_loaded_set_may_be_given_conditions_later():
    data = load_data(people().drop(columns="kind"), drop="city")
    later = load_data(data, given=["age"])
    assert later.schema.given_names == ["age"]
    assert set(later.schema.names) == {"height", "weight", "smokes", "rooms"}
    assert load_data(later, schema=later.schema) is later
    np.testing.assert_array_equal(later.split("test").c[:, 0], data.split("test").x[:, 0])


def test_describing_lists_what_is_given():
    report = describe(load_data(people(), given=GIVEN, label="kind"))
    assert [column["name"] for column in report["columns"]] == ["height", "weight"]
    assert [column["name"] for column in report["given"]] == GIVEN
    assert report["given"][0]["categories"] == ["Bergen", "Bodø", "Oslo"]
    assert report["given"][1]["min"] >= 18


def test_gaps_are_read_only_where_they_are_asked_for():
    frame = people()[["height", "weight"]]
    schema = load_data(frame).schema
    holes = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.2)
    with pytest.raises(DataError, match="empty cells"):
        load_data(holes, schema=schema)
    read = load_data(holes, schema=schema, gaps=True).split("all")
    np.testing.assert_array_equal(np.isnan(read.x), holes.isna())
