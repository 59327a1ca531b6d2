"""Cells hidden in training: what is seen of a row, and what a model learns by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import jensen
from jensen.core import seeded
from jensen.data import Schema, Split
from jensen.errors import ConfigError
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer

SMALL = {"latents": 2, "encoder.hidden": [16], "decoder.hidden": [16], "lr": 1e-2, "batch_size": 64}


def test_of_each_row_a_share_up_to_hide_is_hidden():
    rows = np.random.default_rng(0).normal(size=(2000, 40))
    rows[:, 0] = np.nan
    schema = Schema.of_table(np.nan_to_num(rows), [f"c{j}" for j in range(40)]).with_gaps()
    split = Split(rows).to(schema)
    trainer = Trainer(build("vae", schema, {}), split, None, training_settings({"epochs": 1, "hide": 0.6}))
    with seeded(0):
        seen = trainer._take(split, slice(None))["seen"]
    assert not seen[:, 0].any()
    shares = 1 - seen[:, 1:].float().mean(1)
    assert shares.mean() == pytest.approx(0.3, abs=0.02)
    binomial = 0.3 / 39  # at most; the rest is that of the shares, uniform on [0, 0.6]
    assert shares.var() == pytest.approx(0.6**2 / 12 + binomial / 2, rel=0.2)
    assert split.seen is not None and split.seen[:, 1:].all()


def test_a_model_that_met_gaps_knows_parts_of_rows_better(tmp_path):
    """The bound on log p(x_1) is tighter where q has met rows of which so little is seen."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 1)) + 0.3 * rng.normal(size=(800, 4))
    np.save(tmp_path / "x.npy", x)
    bounds = {}
    for hide in (0.0, 1.0):
        out = tmp_path / str(hide)
        run = jensen.train("vae", tmp_path / "x.npy", out=out, epochs=20, **SMALL, **{"train.hide": hide})
        assert run.schema.gaps == bool(hide)
        few = run.tensors(Split(x[:200])).x
        seen = torch.tensor([False, True, False, False]).expand(few.shape)
        with torch.no_grad(), seeded(0):
            values = {"x": few, "seen": seen} if hide else {"x": jensen.core.Observed(few, seen)}
            bounds[hide] = run.model.evidence(values, particles=20).elbo()
    gain = bounds[1.0] - bounds[0.0]
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
    again = jensen.open(tmp_path / "1.0")
    assert again.schema.gaps and again.score().nats == again.score().nats
    assert again.spec["training"]["hide"] == 1.0


def test_what_takes_no_gaps_refuses():
    with pytest.raises(ConfigError, match=r"train\.hide: .*no empty cells"):
        jensen.train("ppca", np.random.default_rng(0).normal(size=(50, 3)), epochs=1, **{"train.hide": 0.5})
    with pytest.raises(ConfigError, match=r"train\.hide: not-miwae explains why"):
        jensen.train("not-miwae", np.random.default_rng(0).normal(size=(50, 3)), epochs=1, **{"train.hide": 0.5})
    with pytest.raises(ConfigError, match=r"train\.hide: expected a table"):
        jensen.train("vae", "digits", binarize="static", epochs=1, **{"train.hide": 0.5})
    with pytest.raises(ConfigError, match=r"train\.hide"):
        jensen.train("vae", np.zeros((50, 3)), epochs=1, **{"train.hide": 1.5})
