"""Static binarisation is drawn once; dynamic binarisation redraws the training split only."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jensen.data import load_data
from jensen.errors import ConfigError, DataError


def grey(n: int = 30) -> np.ndarray:
    """Pictures holding every grey level."""
    return np.random.default_rng(0).permuted(np.tile(np.arange(256, dtype=np.uint8), (n, 1)), axis=1).reshape(n, 16, 16)


def test_static_is_fixed_and_takes_only_certain_pixels_for_granted():
    first, again, other = (load_data(grey(), binarize="static", seed=seed) for seed in (0, 0, 1))
    for name, split in first.splits.items():
        assert split.sha256 == again.split(name).sha256 != other.split(name).sha256
        source = grey()[split.index][:, None]
        assert set(np.unique(split.x)) == {0, 1}
        assert (split.x[source == 0] == 0).all()
        assert (split.x[source == 255] == 1).all()
    assert (first.schema.kind, first.schema.binarization, first.schema.levels) == ("binary", "static", 2)


def test_static_draws_follow_the_grey_levels():
    split = load_data(grey(3000), binarize="static").split("train")
    source = grey(3000)[split.index][:, None].astype(float) / 255
    n, variance = source.size, (source * (1 - source)).mean()
    assert abs(split.x.mean() - source.mean()) < 4 * math.sqrt(variance / n)


def test_dynamic_redraws_training_pictures_and_fixes_the_others():
    data = load_data(grey(), binarize="dynamic")
    static = load_data(grey(), binarize="static")
    torch.manual_seed(0)
    train = data.split("train").to(data.schema)
    rows = torch.tensor([3, 1])
    draws = torch.stack([train.take(rows)["x"] for _ in range(2000)])
    assert draws.dtype == torch.float32
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    mean = torch.from_numpy(data.split("train").x[[3, 1]].astype(np.float64)) / 255
    error = 4 * (mean * (1 - mean) / 2000).sqrt() + 1e-9
    outside = ((draws.double().mean(0) - mean).abs() > error).double().mean()
    assert outside < 0.005  # at four standard errors 0.00006 are expected
    for name in ("valid", "test"):
        assert data.split(name).sha256 == static.split(name).sha256
        fixed = data.split(name).to(data.schema)
        assert torch.equal(fixed.take(slice(None))["x"], fixed.take(slice(None))["x"])


def test_dynamic_draws_repeat_with_the_global_seed():
    data = load_data("digits", binarize="dynamic")
    train = data.split("train").to(data.schema)
    torch.manual_seed(1)
    first = train.take(slice(0, 9))["x"]
    torch.manual_seed(1)
    assert torch.equal(first, train.take(slice(0, 9))["x"])
    white = data.split("train").x[:9] == 16  # the whitest of 17 levels
    assert first.numpy()[white].all()


def test_take_gives_the_rows_asked_for():
    data = load_data("digits")
    split = data.split("valid")
    tensors = split.to(data.schema)
    assert len(tensors) == len(split) == 180
    batch = tensors.take(torch.tensor([5, 0]))
    np.testing.assert_array_equal(batch["x"].numpy(), split.x[[5, 0]])
    assert batch["y"].tolist() == split.y[[5, 0]].tolist()
    assert "weight" not in batch


def test_binary_pictures_stay_as_they_are():
    pictures = (grey() > 100).astype(np.uint8)
    data = load_data(pictures)
    assert (data.schema.binarization, data.schema.kind) == ("given", "binary")
    with pytest.raises(ConfigError, match="expected grey pictures, got 0/1"):
        load_data(pictures, binarize="dynamic")
    with pytest.raises(ConfigError, match="binarised already"):
        load_data(load_data(grey(), binarize="static"), binarize="none")


def test_new_grey_pictures_are_binarised_as_the_model_was_trained():
    trained = load_data(grey(), binarize="dynamic", seed=5).schema
    scored = load_data(grey(), schema=trained)
    assert list(scored.splits) == ["all"]
    assert set(np.unique(scored.split("all").x)) == {0, 1}
    assert scored.split("all").sha256 == load_data(grey(), schema=trained).split("all").sha256
    given = load_data((grey() > 100).astype(np.uint8)).schema
    with pytest.raises(DataError, match=r"expected values 0..1, got 0..255; make them 0/1 first .* \(x > 127\)"):
        load_data(grey(), schema=given)


def test_registered_data_keep_their_splits_when_scored():
    trained = load_data("digits", binarize="dynamic", seed=3)
    scored = load_data("digits", schema=trained.schema, seed=3)
    for name, split in trained.splits.items():
        assert scored.split(name).sha256 == split.sha256
