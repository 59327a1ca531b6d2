"""Diffusion by the command line: train, score, and the ways to sample."""

import json

import numpy as np
import pytest

SMALL = ("network=mlp", "network.hidden=[16]", "steps=8")


@pytest.fixture(scope="module", name="grey")
def _grey(trained, pictures):
    return trained("diffusion", "diffusion", pictures, *SMALL, "--epochs", 2, "--batch-size", 16)


@pytest.fixture(scope="module", name="labelled")
def _labelled(trained, table):
    words = ("--label", "kind", "--epochs", 2, "--batch-size", 16)
    return trained("diffusion-table", "diffusion", table, *SMALL, "conditional=true", *words)


def drawn(jensen, run, out, *words):
    answer = jensen("sample", run, "--out", out, "-n", 5, *words)
    assert answer.code == 0, answer
    return np.load(out)["X"] if str(out).endswith("npz") else out.read_text()


def test_a_score_is_a_bound_by_one_draw_with_its_own_error(jensen, grey):
    found = json.loads(jensen("score", grey, "--json").out)
    assert (found["estimator"], found["kind"], found["particles"]) == ("elbo", "lower_bound", 1)
    assert found["stderr_mc"] > 0
    assert found["bits_per_dim"] > 0
    assert "standard error" in jensen("score", grey).out


def test_samples_follow_seeds_and_settings(jensen, grey, tmp_path):
    plain = drawn(jensen, grey, tmp_path / "a.npz")
    assert plain.shape == (5, 1, 6, 6)
    assert np.array_equal(plain, drawn(jensen, grey, tmp_path / "b.npz", "sampler=ancestral"))
    few = drawn(jensen, grey, tmp_path / "c.npz", "sampler=ddim", "steps=3")
    assert np.array_equal(few, drawn(jensen, grey, tmp_path / "d.npz", "sampler=ddim", "steps=3", "eta=0"))
    assert not np.array_equal(few, plain)
    assert not np.array_equal(few, drawn(jensen, grey, tmp_path / "e.npz", "sampler=ddim", "steps=3", "eta=1"))


def test_show_lists_the_ways_to_sample(jensen):
    found = json.loads(jensen("show", "diffusion", "--json").out)
    assert [row["setting"] for row in found["sampling"]] == ["sampler", "steps", "eta", "guidance"]
    assert "given as key=value to jensen sample" in jensen("show", "diffusion").out
    assert not json.loads(jensen("show", "ppca", "--json").out)["sampling"]


def test_conditions_guide(jensen, labelled, tmp_path):
    plain = drawn(jensen, labelled, tmp_path / "a.csv", "--given", "kind=b")
    assert plain.splitlines()[0] == "x,y,n,kind"
    assert all(line.endswith(",b") for line in plain.splitlines()[1:])
    assert plain == drawn(jensen, labelled, tmp_path / "b.csv", "--given", "kind=b", "guidance=0")
    assert plain != drawn(jensen, labelled, tmp_path / "c.csv", "--given", "kind=b", "guidance=2")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("samplr=ddim",), ("samplr", "did you mean 'sampler'")),
        (("sampler=ddpm",), ("sampler", "ancestral")),
        (("steps=9",), ("steps", "the chain has 8")),
        (("steps=1",), ("steps", ">= 2")),
        (("eta=0.5",), ("eta", "sampler=ddim")),
        (("guidance=1",), ("guidance", "no conditions")),
        (("fast",), ("fast", "key=value")),
    ],
)
def test_what_it_cannot_do_is_told(jensen, fails, grey, tmp_path, words, told):
    fails(jensen("sample", grey, "--out", tmp_path / "x.npz", *words), 2, *told)


def test_other_models_have_no_such_settings(jensen, fails, ppca, tmp_path):
    fails(jensen("sample", ppca, "--out", tmp_path / "x.csv", "sampler=ddim"), 2, "sampler", "ppca")


def test_filling_in_is_refused_with_the_reason(jensen, fails, labelled, tmp_path, table):
    holes = tmp_path / "holes.csv"
    lines = table.read_text().splitlines()
    holes.write_text("\n".join([lines[0], "," + lines[1].partition(",")[2], *lines[2:9]]) + "\n")
    fails(jensen("impute", labelled, holes, "--out", tmp_path / "x.csv"), 4, "bound")


@pytest.mark.parametrize("command", ["encode", "reconstruct", "interpolate"])
def test_noise_is_no_code(jensen, fails, grey, tmp_path, command):
    fails(jensen(command, grey, "--out", tmp_path / "x.npy"), 4, "diffusion")


def test_diagnose_and_report_do_without_a_code(jensen, grey, tmp_path):
    assert jensen("diagnose", grey).code == 0
    assert jensen("report", grey, "--out", tmp_path / "r.html").code == 0
