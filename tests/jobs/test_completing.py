"""Filling in under autoregressive models, against enumeration of the model's own density."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from jensen.data import Dataset, Schema, Split
from jensen.errors import CapabilityError
from jensen.jobs.run import Run
from jensen.jobs.train import train

RNG = np.random.default_rng(0)


def table() -> Dataset:
    """Four binary columns that know of each other."""
    z = RNG.random(400) < 0.4
    noise = RNG.random((400, 4))
    x = np.where(z[:, None], noise < [0.9, 0.8, 0.2, 0.7], noise < [0.2, 0.1, 0.6, 0.3]).astype(float)
    schema = Schema.of_table(x, [f"c{j}" for j in range(4)], ["binary"] * 4)
    return Dataset("bits", schema, {"train": Split(x), "valid": Split(x[:100]), "test": Split(x[:40])})


@pytest.fixture(scope="module", params=["given", "any"])
def run(request: pytest.FixtureRequest) -> Run:
    settings = {"hidden": [32], "order": request.param, "orderings": 4 if request.param == "any" else 1}
    return train("made", table(), settings=settings, epochs=30, batch_size=50, lr=0.02)


def conditional_means(run: Run, row: np.ndarray, order: list[int] | None = None) -> np.ndarray:
    """E[x | what is not NaN of a row], by enumeration of p, or of the one order."""
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    module = run.model.p["x"].module
    with torch.no_grad():
        if order is None:
            log_p = run.model.evidence({"x": every}).log_w[0]
        else:
            module.network.arrange(torch.tensor(order))  # pyright: ignore
            log_p = module().terms(every).sum(1)  # pyright: ignore
    known = ~np.isnan(row)
    fits = (every[:, known] == torch.tensor(row[known], dtype=torch.float32)).all(1)
    weight = log_p[fits].double().softmax(0)
    return (weight[:, None] * every[fits]).sum(0).clamp(0, 1).numpy()


def test_what_is_filled_in_follows_the_model(run):
    rows = np.array([[np.nan, np.nan, 0, 1], [1, np.nan, np.nan, 0], [1, 0, np.nan, np.nan], [1, 0, 1, 0]])
    found = run.impute(rows, draws=2000, particles=4000, seed=1)
    ordered = run.spec["settings"]["order"] == "any"
    assert list(found.method) == (["ordered"] * 3 + ["none"] if ordered else ["importance"] * 2 + ["ordered", "none"])
    for i, row in enumerate(rows[:3]):
        missing = np.isnan(row)
        order = [*np.flatnonzero(~missing), *np.flatnonzero(missing)] if ordered else None
        truth = conditional_means(run, row, order)
        size = found.effective_sample_size[i]
        assert size >= 100
        error = np.sqrt(truth * (1 - truth) * (1 / size + 1 / 2000)) + 1e-12
        assert (np.abs(found.mean[i] - truth) < 4.5 * error)[missing].all()
        assert (np.abs(found.draws[:, i].mean(0) - truth) < 4.5 * error)[missing].all()
        assert (found.draws[:, i][:, ~missing] == row[~missing]).all()


def test_chains_are_for_densities_along_which_one_can_move(run):
    with pytest.raises(CapabilityError, match="one after another"):
        run.impute(np.array([[np.nan, 1, 0, 1]]), method="mcmc")


def test_with_several_orderings_draws_follow_their_average():
    """Weights that know how each ordering explains what it meets first; all orders are far from one another here."""
    run = train("made", table(), settings={"hidden": [8], "orderings": 3}, epochs=1)
    module = run.model.p["x"].module
    with torch.no_grad():
        torch.manual_seed(2)
        for parameter in module.parameters():
            parameter.normal_(std=1.5)
    rows = np.array([[np.nan, np.nan, 0, 1], [1, np.nan, np.nan, 0], [1, 0, np.nan, np.nan]])
    found = run.impute(rows, draws=2000, particles=6000, seed=1)
    for i, row in enumerate(rows):
        missing, truth = np.isnan(row), conditional_means(run, row)
        size = found.effective_sample_size[i]
        assert found.method[i] == "importance" and size >= 100
        error = np.sqrt(truth * (1 - truth) * (1 / size + 1 / 2000)) + 1e-12
        assert (np.abs(found.mean[i] - truth) < 4.5 * error)[missing].all()
        assert (np.abs(found.draws[:, i].mean(0) - truth) < 4.5 * error)[missing].all()


def test_spreads_are_standard_deviations():
    """Of a binary element that is certainly drawn, √(p (1 − p))."""
    run = train("made", table(), settings={"hidden": [32]}, epochs=20, batch_size=50, lr=0.02)
    row = np.array([[np.nan, 1.0, 0.0, 1.0]])
    found = run.impute(row, draws=2000, particles=4000, seed=1)
    assert found.method[0] == "importance"
    p = found.mean[0, 0]
    assert 0.02 < p < 0.98
    assert found.spread[0, 0] == pytest.approx(np.sqrt(p * (1 - p)), rel=1e-3)
