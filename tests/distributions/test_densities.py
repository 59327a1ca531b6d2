"""Laws that hold for every density: it is one, it matches an independent one, its draws follow it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats as st
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import Distribution

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
    NormalMixture,
    Poisson,
    StandardNormal,
    StudentT,
    bernoulli,
)

torch_ = torch.distributions


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Densities of three elements each, batch shape ().
CONTINUOUS: dict[str, Callable[[], Elementwise]] = {
    "normal": lambda: DiagonalNormal(tensor(-1, 0, 2), tensor(0.3, 1, 2)),
    "standard normal": lambda: StandardNormal(torch.zeros(3).double(), torch.ones(3).double()),
    "laplace": lambda: Laplace(tensor(-1, 0, 2), tensor(0.3, 1, 2)),
    "student-t": lambda: StudentT(tensor(3, 10, 70), tensor(-1, 0, 2), tensor(0.3, 1, 2)),
    "continuous bernoulli": lambda: ContinuousBernoulli(tensor(-4, 1e-4, 0.6)),
    "affine": lambda: Affine(ContinuousBernoulli(tensor(-4, 0.3, 9)), 1.0, -255.0),
    "normal mixture": lambda: NormalMixture(
        tensor(0, 1, -1).expand(3, 3),
        torch.stack([tensor(-1, 5, 9), tensor(3, 3, 3), tensor(0, 20, 6)]),
        tensor(0.2, 1.0, 3.0).expand(3, 3),
    ),
}
DISCRETE: dict[str, Callable[[], Elementwise]] = {
    "bernoulli": lambda: Bernoulli(tensor(-3, 0, 0.7)),
    "categorical": lambda: Categorical(torch.randn(3, 5, generator=torch.manual_seed(0)).double()),
    "discretized logistic": lambda: DiscretizedLogistic(tensor(-1, 5.4, 9), tensor(2, 0.1, 30), levels=12),
    "mixture": lambda: MixtureDiscretizedLogistic(
        tensor(0, 1, -1).expand(3, 3),
        torch.stack([tensor(-1, 5, 9), tensor(3, 3, 3), tensor(0, 20, 6)]),
        tensor(0.2, 1.0, 3.0),
        levels=12,
    ),
    "poisson": lambda: Poisson(tensor(-2, 0.5, 3)),
    "negative binomial": lambda: NegativeBinomial(tensor(-1, 0.5, 2), tensor(0.001, 1, 3)),
}
ALL = {**CONTINUOUS, **DISCRETE}
TOP = 600  # enough for the mass of the counts above


def ends(name: str) -> tuple[float, float]:
    return {"continuous bernoulli": (0, 1), "affine": (-254, 1)}.get(name, (-math.inf, math.inf))


def values_of(p: Elementwise) -> Tensor:
    """Every value of a discrete density, (values, 1)."""
    top = 2 if isinstance(p, Bernoulli) else getattr(p, "levels", TOP)
    return torch.arange(top, dtype=torch.float64).unsqueeze(-1)


@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_sum_to_one_and_give_the_moments(name):
    p = DISCRETE[name]()
    x = values_of(p)
    probability = p.log_prob_terms(x).exp()
    torch.testing.assert_close(probability.sum(0), torch.ones(3).double())
    torch.testing.assert_close((probability * x).sum(0), p.mean)
    torch.testing.assert_close((probability * (x - p.mean).square()).sum(0), p.variance)
    assert (p.log_prob_terms(p.mode) >= p.log_prob_terms(x) - 1e-9).all()
    assert p.support.is_discrete


@pytest.mark.parametrize("name", CONTINUOUS)
def test_density_integrates_to_one_and_gives_the_moments(name):
    p = CONTINUOUS[name]()

    def expect(f: Callable[[float], float], d: int) -> float:
        def integrand(x: float) -> float:
            return f(x) * p.log_prob_terms(torch.full((3,), x).double())[d].exp().item()

        low, high = ends(name)
        centre = min(max(p.mean[d].item(), low), high)
        parts = [
            quad(integrand, a, b, limit=200, epsabs=1e-7, epsrel=1e-7)[0] for a, b in ((low, centre), (centre, high))
        ]
        return sum(parts)

    for d in range(3):
        mean = p.mean[d].item()
        assert expect(lambda x: 1.0, d) == pytest.approx(1, abs=1e-6)
        assert expect(lambda x: x, d) == pytest.approx(mean, abs=1e-5)
        second = expect(lambda x, mean=mean: (x - mean) ** 2, d)
        assert second == pytest.approx(p.variance[d].item(), rel=1e-4)
    assert (p.log_prob_terms(p.mode) >= p.log_prob_terms(p.mean) - 1e-9).all()
    assert not p.support.is_discrete


def reference(name: str) -> tuple[Elementwise, Any]:
    """The same density by scipy or torch."""
    p: Any = ALL[name]()
    match p:
        case DiagonalNormal():
            return p, st.norm(p.loc, p.scale)
        case Laplace():
            return p, st.laplace(p.loc, p.scale)
        case StudentT():
            return p, st.t(p.df, p.loc, p.scale)
        case NormalMixture():
            choice = torch_.Categorical(logits=p.logits)
            return p, torch_.MixtureSameFamily(choice, torch_.Normal(p.loc, p.scale), validate_args=False)
        case ContinuousBernoulli():
            return p, torch_.ContinuousBernoulli(logits=p.logits, validate_args=False)
        case Bernoulli():
            return p, st.bernoulli(p.logits.sigmoid())
        case Categorical():
            return p, torch_.Categorical(logits=p.logits, validate_args=False)
        case DiscretizedLogistic():
            return p, _BinnedLogistic(p)
        case Poisson():
            return p, st.poisson(p.log_rate.exp())
        case NegativeBinomial():
            r = 1 / p.dispersion
            return p, st.nbinom(r, r / (r + p.log_mean.exp()))
    raise NotImplementedError(name)


class _BinnedLogistic:
    """scipy's logistic, cut into bins."""

    def __init__(self, p: DiscretizedLogistic):
        self.p, self.base = p, st.logistic(p.loc, p.scale)

    def logpmf(self, x: np.ndarray) -> np.ndarray:
        above = np.where(x <= 0, 1.0, self.base.sf(x - 0.5))
        beyond = np.where(x >= self.p.levels - 1, 0.0, self.base.sf(x + 0.5))
        return np.log(np.maximum(above - beyond, 1e-300))


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("affine", "mixture")])
def test_log_prob_matches_another_library(name):
    p, other = reference(name)
    x = values_of(p)[:60].expand(-1, 3) if name in DISCRETE else tensor(-2, -0.3, 0, 0.1, 0.5, 0.9, 4)[:, None]
    if name == "continuous bernoulli":
        x = x.clamp(0, 1)
    x = x.expand(-1, 3)
    if isinstance(other, Distribution):
        expected = other.log_prob(x)
    else:
        expected = torch.as_tensor((other.logpmf if name in DISCRETE else other.logpdf)(x.numpy()))
    found = p.log_prob_terms(x)
    shown = expected > -20  # beyond, the reference itself has lost its digits
    torch.testing.assert_close(found[shown], expected[shown], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_draws_follow_the_density(name):
    torch.manual_seed(1)
    p, n = ALL[name](), 20_000
    draws = p.sample(torch.Size((n,)))
    assert draws.shape == (n, 3)
    assert not draws.requires_grad
    error = (p.variance / n).sqrt()
    assert ((draws.mean(0) - p.mean).abs() < 5 * error).all()
    for d in range(3):
        if name in DISCRETE:
            expected = n * p.log_prob_terms(values_of(p)).exp()[:, d].numpy()
            observed = np.bincount(draws[:, d].long().numpy(), minlength=len(expected))
            assert len(observed) == len(expected)
            seen = expected > 5
            rest = (n - expected[seen].sum(), n - observed[seen].sum())
            pairs = np.append(observed[seen], rest[1]), np.append(expected[seen], max(rest[0], 1e-9))
            keep = pairs[1] > 1
            if keep.sum() > 1:
                statistic = ((pairs[0] - pairs[1]) ** 2 / pairs[1])[keep].sum()
                assert st.chi2(keep.sum() - 1).sf(statistic) > 1e-4
        else:
            grid = torch.linspace(draws[:, d].min().item(), draws[:, d].max().item(), 4001).double()
            density = p.log_prob_terms(grid[:, None].expand(-1, 3)).exp()[:, d]
            cdf = torch.cumulative_trapezoid(density, grid)
            result = st.kstest(draws[:, d].numpy(), lambda x, g=grid, c=cdf: np.interp(x, g[1:].numpy(), c.numpy()))
            assert result.statistic < 0.02


@pytest.mark.parametrize("name", ALL)
def test_log_prob_is_the_sum_of_its_terms_and_broadcasts(name):
    p = ALL[name]()
    torch.manual_seed(0)
    batch = p.expand((4, 2))
    assert batch.batch_shape == (4, 2)
    assert batch.event_shape == p.event_shape == (3,)
    x = p.sample(torch.Size((2,)))
    torch.testing.assert_close(batch.log_prob(x), p.log_prob_terms(x).sum(-1).expand(4, 2))
    torch.testing.assert_close(p.log_prob(x), batch.log_prob(x)[0])
    value, log_prob = batch.rsample_and_log_prob((5,))
    assert value.shape == (5, 4, 2, 3)
    torch.testing.assert_close(log_prob, batch.log_prob(value))
    assert batch.mean.shape == batch.mode.shape == batch.variance.shape == (4, 2, 3)
    assert batch.sample().shape == (4, 2, 3)


@pytest.mark.parametrize("name", ALL)
def test_unflatten_sees_particles_and_data(name):
    p = ALL[name]()
    flat = p.expand((6,))
    split = flat.unflatten((3, 2))
    assert split.batch_shape == (3, 2)
    x = p.sample(torch.Size((2,)))
    torch.testing.assert_close(split.log_prob(x), flat.log_prob(x.repeat(3, 1)).reshape(3, 2))
    assert p.unflatten((3, 2)).batch_shape == ()


@pytest.mark.parametrize("name", ALL)
def test_events_of_any_rank(name):
    p = ALL[name]()
    p.event_dims = 0
    assert (p.batch_shape, p.event_shape) == ((3,), ())
    x = p.sample()
    torch.testing.assert_close(p.log_prob(x), p.log_prob_terms(x))
    picture = ALL[name]().expand((5, 2))
    picture.event_dims = 3
    x = picture.sample(torch.Size((4,)))
    assert picture.event_shape == (5, 2, 3)
    torch.testing.assert_close(picture.log_prob(x), picture.log_prob_terms(x).sum((1, 2, 3)))


def parameters(p: Elementwise) -> dict[str, Tensor]:
    return {name: getattr(p, name) for name in p.parameter_dims}


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_the_density(name):
    p = ALL[name]()
    p = p.base if isinstance(p, Affine) else p
    names = list(parameters(p))
    settings = {"levels": p.levels} if type(p).__name__.endswith("Logistic") else {}  # pyright: ignore
    torch.manual_seed(0)
    x = p.sample(torch.Size((4,)))
    given = [v.clone().requires_grad_() for v in parameters(p).values()]
    if isinstance(p, StandardNormal):  # its parameters are fixed
        x.requires_grad_()
        assert torch.autograd.gradcheck(p.log_prob, (x,))
        return

    def log_prob(*values: Tensor) -> Tensor:
        return type(p)(**dict(zip(names, values, strict=True)), **settings).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, given)
    if name in CONTINUOUS:
        x.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: p.log_prob(x), (x,))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_reparameterised_draws_carry_the_gradient_of_the_mean(name):
    """d/dθ E[x] by drawing, against autograd through the closed mean."""
    p = CONTINUOUS[name]()
    if isinstance(p, Affine | StandardNormal) or not p.has_rsample:
        return
    copy = p._map(lambda v, _: v.clone().requires_grad_())
    torch.manual_seed(0)
    draws = copy.rsample(torch.Size((20_000,)))
    found = torch.autograd.grad(draws.mean(0).sum(), list(parameters(copy).values()), allow_unused=True)
    expected = torch.autograd.grad(copy.mean.sum(), list(parameters(copy).values()), allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, atol=0.03, rtol=0.05)


@pytest.mark.parametrize("name", ALL)
def test_detach_stops_parameters_and_not_the_value(name):
    p = ALL[name]()
    live = p._map(lambda v, _: v.clone().requires_grad_())
    x = p.sample().requires_grad_(name in CONTINUOUS)
    stopped = live.detach()
    assert type(stopped) is type(p)
    torch.testing.assert_close(stopped.log_prob(x), p.log_prob(x))
    assert stopped.log_prob(x).requires_grad == (name in CONTINUOUS)
    if not isinstance(p, StandardNormal):
        assert live.log_prob(x).requires_grad


EXTREME = (-50.0, -1.0, 0.0, 1e-3, 1.0, 50.0)
SCALES = (1e-4, 1e-2, 1.0, 1e3)


def finite(p: Elementwise, x: Tensor, leaves: list[Tensor]) -> None:
    terms = p.log_prob_terms(x)
    assert terms.isfinite().all()
    for gradient in torch.autograd.grad(terms.sum(), leaves):
        assert gradient.isfinite().all()
    for quantity in (p.sample(), p.mean, p.mode, p.variance):
        assert quantity.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event", [(9,), (2, 2, 3), (1,)])
@pytest.mark.parametrize("lead", ["particles", "one datum", "rows", "one value"])
@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0])
def test_bernoulli_scores_as_its_terms_add_up(dtype, event, lead, spread, monkeypatch):
    """Few rows at a time and logarithms of products, beside the sum of terms in float64, also where they overflow."""
    monkeypatch.setattr(bernoulli, "CACHED", 25)
    generator = torch.Generator().manual_seed(0)
    batch, of_value = {
        "particles": ((7, 5), (5,)),
        "one datum": ((7, 1), (1,)),
        "rows": ((7, 5), (7, 5)),
        "one value": ((7,), ()),
    }[lead]
    logits = (spread * torch.randn(*batch, *event, generator=generator, dtype=torch.float64)).to(dtype)
    x = (torch.rand(*of_value, *event, generator=generator) < 0.4).to(dtype)
    p = Bernoulli(logits, len(event))
    right = Bernoulli(logits.double(), len(event)).log_prob_terms(x.double()).flatten(-len(event)).sum(-1)
    with torch.no_grad():
        found = p.log_prob(x)
    assert found.shape == batch and found.dtype == dtype
    close = {"rtol": 2e-6, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 1e-13}
    torch.testing.assert_close(found.double(), right, **close)


@pytest.mark.parametrize("family", [Bernoulli, ContinuousBernoulli])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_extreme_logits_in_float32(family, x):
    logits = torch.tensor([-1e9, *EXTREME, 1e9], requires_grad=True)
    finite(family(logits), torch.full((8,), x), [logits])
    for moment in (family(logits).mean, family(logits).variance):
        assert torch.autograd.grad(moment.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("x", [0.0, 1.0, 127.0, 254.0, 255.0])
def test_extreme_logistics_in_float32(scale, x):
    loc = torch.tensor([-300.0, 0.0, 127.5, 255.0, 600.0], requires_grad=True)
    scales = torch.full((5,), scale, requires_grad=True)
    finite(DiscretizedLogistic(loc, scales), torch.full((5,), x), [loc, scales])
    logits = torch.tensor([-50.0, 0.0, 0.0, 3.0, 50.0], requires_grad=True)
    p = MixtureDiscretizedLogistic(logits.expand(2, 5), loc, scales)
    finite(p, torch.full((2,), x), [logits, loc, scales])


@pytest.mark.parametrize("family", [DiagonalNormal, Laplace])
@pytest.mark.parametrize("scale", SCALES)
def test_extreme_scales_in_float32(family, scale):
    loc = torch.tensor(EXTREME, requires_grad=True)
    scales = torch.full((6,), scale, requires_grad=True)
    finite(family(loc, scales), torch.full((6,), 0.5), [loc, scales])


@pytest.mark.parametrize("df", [2.01, 49.9, 50.1, 1e6])
@pytest.mark.parametrize("scale", SCALES)
def test_extreme_student_in_float32(df, scale):
    loc = torch.tensor(EXTREME, requires_grad=True)
    scales, dfs = (torch.full((6,), v, requires_grad=True) for v in (scale, df))
    finite(StudentT(dfs, loc, scales), torch.full((6,), 0.5), [dfs, loc, scales])


@pytest.mark.parametrize("x", [0.0, 1.0, 1e5])
@pytest.mark.parametrize("dispersion", [1e-6, 1e-4, 0.049, 0.051, 1.0, 100.0])
def test_extreme_counts_in_float32(x, dispersion):
    log = torch.tensor([-20.0, -1.0, 0.0, 15.0], requires_grad=True)
    alpha = torch.full((4,), dispersion, requires_grad=True)
    finite(NegativeBinomial(log, alpha), torch.full((4,), x), [log, alpha])
    finite(Poisson(log), torch.full((4,), x), [log])


MEANS = [1e-3, 0.1, 1.0, 30.0, 1e3, 1e5, 1e6, 1e7]
DISPERSIONS = [1e-6, 1e-4, 0.04, 0.1, 1.0, 10.0, 100.0]


def counts_of(mean: float, dispersion: float | None) -> tuple[Elementwise, Tensor, np.ndarray]:
    """A density in float32, counts it draws, 0 and multiples of its mean, and their log-probabilities by scipy."""
    log_mean = torch.full((400,), mean).log() + 0.3 * torch.randn(400, generator=torch.manual_seed(0))
    p = Poisson(log_mean) if dispersion is None else NegativeBinomial(log_mean, torch.full((400,), dispersion))
    x = p.sample().clamp(max=2**24)
    x[:4] = (torch.tensor([0.0, 0.5, 2.0, 10.0]) * mean).floor()
    mu = log_mean.double().exp().numpy()
    if dispersion is None:
        return p, x, st.poisson.logpmf(x.double().numpy(), mu)
    alpha = torch.tensor(dispersion).double().item()
    return p, x, st.nbinom.logpmf(x.double().numpy(), 1 / alpha, 1 / (1 + alpha * mu))


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("dispersion", [None, *DISPERSIONS])
def test_counts_keep_their_digits_in_float32(mean, dispersion):
    """Rounded to float32 are the result, what it was before its last term, and terms no larger than ½ log x + 4.

    Two roundings of the result, then, and six of what is below 16. In float64 both ways lose an ulp or so of their
    largest terms, n log n with n = x + 1/α.
    """
    p, x, truth = counts_of(mean, dispersion)
    error = np.abs(p.log_prob_terms(x).double().numpy() - truth)
    n = x.double().numpy() + (1 / dispersion if dispersion else 1)
    assert (error <= 2**-24 * (6 * 16 + 2 * np.abs(truth)) + 2**-51 * n * np.log(n + 1)).all()


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("dispersion", [None, *DISPERSIONS])
def test_gradients_of_counts_in_float32(mean, dispersion):
    """∂/∂log μ = (x − μ) / (1 + αμ), and ∂/∂α by automatic differentiation of lgamma in float64.

    The first is the difference of terms as large as n = x + 1/α, in float64.
    """
    p, x, _ = counts_of(mean, dispersion)
    parameters = [getattr(p, name).requires_grad_() for name in p.parameter_dims]
    found = torch.autograd.grad(p.log_prob_terms(x).sum(), parameters)
    log_mean, *rest = (v.detach().double().requires_grad_() for v in parameters)
    alpha = rest[0] if rest else torch.zeros(1, dtype=torch.float64)
    exact = (x - log_mean.exp()) / (1 + alpha * log_mean.exp())
    n = x.double() + (1 / dispersion if dispersion else 0)
    assert ((found[0].double() - exact).abs() <= 2**-23 * exact.abs() + 2**-49 * n).all()
    if dispersion is not None and dispersion >= 0.04:  # below, this way to the truth loses digits itself
        r, spread = 1 / alpha, torch.log1p(alpha * log_mean.exp())
        truth = torch.lgamma(x + r) - torch.lgamma(r) + x * (alpha.log() - spread) - r * spread
        (wanted,) = torch.autograd.grad(truth.sum(), alpha)
        torch.testing.assert_close(found[1].double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("log_mean", [-80.0, -20.0])
def test_a_rate_near_zero_keeps_its_digits(log_mean):
    """log P(0) = −λ, and −log(1 + αλ)/α, which is about that."""
    log = torch.full((3,), log_mean)
    for p in (Poisson(log), NegativeBinomial(log, torch.tensor([1e-4, 1.0, 10.0]))):
        torch.testing.assert_close(p.log_prob_terms(torch.zeros(3)), -log.exp(), rtol=1e-6, atol=0)


def test_discretized_logistic_where_the_difference_underflows():
    """Far from its centre the log-probability is that of the tail, −|x − μ|/s, and not a floor."""
    p = DiscretizedLogistic(torch.zeros(1), torch.full((1,), 0.1))
    assert p.log_prob(torch.tensor([100.0])).item() == pytest.approx(-99.5 / 0.1, rel=1e-4)


def test_normal_shares_parameters_across_the_batch():
    loc, scale, x = torch.randn(4, 3), torch.rand(3) + 0.5, torch.randn(4, 3)
    p, whole = DiagonalNormal(loc, scale), DiagonalNormal(loc, scale.expand(4, 3))
    torch.testing.assert_close(p.log_prob(x), whole.log_prob(x))
    assert (p.batch_shape, p.event_shape) == ((4,), (3,))
    torch.testing.assert_close(p.unflatten((2, 2)).log_prob(x.reshape(2, 2, 3)), whole.log_prob(x).reshape(2, 2))
    single = DiagonalNormal(loc, torch.tensor(2.0))
    torch.testing.assert_close(single.log_prob(x), single.log_prob_terms(x).sum(-1))
    torch.testing.assert_close(p.entropy(), torch_.Normal(loc, scale).entropy().sum(-1))


def test_drawn_log_prob_of_a_normal_carries_the_whole_gradient():
    """log q(μ + σε) = −½ε² − log σ − …, so its derivative is 0 for μ and −1/σ for σ."""
    loc, scale = torch.randn(5, requires_grad=True), (torch.rand(5) + 0.5).requires_grad_()
    _, log_prob = DiagonalNormal(loc, scale).rsample_and_log_prob()
    to_loc, to_scale = torch.autograd.grad(log_prob, [loc, scale], allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(to_loc, torch.zeros(5))
    torch.testing.assert_close(to_scale, -1 / scale)


def test_bernoulli_takes_bytes():
    p = Bernoulli(torch.tensor([0.3, -2.0]))
    x = torch.tensor([1, 0])
    torch.testing.assert_close(p.log_prob(x.to(torch.uint8)), p.log_prob(x.float()))
    torch.testing.assert_close(p.log_prob(x.bool()), p.log_prob(x.float()))


def test_affine_refuses_probabilities():
    with pytest.raises(ValueError, match="continuous density to rescale, got Bernoulli"):
        Affine(Bernoulli(torch.zeros(1)), 0.0, 2.0)


def test_student_without_moments_says_so():
    p = StudentT(torch.tensor([0.5, 1.5]), torch.zeros(2), torch.ones(2))
    assert p.mean.isnan().tolist() == [True, False]
    assert p.variance.isnan().tolist() == [True, False]
    assert p.variance[1] == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantile_never_gives_a_class_without_probability(dtype):
    """Cumulative sums of many classes end below 1 by rounding: what is left goes to the last class that can be."""
    torch.manual_seed(0)
    logits = torch.randn(50, 1000, dtype=dtype)
    logits[:, [0, 500, 998, 999]] = -torch.inf
    p = Categorical(logits, event_dims=0)
    top = torch.full((50,), 1.0 - torch.finfo(dtype).eps / 2, dtype=dtype)
    for u in (top, torch.zeros(50, dtype=dtype), torch.rand(50, dtype=dtype)):
        assert torch.isfinite(p.log_prob(p.quantile(u))).all()
    assert (p.quantile(top) <= 997).all() and (p.quantile(top) > 900).all()
    if dtype == torch.float32:
        assert float(p.probs.cumsum(-1)[:, -1].min()) < float(top[0])  # the case does occur
