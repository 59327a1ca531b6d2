"""Priors made of the posterior."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, MixtureSameFamily, Normal

from jensen.conditionals.aggregated import Aggregated, completed, within
from jensen.conditionals.heads import Support
from jensen.core import seeded
from jensen.data import Schema
from jensen.distributions import DiagonalNormal, Mixture
from jensen.distributions.multivariate import FullNormal
from jensen.errors import ConfigError
from jensen.registry import build
from jensen.training.adam import LeanAdam

BITS = Support("binary", (6,))
SCHEMA = Schema.of_table(np.eye(6), [f"c{i}" for i in range(6)], ["binary"] * 6)


def made(**settings):
    with seeded(0):
        model = build("vae", SCHEMA, {"latents": 2, "encoder.hidden": [8], **settings}).double().eval()
        x = torch.bernoulli(torch.full((50, 6), 0.4)).double()
        model.initialize({"x": x})
    return model, x


def by_torch(model, z):
    """The density, and one draw of each component, by torch.distributions."""
    prior, q = model.p["z"].module, model.q["z"].module(model.p["z"].module.pseudo_inputs)
    components = Independent(Normal(q.mean, q.variance.sqrt()), 1)
    return MixtureSameFamily(TorchCategorical(logits=prior.logits), components).log_prob(z)


@pytest.mark.parametrize("settings", [{}, {"prior.weighted": True}, {"prior.start": "mean"}], ids=str)
@pytest.mark.parametrize("gradients", [True, False])
def test_it_is_the_mixture_of_the_posteriors_of_its_inputs(settings, gradients):
    model, _ = made(prior="vamp", **{"prior.components": 40, **settings})
    if "prior.weighted" in settings:
        nn.init.normal_(model.p["z"].module.logits)
    z = torch.randn(30, 2, dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(model.p["z"].module().log_prob(z), by_torch(model, z), rtol=1e-10, atol=1e-10)


def test_with_all_data_it_is_the_aggregated_posterior():
    model, x = made(prior="aggregated", **{"prior.components": 50})
    inputs = model.p["z"].module.pseudo_inputs
    assert sorted(map(tuple, inputs.tolist())) == sorted(map(tuple, x.tolist()))
    assert "p.z.inputs" in dict(model.named_buffers()).keys() | model.state_dict().keys()
    assert not [name for name, _ in model.named_parameters() if "inputs" in name]


def test_it_starts_from_the_data():
    model, x = made(prior="vamp", **{"prior.components": 20})
    rows = {tuple(row) for row in x.tolist()}
    assert all(tuple(row) in rows for row in model.p["z"].module.inputs.tolist())
    model, x = made(prior="vamp", **{"prior.components": 20, "prior.start": "mean"})
    torch.testing.assert_close(model.p["z"].module.inputs.mean(0), x.mean(0), rtol=0, atol=0.05)


def test_a_gradient_reaches_the_pseudo_inputs_and_the_encoder():
    model, _ = made(prior="vamp", **{"prior.components": 5})
    prior = model.p["z"].module
    z = torch.randn(4, 2, dtype=torch.float64)

    def value(inputs):
        before = prior.inputs.data
        prior.inputs.data = inputs
        found = prior().log_prob(z).sum()
        prior.inputs.data = before
        return found

    with torch.no_grad():
        prior.inputs.copy_(prior.inputs.clamp(0.2, 0.8))  # inside, where the clamp is smooth
    prior().log_prob(z).sum().backward()
    step = torch.zeros_like(prior.inputs)
    step[2, 3] = 1e-6
    start = prior.inputs.detach()
    slope = (value(start + step) - value(start - step)) / 2e-6
    torch.testing.assert_close(prior.inputs.grad[2, 3], slope.detach(), rtol=1e-5, atol=1e-8)
    assert all(p.grad.abs().sum() > 0 for p in model.q.parameters())


@pytest.mark.parametrize("levels", [2, 256])
def test_pseudo_inputs_that_start_at_a_bound_are_learned_and_stay_within(levels):
    """Binary data are at the bounds of what data can be, where `clamp` has no gradient."""
    support = BITS if levels == 2 else Support("levels", (6,), levels)
    top = levels - 1.0
    x = (top * torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5, -0.1])).requires_grad_()
    weights = torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0])  # descent goes up where negative
    (weights * within(x, support)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1, 1, 0, 0, 1, -1]  # inward and inside they move; outward they do not
    model, data = made(prior="vamp", **{"prior.components": 5})
    prior = model.p["z"].module
    start = prior.inputs.detach().clone()
    assert set(start.unique().tolist()) <= {0.0, 1.0}
    optimizer = torch.optim.Adam([prior.inputs], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        (-prior().log_prob(model.q["z"].module(data).sample()).mean()).backward()
        optimizer.step()
    moved = (prior.pseudo_inputs - start).abs() > 0.01
    assert moved.float().mean() > 0.3
    assert prior.pseudo_inputs.min() >= 0 and prior.pseudo_inputs.max() <= 1


def test_parameters_of_the_encoder_belong_to_q_alone():
    model, _ = made(prior="vamp", **{"prior.components": 5})
    assert [name for name, _ in model.p["z"].module.named_parameters()] == ["inputs"]
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.q.parameters():
            p.add_(0.3)
    z = torch.zeros(1, 2, dtype=torch.float64)
    torch.testing.assert_close(twin.p["z"].module().log_prob(z), by_torch(twin, z))  # the twin's own encoder
    assert not torch.equal(twin.p["z"].module().log_prob(z), model.p["z"].module().log_prob(z))


@torch.no_grad()
def test_what_is_kept_follows_the_weights():
    model, _ = made(prior="vamp", **{"prior.components": 5})
    prior, z, calls = model.p["z"].module, torch.zeros(1, 2, dtype=torch.float64), []
    model.q["z"].module.register_forward_hook(lambda *_: calls.append(1))
    first = prior().log_prob(z)
    assert torch.equal(prior().log_prob(z), first) and len(calls) == 1
    model.q["z"].module.network.output.bias.add_(0.5)
    changed = prior().log_prob(z)
    assert not torch.equal(changed, first)
    torch.testing.assert_close(changed, by_torch(model, z))
    prior.inputs.mul_(0.5)
    torch.testing.assert_close(prior().log_prob(z), by_torch(model, z))
    model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()})
    torch.testing.assert_close(prior().log_prob(z), by_torch(model, z))


def test_what_is_kept_does_not_outlive_training():
    """A fused optimizer changes weights without raising their version."""
    model, x = made(prior="vamp", **{"prior.components": 5})
    prior, z = model.p["z"].module, torch.zeros(1, 2, dtype=torch.float64)
    with torch.no_grad():
        first = prior().log_prob(z)
    model.train()
    optimizer = LeanAdam(list(model.parameters()), 0.1)
    (-model.evidence({"x": x}).elbo().mean()).backward()
    optimizer.update()
    with torch.no_grad():
        while_training = prior().log_prob(z)
    model.eval()
    assert not torch.allclose(while_training, first)
    with torch.no_grad():
        torch.testing.assert_close(while_training, by_torch(model, z))
        torch.testing.assert_close(prior().log_prob(z), by_torch(model, z))


def test_what_dropout_left_is_not_kept():
    model, _ = made(prior="vamp", **{"prior.components": 5, "encoder.input_dropout": 0.5})
    prior, z = model.p["z"].module, torch.zeros(1, 2, dtype=torch.float64)
    with torch.no_grad():
        model.train()
        assert len({float(prior().log_prob(z)) for _ in range(5)}) > 1
        model.eval()
        torch.testing.assert_close(prior().log_prob(z), by_torch(model, z))


def test_rows_are_drawn_by_their_weight():
    model, x = made(prior="aggregated", **{"prior.components": 3000})
    weight = torch.zeros(50)
    weight[3], weight[8] = 1.0, 3.0
    with seeded(0):
        x = torch.arange(50.0).double()[:, None].expand(-1, 6)
        model.p["z"].module.initialize_from({"x": x, "weight": weight})
    rows, counts = model.p["z"].module.inputs[:, 0].unique(return_counts=True)
    assert rows.tolist() == [3.0, 8.0]
    assert abs(int(counts[1]) - 2250) < 5 * (3000 * 0.75 * 0.25) ** 0.5


def test_a_draw_takes_a_random_input_and_then_a_draw_of_its_posterior():
    """Against the mixture's own distribution function, for each latent."""
    model, _ = made(prior="vamp", **{"prior.components": 7, "prior.weighted": True})
    prior = model.p["z"].module
    with torch.no_grad(), seeded(1):
        nn.init.normal_(prior.logits)
        model.q["z"].module.network.output.weight.mul_(8)  # components that differ
        drawn, q = prior().sample((4000,)), model.q["z"].module(prior.pseudo_inputs)
        weights = prior.logits.softmax(0)
    for d in range(2):
        components = Normal(q.mean[:, d], q.variance[:, d].sqrt())
        cdf = lambda v: (components.cdf(torch.as_tensor(v)[:, None]) * weights).sum(1).numpy()  # noqa: B023, E731
        assert kstest(drawn[:, d].numpy(), cdf).pvalue > 1e-4
    assert not torch.equal(model.sample(5)["z"], model.sample(5)["z"])


@pytest.mark.parametrize("flow", ["planar", "maf"])
def test_other_posteriors(flow):
    model, _ = made(prior="vamp", posterior="flow", **{"prior.components": 3, "posterior.flow": flow})
    prior, z = model.p["z"].module, torch.randn(5, 2, dtype=torch.float64)
    with torch.no_grad():
        one_by_one = [model.q["z"].module(u[None]).log_prob(z) for u in prior.pseudo_inputs]
        expected = torch.stack(one_by_one).logsumexp(0) - np.log(3)
        torch.testing.assert_close(prior().log_prob(z), expected, rtol=1e-7, atol=1e-7)
        assert prior().sample((6,)).shape == (6, 2)


def test_components_of_full_covariance_are_picked():
    torch.manual_seed(0)
    tril = torch.eye(2).expand(3, 2, 2) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    q = FullNormal(torch.arange(6.0).reshape(3, 2) * 100, tril)
    drawn = Mixture(torch.zeros(3), q).sample((300,))
    nearest = (drawn[:, None] - q.loc).norm(dim=-1).argmin(1)
    assert nearest.unique().tolist() == [0, 1, 2] and (drawn - q.loc[nearest]).abs().max() < 20


def test_pseudo_inputs_stay_where_data_can_be():
    x = torch.tensor([[-1.0, 0.5, 9.0]])
    assert within(x, Support("binary", (3,))).tolist() == [[0, 0.5, 1]]
    assert within(x, Support("levels", (3,), levels=4)).tolist() == [[0, 0.5, 3]]
    assert within(x, Support("count", (3,))).tolist() == [[0, 0.5, 9]]
    assert within(x, Support("real", (3,))) is x


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="a flow has none"):
        build("maf", Schema.of_table(np.eye(3), list("abc"), ["real"] * 3), {"base": "vamp"})
    with pytest.raises(ConfigError, match="symbols cannot be learned"):
        completed(Aggregated(3, True), nn.Identity(), Support("symbol", (4,), levels=5))


def test_of_all_priors_the_aggregated_posterior_makes_the_bound_tightest():
    """(1/N) Σ_n KL(q(z | x_n) ‖ p) is least for p = q(z) = (1/N) Σ_n q(z | x_n), by KL(q(z) ‖ p): Hoffman 2016."""
    model, x = made(prior="aggregated", **{"prior.components": 50})
    model.q["z"].module.network.output.weight.data.mul_(3)
    with torch.no_grad(), seeded(3):
        q, p = model.q["z"].module(x), model.p["z"].module()
        z = q.sample((2000,))
        own, best, standard = q.log_prob(z), p.log_prob(z), DiagonalNormal(torch.zeros(2), torch.ones(2)).log_prob(z)
        fitted = DiagonalNormal(z.mean((0, 1)), z.flatten(0, 1).std(0)).log_prob(z)
        drawn = p.sample((100_000,))
        between = p.log_prob(drawn) - DiagonalNormal(torch.zeros(2), torch.ones(2)).log_prob(drawn)
    for other in (standard, fitted):
        gain = (best - other).mean(1)
        assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
    gain, error = float((best - standard).mean()), float((best - standard).mean(1).std()) / 2000**0.5
    assert gain == pytest.approx(float(between.mean()), abs=4 * float(error + between.std() / 100_000**0.5))
    assert (own - best).mean() > 0


def test_pairs_by_matrix_products_equal_the_density():
    torch.manual_seed(0)
    loc, scale = 5 * torch.randn(30, 7), torch.rand(30, 7) + 0.01
    x = 5 * torch.randn(11, 2, 7)
    p = DiagonalNormal(loc, scale)
    exact = DiagonalNormal(loc.double(), scale.double()).log_prob(x.double().unsqueeze(-2))
    with torch.no_grad():
        torch.testing.assert_close(p.log_prob_pairs(x).double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(p.log_prob_pairs(x).double(), exact, rtol=1e-4, atol=1e-2)
