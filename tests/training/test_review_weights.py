"""Row weights mean the same in batches of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jensen.data import Schema, TensorSplit
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer


def fitted_mean(x: np.ndarray, weight: np.ndarray, **options) -> np.ndarray:
    """μ of PPCA by gradient, in the units of x."""
    torch.manual_seed(0)
    schema = Schema.of_table(x, ["a", "b"])
    model = build("ppca", schema, {"latents": 1, "fit": "gradient"})
    split = TensorSplit(schema.prepare(x), None, torch.from_numpy(weight).float())
    Trainer(model, split, None, training_settings({"lr": 0.01, "keep": "last", **options})).run()
    return model.p["x"].module.mean.detach().numpy() * x.std(0) + x.mean(0)


@pytest.mark.parametrize(("batch_size", "epochs"), [(1, 8), (300, 900)])
def test_weights_count_across_batches(batch_size, epochs):
    """The maximum is the weighted mean. Were weights normalised in each batch, a batch of one would ignore them."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (270, 2)), rng.normal(6, 1, (30, 2))])
    weight = np.repeat([1.0, 9.0], [270, 30])
    truth = np.average(x, 0, weight)  # about 3; without weights 0.6, that is 2.4 away
    found = fitted_mean(x, weight, batch_size=batch_size, epochs=epochs)
    assert np.abs(found - truth).max() < 0.8


def test_batches_without_any_weight():
    """Rows that weigh nothing are as good as absent: most batches of 8 would hold nothing else."""
    x = np.random.default_rng(1).normal(2, 1, (400, 2))
    weight = np.zeros(400)
    weight[::40] = 1.0
    options = {"batch_size": 8, "epochs": 3, "seed": 5}
    found = fitted_mean(x, weight, **options)
    assert np.isfinite(found).all()
