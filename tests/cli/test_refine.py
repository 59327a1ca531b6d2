"""Posteriors refined datum by datum, from the command line."""

from __future__ import annotations

import json

import numpy as np


def test_a_refined_score_says_so_and_is_higher(jensen, vae):
    plain = json.loads(jensen("score", vae, "--estimator", "elbo", "--particles", 50, "--json").out)
    found = json.loads(jensen("score", vae, "--estimator", "elbo", "--particles", 50, "--refine", 60, "--json").out)
    assert (found["estimator"], found["refine"], found["kind"]) == ("refined elbo", 60, "lower_bound")
    assert (plain["estimator"], plain["refine"]) == ("elbo", 0)
    assert found["nats"] > plain["nats"]
    assert "refined iw, 7 particles" in jensen("score", vae, "--particles", 7, "--refine", 3).out


def test_refined_codes_differ_from_the_encoders(jensen, vae, tmp_path):
    for name, more in (("plain", []), ("refined", ["--refine", 30])):
        assert jensen("encode", vae, "--out", tmp_path / f"{name}.npy", *more).code == 0
    plain, refined = (np.load(tmp_path / f"{name}.npy") for name in ("plain", "refined"))
    assert plain.shape == refined.shape
    assert np.abs(plain - refined).max() > 0.01


def test_what_cannot_be_refined_is_told(jensen, fails, vae, ppca):
    fails(jensen("score", vae, "--estimator", "prior", "--refine", 5), 2, "--refine", "makes no use")
    fails(jensen("encode", ppca, "--out", "-", "--refine", 5), 4, "exact posterior")


def test_a_helmholtz_machine_from_end_to_end(jensen, pictures, tmp_path):
    run = tmp_path / "run"
    words = ("layers=[6,3]", "--binarize", "static", "--epochs", 2, "--batch-size", 16, "--out", run)
    assert jensen("train", "helmholtz", pictures, *words).code == 0
    found = json.loads(jensen("score", run, "--particles", 20, "--json").out)
    assert (found["kind"], found["estimator"], found["measure"]) == ("lower_bound", "iw", "counting")
    assert jensen("sample", run, "-n", 4, "--out", tmp_path / "s.npz").code == 0
    assert np.load(tmp_path / "s.npz")["X"].shape == (4, 1, 6, 6)
    told = jensen("diagnose", run)
    assert told.code == 0
    assert "inference gap" in told.out
