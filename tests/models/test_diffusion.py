"""Diffusion against Gaussian algebra, numerical integrals, and itself in other words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, multivariate_normal, norm
from tests.contracts.toys import BINARY_PICTURES, DATA, columns
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from jensen.conditionals.denoising import Denoised, Guess, Sampling
from jensen.conditionals.noising import Noised, Schedule, backwards, noise, signal
from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import ConfigError
from jensen.jobs.train import train
from jensen.objectives.diffusion import one_term, spread
from jensen.objectives.estimators import elbo, importance
from jensen.registry import build

SCHEDULES = ["cosine", "linear", "learned"]
SMALL = {"network": "mlp", "network.hidden": [16]}


def shaken(schema: Schema, **settings: Any) -> Model:
    """In float64 and eval, with weights away from where they start."""
    with seeded(1):
        model = build("diffusion", schema, SMALL | settings).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


# The chain of q


def joint(gamma: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of z_1 … z_T given x, one number each: how each mean depends on x, and the covariance, step by step in numpy."""
    alpha = np.sqrt(1 / (1 + np.exp(gamma.numpy())))
    mean, covariance = np.zeros(len(alpha)), np.zeros((len(alpha), len(alpha)))
    for t, now in enumerate(alpha):
        keep = now / (alpha[t - 1] if t else 1.0)
        if t:
            covariance[t, :t] = covariance[:t, t] = keep * covariance[t - 1, :t]
        covariance[t, t] = keep**2 * (covariance[t - 1, t - 1] if t else 0.0) + 1 - keep**2
        mean[t] = keep * (mean[t - 1] if t else 1.0)
    return mean, covariance


def test_noise_far_below_float32s_resolution_is_still_noise():
    gamma = torch.tensor([-18.0, -17.0, 0.0])
    with seeded(0):
        z = Noised(torch.zeros(20_000, 1), gamma, 1).sample()
    wanted = torch.sigmoid(gamma.double()).sqrt()
    torch.testing.assert_close(z.double().std(0)[:, 0], wanted, rtol=0.03, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_chain_is_the_normal_that_its_steps_make(name, steps):
    gamma = Schedule(steps, name)().detach().double()
    assert (gamma.diff() > 0).all()
    mean, covariance = joint(gamma)
    x = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)
    q = Noised(x, gamma, 1)
    z = q.sample((20_000,))  # (20000, 2, T, 1)
    for i in range(2):
        draws = z[:, i, :, 0].numpy()
        deviation = (draws.mean(0) - mean * x[i].item()) / np.sqrt(np.diag(covariance) / len(draws))
        assert np.abs(deviation).max() < 4.5
        np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.06)
        expected = multivariate_normal(mean * x[i].item(), covariance).logpdf(draws[:50])
        np.testing.assert_allclose(q.log_prob(z)[:50, i].numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_marginals_and_steps_back_are_those_of_the_joint_normal(name):
    gamma = Schedule(6, name)().detach().double()
    mean, covariance = joint(gamma)
    x = 0.7
    for t in range(6):
        m = Noised(torch.full((1, 1), x, dtype=torch.float64), gamma, 1).marginal(torch.tensor([t + 1]))
        np.testing.assert_allclose(m.loc.item(), mean[t] * x, rtol=1e-9)
        np.testing.assert_allclose(m.scale.item() ** 2, covariance[t, t], rtol=1e-9)
        for s in range(t):  # conditioning the joint normal of (z_s, z_t) on z_t
            z = torch.tensor(0.4, dtype=torch.float64)
            loc, scale = backwards(z, torch.tensor(x, dtype=torch.float64), gamma[t], gamma[s])
            gain = covariance[s, t] / covariance[t, t]
            np.testing.assert_allclose(loc.item(), mean[s] * x + gain * (z.item() - mean[t] * x), rtol=1e-7)
            np.testing.assert_allclose(scale.item() ** 2, covariance[s, s] - gain * covariance[s, t], rtol=1e-7)


def test_schedules_are_the_papers():
    steps = 50
    u = np.arange(1, steps + 1) / steps
    squared = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    found = signal(Schedule(steps, "cosine")().double()).square().numpy()
    np.testing.assert_allclose(found[:-1], squared[:-1], rtol=1e-4)
    assert found[-1] == pytest.approx(1e-3 * found[-2], rel=1e-3)  # rates of noise end at 0.999
    beta = np.linspace(1e-4, 0.02, 1000)
    found = signal(Schedule(1000, "linear")().double()).square().numpy()
    np.testing.assert_allclose(np.log(found)[100:], np.log1p(-beta).cumsum()[100:], rtol=0.015)


# The bound


class Linear(nn.Module):
    """x̂ = E[x | z_t] for x ~ N(0, s²), one number: the best there is."""

    def __init__(self, gamma: Tensor, variance: float, share: float = 0.0):
        super().__init__()
        self.gamma, self.variance, self.share = gamma, variance, torch.tensor(share, dtype=gamma.dtype)

    def forward(self, z: Tensor, t: Tensor, context: Tensor | None) -> Guess:
        gamma = self.gamma[t - 1].unsqueeze(1)
        a, s2 = signal(gamma), torch.sigmoid(gamma)
        return Guess(a * self.variance / (a**2 * self.variance + s2) * z, self.share)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_chains_divergence_by_draws_is_that_of_normals(share):
    """p is a normal chain where x̂ is linear: KL(q(z | x) ‖ p(z)) from both covariances, in numpy."""
    gamma, x, variance = Schedule(4, "cosine")().double(), 0.8, 2.0
    mean, covariance = joint(gamma)
    # p, from z_T on: z_s = c_s z_t + noise
    alpha, sigma2, g = signal(gamma).numpy(), torch.sigmoid(gamma).numpy(), gamma.numpy()
    p_cov = np.zeros((4, 4))
    p_cov[3, 3] = 1.0
    for t in (3, 2, 1):
        s = t - 1
        kept = -np.expm1(g[s] - g[t])
        denoise = alpha[t] * variance / (alpha[t] ** 2 * variance + sigma2[t])
        c = alpha[t] / alpha[s] * sigma2[s] / sigma2[t] + alpha[s] * kept * denoise
        p_cov[s, t:] = p_cov[t:, s] = c * p_cov[t, t:]
        p_cov[s, s] = c**2 * p_cov[t, t] + sigma2[s] ** (1 - share) * sigma2[t] ** share * kept
    inverse = np.linalg.inv(p_cov)
    m = mean * x
    ratio = np.linalg.slogdet(p_cov)[1] - np.linalg.slogdet(covariance)[1]
    truth = 0.5 * (np.trace(inverse @ covariance) + m @ inverse @ m - 4 + ratio)
    q = Noised(torch.full((1, 1), x, dtype=torch.float64), gamma, 1)
    p = Denoised(Linear(gamma, variance, share), gamma, (1,), None)
    with seeded(0):
        z = q.sample((40_000,))
    steps, ratio = q.divergence_given(z, p)[:, 0], (q.log_prob(z) - p.log_prob(z))[:, 0]
    for found in (steps, ratio):
        assert abs(found.mean().item() - truth) < 4 * found.std().item() / 200
    assert steps.var() < ratio.var()


@pytest.mark.parametrize("data", ["real table", "count table", "binary pictures", "grey pictures"])
@pytest.mark.parametrize("predict", ["noise", "x", "v"])
def test_a_term_times_t_is_the_bound_on_average(data, predict):
    """Σ_t of what training takes one of, of one and the same chain, is what scoring takes."""
    schema, rows = DATA[data]
    model = shaken(schema, steps=4, predict=predict, noising="learned")
    x = schema.prepare(rows).double()[:5]
    with torch.no_grad(), seeded(3):
        e = model.evidence({"x": x})
        z = e.values["z"]
        terms = [one_term(model, {"x": x}, torch.full((5,), t), z[:, t - 1]) for t in (1, 2, 3, 4)]
        found = -sum(term.nats for term in terms) - terms[0].arrival
    torch.testing.assert_close(found, e.bounds_by_draw()[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, e.reconstruction() - sum(e.divergences().values()), rtol=1e-9, atol=1e-9)


def test_arrival_is_the_divergence_from_pure_noise():
    gamma, x = torch.tensor([-1.0, 0.0, 0.5]).double(), torch.tensor([[0.3, -1.2]]).double()
    last = Normal(signal(gamma[-1]) * x, noise(gamma[-1]))
    truth = kl_divergence(last, Normal(torch.zeros_like(x), torch.ones_like(x))).sum(1)
    torch.testing.assert_close(Noised(x, gamma, 1).arrival(), truth)


def test_terms_of_rows_are_given_their_own_labels():
    schema = Schema.of_pictures((1, 2, 2), levels=2, classes=("a", "b", "c"))
    model = shaken(schema, steps=4, conditional=True)
    x, y = torch.from_numpy(DATA["binary pictures"][1]).double()[:6], torch.tensor([0, 1, 2, 2, 1, 0])
    t = torch.tensor([1, 3, 2, 4, 1, 3])
    with torch.no_grad(), seeded(3):
        e = model.evidence({"x": x, "y": y})
        z = e.values["z"]
        found = one_term(model, {"x": x, "y": y}, t, z[torch.arange(6), t - 1]).nats
        alone = []
        for i in range(6):
            row = slice(i, i + 1)
            alone.append(one_term(model, {"x": x[row], "y": y[row]}, t[row], z[row, t[i] - 1]).nats[0])
        each = [one_term(model, {"x": x, "y": y}, torch.full((6,), s), z[:, s - 1]) for s in (1, 2, 3, 4)]
    torch.testing.assert_close(found, torch.stack(alone))
    torch.testing.assert_close(-sum(term.nats for term in each) - each[0].arrival, e.bounds_by_draw()[0])
    with torch.no_grad():  # and labels matter here
        other = one_term(model, {"x": x, "y": (y + 1) % 3}, t, z[torch.arange(6), t - 1]).nats
    assert (found - other).abs().min() > 1e-6


def test_rows_without_label_are_those_whose_label_is_hidden():
    schema = Schema.of_pictures((1, 2, 2), levels=2, classes=("a", "b", "c"))
    known = shaken(schema, steps=4, conditional=True).p["z"].module.context
    found = known(torch.tensor([1, -1]))
    assert found.tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("schedule", [{}, {"start": -1.0, "log_steps": -1.5}], ids=["as it starts", "far from noise"])
def test_the_training_loss_is_the_bound_on_average(schedule):
    """Where the chain ends far from pure noise, the divergence of its end counts: 1.5 nats here."""
    schema, rows = DATA["binary pictures"]
    model, x = shaken(schema, steps=5, noising="learned"), schema.prepare(rows).double()
    with torch.no_grad():
        for name, value in schedule.items():
            getattr(model.q["z"].module.schedule, name).fill_(value)
    (phase,) = model.objective.stages[0].phases
    with torch.no_grad(), seeded(0):
        losses = torch.stack([phase.loss(model, {"x": x}, 0.5).loss for _ in range(1000)])
        truth = elbo(model, {"x": x}, 400)
    error = math.hypot(losses.std().item() / 1000**0.5, truth.variance.sum().sqrt().item() / len(x))
    assert abs(-losses.mean().item() - truth.rows.mean().item()) < 4 * error


def test_validation_takes_several_terms_of_few_data():
    """The bound on average, with less noise than one term of each."""
    schema, rows = DATA["binary pictures"]
    model, x = shaken(schema, steps=5), schema.prepare(rows).double()[:3]
    with torch.no_grad(), seeded(0):
        found = torch.stack([model.objective.validate(model, {"x": x})["elbo"] for _ in range(200)])
        one = torch.stack([-5 * one_term(model, {"x": x}, spread(3, 5)).nats for _ in range(200)])
        truth = elbo(model, {"x": x}, 2000)
    assert found.shape == (200, 3)
    assert ((found.mean(0) - truth.rows).abs() < 4.5 * (found.var(0) / 200 + truth.variance).sqrt()).all()
    assert found.std(0).mean() < one.std(0).mean()


def test_times_are_uniform_and_evenly_spread():
    with seeded(0):
        t = torch.stack([spread(10, 7) for _ in range(7000)])
    assert t.min() == 1
    assert t.max() == 7
    for row in (0, 9):
        counts = torch.bincount(t[:, row], minlength=8)[1:]
        assert (counts - 1000).abs().max() < 4.5 * 1000**0.5
    each = torch.stack([(t == k).sum(1) for k in range(1, 8)])
    assert each.min() >= 1  # none is left out where there are as many data as steps
    assert each.max() <= 2


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_importance_weights_find_log_p_by_numerical_integration(steps):
    """One number, p(z_1) and then p(x) on a grid, step by step."""
    schema = columns(np.linspace(-1, 1, 20)[:, None], "real")
    model = shaken(schema, steps=steps, predict="x")
    grid = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    width = (grid[1] - grid[0]).item()
    x = torch.tensor([[-1.0], [0.2], [1.5]], dtype=torch.float64)
    with torch.no_grad():
        p = model.p["z"].module()
        density = torch.from_numpy(norm.pdf(grid.numpy()))
        for t in range(steps, 1, -1):
            t_ = torch.full((len(grid),), t)
            x_, share = (part[:, 0] for part in p.denoise(grid[:, None], t_, None))
            loc, scale = backwards(grid, x_, p.gamma[t - 1], p.gamma[t - 2], share)
            step = torch.exp(-0.5 * ((grid[:, None] - loc) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
            density = step @ density * width
        head = model.p["x"].module(grid[:, None, None])
        truth = torch.stack([(head.log_prob(row).exp() * density).sum() * width for row in x]).log()
        with seeded(0):
            found = importance(model, {"x": x}, 20_000)
            low = elbo(model, {"x": x}, 2000)
    assert density.sum().item() * width == pytest.approx(1, abs=1e-6)
    assert ((found.rows - truth).abs() < 4.5 * found.variance.sqrt() + 1e-3).all()
    assert (low.rows < truth + 4 * low.variance.sqrt()).all()
    with torch.no_grad(), seeded(1):
        drawn = model.sample(4000)["x"][:, 0]
    dense = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    with torch.no_grad():
        values = torch.stack([(head.log_prob(v.reshape(1)).exp() * density).sum() * width for v in dense])
    cumulative = torch.cumulative_trapezoid(values, dense).numpy()
    assert cumulative[-1] == pytest.approx(1, abs=2e-3)
    assert kstest(drawn.numpy(), lambda v: np.interp(v, dense[1:].numpy(), cumulative)).pvalue > 1e-3


def test_with_the_best_denoiser_more_steps_bring_the_bound_to_log_p():  # v = 0
    """x ~ N(0, s²): E KL of the chain, in closed form, falls to what x's own noise leaves, log p(z_1) on average."""
    variance, gaps = 1.7, []
    for steps in (4, 16, 64):
        gamma = torch.linspace(-4, 9, steps, dtype=torch.float64)
        alpha, s2 = signal(gamma), torch.sigmoid(gamma)
        error = variance * s2 / (alpha**2 * variance + s2)  # E (x − E[x | z_t])²
        snr = (-gamma).exp()
        chain = 0.5 * ((snr[:-1] - snr[1:]) * error[1:]).sum()
        arrival = 0.5 * (alpha[-1] ** 2 * (variance - 1) - s2[-1].log())
        mutual = 0.5 * torch.log(1 + variance * snr[0])  # E KL(q(z_1 | x) ‖ ∫ q(z_1 | x) p(x) dx)
        with seeded(0):
            x = variance**0.5 * torch.randn(20_000, 1, dtype=torch.float64)
            q, p = Noised(x, gamma, 1), Denoised(Linear(gamma, variance), gamma, (1,), None)
            found = q.divergence_given(q.sample(), p)
        assert abs(found.mean() - (chain + arrival)) < 4.5 * found.std() / 20_000**0.5
        gaps.append((chain + arrival - mutual).item())
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.1 * gaps[0]


@pytest.mark.parametrize("predict", ["noise", "x", "v"])
def test_the_three_predictions_are_one_density(predict):
    """A network that predicts the noise, x or v of one and the same x̂ gives one p."""
    schema, rows = DATA["real table"]
    model = shaken(schema, steps=3, predict=predict)
    one = shaken(schema, steps=3, predict="x")
    target = one.p["z"].module.denoiser

    class Same(nn.Module):
        def forward(self, z: Tensor, c: Tensor) -> Tensor:
            steps = torch.arange(1, 4)
            phases = target._time(steps, None).to(c)
            t = (c[:, None] - phases).abs().sum(-1).argmin(1) + 1
            (x, share), more = target(z, t, None)
            gamma = target.schedule()[t - 1].unsqueeze(1)
            alpha, sigma = signal(gamma), noise(gamma)
            said = {"x": x, "noise": (z - alpha * x) / sigma, "v": (alpha * z - x) / sigma}[predict]
            return torch.cat([said, share.logit(), more], 1)

    denoiser = model.p["z"].module.denoiser
    denoiser.network = Same()
    model.p["x"].module.bias = one.p["x"].module.bias
    x = schema.prepare(rows).double()[:6]
    with torch.no_grad():
        z = one.evidence({"x": x}).values["z"]
        a, b = one.evidence({"x": x, "z": z}), model.evidence({"x": x, "z": z})
        for name in ("x", "z"):
            torch.testing.assert_close(a.log_p[name], b.log_p[name], rtol=1e-6, atol=1e-6)


# Sampling


def conditional_model(**settings: Any) -> tuple[Model, Tensor, Tensor]:
    schema = Schema.of_pictures((1, 2, 2), levels=2, classes=("a", "b"))
    model = shaken(schema, steps=6, conditional=True, **settings)
    y = torch.tensor([0, 1] * 12)
    return model, torch.from_numpy(BINARY_PICTURES).double(), y


def test_ddim_with_all_the_noise_is_the_ancestral_sampler():
    """Given the same noise, step for step."""
    schema, _ = DATA["real table"]
    p = shaken(schema, steps=6, variance="small").p["z"].module()
    with seeded(0):
        chain = p.sample((50,))
    with seeded(0):
        one = p.sampled(Sampling(eta=1.0)).sample((50,))
    with seeded(0), torch.no_grad():  # each step from q(z_s | z_t, x̂), written out
        z, steps = torch.randn(50, 3, dtype=torch.float64), [None] * 6
        steps[5] = z
        for t in range(6, 1, -1):
            x, _ = p.denoise(z, torch.full((50,), t), None)
            loc, scale = backwards(z, x, p.gamma[t - 1], p.gamma[t - 2])
            z = steps[t - 2] = loc + scale * torch.randn_like(z)
    torch.testing.assert_close(chain, torch.stack(steps, 1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one, chain[:, :1])


def test_ddim_keeps_the_marginals_of_noise_and_goes_straight_where_x_is_known():
    """Where x̂ is x itself z_s given z_t is such that z_s ~ q(z_s | x), whatever eta and the steps that are left out."""
    gamma, x = Schedule(20, "cosine")().double(), 0.6

    def known(z: Tensor, t: Tensor, context: Tensor | None) -> Guess:
        return Guess(torch.full_like(z, x), torch.zeros(()))

    for eta in (0.0, 0.5, 1.0, None):
        p = Denoised(known, gamma, (1,), None).sampled(Sampling(4, eta))
        with seeded(0):
            z = p.sample((20_000,)).flatten()
        alpha, sigma = signal(gamma[0]).item(), noise(gamma[0]).item()
        start = signal(gamma[-1]).item()  # N(0, 1) in place of N(α_T x, σ_T²)
        assert start < 0.02
        assert z.mean().item() == pytest.approx(alpha * x, abs=5 * sigma / 20_000**0.5 + start * sigma)
        assert z.std().item() == pytest.approx(sigma, rel=0.03)


def test_no_guidance_is_the_conditional_model_and_guidance_moves_on_from_none():
    model, _, y = conditional_model()
    p = model.p["z"].module(y)
    with seeded(0):
        plain = p.sample()
    with seeded(0):
        unguided = p.sampled(Sampling()).sample()
    torch.testing.assert_close(plain[:, :1], unguided)
    z, t = torch.randn(24, 1, 2, 2, dtype=torch.float64), torch.full((24,), 4)
    with torch.no_grad():
        given, not_given = p.denoise(z, t, p.context).x, p.denoise(z, t, torch.zeros_like(p.context)).x
        beyond = 3 * given - 2 * not_given
        assert beyond.abs().max() > 1  # what guidance adds may lead out of where bits are, and is held there
        torch.testing.assert_close(p._guided(z, t, p.context, 2.0).x, beyond.clamp(-1, 1))
    with seeded(0):
        assert not torch.equal(p.sampled(Sampling(guidance=2.0)).sample(), unguided)


def test_labels_are_hidden_at_the_rate_asked_for():
    model, _, y = conditional_model(label_dropout=0.25)
    y = y.repeat(200)
    known = model.train().p["z"].module.context(y)
    hidden = (known == 0).all(1)
    n = len(y)
    assert abs(hidden.double().mean().item() - 0.25) < 4.5 * (0.25 * 0.75 / n) ** 0.5
    assert (known[~hidden, -1] == 1).all()
    assert (model.eval().p["z"].module.context(y)[:, -1] == 1).all()


def test_what_cannot_be_sampled_so_is_refused():
    model, _, y = conditional_model(label_dropout=0.0)
    with pytest.raises(ConfigError, match="label_dropout=0"):
        model.p["z"].module(y).sampled(Sampling(guidance=1.0))
    p = shaken(DATA["real table"][0], steps=3).p["z"].module()
    with pytest.raises(ConfigError, match="no conditions"):
        p.sampled(Sampling(guidance=1.0))
    with pytest.raises(ConfigError, match="the chain has 3, got 4"):
        p.sampled(Sampling(4))
    with pytest.raises(ConfigError, match="weighting=bound"):
        build("diffusion", DATA["real table"][0], {"noising": "learned", "weighting": "simple"})


# Training


@pytest.mark.parametrize("weighting", ["bound", "simple"])
def test_training_brings_the_bound_to_that_of_the_data(weighting):
    """A correlated normal table: log p is known."""
    rng = np.random.default_rng(0)
    root = np.array([[1.0, 0.0], [0.9, 0.5]])
    rows = rng.normal(size=(3000, 2)) @ root.T
    data = Dataset("toy", columns(rows[:2000], "real"), {"train": Split(rows[:2000]), "test": Split(rows[2000:])})
    settings = {"network": "mlp", "network.hidden": [64, 64], "network.activation": "silu", "steps": 40}
    run = train("diffusion", data, settings={**settings, "weighting": weighting}, epochs=80, batch_size=250, lr=5e-3)
    truth = -1 - np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(root @ root.T)[1]  # −entropy
    score = run.score(particles=4)
    assert (score.estimator, score.kind) == ("elbo", "lower_bound")
    assert 0 < score.stderr_mc < score.stderr
    assert truth - 0.2 < score.nats < truth + 4 * score.stderr
    drawn = np.asarray(run.sample(4000))
    np.testing.assert_allclose(np.cov(drawn.T), root @ root.T, atol=0.15)
    once = run.score(particles=1)
    assert once.stderr_mc == pytest.approx(2 * score.stderr_mc, rel=0.7)


def test_what_z1_tells_of_a_bit_is_its_log_odds():
    """log p(z_1 | x = 1) − log p(z_1 | x = 0), beside what the network says, which here is nothing."""
    schema = Schema.of_pictures((1, 2, 2), levels=2)
    with seeded(0):
        model = build("diffusion", schema, {**SMALL, "steps": 4}).double().eval()
        z = torch.randn(3, 4, 1, 2, 2).double()
    with torch.no_grad():
        for parameter in model.p["x"].module.parameters():
            parameter.zero_()
        gamma = model.q["z"].module.schedule()[0]
        up, down = (Normal(sign * signal(gamma), noise(gamma)).log_prob(z[:, 0]) for sign in (1, -1))
        p: Any = model.p["x"].module(z)
        odds = p.log_prob_terms(torch.ones(3, 1, 2, 2).double()) - p.log_prob_terms(torch.zeros(3, 1, 2, 2).double())
    torch.testing.assert_close(odds, (up - down).to(odds))


def test_levels_stand_around_what_is_guessed():
    """The first parameter of a head with a location is x̂ itself."""
    schema, _ = DATA["grey pictures"]
    model = shaken(schema, steps=4)
    step = model.p["x"].module
    with torch.no_grad(), seeded(0):
        z = torch.randn(3, 4, *schema.event_shape).double()
        (guess, more), first = step.denoiser(z[:, 0], torch.ones(3, dtype=torch.long), None), schema.event_shape[0]
        parameters = more + step.bias
        parameters[:, :first] += guess.x
        values = schema.prepare(DATA["grey pictures"][1]).double()[:3]
        torch.testing.assert_close(step(z).log_prob(values), step.head(parameters).log_prob(values))


def test_a_guess_keeps_to_what_data_can_be_outside_of_training():
    schema = Schema.of_pictures((1, 2, 2), levels=2)
    model = shaken(schema, steps=4)
    denoiser = model.p["z"].module.denoiser
    z, t = 50 * torch.randn(6, 1, 2, 2).double(), torch.full((6,), 2)
    with torch.no_grad():
        held, free = denoiser(z, t, None)[0].x, denoiser.train()(z, t, None)[0].x
    assert free.abs().max() > 1
    torch.testing.assert_close(held, free.clamp(-1, 1))


@pytest.mark.parametrize("predict", ["noise", "x", "v"])
def test_simple_weights_are_squared_errors_of_what_is_predicted(predict):
    """Of ε, x or v: a mean over elements; the width of p's steps is learned by the bound, and moves nothing else."""
    schema, rows = DATA["real table"]
    model = shaken(schema, steps=4, predict=predict, variance="learned", weighting="simple")
    x = schema.prepare(rows).double()[:6]
    with seeded(1):
        z = model.evidence({"x": x}).values["z"].detach()
    t = torch.full((6,), 3)
    denoiser = model.p["z"].module.denoiser
    gamma = model.q["z"].module.schedule()[2]
    alpha, sigma = signal(gamma), noise(gamma)
    term = one_term(model, {"x": x}, t, z[:, 2])
    guess = denoiser.guess(z[:, 2], t, None)
    epsilon, epsilon_hat = (z[:, 2] - alpha * x) / sigma, (z[:, 2] - alpha * guess.x) / sigma
    target = {"noise": epsilon, "x": x, "v": alpha * epsilon - sigma * x}[predict]
    said = {"noise": epsilon_hat, "x": guess.x, "v": alpha * epsilon_hat - sigma * guess.x}[predict]
    q = model.q["z"].module(x)
    width = q.cost(t, (x - guess.x).square().detach(), guess.share) / x[0].numel()
    torch.testing.assert_close(term.plain, (target - said).square().mean(1) + width)
    weights = list(denoiser.network.parameters())
    found = torch.autograd.grad(term.plain.sum(), weights, retain_graph=True)
    parts = torch.autograd.grad(((target - said).square().mean(1) + width).sum(), weights)
    for gradient, wanted in zip(found, parts, strict=True):
        torch.testing.assert_close(gradient, wanted)
