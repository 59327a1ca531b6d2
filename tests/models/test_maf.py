"""Masked autoregressive flows as models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from jensen.core import seeded
from jensen.data import Schema
from jensen.errors import ConfigError
from jensen.registry import build, find
from jensen.transforms import ActNorm, Composed, MaskedAutoregressive, RationalQuadratic


def table(rows: np.ndarray) -> Schema:
    return Schema.of_table(rows, [f"x{i}" for i in range(rows.shape[1])])


def banana(n: int, seed: int = 0) -> np.ndarray:
    """x₁ ~ N(0, 1), x₂ | x₁ ~ N(x₁², 0.5²): log p is known."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return np.stack([x, x**2 + 0.5 * rng.normal(size=n)], 1)


def layers(transform: Composed) -> list[MaskedAutoregressive]:
    return [part for part in transform.chain if isinstance(part, MaskedAutoregressive)]


def made(event: tuple[int, ...], context: int = 0, **settings) -> Composed:
    return find("flow", "maf").function(event, context, **settings)


def test_the_order_is_reversed_from_layer_to_layer():
    orders = [layer.network.order.tolist() for layer in layers(made((4,), layers=3))]
    assert orders == [[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3]]


def test_random_orders_come_back_with_the_weights():
    def fresh(seed: int) -> Composed:
        with seeded(seed):
            return made((6,), order="random", hidden=[8])

    first, second = fresh(0), fresh(1)
    x = torch.randn(5, 6)
    with torch.no_grad():
        for p in first.parameters():
            p.add_(0.3 * torch.randn_like(p))
        assert [a.network.order.tolist() for a in layers(first)] != [a.network.order.tolist() for a in layers(second)]
        second.load_state_dict(first.state_dict())
        assert torch.equal(first.inverse(x), second.inverse(x))
        assert torch.equal(first(x), second(x))


def test_normalisation_stands_between_layers():
    kinds = [type(part) for part in made((3,), layers=3).chain]
    assert kinds == [MaskedAutoregressive, ActNorm, MaskedAutoregressive, ActNorm, MaskedAutoregressive]
    assert ActNorm not in [type(part) for part in made((3,), layers=3, normalize=False).chain]


def test_splines():
    transform = made((3,), map="spline", bins=5, hidden=[8])
    assert all(isinstance(layer.monotone, RationalQuadratic) for layer in layers(transform))
    z = torch.randn(10, 3)
    torch.testing.assert_close(transform.inverse(transform(z)), z, rtol=1e-3, atol=1e-3)


def test_one_size_for_residual_blocks():
    with pytest.raises(ConfigError, match=r"maf: hidden: .* got \[8, 9\]"):
        made((3,), hidden=[8, 9], residual=True)
    made((3,), hidden=[8, 8], residual=True)


def test_it_starts_as_independent_normals():
    """Layers start as the identity, and the normalisation takes mean and deviation from the first data."""
    rows = banana(500)
    model = build("maf", table(rows), {"hidden": [16]}).double()
    x = torch.from_numpy(rows)
    model.initialize({"x": x})
    truth = stats.norm.logpdf(rows, rows.mean(0), rows.std(0)).sum(1)
    np.testing.assert_allclose(model.evidence({"x": x}).elbo().detach(), truth, rtol=1e-6)


def trained(rows: np.ndarray, **settings):
    model = build("maf", table(rows), {"layers": 2, "hidden": [32, 32], **settings})
    x = torch.from_numpy(rows).float()
    model.initialize({"x": x})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (-model.evidence({"x": x[torch.randint(len(x), (256,))]}).elbo().mean()).backward()
        optimizer.step()
    return model


def test_what_is_learned_is_a_density_near_that_of_the_data():
    """It integrates to one in two dimensions, and is within 0.1 nats of the truth, which normals are not."""
    model = trained(banana(2000))
    axis, other = torch.linspace(-6, 6, 241), torch.linspace(-8, 30, 761)
    log_p = log_prob(model, torch.cartesian_prod(axis, other))
    assert log_p.exp().sum() * 0.05**2 == pytest.approx(1, abs=2e-3)
    test = banana(2000, seed=1)
    truth = (stats.norm.logpdf(test[:, 0]) + stats.norm.logpdf(test[:, 1], test[:, 0] ** 2, 0.5)).mean()
    normals = stats.norm.logpdf(test, test.mean(0), test.std(0)).sum(1).mean()
    found = log_prob(model, torch.from_numpy(test).float()).mean().item()
    assert normals < truth - 0.5
    assert truth - 0.1 < found < truth + 0.05


def log_prob(model, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.evidence({"x": x}).elbo()


@pytest.mark.parametrize("settings", [{}, {"map": "spline"}, {"order": "random"}, {"hidden": []}], ids=str)
def test_one_element(settings):
    """A single column, without and with a context."""
    model = build("maf", table(np.random.default_rng(0).normal(size=(50, 1))), settings)
    x = torch.randn(20, 1)
    model.initialize({"x": x})
    log_prob_ = model.evidence({"x": x}).elbo()
    (-log_prob_.mean()).backward()
    assert torch.isfinite(log_prob_).all()
    assert model.sample(7)["x"].shape == (7, 1)
    transform, c = made((1,), 2, **settings), torch.randn(20, 2)
    with torch.no_grad():
        for p in transform.parameters():
            p.add_(0.1 * torch.randn_like(p))
    z = transform.inverse(x, c)
    assert not torch.allclose(z, transform.inverse(x, c.flip(0)))
    torch.testing.assert_close(transform(z, c), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("event", [(1, 2, 3), (2, 2)])
def test_other_shapes_are_flattened(event):
    transform = made(event, hidden=[16])
    z = torch.randn(4, *transform.domain_shape)
    x, ladj = transform.forward_and_ladj(z)
    assert x.shape == (4, *event)
    assert ladj.expand(4).shape == (4,)
    torch.testing.assert_close(transform.inverse(x), z, rtol=1e-4, atol=1e-4)
    assert transform.forward_steps == 5 * int(np.prod(event))
    assert transform.inverse_steps == 5
