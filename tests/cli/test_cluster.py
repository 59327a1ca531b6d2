"""The command that clusters."""

from __future__ import annotations

import json

import pandas as pd


def test_cluster_prints_writes_and_refuses(jensen, fails, trained, table, vae, tmp_path):
    run = trained("mixture", "mixture", table, "components=2", "covariance=diagonal", "--label", "kind")
    answer = jensen("cluster", run, "--split", "train", "--out", tmp_path / "c.csv")
    assert answer.code == 0, answer
    assert "of 2 clusters" in answer.out and "adjusted Rand index" in answer.out
    written = pd.read_csv(tmp_path / "c.csv")
    assert list(written.columns) == ["row", "cluster", "probability", "entropy", "label"]
    assert written["probability"].between(0.5, 1).all()
    answer = jensen("cluster", run, table, "--json")
    found = json.loads(answer.out)
    assert found["n"] == sum(found["sizes"]) == 80
    assert jensen("cluster", run, "--out", "-").out.startswith("row,cluster,probability,entropy,label\n")
    fails(jensen("cluster", vae), 4, "vae cannot cluster")
    fails(jensen("cluster", vae), 4, "jensen train prior RUN prior=mixture")
    fails(jensen("cluster", run, "--out", tmp_path / "c.png"), 2, "--out")
