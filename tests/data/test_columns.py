"""Columns of mixed tables: their kinds, their cells as numbers and back, gaps, and what is refused."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pandas
import pytest

import jensen
from jensen.data import describe, load_data
from jensen.data.told import described
from jensen.errors import ConfigError, DataError

N = 60


def mixed(seed: int = 0) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    return pandas.DataFrame(
        {
            "height": rng.normal(170, 10, N),
            "income": np.exp(rng.normal(10, 2, N)),
            "children": rng.integers(0, 5, N),
            "smokes": rng.random(N) < 0.3,
            "city": rng.choice(["Oslo", "Bergen", "Bodø"], N),
            "size": pandas.Categorical(rng.choice(list("SML"), N), categories=list("SML"), ordered=True),
            "colour": pandas.Categorical(rng.choice(["red", "blue"], N), categories=["red", "blue", "green"]),
            "born": pandas.to_datetime("1970-01-01") + pandas.to_timedelta(rng.integers(0, 20000, N), unit="D"),
            "seen": [f"2024-03-{1 + k % 28:02d}" for k in range(N)],
            "rooms": pandas.array([int(k) if k % 7 else None for k in range(N)], dtype="Int64"),
        }
    )


def test_kinds_are_found():
    kinds = {field.name: field.kind for field in load_data(mixed()).schema.fields}
    assert kinds == {
        "height": "real", "income": "positive", "children": "count", "smokes": "binary", "city": "category",
        "size": "ordinal", "colour": "category", "born": "time", "seen": "time", "rooms": "count",
    }  # fmt: skip


def test_truth_values_told_among_numbers_have_a_density_of_their_own():
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"x": rng.normal(size=N), "bit": rng.integers(0, 2, N), "flag": rng.random(N) < 0.5})
    kinds = {told: [field.kind for field in load_data(frame, kinds=dict([told])).schema.fields]
             for told in (("bit", "real"), ("bit", "binary"))}  # fmt: skip
    assert kinds == {("bit", "real"): ["real"] * 3, ("bit", "binary"): ["real", "binary", "binary"]}
    both = load_data(frame[["bit", "flag"]], kinds={"bit": "binary"}).schema
    assert (both.kind, both.fields[1].kind) == ("binary", "binary")


def test_shares_are_bounded_by_name_and_range():
    rng = np.random.default_rng(3)
    part, cents = rng.beta(1, 9, N), rng.uniform(0, 100, N)
    frame = pandas.DataFrame({
        "word": rng.choice(["a", "b"], N), "Click_Rate": part, "share of votes": part, "loan-ratio": part,
        "% fat": cents, "pct_black": cents, "heart_rate": cents, "debt_ratio": part * 20, "prorated": part,
        "shares": part, "prob": part - 0.01, "percent": rng.integers(0, 101, N),
    })  # fmt: skip
    data = load_data(frame)
    found = {f.name: (f.low, f.high) for f in data.schema.fields if f.kind == "bounded"}
    assert found == {
        "Click_Rate": (0, 1), "share of votes": (0, 1), "loan-ratio": (0, 1), "% fat": (0, 100), "pct_black": (0, 100)
    }  # fmt: skip
    assert described(data.schema.fields).count("kind: bounded") == 5
    assert {f.kind for f in load_data(frame.drop(columns="word")).schema.fields} == {"real"}
    corrected = load_data(frame, kinds={"Click_Rate": "real"}).schema.fields[1]
    assert (corrected.kind, corrected.low) == ("real", None)
    frame.loc[4, "% fat"] = 100.5
    with pytest.raises(DataError, match=r"'% fat', row 5: .* 0 to 100, got 100.5; .*--kind '% fat=real'"):
        load_data(frame, schema=data.schema)


def test_rows_come_back_as_they_went_in():
    """Dtypes, nullable integers, dates, categories and their order, and the order of columns."""
    frame = mixed()
    data = load_data(frame)
    schema, train = data.schema, data.split("train")
    whole = ~np.isnan(train.x).any(1)
    back = schema.restore(train.to(schema).x[whole])
    expected = frame.iloc[train.index[whole]].reset_index(drop=True)
    exact = expected.columns.drop(["height", "income", "seen"])
    pandas.testing.assert_frame_equal(back[exact], expected[exact])
    assert back["seen"].tolist() == expected["seen"].tolist()
    np.testing.assert_allclose(back[["height", "income"]], expected[["height", "income"]], rtol=1e-6)
    assert list(back.columns) == list(frame.columns)
    assert (back.dtypes == frame.dtypes).all()


def test_a_density_in_the_users_units_is_that_of_prepared_ones_and_the_jacobian():
    schema = load_data(mixed()).schema
    x = schema.in_units(np.zeros(schema.dims))
    moved = x + np.array([1.0 if field.continuous else 0.0 for field in schema.fields])
    slope = (schema.prepare(moved[None]) - schema.prepare(x[None])).double().numpy()[0]
    continuous = [field.continuous for field in schema.fields]
    assert schema.log_jacobian == pytest.approx(np.log(slope[continuous]).sum(), rel=1e-5)
    assert schema.measure == "mixed"


def test_scalers_see_training_cells_that_are_there_and_no_others():
    frame = mixed().assign(height=lambda f: f["height"].mask(np.arange(N) % 3 == 0))
    data = load_data(frame)
    rows = frame["height"].iloc[data.split("train").index].dropna()
    field = data.schema.fields[0]
    assert (field.center, field.scale) == pytest.approx((rows.mean(), rows.std(ddof=0)))
    assert [f.name for f in data.schema.fields if f.gaps] == ["height", "rooms"]
    batch = data.split("valid").to(data.schema).take(slice(None))
    assert batch["x"].isfinite().all()
    assert (~batch["seen"][:, 0]).sum() == frame["height"].iloc[data.split("valid").index].isna().sum()


def test_kinds_are_told_by_option_and_beside_a_file(tmp_path):
    frame = mixed()[["height", "children", "city"]]
    bounded = {"kind": "bounded", "low": 0, "high": 10}
    told = {"children": bounded, "city": {"kind": "ordinal", "categories": ["Bodø", "Bergen", "Oslo"]}}
    fields = load_data(frame, kinds=told).schema.fields
    assert [field.kind for field in fields] == ["real", "bounded", "ordinal"]
    assert fields[2].categories == ("Bodø", "Bergen", "Oslo")
    assert (fields[1].center, fields[1].scale) == (0, 10)
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.csv.columns.yaml").write_text("children: real\n")
    assert [field.kind for field in load_data(tmp_path / "t.csv").schema.fields] == ["real", "real", "category"]
    again = load_data(tmp_path / "t.csv", kinds={"children": "count"}).schema.fields
    assert [field.kind for field in again] == ["real", "count", "category"]
    (tmp_path / "t.csv.columns.yaml").write_text("- children\n")
    with pytest.raises(DataError, match=r"t\.csv\.columns\.yaml: expected columns with their kinds"):
        load_data(tmp_path / "t.csv")


def test_a_table_of_numbers_is_of_one_kind():
    numbers = mixed()[["height", "income", "children"]]
    assert load_data(numbers).schema.kind == "real"
    holes = numbers.mask(np.random.default_rng(1).random(numbers.shape) < 0.2)
    data = load_data(holes)
    assert (data.schema.kind, data.schema.gaps) == ("real", True)
    assert describe(data)["gaps"] == int(holes.iloc[data.split("train").index].isna().to_numpy().sum())


@pytest.mark.parametrize(
    ("change", "kinds", "error", "words"),
    [
        ({"who": [f"person {k}" for k in range(N)]}, {}, DataError, ["'who'", "60 different words", "--drop who"]),
        ({}, {"hight": "real"}, ConfigError, ["'hight'", "did you mean 'height'"]),
        ({}, {"height": "tall"}, ConfigError, ["height", "'tall'", "real, positive"]),
        ({}, {"height": {"kind": "bounded", "low": 0}}, ConfigError, ["height", "takes both"]),
        ({}, {"height": {"kind": "bounded", "low": 0, "high": 1}}, DataError, ["'height'", "from 0 to 1"]),
        ({}, {"height": "count"}, DataError, ["'height'", "a count"]),
        ({"debt": np.arange(N) - 1.5}, {"debt": "positive"}, DataError, ["'debt', row 1", "above 0", "-1.5"]),
        ({}, {"height": "category"}, DataError, ["'height'", "expected categories", "real number"]),
        ({"day": ["2024-01-01"] * 59 + ["soon"]}, {"day": "time"}, DataError, ["'day'", "expected dates"]),
        ({"height": [np.inf] * N}, {}, DataError, ["'height'", "infinite"]),
        ({"tags": [[k] for k in range(N)]}, {}, DataError, ["'tags'", "a word or a date a cell, got a list"]),
        ({"tags": [{"a": 1}] * N}, {}, DataError, ["'tags'", "got a dict"]),
        ({"tags": np.arange(N) + 1j}, {}, DataError, ["'tags'", "got a complex"]),
    ],
)
def test_what_is_refused_names_the_offender(change, kinds, error, words):
    with pytest.raises(error) as refusal:
        load_data(mixed().assign(**change), kinds=kinds)
    for word in words:
        assert word in str(refusal.value)


def test_new_rows_fit_or_name_what_does_not():
    frame = mixed()
    schema = load_data(frame).schema
    new = frame.iloc[:3].copy()
    new.loc[0, "city"] = "Bergn"
    with pytest.raises(DataError, match=r"'city', row 1: 'Bergn' is no category .*did you mean 'Bergen'"):
        load_data(new, schema=schema)
    new.loc[0, "city"] = None
    assert np.isnan(load_data(new[frame.columns[::-1]], schema=schema).split("all").x[0, 4])
    with pytest.raises(DataError, match="columns missing that the model was trained on: born"):
        load_data(new.drop(columns="born"), schema=schema)


def test_what_is_odd_but_real():
    """A column that is empty, rows that are, one value throughout, one row, a thousand names."""
    frame = mixed().drop(columns="smokes").assign(empty=np.nan, same="a")
    frame = frame.mask(np.repeat(np.arange(N)[:, None] == 3, frame.shape[1], 1))
    data = load_data(frame)
    kinds = {field.name: field for field in data.schema.fields}
    assert kinds["empty"].kind == "real"
    assert kinds["empty"].gaps
    assert kinds["same"].categories == ("a",)
    assert describe(data)["constant"] == ["empty", "same"]
    big = pandas.DataFrame({"n": [f"n{k % 1000}" for k in range(3000)], "x": np.arange(3000.0)})
    assert load_data(big).schema.fields[0].categories == tuple(sorted({f"n{k}" for k in range(1000)}))
    with pytest.raises(DataError, match="columns missing that the model was trained on: n"):
        load_data(frame.iloc[:1], schema=load_data(big).schema)


def test_zones_of_time_come_back():
    when = pandas.date_range("2024-03-30 12:00", periods=N, freq="7h", tz="Europe/Oslo")
    frame = pandas.DataFrame({"when": when, "x": np.arange(N, dtype=float)})
    data = load_data(frame)
    back = data.schema.restore(data.split("train").to(data.schema).x.double())
    assert back["when"].dtype == frame["when"].dtype
    difference = (back["when"] - frame["when"].iloc[data.split("train").index].reset_index(drop=True)).abs()
    assert difference.max() < pandas.Timedelta("1s")


def test_gaps_of_a_csv_keep_truth_values_and_whole_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("bit,whole,word\n" + "True,1,a\nFalse,,b\n,3,a\n" * 10)
    data = load_data(path, fractions=(1.0, 0.0, 0.0))
    schema, x = data.schema, data.split("train").x[np.argsort(data.split("train").index)]
    assert [field.kind for field in schema.fields] == ["binary", "count", "category"]
    back = schema.table(x)
    assert [str(dtype) for dtype in back.dtypes[:2]] == ["boolean", "Int64"]  # pyright: ignore
    assert back.iloc[:3, :2].isna().to_numpy().tolist() == [[False, False], [False, True], [True, False]]  # pyright: ignore
    one = load_data(pandas.DataFrame({"bit": ["true"], "whole": [2], "word": ["b"]}), schema=schema).split("all").x
    assert one.tolist() == [[1.0, 2.0, 1.0]]
    with pytest.raises(ConfigError, match="put them in quotes"):
        load_data(path, kinds={"word": {"kind": "ordinal", "categories": [False, True]}})


@pytest.mark.parametrize(
    "categories",
    [
        pandas.Index([1, 2]),
        pandas.Index([0.0, 5.0]),
        pandas.Index([False, True]),
        pandas.to_datetime(["2020-01-01", "2021-05-06"]),
        pandas.to_datetime(["2020-01-01", "2021-05-06"]).tz_localize("Europe/Oslo"),
        pandas.interval_range(0, 2),
    ],
    ids=["whole", "real", "truth", "dates", "dates with a zone", "intervals"],
)
@pytest.mark.parametrize("ordered", [False, True])
def test_categories_that_are_no_words_come_back_as_they_are(categories, ordered):
    codes = np.arange(60) % 3 - 1  # -1 is a gap
    own = pandas.Series(pandas.Categorical.from_codes(codes, categories=categories, ordered=ordered))
    frame = pandas.DataFrame({"x": np.random.default_rng(0).normal(size=60), "c": own})
    run = jensen.train("nade", frame, epochs=1)
    whole = run.impute(frame, particles=5).completed()["c"]
    assert whole.dtype == own.dtype and not whole.isna().any()
    assert (whole[codes >= 0] == own[codes >= 0]).all()
    made = run.sample(20)["c"]
    if isinstance(categories, pandas.IntervalIndex):  # which stay words
        assert set(made) <= {*map(str, categories)}
    else:
        assert pandas.CategoricalDtype(categories, ordered) == made.dtype and not made.isna().any()


def test_decimals_are_numbers():
    frame = pandas.DataFrame({"cost": [Decimal("2.75"), Decimal("3.50"), None] * 10, "word": ["a", "b", "a"] * 10})
    data = load_data(frame, fractions=(1.0, 0.0, 0.0))
    assert np.nanmean(data.split("train").x[:, 0]) == pytest.approx(3.125)


def test_whole_numbers_that_a_gap_would_round_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{2**60 + k},0.{k},a" for k in range(50)]
    path.write_text("\n".join(["id,x,w", *rows, ",0.5,b"]))
    with pytest.raises(DataError, match=r"'id', row 2: 1152921504606846977 is too large to be exact; .*--drop id"):
        load_data(path)
    path.write_text("\n".join(["mass,x,w", *[f"{k}e24,0.{k},a" for k in range(50)], ",0.5,b"]))
    assert load_data(path).schema.fields[0].name == "mass"


@pytest.mark.parametrize("words", [False, True])
def test_objects_that_a_gap_made_come_back_as_what_they_are(words):
    """Truth values, whole numbers and days in object columns, as `pandas.read_csv` and Parquet give them."""
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=k) for k in range(N)]
    frame = pandas.DataFrame(
        {
            "x": np.random.default_rng(0).normal(size=N),
            "bit": np.array([True, False, None] * 20, dtype=object),
            "n": np.array([3, None, 5] * 20, dtype=object),
            **({"day": [None, *days[1:]], "word": ["a", "b", "a"] * 20} if words else {}),
        }
    )
    run = jensen.train("nade", frame, epochs=1)
    made, whole = run.sample(20), run.impute(frame, particles=5).completed()
    assert (made.dtypes[["bit", "n"]].astype(str) == ["boolean", "Int64"]).all() and not whole.isna().any().any()
    assert {*map(type, whole["bit"].tolist())} == {bool} and {*map(type, whole["n"].tolist())} == {int}
    if words:
        assert {*map(type, whole["day"])} == {*map(type, made["day"])} == {datetime.date}
        assert whole["day"][1:].tolist() == days[1:]


@pytest.mark.parametrize(
    ("format", "zone"),
    [
        ("%Y-%m-%d", ""),
        ("%Y-%m-%d %H:%M", ""),
        ("%Y-%m-%dT%H:%M:%S", "+02:00"),
        ("%Y-%m-%dT%H:%M:%S", "-0530"),
        ("%Y-%m-%dT%H:%M:%S", "+02"),
        ("%Y-%m-%dT%H:%M:%S", "Z"),
        ("%Y-%m-%d %H:%M:%S.%f", ""),
        ("%Y-%m-%d %H:%M:%S.25", ""),
    ],
)
def test_dates_as_text_come_back_as_they_were_written(format, zone):
    times = pandas.Timestamp("2020-02-27 23:59:58.25") + pandas.to_timedelta(np.arange(N) * 1001, unit="min")
    texts = pandas.Series(times.strftime(format) + zone).where(np.arange(N) % 5 > 0)
    frame = pandas.DataFrame({"when": texts, "x": np.arange(N) / 7})
    data = load_data(frame, fractions=(1.0, 0.0, 0.0))
    rows = data.split("train")
    back = data.schema.table(rows.x)["when"]  # pyright: ignore
    assert back.fillna("").tolist() == texts.iloc[rows.index].fillna("").tolist()
    filled = jensen.train("nade", frame, epochs=1).impute(frame, particles=5).completed()["when"]
    assert filled.notna().all() and {*map(len, filled)} == {len(texts[1])}
    assert all(text.endswith(zone) and pandas.Timestamp(text).year > 1900 for text in filled)


def test_dates_as_text_in_several_zones_are_filled_in_in_utc():
    texts = [f"2020-03-{1 + k % 28:02d}T10:00:00+0{1 + k % 2}:00" if k % 5 else None for k in range(N)]
    frame = pandas.DataFrame({"when": texts, "x": np.arange(N) / 7})
    filled = jensen.train("nade", frame, epochs=1).impute(frame, particles=5).completed()["when"]
    assert all(text == texts[k] if texts[k] else text.endswith("Z") for k, text in enumerate(filled))


@pytest.mark.parametrize("words", [True, False])
def test_durations_and_periods_come_back(tmp_path, words):
    """In whole seconds, as all of them are; as text of a file they fit a model of durations."""
    lasted = pandas.Series(pandas.to_timedelta(np.arange(N) * 61 - 300, unit="s")).where(np.arange(N) % 5 > 0)
    frame = pandas.DataFrame({"lasted": lasted, "x": np.random.default_rng(0).normal(size=N)})
    if words:
        frame["month"] = pandas.Series(pandas.period_range("2020-01", periods=N, freq="M")).where(np.arange(N) % 7 > 0)
    run = jensen.train("vae", frame, epochs=1)
    made, whole = run.sample(20), run.impute(frame, particles=5).completed()
    assert (made.dtypes == whole.dtypes).all() and whole.dtypes["lasted"].kind == "m" and whole.notna().all().all()
    for column in frame.columns:
        there = frame[column].notna()
        assert (whole[column][there] == frame[column][there]).all()
    assert (made["lasted"].dt.total_seconds() % 1 == 0).all()
    if words:
        assert made["month"].dtype == whole["month"].dtype == frame["month"].dtype == "period[M]"
        assert {str(field.kind) for field in run.schema.fields} == {"real", "time"}
    frame.to_csv(tmp_path / "rows.csv", index=False)
    again = run.score(tmp_path / "rows.csv", particles=1).nats
    np.testing.assert_allclose(again, run.score(frame, particles=1).nats)
    bad = frame.astype({"lasted": str}).replace({"lasted": {str(lasted[1]): "a while"}})
    with pytest.raises(DataError, match="column 'lasted': expected durations"):
        run.score(bad)
