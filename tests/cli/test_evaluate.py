"""The commands that try a model beside simple methods."""

from __future__ import annotations

import json

import pandas as pd


def test_imputation(jensen, fails, table, tmp_path):
    words = ("evaluate", "imputation", table, "--label", "kind", "--masks", 2, "--rate", 0.3)
    answer = jensen(*words, "--baselines", "mean,iterative ridge")
    assert answer.code == 0, answer
    assert "30% of the cells hidden completely at random, protocol 'paper', seeds 0 to 1" in answer.out
    assert "iterative ridge" in answer.out and "±" in answer.out and "neighbours" not in answer.out
    out = tmp_path / "numbers.csv"
    found = json.loads(jensen(*words, "--json", "--out", out, "--baselines", "mean").out)
    assert found["rate"] == 0.3 and found["mechanism"] == "mcar" and found["seeds"] == [0, 1]
    numbers = pd.read_csv(out)
    mse = numbers[(numbers.method == "mean") & (numbers.metric == "mse")].value
    assert found["methods"]["mean"]["mse"]["values"] == list(mse)
    fails(jensen(*words, "latents=2"), 2, "latents: settings of a model; name one")
    fails(jensen(*words, "--mechanism", "mnra", "--rate", 0), 2, "did you mean 'mnar'", "--rate")
    fails(jensen(*words, "--out", "-", "--json"), 2, "both write to stdout")


def test_stdin_and_a_model(jensen, table):
    words = ("--label", "kind", "--masks", 1, "--rate", 0.1, "--baselines", "mean", "--complete-rows", "--json")
    answer = jensen("evaluate", "imputation", "-", "--model", "realnvp", "epochs=1", *words, stdin=table.read_text())
    found = json.loads(answer.out)
    assert found["data"] == "stdin" and found["ours"] == "realnvp" and found["settings"] == {"epochs": 1}
    assert found["methods"]["mean"]["mse"]["ours_less_it"] is not None


def test_outliers(jensen, fails, table):
    answer = jensen("evaluate", "outliers", table, "--label", "kind", "--detectors", "ECOD", "--model", "ppca",
                    "latents=1", "--seeds", 1)  # fmt: skip
    assert answer.code == 0 and "auroc" in answer.out and "ppca − it, auroc" in answer.out, answer
    fails(jensen("evaluate", "outliers", table), 2, "--label: name the column")
    words = ("evaluate", "outliers", table, "--label", "kind", "--detectors", "ECOD", "--model", "ppca", "--seeds", 1)
    fails(jensen(*words, "--kind", "q=real"), 2, "no column 'q'")


def test_synthetic(jensen, fails, table, tmp_path):
    words = ("evaluate", "synthetic", table, "--label", "kind", "--seeds", 1)
    found = json.loads(jensen(*words, "--rows", table, "--json").out)
    assert found["methods"]["given rows"]["copies"]["mean"] == 0.7  # the share of them that was trained on
    assert found["methods"]["training rows"]["accuracy"]["mean"] > 0.8
    other = tmp_path / "other.csv"
    other.write_text("x,y,n,kind\n1,2,3,c\n4,5,6,a\n")
    assert json.loads(jensen(*words, "--rows", other, "--json").out)["methods"]["given rows"]["copies"]["mean"] == 0
    short = tmp_path / "short.csv"
    short.write_text("x,y\n1,2\n3,4\n")
    fails(jensen(*words, "--rows", short), 3, "expected the columns of", "without n, kind")


def test_privacy_beside_samples(jensen, ppca, tmp_path):
    answer = jensen("sample", ppca, "-n", 20, "--privacy", "--out", tmp_path / "rows.csv")
    assert answer.code == 0 and "privacy: 20 synthetic rows" in answer.err and "expected 50%" in answer.err, answer
