"""The command that asks what a representation is worth."""

from __future__ import annotations

import json


def test_probe_prints_a_table_and_refuses(jensen, fails, trained, table):
    run = trained("ppca-labelled", "ppca", table, "latents=2", "--label", "kind")
    answer = jensen("probe", run, "--labels", "10,all", "--seeds", "2")
    assert answer.code == 0, answer
    assert "linear on codes" in answer.out and "±" in answer.out
    found = json.loads(jensen("probe", run, "--labels", "10", "--json").out)
    assert {a["labels"] for a in found["accuracies"]} == {10} and found["factors"] is None
    fails(jensen("probe", run, "--labels", "few"), 2, "--labels: expected numbers, or all, got 'few'")
