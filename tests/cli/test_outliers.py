"""The command that finds outliers."""

from __future__ import annotations

import json

import numpy as np
import pandas


def test_outliers_of_a_table(jensen, fails, ppca, folder):
    out = folder / "strange.csv"
    answer = jensen("outliers", ppca, "--out", out, "--columns", "--alpha", "0.2")
    assert answer.code == 0, answer
    assert "p-values from 8 data of" in answer.out and " bits, usually " in answer.out
    table = pandas.read_csv(out)
    assert list(table.columns[:7]) == ["row", "score", "p_value", "outlier", "surprise_x", "surprise_y", "surprise_n"]
    np.testing.assert_array_equal(table["outlier"], table["p_value"] <= 0.2)
    whole = folder / "strange.json"
    assert jensen("outliers", ppca, "--out", whole, "--method", "latent").code == 0
    assert set(json.loads(whole.read_text())[0]) == {"row", "score", "p_value", "outlier"}
    found = json.loads(jensen("outliers", ppca, "--ensemble", ppca, "--json").out)
    assert found["method"] == "ensemble" and found["calibration"]["n"] == 8 and found["n"] == len(table)
    warned = jensen("outliers", ppca, "--alpha", "0.01")
    assert "none is an outlier at 0.01" in warned.err
    fails(jensen("outliers", ppca, "--method", "latnt"), 2, "--method", "did you mean 'latent'?")
    fails(jensen("outliers", ppca, "--out", "-", "--json"), 2, "both write to stdout")


def test_outliers_of_pictures(jensen, fails, vae, autoencoder):
    found = json.loads(jensen("outliers", vae, "--json").out)
    assert found["method"] == "likelihood" and found["n"] == 6
    fails(jensen("outliers", vae, "--columns"), 2, "--columns: expected a table")
    assert json.loads(jensen("outliers", autoencoder, "--json").out)["method"] == "reconstruction"
    fails(jensen("outliers", autoencoder, "--method", "likelihood"), 4, "no likelihood")
