"""Every head on every kind of data: a density of the right shape, or a refusal that says what fits."""

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from jensen import registry
from jensen.conditionals.heads import Head, Support
from jensen.conditionals.likelihoods import FITTING
from jensen.data.schema import Kind
from jensen.distributions import (
    Affine,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Elementwise,
    MixtureDiscretizedLogistic,
    NegativeBinomial,
    StandardNormal,
)
from jensen.errors import ConfigError

LEVELS = 8
SHAPES = [(5,), (2, 3, 4)]
# What each likelihood is for, and the numbers it needs for one element.
TABLE: dict[str, tuple[set[str], int]] = {
    "bernoulli": ({"binary"}, 1),
    "continuous-bernoulli": ({"levels"}, 1),
    "categorical": ({"levels", "symbol"}, LEVELS),
    "gaussian": ({"real", "levels"}, 2),
    "student-t": ({"real", "levels"}, 2),
    "discretized-logistic": ({"levels"}, 2),
    "discretized-logistic-mixture": ({"levels"}, 15),
    "mixture": ({"real"}, 15),
    "poisson": ({"count"}, 1),
    "negative-binomial": ({"count"}, 2),
}
FITS = [(name, kind) for name, (kinds, _) in TABLE.items() for kind in sorted(kinds)]


def head(name: str, kind: Kind, shape: tuple[int, ...] = (5,), role: str = "likelihood", **settings) -> Head:
    component = registry.find(role, name)
    chosen = registry.configure(component, settings)
    return component.function(Support(kind, shape, LEVELS if kind in ("levels", "symbol") else None), **chosen)


def data(kind: Kind, n: int, shape: tuple[int, ...]) -> Tensor:
    """Data whose elements differ in their distribution."""
    torch.manual_seed(0)
    where = torch.linspace(0.2, 0.8, torch.Size(shape).numel()).reshape(shape)
    match kind:
        case "binary":
            return torch.bernoulli(where.expand(n, *shape))
        case "symbol":  # the same at all places
            return torch.multinomial(torch.linspace(1, 2, LEVELS), n * where.numel(), True).reshape(n, *shape).float()
        case "levels":
            return (where * (LEVELS - 1) + 1.5 * torch.randn(n, *shape)).round().clamp(0, LEVELS - 1)
        case "count":
            return torch.poisson(5 * where * torch.distributions.Gamma(2.0, 2.0).sample(torch.Size((n, *shape))))
        case "real":
            return 2 * where + (0.5 + where) * torch.randn(n, *shape)


def test_the_table_is_complete():
    assert set(registry.names("likelihood")) >= {"auto", *TABLE}
    assert {(name, kind) for kind, names in FITTING.items() for name in names if kind != "mixed"} <= set(FITS)
    assert set(FITTING) == set(get_args(Kind))


@pytest.mark.parametrize(("name", "kind"), FITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_density_over_the_datum(name, kind, shape):
    h = head(name, kind, shape)
    assert h.parameter_shape == (TABLE[name][1] * shape[0], *shape[1:])
    torch.manual_seed(0)
    p = h(torch.randn(7, *h.parameter_shape))
    assert isinstance(p, Elementwise)
    assert (p.batch_shape, p.event_shape) == ((7,), shape)
    x = p.sample()
    assert x.shape == (7, *shape)
    assert p.log_prob(x).shape == (7,)
    assert p.mode.shape == (7, *shape)
    if kind != "symbol":  # which have no order, and so no mean
        assert p.mean.shape == (7, *shape)
    total(p, kind)
    leading = h(torch.randn(2, 3, *h.parameter_shape))
    assert leading.batch_shape == (2, 3)


def total(p: Elementwise, kind: Kind) -> None:
    """The probabilities sum, or the density integrates, to one for every element."""
    if p.support.is_discrete:
        x = torch.arange({"binary": 2, "levels": LEVELS, "symbol": LEVELS, "count": 3000}[kind]).float()
        terms = p.log_prob_terms(x.reshape(-1, *[1] * (1 + p.event_dims))).double().exp().sum(0)
        torch.testing.assert_close(terms, torch.ones_like(terms), atol=1e-4, rtol=0)
        return
    ends = (0, LEVELS - 1) if isinstance(p, Affine) else (-100, 100)
    grid = torch.linspace(*ends, 10_001).double()
    chunks = [p.log_prob_terms(g.reshape(-1, *[1] * (1 + p.event_dims))).exp() for g in grid.split(2000)]
    integral = torch.trapezoid(torch.cat(chunks).double(), grid, dim=0)
    torch.testing.assert_close(integral, torch.ones_like(integral), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("name", "kind"), FITS)
def test_the_gradient_reaches_every_parameter(name, kind):
    h = head(name, kind)
    output = torch.randn(6, *h.parameter_shape, requires_grad=True)
    h(output).log_prob(data(kind, 6, (5,))).sum().backward()
    for p in (output, *h.parameters()):
        assert p.grad is not None
        assert p.grad.isfinite().all()
        assert (p.grad != 0).any(0).all()


@pytest.mark.parametrize(("name", "kind"), FITS)
def test_the_network_may_be_in_bfloat16_or_float64(name, kind):
    h, x = head(name, kind), data(kind, 3, (5,))
    output = torch.randn(3, *h.parameter_shape)
    assert h(output.bfloat16()).log_prob(x).dtype == torch.float32
    assert h.double()(output.double()).log_prob(x.double()).dtype == torch.float64


@pytest.mark.parametrize(("name", "kind"), FITS)
@pytest.mark.parametrize("size", [-1e4, -50.0, 50.0, 1e4])
def test_wild_outputs_stay_finite(name, kind, size):
    h = head(name, kind)
    output = torch.full((4, *h.parameter_shape), size, requires_grad=True)
    log_prob = h(output).log_prob(data(kind, 4, (5,)))
    assert log_prob.isfinite().all()
    assert torch.autograd.grad(log_prob.sum(), output)[0].isfinite().all()


@pytest.mark.parametrize(("name", "kind"), FITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_initial_bias_gives_the_marginal(name, kind, shape):
    x = data(kind, 4000, shape)
    h = head(name, kind, shape)
    bias = h.initial_bias(x)
    assert bias is not None
    assert bias.shape == h.parameter_shape
    p = h(bias.unsqueeze(0))
    if kind == "symbol":
        assert isinstance(p, Categorical)
        shares = torch.stack([(x == symbol).float().mean() for symbol in range(LEVELS)])
        assert (p.probs[0] - shares).abs().max() < 0.02
    else:
        tolerance = 0.2 if kind == "levels" else 0.05 * x.std().item() + 1e-3
        assert (p.mean[0] - x.mean(0)).abs().max() < tolerance
    if name in ("gaussian", "student-t", "negative-binomial", "bernoulli"):
        torch.testing.assert_close(p.variance[0], x.var(0), rtol=0.15, atol=0.01)
    assert p.log_prob(x).mean() >= h(torch.zeros(1, *h.parameter_shape)).log_prob(x).mean()


def test_the_initial_bias_of_texts_leaves_out_what_fills_rows():
    """Lines of one letter in rows of ten: half of what is scored are letters, half ends."""
    chosen = registry.find("likelihood", "categorical")
    h = chosen.function(Support("symbol", (10,), levels=3, end=2), **registry.configure(chosen, {}))
    x = torch.full((100, 10), 2.0)
    x[:, 0] = torch.arange(100) % 2
    bias = h.initial_bias(x)
    assert bias is not None
    shares = h(bias.unsqueeze(0)).probs[0]
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.25, 0.5]).expand(10, 3), atol=0.01, rtol=0)


@pytest.mark.parametrize(("name", "kind"), FITS)
def test_the_initial_bias_of_constant_data_is_finite(name, kind):
    h = head(name, kind)
    for constant in (0.0, 1.0):
        x = torch.full((10, 5), constant)
        bias = h.initial_bias(x)
        assert bias is not None
        assert bias.isfinite().all()
        assert h(bias.unsqueeze(0)).log_prob(x).isfinite().all()


@pytest.mark.parametrize("name", [name for name in TABLE if name != "mixture"])  # which takes all, as auto does
@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_head_refuses_other_data_and_says_what_fits(name, kind):
    if kind in TABLE[name][0] or name in FITTING[kind]:
        return
    with pytest.raises(ConfigError, match=f"'{name}' is for .* no likelihood for .*choose .*'{FITTING[kind][0]}'"):
        head(name, kind)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_auto_follows_the_data(kind):
    assert type(head("auto", kind)) is type(head(FITTING[kind][0], kind))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("gaussian", {}), ("gaussian", {"variance": "learned"}), ("student-t", {}), ("student-t", {"df": 3.0})],
)
def test_the_floor_bounds_the_density(name, settings):
    """A decoder that reproduces its datum and shrinks its scale for ever gains no more than that."""
    h = head(name, "real", (1,), **settings)
    with torch.no_grad():
        for p in h.parameters():
            p.fill_(-1e4)
    output = torch.zeros(1, *h.parameter_shape)
    output[:, 1:] = -1e4
    assert h(output).log_prob(torch.zeros(1)).exp() < 0.4 / 0.01


def test_gaussian_variances():
    output = torch.randn(3, 4)
    learned = head("gaussian", "real", (4,), variance="learned")
    assert learned.parameter_shape == (4,)
    assert [p.shape for p in learned.parameters()] == [(4,)]
    fixed = head("gaussian", "real", (4,), variance="fixed", scale=0.5)
    torch.testing.assert_close(
        fixed(output).log_prob(torch.zeros(3, 4)),
        torch.distributions.Normal(output, 0.5).log_prob(torch.zeros(3, 4)).sum(-1),
    )
    assert not list(fixed.parameters())


def test_pictures_are_in_grey_levels():
    support = Support("levels", (1, 2, 2), 256)
    p = registry.find("likelihood", "gaussian").function(support)(torch.zeros(1, 2, 2, 2))
    torch.testing.assert_close(p.mean, torch.full((1, 1, 2, 2), 127.5))
    torch.testing.assert_close(p.stddev, torch.full((1, 1, 2, 2), 127.5))
    grey = registry.find("likelihood", "continuous-bernoulli").function(support)(torch.zeros(1, 1, 2, 2))
    assert isinstance(grey.base, ContinuousBernoulli)
    torch.testing.assert_close(grey.log_prob(torch.full((1, 2, 2), 9.0)), -4 * torch.tensor([255.0]).log())


def test_channels_stay_apart():
    """The output holds the first parameter of all channels, then the second of all channels."""
    h = head("discretized-logistic", "levels", (2, 1, 1))
    p = h(torch.tensor([-1.0, 1.0, 0.0, 0.0]).reshape(1, 4, 1, 1))
    assert isinstance(p, DiscretizedLogistic)
    torch.testing.assert_close(p.loc.flatten(), torch.tensor([0.0, LEVELS - 1.0]))


def test_mixture_components_start_apart():
    h = head("discretized-logistic-mixture", "levels", (1,), components=3)
    p = h(torch.zeros(1, *h.parameter_shape))
    assert isinstance(p, MixtureDiscretizedLogistic)
    assert p.loc.unique().numel() == 3


def test_negative_binomial_starts_overdispersed():
    p = head("negative-binomial", "count")(torch.zeros(1, 10))
    assert isinstance(p, NegativeBinomial)
    torch.testing.assert_close(p.variance, 2 * torch.ones(1, 5))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"min_scale: expected less than 0.5"):
        head("gaussian", "real", scale=0.5, min_scale=0.5)
    with pytest.raises(ConfigError, match="scale: expected float, > 0"):
        head("gaussian", "real", scale=-1.0)
    with pytest.raises(ValueError, match="levels: expected 2 or more"):
        Support("levels", (1,))


def test_posteriors():
    standard = registry.find("prior", "normal").function((3,))()
    assert isinstance(standard, StandardNormal)
    assert (standard.batch_shape, standard.event_shape) == ((), (3,))
    diagonal = registry.find("posterior", "diagonal").function((3,))
    assert diagonal.parameter_shape == (6,)
    q = diagonal(torch.zeros(2, 6))
    torch.testing.assert_close(q.log_prob(torch.ones(3)), standard.log_prob(torch.ones(2, 3)))
    mean = registry.find("posterior", "mean").function((3,))
    assert mean.parameter_shape == (3,)
    mu = torch.randn(2, 3)
    torch.testing.assert_close(kl_divergence(mean(mu), standard), 0.5 * mu.square().sum(-1))
    assert not registry.find("prior", "normal").function((3,)).state_dict()
