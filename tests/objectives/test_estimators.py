"""Estimates of log p(x) against values that are known exactly."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from jensen.conditionals.heads import inverse_softplus
from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model, seeded
from jensen.data import Schema
from jensen.distributions import Bernoulli, DiagonalNormal
from jensen.errors import CapabilityError
from jensen.objectives.estimators import ESTIMATORS, Estimate, annealed, elbo, exact, importance, prior
from jensen.registry import build

DIMS, LATENTS, SCALE = 6, 3, 0.6


def known() -> tuple[Tensor, Tensor, np.ndarray, Tensor]:
    """W, data drawn from x = W z + σ ε, log p(x) of each, and the covariance M⁻¹ of z given x over σ²."""
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(DIMS, LATENTS, generator=generator, dtype=torch.float64) * 0.7
    z = torch.randn(40, LATENTS, generator=generator, dtype=torch.float64)
    x = z @ w.T + SCALE * torch.randn(40, DIMS, generator=generator, dtype=torch.float64)
    marginal = multivariate_normal(np.zeros(DIMS), (w @ w.T).numpy() + SCALE**2 * np.eye(DIMS))
    precision = w.T @ w + SCALE**2 * torch.eye(LATENTS, dtype=torch.float64)
    return w, x, marginal.logpdf(x.numpy()), torch.linalg.inv(precision)


def linear_vae(wrong: bool) -> Model:
    """The registered VAE with p set to that model and q the best diagonal normal, or a deliberately wrong one."""
    w, x, _, inverse = known()
    schema = Schema.of_table(x.numpy(), [f"c{i}" for i in range(DIMS)])
    model = build(
        "vae",
        schema,
        {
            "latents": LATENTS,
            "encoder": "linear",
            "decoder": "linear",
            "likelihood": {"name": "gaussian", "variance": "fixed", "scale": SCALE},
        },
    ).double()
    decoder, encoder = model.p["x"].module.network.output, model.q["z"].module.network.output
    spread = SCALE / torch.linalg.inv(inverse).diagonal().sqrt() * (1.5 if wrong else 1.0)
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.zero_()
        encoder.weight.zero_()
        encoder.weight[:LATENTS] = inverse @ w.T * (0.85 if wrong else 1.0)
        encoder.bias[:LATENTS] = 0.1 if wrong else 0.0
        raw = [inverse_softplus(float(s) - 1e-4) - inverse_softplus(1 - 1e-4) for s in spread]
        encoder.bias[LATENTS:] = torch.tensor(raw)
    return model.eval()


def mean_and_error(estimate: Estimate) -> tuple[float, float]:
    """Over data, with the estimator's own standard error."""
    n = len(estimate.rows)
    return estimate.rows.mean().item(), estimate.variance.sum().sqrt().item() / n


@pytest.mark.parametrize("wrong", [False, True])
def test_elbo_below_iw_below_exact(wrong):
    _, x, truth, _ = known()
    model = linear_vae(wrong)
    low, low_error = mean_and_error(elbo(model, {"x": x}, 200))
    few, few_error = mean_and_error(importance(model, {"x": x}, 5))
    many, many_error = mean_and_error(importance(model, {"x": x}, 500))
    assert low < few + 4 * math.hypot(low_error, few_error)
    assert few < many + 4 * math.hypot(few_error, many_error)
    assert many < truth.mean() + 4 * many_error
    assert truth.mean() - low > 4 * low_error  # q is no exact posterior, so that there is a gap to see
    assert truth.mean() - many < 0.3 * (truth.mean() - low)


@pytest.mark.parametrize("wrong", [False, True])
def test_five_thousand_particles_come_within_two_hundredths(wrong):
    _, x, truth, _ = known()
    found = importance(linear_vae(wrong), {"x": x}, 5000)
    assert found.effective_sample_size is not None
    enough = found.effective_sample_size >= 500
    assert enough.sum() >= 20
    assert abs((found.rows - torch.from_numpy(truth))[enough].mean()) < 0.02


def test_the_elbo_is_the_exact_value_less_the_divergence_from_the_posterior():
    """KL(q ‖ p(z | x)) between Gaussians is known, so the gap is."""
    w, x, truth, inverse = known()
    model = linear_vae(True)
    q = model.q["z"].module(x)
    mean, covariance = x @ w @ inverse.T, SCALE**2 * inverse
    posterior = torch.distributions.MultivariateNormal(mean, covariance)
    full_q = torch.distributions.MultivariateNormal(q.loc, torch.diag_embed(q.scale.expand_as(q.loc) ** 2))
    gap = torch.distributions.kl_divergence(full_q, posterior).detach()
    found = elbo(model, {"x": x}, 2000)
    assert ((found.rows - (torch.from_numpy(truth) - gap)).abs() < 4.5 * found.variance.sqrt()).all()


def test_exact_on_ppca():
    w, x, truth, _ = known()
    schema = Schema.of_table(x.numpy(), [f"c{i}" for i in range(DIMS)])
    model = build("ppca", schema, {"latents": LATENTS}).double()
    with torch.no_grad():
        model.p["x"].module.weight.copy_(w)
        model.p["x"].module.set_scale(torch.tensor(SCALE, dtype=torch.float64))
    for estimate in (exact(model, {"x": x}), elbo(model, {"x": x}, 3), importance(model, {"x": x}, 3)):
        np.testing.assert_allclose(estimate.rows, truth, atol=1e-10)
    assert (exact(model, {"x": x}).variance == 0).all()
    found = importance(model, {"x": x}, 7)
    torch.testing.assert_close(found.effective_sample_size, torch.full((40,), 7.0, dtype=torch.float64))
    assert (found.variance < 1e-12).all()


def test_naive_monte_carlo_from_the_prior():
    """On a model with little to infer, where it converges: within four of its standard errors."""
    _, x, truth, _ = known()
    found = prior(linear_vae(True), {"x": x}, 20_000)
    mean, error = mean_and_error(found)
    assert found.effective_sample_size is not None
    enough = found.effective_sample_size >= 100
    assert enough.sum() >= 20
    rows = (found.rows - torch.from_numpy(truth))[enough]
    assert rows.mean().abs() < 4 * found.variance[enough].sum().sqrt() / enough.sum()
    assert mean < truth.mean() + 4 * error


def test_prior_ignores_q():
    _, x, _, _ = known()
    a, b = linear_vae(True), linear_vae(False)
    torch.manual_seed(4)
    one = prior(a, {"x": x[:3]}, 50).rows
    torch.manual_seed(4)
    torch.testing.assert_close(prior(b, {"x": x[:3]}, 50).rows, one)


def test_annealing_reaches_the_exact_value():
    """Within four standard errors, which are below a tenth of a nat; whatever q is."""
    _, x, truth, _ = known()
    found = annealed(linear_vae(True), {"x": x[:8]}, particles=64, temperatures=60, leapfrog=4)
    error = found.variance.sum().sqrt().item() / 8
    assert error < 0.1
    assert abs(found.rows.mean().item() - truth[:8].mean()) < 4 * error


def test_annealing_two_layers():
    """z ~ N(0, 1), y | z ~ N(z, 1), x | y ~ N(y, 1): x ~ N(0, 3). Parents and shapes are kept apart."""

    class Step(nn.Module):
        def forward(self, parent: Tensor) -> DiagonalNormal:
            return DiagonalNormal(parent.sum(-1, keepdim=True).expand(-1, 2), torch.ones(2))

    class Top(Step):
        def forward(self, parent: Tensor) -> DiagonalNormal:
            return DiagonalNormal(parent[:, :1], torch.ones(1))

    p = Joint({"z": Normal((1,)), "y | z": Top(), "x | y": Top()})
    q = Joint({"y | x": Top(), "z | y": Top()})
    x = torch.tensor([[0.0], [2.0]])
    found = annealed(Model(p, q), {"x": x}, particles=200, temperatures=30, leapfrog=3)
    truth = multivariate_normal([0.0], [[3.0]]).logpdf(x.numpy())
    assert (np.abs(found.rows.numpy() - truth) < 4 * found.variance.sqrt().numpy()).all()


def test_annealing_does_not_move_discrete_variables():
    class Coin(nn.Module):
        def forward(self, *parents: Tensor) -> Bernoulli:
            return Bernoulli(parents[0] * 0 if parents else torch.zeros(1))

    model = Model(Joint({"z": Coin(), "x | z": Coin()}), Joint({"z | x": Coin()}))
    with pytest.raises(CapabilityError, match=r"'z' is discrete; use --estimator iw"):
        annealed(model, {"x": torch.zeros(2, 1)})


@pytest.mark.parametrize("estimate", [prior, annealed])
def test_what_needs_a_prior_says_so(estimate):
    nothing = Model(Joint({"x": Normal((1,))}))
    with pytest.raises(CapabilityError, match="averages over hidden variables, and this model has none"):
        estimate(nothing, {"x": torch.zeros(2, 1)})

    class Same(nn.Module):
        def forward(self, parent: Tensor) -> DiagonalNormal:
            return DiagonalNormal(parent, torch.ones(1))

    headless = Model(Joint({"x | z": Same()}), Joint({"z | x": Same()}))
    with pytest.raises(CapabilityError, match="needs p to have a density over z"):
        estimate(headless, {"x": torch.zeros(2, 1)})


# Blocks


class Table:
    """Stands for a model whose log-weights are written down: the next k rows of the columns asked for."""

    hidden = ("z",)

    def __init__(self, log_w: Tensor):
        self.log_w, self.used = log_w, [0] * log_w.shape[1]

    def evidence(self, observed: dict[str, Tensor], particles: int) -> SimpleNamespace:
        columns = observed["x"][:, 0].long().tolist()
        blocks = []
        for column in columns:
            start = self.used[column]
            blocks.append(self.log_w[start : start + particles, column])
            assert len(blocks[-1]) == particles, "more particles were drawn than asked for"
            self.used[column] = start + particles
        log_w = torch.stack(blocks, 1)
        return SimpleNamespace(log_w=log_w, bounds_by_draw=lambda: log_w)


@pytest.mark.parametrize("rows", [1, 7, 13, 60, 1_000_000])
@pytest.mark.parametrize("estimate", [elbo, importance])
def test_memory_limits_do_not_change_an_estimate(estimate, rows):
    """The same weights in blocks of any size give the same numbers, those of the naive formulas."""
    k, b = 50, 6
    log_w = torch.randn(k, b, dtype=torch.float64) * 3 - 700  # exp would underflow
    table = Table(log_w)
    found = estimate(table, {"x": torch.arange(b)[:, None]}, k, rows=rows)
    assert table.used == [k] * b
    shifted = (log_w + 700).exp().numpy()
    if estimate is elbo:
        np.testing.assert_allclose(found.rows, log_w.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.variance, log_w.numpy().var(0, ddof=1) / k, rtol=1e-9)
        return
    np.testing.assert_allclose(found.rows, np.log(shifted.mean(0)) - 700, rtol=1e-12)
    size = shifted.sum(0) ** 2 / (shifted**2).sum(0)
    np.testing.assert_allclose(found.effective_sample_size, size, rtol=1e-9)
    relative = shifted.var(0, ddof=1) / k / shifted.mean(0) ** 2
    np.testing.assert_allclose(found.variance, relative, rtol=1e-9)


def test_no_more_rows_are_walked_at_once_than_allowed():
    class Watching(Table):
        most = 0

        def evidence(self, observed, particles):
            self.most = max(self.most, particles * len(observed["x"]))
            return super().evidence(observed, particles)

    for k, limit in ((50, 20), (5, 20), (50, 1000), (3, 1)):
        table = Watching(torch.zeros(k, 6, dtype=torch.float64))
        importance(table, {"x": torch.arange(6)[:, None]}, k, rows=limit)
        assert table.most <= limit


def test_the_stated_error_is_that_of_repeated_estimates():
    _, x, _, _ = known()
    model = linear_vae(True)
    repeats = [importance(model, {"x": x[:10]}, 400) for _ in range(60)]
    spread = torch.stack([r.rows for r in repeats]).std(0)
    stated = torch.stack([r.variance for r in repeats]).mean(0).sqrt()
    # The spread of 60 repeats has a relative standard error of 1/√118 = 9% a datum, 3% over ten.
    assert (spread / stated).mean().item() == pytest.approx(1, abs=0.15)


def test_the_error_of_one_draw_is_measured_by_drawing_some_data_again():
    """On average the variance of a draw, which many draws tell; and the numbers that follow are none the wiser."""
    _, x, _, _ = known()
    model = linear_vae(True)
    with seeded(0):
        found = torch.stack([elbo(model, {"x": x}, 1).variance.mean() for _ in range(200)])
        truth = elbo(model, {"x": x}, 4000).variance.mean() * 4000
    assert found.std() > 0
    assert abs(found.mean() - truth) < 4.5 * found.std() / 200**0.5 + 0.05 * truth
    with seeded(0):
        elbo(model, {"x": x}, 1)
        after = torch.rand(3)
    with seeded(0):
        model.evidence({"x": x})
        assert torch.equal(torch.rand(3), after)


def test_each_estimator_says_what_it_is():
    kinds = {name: estimator.kind for name, estimator in ESTIMATORS.items()}
    assert kinds == {
        "exact": "exact",
        "elbo": "lower_bound",
        "iw": "lower_bound",
        "prior": "estimate",
        "ais": "estimate",
        "trace": "estimate",
    }
