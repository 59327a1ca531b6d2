"""The walk, against closed forms and a naive loop over particles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from jensen.conditionals.linear_gaussian import LinearGaussian, LinearGaussianPosterior
from jensen.conditionals.priors import Normal
from jensen.core import Deterministic, Joint, Model, Observed, evidence
from jensen.distributions import Bernoulli, Categorical, DiagonalNormal


class Linear(nn.Module):
    """N(W·parents + b, scale²), counting how often it is run."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0):
        super().__init__()
        self.map = nn.Linear(inputs, outputs, dtype=torch.float64)
        self.scale, self.runs = scale, 0

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        self.runs += 1
        loc = self.map(torch.cat(parents, 1))
        return DiagonalNormal(loc, torch.full_like(loc, self.scale))


class Counted(Deterministic):
    """A deterministic node that counts how often it is computed."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(nn.Linear(inputs, outputs, dtype=torch.float64))
        self.runs = 0

    def forward(self, *parents: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(*parents)


class Coins(nn.Module):
    """Bernoulli whose logits are an affine map of the parents, or a free parameter without any."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.map = nn.Linear(max(inputs, 1), outputs, dtype=torch.float64)

    def forward(self, *parents: Tensor) -> Bernoulli:
        return Bernoulli(self.map(torch.cat(parents, 1)) if parents else self.map.bias)


def prior(dims: int) -> nn.Module:
    return Normal((dims,)).double()


def data(rows: int, dims: int) -> Tensor:
    return torch.randn(rows, dims, dtype=torch.float64)


def ppca(latents: int, dims: int) -> Model:
    likelihood = LinearGaussian(latents, (dims,)).double()
    p = Joint({"z": prior(latents), "x | z": likelihood})
    return Model(p, Joint({"z | x": LinearGaussianPosterior(likelihood)}))


def scores(loc: Tensor, scale: float, value: Tensor) -> Tensor:
    """log N(value; loc, scale²) by scipy, summed over the last dimension."""
    terms = norm.logpdf(value.detach().numpy(), loc.detach().numpy(), scale)
    return torch.from_numpy(np.asarray(terms.sum(-1)))


# Exact posteriors


@pytest.mark.parametrize("particles", [1, 2, 7])
def test_an_exact_posterior_has_constant_weight_equal_to_the_marginal(particles):
    model = ppca(2, 5)
    with torch.no_grad():
        model.p["x"].module.mean.copy_(torch.arange(5.0))
        model.p["x"].module.set_scale(torch.tensor(0.7, dtype=torch.float64))
    x = data(4, 5)
    w, mean = model.p["x"].module.weight.detach().numpy(), np.arange(5.0)
    truth = multivariate_normal(mean, w @ w.T + 0.49 * np.eye(5)).logpdf(x.numpy())
    log_w = model.evidence({"x": x}, particles).log_w.detach().numpy()
    assert log_w.shape == (particles, 4)
    np.testing.assert_allclose(log_w, np.broadcast_to(truth, log_w.shape), atol=1e-10, rtol=0)


def test_the_worked_example_of_the_lectures():
    """x | z ~ N([1, 2] z + [1, −1], 2 I) has marginal N([1, −1], [[3, 2], [2, 6]])."""
    model = ppca(1, 2)
    likelihood = model.p["x"].module
    with torch.no_grad():
        likelihood.weight.copy_(torch.tensor([[1.0], [2.0]]))
        likelihood.mean.copy_(torch.tensor([1.0, -1.0]))
        likelihood.set_scale(torch.tensor(2.0, dtype=torch.float64).sqrt())
    x = data(6, 2) * 3
    truth = multivariate_normal([1, -1], [[3, 2], [2, 6]]).logpdf(x.numpy())
    log_w = model.evidence({"x": x}, 3).log_w.detach().numpy()
    np.testing.assert_allclose(log_w, np.broadcast_to(truth, (3, 6)), atol=1e-10)
    np.testing.assert_allclose(likelihood.marginal().covariance_matrix.detach(), [[3, 2], [2, 6]], atol=1e-12)


def test_with_nothing_hidden_the_weight_is_the_likelihood():
    model = Model(Joint({"y": prior(1), "x | y": Linear(1, 2)}))
    y, x = data(3, 1), data(3, 2)
    e = model.evidence({"x": x, "y": y}, particles=2)
    truth = scores(torch.zeros(1), 1.0, y) + scores(model.p["x"].module.map(y), 1.0, x)
    torch.testing.assert_close(e.log_w.detach(), truth.expand(2, 3))
    assert model.likelihood == "exact"


# Wrong posteriors


def wrong_model() -> Model:
    """z ~ N(0, 1), x | z ~ N(z, 1) with q(z | x) = N(0.3 x, 0.8²), which is not N(x/2, 1/2)."""
    p_x, q_z = Linear(1, 1, 1.0), Linear(1, 1, 0.8)
    with torch.no_grad():
        for module, slope in ((p_x, 1.0), (q_z, 0.3)):
            module.map.weight.fill_(slope)
            module.map.bias.zero_()
    return Model(Joint({"z": prior(1), "x | z": p_x}), Joint({"z | x": q_z}))


def test_bounds_of_a_wrong_posterior_by_hand():
    x, k = torch.tensor([[0.5], [-2.0]], dtype=torch.float64), 6
    e = wrong_model().evidence({"x": x}, k)
    z = e.values["z"].reshape(k, 2).numpy(force=True)
    data_ = x[:, 0].numpy()
    log_w = norm.logpdf(z) + norm.logpdf(data_, z, 1) - norm.logpdf(z, 0.3 * data_, 0.8)
    w = np.exp(log_w)
    np.testing.assert_allclose(e.log_w.detach(), log_w, rtol=1e-12)
    np.testing.assert_allclose(e.elbo().detach(), log_w.mean(0), rtol=1e-12)
    np.testing.assert_allclose(e.importance_bound().detach(), np.log(w.mean(0)), rtol=1e-12)
    np.testing.assert_allclose(e.effective_sample_size().detach(), w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(e.reconstruction().detach(), norm.logpdf(data_, z, 1).mean(0), rtol=1e-12)


def test_bounds_of_a_wrong_posterior_are_ordered():
    x = data(5000, 1)
    model = wrong_model()
    one, many = model.evidence({"x": x}, 1).elbo(), model.evidence({"x": x}, 3).importance_bound()
    exact = torch.from_numpy(norm.logpdf(x[:, 0].numpy(), 0, math.sqrt(2)))
    for low, high in ((one, many), (many, exact)):
        gap = (high - low).detach()
        assert gap.mean() > 4 * gap.std() / math.sqrt(len(gap))


# The shape of a walk


def chain() -> tuple[Joint, Joint]:
    p = Joint({"b": prior(2), "a | b": Linear(2, 3, 0.9), "x | a": Linear(3, 4, 0.5)})
    q = Joint({"a | x": Linear(4, 3, 0.6), "b | a": Linear(3, 2, 0.7)})
    return p, q


@pytest.mark.parametrize("top", ["b | a", "b | x", "b | x, a"])
@pytest.mark.parametrize("particles", [1, 5])
def test_a_chain_equals_a_loop_over_particles(top, particles):
    """Whether the upper posterior differs between particles or not."""
    p, q = chain()
    inputs = {"b | a": 3, "b | x": 4, "b | x, a": 7}[top]
    q = Joint({"a | x": q["a"].module, top: Linear(inputs, 2, 0.7)})
    x = data(3, 4)
    e = evidence(p, q, {"x": x}, particles)
    a = e.values["a"].unflatten(0, (particles, 3))
    b = e.values["b"].unflatten(0, (particles, 3))
    for k in range(particles):
        given = {"b | a": [a[k]], "b | x": [x], "b | x, a": [x, a[k]]}[top]
        truth = {
            "p b": scores(torch.zeros(2), 1.0, b[k]),
            "p a": scores(p["a"].module.map(b[k]), 0.9, a[k]),
            "p x": scores(p["x"].module.map(a[k]), 0.5, x),
            "q a": scores(q["a"].module.map(x), 0.6, a[k]),
            "q b": scores(q["b"].module.map(torch.cat(given, 1)), 0.7, b[k]),
        }
        for name, value in truth.items():
            side, variable = name.split()
            found = (e.log_p if side == "p" else e.log_q)[variable]
            assert found.shape == (particles, 3)
            torch.testing.assert_close(found[k].detach(), value, rtol=1e-10, atol=1e-10)
        total = truth["p b"] + truth["p a"] + truth["p x"] - truth["q a"] - truth["q b"]
        torch.testing.assert_close(e.log_w[k].detach(), total, rtol=1e-10, atol=1e-10)


def test_particles_differ_and_lie_particle_by_particle():
    q_z = Linear(1, 1, 1e-9)
    with torch.no_grad():
        q_z.map.weight.fill_(1.0)
        q_z.map.bias.zero_()
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    e = evidence(Joint({"z": prior(1), "x | z": Linear(1, 1)}), Joint({"z | x": q_z}), {"x": x}, 2)
    z = e.values["z"][:, 0].detach()
    torch.testing.assert_close(z, torch.tensor([1.0, 2, 3, 1, 2, 3], dtype=torch.float64), rtol=0, atol=1e-7)
    assert len(set(z.tolist())) == 6


def test_one_particle_has_no_axis():
    p, q = chain()
    e = evidence(p, q, {"x": data(3, 4)})
    assert e.values["a"].shape == (3, 3)
    assert e.log_w.shape == (1, 3)
    assert e.elbo().shape == e.importance_bound().shape == e.reconstruction().shape == (3,)


def test_what_depends_on_data_alone_is_computed_once_for_all_particles():
    encoder = Linear(4, 3)
    p, _ = chain()
    seen = []
    encoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    evidence(p, Joint({"a | x": encoder, "b | x": Linear(4, 2)}), {"x": data(3, 4)}, 8)
    assert seen == [3]


def test_shared_deterministic_nodes_are_computed_once():
    """A ladder: features of x for both layers of q, and a block that p and q share."""
    features, block = Counted(4, 5), Counted(2, 3)
    q = Joint({"h | x": features, "b | h": Linear(5, 2), "d | b": block, "a | h, d": Linear(8, 3)})
    p = Joint({"b": prior(2), "d | b": block, "a | d": Linear(3, 3), "x | a": Linear(3, 4)})
    e = evidence(p, q, {"x": data(3, 4)}, 6)
    assert (features.runs, block.runs) == (1, 1)
    assert e.values["h"].shape == (3, 5)
    assert e.values["d"].shape == (18, 3)
    truth = scores(p["a"].module.map(block.module(e.values["b"])), 1.0, e.values["a"]).reshape(6, 3)
    torch.testing.assert_close(e.log_p["a"].detach(), truth)
    assert Model(p, q).likelihood == "lower_bound"


def test_one_module_for_the_same_parents_runs_once():
    shared = Linear(2, 1)
    p = Joint({"x": prior(2), "y | x": shared})
    evidence(p, Joint({"y | x": shared}), {"x": data(3, 2)})
    assert shared.runs == 1


def test_context_is_given_and_not_explained():
    p = Joint({"z": prior(2), "x | z, c": Linear(3, 4)})
    q = Joint({"z | x, c": Linear(5, 2)})
    model = Model(p, q)
    assert model.context == ["c"]
    x, c = data(3, 4), data(3, 1)
    e = model.evidence({"x": x, "c": c, "unused": data(3, 9)}, 4)
    assert set(e.log_p) == {"z", "x"}
    z = e.values["z"]
    truth = scores(p["x"].module.map(torch.cat([z, c.repeat(4, 1)], 1)), 1.0, x.repeat(4, 1)).reshape(4, 3)
    torch.testing.assert_close(e.log_p["x"].detach(), truth)
    with pytest.raises(ValueError, match="'c', which is neither observed nor inferred"):
        model.evidence({"x": x})


def test_leaves_that_are_not_observed_are_dropped():
    p = Joint({"z": prior(2), "x | z": Linear(2, 4), "y | z": Linear(2, 1)})
    q = Joint({"z | x": Linear(4, 2)})
    e = evidence(p, q, {"x": data(3, 4)}, 2)
    assert set(e.log_p) == {"z", "x"}
    assert e.explained() == ["x"]
    torch.testing.assert_close(e.log_w, e.log_p["z"] + e.log_p["x"] - e.log_q["z"])


def test_a_variable_that_is_observed_is_not_drawn():
    p, q = chain()
    a = data(3, 3)
    e = evidence(p, q, {"x": data(3, 4), "a": a}, 2)
    assert set(e.log_q) == {"b"}
    assert e.values["a"] is a


def test_a_missing_parent_is_named():
    p = Joint({"x | z": Linear(2, 4)})
    with pytest.raises(ValueError, match=r"factor \(x \| z\) needs 'z'"):
        evidence(p, Joint(), {"x": data(3, 4)})


def test_observed_variables_have_one_batch_size():
    with pytest.raises(ValueError, match=r"one batch size, got \{'x': 3, 'y': 2\}"):
        evidence(Joint({"x": prior(1)}), Joint(), {"x": data(3, 1), "y": data(2, 1)})


def test_unbatched_posterior_is_drawn_for_every_datum():
    """q(z) without parents, as one that is fitted to a single target."""
    q = Joint({"z": Coins(0, 2)})
    p = Joint({"z": Coins(0, 2), "x | z": Coins(2, 3)})
    x = torch.ones(500, 3, dtype=torch.float64)
    for particles in (1, 3):
        e = evidence(p, q, {"x": x}, particles)
        assert e.values["z"].shape == (particles * 500, 2)
        assert len(e.values["z"].unique(dim=0)) == 4
        assert e.log_w.shape == (particles, 500)


# Masks


def test_masking_every_row_scores_zero():
    x = torch.full((3, 4), math.nan, dtype=torch.float64)
    p = Joint({"z": prior(2), "x | z": Linear(2, 4)})
    for mask in (torch.zeros(3, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.bool)):
        e = evidence(p, Joint(), {"x": Observed(x, mask), "z": data(3, 2)}, 2)
        assert torch.equal(e.log_p["x"], torch.zeros(2, 3, dtype=torch.float64))


def test_hidden_elements_leave_the_density_of_the_rest():
    p, q = chain()
    x, mask = data(3, 4), torch.tensor([[1, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]]).bool()
    holes = x.masked_fill(~mask, math.nan)
    e = evidence(p, q, {"x": Observed(holes, mask)}, 5)
    loc = p["x"].module.map(e.values["a"]).reshape(5, 3, 4).detach()
    terms = torch.from_numpy(norm.logpdf(x, loc, 0.5)).masked_fill(~mask, 0.0)
    torch.testing.assert_close(e.log_p["x"].detach(), terms.sum(-1))
    zeros = x.masked_fill(~mask, 0.0)
    torch.testing.assert_close(e.q["a"].mean, q["a"].module.map(zeros))


def test_nan_under_a_mask_reaches_neither_values_nor_gradients():
    p, q = chain()
    x, mask = data(3, 4), torch.rand(3, 4) < 0.5
    mask[:, 0] = False
    holes = x.masked_fill(~mask, math.nan)
    e = evidence(p, q, {"x": Observed(holes, mask)}, 3)
    loss = -e.importance_bound().mean()
    loss.backward()
    assert math.isfinite(loss.item())
    for module in (p, q):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("particles", [1, 4])
def test_rows_that_were_observed_are_not_drawn_and_pay_nothing(particles):
    """A partly labelled batch: p(y) p(z) p(x | y, z) with q(y | x) q(z | x, y)."""
    p = Joint({"y": Coins(0, 1), "z": prior(2), "x | y, z": Linear(3, 4)})
    q = Joint({"y | x": Coins(4, 1), "z | x, y": Linear(5, 2)})
    x, known = data(6, 4), torch.tensor([1, 0, 1, 0, 0, 1]).bool()
    label = torch.tensor([[1.0], [math.nan], [0.0], [math.nan], [math.nan], [1.0]], dtype=torch.float64)
    e = evidence(p, q, {"x": x, "y": Observed(label, known)}, particles)
    y = e.values["y"].reshape(particles, 6)
    assert torch.equal(y[:, known], label[known, 0].expand(particles, 3))
    assert set(y[:, ~known].unique().tolist()) <= {0.0, 1.0}
    assert (e.log_q["y"][:, known] == 0).all()
    wanted = q["y"].module(x).log_prob(y[..., None])
    torch.testing.assert_close(e.log_q["y"][:, ~known], wanted[:, ~known])
    torch.testing.assert_close(e.log_p["y"], p["y"].module().log_prob(y[..., None]))
    # The divergence of y in a known row is −log p(y): what M2's labelled bound has.
    torch.testing.assert_close(e.kl("y")[known], -e.log_p["y"].mean(0)[known])


def test_a_row_mask_on_data_drops_its_density():
    p, q = chain()
    x, known = data(3, 4), torch.tensor([True, False, True])
    e = evidence(p, q, {"x": Observed(x, known)}, 2)
    loc = p["x"].module.map(e.values["a"]).detach().reshape(2, 3, 4)
    truth = scores(loc, 0.5, x) * known
    torch.testing.assert_close(e.log_p["x"].detach(), truth)


class WithDensity(DiagonalNormal):
    """A flow's manner: its log-density comes with the draw."""

    density_comes_with_draw = True


def test_a_density_that_comes_with_the_draw_respects_row_masks():
    class Flow(Linear):
        def forward(self, *parents: Tensor) -> DiagonalNormal:
            made = super().forward(*parents)
            return WithDensity(made.loc, made.scale)

    p, q = Joint({"z": prior(2), "x | z": Linear(2, 4)}), Joint({"z | x": Flow(4, 2, 0.4)})
    x, z, known = data(3, 4), data(3, 2), torch.tensor([True, False, True])
    e = evidence(p, q, {"x": x, "z": Observed(z, known)}, 5)
    assert (e.log_q["z"][:, known] == 0).all()
    drawn = e.values["z"].reshape(5, 3, 2)[:, 1]
    truth = scores(q["z"].module.map(x)[1], 0.4, drawn)
    torch.testing.assert_close(e.log_q["z"][:, 1].detach(), truth)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected a mask of shape \(3, 4\) or \(3,\), got \(4,\)"):
        Observed(data(3, 4), torch.ones(4))


def test_elements_of_a_density_without_elements_cannot_be_masked():
    class Full(nn.Module):
        def forward(self) -> MultivariateNormal:
            return MultivariateNormal(torch.zeros(2), torch.eye(2))

    mask = torch.tensor([[True, False]])
    e = evidence(Joint({"x": Full()}), Joint(), {"x": Observed(torch.zeros(1, 2), mask)})
    with pytest.raises(ValueError, match="'x': a MultivariateNormal has no density of single elements"):
        _ = e.log_w


# Divergences


def test_closed_form_and_monte_carlo_divergence_agree():
    p = Joint({"z": prior(3), "x | z": Linear(3, 4)})
    q = Joint({"z | x": Linear(4, 3, 0.6)})
    x, k = data(2, 4), 20_000
    with torch.no_grad():
        e = evidence(p, q, {"x": x}, k)
        closed, ratio = e.kl("z"), e.log_q["z"] - e.log_p["z"]
    mean = q["z"].module.map(x).detach()
    truth = 0.5 * (0.36 - 1 - math.log(0.36) + mean**2).sum(1)
    torch.testing.assert_close(closed, truth)
    assert ((ratio.mean(0) - closed).abs() < 4 * ratio.std(0) / math.sqrt(k)).all()
    torch.testing.assert_close(e.kl("z", closed=False), ratio.mean(0))
    terms = e.kl_terms("z")
    assert terms is not None and terms.shape == (2, 3)
    torch.testing.assert_close(terms, 0.5 * (0.36 - 1 - math.log(0.36) + mean**2))


@pytest.mark.parametrize("particles", [1, 4])
def test_divergences_and_reconstruction_make_the_bound(particles):
    """Where all are by Monte Carlo, exactly; which is also how terms without closed form enter."""
    p, q = chain()
    e = evidence(p, q, {"x": data(3, 4)}, particles)
    total = e.reconstruction() - sum(e.divergences(closed=False).values())
    torch.testing.assert_close(total, e.elbo())


def test_no_closed_form_where_p_conditions_on_what_came_from_it():
    """In q(a | x) q(b | a) against p(a | b), b was drawn from a: KL(q(a|x) ‖ p(a|b)) is not a's term."""
    p, q = chain()
    x, k = data(2, 4), 50_000
    with torch.no_grad():
        e = evidence(p, q, {"x": x}, k)
        assert e.kl_terms("a") is None
        torch.testing.assert_close(e.kl("a"), (e.log_q["a"] - e.log_p["a"]).mean(0))
        closed, sampled = e.divergences(closed=True), e.log_w
        bound = e.reconstruction() - closed["a"] - closed["b"]
        assert ((bound - sampled.mean(0)).abs() < 4 * sampled.std(0) / math.sqrt(k)).all()


def test_closed_form_where_the_upper_layer_came_first():
    """Top-down, q(b | x) q(a | x, b) against p(a | b), the closed form is the term, however many draws of b."""
    p = chain()[0]
    q = Joint({"b | x": Linear(4, 2, 0.7), "a | x, b": Linear(6, 3, 0.6)})
    x, k = data(2, 4), 20_000
    with torch.no_grad():
        e = evidence(p, q, {"x": x}, k)
        terms = e.kl_terms("a")
        assert terms is not None
        torch.testing.assert_close(terms.sum(-1), e.kl("a"))
        gap = e.log_q["a"] - e.log_p["a"]
        assert ((e.kl("a") - gap.mean(0)).abs() < 4 * gap.std(0) / math.sqrt(k)).all()


def test_closed_form_of_a_narrow_posterior_against_a_wide_prior():
    """q(a | x) q(b | x) against p(a | b): the prior differs between particles and the posterior does not."""
    p = chain()[0]
    q = Joint({"b | x": Linear(4, 2, 0.7), "a | x": Linear(4, 3, 0.6)})
    e = evidence(p, q, {"x": data(3, 4)}, 5)
    q_mean = e.q["a"].mean.detach()
    p_mean = p["a"].module.map(e.values["b"]).detach().reshape(5, 3, 3)
    ratio = 0.6 / 0.9
    terms = 0.5 * (ratio**2 - 1 - 2 * math.log(ratio) + ((q_mean - p_mean) / 0.9) ** 2).mean(0)
    torch.testing.assert_close(e.kl("a").detach(), terms.sum(1))
    found = e.kl_terms("a")
    assert found is not None
    torch.testing.assert_close(found.detach(), terms)


def test_a_density_without_known_divergence_falls_back_to_monte_carlo():
    model = ppca(2, 5)
    e = model.evidence({"x": data(3, 5)}, 4)
    torch.testing.assert_close(e.kl("z"), (e.log_q["z"] - e.log_p["z"]).mean(0))
    assert e.kl_terms("z") is None


def test_a_discrete_code_pays_its_prior():
    """A deterministic code k of x with a prior: log q = 0, so its term in the bound is −log p(k)."""

    class Code(Deterministic):
        discrete = True

        def forward(self, x: Tensor) -> Tensor:
            return (x.sum(1) > 0).long()

    class Prior(nn.Module):
        def forward(self) -> Categorical:
            return Categorical(torch.tensor([0.0, 1.0]), event_dims=0)

    class Emission(nn.Module):
        def forward(self, k: Tensor) -> DiagonalNormal:
            return DiagonalNormal(k[:, None].double().expand(-1, 2), torch.ones(2))

    model = Model(Joint({"k": Prior(), "x | k": Emission()}), Joint({"k | x": Code()}))
    x = data(5, 2)
    e = model.evidence({"x": x}, 2)
    k = (x.sum(1) > 0).long()
    log_prior = torch.tensor([0.0, 1.0]).log_softmax(0)[k]
    truth = log_prior + scores(k[:, None].double().expand(-1, 2), 1.0, x)
    torch.testing.assert_close(e.log_w, truth.expand(2, 5), check_dtype=False)
    torch.testing.assert_close(e.kl("k"), -log_prior)
    torch.testing.assert_close(e.reconstruction() - e.kl("k"), e.elbo())
    assert model.likelihood == "lower_bound"


# Gradients


def test_stopped_weights_have_the_same_value_and_only_the_path_gradient():
    """For q = N(m, s²): d log w/dm along the path alone, ∂log p/∂z + (z − m)/s², against autograd by hand."""
    model = wrong_model()
    x = torch.tensor([[0.5]], dtype=torch.float64)
    e = model.evidence({"x": x}, 7)
    torch.testing.assert_close(e.log_w_stopped, e.log_w)
    bias = model.q["z"].module.map.bias
    (gradient,) = torch.autograd.grad(e.log_w_stopped.sum(), bias)
    z = e.values["z"].detach()
    truth = (-z + (x - z) + (z - 0.3 * x) / 0.64).sum()
    torch.testing.assert_close(gradient[0], truth)


def test_encoding_many_particles_costs_gradients_for_all():
    p, q = chain()
    evidence(p, q, {"x": data(3, 4)}, 4).importance_bound().sum().backward()
    assert all(parameter.grad is not None for parameter in [*p.parameters(), *q.parameters()])
