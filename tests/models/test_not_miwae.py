"""Gaps that depend on what is missing: against a censored normal in closed form, and beside MIWAE."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import jensen
from jensen.errors import ConfigError

RNG = np.random.default_rng(0)
LOADINGS = np.array([[1.0, 0.9], [0.8, -0.5], [-0.7, 1.0], [0.9, 0.4]])
WHOLE = RNG.normal(size=(1500, 2)) @ LOADINGS.T + 0.3 * RNG.normal(size=(1500, 4))
GONE = (RNG.random(WHOLE.shape) < 1 / (1 + np.exp(-3 * (WHOLE - 0.5)))) & (np.arange(4) < 2)
HOLES = np.where(GONE, np.nan, WHOLE)
SMALL = {"latents": 2, "encoder.hidden": [32], "decoder.hidden": [32], "epochs": 60, "lr": 5e-3}


def test_large_values_that_are_missing_are_filled_in_better():
    """Where the sign is known, the error and the bias of what is filled in are below those of MIWAE."""
    plain = jensen.train("vae", HOLES, objective="iw", **{**SMALL, "objective.particles": 10})
    aware = jensen.train("not-miwae", HOLES, **{**SMALL, "objective.particles": 10, "missingness.sign": "negative"})
    errors = [(run.impute(HOLES, particles=100).mean - WHOLE)[GONE] for run in (plain, aware)]
    assert np.abs(errors[1].mean()) < 0.8 * np.abs(errors[0].mean())
    assert (errors[1] ** 2).mean() < (errors[0] ** 2).mean()
    slope = aware.model.p["seen"].module
    assert (slope(torch.ones(1, 4)).logits < slope(torch.zeros(1, 4)).logits)[0, :2].all()


def test_its_weight_is_that_of_the_paper():
    """log w = log p(x | z) + log p(z) + log p(seen | w) - log q(z | x, seen): what was drawn into gaps cancels."""
    run = jensen.train("not-miwae", HOLES, **{**SMALL, "epochs": 1})
    batch = run.tensors(run.data().split("train")).take(slice(0, 6))
    e = run.model.evidence(batch, 3)
    seen, w = batch["seen"], e.values["w"].unflatten(0, (3, 6))
    head = run.model.p["w"].module(e.values["h"]).unflatten((3, 6))
    of_x = (head.log_prob_terms(batch["x"]) * seen).sum(-1)
    expected = of_x + e.log_p["z"] + e.log_p["seen"] - e.log_q["z"]
    torch.testing.assert_close(e.log_w, expected, rtol=1e-4, atol=1e-4)
    assert (w[:, seen] == batch["x"][seen]).all()


@pytest.mark.parametrize(("data", "words"), [(WHOLE, "got no gaps"), (HOLES > 0.0, "got no gaps")])
def test_other_tables_are_refused(data, words):
    with pytest.raises(ConfigError, match=words):
        jensen.train("not-miwae", data.astype(float), epochs=1)
