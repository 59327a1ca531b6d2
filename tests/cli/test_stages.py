"""Models that are trained in stages: what the command line says of them."""

from __future__ import annotations

import json


def test_stages_are_named_in_progress_and_summary(jensen, monkeypatch, tmp_path):
    monkeypatch.setattr("jensen.cli.progress.EVERY_SECONDS", 0.0)
    networks = ["encoder.channels=[4]", "decoder.channels=[4]", "prior.width=4", "prior.layers=1"]
    small = ["halvings=1", "quantizer.codes=4", *networks]
    done = jensen("train", "vqvae", "digits", "--epochs", "4", "--out", tmp_path / "run", *small)
    assert done.code == 0, done
    assert "codes, epoch 1: " in done.err and "prior, epoch 2: " in done.err
    assert "4 epochs (2 of codes, 2 of prior) in " in done.out
    again = jensen("train", "--out", tmp_path / "run", "--resume", "--json")
    assert json.loads(again.out)["stages"] == {"codes": 2, "prior": 2}
    plain = jensen("train", "vae", "digits", "--epochs", "1", "--out", tmp_path / "plain", "latents=2")
    assert "vae on digits: 1 epoch in " in plain.out and "of this stage" not in plain.err
