"""`jensen infer`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from jensen.cli.inferring import find_function
from jensen.errors import ConfigError

TARGET = """
import torch

LEVEL = 3.0

def log_posterior(z):
    '''A gamma and a normal.'''
    return torch.distributions.Gamma(9.0, 3.0).log_prob(z[:, 0]) - 0.5 * (z[:, 1] - LEVEL).square()

def hopeless(z):
    return torch.where(z.sum(-1) > 0, torch.nan, -z.square().sum(-1))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "targets_of_test.py").write_text(TARGET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


QUICK = ["--dim", "2", "--support", "0=positive", "--max-steps", "400", "--draws", "1000"]


def test_one_json_object(jensen, here):
    done = jensen("infer", "--target", "targets_of_test:log_posterior", *QUICK, "--json", "--out", "q")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["support"] == [[0.0, None], [None, None]]
    assert found["mean"][0] == pytest.approx(3.0, abs=0.15)
    assert found["mean"][1] == pytest.approx(3.0, abs=0.05)
    assert {"elbo", "elbo_stderr", "log_evidence", "kind", "k_hat", "verdict", "converged", "warnings"} <= found.keys()
    assert sorted(p.name for p in Path("q").iterdir()) == ["inference.yaml", "q.safetensors"]


def test_weighted_draws_in_a_file_and_a_file_as_target(jensen, here):
    target = f"{here / 'targets_of_test.py'}:log_posterior"
    done = jensen("infer", "--target", target, *QUICK, "--family", "low-rank", "rank=1", "--out", "draws.csv")
    assert done.code == 0, done.err
    frame = pandas.read_csv("draws.csv")
    assert list(frame.columns) == ["z0", "z1"]
    assert len(frame) == 1000
    assert frame["z0"].min() > 0
    assert "k̂" in done.out and "lower bound on log Z" in done.out


def test_what_is_wrong_is_said_at_once(jensen, here):
    done = jensen("infer", "--support", "0=1..x", "--start", "a,b", "rank")
    assert done.code == 2
    for word in ("--target", "--dim", "--support", "--start", "expected key=value"):
        assert word in done.err
    done = jensen("infer", "--target", "targets_of_test:log_posterior", *QUICK, "--family", "low-rank", "rnk=1")
    assert done.code == 2
    assert "did you mean 'rank'" in done.err
    done = jensen("infer", "--target", "targets_of_test:hopeless", "--dim", "2")
    assert done.code == 3
    assert "log_density is NaN" in done.err


def test_targets_that_are_none(here):
    with pytest.raises(ConfigError, match="expected module:function"):
        find_function("targets_of_test")
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        find_function("nowhere:f")
    with pytest.raises(ConfigError, match="did you mean 'log_posterior'"):
        find_function("targets_of_test:log_posteriour")
    with pytest.raises(ConfigError, match="is a float, expected a function"):
        find_function("targets_of_test:LEVEL")
    with pytest.raises(ConfigError, match="there is no file"):
        find_function("nowhere.py:f")
    Path("broken_of_test.py").write_text("def f(:")
    with pytest.raises(ConfigError, match="importing 'broken_of_test' failed"):
        find_function("broken_of_test:f")
