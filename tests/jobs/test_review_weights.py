"""Scores of data whose rows carry weights: the mean that training maximises and validation reports."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jensen.core.score import difference
from jensen.data import Dataset, Schema, Split
from jensen.jobs.run import Run
from jensen.registry import build


def runs(rows: int = 60) -> tuple[Run, Run, np.ndarray]:
    """The same model on rows of weight 0, 1 and 2, and on the rows repeated so often."""
    x, weight = np.random.default_rng(0).normal(1, 2, (rows, 3)), np.arange(rows) % 3
    schema = Schema.of_table(x, list("abc"))
    torch.manual_seed(0)
    model = build("ppca", schema, {"latents": 1}).eval()
    splits = Split(x, weight=weight.astype(float)), Split(np.repeat(x, weight, 0))
    one, two = (Run({"model": "ppca"}, schema, model, None, [], Dataset("made", schema, {"test": s})) for s in splits)
    return one, two, weight


def test_weights_equal_repeated_rows():
    one, two, _ = runs()
    weighted, repeated = one.score(), two.score()
    assert weighted.nats == pytest.approx(repeated.nats, abs=1e-5)
    assert weighted.nats != pytest.approx(float(weighted.rows.mean()), abs=1e-2)
    assert "weights" not in weighted.to_dict()


def test_differences_are_weighted_alike():
    one, _, weight = runs()
    first = one.score(keep=False)
    with torch.no_grad():
        one.model.p["x"].module.mean.add_(0.3)
    second = one.score(keep=False)
    truth = np.average((second.rows - first.rows).numpy(), weights=weight)
    assert difference(second, first).nats == pytest.approx(truth)
    assert difference(second, first).nats == pytest.approx(second.nats - first.nats)


def test_the_estimators_error_is_weighted_too():
    one, _, weight = runs()
    with torch.no_grad():  # a posterior that is no longer exact, so that particles differ
        one.model.q["z"].module.likelihood = build("ppca", one.schema, {"latents": 1}).p["x"].module
    spread = torch.tensor([one.score(estimator="iw", particles=50, seed=s).nats for s in range(40)]).std().item()
    stated = np.mean([one.score(estimator="iw", particles=50, seed=s).stderr_mc for s in range(10)])
    assert stated == pytest.approx(spread, rel=0.4)
    assert weight.min() == 0
