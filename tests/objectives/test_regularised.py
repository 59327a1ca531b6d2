"""Costs in place of the KL, by hand and against moments in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.objectives.linear import Linear
from torch import Tensor

from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model
from jensen.data import Schema
from jensen.distributions.multivariate import FullNormal
from jensen.objectives import Terms
from jensen.objectives.moments import code_covariance
from jensen.objectives.schedules import Rise
from jensen.registry import build, find, names


def linear_model(objective: str, **settings) -> Model:
    p = Joint({"z": Normal((2,)).double(), "x | z": Linear([[1.0, 0.2], [0.0, 0.7]], [0.5, 0.5])})
    q = Joint({"z | x": Linear([[0.9, 0.3], [0.5, -0.8]], [0.8, 0.6])})
    return Model(p, q, find("objective", objective).function(**settings))


def loss_of(model: Model, batch: dict[str, Tensor], progress: float = 1.0) -> tuple[Terms, Tensor, Tensor]:
    """Terms, and reconstruction and KL of each datum at the same draws."""
    torch.manual_seed(5)
    terms = model.objective.stages[0].phases[0].loss(model, batch, progress)
    torch.manual_seed(5)
    e = model.evidence(batch)
    return terms, e.reconstruction(), e.kl("z")


X = torch.tensor([[0.3, 1.0], [-1.2, 0.4], [0.8, -0.7], [2.0, 0.1]], dtype=torch.float64)
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


# Warm-ups


@pytest.mark.parametrize(
    ("rise", "progress", "value"),
    [
        (Rise(0.0), 0.0, 1.0),
        (Rise(0.5), 0.0, 0.0),
        (Rise(0.5), 0.3, 0.6),
        (Rise(0.5), 1.0, 1.0),
        (Rise(0.5, 4), 0.0625, 0.5),  # Fu et al.: four cycles, rising over half of each
        (Rise(0.5, 4), 0.2, 1.0),
        (Rise(0.5, 4), 0.25, 0.0),
        (Rise(0.5, 4), 0.78125, 0.25),
        (Rise(0.5, 4), 1.0, 1.0),
    ],
)
def test_rises(rise, progress, value):
    assert rise(progress) == pytest.approx(value)


@pytest.mark.parametrize("rise", [Rise(0.0), Rise(0.3), Rise(0.5, 4), Rise(0.2, 3), Rise(0.0, 3)])
def test_a_rise_is_over_where_it_says(rise):
    after = np.linspace(rise.end + 1e-9, 1, 50)
    assert all(rise(progress) == 1 for progress in after)
    assert not rise.end or rise(rise.end - 1e-6) < 1


def test_a_cyclical_weight_is_that_of_the_divergence():
    model = linear_model("elbo", warmup=0.5, cycles=4, beta=3.0)
    for progress, weight in ((0.0625, 1.5), (0.25, 0.0), (0.45, 3.0)):
        terms, reconstruction, kl = loss_of(model, {"x": X}, progress)
        torch.testing.assert_close(terms.loss, (weight * kl - reconstruction).mean())
        torch.testing.assert_close(terms.logged["elbo"], (reconstruction - kl).mean().detach())
    assert model.objective.stages[0].warmup == 0.875  # early stopping waits for the last rise


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize(("progress", "held"), [(0.0, 0.0), (0.25, 5.0), (0.5, 10.0), (0.9, 10.0)])
def test_capacity_holds_the_divergence_at_what_has_risen(progress, held, weight):
    """γ |KL − C|, the KL being the batch's mean, on either side of C."""
    model = linear_model("capacity", gamma=30.0, capacity=10.0)
    batch = {"x": X} if weight is None else {"x": X, "weight": weight}
    w = torch.ones(4, dtype=torch.float64) if weight is None else weight
    terms, reconstruction, kl = loss_of(model, batch, progress)
    mean = (w * kl).sum() / w.sum()
    assert (mean > held) == (progress == 0)
    torch.testing.assert_close(terms.loss, 30.0 * (mean - held).abs() - (w * reconstruction).sum() / w.sum())
    torch.testing.assert_close(terms.logged["kl_z"], mean.detach())


def test_capacity_is_that_of_the_mean_and_not_of_each_datum():
    """q(z | x) = N(x, I): KL ‖x‖²/2 is 0.02 and 2, at C = 1 a distance of 0.01; of each alone 0.98 and 1."""
    model = linear_model("capacity", gamma=30.0, capacity=1.0)
    with torch.no_grad():
        model.q["z"].module.matrix.copy_(torch.eye(2))
        model.q["z"].module.scale.fill_(1.0)
    terms, reconstruction, _ = loss_of(model, {"x": torch.tensor([[0.2, 0.0], [0.0, 2.0]], dtype=torch.float64)})
    assert (terms.loss + reconstruction.mean()).item() == pytest.approx(30 * 0.01, abs=1e-6)


# DIP-VAE


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_covariances_of_codes_are_those_of_a_linear_map(weight):
    """Cov[A x] = A Cov[x] Aᵀ, and q(z) has S more."""
    model = linear_model("dip-vae")
    batch = {"x": X} if weight is None else {"x": X, "weight": weight}
    e = model.evidence(batch)
    a = model.q["z"].module.matrix.detach().numpy()
    between = a @ np.cov(X.numpy().T, aweights=None if weight is None else weight.numpy(), ddof=0) @ a.T
    found = code_covariance(e.q["z"], batch, within=False).detach().numpy()
    np.testing.assert_allclose(found, between, atol=1e-12)
    found = code_covariance(e.q["z"], batch, within=True).detach().numpy()
    np.testing.assert_allclose(found, between + np.diag([0.64, 0.36]), atol=1e-12)


def test_covariances_within_of_a_full_posterior_are_averaged():
    tril = torch.tensor([[[1.0, 0.0], [0.4, 0.7]], [[0.3, 0.0], [-0.2, 0.5]]], dtype=torch.float64)
    q = FullNormal(torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64), tril)
    draws = q.sample((200_000,)).flatten(0, 1)
    found = code_covariance(q, {"x": torch.zeros(2, 1)}, within=True)
    torch.testing.assert_close(found, draws.mT.cov(correction=0), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("settings", "off", "on"),
    [
        ({"variant": "i"}, 10.0, 100.0),
        ({"variant": "ii"}, 10.0, 10.0),
        ({"variant": "ii", "off_diagonal": 2.0, "diagonal": 0.5}, 2.0, 0.5),
    ],
)
def test_dip_by_hand(settings, off, on):
    model = linear_model("dip-vae", **settings)
    terms, reconstruction, kl = loss_of(model, {"x": X})
    c = code_covariance(model.evidence({"x": X}).q["z"], {"x": X}, within=settings["variant"] == "ii")
    penalty = off * (c[0, 1] ** 2 + c[1, 0] ** 2) + on * ((c[0, 0] - 1) ** 2 + (c[1, 1] - 1) ** 2)
    torch.testing.assert_close(terms.loss, (kl - reconstruction).mean() + penalty)
    torch.testing.assert_close(terms.logged["penalty"], penalty.detach())
    halfway = loss_of(model, {"x": X}, 0.05)[0].loss
    torch.testing.assert_close(halfway, 0.5 * (kl.mean() + penalty) - reconstruction.mean())


# What is logged as the bound is the bound

HEAVY = [  # penalties that would show
    ("elbo", {"beta": 8.0}),
    ("elbo", {"free_bits": 2.0, "warmup": 0.9}),
    ("elbo", {"warmup": 0.5, "cycles": 3}),
    ("elbo", {"kl": "sticking-the-landing", "beta": 0.1}),
    ("elbo", {"kl": "monte-carlo", "samples": 3}),
    ("capacity", {"capacity": 50.0}),
    ("beta-tcvae", {"beta": 30.0, "alpha": 0.0, "sampling": "weighted"}),
    ("factor-vae", {"gamma": 50.0}),
    ("dip-vae", {"variant": "i", "off_diagonal": 50.0}),
    ("iw", {"particles": 3, "averages": 2, "elbo_share": 0.3}),
    ("iw", {"gradient": "pathwise"}),
]
REFINED = ("per-datum", "semi-amortized")  # whose ELBO is that of other posteriors than the encoder's


def cases() -> list[tuple[str, dict]]:
    return [(name, {}) for name in names("objective")] + HEAVY


@pytest.mark.parametrize(("name", "settings"), cases(), ids=str)
def test_what_is_logged_as_the_bound_is_the_walks(name, settings):
    """In training, halfway, and in validation, against the mean of log w, within 4.5 standard errors."""
    tanh = {"name": "mlp", "hidden": [7], "activation": "tanh"}
    objective = {"name": name, **settings}
    torch.manual_seed(0)
    schema = Schema.of_pictures((1, 3, 3), levels=2)
    model = build("vae", schema, {"latents": 2, "encoder": tanh, "decoder": tanh, "objective": objective}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    x = torch.bernoulli(torch.full((20, 1, 3, 3), 0.4, dtype=torch.float64))
    weight = torch.linspace(0, 2, 20, dtype=torch.float64)
    batch = {"x": x, "weight": weight}
    key = "elbo_amortized" if name in REFINED else "elbo"
    with torch.no_grad():
        truth = (model.evidence({"x": x}, 5000).log_w * weight).sum(1) / weight.sum()
    logged = []
    for phase in model.objective.stages[0].phases:
        found = [phase.loss(model, batch, 0.5).logged for _ in range(100)]
        logged += [torch.stack([line[key] for line in found]).detach()] if key in found[0] else []
    validated = [model.objective.validate(model, batch) for _ in range(10 if name in REFINED else 100)]
    if key in validated[0]:
        logged.append(torch.stack([(line[key].detach() * weight).sum() / weight.sum() for line in validated]))
    assert logged or model.objective.stages[0].monitor != "elbo"
    for values in logged:
        stderr = math.hypot(values.std() / math.sqrt(len(values)), truth.std() / math.sqrt(len(truth)))
        assert abs(values.mean() - truth.mean()) < 4.5 * stderr
        assert stderr < 0.1
