"""The command that gives a trained model another prior."""

from __future__ import annotations

import json
import math


def test_train_prior(jensen, fails, vae, tmp_path):
    fitted = jensen(
        "train", "prior", vae, "prior=mixture", "prior.components=3", "--epochs", "2", "--out", tmp_path / "b"
    )
    assert fitted.code == 0, fitted
    assert "with the prior before: " in fitted.out
    assert math.isfinite(json.loads(jensen("score", tmp_path / "b", "--json").out)["nats"])
    assert jensen("train", "prior", vae, "--out", tmp_path / "b", "--epochs", "3", "--resume").code == 0
    fails(jensen("train", "prior", vae, "latents=9", "prior=vamp", "--out", tmp_path / "c"), 2, "only the prior")
    fails(jensen("train", "prior", vae, "prior=vmap", "--out", tmp_path / "c"), 2, "vamp")
    fails(jensen("train", "prior", tmp_path / "none", "prior=vamp", "--out", tmp_path / "c"), 2, "none")
