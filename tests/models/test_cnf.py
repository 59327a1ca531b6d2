"""Continuous normalizing flows as models: what they learn, and what their scores say they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import jensen
from jensen.core import mean_and_stderr, seeded
from jensen.data import Schema
from jensen.errors import CapabilityError, ConfigError
from jensen.objectives import GradientPhase
from jensen.registry import build
from jensen.transforms import Continuous


def crescent(n: int, seed: int) -> np.ndarray:
    """x₁ ~ N(0, 1), x₂ = x₁² / 2 + N(0, 0.3²): a density whose entropy is known, and no normal one."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return np.stack([a, a**2 / 2 + 0.3 * rng.normal(size=n)], 1)


def crescent_log_prob(x: np.ndarray) -> np.ndarray:
    rest = (x[:, 1] - x[:, 0] ** 2 / 2) / 0.3
    return -(x[:, 0] ** 2 + rest**2) / 2 - math.log(2 * math.pi * 0.3)


def normal_log_prob(train: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Under the normal density fitted to training data."""
    from scipy.stats import multivariate_normal

    return multivariate_normal(train.mean(0), np.cov(train.T)).logpdf(x)


def schema() -> Schema:
    return Schema.of_table(crescent(50, 0), ["a", "b"], ["real", "real"])


def test_it_learns_by_maximum_likelihood():
    """Far above the best normal density, and below the truth, each by paired differences."""
    train, test = crescent(1000, 0), crescent(1000, 1)
    settings = {"hidden": [16, 16], "rtol": 1e-3, "atol": 1e-3}
    run = jensen.train("cnf", train, settings=settings, epochs=5, batch_size=50, lr=2e-2)
    score = run.score(test)
    assert (score.kind, score.estimator) == ("exact", "exact")
    assert score.rows is not None
    above, error = mean_and_stderr(score.rows - torch.from_numpy(normal_log_prob(train, test)))
    assert above > 10 * error
    below, error = mean_and_stderr(score.rows - torch.from_numpy(crescent_log_prob(test)))
    assert -0.2 < below < 4 * error


def test_hutchinsons_trace_makes_the_score_an_estimate():
    """Of what the exact trace gives for the same weights, within four of its own standard errors."""
    x = crescent(30, 1)
    exact = jensen.train("cnf", crescent(100, 0), settings={"hidden": [8, 8]}, epochs=1)
    run = jensen.train("cnf", crescent(100, 0), settings={"hidden": [8, 8], "trace": "hutchinson"}, epochs=1)
    with seeded(0), torch.no_grad():
        for name, parameter in run.model.named_parameters():
            parameter.add_(0.35 * torch.randn_like(parameter))
            exact.model.get_parameter(name).copy_(parameter)
        for name, buffer in run.model.named_buffers():
            exact.model.get_buffer(name).copy_(buffer)
    assert exact.model.likelihood == "exact" and run.model.likelihood == "estimate"
    truth, score = exact.score(x), run.score(x, particles=50)
    assert (score.kind, score.estimator, score.particles) == ("estimate", "trace", 50)
    assert str(score).startswith("log p(x) ≈ ")
    assert score.stderr_mc > 1e-3
    assert abs(score.nats - truth.nats) < 4 * score.stderr_mc
    assert run.score(x).nats == run.score(x).nats  # its probes are seeded


@pytest.mark.parametrize("estimator", ["exact", "elbo", "iw"])
def test_other_estimators_of_an_estimated_density_are_refused(estimator):
    run = jensen.train("cnf", crescent(50, 0), settings={"hidden": [4], "trace": "hutchinson"}, epochs=1)
    with pytest.raises(CapabilityError, match="--estimator trace"):
        run.score(crescent(5, 1), estimator=estimator)


def test_the_trace_is_not_estimated_where_it_is_exact():
    run = jensen.train("cnf", crescent(50, 0), settings={"hidden": [4]}, epochs=1)
    with pytest.raises(CapabilityError, match="--estimator auto"):
        run.score(crescent(5, 1), estimator="trace")


def test_regularization_adds_the_cost_of_the_paths_and_straightens_them():
    """The loss is −log p + λ · cost; what is logged stays log p; and descending on it lowers the cost."""
    with seeded(0):
        plain, regular = (build("cnf", schema(), {"hidden": [8, 8], "regularization": w}).double() for w in (0.0, 0.5))
        for parameter in plain.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    regular.load_state_dict(plain.state_dict())
    batch = {"x": torch.from_numpy(crescent(40, 2))}
    (phase,) = regular.objective.stages[0].phases
    (other,) = plain.objective.stages[0].phases
    assert isinstance(phase, GradientPhase) and isinstance(other, GradientPhase)
    with seeded(1):
        terms = phase.loss(regular, batch, 0.5)
    bare = other.loss(plain, batch, 0.5)
    assert set(terms.logged) == {"log_likelihood", "path_cost"} and set(bare.logged) == {"log_likelihood"}
    truth = float(bare.logged["log_likelihood"])
    assert float(terms.logged["log_likelihood"]) == pytest.approx(truth, abs=1e-3)
    assert float(terms.loss.detach()) == pytest.approx(0.5 * float(terms.logged["path_cost"]) - truth, abs=1e-3)
    optimizer = torch.optim.Adam(regular.parameters(), 3e-2)
    for _ in range(5):
        optimizer.zero_grad()
        phase.loss(regular, batch, 0.5).loss.backward()
        optimizer.step()
    with seeded(1):
        assert phase.loss(regular, batch, 0.5).logged["path_cost"] < 0.8 * terms.logged["path_cost"]


def test_it_starts_as_the_normal_density_that_the_data_have():
    """The velocity starts at zero, behind a standardisation by the first data."""
    model = build("cnf", schema()).double()
    x = torch.from_numpy(crescent(500, 0))
    model.initialize({"x": x})
    with torch.no_grad():
        found = model.evidence({"x": x}).elbo()
    truth = torch.distributions.Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum(1)
    torch.testing.assert_close(found, truth)


def test_as_a_prior_it_is_trained_with_the_rest():
    settings = {"latents": 2, "prior": "flow", "prior.flow": "cnf", "prior.flow.hidden": [8]}
    run = jensen.train("vae", crescent(60, 0), settings=settings, epochs=10, batch_size=20)
    flow = next(m for m in run.model.modules() if isinstance(m, Continuous))
    assert any(float(p.detach().abs().max()) > 0 for p in flow.field.output.parameters())  # pyright: ignore
    assert run.model.likelihood == "lower_bound"


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="hidden"):
        build("cnf", schema(), {"hidden": []})
    with pytest.raises(ConfigError, match="solver"):
        build("cnf", schema(), {"solver": "rk45"})
