"""Hierarchies beside quadrature over their layers, and what top-down ones share between p and q."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jensen.core import Joint, Model, evidence, seeded
from jensen.data import Dataset, Schema, Split
from jensen.distributions import DiagonalNormal
from jensen.errors import ConfigError
from jensen.jobs.latent_health import collapse
from jensen.jobs.train import train
from jensen.nets.bottleneck import Bottleneck
from jensen.objectives.estimators import elbo, importance
from jensen.registry import build, find

BITS = Schema.of_table(np.array(list(itertools.product([0.0, 1.0], repeat=3))), ["a", "b", "c"], ["binary"] * 3)
ALL = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
SMALL: dict[str, Any] = {"encoder.hidden": [6], "decoder.hidden": [6], "upward.hidden": [6], "downward.hidden": [6]}


def tiny(name: str, **settings: Any) -> Model:
    """Two layers of one dimension over three bits, with weights that are not small."""
    given = {"latents": [1, 1], **SMALL, **({"features": 4} if name == "ladder" else {}), **settings}
    with seeded(1):
        model = build(name, BITS, given).double().eval()
        with torch.no_grad():
            for parameter in model.p.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def fitted(model: Model) -> Model:
    """With a q that has been fitted, so that its weights are not far apart."""
    optimizer = torch.optim.Adam(model.q.parameters(), lr=0.02)
    with torch.enable_grad(), seeded(0):
        for _ in range(150):
            optimizer.zero_grad()
            (-model.evidence({"x": ALL}, particles=20).elbo().mean()).backward()
            optimizer.step()
    return model


def log_p_by_quadrature(model: Model) -> Tensor:
    """log p(x) of all x, (8,), by Gauss-Hermite in z_2 and, for each, in z_1 ~ p(z_1 | z_2)."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    e, w = torch.tensor(points), torch.tensor(weights / weights.sum())
    above = e[:, None]  # p(z_2) = N(0, 1)
    found = model.sample(80, {"z2": above})
    inner: Any = model.p["z1"].module(found.get("h1", above))
    z1 = (inner.loc + inner.scale * e).reshape(-1, 1)  # (z_2, z_1)
    z2 = above.repeat_interleave(80, 0)
    values = {"z1": z1, "z2": z2}
    for factor in model.p:
        if factor.deterministic and factor.name not in values:
            values[factor.name] = factor.module(*(values[name] for name in factor.parents))
    met = model.p["x"].module(*(values[name] for name in model.p["x"].parents))
    log_x = torch.stack([met.log_prob(x) for x in ALL], 1)  # (z_2 z_1, x)
    return torch.logsumexp(log_x + torch.outer(w, w).reshape(-1, 1).log(), 0)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ["hvae", "ladder"])
@torch.no_grad()
def test_bounds_are_below_log_p_and_reach_it(name, skip):
    model = fitted(tiny(name, skip=skip))
    log_p = log_p_by_quadrature(model)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)
    with seeded(0):
        bound, tight = elbo(model, {"x": ALL}, 4000), importance(model, {"x": ALL}, 60_000)
    assert (bound.rows < log_p + 4 * bound.variance.sqrt()).all()
    assert bound.rows.mean() < log_p.mean()
    assert (tight.rows - log_p).abs().max() < 0.01


@torch.no_grad()
def test_terms_of_layers_are_closed_where_that_holds():
    """From the top down all are KL divergences; from the bottom up that of z_1 is a log-ratio, and can be negative."""
    down, up = tiny("ladder"), tiny("hvae")
    many = {"x": ALL.repeat(500, 1)}
    with seeded(0):
        e, f = down.evidence(many), up.evidence(many)
    for name in ("z1", "z2"):
        closed, drawn = e.kl(name), e.kl(name, closed=False)
        assert e.closed_kl(name) is not None
        assert (closed >= 0).all()
        error = (drawn - closed).std() / math.sqrt(len(drawn))
        assert abs((drawn - closed).mean()) < 4 * error
    assert f.closed_kl("z1") is None
    assert f.closed_kl("z2") is not None
    assert (f.kl("z1") < 0).any()


def test_precisions_merge_as_a_product_of_densities():
    """N(μ̂, σ̂²) N(μ_p, σ_p²), normalised on a grid."""
    model = tiny("ladder")
    merged: Any = model.q["z1"].module
    with torch.no_grad():
        h, d = torch.randn(2, 5, 4, dtype=torch.float64)
        found, prior, seen = merged(h, d), merged.prior(h), merged.seen(d)
    grid = torch.linspace(-15, 15, 6001, dtype=torch.float64)[:, None, None]
    product = (prior.log_prob(grid) + seen.log_prob(grid)).exp()
    product = product / torch.trapezoid(product, grid[:, 0, 0], dim=0)
    torch.testing.assert_close(product, found.log_prob(grid).exp(), rtol=1e-6, atol=1e-9)


def test_bits_below_a_normal_prior_are_refused():
    """p(z₁ | z₂) is a normal density: bits drawn from q would have a mass there and a density here."""
    with pytest.raises(ConfigError, match="live on different sets"):
        build("hvae", BITS, {"posterior": "bernoulli", "prior": "bernoulli"})


@torch.no_grad()
def test_a_layer_that_is_its_prior_is_not_active():
    """q = p in every layer: the means of z₁ move with z₂, and yet nothing tells of the data."""
    model = tiny("ladder", latents=[3, 2])
    for name in ("z1", "z2"):
        seen: Any = model.q[name].module
        output = (seen.seen if name == "z1" else seen).network.output
        output.weight.zero_()
        output.bias.zero_()
    wide: Any = model.q["z1"].module
    wide.seen.network.output.bias[3:] = 40.0  # σ̂: what the data say of z₁ weighs nothing
    found = collapse(model, {"x": ALL.repeat(20, 1)})
    assert found is not None
    assert not found.ok
    layers: Any = found.evidence["layers"]
    assert layers["z1"]["active_units"] == 0
    assert layers["z1"]["kl"] < 0.01
    assert "mutual_information" not in layers["z1"]
    assert "mutual_information" in layers["z2"]


def test_what_p_and_q_share_is_computed_once():
    model = tiny("ladder", latents=[1, 1, 1])
    counts = dict.fromkeys(["h1", "h2"], 0)
    for name in counts:
        assert model.p[name].module is model.q[name].module

        def count(module: Any, inputs: Any, output: Any, name: str = name) -> None:
            counts[name] += 1

        model.p[name].module.register_forward_hook(count)
    model.evidence({"x": ALL}, particles=3)
    assert counts == {"h1": 1, "h2": 1}
    assert model.inferred == ["z3", "z2", "z1"]


def test_free_bits_of_a_layer_by_hand():
    """A layer whose mean KL is below them costs them, and has no gradient."""
    model, free = tiny("ladder"), 0.08
    (phase,) = find("objective", "elbo").function(free_bits=free, free_bits_each="layer", warmup=0.0).stages[0].phases
    with seeded(0):
        terms = phase.loss(model, {"x": ALL}, 1.0)
    with seeded(0):
        e = model.evidence({"x": ALL})
    kl = {name: e.kl(name).mean() for name in ("z1", "z2")}
    assert min(kl.values()) < free < max(kl.values())  # one of each
    by_hand = -(e.reconstruction().mean() - sum(max(v.item(), free) for v in kl.values()))
    assert terms.loss.item() == pytest.approx(by_hand.item(), rel=1e-9)
    assert terms.logged["elbo"].item() == pytest.approx((e.reconstruction().mean() - sum(kl.values())).item(), rel=1e-9)


PICTURES = Schema.of_pictures((1, 9, 6), levels=2)


def deep(**settings: Any) -> Model:
    given = {"layers": [8, 8, 6], "latents": 2, "channels": 12, "middle": 6, **settings}
    with seeded(2):
        return build("very-deep", PICTURES, given)


def pictures(n: int) -> Tensor:
    return torch.rand(n, 1, 9, 6, generator=torch.Generator().manual_seed(3)).round()


def test_a_very_deep_model_starts_stable():
    """Twenty-two layers: each starts with no KL, and the state that reaches the data keeps its size with depth."""
    shallow, far = deep(layers=[2, 1, 1]), deep(layers=[40, 12, 12])
    with torch.no_grad(), seeded(0):
        found = [m.evidence({"x": pictures(64)}) for m in (shallow, far)]
    assert sum(kl.abs().max() for kl in found[1].divergences().values()) < 1e-5
    sizes = [e.values["h0"].std().item() for e in found]
    assert 1 / 1.4 < sizes[1] / sizes[0] < 1.4
    loss = -deep().evidence({"x": pictures(8)}).elbo().mean()
    loss.backward()
    assert torch.isfinite(loss)


def test_light_training_is_the_same_and_keeps_less():
    """Recomputing the inside of blocks changes no gradient, and holds fewer bytes for the backward pass."""

    def step(light: bool) -> tuple[list[Tensor], int]:
        model, kept = deep(light=light).double(), {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with seeded(0), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = -model.evidence({"x": pictures(16).double()}).elbo().mean()
        held = sum(kept.values())
        loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None], held

    (usual, much), (light, little) = step(False), step(True)
    assert len(usual) == len(light)
    for a, b in zip(usual, light, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert little < 0.5 * much


def test_a_bottleneck_starts_near_the_identity():
    h = torch.randn(4, 8, 5, 5)
    near, far = (Bottleneck(8, 4, (5, 5), depth)(h) - h for depth in (10_000, 1))
    assert near.abs().mean() < 0.02 * far.abs().mean()


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    rows = (rng.random((64, 1, 8, 8)) < np.linspace(0.05, 0.9, 64).reshape(-1, 1, 1, 1)).astype(np.uint8)
    parts = {"train": Split(rows), "valid": Split(rows[:16]), "test": Split(rows[16:40])}
    data = Dataset("toy", Schema.of_pictures((1, 8, 8), levels=2), parts)
    return train("ladder", data, settings={"latents": [4, 3, 2], "features": 16}, epochs=2)


def test_a_temperature_for_a_layer(trained):
    """It scales what that layer alone adds to the layer above it."""
    with seeded(0):
        cold = trained.model.sample(2000, temperature={"z3": 1e-6})
        usual = trained.model.sample(2000)
    assert cold["z3"].std() < 1e-5
    assert usual["z3"].std().item() == pytest.approx(1, abs=0.1)
    spread: Any = trained.model.p["z2"].module(cold["h2"])
    noise = ((cold["z2"] - spread.loc) / spread.scale).std().item()
    assert noise == pytest.approx(1, abs=0.05)
    assert trained.sample(3, temperature={"z1": 0.5, "z3": 0.1}).shape == (3, 1, 8, 8)
    with pytest.raises(ConfigError, match=r"--temperature: p draws no 'z4'.*z3, z2, z1, x"):
        trained.sample(3, temperature={"z4": 0.5})
    with pytest.raises(ConfigError, match=r"--temperature: z2: expected > 0, got 0"):
        trained.sample(3, temperature={"z2": 0})


def test_reconstructions_from_the_top(trained):
    """With all layers it is the usual one; from the top one alone, what p makes of its mean."""
    usual, all_three = trained.reconstruct(limit=5), trained.reconstruct(limit=5, only="top3")
    np.testing.assert_allclose(all_three, usual, rtol=1e-5)
    one = trained.reconstruct(limit=5, only="top1")
    np.testing.assert_allclose(one, trained.reconstruct(limit=5, only=["z3"]), rtol=1e-6)
    assert np.abs(one - usual).max() > 1e-4
    with pytest.raises(ConfigError, match="infers no 'z9'"):
        trained.reconstruct(limit=5, only="z9")


def test_the_log_has_every_layer(trained):
    assert {"kl_z1", "kl_z2", "kl_z3"} <= set(trained.log[-1]["valid"])


def test_a_ladder_normalises_by_the_batch_and_a_prior_of_posteriors_by_averages():
    """What fades on the way up is spread over the batch again; pseudo-inputs are no batch, and leave no trace."""
    with seeded(0):
        model = build("ladder", BITS, {"latents": [1, 1, 1], **SMALL, "features": 4, "prior": "vamp"})
        x = ALL.float().repeat(4, 1)
    node: Any = model.q["d1"].module
    features = node.module.norm(node.module.network(x))
    torch.testing.assert_close(features.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(0, correction=0), torch.ones(4), atol=1e-2, rtol=0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    z = torch.randn(5, 1)
    training = model.p["z3"].module().log_prob(z)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert torch.equal(training, model.eval().p["z3"].module().log_prob(z))


@pytest.mark.parametrize("name", ["hvae", "ladder"])
@pytest.mark.parametrize("conditional", [False, True])
def test_a_prior_of_posteriors(name, conditional):
    """A ladder's top layer has q(z_L | x), or q(z_L | x, y); that of a bottom-up hierarchy has q(z_L | z_{L−1})."""
    schema = Schema.of_pictures((1, 2, 2), levels=2, classes=("a", "b"))
    model = build(name, schema, {"prior": "vamp", "prior.components": 3, "conditional": conditional})
    x, y = (torch.rand(12, 1, 2, 2) < 0.5).float(), torch.arange(12) % 2
    model.initialize({"x": x, "y": y})
    prior: Any = model.p["z2"].module
    components, z = prior().components, torch.randn(3, 16)
    assert isinstance(components, DiagonalNormal)
    if name == "hvae":
        expected = model.q["z2"].module(prior.inputs)
        assert prior.inputs.std() > 0.1  # draws of q(z_1 | x), and not the origin
    else:
        known = {"x": prior.inputs.round(), "y": prior.given_y} if conditional else {"x": prior.inputs.round()}
        assert not conditional or set(prior.given_y.tolist()) <= {0, 1}
        expected = evidence(Joint(), model.eval().q, known).q["z2"]
    torch.testing.assert_close(prior().components.log_prob(z), expected.log_prob(z))
    model.train()
    model.p["z2"].module().log_prob(z).sum().backward()
    assert prior.inputs.grad.abs().sum() > 0
