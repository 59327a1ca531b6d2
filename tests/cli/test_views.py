"""Views and given pictures from the shell: trained, scored, enlarged from files and folders of pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

FAST = ("--epochs", 2, "--batch-size", 16)


@pytest.fixture(scope="module")
def viewed(trained, pictures):
    small = ("latents=2", "details=1", "encoder.width=8", "decoder.width=8")
    return trained("viewed", "self-vae", pictures, "view.factor=3", *small, *FAST)


@pytest.fixture(scope="module")
def given(trained, pictures):
    small = ("latents=2", "encoder.hidden=[8]", "decoder.hidden=[8]")
    return trained("given", "vae", pictures, "--given-view", "downscale,factor=3", *small, *FAST)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder of four grey pictures, 2 x 2."""
    folder = tmp_path_factory.mktemp("small")
    for i, level in enumerate((0, 80, 160, 255)):
        Image.fromarray(np.full((2, 2), level, np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", ["viewed", "given"])
def test_pictures_are_enlarged_from_a_folder(name, jensen, small, tmp_path, request):
    run = request.getfixturevalue(name)
    out = tmp_path / "large.npz"
    answer = jensen("sample", run, "--given-from", small, "-o", out)
    assert answer.code == 0, answer
    assert np.load(out)["X"].shape == (4, 1, 6, 6)
    assert jensen("sample", run, "--given-from", small / "2.png", "-o", out, "-n", 3).code == 0  # one picture
    assert np.load(out)["X"].shape == (3, 1, 6, 6)
    again = jensen("sample", run, "--given-from", small, "-o", out, "-n", 7, "--mean")
    assert again.code == 0, again
    assert np.load(out)["X"].shape == (7, 1, 6, 6)


def test_scores_and_data_tell_what_is_given(jensen, viewed, given, pictures):
    plain, conditional = (json.loads(jensen("score", run, "--particles", 5, "--json").out) for run in (viewed, given))
    assert plain["kind"] == conditional["kind"] == "lower_bound"
    assert plain["split_sha256"] != conditional["split_sha256"]
    assert "a view of the data: half side top" in jensen("data", pictures, "--given-view", "half,side=top").out
    found = json.loads(jensen("data", pictures, "--given-view", "sketch", "--json").out)["given"]
    assert found[0]["shape"] == [1, 6, 6] and found[0]["levels"] == 2


def test_data_come_back_from_what_is_named(jensen, viewed, fails, tmp_path):
    out = tmp_path / "back.npz"
    for words in (("--only", "y1"), ("--only", "u", "--draw"), ("--only", "y1,u")):
        assert jensen("reconstruct", viewed, "--limit", 3, "-o", out, *words).code == 0
        assert np.load(out)["X"].shape == (3, 1, 6, 6)
    fails(jensen("reconstruct", viewed, "--only", "y", "-o", out), 2, "did you mean 'y1'?", "it infers y1, u, z1")


def test_what_does_not_fit_is_refused(jensen, viewed, given, fails, pictures, tmp_path):
    out = ("-o", tmp_path / "o.npz")
    (tmp_path / "no.png").write_text("no picture")
    fails(jensen("sample", given, "--given-from", tmp_path / "no.png", *out), 3, "no.png: not a readable picture")
    np.savez(tmp_path / "other.npz", X=np.zeros((2, 1, 5, 5), np.uint8))
    told = "expected pictures of 1 x 2 x 2 (y1), or whole pictures of 1 x 6 x 6, got 1 x 5 x 5"
    fails(jensen("sample", viewed, "--given-from", tmp_path / "other.npz", *out), 3, told)
    assert jensen("sample", viewed, "--given-from", pictures, *out).code == 0  # viewed first
    fails(jensen("sample", given, *out), 2, "--given-from", "pictures of 1 x 2 x 2")
    fails(jensen("sample", given, "--given", "age=3", *out), 2, "no column 'age'")
    fails(
        jensen("train", "vae", pictures, "--given-view", "skech", "--out", tmp_path / "r"), 2, "did you mean 'sketch'?"
    )
    assert jensen("sample", given, "--given-from", pictures, *out).code == 0  # whole pictures are viewed first


def test_the_report_says_how_to_reproduce_it(jensen, given, viewed, tmp_path):
    for run, word in ((given, "--given-view downscale,factor=3"), (viewed, "From a view")):
        assert jensen("report", run, "-o", tmp_path / "r.html").code == 0
        assert word in (tmp_path / "r.html").read_text()
