"""Compress by the command line: there and back in other processes, and what is refused."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module", name="quantised")
def _quantised(trained, pictures):
    small = ("encoder=conv", "encoder.channels=[8]", "decoder=conv", "decoder.channels=[8]", "quantizer.codes=4")
    return trained("vqvae-compress", "vqvae", pictures, *small, "--epochs", 2, "--batch-size", 16)


def test_every_bit_comes_back_in_another_process(jensen, start, quantised, pictures, tmp_path):
    archive, back = tmp_path / "a.jz", tmp_path / "back.npz"
    answer = jensen("compress", quantised, pictures, "-o", archive)
    assert answer.code == 0 and "lossless" in answer.out and "read back" in answer.err, answer
    with start("decompress", archive, "-o", back) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    with np.load(back) as found:
        x = found["X"]
    told = json.loads(jensen("inspect", archive, "--json").out)
    original = np.load(pictures)["X"][:, None]
    assert told["n"] == len(x) == len(original) and (x == original).all()
    words = jensen("inspect", archive).out
    assert "every bit" in words and "whole" in words and "vqvae" in words


def test_codes_alone(jensen, quantised, tmp_path):
    archive = tmp_path / "a.jz"
    found = json.loads(jensen("compress", quantised, "-o", archive, "--lossy", "--json").out)
    assert found["lossless"] is False and found["bytes"] == archive.stat().st_size
    assert jensen("decompress", archive, "-o", tmp_path / "mean.npz").code == 0
    assert jensen("decompress", archive, "-o", tmp_path / "drawn.npz", "--draw").code == 0
    assert np.load(tmp_path / "mean.npz")["X"].dtype == np.float32
    assert np.load(tmp_path / "drawn.npz")["X"].dtype == np.uint8
    assert "codes alone" in jensen("inspect", archive).out


def test_what_is_refused(jensen, fails, quantised, vae, tmp_path):
    archive = tmp_path / "a.jz"
    fails(jensen("compress", vae, "-o", archive), 4, "bits-back")
    fails(jensen("compress", quantised, "-o", tmp_path), 2, "is a folder")
    assert not archive.exists()
    jensen("compress", quantised, "-o", archive)
    fails(jensen("decompress", archive, "-o", tmp_path / "x.npz", "--run", vae), 5, "other weights")
    archive.write_bytes(archive.read_bytes()[:-9])
    fails(jensen("decompress", archive, "-o", tmp_path / "x.npz", "--run", quantised), 5, "cut off or changed")
    fails(jensen("inspect", tmp_path / "b.jz"), 2, "no such file")
    (tmp_path / "c.jz").write_bytes(b"PNG")
    fails(jensen("inspect", tmp_path / "c.jz"), 5, "expected an archive")


def test_a_text_comes_back_as_it_was(jensen, tmp_path):
    path, again = tmp_path / "one.txt", tmp_path / "again.txt"
    path.write_text("to be, or not to be:\nthat is the question. " * 20)
    answer = jensen("train", "markov", path, "--out", tmp_path / "run", "--text", "length=32", "--epochs", 1)
    assert answer.code == 0, answer
    jensen("compress", tmp_path / "run", path, "-o", tmp_path / "a.jz")
    jensen("decompress", tmp_path / "a.jz", "-o", again)
    assert again.read_bytes() == path.read_bytes()
