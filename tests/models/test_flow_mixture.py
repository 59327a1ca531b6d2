"""A mixture of flows against mixtures that are known: sums by hand, quadrature, scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.mixture import GaussianMixture
from torch import Tensor

from jensen.conditionals.mixtures import FlowMixture, MixtureOf
from jensen.core import EXACT, Model
from jensen.data import Schema
from jensen.distributions import DiagonalNormal
from jensen.registry import build

GAUSSIANS = {"name": "householder", "scale": True, "reflections": 2}


def clusters(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three tilted normals far apart, with weights ½, ¼, ¼: rows and which they are of."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, n, p=[0.5, 0.25, 0.25])
    centres = np.array([[0.0, 0.0], [6.0, 1.0], [-2.0, 7.0]])
    shapes = np.array([[[1.0, 0.8], [0.0, 0.4]], [[0.5, -0.3], [0.0, 0.6]], [[0.7, 0.0], [0.0, 0.7]]])
    return centres[which] + np.einsum("ni,nij->nj", rng.normal(size=(n, 2)), shapes[which]), which


def made(rows: np.ndarray, **settings: object) -> tuple[Model, Schema]:
    schema = Schema.of_table(rows, ["a", "b"], ["real"] * 2)
    torch.manual_seed(0)
    return build("flow-mixture", schema, {"components": 3, "flow": GAUSSIANS, **settings}).double(), schema


def moved(model: Model) -> MixtureOf:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.p["x"].module()


@pytest.mark.parametrize("flow", [GAUSSIANS, {"name": "planar", "layers": 3, "direction": "density"}], ids=str)
def test_it_is_the_sum_of_its_parts_and_integrates_to_one(flow):
    model, _ = made(clusters(50)[0], flow=flow)
    p = moved(model)
    assert model.likelihood == EXACT and model.hidden == []
    axis = torch.linspace(-12, 12, 240, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        weights = p.logits.softmax(0)
        by_hand = sum(w * part.log_prob(x).exp() for w, part in zip(weights, p.parts, strict=True))
        torch.testing.assert_close(p.log_prob(x).exp(), by_hand)
        assert by_hand.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-3)  # pyright: ignore
        share = p.responsibilities(x[::97])
    torch.testing.assert_close(share.sum(-1), torch.ones(len(share)).double())
    assert torch.equal(model.evidence({"x": x[:5]}, 3).log_w, p.log_prob(x[:5]).expand(3, -1))


def test_samples_follow_the_density():
    model, _ = made(clusters(50)[0])
    p = moved(model)
    with torch.no_grad():
        drawn = model.sample(4000)["x"]
        axis = torch.linspace(-15, 15, 301, dtype=torch.float64)
        density = p.log_prob(torch.cartesian_prod(axis, axis)).exp().reshape(301, 301)
    for dim in (0, 1):
        margin = density.sum(1 - dim) * (axis[1] - axis[0])
        cumulative = torch.cumulative_trapezoid(margin, axis).numpy()
        found = kstest(drawn[:, dim].numpy(), lambda v, c=cumulative: np.interp(v, axis[1:].numpy(), c))
        assert found.pvalue > 1e-4
    error = (p.variance / 4000).sqrt() + (p.variance / 256).sqrt()
    assert ((drawn.mean(0) - p.mean).abs() < 4.5 * error).all()


def test_of_gaussian_parts_it_learns_what_scikit_learn_does():
    """Full batches from its own start; log-likelihood of unseen rows, weights and clusters."""
    rows, _ = clusters(600)
    unseen, which = clusters(600, seed=1)
    model, schema = made(rows)
    x = schema.prepare(rows).double()
    model.initialize({"x": x})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        (-model.evidence({"x": x}).elbo().mean()).backward()
        optimizer.step()
    oracle = GaussianMixture(3, n_init=3, random_state=0).fit(rows)
    with torch.no_grad():
        p = model.p["x"].module()
        found = p.log_prob(schema.prepare(unseen).double()) + schema.log_jacobian
        share = p.responsibilities(schema.prepare(unseen).double())
    assert found.mean().item() == pytest.approx(oracle.score(unseen), abs=0.02)
    torch.testing.assert_close(
        p.logits.detach().softmax(0).sort().values, torch.from_numpy(np.sort(oracle.weights_)), atol=0.02, rtol=0
    )
    labels = share.argmax(1).numpy()
    agreement = np.array([[(labels == i)[which == j].mean() for j in range(3)] for i in range(3)]).max(0)
    assert (agreement > 0.97).all()


def test_components_start_apart():
    """From the first data each flow takes a neighbourhood of its own."""
    rows, which = clusters(300)
    model, schema = made(rows)
    model.initialize({"x": schema.prepare(rows).double()})
    with torch.no_grad():
        means = model.p["x"].module().sample((20_000,))
        share = model.p["x"].module().responsibilities(schema.prepare(rows).double())
    assert means.isfinite().all()
    assert len(set(share.argmax(1)[torch.from_numpy(which) == 1].tolist())) < 3
    centres = torch.stack([part.sample((2000,)).mean(0) for part in model.p["x"].module().parts])
    assert torch.pdist(centres).min() > 0.5


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_are_enough_to_start(rows):
    model, schema = made(clusters(50)[0])
    x = schema.prepare(clusters(rows)[0]).double()
    model.initialize({"x": x})
    assert torch.isfinite(model.evidence({"x": x}).elbo()).all()


def test_given_labels_the_weights_depend_on_them():
    rows, which = clusters(300)
    schema = Schema.of_table(rows, ["a", "b"], ["real"] * 2, classes=("p", "q", "r"), label="y")
    settings = {"components": 2, "flow": GAUSSIANS, "conditional": True}
    model = build("flow-mixture", schema, settings).double()
    y = torch.from_numpy(which)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    batch = {"x": schema.prepare(rows).double(), "y": y}
    p = model.p["x"].module(y)
    assert p.batch_shape == (300,) and len({tuple(row) for row in p.logits.tolist()}) == 3
    assert torch.isfinite(model.evidence(batch, 2).log_w).all()
    assert model.sample(300, {"y": y})["x"].shape == (300, 2)
    three = model.sample(3000, {"y": torch.full((3000,), 2)})["x"]
    one = model.p["x"].module(torch.tensor([2]))
    assert ((three.mean(0) - one.mean[0]).abs() < 5 * (one.variance[0] / 256).sqrt()).all()


def test_particles_and_data_are_seen_apart():
    k, b = 3, 4

    def parts(rows: int) -> list[DiagonalNormal]:
        torch.manual_seed(2)
        return [DiagonalNormal(torch.randn(rows, 2), torch.rand(rows, 2) + 0.5) for _ in range(2)]

    logits: Tensor = torch.randn(k * b, 2)
    flat = MixtureOf(logits, parts(k * b))
    value = torch.randn(b, 2)
    seen = flat.unflatten((k, b))
    assert seen.batch_shape == (k, b) and seen.sample((5,)).shape == (5, k, b, 2)
    torch.testing.assert_close(seen.log_prob(value), flat.log_prob(value.repeat(k, 1)).reshape(k, b))
    torch.testing.assert_close(seen.detach().log_prob(value), seen.log_prob(value))


def test_whole_numbers_have_noise_and_a_bound():
    schema = Schema.of_table(np.random.default_rng(0).poisson(3.0, (40, 2)).astype(float), ["a", "b"], ["count"] * 2)
    model = build("flow-mixture", schema, {"components": 2, "flow": GAUSSIANS, "dequantizer": "variational"})
    assert str(model) == "p = (v) (x | v), q = (v | x)"
    assert isinstance(model.p["v"].module, FlowMixture)
    assert torch.isfinite(model.evidence({"x": torch.ones(5, 2)}, 3).log_w).all()
