"""The demo from end to end, and what it measures itself against."""

from __future__ import annotations

import gzip
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jensen.errors import ConfigError
from jensen.jobs import demo as module
from jensen.jobs.demo import baselines, demo, gzip_size, png_size
from jensen.jobs.run import open_run


def test_gzip_counts_packed_bits():
    x = np.random.default_rng(0).integers(0, 2, (8, 1, 10, 10), dtype=np.uint8)
    packed = bytes(int("".join(map(str, x.reshape(-1)[i : i + 8])), 2) for i in range(0, 800, 8))
    assert gzip_size(x) == len(gzip.compress(packed, 9))
    # Random bits do not compress: deflate stores them with 5 bytes more, gzip adds 10 before and 8 after.
    assert gzip_size(x) == 100 + 5 + 10 + 8


def test_png_has_one_bit_a_pixel():
    x = np.random.default_rng(0).integers(0, 2, (16, 64), dtype=np.uint8)
    # Signature 8; IHDR 25; IDAT 12 + zlib's 2 + 5 + 4 around 16 stored rows of 1 + 8 bytes; IEND 12.
    assert png_size(x) == 8 + 25 + (12 + 2 + 5 + 4 + 16 * 9) + 12


def test_baselines_are_bits_for_each_pixel():
    x = np.random.default_rng(0).integers(0, 2, (50, 1, 28, 28), dtype=np.uint8)
    found = baselines(x)
    assert found["gzip"]["bits_per_dim"] == 8 * gzip_size(x) / (50 * 784)
    assert found["png_files"]["bytes_per_picture"] == np.mean([png_size(p[0]) for p in x])
    sheet = np.concatenate([np.concatenate(list(x[i : i + 25, 0]), 1) for i in (0, 25)])
    assert found["png_sheet"]["bytes"] == png_size(sheet)
    assert 1 < found["gzip"]["bits_per_dim"] < 1.05  # random bits: nothing to gain
    assert found["png_files"]["bits_per_dim"] > found["png_sheet"]["bits_per_dim"] > 1


def test_another_run_is_left_alone(tmp_path: Path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "precious").write_text("mine")
    with pytest.raises(ConfigError, match="name another folder"):
        demo(tmp_path, seconds=1)
    assert [p.name for p in tmp_path.rglob("*")] == ["vae", "precious"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        demo(tmp_path / "file", seconds=1)


@pytest.mark.slow
def test_demo_in_a_folder_with_other_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PARTICLES", 5)
    (tmp_path / "notes.txt").write_text("mine")
    events, lines = [], []
    found = demo(tmp_path, seconds=3, listener=events.append, say=lines.append)
    assert found["kind"] == "lower_bound"
    assert found["n"] == 500
    assert found["nats"] > found["elbo"]["nats"]
    assert found["bits_per_dim"] == pytest.approx(-found["nats"] / (784 * math.log(2)))
    assert 0.3 < found["baselines"]["gzip"] < 0.4 < 1 < found["baselines"]["png_files"]
    assert events
    text = "\n".join(lines)
    assert f"{found['nats']:.2f} ± {found['stderr']:.2f}" in text
    assert (tmp_path / "report.html").resolve().as_uri() in text
    report = (tmp_path / "report.html").read_text()
    assert 'id="comparison"' in report
    assert f"{found['bits_per_dim']:.4f}" in report
    assert "second, smaller model" in report
    assert json.loads((tmp_path / "demo.json").read_text())["nats"] == found["nats"]
    assert open_run(tmp_path / "vae").spec["data"]["ref"] == "mnist-5k"
    assert np.asarray(Image.open(io.BytesIO((tmp_path / "picture.png").read_bytes()))).std() > 1

    (tmp_path / "vae" / "spec.yaml").unlink()  # as after a kill between two files
    module._make_room(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "demo.json", "map", "notes.txt", "picture.png", "report.html"
    ]  # fmt: skip
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "map" / "spec.yaml").exists()  # whole, so training replaces it
