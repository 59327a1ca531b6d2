"""Splits are fixed by a seed, cover every row once, and keep groups and times apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from jensen.data import load_data
from jensen.data.splits import cut, cut_by_class, cut_by_group, cut_by_time
from jensen.errors import ConfigError, DataError

SHARES = (0.8, 0.1, 0.1)
DIGITS_TEST = "ff04a198fbdae4aae4a2bf540282572a4f72bc348f8274e01c069617582b0f6b"
DIGITS_ROWS = [1173, 1390, 1398, 1392, 1164]


@given(st.integers(1, 300), st.integers(0, 2**32))
def test_every_row_is_in_one_split(n, seed):
    whole = cut(n, seed, SHARES)
    assert sorted(np.concatenate(list(whole.values()))) == list(range(n))
    assert list(whole) == (["train", "valid", "test"] if n >= 3 else ["train"])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 99))
def test_no_group_straddles(groups, seed):
    codes = pandas.factorize(np.array(groups))[0]
    whole = cut_by_group(codes, seed, SHARES)
    assert sorted(np.concatenate(list(whole.values()))) == list(range(len(groups)))
    held = [set(codes[rows]) for rows in whole.values()]
    assert sum(map(len, held)) == len(set.union(*held))


def test_the_oldest_rows_are_trained_on():
    times = np.random.default_rng(0).permutation(50)
    whole = cut_by_time(times, SHARES)
    assert times[whole["train"]].max() < times[whole["valid"]].min()
    assert times[whole["valid"]].max() < times[whole["test"]].min()


def test_classes_are_cut_alike():
    y = np.repeat([0, 1, 2], [100, 50, 10])
    whole = cut_by_class(y, 0, SHARES)
    assert [np.bincount(y[rows]).tolist() for rows in whole.values()] == [[80, 40, 8], [10, 5, 1], [10, 5, 1]]


def write_picture(path: Path, i: int) -> None:
    Image.fromarray(np.full((4, 4), i, np.uint8)).save(path.with_suffix(".png"))


def write_text(path: Path, i: int) -> None:
    path.with_suffix(".txt").write_text(f"text {i}")


def write_sound(path: Path, i: int) -> None:
    """Of two clips, which stay together."""
    soundfile.write(path.with_suffix(".wav"), np.sin(np.arange(200) * (0.1 + 0.01 * i)), 8000)


@pytest.mark.parametrize("write", [write_picture, write_text, write_sound], ids=lambda f: f.__name__[6:])
@pytest.mark.parametrize("rule", [1, 2])
def test_a_folder_of_classes_is_cut_class_by_class(tmp_path, write, rule):
    """Eight, one and one tenth of each. By the rule of older runs it was so of all together."""
    sizes = {"cat": 100, "dog": 50, "owl": 10}
    for label, n in sizes.items():
        (tmp_path / label).mkdir()
        for i in range(n):
            write(tmp_path / label / f"{i:03}", i)
    options = {"text": {"lines": True}} if write is write_text else {"length": 100} if write is write_sound else {}
    data = load_data(tmp_path, rule=rule, **options)
    clips = 2 if write is write_sound else 1
    found = [(np.bincount(split.y, minlength=3) / clips).tolist() for split in data.splits.values()]
    assert data.schema.classes == ("cat", "dog", "owl")
    assert (found == [[80, 40, 8], [10, 5, 1], [10, 5, 1]]) == (rule == 2)
    assert np.sum(found, 0).tolist() == [*sizes.values()]


def test_classes_of_fewer_than_three_rows_are_cut_together():
    y = np.arange(40) // 2
    assert [len(rows) for rows in cut(40, 0, SHARES, y=y).values()] == [32, 4, 4]


def test_the_split_of_digits_never_changes():
    data = load_data("digits")
    assert data.split("test").sha256 == DIGITS_TEST
    assert data.split("test").index[:5].tolist() == DIGITS_ROWS


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("rule", [1, 2])
def test_rows_of_numpys_own_stream_are_not_cut_by_their_values(seed, rule):
    """Rule 1 draws what `default_rng(seed)` does: the test rows are the largest tenth. Else they are as all others."""
    x = np.random.default_rng(seed).uniform(size=(2000, 1))
    data = load_data(x, seed=seed, rule=rule)
    fair = stats.ks_2samp(data.split("train").x[:, 0], data.split("test").x[:, 0]).pvalue
    assert fair < 1e-9 if rule == 1 else fair > 0.05


def test_seeds_decide():
    x = np.random.default_rng(0).normal(size=(100, 2))
    first, again, other = (load_data(x, seed=seed).split("test") for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256
    np.testing.assert_array_equal(first.x, x[first.index])


def test_hash_is_of_values_and_weights_and_not_of_labels():
    frame = pandas.DataFrame({"a": np.arange(9.0), "y": list("abcabcabc"), "w": np.arange(9)})
    plain = load_data(frame, drop=("y", "w")).split("train").sha256
    assert load_data(frame, label="y", drop="w").split("train").sha256 == plain
    assert load_data(frame, drop="y", weight="w").split("train").sha256 != plain
    zeros = [load_data(np.array([[zero], [1.0]])).split("train").sha256 for zero in (0.0, -0.0)]
    assert zeros[0] == zeros[1]


def test_group_time_weight_and_label_columns_leave_x():
    frame = pandas.DataFrame(
        {
            "a": np.arange(20.0),
            "who": np.repeat(list("vwxyz"), 4),
            "when": pandas.date_range("2024-01-01", periods=20)[::-1].astype(str),
            "w": np.arange(20),
            "y": [None, *["no", "yes"] * 9, "no"],
        }
    )
    by_group = load_data(frame, group="who", drop="when", weight="w", label="y")
    assert by_group.schema.names == ["a"]
    assert by_group.schema.classes == ("no", "yes")
    train = by_group.split("train")
    assert (train.weight == train.index).all()
    assert {-1 if i == 0 else (i + 1) % 2 for i in train.index[train.y >= 0].tolist()} <= {-1, 0, 1}
    assert all((s.y[s.index == 0] == -1).all() for s in by_group.splits.values())
    by_time = load_data(frame, time="when", drop=["who", "w", "y"])
    assert by_time.split("test").index.tolist() == [1, 0]


@pytest.mark.parametrize(("n", "names"), [(1, ["train"]), (2, ["train"]), (3, ["train", "valid", "test"])])
def test_few_rows(n, names):
    data = load_data(np.arange(float(n)).reshape(n, 1))
    assert list(data.splits) == names
    assert ("too few rows" in data.description) == (n < 3)
    with pytest.raises(DataError, match="no split 'tset'"):
        data.split("tset")


def test_other_data_of_a_trained_model_are_one_part():
    rows = np.arange(20.0).reshape(20, 1)
    others = load_data(rows, schema=load_data(rows).schema)
    with pytest.raises(DataError, match="no split 'test', these rows are one part, 'all': leave out --split, or DATA"):
        others.split("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.5, 0.5)}, "fractions: expected"),
        ({"fractions": (0.5, 0.4, 0.2)}, "fractions: expected"),
        ({"fractions": (0.0, 0.5, 0.5)}, "fractions: expected"),
        ({"seed": -1}, "seed: expected a whole number >= 0, got -1"),
        ({"group": "a", "time": "b"}, "expected group or time"),
        ({"label": "ageX"}, "label: frame has no column 'ageX'; did you mean 'age'"),
        ({"drop": "ageX"}, "drop: frame has no column 'ageX'"),
        ({"binarize": "sometimes"}, "binarize: expected none, static or dynamic, got 'sometimes'"),
        ({"binarize": "static"}, "expected grey pictures, got a table"),
        ({"kinds": {"agee": "count"}}, "kinds: frame has no column 'agee'; did you mean 'age'"),
    ],
)
def test_wrong_options_are_named(options, message):
    frame = pandas.DataFrame({"age": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 4.0]})
    with pytest.raises(ConfigError) as error:
        load_data(frame, **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("column", "option", "message"),
    [
        ([1.0, -2.0, 1.0], "weight", "weights >= 0, got -2 at row 2"),
        ([0.0, 0.0, 0.0], "weight", "only zeros"),
        (["a", None, "b"], "group", "group column 'c' is empty at row 2"),
        (["2024-01-01", None, "2024-01-02"], "time", "time column 'c' is empty at row 2"),
        (["2024-01-01", "soon", "2024-01-02"], "time", "expected dates"),
        ([0.5, 1.5, 2.0], "label", "expected classes as labels, got the real number 0.5"),
    ],
)
def test_wrong_columns_are_named(column, option, message):
    with pytest.raises(DataError) as error:
        load_data(pandas.DataFrame({"a": [1.0, 2.0, 3.0], "c": column}), **{option: "c"})
    assert message in str(error.value)
