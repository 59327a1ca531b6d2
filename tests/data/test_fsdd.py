"""Spoken digits, against the numbers of the file they came from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jensen.data import Dataset, describe, load_data

PARTS = {"train": (5, 9), "test": (0, 4)}
"""Takes of each speaker and digit, the first and the last."""


@pytest.fixture(scope="module")
def file(jensen_data) -> dict[str, np.ndarray]:
    with np.load(jensen_data / "fsdd.npz") as content:
        return dict(content)


@pytest.fixture(scope="module")
def data(jensen_data) -> Dataset:
    return load_data("fsdd")


def recordings(file: dict[str, np.ndarray], part: str) -> np.ndarray:
    """Their numbers in the file, in its order."""
    first, last = PARTS[part]
    return np.flatnonzero((file["index"] >= first) & (file["index"] <= last))


def whole(file: dict[str, np.ndarray], i: int) -> np.ndarray:
    """A recording, int16."""
    return file["audio"][file["offsets"][i] : file["offsets"][i + 1]]


def clips(file: dict[str, np.ndarray], part: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Recordings cut by hand, int16 (n, T), zeros after the end of each; and of which recording each clip is, (n,)."""
    rows, owners = [], []
    for i in recordings(file, part):
        x = whole(file, i)
        for start in range(0, len(x), length):
            rows.append(np.pad(x[start : start + length], (0, max(0, start + length - len(x)))))
            owners.append(i)
    return np.stack(rows), np.array(owners)


def test_digits_keep_their_names_rate_and_scale(data, file):
    field = data.schema.fields[0]
    assert data.schema.classes == tuple("0123456789")
    assert field.rate == file["sample_rate"] == 8000
    assert (data.schema.kind, data.schema.levels, field.encoding) == ("levels", 256, "mu-law")
    assert set(data.splits) == {"train", "valid", "test"}
    for split in data.splits.values():
        assert split.x.dtype == np.float32 and np.abs(split.x).max() <= 1
        assert sorted(set(split.y.tolist())) == list(range(10))


def test_a_clip_holds_nearly_all_of_the_recordings_it_is_learned_from(data, file):
    lengths = np.array([len(whole(file, i)) for i in recordings(file, "train")])
    (length,) = data.schema.event_shape
    assert length in lengths and 0.95 <= (lengths <= length).mean() < 0.96


def test_every_sample_of_the_file_is_there_and_no_recording_is_in_two_splits(data, file):
    """Rows in the order of the file, put together from splits, against recordings cut by hand; and their labels."""
    (length,) = data.schema.event_shape
    owners_of = {}
    for part, names in (("train", ("train", "valid")), ("test", ("test",))):
        rows, owners = clips(file, part, length)
        order = np.concatenate([data.splits[name].index for name in names])
        assert sorted(order.tolist()) == list(range(len(rows)))
        x = np.concatenate([data.splits[name].x for name in names])
        np.testing.assert_array_equal(x, (rows / 2**15)[order])
        labels = np.concatenate([data.splits[name].y for name in names])
        np.testing.assert_array_equal(labels, file["labels"][owners[order]])
        owners_of |= {name: set(owners[data.splits[name].index].tolist()) for name in names}
    assert max(np.bincount(owners)) > 1  # some are of several clips
    assert sum(map(len, owners_of.values())) == len(set().union(*owners_of.values())) == 600


def test_the_official_test_part_is_all_first_five_takes(data, file):
    (length,) = data.schema.event_shape
    _, owners = clips(file, "test", length)
    takes = {(file["speakers"][i], file["labels"][i], file["index"][i]) for i in owners[data.split("test").index]}
    assert takes == {(s, d, t) for s in range(6) for d in range(10) for t in range(5)}


def test_what_a_model_sees_is_the_file_up_to_the_stated_error(data, file):
    """The widest step of the μ-law ends at 1, and half of it in companded amplitude is lost there at most."""
    told, schema = describe(data)["sound"], data.schema
    bound = 1 - math.expm1((1 - 1 / 255) * math.log(256)) / 255
    assert told["error_bound"] == pytest.approx(bound, rel=1e-12)
    assert told["rate"] == 8000 and told["seconds"] == schema.event_shape[0] / 8000
    rows, _ = clips(file, "test", schema.event_shape[0])
    split, worst = data.split("test"), 0.0
    for i in (0, 57, 203, 310):
        levels = schema.prepare(split.x[i : i + 1])
        assert levels.min() >= 0 and levels.max() <= 255 and (levels == levels.round()).all()
        x = rows[split.index[i]] / 2**15
        error = np.abs(schema.restore(levels)[0] - x)
        assert error.max() <= bound
        # What is companded is within half a step of 2/255 everywhere, so that silence is nearly exact.
        companded = [np.sign(v) * np.log1p(255 * np.abs(v)) / math.log(256) for v in (schema.restore(levels)[0], x)]
        np.testing.assert_allclose(*companded, rtol=0, atol=1 / 255 + 1e-6)
        worst = max(worst, error.max())
    assert 0 < worst <= told["largest_error"] * (1 + 1e-6) <= bound
