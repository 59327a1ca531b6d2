"""Runs as Python sees them: found again with their data, shown in a line, compared by their folders."""

from __future__ import annotations

import re

import numpy as np
import pandas
import pytest
import yaml

import jensen
from jensen.errors import CapabilityError, ConfigError, DataError


def test_a_run_on_a_loaded_data_set_finds_its_data_again(tmp_path):
    data = jensen.load_data("iris", seed=2)
    trained = jensen.train("ppca", data, latents=2, out=tmp_path / "r")
    opened = jensen.open(tmp_path / "r")
    assert opened.spec["data"]["options"] == {"seed": 2}
    assert opened.score().split_sha256 == trained.score().split_sha256 == data.splits["test"].sha256
    assert "from Python" in opened.report().read_text()


def test_a_run_keeps_the_rule_by_which_its_rows_were_cut(tmp_path):
    """Of before rules were recorded, the first: PCG64(seed) orders the rows, the last tenth is test."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    pandas.DataFrame(x, columns=list("abc")).to_csv(tmp_path / "x.csv", index=False)
    jensen.train("ppca", jensen.load_data(tmp_path / "x.csv", rule=1), latents=1, out=tmp_path / "r")
    record = yaml.safe_load((tmp_path / "r" / "spec.yaml").read_text())
    del record["data"]["rule"], record["data"]["options"]["rule"]
    (tmp_path / "r" / "spec.yaml").write_text(yaml.safe_dump(record))
    run = jensen.open(tmp_path / "r")
    last = np.random.Generator(np.random.PCG64(0)).random(50).argsort()[-5:]
    np.testing.assert_allclose(run.split()[2].x, x[last], rtol=1e-15)
    assert run.score().n == 5 and "rule=1" in run.report().read_text()
    jensen.train("ppca", tmp_path / "x.csv", latents=1, out=tmp_path / "now")
    assert set(jensen.open(tmp_path / "now").split()[2].index) != set(last)


def test_a_run_on_arrays_asks_for_them(tmp_path):
    jensen.train("ppca", np.random.default_rng(0).normal(size=(50, 3)), latents=1, out=tmp_path / "r")
    with pytest.raises(DataError, match="data in memory"):
        jensen.open(tmp_path / "r").score()


def test_going_on_with_data_loaded_otherwise_is_refused(tmp_path):
    settings = {"latents": 1, "epochs": 1, "out": tmp_path / "r", "encoder.hidden": [4], "decoder.hidden": [4]}
    jensen.train("vae", jensen.load_data("iris"), **settings)
    jensen.train("vae", jensen.load_data("iris"), resume=True, **settings)
    with pytest.raises(ConfigError, match="loaded with"):
        jensen.train("vae", jensen.load_data("iris", seed=1), resume=True, **settings)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"epoch": 1}, "epoch: model 'vae' has no such setting; did you mean 'epochs'?"),
        ({"latent": 1}, "latent: model 'vae' has no such setting; did you mean 'latents'?"),
        ({"settings": {"binarise": "static"}}, "binarise: model 'vae' has no such setting; did you mean 'binarize'?"),
        ({"overwrit": True}, "overwrit: model 'vae' has no such setting; did you mean 'overwrite'?"),
        ({"settings": {"overwrit": True}}, "overwrit: model 'vae' has no such setting; choose from"),
    ],
)
def test_a_misspelt_keyword_is_sought_among_all_that_train_takes(given, hint):
    with pytest.raises(ConfigError, match=f"^{re.escape(hint)}"):
        jensen.train("vae", "iris", **given)


def test_runs_are_shown_in_one_line(tmp_path):
    run = jensen.train("ppca", "iris", latents=1, out=tmp_path / "r")
    assert repr(run) == f"<Run ppca on iris in {tmp_path / 'r'}>"
    assert repr(jensen.train("ppca", "iris", latents=1)) == "<Run ppca on iris>"


def test_runs_are_compared_by_their_folders(tmp_path):
    runs = [jensen.train("ppca", "iris", latents=n, out=tmp_path / str(n)) for n in (1, 2)]
    by_folder = jensen.compare([tmp_path / "1", str(tmp_path / "2")])
    assert str(by_folder) == str(jensen.compare(runs))
    assert " nats against " in str(by_folder)
    with pytest.raises(ConfigError, match="expected a list of runs"):
        jensen.compare(tmp_path / "1", tmp_path / "2")  # pyright: ignore[reportArgumentType]


def test_a_code_without_a_posterior_is_not_drawn_from():
    run = jensen.train("autoencoder", "iris", latents=1, epochs=1)
    with pytest.raises(CapabilityError, match="no posterior to draw from"):
        run.encode(draws=3)
