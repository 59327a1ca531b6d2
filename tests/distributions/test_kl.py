"""Divergences: closed forms against Monte Carlo and torch; never negative, zero for equals only."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from jensen.distributions import (
    Affine,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiagonalNormal,
    DiscretizedLogistic,
    Elementwise,
    Laplace,
    MixtureDiscretizedLogistic,
    NegativeBinomial,
    Poisson,
    StandardNormal,
    StudentT,
    divergence,
)
from jensen.distributions.closed_kl import kl_divergence

N, D, L = 4, 3, 6


def draw(*shape: int) -> Tensor:
    return torch.randn(N, D, *shape, dtype=torch.float64)


def spread(*shape: int) -> Tensor:
    return 0.3 + torch.rand(N, D, *shape, dtype=torch.float64)


FAMILIES = {
    "normal": lambda: DiagonalNormal(draw(), spread()),
    "bernoulli": lambda: Bernoulli(draw()),
    "continuous bernoulli": lambda: ContinuousBernoulli(3 * draw()),
    "affine": lambda: Affine(ContinuousBernoulli(3 * draw()), 0.0, 255.0),
    "categorical": lambda: Categorical(draw(L)),
    "laplace": lambda: Laplace(draw(), spread()),
    "poisson": lambda: Poisson(draw()),
    "discretized logistic": lambda: DiscretizedLogistic(2 + draw(), spread(), L),
    "mixture": lambda: MixtureDiscretizedLogistic(draw(2), 2 + draw(2), spread(2), L),
}
LEVELS = ["categorical", "discretized logistic", "mixture"]
PAIRS = sorted({(a, a) for a in FAMILIES} | set(itertools.product(LEVELS, LEVELS)))


def pair(q: str, p: str) -> tuple[Elementwise, Elementwise]:
    torch.manual_seed(3)
    return FAMILIES[q](), FAMILIES[p]()


@pytest.mark.parametrize(("q", "p"), PAIRS)
def test_closed_form_agrees_with_monte_carlo(q, p):
    one, other = pair(q, p)
    closed = divergence(one, other)
    assert closed.kind == "closed form"
    assert closed.stderr is None
    assert closed.value.shape == (N,)
    drawn = divergence(one, other, samples=20_000)
    assert drawn.kind == "monte carlo"
    assert drawn.stderr is not None
    assert ((closed.value - drawn.value).abs() < 4 * drawn.stderr).all()


@pytest.mark.parametrize(("q", "p"), PAIRS)
def test_positive_and_zero_for_equals(q, p):
    one, other = pair(q, p)
    assert (kl_divergence(one, other) > 0).all()
    torch.testing.assert_close(kl_divergence(one, one), torch.zeros(N).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["normal", "bernoulli", "categorical", "poisson", "laplace"])
def test_agrees_with_torch(name):
    torch_ = torch.distributions
    q, p = pair(name, name)
    theirs = {
        "normal": lambda d: torch_.Normal(d.loc, d.scale),
        "bernoulli": lambda d: torch_.Bernoulli(logits=d.logits),
        "categorical": lambda d: torch_.Categorical(logits=d.logits),
        "poisson": lambda d: torch_.Poisson(d.log_rate.exp()),
        "laplace": lambda d: torch_.Laplace(d.loc, d.scale),
    }[name]
    torch.testing.assert_close(kl_divergence(q, p), torch_.kl_divergence(theirs(q), theirs(p)).sum(-1))


@pytest.mark.parametrize(("q", "p"), PAIRS)
def test_pytorch_knows_the_same_forms(q, p):
    one, other = pair(q, p)
    assert torch.equal(kl_divergence(one, other), torch.distributions.kl_divergence(one, other))


def test_pytorchs_own_densities_have_pytorchs_forms_and_others_none():
    one, other = torch.distributions.Gamma(2.0, 3.0), torch.distributions.Gamma(1.0, 1.0)
    assert torch.equal(kl_divergence(one, other), torch.distributions.kl_divergence(one, other))
    with pytest.raises(NotImplementedError):
        kl_divergence(one, torch.distributions.Dirichlet(torch.ones(3)))


@pytest.mark.parametrize(("q", "p"), PAIRS)
def test_gradient_of_the_closed_form(q, p):
    one, other = pair(q, p)
    if isinstance(one, Affine):
        return
    names = list(one.parameter_dims)
    given = [getattr(one, name).clone().requires_grad_() for name in names]

    def kl(*values: Tensor) -> Tensor:
        moved = one.detach()
        for name, value in zip(names, values, strict=True):
            setattr(moved, name, value)
        return kl_divergence(moved, other)

    assert torch.autograd.gradcheck(kl, given, fast_mode=True)


def test_standard_normal_by_its_short_formula():
    torch.manual_seed(0)
    q = DiagonalNormal(draw(), spread())
    zero, one = torch.zeros(D).double(), torch.ones(D).double()
    expected = kl_divergence(q, DiagonalNormal(zero, one))
    torch.testing.assert_close(kl_divergence(q, StandardNormal(zero, one)), expected)
    standard = StandardNormal(zero, one)
    torch.testing.assert_close(kl_divergence(standard, standard), torch.zeros(()).double())
    torch.testing.assert_close(standard.log_prob(q.loc), DiagonalNormal(zero, one).log_prob(q.loc))


def test_unit_variance_gives_half_the_squared_mean():
    loc = torch.randn(N, D)
    q = DiagonalNormal(loc, torch.tensor(1.0))
    p = StandardNormal(torch.zeros(D), torch.ones(D))
    torch.testing.assert_close(kl_divergence(q, p), 0.5 * loc.square().sum(-1))


def test_monte_carlo_where_no_closed_form_is_known():
    torch.manual_seed(0)
    q = DiagonalNormal(torch.zeros(2, 1), torch.ones(1))
    p = StudentT(torch.tensor(5.0), torch.zeros(1), torch.ones(1))
    found = divergence(q, p)
    assert found.kind == "monte carlo"
    assert found.value.shape == (2,)
    counts = divergence(Poisson(torch.zeros(1)), NegativeBinomial(torch.zeros(1), torch.ones(1)), samples=5000)
    x = torch.arange(60.0)
    log_q, log_p = (
        d.log_prob_terms(x) for d in (Poisson(torch.zeros(1)), NegativeBinomial(torch.zeros(1), torch.ones(1)))
    )
    exact = (log_q.exp() * (log_q - log_p)).sum()
    assert counts.stderr is not None
    assert abs(counts.value - exact) < 4 * counts.stderr


def test_units_cancel_and_differing_units_are_sampled():
    base = ContinuousBernoulli(torch.tensor([1.0]))
    q, p = Affine(base, 0.0, 255.0), Affine(ContinuousBernoulli(torch.tensor([2.0])), 0.0, 255.0)
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(base, p.base))
    assert divergence(q, Affine(base, 0.0, 256.0)).kind == "monte carlo"


def test_of_other_libraries_distributions():
    q = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    p = StandardNormal(torch.zeros(2), torch.ones(2))
    found = divergence(q, p)
    assert found.kind == "monte carlo"
    assert abs(found.value) < 1e-4


def test_extreme_parameters_in_float32():
    for q, p in itertools.product((-50.0, 0.0, 50.0), repeat=2):
        value = kl_divergence(Bernoulli(torch.tensor([q])), Bernoulli(torch.tensor([p])))
        assert math.isfinite(value)
        assert value >= 0


def test_refusals():
    q = DiagonalNormal(torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="samples: expected at least 2"):
        divergence(q, q, samples=1)
    with pytest.raises(ValueError, match="same levels, got 4 and 5"):
        divergence(
            DiscretizedLogistic(torch.zeros(1), torch.ones(1), 4),
            DiscretizedLogistic(torch.zeros(1), torch.ones(1), 5),
        )
    with pytest.raises(ValueError, match="as many classes in p as in q, 4, got 5"):
        divergence(Categorical(torch.zeros(1, 4)), Categorical(torch.zeros(1, 5)))
