"""Rows of "valid" that are learned from as those of "train"."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import jensen
from jensen.data import Dataset, Split, load_data
from jensen.errors import ConfigError, DataError
from jensen.jobs.run import open_run

SMALL = {"latents": 2, "encoder.hidden": [16], "decoder.hidden": [16]}
LENGTH = {"epochs": 3, "batch_size": 16, "keep": "last"}
ROWS = np.random.default_rng(0).normal(size=(100, 3))


def weights(run: jensen.Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_it_is_training_on_both():
    """The same weights as of data whose training rows are all of them."""
    data = load_data(ROWS)
    train, valid = data.split("train"), data.split("valid")
    rows = Split(np.concatenate([train.x, valid.x]))
    both = Dataset("both", data.schema, {"train": rows})
    learned = jensen.train("vae", data, settings=SMALL, learn_valid=True, **LENGTH)
    assert torch.equal(weights(learned), weights(jensen.train("vae", both, settings=SMALL, **LENGTH)))
    assert not torch.equal(weights(learned), weights(jensen.train("vae", data, settings=SMALL, **LENGTH)))


def test_in_closed_form_it_is_the_fit_of_both():
    data = load_data(ROWS)
    both = np.concatenate([data.split("train").x, data.split("valid").x])
    run = jensen.train("ppca", data, settings={"latents": 1}, learn_valid=True)
    z = both / (scale := np.array([field.scale for field in data.schema.fields]))  # as columns stand in the model
    lengths, directions = np.linalg.eigh(np.cov(z.T, bias=True))
    lengths[:2] = lengths[:2].mean()  # Tipping and Bishop 1999: what is left over is the same in all directions
    truth = multivariate_normal(z.mean(0), directions * lengths @ directions.T).logpdf(z).mean() - np.log(scale).sum()
    assert run.score(both).nats == pytest.approx(truth, abs=1e-5)
    assert jensen.train("ppca", data, settings={"latents": 1}).score(both).nats < run.score(both).nats


def test_a_run_has_no_rows_that_are_valid(tmp_path):
    """None that pass for new ones: not in a score, and not as what outliers are calibrated by."""
    np.save(tmp_path / "x.npy", ROWS)
    made = jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "r", settings=SMALL, learn_valid=True, **LENGTH)
    for run in (made, open_run(tmp_path / "r")):
        assert {name: len(split) for name, split in run.data().splits.items()} == {"train": 90, "test": 10}
        with pytest.raises(DataError, match="no split 'valid'"):
            run.score(split="valid")
        with pytest.raises(DataError, match="usual data that the model was not fitted to are needed"):
            run.outliers(ROWS)
        assert run.score(split="test").n == 10
    longer = jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "r", epochs=4, resume=True)
    assert longer.log[-1]["epoch"] == 4 and len(longer.data().split("train")) == 90


@pytest.mark.parametrize("kept", [{}, {"y": np.arange(3)}, {"weight": np.full(3, 2.0)}])
def test_rows_are_joined_with_what_belongs_to_them(kept):
    one = Split(ROWS[:3], index=np.array([4, 2, 9]), c=ROWS[:3, :1], **kept)
    two = Split(ROWS[3:5], index=np.array([1, 0]), c=ROWS[3:5, :1])
    for first, second in ((one, two), (two, one)):
        both = first.joined(second)
        assert np.array_equal(both.x, np.concatenate([first.x, second.x]))
        assert both.c is not None and np.array_equal(both.c, both.x[:, :1])
        assert both.index.tolist() == [*first.index, *second.index]
        for name, default in (("y", -1), ("weight", 1)):
            own = [getattr(part, name) for part in (first, second)]
            wanted = [
                np.full(len(part), default) if v is None else v for v, part in zip(own, (first, second), strict=True)
            ]
            found = getattr(both, name)
            assert found is None if name not in kept else np.array_equal(found, np.concatenate(wanted))
    assert one.joined(replace(two, c=None)).c is None


def test_without_an_end_it_is_refused():
    with pytest.raises(ConfigError, match="learn_valid: nothing would tell when to stop"):
        jensen.train("vae", ROWS, settings=SMALL, learn_valid=True)


def test_pixels_that_are_drawn_anew_are_not_joined_with_those_that_are_not():
    grey = np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4), dtype=np.uint8)
    with pytest.raises(ConfigError, match="learn_valid: pixels of train are drawn anew"):
        jensen.train("vae", grey, binarize="dynamic", learn_valid=True, **LENGTH)
