"""The command that says what to measure next."""

from __future__ import annotations

import json

import pandas


def test_acquire_asks_ranks_and_draws_curves(jensen, fails, trained, table, tmp_path):
    run = trained("ppca-labelled", "ppca", table, "latents=2", "--label", "kind")
    names = json.loads(jensen("data", table, "--json").out)["columns"]
    first, second = names[0]["name"], names[1]["name"]
    answer = jensen("acquire", run, "--target", first, "--min-gain", "0", stdin="many\n0.5\nskip\nstop\n")
    assert answer.code == 0, answer
    assert answer.out.count(f"{first}: ") == 3 and "bits" in answer.out and "spent: 1" in answer.out
    assert "expected a number, got 'many'" in answer.err

    one = json.loads(jensen("acquire", run, "--target", first, "--given", f"{second}=0.5", "--json").out)
    assert second not in {column["column"] for column in one["rows"][0]["columns"]}

    rows = tmp_path / "rows.csv"
    pandas.DataFrame({second: [0.1, None]}).to_csv(rows, index=False)
    assert jensen("acquire", run, rows, "--target", first, "--out", tmp_path / "ranks.csv").code == 0
    ranks = pandas.read_csv(tmp_path / "ranks.csv")
    assert set(ranks[ranks["row"] == 2]["column"]) - set(ranks[ranks["row"] == 1]["column"]) == {second}
    piped = jensen("acquire", run, "-", "--target", first, "--json", stdin=rows.read_text())
    left = len(names) - 2  # without label and target
    assert [len(row["columns"]) for row in json.loads(piped.out)["rows"]] == [left - 1, left]
    fails(jensen("acquire", run, rows, "--target", first), 2, "expected one row, got 2", "--out")

    curves = ["acquire", run, "--target", first, "--curves", "--particles", 40, "--limit", 10, "--steps", 1]
    found = json.loads(jensen(*curves, "--json", "--out", tmp_path / "curves.png").out)
    assert set(found["paths"]) == {"ours", "fixed", "random"} and len(found["order"]) >= 1
    assert (tmp_path / "curves.png").stat().st_size > 1000

    costs = tmp_path / "costs.yaml"
    costs.write_text("nothing: 3\n")
    fails(jensen("acquire", run, "--target", first, "--costs", costs), 2, "no column 'nothing'")
    fails(jensen("acquire", run), 2, "--target")
    fails(jensen("acquire", run, "--target", first, "--steps", 2), 2, "--steps: goes with --curves")
