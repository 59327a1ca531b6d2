"""Texts with labels: folders a class, columns of a table, lists in memory."""

from __future__ import annotations

import gzip

import numpy as np
import pandas
import pytest

from jensen.data import Dataset, describe, load_data
from jensen.errors import ConfigError, DataError

TEXTS = {"en": ["the cat", "a dog", "the mat"], "nl": ["de kat", "een hond", "de mat"]}


def held(data: Dataset) -> dict[str, list[tuple[str, str | None]]]:
    """The texts of each split with the names of their labels, sorted."""
    found = {}
    for name, split in data.splits.items():
        labels = split.y if split.y is not None else [-1] * len(split)
        names = [(data.schema.classes or ())[y] if y >= 0 else None for y in labels]
        found[name] = sorted(zip([data.schema.tokens.decode(row) for row in split.x], names, strict=True))
    return found


def pairs() -> list[tuple[str, str]]:
    return [(text, label) for label, texts in TEXTS.items() for text in texts]


def all_of(data: Dataset) -> list[tuple[str, str | None]]:
    return sorted(pair for part in held(data).values() for pair in part)


def test_a_folder_has_a_class_a_folder(tmp_path):
    """Files packed or not; hidden ones, empty ones and others left out; those beside the folders have no label."""
    for label, texts in TEXTS.items():
        (tmp_path / label).mkdir()
        for i, text in enumerate(texts):
            (tmp_path / label / f"{i}.txt").write_text(text)
    (tmp_path / "en" / "packed.TXT.gz").write_bytes(gzip.compress(b"a hat"))
    (tmp_path / "en" / ".hidden.txt").write_text("no")
    (tmp_path / "nl" / "empty.txt").write_text("")
    (tmp_path / "nl" / "notes.md").write_text("no")
    (tmp_path / "beside.txt").write_text("a cat")
    data = load_data(tmp_path)
    assert data.schema.classes == ("en", "nl") and data.schema.label is None
    assert all_of(data) == sorted([*pairs(), ("a hat", "en"), ("a cat", None)], key=lambda pair: pair[0])
    assert "1 empty files were left out" in data.description
    assert describe(data)["splits"]["train"]["labels"]["en"] == (data.split("train").y == 0).sum()


def test_a_folder_of_splits_has_a_class_a_folder_in_each(tmp_path):
    for split in ("train", "valid", "test"):
        for label in TEXTS:
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "all.txt").write_text("\n".join(f"{t} {split}" for t in TEXTS[label]) + "\n")
    data = load_data(tmp_path, text={"lines": True})
    for split, found in held(data).items():
        assert found == sorted((f"{text} {split}", label) for text, label in pairs())


def test_windows_have_the_label_of_their_text(tmp_path):
    for label, text in (("a", "a" * 25), ("b", "b" * 31)):
        (tmp_path / label).mkdir()
        for i in range(10):
            (tmp_path / label / f"{i}.txt").write_text(text)
    data = load_data(tmp_path, text={"length": 8})
    for split in data.splits.values():
        assert split.y is not None and split.starts is not None
        assert (split.x[:, 0] == split.y).all()  # windows begin with a, token 0, or b, token 1
        assert (np.diff(split.y)[~split.starts[1:]] == 0).all()
    assert sum(len(split) for split in data.splits.values()) == 10 * (4 + 4)


@pytest.mark.parametrize("kind", ["csv", "pandas", "polars", "parquet"])
def test_a_column_of_a_table_holds_texts_and_another_labels(tmp_path, kind):
    """A cell is a datum, whatever stands in it; one without a text is left out, one without a label has none."""
    texts = [*(text for text, _ in pairs()), "two\nlines, and a comma", None, "a rat"]
    labels = [*(label for _, label in pairs()), "en", "en", None]
    frame = pandas.DataFrame({"id": range(len(texts)), "language": labels, "said": texts})
    options = {"text": {"column": "said"}, "label": "language"}
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    made = {"csv": lambda: tmp_path / "a.csv", "parquet": lambda: tmp_path / "a.parquet", "pandas": lambda: frame}
    made["polars"] = lambda: pytest.importorskip("polars").from_pandas(frame)
    data = load_data(made[kind](), **options)
    expected = [*pairs(), ("two\nlines, and a comma", "en"), ("a rat", None)]
    assert all_of(data) == sorted(expected, key=lambda pair: pair[0])
    assert "1 rows without a text were left out" in data.description
    assert data.schema.names == ["said"] and data.schema.label == "language" and data.schema.tokens.lines
    again = load_data(made[kind](), schema=data.schema)  # a trained model knows its columns
    assert held(again) == {"all": sorted(expected, key=lambda pair: pair[0])}
    unlabelled = load_data(frame[["said"]], schema=data.schema)
    assert unlabelled.split("all").y is None


def test_texts_in_memory_with_labels():
    texts, labels = map(list, zip(*pairs(), strict=True))
    data = load_data({"X": texts, "y": labels})
    assert all_of(data) == sorted(pairs())
    parts = {"train": texts, "train_labels": labels, "test": texts[:2], "test_labels": ["nl", "xx"]}
    data = load_data(parts, text={"lines": True}, fractions=(1, 0, 0))
    assert data.schema.classes == ("en", "nl", "xx")
    assert held(data)["test"] == [("a dog", "xx"), ("the cat", "nl")]
    fewer = load_data({"test": texts[:2], "test_labels": ["nl", "zz"]}, schema=data.schema)
    assert fewer.split("test").y.tolist() == [1, -1]  # a class that the model does not know
    with pytest.raises(DataError, match="expected 6 labels, one for each text, got 2"):
        load_data({"X": texts, "y": labels[:2]})
    with pytest.raises(ConfigError, match="got 'labels' beside them"):
        load_data({"train": texts, "labels": labels})
    with pytest.raises(ConfigError, match="test: expected a list of texts as in the others"):
        load_data({"train": texts, "test": np.zeros((2, 3))})


def test_numbers_are_labels_too():
    data = load_data({"X": ["a", "b", "a b", "b a"] * 5, "y": [10, 9, 10, 2] * 5})
    assert data.schema.classes == ("2", "9", "10")


def test_errors_name_the_file_the_column_and_the_row(tmp_path):
    (tmp_path / "a.csv").write_text('n,said\n1,"the\ncat"\n2,3\n')
    for options, message in (
        ({"text": {"column": "say"}}, r"text: column: .*a\.csv has no column 'say'; choose from n, said"),
        ({"text": {"column": "said"}, "label": "m"}, r"label: .*a\.csv has no column 'm'"),
        ({"text": {"tokens": "words"}}, r"expected a text, .*column=NAME"),
        ({"text": {"column": "said"}, "group": "n"}, "group: not taken where a column, 'said', holds the texts"),
        ({"text": {"column": 3}}, "text: column: expected a name, got 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_data(tmp_path / "a.csv", **options)
    with pytest.raises(DataError, match=r"a\.csv: column 'n', row 1 \(line 3\): expected a text, got 1"):
        load_data(tmp_path / "a.csv", text={"column": "n"})
    with pytest.raises(ConfigError, match="column: expected a table with columns, got texts"):
        load_data(["a", "b"], text={"column": "said"})
    schema = load_data(pandas.DataFrame({"said": ["abc"] * 10}), text={"column": "said"}).schema
    with pytest.raises(DataError, match=r"column 'said', row 2, line 1, column 2: the character 'x'"):
        load_data(pandas.DataFrame({"said": ["abc", "axc"]}), schema=schema)
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "folder" / "a" / "1.txt").write_text("abc\nabd\n")
    with pytest.raises(DataError, match=r"a/1\.txt, line 2, column 3: the character 'd'"):
        load_data(tmp_path / "folder", schema=load_data(["abc\n" * 9], text={"length": 3}).schema)


def test_a_misspelt_option_of_a_table_is_told_by_its_name(tmp_path):
    """As of a text; and not that the table is none."""
    pandas.DataFrame({"review": ["good", "bad", "so so"], "stars": [3, 1, 2]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ConfigError, match="text: 'colum' is no option; did you mean 'column'"):
        load_data(tmp_path / "t.csv", text={"colum": "review"})
