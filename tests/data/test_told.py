"""What a user tells of columns, by an option or in a file beside the data, and what is said of columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from jensen.data import describe, load_data
from jensen.errors import ConfigError, DataError

ROWS = ["no,1,0.2,S", "yes,2,0.4,M", "", "no,3,1.4,L", "yes,4,0.1,XL", "no,5,-3,S"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["off,age,share,size", *ROWS]) + "\n")
    return path


def beside(table: Path, text: str) -> Path:
    path = Path(f"{table}.columns.yaml")
    path.write_text(text)
    return path


def test_all_that_is_wrong_in_a_sidecar_is_told_at_once_by_line(table):
    path = beside(
        table,
        "agee: count\n"
        "share: {kind: bounded, low: 0}\n"
        "size: {kind: ordinl}\n"
        "# a remark\n"
        "off: {kind: real, foo: 3}\n"
        "age: {kind: count, categories: [1]}\n"
        "age: real\n",
    )
    with pytest.raises(ConfigError) as refusal:
        load_data(table)
    told = refusal.value.problems
    assert len(told) == 6
    for line, words in {
        1: "the data have no column 'agee'; did you mean 'age'?",
        2: "share: bounded takes both low and high",
        3: "got 'ordinl'; did you mean 'ordinal'?",
        5: "off: expected kind, low, high, categories, got foo",
        6: "age: categories go with category and ordinal, got count",
        7: "'age' stands twice",
    }.items():
        assert any(problem.startswith(f"{path}, line {line}: ") and words in problem for problem in told), words


def test_a_sidecar_takes_names_and_categories_as_they_are_written(table):
    beside(table, "off: {kind: ordinal, categories: [no, yes]}\n")
    assert load_data(table).schema.fields[0].categories == ("no", "yes")


def test_columns_that_are_left_out_may_stand_in_a_sidecar(table):
    beside(table, "off: category\nage: real\n")
    kinds = [field.kind for field in load_data(table, drop="off", label="size").schema.fields]
    assert kinds == ["real", "real"]


def test_cells_that_no_kind_can_have_are_named_by_file_line_column_and_value(table):
    beside(table, "share: {kind: bounded, low: 0, high: 1}\nsize: {kind: ordinal, categories: [S, M, L]}\n")
    with pytest.raises(DataError) as refusal:
        load_data(table)
    told = str(refusal.value)
    assert told.startswith(f"{table}: ")
    assert "column 'share', row 3 (line 5): expected a number from 0 to 1, got 1.4 (and 1 row more)" in told
    assert "column 'size', row 4 (line 6): 'XL' is no category of this column" in told


def test_an_order_of_words_is_told_and_not_guessed(table):
    with pytest.raises(ConfigError, match=r"categories: \[L, M, S, \.\.\.\]"):
        load_data(table, kinds={"size": "ordinal"})
    assert load_data(table, kinds={"age": "ordinal"}).schema.fields[1].categories == ("1", "2", "3", "4", "5")


def test_a_word_among_numbers_is_told_with_what_can_be_done():
    frame = pandas.DataFrame({"age": ["1", "2", "3", "about 4", "5", "?"]})
    with pytest.raises(DataError) as refusal:
        load_data(frame)
    for words in (
        "row 4 holds 'about 4'",
        "as 1 cell more holds no number",
        "--missing 'about 4'",
        "--kind age=category",
    ):
        assert words in str(refusal.value)


def test_columns_that_say_nothing_are_warned_of():
    n = 3000
    frame = pandas.DataFrame(
        {
            "empty": np.nan,
            "same": 7,
            "many": [f"p{k % 1400}" for k in range(n)],
            "few": [f"q{k % 30}" for k in range(n)],
        }
    )
    data = load_data(frame)
    assert [warning.split(" ", 2)[1] for warning in data.warnings] == ["'empty'", "'many'"]
    assert "1,400 different words in 3,000 cells" in data.warnings[1]
    assert all("--drop" in warning for warning in data.warnings)
    assert describe(data)["warnings"] == data.warnings
    assert data.schema.constant.tolist() == [True, True, False, False]
    assert data.schema.unknown.tolist() == [True, False, False, False]
    told = load_data(frame[:30], kinds={"many": "category"})
    assert "30 different words in 30 cells" in told.warnings[1]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["3.444,44", "1,5", "12"], "holds '3.444,44', as 1 cell more holds no number; decimals take a point"),
        (["$1,234.50", "€ 20", "1'000"], "neither units nor separators of thousands"),
        ([f"{1 + k % 28:02}.{1 + k // 28:02}.2023" for k in range(60)], "written year first, as 2024-01-31"),
    ],
)
def test_numbers_and_dates_that_are_not_written_plainly_are_told_from_words(cells, words):
    with pytest.raises(DataError, match="x") as refusal:
        load_data(pandas.DataFrame({"x": cells}))
    assert words in str(refusal.value)


def test_words_with_digits_are_words():
    cells = {"zip": ["123 45", "1.2.3"], "when": ["28.08.2023", "29.08.2023"], "size": ["5 kg", "7 kg"]}
    frame = pandas.DataFrame(cells)
    assert [field.kind for field in load_data(frame).schema.fields] == ["category"] * 3


def test_words_alike_and_rows_without_a_cell_are_told_of():
    frame = pandas.DataFrame({"x": np.arange(20.0), "word": ["No", " no", "yes", "yes  sir"] * 5})
    frame.iloc[[3, 7]] = None
    data = load_data(frame)
    assert "'word': ' no', 'No' differ in case or blanks alone" in data.warnings[0]
    assert describe(data)["empty_rows"] == [4, 8]


def test_real_numbers_that_never_vary_are_told_of():
    """Their density has no bound; a count's probability is at most 1."""
    frame = pandas.DataFrame({"x": np.arange(20.0) / 7, "same": 7.3, "word": ["a", "b"] * 10, "seven": 7})
    data = load_data(frame)
    assert [warning.split(" ", 2)[1] for warning in data.warnings] == ["'same'"]
    assert "one value" in data.warnings[0] and "--drop same" in data.warnings[0]
