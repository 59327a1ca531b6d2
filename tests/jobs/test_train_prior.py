"""Another prior for a trained model, fitted to its codes."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
import torch
import yaml

import jensen
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.report.record import reproduce


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    x = 6 * rng.normal(size=(3, 5))[rng.integers(0, 3, 600)] + rng.normal(size=(600, 5))  # three clusters
    settings = {"latents": 2, "encoder.hidden": [16], "decoder.hidden": [16], "train.lr": 5e-3}
    return jensen.train("vae", x, settings=settings, epochs=20)


def test_all_but_the_prior_stays_bit_for_bit(trained):
    run = jensen.train_prior(trained, "mixture", settings={"prior.components": 4}, epochs=3)
    before, after = trained.model.state_dict(), run.model.state_dict()
    kept = [name for name in after if not name.startswith("p.z.")]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    prior = {"name": "mixture", "components": 4, "covariance": "diagonal", "min_scale": 0.01}
    assert run.spec["settings"]["prior"] == prior
    assert run.spec["data"] == trained.spec["data"]


def test_one_normal_takes_the_moments_of_the_codes(trained):
    """μ = E[μ(x)] and σ² = E[σ²(x)] + Var[μ(x)], over the training data."""
    settings = {"prior.components": 1, "prior.min_scale": 1e-4}
    settings |= {"train.lr": 0.02, "train.batch_size": 480, "train.keep": "last"}
    run = jensen.train_prior(trained, "mixture", settings=settings, epochs=600)
    with torch.no_grad():
        x = run.tensors(run.data().split("train")).x
        q = run.model.q["z"].module(x)
        mean, variance = q.mean.mean(0), q.variance.mean(0) + q.mean.var(0, correction=0)
        prior = run.model.p["z"].module()
    torch.testing.assert_close(prior.mean, mean, rtol=0, atol=0.03)
    torch.testing.assert_close(prior.variance, variance, rtol=0.05, atol=0)


def test_the_bound_rises_by_what_the_family_allows(trained):
    run = jensen.train_prior(trained, "mixture", settings={"prior.components": 8, "train.lr": 0.01}, epochs=60)
    old, new = (r.score(split="train", estimator="elbo", particles=50) for r in (trained, run))
    gain = new.rows - old.rows
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5


def test_priors_without_parameters_start_from_the_data(trained):
    run = jensen.train_prior(trained, "aggregated", settings={"prior.components": 100})
    x = {tuple(row) for row in run.tensors(run.data().split("train")).x.tolist()}
    assert all(tuple(row) in x for row in run.model.p["z"].module.pseudo_inputs.tolist())
    assert jensen.train_prior(trained, "normal").score().nats == pytest.approx(trained.score().nats, abs=0.5)


@pytest.mark.parametrize("settings", [{"prior": "vamp", "prior.components": 5}, {"prior": "flow"}], ids=str)
def test_other_priors(trained, settings):
    run = jensen.train_prior(trained, settings=settings, epochs=2)
    assert np.isfinite(run.score(particles=5).nats) and run.sample(3).shape == (3, 5)


def test_a_run_that_goes_on_still_fits_the_prior_alone(trained, tmp_path):
    x = np.random.default_rng(0).normal(size=(100, 3))
    np.save(tmp_path / "x.npy", x)
    settings = {"latents": 2, "encoder.hidden": [8], "decoder.hidden": [8]}
    old = jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "a", settings=settings, epochs=2)
    one = {"prior": "mixture", "prior.components": 3}
    jensen.train_prior(old, out=tmp_path / "b", settings=one, epochs=2)
    assert yaml.safe_load((tmp_path / "b/spec.yaml").read_text())["prior_of"].endswith("a")
    run = jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "b", epochs=4, resume=True)
    assert [line["epoch"] for line in run.log] == [1, 2, 3, 4] and "log_prior" in run.log[-1]["train"]
    for name, value in old.model.state_dict().items():
        assert name.startswith("p.z.") or torch.equal(value, run.model.state_dict()[name])
    with pytest.raises(ConfigError, match="the run whose prior is replaced"):
        jensen.train_prior(old, "vamp", out=tmp_path / "a", overwrite=True)


def test_what_cannot_be(trained):
    with pytest.raises(ConfigError, match="latents: only the prior"):
        jensen.train_prior(trained, "mixture", latents=3)
    with pytest.raises(ConfigError, match="decoder: only the prior"):
        jensen.train_prior(trained, "mixture", decoder="gated")
    with pytest.raises(ConfigError, match="drop: only the prior"):
        jensen.train_prior(trained, "mixture", drop=["a"])
    with pytest.raises(ConfigError, match="did you mean 'mixture'"):
        jensen.train_prior(trained, "mixtur")
    with pytest.raises(ConfigError, match="expected the new one"):
        jensen.train_prior(trained)
    made = jensen.train("made", np.eye(4), epochs=1)
    with pytest.raises(CapabilityError, match="made has none that could be replaced"):
        jensen.train_prior(made, "mixture")
    with pytest.raises(ConfigError, match="different sets"):
        jensen.train_prior(trained, "bernoulli")


def test_the_report_says_how_to_fit_it_again(trained, tmp_path):
    run = jensen.train_prior(
        trained, settings={"prior": "mixture", "prior.components": 4}, epochs=2, out=tmp_path / "b"
    )
    _, body = reproduce(run)
    command, python = (html.unescape(block) for block in re.findall("<code>(.*?)</code>", body, re.DOTALL))
    assert command == "jensen train prior vae prior=mixture prior.components=4 train.epochs=2 --out again"
    assert "jensen.train_prior('vae', settings={'prior': 'mixture'" in python
    run = jensen.train_prior(trained, "mixture", epochs=2)  # sizes that are the default
    assert "prior vae prior=mixture train.epochs=2" in html.unescape(reproduce(run)[1])
