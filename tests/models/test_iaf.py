"""Inverse autoregressive flows, above all as posteriors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from jensen.core import seeded
from jensen.data import Schema
from jensen.objectives.estimators import elbo
from jensen.registry import build, find
from jensen.transforms import Composed

FLOW = {"posterior": {"name": "flow", "flow": {"name": "iaf", "layers": 2, "hidden": [16]}, "context": 4}}


def bars(n: int) -> torch.Tensor:
    """Binary 4 x 4 pictures of one or two bars, (n, 1, 4, 4)."""
    with seeded(0):
        rows, columns = torch.rand(n, 4, 1) < 0.3, torch.rand(n, 1, 4) < 0.3
    return (rows | columns).float()[:, None]


def vae(**settings):
    small = {"latents": 2, "encoder.hidden": [32], "decoder.hidden": [32]}
    with seeded(0):
        return build("vae", Schema.of_pictures((1, 4, 4), levels=2), {**small, **settings})


def train(model, x: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with seeded(1):
        for _ in range(steps):
            optimizer.zero_grad()
            (-model.evidence({"x": x[torch.randint(len(x), (64,))]}).elbo().mean()).backward()
            optimizer.step()


@pytest.fixture(scope="module")
def trained():
    model = vae(**FLOW)
    x = bars(400)
    before = bound(model, x)
    train(model, x, 400)
    return model.double().eval(), before, bound(model, x.double())


def bound(model, x: torch.Tensor) -> float:
    with seeded(2):
        return elbo(model, {"x": x}, 10).rows.mean().item()


def test_a_posterior_learns(trained):
    _, before, after = trained
    assert after > before + 1


def test_every_weight_of_the_posterior_moves(trained):
    fresh = dict(vae(**FLOW).double().named_parameters())
    model, _, _ = trained
    moved = [name for name, p in model.q.named_parameters() if not torch.equal(p, fresh[f"q.{name}"])]
    assert moved == [name for name, _ in model.q.named_parameters()]


def test_draws_of_a_posterior_bring_their_density(trained):
    """In two dimensions: log q of a draw is the density there, which integrates to one and which draws follow."""
    model, _, _ = trained
    with torch.no_grad():
        q = model.q["z"].module(bars(1).double())
        z, log_q = q.rsample_and_log_prob((20_000,))
        torch.testing.assert_close(log_q, q.log_prob(z), rtol=1e-8, atol=1e-8)
        middle, spread = z.mean((0, 1)), z.std((0, 1))
        steps = (torch.arange(400, dtype=torch.float64) + 0.5) / 400 * 2 - 1  # middles of cells of [-1, 1]
        grid = middle + 8 * spread * torch.cartesian_prod(steps, steps)
        mass = q.log_prob(grid.unsqueeze(1)).exp().view(400, 400) * (8 * spread / 200).prod()
    assert mass.sum() == pytest.approx(1, abs=1e-3)
    edges = [(middle[i] + 8 * spread[i] * torch.linspace(-1, 1, 41, dtype=torch.float64)).numpy() for i in (0, 1)]
    counts = np.histogramdd(z[:, 0].numpy(), edges)[0].flatten()
    expected = len(z) * mass.view(40, 10, 40, 10).sum((1, 3)).flatten().numpy()
    often = expected > 5
    counts, expected = (np.append(v[often], len(z) - v[often].sum()) for v in (counts, expected))
    assert ((counts - expected) ** 2 / np.maximum(expected, 1)).sum() < stats.chi2.ppf(0.9999, len(counts) - 1)


def test_it_says_more_than_a_normal_can(trained):
    """The correlation of z₁ and z₂ in q(z | x), none in a diagonal normal, for some of the pictures."""
    model, _, _ = trained
    with torch.no_grad(), seeded(0):
        z = model.q["z"].module(bars(50).double()).sample((2000,))
    z = (z - z.mean(0)) / z.std(0)
    assert (z[..., 0] * z[..., 1]).mean(0).abs().max() > 0.2


def test_draws_take_one_pass_a_layer():
    transform = find("flow", "iaf").function((5,), 0, layers=3)
    assert (transform.forward_steps, transform.inverse_steps) == (3, 15)


def test_it_is_the_mirror_image_of_a_masked_autoregressive_flow():
    """z_d = exp(s_d) z⁰_d + t_d with s and t of the z⁰ before: the Jacobian of a draw in z⁰ is triangular."""
    with seeded(0):
        transform = find("flow", "iaf").function((4,), 0, layers=1, hidden=[16]).double()
        for p in transform.parameters():
            p.data.add_(0.3 * torch.randn_like(p))
    jacobian = torch.autograd.functional.jacobian(lambda z: transform(z[None])[0], torch.randn(4).double())
    assert (jacobian.triu(1) == 0).all()
    assert (jacobian.tril(-1) + torch.ones(4, 4).triu() != 0).all()


@pytest.mark.parametrize("event", [(1,), (1, 2, 2)])
def test_other_shapes(event):
    transform: Composed = find("flow", "iaf").function(event, 2, hidden=[8])
    c = torch.randn(5, 2)
    with torch.no_grad():
        for p in transform.parameters():
            p.add_(0.1 * torch.randn_like(p))
        x, ladj = transform.forward_and_ladj(torch.randn(5, *transform.domain_shape), c)
        assert x.shape == (5, *event)
        z, back = transform.inverse_and_ladj(x, c)
        torch.testing.assert_close(transform(z, c), x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ladj, -back, rtol=1e-4, atol=1e-4)
