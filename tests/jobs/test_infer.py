"""Variational inference: targets whose posterior is known, targets that must be doubted, and those refused."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor
from torch.nn.functional import softplus

import jensen
from jensen.errors import ConfigError, DataError, InferenceWarning, IntegrityError
from jensen.jobs.infer import infer, open_inference, verdict

QUICK = {"window": 40, "draws": 4000}
MEAN = torch.tensor([1.0, -2.0, 100.0], dtype=torch.float64)
ROOT = torch.tensor([[2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [-3.0, 0.2, 0.01]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T
LOG_Z = 7.0


def normal(z: Tensor) -> Tensor:
    """A normal density times e⁷: scales from 0.01 to 3, strongly correlated, far from the origin."""
    return torch.distributions.MultivariateNormal(MEAN, scale_tril=ROOT).log_prob(z) + LOG_Z


# Truths


def test_a_normal_target_is_found_exactly():
    """Nothing is left of the noise where q can be the target: sticking the landing."""
    found = infer(normal, 3, **QUICK)
    scale = COVARIANCE.diagonal().sqrt()
    assert ((found.mean - MEAN).abs() / scale).max() < 1e-4
    torch.testing.assert_close(found.std, scale, rtol=1e-4, atol=0)
    assert found.elbo == pytest.approx(LOG_Z, abs=1e-4)
    assert found.log_evidence == pytest.approx(LOG_Z, abs=1e-4)
    assert found.converged and found.trustworthy and not found.warnings


def test_a_normal_target_of_low_rank_is_found_by_that_family():
    factor = torch.tensor([[1.0, 0.5], [-1.0, 1.0], [0.5, 1.0], [1.0, -0.5]], dtype=torch.float64)
    covariance = factor @ factor.T + torch.tensor([0.5, 1.0, 0.5, 1.0], dtype=torch.float64).diag()
    target = torch.distributions.MultivariateNormal(torch.arange(4.0).double(), covariance)
    found = infer(target.log_prob, 4, family="low-rank", rank=2, window=100, draws=4000)
    torch.testing.assert_close(found.mean, target.mean, rtol=0, atol=0.005)
    torch.testing.assert_close(found.std, covariance.diagonal().sqrt(), rtol=0.005, atol=0)
    assert found.elbo == pytest.approx(0, abs=0.001)


def test_the_mean_field_optimum_has_the_conditional_variances():
    """KL(q ‖ p) is least at σ_d² = 1/Λ_dd with Λ the precision (Bishop 2006, section 10.1.2): the means are right."""
    precision = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    mean = torch.tensor([1.0, -3.0], dtype=torch.float64)
    log_z = 0.5 * math.log((2 * math.pi) ** 2 / float(torch.det(precision)))

    def target(z: Tensor) -> Tensor:
        return -0.5 * ((z - mean) @ precision * (z - mean)).sum(-1)

    found = infer(target, 2, family="mean-field", window=100, draws=4000)
    torch.testing.assert_close(found.mean, mean, rtol=0, atol=0.02)
    torch.testing.assert_close(found.std, precision.diagonal().rsqrt(), rtol=0.02, atol=0)
    gap = 0.5 * math.log(float(precision.diagonal().prod() / torch.det(precision)))
    assert found.elbo == pytest.approx(log_z - gap, abs=4 * found.elbo_stderr + 0.005)
    assert found.log_evidence == pytest.approx(log_z, abs=4 * found.log_evidence_stderr + 0.005)
    covariance = torch.linalg.inv(precision)
    torch.testing.assert_close(found.weighted_std, covariance.diagonal().sqrt(), rtol=0.1, atol=0)


def bayesian_logistic_regression():
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    x = torch.from_numpy(np.concatenate([x, np.ones((len(x), 1))], 1))
    y = torch.from_numpy(y).double()

    def log_posterior(w: Tensor) -> Tensor:
        logits = w @ x.T
        return (y * logits - softplus(logits)).sum(-1) - 0.5 * w.square().sum(-1)

    return log_posterior


@pytest.mark.slow
def test_logistic_regression_agrees_with_a_long_run_of_nuts():
    """benchmarks/logistic_regression_nuts.py: means within a tenth of a posterior standard deviation."""
    truth = json.loads((Path(__file__).parent / "logistic_regression_nuts.json").read_text())
    assert truth["largest_r_hat"] < 1.01
    mean, std = (torch.tensor(truth[name], dtype=torch.float64) for name in ("mean", "std"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)  # k̂ is near its limit
        found = infer(bayesian_logistic_regression(), 31, window=60)
    assert ((found.mean - mean).abs() / std).max() < 0.1
    assert ((found.std / std - 1).abs()).max() < 0.1
    assert ((found.weighted_mean - mean).abs() / std).max() < 0.1
    assert found.k_hat < 0.7
    assert not found.misses_mass


def test_two_modes_are_found_by_a_mixture():
    found = infer(two_modes, 1, family="mixture", components=2, spread=4.0, **QUICK)
    assert found.elbo == pytest.approx(0, abs=0.01)
    share = (found.sample(20_000, seed=0) > 0).double().mean()
    assert float(share) == pytest.approx(0.7, abs=0.02)


def test_a_flow_comes_nearer_to_a_bent_target_than_a_normal():
    def bent(z: Tensor) -> Tensor:
        return -0.5 * z[:, 0] ** 2 - 0.5 * ((z[:, 1] - z[:, 0] ** 2) / 0.5) ** 2 - math.log(2 * math.pi * 0.5)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        flat = infer(bent, 2, **QUICK)
        flow = infer(bent, 2, family="realnvp", layers=4, hidden=[16], step_size=0.02, **QUICK)
    assert flat.elbo < flow.elbo - 0.3
    assert flow.elbo < 4 * flow.elbo_stderr
    assert flow.log_evidence == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("gradient", ["pathwise", "score", "measure-valued"])
def test_every_gradient_finds_the_same(gradient):
    def target(z: Tensor) -> Tensor:
        return -0.5 * ((z - 1) / 0.5).square().sum(-1)

    def numb(z: Tensor) -> Tensor:  # no gradient comes out
        return target(z.detach())

    found = infer(target if gradient == "pathwise" else numb, 2, family="mean-field", gradient=gradient, **QUICK)
    torch.testing.assert_close(found.mean, torch.ones(2, dtype=torch.float64), rtol=0, atol=0.05)
    torch.testing.assert_close(found.std, torch.full((2,), 0.5, dtype=torch.float64), rtol=0.1, atol=0)


# Supports


@pytest.mark.parametrize(
    ("support", "truth"),
    [
        ("positive", scipy.stats.gamma(3.0, scale=0.5)),
        ((0.0, 1.0), scipy.stats.beta(2.0, 3.0)),
        ((2.0, None), scipy.stats.gamma(3.0, loc=2.0)),
        ((-1.0, 4.0), scipy.stats.beta(2.0, 3.0, loc=-1.0, scale=5.0)),
    ],
    ids=["positive", "unit interval", "from two", "interval"],
)
def test_a_target_on_part_of_the_line(support, truth):
    """Moments by weighted draws, and log Z = 0, against scipy."""

    def target(z: Tensor) -> Tensor:
        d = truth.kwds
        x = (z[:, 0] - d.get("loc", 0.0)) / d.get("scale", 1.0)
        a = [torch.tensor(v, dtype=z.dtype) for v in truth.args]
        kind = torch.distributions.Gamma(a[0], 1.0) if len(a) == 1 else torch.distributions.Beta(a[0], a[1])
        return kind.log_prob(x) - math.log(d.get("scale", 1.0))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)  # a log-normal tail against an exponential one: k̂ near 1
        found = infer(target, 1, support=support, draws=20_000, window=40)
    assert float(found.draws.min()) > truth.support()[0]
    assert float(found.draws.max()) < truth.support()[1]
    assert float(found.weighted_mean) == pytest.approx(truth.mean(), abs=0.03 * truth.std())
    assert float(found.weighted_std) == pytest.approx(truth.std(), rel=0.05)
    assert found.log_evidence == pytest.approx(0, abs=0.02)
    grid = torch.linspace(*np.clip(truth.support(), -50, 50), 20_001, dtype=torch.float64)[1:-1]
    assert float(torch.trapezoid(found.log_prob(grid[:, None]).exp(), grid)) == pytest.approx(1, abs=1e-3)


def test_each_dimension_has_a_support_of_its_own():
    def target(z: Tensor) -> Tensor:
        return (
            torch.distributions.LogNormal(0.5, 0.3).log_prob(z[:, 0])
            - 0.5 * (z[:, 1] - 2).square()
            + torch.distributions.Beta(5.0, 5.0).log_prob(z[:, 2])
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        found = infer(target, 3, support={0: "positive", 2: (0, 1)}, **QUICK)
        again = infer(target, 3, support=["positive", None, (0, 1)], **QUICK)
    assert found.support == [(0.0, None), (None, None), (0.0, 1.0)]
    wanted = torch.tensor([math.exp(0.5 + 0.045), 2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(found.mean, wanted, rtol=0, atol=0.03)
    assert float(found.mean[1]) == pytest.approx(2.0, abs=1e-3)  # exact, as q knows it
    assert torch.equal(found.draws, again.draws)


# Doubts


def funnel(z: Tensor) -> Tensor:
    """Neal's: v ~ N(0, 9), x_i | v ~ N(0, e^v)."""
    v, x = z[:, 0], z[:, 1:]
    return -v.square() / 18 - 0.5 * (x.square() * torch.exp(-v)[:, None]).sum(-1) - 0.5 * v * x.shape[1]


def banana(z: Tensor) -> Tensor:
    return -0.5 * (z[:, 0] / 10).square() - 0.5 * (z[:, 1] + 0.03 * z[:, 0].square() - 3).square()


@pytest.mark.parametrize(("target", "dim"), [(funnel, 10), (funnel, 2), (banana, 2)], ids=["funnel", "small", "banana"])
def test_k_hat_warns_of_what_a_normal_cannot_be(target, dim):
    with pytest.warns(InferenceWarning, match="Do not trust|Trust neither"):
        found = infer(target, dim, window=40)
    assert found.k_hat > 0.6
    assert not found.trustworthy
    assert found.warnings.count(found.verdict) == 1
    assert str(found).count(found.verdict) == 1


def narrow_banana(z: Tensor) -> Tensor:
    """z0 ~ N(0, 1), z1 | z0 ~ N(z0², 0.1): log Z = log(2π √0.1)."""
    return -0.5 * z[:, 0].square() - 0.5 * (z[:, 1] - z[:, 0].square()).square() / 0.1


def check_misses(found, truth: float) -> None:
    """log Z and the share of mass that q misses are those of the target, and everything that is told says so."""
    error = 4 * found.defensive_log_evidence_stderr
    assert found.log_evidence < truth - 0.1
    assert abs(found.defensive_log_evidence - truth) < error < 0.3
    assert found.missed_mass == pytest.approx(1 - math.exp(found.log_evidence - truth), abs=error)
    assert found.misses_mass and not found.trustworthy
    assert f"about {found.missed_mass:.0%} of the target's mass lies where q hardly ever draws" in found.verdict
    assert found.warnings.count(found.verdict) == 1
    assert str(found).count("hardly ever draws") == 1
    told = found.to_dict()
    assert told["misses_mass"] and not told["trustworthy"] and told["verdict"] == found.verdict


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_mass_in_tails_that_a_flow_never_draws_is_told(seed):
    """A fifth of the mass is missing, whatever k̂ says."""
    with pytest.warns(InferenceWarning) as told:  # that it was not done either
        found = infer(narrow_banana, 2, family="spline", seed=seed, max_steps=600, **QUICK)
    assert any("q misses mass" in str(warning.message) for warning in told)
    check_misses(found, math.log(2 * math.pi * math.sqrt(0.1)))


def two_modes(z: Tensor) -> Tensor:
    """0.3 N(−4, 1) + 0.7 N(4, 1)."""
    centres = torch.tensor([-4.0, 4.0], dtype=z.dtype)
    logs = torch.tensor([0.3, 0.7], dtype=z.dtype).log() - 0.5 * (z - centres).square()
    return torch.logsumexp(logs, -1) - 0.5 * math.log(2 * math.pi)


def test_a_mode_that_q_never_visits_is_told():
    with pytest.warns(InferenceWarning, match="q misses mass"):
        found = infer(two_modes, 1, start=[4.0], **QUICK)
    check_misses(found, 0.0)


def test_mass_that_q_misses_is_told_where_k_hat_would_do():
    """k̂ hangs on draws near the mode that q knows: by some seeds it is small, by others not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        tried = (infer(two_modes, 1, start=[4.0], seed=seed, **QUICK) for seed in range(10))
        found = next(one for one in tried if "would do, but q misses mass" in one.verdict)
    assert found.k_hat < 0.7
    check_misses(found, 0.0)


def correlated(dims: int, seed: int) -> torch.distributions.MultivariateNormal:
    a = torch.randn(dims, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariance = a @ a.T / dims + 0.1 * torch.eye(dims, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(torch.zeros(dims, dtype=torch.float64), covariance)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", ["full 2", "full 20", "mean-field", "mixture", "positive", "interval"])
def test_where_q_is_good_nothing_is_said_to_be_missing(case, seed):
    targets = {
        "full 2": (correlated(2, seed).log_prob, 2, {}),
        "full 20": (correlated(20, seed).log_prob, 20, {}),
        "mean-field": (lambda z: -0.5 * (z / 3).square().sum(-1), 5, {"family": "mean-field"}),
        "mixture": (two_modes, 1, {"family": "mixture", "components": 4, "spread": 6.0}),
        "positive": (lambda z: 2 * z[:, 0].log() - 2 * z[:, 0], 1, {"support": "positive"}),
        "interval": (lambda z: z[:, 0].log() + 2 * torch.log1p(-z[:, 0]), 1, {"support": (0, 1)}),
    }
    target, dims, options = targets[case]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InferenceWarning)
        found = infer(target, dims, seed=seed, **options, **QUICK)
    assert not found.misses_mass and found.missed_mass == 0
    assert abs(found.defensive_log_evidence - found.log_evidence) < 0.05
    assert not any("misses mass" in str(w.message) for w in caught)


def test_verdicts_are_sentences():
    assert "draws of q can tell" in verdict(0.2, 0.1, 4000)
    assert "Do not trust" in verdict(0.8, 0.1, 4000)
    assert "Do not trust" in verdict(0.65, 0.1, 4000)
    assert "no finite mean" in verdict(1.2, 0.1, 4000)
    assert "equal" in verdict(-math.inf, 0.0, 4000)


def test_an_improper_target_is_named():
    """Nothing bounds the second dimension; in the other target, classes are separated and no prior holds the weight."""
    with (
        pytest.warns(InferenceWarning, match="does not fall off along dimension 1 upwards"),
        pytest.raises(DataError, match=r"grew without end along dimension 1.*improper"),
    ):
        infer(lambda z: -0.5 * z[:, 0].square(), 2, family="mean-field", step_size=0.2, max_steps=10_000, **QUICK)
    x = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InferenceWarning)
        infer(lambda z: -softplus(-z * x.abs()).sum(-1), 1, max_steps=80, **QUICK)
    said = [str(w.message) for w in caught]
    assert any("does not fall off along dimension 0 upwards" in text for text in said)
    assert any("still rising after 80 steps" in text for text in said)


@pytest.mark.parametrize("nu", [1.0, 3.0])
def test_heavy_tails_are_not_taken_for_improper(nu):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InferenceWarning)
        infer(lambda z: torch.distributions.StudentT(nu).log_prob(z).sum(-1), 2, max_steps=80, **QUICK)
    assert not any("fall off" in str(w.message) for w in caught)


def test_a_target_that_fails_is_told_at_which_shape():
    with pytest.raises(
        ConfigError, match=r"log_density fails at rows of shape \(3, 4\): RuntimeError: .* is dim right"
    ):
        infer(lambda z: -(z @ torch.ones(3, dtype=z.dtype)).square(), 4)
    with pytest.raises(ConfigError, match=r"log_density fails at rows of shape \(3, 2\): ZeroDivisionError"):
        infer(lambda z: 1 / 0, 2)


def test_a_target_that_is_nan_or_infinite_is_named():
    with pytest.raises(DataError, match=r"log_density is NaN at \d+ of \d+ draws, first at \("):
        infer(lambda z: torch.sqrt(z - 5).sum(-1), 2, **QUICK)
    with pytest.raises(DataError, match=r"log_density is -inf at .* the target has no mass there.*support="):
        infer(lambda z: torch.where(z > 0, -z, -torch.inf).sum(-1), 1, start=[1.0], **QUICK)
    with pytest.raises(DataError, match=r"log_density is \+inf"):
        infer(lambda z: torch.where(z > 0.5, torch.inf, -z.square()).sum(-1), 1, **QUICK)


# What may be given, and what may not


def test_a_function_of_one_point_will_do():
    one = infer(lambda z: -0.5 * (z @ z), 2, **QUICK)
    many = infer(lambda z: -0.5 * (z * z).sum(-1), 2, **QUICK)
    torch.testing.assert_close(one.draws, many.draws)
    tall = infer(lambda z: -0.5 * (z @ z) if float(z[0]) < 0 else -0.5 * z.square().sum(), 2, window=10, draws=200)
    assert tall.elbo == pytest.approx(math.log(2 * math.pi), abs=1e-3)  # it looks at values: row by row


def test_what_does_not_fit_is_named():
    def square(z: Tensor) -> Tensor:
        return -z.square().sum(-1)

    with pytest.raises(ConfigError, match="'ful' is none; did you mean 'full'"):
        infer(square, 2, family="ful")
    with pytest.raises(ConfigError, match="rnk: family 'low-rank' has no such setting; did you mean 'rank'"):
        infer(square, 2, family="low-rank", rnk=2)
    with pytest.raises(ConfigError, match=r"^layers: family 'full' has no such setting; it has none$"):
        infer(square, 2, family="full", layers=3)
    with pytest.raises(
        ConfigError, match=r"^layers: family 'mixture' has no such setting; choose from components, spread$"
    ):
        infer(square, 2, family="mixture", layers=3)
    with pytest.raises(ConfigError, match=r"^layrs: flow 'iaf' has no such setting; did you mean 'layers'"):
        infer(square, 2, family="iaf", layrs=3)
    with pytest.raises(ConfigError, match="2 problems"):
        infer(square, 0, samples=1)
    with pytest.raises(ConfigError, match="expected low < high"):
        infer(square, 1, support=(1.0, 0.0))
    with pytest.raises(ConfigError, match=r"dimensions in 0\.\.1"):
        infer(square, 2, support={5: "positive"})
    with pytest.raises(ConfigError, match="outside its support"):
        infer(square, 1, support="positive", start=[-1.0])
    with pytest.raises(ConfigError, match="expected a number for each row"):
        infer(lambda z: -z.square(), 2)
    with pytest.raises(ConfigError, match="depends on the other rows"):
        infer(lambda z: -z.square().sum(1) + z.mean(), 2)
    with pytest.raises(ConfigError, match="no gradient reaches"):
        infer(lambda z: -z.detach().square().sum(-1), 2)
    with pytest.raises(ConfigError, match=r"dtype=torch\.float32"):
        infer(lambda z: -(z @ torch.ones(2)).square(), 2)
    with pytest.raises(ConfigError, match="mean-field only"):
        infer(square, 2, gradient="measure-valued")


def test_single_precision_is_for_targets_in_it():
    def target(z: Tensor) -> Tensor:
        return -0.5 * (z @ torch.ones(2)).square() - 0.5 * z[:, 0].square()

    found = infer(target, 2, dtype=torch.float32, **QUICK)
    assert found.draws.dtype == torch.float32
    assert float(found.std[0]) == pytest.approx(1.0, abs=0.02)


# Reproducible, watched, kept


def test_a_seed_decides_and_the_callers_state_stays():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, two, other = (infer(normal, 3, seed=s, max_steps=80, **QUICK) for s in _quietly(0, 0, 1))
    assert torch.equal(one.draws, two.draws)
    assert torch.equal(one.resampled, two.resampled)
    assert not torch.equal(one.draws, other.draws)
    assert torch.equal(torch.random.get_rng_state(), before)


def _quietly(*seeds: int):
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InferenceWarning)
            yield seed


def test_the_bound_is_told_after_every_window():
    heard = []
    found = infer(normal, 3, listener=heard.append, **QUICK)
    assert [event.step for event in heard] == list(range(40, found.steps + 1, 40))
    assert heard[-1].elbo == pytest.approx(LOG_Z, abs=0.01)


@pytest.mark.parametrize("family", ["full", "low-rank", "mixture", "iaf"])
def test_what_is_kept_draws_and_scores_the_same(family, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        found = jensen.infer(
            normal, 3, family=family, support={0: (-50, 50)}, max_steps=80, out=tmp_path / "q", start=MEAN, **QUICK
        )
    again = open_inference(tmp_path / "q")
    assert again.to_dict() == found.to_dict()
    assert torch.equal(again.sample(5, seed=1), found.sample(5, seed=1))
    assert torch.equal(again.log_prob(found.draws[:5]), found.log_prob(found.draws[:5]))
    assert torch.equal(again.resampled, found.resampled)
    with pytest.raises(ConfigError, match="exists"):
        found.save(tmp_path / "q")
    (tmp_path / "q" / "q.safetensors").write_bytes(b"short")
    with pytest.raises(IntegrityError):
        open_inference(tmp_path / "q")
    with pytest.raises(ConfigError, match="no inference at"):
        open_inference(tmp_path)
