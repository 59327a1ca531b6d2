"""Variational autoencoders whose hidden variables are bits or classes: their gradients against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from jensen.core import Model, seeded
from jensen.data import Schema
from jensen.errors import ConfigError
from jensen.objectives.estimators import elbo, importance
from jensen.registry import build

SCHEMA = Schema.of_pictures((1, 2, 3), levels=2)
BITS = {"latents": 3, "prior": "bernoulli", "posterior": "bernoulli"}
CLASSES = {
    "latents": 6, "prior": "categorical", "prior.classes": 3, "posterior": "categorical", "posterior.classes": 3,
}  # fmt: skip


def made(settings: dict, **more) -> Model:
    network = {"name": "mlp", "hidden": [6], "activation": "tanh"}
    with seeded(0):
        model = build("vae", SCHEMA, {"encoder": network, "decoder": network, **settings, **more}).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def codes(settings: dict) -> Tensor:
    """Every z there is."""
    if settings["prior"] == "bernoulli":
        return torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    pairs = list(itertools.product(range(3), repeat=2))
    return one_hot(torch.tensor(pairs), 3).flatten(1).double()


def enumerated(model: Model, settings: dict, x: Tensor) -> tuple[Tensor, Tensor]:
    """ELBO and log p(x) of each datum, (B,), by listing z."""
    z = codes(settings)
    k, b = len(z), len(x)
    log_q = model.q["z"].module(x).log_prob(z.unsqueeze(1))  # (K, B)
    log_joint = model.p["z"].module().log_prob(z)[:, None] + torch.stack(
        [model.p["x"].module(z[i : i + 1].expand(b, -1)).log_prob(x) for i in range(k)]
    )
    return (log_q.exp() * (log_joint - log_q)).sum(0), log_joint.logsumexp(0)


def pictures(n: int) -> Tensor:
    return torch.bernoulli(torch.full((n, 1, 2, 3), 0.4, dtype=torch.float64))


@pytest.mark.parametrize("settings", [BITS, CLASSES], ids=["bits", "classes"])
@pytest.mark.parametrize(
    "objective",
    [
        {"objective.baseline": "none"},
        {},  # running
        {"objective.baseline": "learned"},
        {"objective.samples": 3},  # leave-one-out
        {"objective.kl": "monte-carlo"},
        {"objective.kl": "monte-carlo", "objective.samples": 2, "objective.beta": 1.0},
    ],
    ids=["none", "running", "learned", "leave-one-out", "monte-carlo", "monte-carlo, leave-one-out"],
)
def test_the_score_gradient_of_the_bound_is_that_of_enumeration(settings, objective):
    """Of each parameter of q, over many rows of one datum, within 4.5 standard errors."""
    model, rows, repeats = made(settings, **objective), 400, 60
    x = pictures(1)
    parameters = list(model.q.parameters())
    truth = torch.autograd.grad(enumerated(model, settings, x)[0].sum(), parameters)
    truth = torch.cat([g.flatten() for g in truth])
    (phase,) = model.objective.stages[0].phases
    batch = {"x": x.expand(rows, -1, -1, -1)}
    found = []
    for _ in range(repeats):
        loss = phase.loss(model, batch, 1.0).loss
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(-loss, parameters)]))
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(repeats)
    assert ((found.mean(0) - truth).abs() <= 4.5 * error + 1e-9).all()
    assert (truth.abs() > 4.5 * error).double().mean() > 0.1  # a gradient of zero would not pass


@pytest.mark.parametrize("settings", [BITS, CLASSES], ids=["bits", "classes"])
def test_the_gradient_of_the_importance_bound_is_that_of_enumeration(settings):
    """K = 2: E over all pairs of draws of log ½ (w₁ + w₂)."""
    model = made(settings, **{"objective": "iw", "objective.gradient": "leave-one-out", "objective.particles": 2})
    x, z = pictures(1), codes(settings)
    parameters = list(model.q.parameters())
    log_q = model.q["z"].module(x).log_prob(z.unsqueeze(1))[:, 0]
    log_p = model.p["z"].module().log_prob(z) + model.p["x"].module(z).log_prob(x)
    log_w = log_p - log_q
    pair = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
    truth = torch.autograd.grad(((log_q[:, None] + log_q[None]).exp() * pair).sum(), parameters)
    truth = torch.cat([g.flatten() for g in truth])
    (phase,) = model.objective.stages[0].phases
    batch = {"x": x.expand(400, -1, -1, -1)}
    found = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(-phase.loss(model, batch, 1.0).loss, parameters)])
            for _ in range(60)
        ]
    )
    assert ((found.mean(0) - truth).abs() <= 4.5 * found.std(0) / math.sqrt(60) + 1e-9).all()


@pytest.mark.parametrize("settings", [BITS, CLASSES], ids=["bits", "classes"])
@pytest.mark.parametrize("through", ["score", "straight-through", "gumbel"])
def test_bounds_are_those_of_enumeration_however_the_gradient_is_found(settings, through):
    model, x = made(settings, **{"posterior.gradient": through}).eval(), pictures(6)
    with torch.no_grad():
        bound, log_p = enumerated(model, settings, x)
        drawn, weighed = elbo(model, {"x": x}, 2000), importance(model, {"x": x}, 2000)
    assert ((drawn.rows - bound).abs() < 4.5 * drawn.variance.sqrt()).all()
    assert ((weighed.rows - log_p).abs() < 4.5 * weighed.variance.sqrt() + 0.01).all()
    assert (bound <= log_p).all()


@pytest.mark.parametrize("settings", [BITS, CLASSES], ids=["bits", "classes"])
@pytest.mark.parametrize(
    "how",
    [
        {"objective.samples": 4},
        {"objective.baseline": "running"},
        {"objective.baseline": "learned"},
        {"posterior.gradient": "straight-through"},
        {"posterior.gradient": "gumbel"},
        {"objective": "iw", "objective.gradient": "leave-one-out"},
    ],
    ids=["leave-one-out", "running", "learned", "straight-through", "gumbel", "importance-weighted"],
)
def test_training_learns_the_patterns(settings, how):
    """Four pictures, each as likely: log p is at most −log 4, and −6 log 2 where nothing is hidden. Local optima lie
    between."""
    model = made(settings, **how)
    x = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]]).double()
    x = x.reshape(4, 1, 2, 3)
    (phase,) = model.objective.stages[0].phases
    optimizer = torch.optim.Adam(phase.parameters(model), 0.02)
    before = float(enumerated(model, settings, x)[1].mean().detach())
    for _ in range(400):
        optimizer.zero_grad()
        phase.loss(model, {"x": x.repeat(16, 1, 1, 1)}, 1.0).loss.backward()
        optimizer.step()
    bound, log_p = (float(v.mean().detach()) for v in enumerated(model, settings, x))
    assert log_p <= -math.log(4) + 1e-9
    assert bound > -6 * math.log(2) + 1
    assert bound > before + 1


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="live on different sets: real numbers, bits"):
        made({"latents": 3, "prior": "bernoulli"})
    with pytest.raises(ConfigError, match="multiple of the 4 classes"):
        made({**CLASSES, "prior.classes": 4})
    with pytest.raises(ConfigError, match=r"needs objective\.samples=2"):
        made(BITS, **{"objective.baseline": "leave-one-out"})
    for objective in ({"objective.gradient": "pathwise"}, {}):
        model = made(BITS, **{"objective": "iw", **objective})
        with pytest.raises(ConfigError, match="no gradient"):
            model.objective.stages[0].phases[0].loss(model, {"x": pictures(2)}, 1.0)


def test_a_code_of_bits_is_no_lossy_one():
    assert made(BITS).capabilities("counting").lossy == "no"
