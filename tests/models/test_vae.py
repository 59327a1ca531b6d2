"""The variational autoencoder against quadrature over its latent line and plane."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jensen.core import Model
from jensen.data import Schema
from jensen.objectives.estimators import elbo, importance
from jensen.registry import build

TANH = {"name": "mlp", "hidden": [5], "activation": "tanh"}


def lecture_vae(latents: int) -> Model:
    torch.manual_seed(2)
    schema = Schema.of_pictures((1, 2, 2), levels=2)
    model = build("vae", schema, {"latents": latents, "encoder": TANH, "decoder": TANH}).double()
    with torch.no_grad():
        for parameter in model.p.parameters():
            parameter.normal_(0, 0.7)
        for parameter in model.q.parameters():  # near the prior, which is a fair proposal here
            parameter.normal_(0, 0.2)
    return model.eval()


def pictures() -> Tensor:
    """All sixteen."""
    return torch.tensor([[int(c) for c in f"{i:04b}"] for i in range(16)], dtype=torch.float64).reshape(-1, 1, 2, 2)


def grid(latents: int) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes, (Q, L), and log-weights, (Q,), for expectations under N(0, I)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    axes = np.meshgrid(*[nodes] * latents)
    logs = sum(np.meshgrid(*[np.log(weights / weights.sum())] * latents))
    points = np.stack([a.ravel() for a in axes], 1)
    return torch.from_numpy(points), torch.from_numpy(np.ravel(logs))


def exact_log_likelihood(model: Model, x: Tensor) -> Tensor:
    """log ∫ N(z) p(x | z) dz, p(x | z) = Bernoulli(sigmoid(V tanh(W z + b) + β)), from the weights alone."""
    z, log_weight = grid(model.p["z"].module.event_shape[0])
    (w, b), (v, beta) = (
        (m.weight.detach(), m.bias.detach()) for m in model.p["x"].module.network if isinstance(m, nn.Linear)
    )
    p = torch.sigmoid(torch.tanh(z @ w.T + b) @ v.T + beta)  # (Q, 4)
    flat = x.flatten(1)[:, None]
    terms = (flat * p.log() + (1 - flat) * (1 - p).log()).sum(-1)  # (B, Q)
    return torch.logsumexp(terms + log_weight, 1)


@pytest.mark.parametrize("latents", [1, 2])
def test_importance_weighting_meets_quadrature(latents):
    model, x = lecture_vae(latents), pictures()
    truth = exact_log_likelihood(model, x)
    assert truth.exp().sum().item() == pytest.approx(1, abs=1e-8)  # the quadrature itself is right
    found = importance(model, {"x": x}, 10_000)
    gap = (found.rows - truth).abs()
    assert (gap < 4.5 * found.variance.sqrt() + 1e-6).all()
    assert found.variance.sqrt().median() < 0.02
    bound = elbo(model, {"x": x}, 2000)
    assert (bound.rows < truth + 4 * bound.variance.sqrt()).all()


def test_samples_have_the_probabilities_of_the_density():
    model, x = lecture_vae(1), pictures()
    truth = exact_log_likelihood(model, x).exp().numpy()
    n = 40_000
    with torch.no_grad():
        drawn = model.sample(n)["x"].flatten(1)
    codes = (drawn @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=drawn.dtype)).long()
    counts = torch.bincount(codes, minlength=16).numpy()
    assert (n * truth > 5).all()
    chi_square = ((counts - n * truth) ** 2 / (n * truth)).sum()
    assert chi_square < 37.7  # the 0.999 quantile at 15 degrees of freedom


def test_it_starts_at_the_marginal_of_the_data():
    """The decoder's first output bias gives each pixel its frequency."""
    schema = Schema.of_pictures((1, 2, 2), levels=2)
    model = build("vae", schema, {"latents": 2, "decoder": "linear"})
    frequency = torch.tensor([0.1, 0.5, 0.9, 0.0])
    x = torch.bernoulli(frequency.expand(2000, 4)).reshape(-1, 1, 2, 2)
    model.initialize({"x": x})
    bias = model.p["x"].module.network.output.bias.detach()
    torch.testing.assert_close(torch.sigmoid(bias), x.flatten(1).mean(0), atol=1e-3, rtol=0)


def test_grey_levels_reach_the_encoder_as_numbers_of_order_one():
    schema = Schema.of_pictures((1, 2, 2), levels=256)
    model = build("vae", schema, {"latents": 2})
    seen = []
    first = next(m for m in model.q["z"].module.network.modules() if isinstance(m, nn.Linear))
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.tensor([0.0, 255.0, 127.5, 51.0]).reshape(1, 1, 2, 2)
    model.evidence({"x": x})
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([-1.0, 1.0, 0.0, -0.6]))


def test_mean_only_posterior_costs_half_the_squared_mean():
    """With unit variance KL = ½‖μ‖²."""
    schema = Schema.of_table(np.random.default_rng(0).normal(size=(9, 3)), ["a", "b", "c"])
    model = build("vae", schema, {"latents": 2, "posterior": "mean"})
    e = model.evidence({"x": torch.randn(5, 3)})
    torch.testing.assert_close(e.kl("z"), 0.5 * e.q["z"].mean.square().sum(1))


def test_a_gaussian_score_of_a_table_is_in_the_users_units():
    """Rescaling a column by a factor moves every log-density by −log of it and nothing else."""
    from jensen.jobs.train import train

    x = np.random.default_rng(0).normal(size=(200, 3))
    small = {"latents": 2, "encoder": "linear", "decoder": "linear"}
    a = train("vae", x, settings=small, epochs=2).score(estimator="elbo")
    b = train("vae", x * [1, 1000, 1], settings=small, epochs=2).score(estimator="elbo")
    assert b.nats - a.nats == pytest.approx(-math.log(1000), abs=1e-3)
