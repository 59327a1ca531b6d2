"""Samples while training: kept by epoch, and nothing else is changed by them."""

from __future__ import annotations

import io
import itertools
import wave

import numpy as np
import pytest
from PIL import Image

import jensen
from jensen.jobs import while_training
from jensen.jobs.while_training import below

ROW = 100  # pixels, of the small pictures here


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """A note an epoch, however short."""
    monkeypatch.setattr(while_training, "SHARE", 1e9)


def strokes(n: int) -> np.ndarray:
    """Pictures (n, 1, 4, 4) of one bright row."""
    x = np.zeros((n, 1, 4, 4), np.uint8)
    x[np.arange(n), 0, np.arange(n) % 4] = 255
    return x


def sheet(folder) -> np.ndarray:
    return np.asarray(Image.open(folder / "samples.png"))


def test_pictures_stand_below_those_of_earlier_epochs(tmp_path):
    jensen.train("made", strokes(60), epochs=3, out=tmp_path / "a")
    first = sheet(tmp_path / "a")
    height = first.shape[0] // 3
    assert first.shape[0] == 3 * height
    jensen.train("made", strokes(60), epochs=5, out=tmp_path / "a", resume=True)
    more = sheet(tmp_path / "a")
    assert len(more) == 5 * height and np.array_equal(more[: len(first)], first)
    inside = more[:, while_training.MARGIN :].reshape(5, height, -1)
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(inside))


def test_only_the_last_rows_stay_where_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(while_training, "HEIGHT", 2 * ROW)
    path = tmp_path / "samples.png"
    for epoch in range(1, 6):
        path.write_bytes(below(path, epoch, strokes(10), 256))
    long = np.asarray(Image.open(path))
    monkeypatch.setattr(while_training, "HEIGHT", 10**6)
    rows = [np.asarray(Image.open(io.BytesIO(below(tmp_path / "none", e, strokes(10), 256)))) for e in (1, 2, 3, 4, 5)]
    kept = max(1, 2 * ROW // len(rows[0]))
    assert np.array_equal(long, np.concatenate(rows[-kept:]))


def test_draws_are_given_conditions_of_the_data(tmp_path):
    data = {"train": strokes(60), "train_labels": np.arange(60) % 4}
    jensen.train("made", data, settings={"conditional": True}, epochs=2, out=tmp_path / "a")
    assert (tmp_path / "a" / "samples.png").exists()


def test_clips_are_kept_by_epoch(tmp_path):
    time = np.arange(40) / 8000
    clips = tmp_path / "clips"
    clips.mkdir()
    for i in range(30):
        with wave.open(str(clips / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            tone = np.sin(2 * np.pi * (200 + 40 * i) * time)
            file.writeframes((20_000 * tone).astype("<i2").tobytes())
    jensen.train("wavenet", clips, epochs=2, out=tmp_path / "a")
    found = sorted(path.name for path in (tmp_path / "a").glob("samples*"))
    assert found == ["samples-0001.wav", "samples-0002.wav"]
    with wave.open(str(tmp_path / "a" / found[0])) as file:
        assert (file.getframerate(), file.getnframes()) == (8000, 40 * while_training.CLIPS)


def test_training_is_the_same_without_it(tmp_path):
    settings = {"seed": 3, "epochs": 2}
    noted = jensen.train("vae", strokes(60), out=tmp_path / "a", **settings)
    alone = jensen.train("vae", strokes(60), **settings)
    (a, b) = (run.model.state_dict() for run in (noted, alone))
    assert (tmp_path / "a" / "samples.png").exists() and all(a[name].equal(b[name]) for name in a)


def test_what_an_earlier_run_left_is_gone(tmp_path):
    jensen.train("made", strokes(60), epochs=2, out=tmp_path / "a")
    height = len(sheet(tmp_path / "a"))
    jensen.train("made", strokes(60), epochs=1, out=tmp_path / "b")
    assert len(sheet(tmp_path / "b")) == height // 2
