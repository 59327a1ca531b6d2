"""Free bits where gradients are score functions, against enumeration of all codes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from jensen.core import Model, seeded
from jensen.data import Schema
from jensen.errors import ConfigError
from jensen.registry import build

ROWS, REPEATS = 4000, 25


def bits(**settings) -> Model:
    """Two bits behind three."""
    schema = Schema.of_pictures((1, 1, 3), levels=2)
    common = {
        "latents": 2,
        "prior": "bernoulli",
        "posterior": "bernoulli",
        "encoder.hidden": [4],
        "decoder.hidden": [4],
    }
    with seeded(0):
        model = build("vae", schema, {**common, **settings}).double()
        for p in model.parameters():
            torch.nn.init.normal_(p)
    return model


def enumerated(model: Model, x: Tensor, weight: float) -> Tensor:
    """−E_q[log p(x | z)] + weight KL(q ‖ p), by all four codes, (B,)."""
    q, p = model.q["z"].module(x), model.p["z"].module()
    codes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=x.dtype)
    total = torch.zeros(len(x), dtype=x.dtype)
    for code in codes:
        z = code.expand(len(x), -1)
        chance = q.log_prob(z).exp()
        divergence = q.log_prob(z) - p.log_prob(z)
        total = total - chance * (model.p["x"].module(z).log_prob(x) - weight * divergence)
    return total


@pytest.mark.parametrize(("free", "paid"), [(50.0, 0.0), (1e-6, 1.0)])
@pytest.mark.parametrize("kl", ["monte-carlo", "closed"])
def test_what_is_free_costs_nothing_along_the_score_either(free, paid, kl):
    settings = {"kl": kl, "samples": 2, "free_bits": free, "free_bits_each": "layer", "warmup": 0.0}
    model = bits(**{f"objective.{k}": v for k, v in settings.items()})
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64).view(1, 1, 1, 3)
    weights = list(model.q.parameters())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(enumerated(model, x, paid).mean(), weights)])
    (phase,) = model.objective.stages[0].phases
    found = []
    with seeded(1):
        for _ in range(REPEATS):
            loss = phase.loss(model, {"x": x.expand(ROWS, -1, -1, -1)}, 1.0).loss
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    found = torch.stack(found)
    error = found.std(0) / REPEATS**0.5
    assert ((found.mean(0) - expected).abs() < 5 * error + 1e-9).all()
    other = torch.cat([g.flatten() for g in torch.autograd.grad(enumerated(model, x, 1 - paid).mean(), weights)])
    assert ((other - expected).abs() > 10 * error).any()  # precise enough to tell


def test_free_bits_of_a_dimension_need_a_closed_form_where_the_score_is_taken():
    model = bits(**{"objective.kl": "monte-carlo", "objective.free_bits": 0.5})
    x = torch.zeros(3, 1, 1, 3, dtype=torch.float64)
    with pytest.raises(ConfigError, match="free_bits"):
        model.objective.stages[0].phases[0].loss(model, {"x": x}, 1.0)
