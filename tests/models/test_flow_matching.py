"""Flow matching, where velocities and densities are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, multivariate_normal
from torch import Tensor, nn

import jensen
from jensen.core import Model, mean_and_stderr, seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import ConfigError
from jensen.objectives import GradientPhase
from jensen.objectives.flow_matching import paired
from jensen.registry import build
from jensen.transforms import Continuous, Solver

CENTRES = np.array([[1.5, 0.0], [-1.5, 0.0], [0.0, 1.5], [0.0, -1.5]])
DEVIATION = 0.4


def mixture(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a mixture of four normal densities, and which of them each is from."""
    rng = np.random.default_rng(seed)
    which = rng.integers(4, size=n)
    return CENTRES[which] + DEVIATION * rng.normal(size=(n, 2)), which


def mixture_log_prob(x: np.ndarray) -> np.ndarray:
    parts = [multivariate_normal(c, DEVIATION**2 * np.eye(2)).logpdf(x) for c in CENTRES]  # pyright: ignore
    return np.logaddexp.reduce(parts) - math.log(4)


@pytest.fixture(scope="module")
def run():
    settings = {"hidden": [48, 48]}
    return jensen.train("flow-matching", mixture(4000, 0)[0], settings=settings, epochs=40, lr=1e-2)


def test_it_comes_near_the_entropy_of_a_mixture(run):
    """KL(data ‖ model) = E[log p_data − log p] is 0 within 0.05 nats and 4 standard errors; a normal density is far."""
    train, x = mixture(4000, 0)[0], mixture(2000, 1)[0]
    score = run.score(x)
    assert (score.kind, score.estimator) == ("exact", "exact")
    divergence, error = mean_and_stderr(torch.from_numpy(mixture_log_prob(x)) - score.rows)
    assert -4 * error < divergence < 0.05 + 4 * error
    best_normal = multivariate_normal(train.mean(0), np.cov(train.T)).logpdf(x)
    above, error = mean_and_stderr(score.rows - torch.from_numpy(best_normal))
    assert above > 0.3 and above > 10 * error


def test_samples_are_distributed_as_data(run):
    """Along eight directions (Kolmogorov-Smirnov, one in a thousand each)."""
    drawn, x = run.sample(1000), mixture(1000, 2)[0]
    for angle in np.arange(8) * np.pi / 8:
        direction = np.array([np.cos(angle), np.sin(angle)])
        assert ks_2samp(drawn @ direction, x @ direction).pvalue > 1e-3


def test_validation_measured_the_likelihood(run):
    """What is monitored is log p, and not the regression's error."""
    valid = [line["valid"] for line in run.log]
    assert set(valid[-1]) == {"log_likelihood"}
    assert "flow_matching_loss" in run.log[-1]["train"]
    assert valid[-1]["log_likelihood"] > valid[0]["log_likelihood"]


class OfNormal(nn.Module):
    """The mean velocity E[x_1 − (1 − σ) x_0 | x_t] where data are N(m, s²).

    x_t has mean t m and variance a² + t² s², a = 1 − (1 − σ) t, and covariance t s² − (1 − σ) a with the velocity.
    """

    def __init__(self, mean: float, deviation: float, sigma: float):
        super().__init__()
        self.mean, self.deviation, self.sigma = mean, deviation, sigma

    def moments(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = 1 - (1 - self.sigma) * t
        return t * self.deviation**2 - (1 - self.sigma) * a, a**2 + t**2 * self.deviation**2

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        covariance, variance = self.moments(t)
        return self.mean + (covariance / variance)[:, None] * (z - t[:, None] * self.mean)


def matching(sigma: float, times: str) -> Model:
    """A model of one column whose field is the minimum for data N(2, 0.5²)."""
    x = np.array([[0.0], [1.0]])
    schema = Schema.of_table(x, ["a"], ["real"])
    with seeded(0):
        model = build("flow-matching", schema, {"sigma": sigma, "times": times}).double()
    (flow,) = (m for m in model.modules() if isinstance(m, Continuous))
    flow.field, flow.solver = OfNormal(2.0, 0.5, sigma), Solver(rtol=1e-8, atol=1e-8)
    return model


@pytest.mark.parametrize("times", ["uniform", "late"])
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_at_the_known_minimum_the_loss_is_the_velocitys_variance(sigma, times):
    """E Var(x_1 − (1 − σ) x_0 | x_t), integrated over t."""
    model = matching(sigma, times)
    (phase,) = model.objective.stages[0].phases
    assert isinstance(phase, GradientPhase)
    t = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    t = t.sqrt() if times == "late" else t
    covariance, variance = OfNormal(2.0, 0.5, sigma).moments(t)
    truth = float((0.25 + (1 - sigma) ** 2 - covariance**2 / variance).mean())
    with seeded(0):
        losses = [
            float(phase.loss(model, {"x": 2 + 0.5 * torch.randn(1000, 1, dtype=torch.float64)}, 0.0).loss)
            for _ in range(50)
        ]
    assert abs(np.mean(losses) - truth) < 4 * np.std(losses) / math.sqrt(len(losses))


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_the_known_minimum_carries_the_base_to_the_data(sigma):
    """Its density, through the solver, is N(2, 0.5² + σ²)."""
    model = matching(sigma, "uniform")
    x = torch.linspace(0, 4, 20, dtype=torch.float64)[:, None]
    with torch.no_grad():
        found = model.evidence({"x": x}).elbo()
    truth = torch.distributions.Normal(2.0, math.hypot(0.5, sigma)).log_prob(x[:, 0])
    torch.testing.assert_close(found, truth.double(), rtol=1e-5, atol=1e-5)


def test_pairs_are_the_best_assignment():
    """Against all orders of five rows."""
    with seeded(0):
        x0, x1 = torch.randn(5, 1, 2), torch.randn(5, 1, 2)
    found = (paired(x0, x1) - x1).square().sum()
    least = min((x0[list(order)] - x1).square().sum() for order in itertools.permutations(range(5)))
    torch.testing.assert_close(found, least)
    assert sorted(paired(x0, x1)[:, 0, 0].tolist()) == sorted(x0[:, 0, 0].tolist())


def test_optimal_pairs_straighten_the_paths():
    """Few steps then sample nearly as many do."""
    x, gaps = mixture(1000, 0)[0], []
    for pairs in ("independent", "optimal"):
        settings = {"hidden": [32, 32], "pairs": pairs}
        trained = jensen.train("flow-matching", x, settings=settings, epochs=15, lr=1e-2, batch_size=64)
        (flow,) = (m for m in trained.model.modules() if isinstance(m, Continuous))
        with seeded(0), torch.no_grad():
            z = torch.randn(500, 2)
            exact = flow(z)
            flow.sampler = Solver("midpoint", steps=2)
            gaps.append(float((flow(z) - exact).norm(dim=1).mean()))
    assert gaps[1] < 0.7 * gaps[0]


def test_labels_condition_it():
    """Given a label, samples lie where its data do, and densities too: p(x | y) gains on p(x) what y tells."""
    x, which = mixture(1000, 0)
    schema = Schema.of_table(x, ["a", "b"], ["real", "real"], classes=list("0123"), label="which")
    data = Dataset("toy", schema, {"train": Split(x, which), "test": Split(*mixture(500, 1))})
    settings = {"hidden": [24, 24], "conditional": True}
    trained = jensen.train("flow-matching", data, settings=settings, epochs=40, batch_size=64, lr=1e-2)
    with seeded(0), torch.no_grad():
        y = torch.arange(4).repeat(100)
        drawn = np.asarray(trained.schema.restore(trained.model.sample(400, {"y": y})["x"]))
    nearest = np.linalg.norm(drawn[:, None] - CENTRES, axis=2).argmin(1)
    assert (nearest == y.numpy()).mean() > 0.9
    score = trained.score(split="test")
    assert score.rows is not None
    gain, error = mean_and_stderr(score.rows - torch.from_numpy(mixture_log_prob(data.split("test").x)))
    assert gain > math.log(4) - 0.25 - 4 * error  # the four hardly overlap, so that y is worth nearly log 4


def test_whole_numbers_are_dequantised():
    rng = np.random.default_rng(0)
    x = rng.poisson(3.0, size=(300, 2)).astype(float)
    schema = Schema.of_table(x, ["a", "b"], ["count", "count"])
    data = Dataset("toy", schema, {"train": Split(x), "valid": Split(x[:50])})
    trained = jensen.train("flow-matching", data, settings={"hidden": [16, 16]}, epochs=5, lr=1e-2)
    score = trained.score(split="valid")
    assert (score.kind, score.measure) == ("lower_bound", "counting")
    drawn = np.asarray(trained.sample(50))
    assert (drawn == drawn.round()).all() and (drawn >= 0).all()


def test_a_chosen_number_of_steps_samples():
    schema = Schema.of_table(mixture(10, 0)[0], ["a", "b"], ["real", "real"])
    few, usual = (build("flow-matching", schema, {"sampling_steps": n}) for n in (4, 0))
    assert few.capabilities("lebesgue").sequential_steps == 8 < usual.capabilities("lebesgue").sequential_steps


def test_optimal_pairs_of_weighted_rows_are_refused():
    schema = Schema.of_table(mixture(10, 0)[0], ["a", "b"], ["real", "real"])
    model = build("flow-matching", schema, {"pairs": "optimal"})
    (phase,) = model.objective.stages[0].phases
    assert isinstance(phase, GradientPhase)
    with pytest.raises(ConfigError, match="pairs"):
        phase.loss(model, {"x": torch.randn(10, 2), "weight": torch.ones(10)}, 0.0)
