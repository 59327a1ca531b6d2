"""Another prior for a trained model, fitted to its codes."""

from __future__ import annotations

import html
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import norm
from torch import nn

import jensen
from jensen.cli.training import summarize
from jensen.core import Joint, Model
from jensen.distributions import DiagonalNormal
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.report.record import numbers, reproduce
from jensen.objectives.prior import fit_prior


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


class Movable(nn.Module):
    """N(mean, I)."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([1.0, -2.0, 0.0]))

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(self.mean, torch.ones(3))


class Restless(nn.Module):
    """q(z | x) near x where its networks rest; in training they drop half of it and count."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.network(x), torch.full((3,), 1e-6))


def test_codes_are_those_of_a_network_at_rest():
    """The mean of log N(x; m, I), and m − E x its slope; nothing that q counts moves."""
    q, prior = Restless(), Movable()
    model = Model(Joint({"z": prior, "x | z": Restless()}), Joint({"z | x": q})).train()
    before, x = {name: value.clone() for name, value in q.state_dict().items()}, torch.randn(7, 3)
    terms = fit_prior().stages[0].phases[0].loss(model, {"x": x}, 0.5)
    truth = norm.logpdf(x.numpy(), [1.0, -2.0, 0.0], 1.0).sum(1).mean()
    assert terms.logged["log_prior"].item() == pytest.approx(truth, abs=1e-3)  # batch norm divides by √(1 + 1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(terms.loss, prior.mean)[0], prior.mean - x.mean(0), atol=1e-3, rtol=0
    )
    assert all(torch.equal(value, before[name]) for name, value in q.state_dict().items())


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


def test_a_run_stopped_before_its_first_checkpoint_goes_on_with_the_same_codes(tmp_path):
    """All but the prior comes from the run that it is of, and not from a fresh start."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 5)))
    settings = {"latents": 2, "encoder.hidden": [8], "decoder.hidden": [8]}
    old = jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "a", settings=settings, epochs=2)
    jensen.train_prior(old, "mixture", out=tmp_path / "b", epochs=2)
    shutil.rmtree(tmp_path / "b/state")
    (tmp_path / "b/model.safetensors").unlink()
    run = jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "b", resume=True)
    for name, value in old.model.state_dict().items():
        assert name.startswith("p.z.") or torch.equal(value, run.model.state_dict()[name])
    shutil.rmtree(tmp_path / "b/state")
    (tmp_path / "b/model.safetensors").unlink()
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(ConfigError, match="no run folder"):
        jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "b", resume=True)


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
    made = jensen.train("made", np.eye(4).repeat(5, 0), epochs=1)
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


@pytest.mark.parametrize(
    ("stochastic", "settings"),
    [(False, {"prior": "mixture"}), (True, {"prior": "mixture"}), (True, {"prior": "aggregated"})],
    ids=str,
)
def test_without_a_likelihood_the_density_of_codes_is_what_counts(stochastic, settings, tmp_path):
    """No number is called a bound where there is none."""
    x = 1000 * np.random.default_rng(0).normal(size=(300, 3))  # in units of their own
    wae = jensen.train("wae", x, settings={"latents": 2, "stochastic": stochastic}, epochs=2)
    run = jensen.train_prior(wae, settings=settings, epochs=2, out=tmp_path / "run")
    assert all(set(line["valid"]) == {"log_prior"} for line in run.log)
    valid = run.tensors(run.data().split("valid")).x
    if not stochastic:
        with torch.no_grad():
            expected = run.model.p["z"].module().log_prob(run.model.q["z"].module(valid)).mean()
        assert max(line["valid"]["log_prior"] for line in run.log) == pytest.approx(float(expected), abs=1e-4)
    best = max(line["valid"]["log_prior"] for line in run.log)
    assert summarize(run, "run")["valid"]["nats"] == best
    page = numbers(run)[1]
    assert f"{best:.2f}" in page and "no likelihood" in page and "lower bound" not in page
