"""Data in memory whose splits are the user's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import polars
import pytest
import torch

from jensen.data import load_data
from jensen.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
X, MORE = RNG.normal(size=(30, 3)), RNG.normal(size=(10, 3))
COLUMNS = {"age": [31, 45, 28, 60] * 5, "word": ["a", "b", "a", None] * 5}
FRAME = pandas.DataFrame(COLUMNS)


def sizes(data: Any) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


def test_arrays_are_named_as_in_an_npz(tmp_path):
    arrays = {"train": X, "train_labels": np.arange(30) % 2, "test": MORE, "test_labels": np.arange(10) % 2}
    np.savez(tmp_path / "a.npz", **arrays)
    memory, file = load_data(arrays), load_data(tmp_path / "a.npz")
    assert sizes(memory) == {"train": 27, "valid": 3, "test": 10}
    for name in memory.splits:
        assert memory.split(name).sha256 == file.split(name).sha256
        assert np.array_equal(memory.split(name).y, file.split(name).y)


def test_tensors_and_pictures():
    grey = torch.randint(0, 256, (12, 8, 8))
    data = load_data({"train": grey[:8], "valid": grey[8:].tolist()})
    assert sizes(data) == {"train": 8, "valid": 4}
    assert np.array_equal(data.split("valid").x[:, 0], grey[8:].numpy())


@pytest.mark.parametrize("make", [pandas.DataFrame, polars.DataFrame], ids=["pandas", "polars"])
def test_a_frame_a_split(make):
    data = load_data({"train": make(COLUMNS), "test": make({k: COLUMNS[k][:6] for k in reversed(COLUMNS)})})
    assert sizes(data) == {"train": 18, "valid": 2, "test": 6}
    assert [field.name for field in data.schema.fields] == ["age", "word"]
    whole = load_data(make(COLUMNS), schema=data.schema).split("all")
    assert np.array_equal(data.split("test").x, whole.x[:6], equal_nan=True)


def test_texts_of_each_split():
    data = load_data({"train": ["to be", "or not"] * 4, "test": ["to be"]}, text={"tokens": "characters"})
    assert sizes(data) == {"train": 7, "valid": 1, "test": 1}
    assert data.split("test").x[0].tolist() in data.split("train").x.tolist()


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"trian": FRAME, "test": FRAME}, ConfigError, "frames for train, valid, test and nothing else, got 'trian'"),
        ({"train": FRAME, "test": X}, ConfigError, "nothing else, got 'test'"),
        ({"train": FRAME, "test": ["a"]}, ConfigError, "nothing else, got 'test'"),
        ({"train": FRAME, "test": FRAME[["age"]]}, DataError, "test: expected the columns of train, differs in 'word'"),
        ({"trian": X}, DataError, "expected an array named train or X .* got trian"),
        ({}, DataError, "expected an array named train or X .* got none"),
        ({"train": X, "tset": MORE}, ConfigError, r"named train, train_labels, .* got 'tset'; did you mean 'test'\?"),
        ({"X": X, "lables": X[:, 0]}, ConfigError, r"got 'lables'; did you mean 'labels'\?"),
        ({"train": X, "y": X[:, 0]}, ConfigError, "got 'y' alone"),
        ({"train": X, "train_labels": np.arange(9), "test": MORE}, DataError, "arrays: train: expected 30 labels"),
    ],
)
def test_what_does_not_go_together(given, error, match):
    with pytest.raises(error, match=match):
        load_data(given)
