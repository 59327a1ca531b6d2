"""Draws from the likeliest levels only, of pictures and sound."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch

import jensen
from jensen.errors import CapabilityError, ConfigError


def pictures(n: int) -> np.ndarray:
    """Grey pictures (n, 1, 2, 2) of four levels, darker ones more often."""
    rng = np.random.default_rng(0)
    return rng.choice([0, 85, 170, 255], (n, 1, 2, 2), p=[0.5, 0.3, 0.15, 0.05]).astype(np.uint8)


@pytest.fixture(scope="module")
def run():
    settings = {"likelihood": "categorical", "hidden": [16]}
    return jensen.train("made", pictures(400), settings=settings, epochs=15)


def test_each_level_is_among_the_likeliest(run):
    drawn = run.sample(60, nucleus=0.6)
    levels = torch.from_numpy(drawn).float()
    with torch.no_grad():
        factors = run.model.p["x"].module().factors(levels).probs
    likelier = (factors * (factors > factors.gather(-1, levels.long()[..., None]))).sum(-1)
    assert (likelier < 0.6).all()
    assert len(np.unique(drawn)) < len(np.unique(run.sample(60)))


def test_nearly_no_nucleus_leaves_one_picture(run):
    assert len(np.unique(run.sample(20, nucleus=1e-6), axis=0)) == 1


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0, float("nan")])
def test_a_share_out_of_range_is_named(run, share):
    with pytest.raises(ConfigError, match=r"--nucleus: expected a share in \(0, 1\]"):
        run.sample(3, nucleus=share)


def test_there_is_no_nucleus_of_numbers():
    run = jensen.train("made", np.random.default_rng(0).normal(size=(60, 2)), epochs=1)
    with pytest.raises(ConfigError, match="--nucleus: a nucleus needs a choice among classes"):
        run.sample(3, nucleus=0.5)


def test_what_has_no_mean_says_so():
    frame = pandas.DataFrame({"x": np.random.default_rng(0).normal(size=60), "word": ["a", "b"] * 30})
    with pytest.raises(CapabilityError, match="--mean: nade has no mean of all columns at once"):
        jensen.train("nade", frame, epochs=1).sample(3, mean=True)


def test_there_is_none_of_expected_values(run):
    with pytest.raises(ConfigError, match="--nucleus"):
        run.sample(3, nucleus=0.5, mean=True)
