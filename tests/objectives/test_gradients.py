"""Each estimator's mean against a gradient in closed form, and its variance against what theory says."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Dirichlet,
    Gamma,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
    StudentT,
    VonMises,
)

from jensen import distributions
from jensen.distributions.discrete import OneHot
from jensen.errors import ConfigError
from jensen.objectives.gradients import (
    BASELINES,
    Estimator,
    GumbelSoftmax,
    Learned,
    MeasureValued,
    Pathwise,
    Running,
    ScoreFunction,
    StraightThrough,
    Surrogate,
    compare,
)

REPEATS = 4000


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Case(NamedTuple):
    """A density, a function of it, and E_q[f] in closed form."""

    q: Any
    parameters: dict[str, Tensor]
    f: Any
    expectation: Any

    @property
    def truth(self) -> dict[str, Tensor]:
        leaves = {name: p.clone().requires_grad_() for name, p in self.parameters.items()}
        return dict(zip(leaves, torch.autograd.grad(self.expectation(**leaves), list(leaves.values())), strict=True))


def independent(kind: Any) -> Any:
    return lambda *args, **kwargs: Independent(kind(*args, **kwargs, validate_args=False), 1)


def squares(z: Tensor) -> Tensor:
    """Not a sum over the elements, so that what is drawn beside one of them matters."""
    return z.sum(-1).square()


def of_sum(mean: Tensor, variance: Tensor) -> Tensor:
    """E (Σ z)² of independent z."""
    return mean.sum().square() + variance.sum()


def enumerated(probability: Any) -> Any:
    """E f(z) over bits, by listing them."""

    def expectation(**parameters: Tensor) -> Tensor:
        p = probability(**parameters)
        total = p.new_zeros(())
        for bits in itertools.product([0.0, 1.0], repeat=len(p)):
            z = torch.tensor(bits, dtype=p.dtype)
            total = total + torch.where(z > 0, p, 1 - p).prod() * crooked(z)
        return total

    return expectation


def crooked(z: Tensor) -> Tensor:
    """Of bits, or relaxed ones: neither linear nor a sum over them."""
    return (z * tensor(1.0, -2.0, 0.5)).sum(-1).square() + z[..., 0] * z[..., 1]


CASES = {
    "normal": Case(
        lambda loc, scale: Independent(Normal(loc, scale, validate_args=False), 1),
        {"loc": tensor(0.5, -1.0), "scale": tensor(0.7, 1.3)},
        squares,
        lambda loc, scale: of_sum(loc, scale**2),
    ),
    "diagonal normal": Case(
        lambda loc, scale: distributions.DiagonalNormal(loc, scale),
        {"loc": tensor(0.5, -1.0), "scale": tensor(0.7, 1.3)},
        squares,
        lambda loc, scale: of_sum(loc, scale**2),
    ),
    "gamma": Case(
        independent(Gamma),
        {"concentration": tensor(0.6, 3.0), "rate": tensor(1.0, 2.0)},
        squares,
        lambda concentration, rate: of_sum(concentration / rate, concentration / rate**2),
    ),
    "beta": Case(
        independent(Beta),
        {"concentration1": tensor(0.8, 2.0), "concentration0": tensor(1.5, 3.0)},
        squares,
        lambda concentration1, concentration0: of_sum(
            concentration1 / (concentration1 + concentration0),
            concentration1
            * concentration0
            / ((concentration1 + concentration0) ** 2 * (concentration1 + concentration0 + 1)),
        ),
    ),
    "student": Case(
        independent(StudentT),
        {"df": tensor(12.0, 15.0), "loc": tensor(0.5, -1.0), "scale": tensor(0.7, 1.3)},
        squares,
        lambda df, loc, scale: of_sum(loc, scale**2 * df / (df - 2)),
    ),
    "dirichlet": Case(
        lambda concentration: Dirichlet(concentration, validate_args=False),
        {"concentration": tensor(0.7, 1.5, 3.0)},
        lambda z: z[..., 0] * z[..., 1],
        lambda concentration: concentration[0] * concentration[1] / (concentration.sum() * (concentration.sum() + 1)),
    ),
    "poisson": Case(
        independent(Poisson),
        {"rate": tensor(0.5, 4.0)},
        squares,
        lambda rate: of_sum(rate, rate),
    ),
    "poisson of ours": Case(
        lambda log_rate: distributions.Poisson(log_rate),
        {"log_rate": tensor(-0.5, 1.0)},
        squares,
        lambda log_rate: of_sum(log_rate.exp(), log_rate.exp()),
    ),
    "bernoulli": Case(
        lambda probs: Independent(Bernoulli(probs, validate_args=False), 1),
        {"probs": tensor(0.3, 0.6, 0.9)},
        crooked,
        enumerated(lambda probs: probs),
    ),
    "bernoulli of ours": Case(
        lambda logits: distributions.Bernoulli(logits),
        {"logits": tensor(-1.0, 0.3, 1.0)},
        crooked,
        enumerated(lambda logits: logits.sigmoid()),
    ),
    "one-hot": Case(
        lambda logits: OneHotCategorical(logits=logits, validate_args=False),
        {"logits": tensor(-1.0, 0.3, 1.0)},
        crooked,
        lambda logits: (logits.softmax(-1) * crooked(torch.eye(3, dtype=torch.float64))).sum(),
    ),
    "one-hot of ours": Case(
        lambda logits: OneHot(logits.unsqueeze(-2)),
        {"logits": tensor(-1.0, 0.3, 1.0)},
        crooked,
        lambda logits: (logits.softmax(-1) * crooked(torch.eye(3, dtype=torch.float64))).sum(),
    ),
    "mixture": Case(
        lambda logits, loc: distributions.Mixture(
            logits, distributions.DiagonalNormal(loc.unsqueeze(-1), torch.ones_like(loc).unsqueeze(-1))
        ),
        {"logits": tensor(0.2, -0.5), "loc": tensor(-1.0, 2.0)},
        lambda z: z[..., 0] ** 2,
        lambda logits, loc: (logits.softmax(-1) * (loc**2 + 1)).sum(),
    ),
}

REPARAMETERISED = ["normal", "diagonal normal", "gamma", "beta", "student", "dirichlet", "mixture"]
DECOMPOSED = ["normal", "diagonal normal", "gamma", "poisson", "poisson of ours", "bernoulli", "bernoulli of ours"]
UNBIASED = [
    *[(case, "pathwise", Pathwise) for case in REPARAMETERISED],
    *[(case, "measure-valued", MeasureValued) for case in DECOMPOSED],
    *[(case, f"score, {name}", lambda name=name: ScoreFunction(name)) for case in CASES for name in BASELINES],
]


def surprise(case: Case, estimator: Estimator, samples: int = 3) -> float:
    """The largest distance of the mean gradient from the truth, in standard errors."""
    (row,) = compare(
        case.q, case.parameters, case.f, {"it": estimator}, samples=[samples], repeats=REPEATS, truth=case.truth
    ).rows
    truth = torch.cat([case.truth[name] for name in case.parameters])
    return float(((tensor(*row.mean) - truth).abs() / tensor(*row.stderr)).nan_to_num(0.0).max())


@pytest.mark.parametrize(("case", "name", "make"), UNBIASED, ids=[f"{n} of {c}" for c, n, _ in UNBIASED])
def test_the_gradient_is_right_on_average(case, name, make):
    assert surprise(CASES[case], make()) < 4.5


class Wrong(Estimator):
    """A factor off, as where L samples are summed and not averaged."""

    def __init__(self, right: Estimator, factor: float):
        super().__init__()
        self.right, self.factor = right, factor

    def forward(self, q, f, samples=1, context=None):
        value = self.right(q, f, samples).value
        return Surrogate(value * self.factor, value.new_zeros(()))


@pytest.mark.parametrize(("case", "name", "make"), UNBIASED[:14], ids=[f"{n} of {c}" for c, n, _ in UNBIASED[:14]])
def test_a_wrong_gradient_is_noticed(case, name, make):
    """15% too much, with the same draws: the law above fails."""
    assert surprise(CASES[case], Wrong(make(), 1.15)) > 4.5


def test_a_baseline_that_sees_its_own_draw_is_noticed():
    """The mean over all draws, the present one among them, in place of the others'."""

    class Peeking(ScoreFunction):
        def forward(self, q, f, samples=1, context=None):
            z = q.sample((samples,))
            value = f(z)
            log_q = q.log_prob(z)
            term = (value - value.mean(0)).detach() * (log_q - log_q.detach())
            return Surrogate((value + term).mean(0), value.new_zeros(()))

    assert surprise(CASES["bernoulli"], Peeking()) > 4.5


@pytest.mark.parametrize("estimator", [StraightThrough(), GumbelSoftmax(1.0), GumbelSoftmax(1.0, hard=False)])
@pytest.mark.parametrize("case", ["bernoulli", "one-hot of ours"])
def test_relaxed_gradients_are_biased_and_say_so(estimator, case):
    assert estimator.biased
    assert surprise(CASES[case], estimator) > 4.5


def test_unbiased_ones_say_so():
    assert not any(e.biased for e in (Pathwise(), MeasureValued(), ScoreFunction()))


@pytest.mark.parametrize("case", ["bernoulli of ours", "one-hot of ours", "one-hot"])
def test_straight_through_is_unbiased_for_a_linear_function(case):
    weights = tensor(1.0, -2.0, 0.5)
    probability = torch.sigmoid if case.startswith("bernoulli") else (lambda logits: logits.softmax(-1))
    linear = CASES[case]._replace(
        f=lambda z: (z * weights).sum(-1), expectation=lambda logits: (probability(logits) * weights).sum()
    )
    assert surprise(linear, StraightThrough()) < 4.5 or _constant(linear)


def _constant(case: Case) -> bool:
    """Where every draw gives the same gradient, there is no standard error to measure by: it is the truth itself."""
    (row,) = compare(
        case.q, case.parameters, case.f, {"it": StraightThrough()}, samples=[1], repeats=10, truth=case.truth
    ).rows
    return row.bias is not None and row.bias < 1e-12


def test_the_gumbel_bias_falls_with_the_temperature():
    case = CASES["bernoulli of ours"]
    rows = [
        compare(
            case.q, case.parameters, case.f, {"it": GumbelSoftmax(t, hard=False)}, samples=[8], repeats=20_000,
            truth=case.truth,
        ).rows[0]
        for t in (2.0, 0.5, 0.1)
    ]  # fmt: skip
    assert rows[0].bias > 2 * rows[1].bias > 2 * rows[2].bias
    assert rows[0].variance < rows[1].variance < rows[2].variance


# Variance


def variance(case: Case, estimator: Estimator, samples: int = 4) -> float:
    (row,) = compare(case.q, case.parameters, case.f, {"it": estimator}, samples=[samples], repeats=REPEATS).rows
    return row.variance


SHIFTED = Case(
    lambda loc: distributions.DiagonalNormal(loc, torch.ones_like(loc)),
    {"loc": tensor(1.0)},
    lambda z: (z[..., 0] - 3) ** 2,
    lambda loc: (loc[0] - 3) ** 2 + 1,
)
"""E (z − 3)², z ~ N(1, 1), whose variances are integrals of polynomials."""


def test_variances_are_those_of_theory():
    """With u = z − 1 and f = (u − 2)²: pathwise 2 (u − 2), Var 4; score (u − 2)² u, Var 87 − 16 = 71 and with the best
    constant baseline E[f u²]/E[u²] = 7 less; measure-valued √(2/π)/2 (f(1+w) − f(1−w)) = −8 w/√(2π), w Rayleigh."""
    assert variance(SHIFTED, Pathwise(), 1) == pytest.approx(4, rel=0.15)
    assert variance(SHIFTED, ScoreFunction("none"), 1) == pytest.approx(71, rel=0.35)
    rayleigh = 2 - math.pi / 2
    assert variance(SHIFTED, MeasureValued(), 1) == pytest.approx(64 / (2 * math.pi) * rayleigh, rel=0.15)


def test_variance_is_inverse_to_the_number_of_samples():
    assert variance(SHIFTED, Pathwise(), 1) / variance(SHIFTED, Pathwise(), 16) == pytest.approx(16, rel=0.2)


@pytest.mark.parametrize("baseline", ["running", "learned", "leave-one-out"])
@pytest.mark.parametrize("case", ["bernoulli", "poisson", "one-hot of ours"])
def test_a_baseline_makes_a_large_constant_harmless(baseline, case):
    """f + 100 has the gradient of f; without a baseline its variance is hundreds of times larger."""
    lifted = CASES[case]._replace(f=lambda z: CASES[case].f(z) + 100)
    assert variance(lifted, ScoreFunction(baseline)) < 0.1 * variance(lifted, ScoreFunction("none"))


def test_a_learned_baseline_looks_at_its_context():
    """Two contexts of different level: one number cannot serve both, a network can."""
    context = torch.eye(2).repeat(500, 1).double()
    level = torch.tensor([0.0, 50.0]).repeat(500).double()
    logits = torch.zeros(1000, 1, dtype=torch.float64, requires_grad=True)

    def f(z: Tensor) -> Tensor:
        return z[..., 0] + level

    def fit(estimator: ScoreFunction, seen: Tensor | None) -> float:
        optimizer = torch.optim.Adam(estimator.parameters(), 0.3)
        for _ in range(400):
            optimizer.zero_grad()
            estimator(distributions.Bernoulli(logits), f, 1, seen).baseline_loss.backward()
            optimizer.step()
        value = estimator(distributions.Bernoulli(logits), f, 1, seen).value
        return float(torch.autograd.grad(value.sum(), logits)[0].var())

    network = torch.nn.Linear(2, 1).double()
    assert fit(ScoreFunction(Learned(network)), context) < 0.01 * fit(ScoreFunction(Learned()), None)


def test_the_running_baseline_rests_in_eval():
    baseline = Running(0.5)
    baseline(tensor(4.0, 6.0))
    assert baseline(tensor(0.0)).value == pytest.approx(5.0)
    baseline.eval()
    before = baseline.total.clone()
    baseline(tensor(100.0))
    assert torch.equal(baseline.total, before)


def test_gradients_of_f_itself_come_along():
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    q = distributions.Bernoulli(tensor(0.0, 0.0).expand(20_000, 2))
    for estimator in (ScoreFunction(), MeasureValued(), StraightThrough()):
        value = estimator(q, lambda z: weight * z.sum(-1), 2).value
        (found,) = torch.autograd.grad(value.mean(), weight)
        assert float(found) == pytest.approx(1.0, abs=0.02)


# What is refused


def test_what_cannot_be_used_is_named():
    bits = distributions.Bernoulli(torch.zeros(2))
    with pytest.raises(ConfigError, match="Bernoulli has no rsample"):
        Pathwise()(bits, squares)
    with pytest.raises(ConfigError, match="VonMises has no rsample"):
        Pathwise()(VonMises(torch.zeros(1), torch.ones(1)), squares)
    with pytest.raises(ConfigError, match="not for Dirichlet"):
        MeasureValued()(Dirichlet(torch.ones(3)), squares)
    with pytest.raises(ConfigError, match="not for DiagonalNormal"):
        StraightThrough()(distributions.DiagonalNormal(torch.zeros(1), torch.ones(1)), squares)
    with pytest.raises(ConfigError, match="at least two samples"):
        ScoreFunction("leave-one-out")(bits, squares, 1)
    with pytest.raises(ConfigError, match="expected one of none, running"):
        ScoreFunction("best")
    with pytest.raises(ValueError, match="temperature"):
        GumbelSoftmax(0.0)


def test_a_comparison_is_reproducible_and_drawn(tmp_path):
    case = CASES["bernoulli"]
    estimators = {"score": ScoreFunction(), "straight through": StraightThrough(), "measures": MeasureValued()}
    found = compare(case.q, case.parameters, case.f, estimators, samples=[1, 2, 4], repeats=50, truth=case.truth)
    again = compare(case.q, case.parameters, case.f, estimators, samples=[1, 2, 4], repeats=50, truth=case.truth)
    assert [row.mean for row in found.rows] == [row.mean for row in again.rows]
    assert [(row.estimator, row.samples) for row in found.rows][:2] == [("score", 2), ("score", 4)]
    assert {row.samples: row.evaluations for row in found.rows if row.estimator == "measures"} == {1: 7, 2: 14, 4: 28}
    found.plot(tmp_path / "variance.png")
    assert (tmp_path / "variance.png").stat().st_size > 5000
    assert "straight through" in str(found)
