"""Transformed densities and flow posteriors: draws, densities and gradients agree, whatever the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from jensen.conditionals.amortized import Amortized
from jensen.conditionals.flows import Flow, FlowPosterior, flow_posterior, support_of
from jensen.conditionals.posteriors import diagonal, full, low_rank, mean
from jensen.conditionals.priors import mixture, normal, uniform
from jensen.conditionals.transformed import Transformed
from jensen.core import Joint, Model
from jensen.distributions import DiagonalNormal, StandardNormal
from jensen.errors import ConfigError
from jensen.objectives.importance_weighted import importance_weighted
from jensen.registry import Choice, configure, find, names
from jensen.transforms import Composed, Inverse, Planar, Radial, Sigmoid, Transform

D, C, B = 2, 3, 4

FLOWS: dict[str, Callable[[tuple[int, ...], int], Transform]] = {
    "planar": lambda e, c: find("flow", "planar").function(e, c, layers=3),
    "planar of closed density": lambda e, c: find("flow", "planar").function(e, c, layers=2, direction="density"),
    "radial": lambda e, c: find("flow", "radial").function(e, c, layers=3),
    "sylvester": lambda e, c: find("flow", "sylvester").function(e, c, layers=2, reflections=2),
    "triangular sylvester": lambda e, c: find("flow", "sylvester").function(e, c, layers=2, orthogonal="triangular"),
    "householder": lambda e, c: find("flow", "householder").function(e, c),
    "realnvp": lambda e, c: find("flow", "realnvp").function(e, c, layers=2, hidden=[8]),
    "iaf": lambda e, c: find("flow", "iaf").function(e, c, layers=2, hidden=[8]),
    "spline": lambda e, c: find("flow", "spline").function(e, c, layers=2, hidden=[8]),
}
every_flow = pytest.mark.parametrize("name", FLOWS)


def moved(module: nn.Module, size: float = 0.4) -> nn.Module:
    torch.manual_seed(1)
    module = module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


def bases() -> dict[str, DiagonalNormal]:
    loc, scale = torch.randn(B, D).double(), torch.rand(B, D).double() + 0.5
    return {
        "of no batch": StandardNormal(torch.zeros(D).double(), torch.ones(D).double()),
        "of a batch": DiagonalNormal(loc, scale),
    }


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("base", bases())
@pytest.mark.parametrize("context", [0, C])
def test_draws_and_densities_agree_row_by_row(k, base, context):
    """The k-th draw of the b-th row, alone: with its context, its base and its value."""
    transform = moved(Composed([Planar(D, context), Radial(D, context)]))
    p = bases()[base]
    c = torch.randn(B, context).double() if context else None
    dist = Transformed(p, transform, c)  # pyright: ignore
    shape = () if k is None else (k,)
    if not dist.batch_shape:
        shape = (*shape, B)
    x, log_p = dist.rsample_and_log_prob(shape)
    assert x.shape == (*(() if k is None else (k,)), B, D)
    assert log_p.shape == x.shape[:-1]
    torch.testing.assert_close(dist.log_prob(x), log_p)
    z, ladj = dist.to_base(x)
    again, there = dist.from_base(z)
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(there, -ladj)
    for i in range(k or 1):
        for b in range(B):
            row = p if not p.batch_shape else DiagonalNormal(p.loc[b], p.scale[b])
            alone = Transformed(row, transform, None if c is None else c[b : b + 1])  # pyright: ignore
            value = x.reshape(-1, B, D)[i, b]
            torch.testing.assert_close(alone.log_prob(value[None])[0], log_p.reshape(-1, B)[i, b])


@pytest.mark.parametrize("base", bases())
@pytest.mark.parametrize("context", [0, C])
def test_particles_and_data(base, context):
    """K·B rows of parameters, particle-major, seen as (K, B); a value of B rows meets each particle."""
    k = 3
    transform = moved(Composed([Planar(D, context), Radial(D, context)]))
    p = bases()[base]
    p = p if not p.batch_shape else DiagonalNormal(torch.randn(k * B, D).double(), torch.rand(k * B, D).double() + 0.5)
    c = torch.randn(k * B, context).double() if context else None
    flat = Transformed(p, transform, c)  # pyright: ignore
    seen = flat.unflatten((k, B))
    wide, narrow = torch.randn(k, B, D).double(), torch.randn(B, D).double()
    torch.testing.assert_close(seen.log_prob(wide), flat.log_prob(wide.reshape(-1, D)).reshape(k, B))
    if flat.batch_shape:
        assert seen.batch_shape == (k, B)
        truth = flat.log_prob(narrow.repeat(k, 1)).reshape(k, B)
        torch.testing.assert_close(seen.log_prob(narrow), truth)
        assert seen.rsample((2,)).shape == (2, k, B, D)
        x, log_p = seen.detach().rsample_and_log_prob()
        torch.testing.assert_close(seen.log_prob(x), log_p)


def test_in_a_walk_particles_meet_their_own_context():
    """A flow p(x | z) given a hidden z: (K, B) log-densities, each of its own z and of the datum."""
    flow = Flow(normal((D,)), moved(Planar(D, C)), nn.Identity()).double()  # pyright: ignore
    q = Amortized(nn.Linear(D, 2 * C), diagonal((C,))).double()
    model = Model(Joint({"z": normal((C,)).double(), "x | z": flow}), Joint({"z | x": q}))
    x = torch.randn(B, D).double()
    for k in (1, 5):
        e = model.evidence({"x": x}, k)
        z = e.values["z"].unflatten(0, (k, B))
        assert e.log_p["x"].shape == (k, B)
        for i in range(k):
            torch.testing.assert_close(e.log_p["x"][i], flow(z[i]).log_prob(x))


def test_draws_are_reparameterised_only_where_the_base_is():
    assert Flow(normal((D,)), Planar(D))().has_rsample
    assert Flow(uniform((D,)), Planar(D))().has_rsample
    assert not Flow(mixture((D,)), Planar(D))().has_rsample


# Posteriors


def posterior(name: str, size: float = 0.4) -> FlowPosterior:
    q = moved(flow_posterior((D,), flow=FLOWS[name], context=C), size)
    assert isinstance(q, FlowPosterior)
    return q


NORMAL: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "diagonal": diagonal, "mean": mean, "full": full, "low-rank": low_rank
}  # fmt: skip


@pytest.mark.parametrize("name", [*FLOWS, *NORMAL])
def test_log_q_is_a_density_that_its_draws_follow(name):
    """On a grid of the plane: it integrates to one, and cells hold as many draws as they should (chi-square)."""
    q = moved(NORMAL[name]((D,))) if name in NORMAL else posterior(name, 0.2 if name == "spline" else 0.4)
    parameters = torch.randn(1, *q.parameter_shape).double()  # pyright: ignore
    with torch.no_grad():
        dist = q(parameters)
        drawn, log_q = dist.rsample_and_log_prob((20_000,))
        torch.testing.assert_close(dist.log_prob(drawn[:200]), log_q[:200], rtol=1e-6, atol=1e-6)
        drawn = drawn[:, 0].numpy()
        n, cells = 300, 12
        edges = [np.linspace(a.min() - 4, a.max() + 4, n + 1) for a in drawn.T]
        middles = [torch.from_numpy((e[1:] + e[:-1]) / 2) for e in edges]
        area = math.prod(e[1] - e[0] for e in edges)
        density = dist.log_prob(torch.cartesian_prod(*middles)[:, None]).exp().reshape(n, n)
    assert density.sum().item() * area == pytest.approx(1, abs=5e-3)
    chance = density.reshape(cells, n // cells, cells, n // cells).sum((1, 3)).numpy() * area
    counts, *_ = np.histogram2d(*drawn.T, bins=[e[:: n // cells] for e in edges])
    expected = len(drawn) * chance / chance.sum()
    common = expected > 20
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    statistic = ((observed - expected) ** 2 / expected)[expected > 5].sum()
    assert statistic < chi2.ppf(0.9999, common.sum())


def target(scale: float = 0.5, bend: bool = True) -> Joint:
    """A banana: z ~ N(0, I), x | z ~ N(z₂ + z₁² − 1, scale²). Unbent, an ellipse: x | z ~ N(z₂ + z₁, scale²)."""

    class Banana(nn.Module):
        def forward(self, z: Tensor) -> DiagonalNormal:
            loc = (z[..., 1] + (z[..., 0] ** 2 - 1 if bend else z[..., 0]))[..., None]
            return DiagonalNormal(loc, torch.full_like(loc, scale))

    return Joint({"z": normal((D,)).double(), "x | z": Banana()})


class Given(nn.Module):
    """The same parameters for every datum, so that a posterior is fitted to one."""

    def __init__(self, size: int):
        super().__init__()
        self.value = nn.Parameter(0.1 * torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), -1)


DATUM = torch.tensor([[0.5]], dtype=torch.float64)


def log_likelihood(p: Joint) -> float:
    """log p(x) by summing over a grid."""
    axis = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    joint = p["z"].module().log_prob(z) + p["x"].module(z).log_prob(DATUM)
    return (joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log()).item()


def fitted(p: Joint, head: nn.Module, steps: int = 250) -> tuple[float, float]:
    """The ELBO of a posterior fitted to one datum, and its standard error."""
    torch.manual_seed(0)
    (size,) = head.parameter_shape  # pyright: ignore
    model = Model(p, Joint({"z | x": Amortized(Given(size), head)})).double()  # pyright: ignore
    optimizer = torch.optim.Adam(model.q.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-model.evidence({"x": DATUM}, 64).elbo().mean()).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        log_w = model.evidence({"x": DATUM}, 20_000).log_w[:, 0]
    return log_w.mean().item(), log_w.std().item() / math.sqrt(len(log_w))


@pytest.fixture(scope="module")
def diagonal_bound() -> float:
    return fitted(target(), diagonal((D,)))[0]


GAIN = {  # nats above the diagonal's bound: those that bend space gain; a rotation alone cannot
    "planar": 0.1,
    "radial": 0.05,
    "sylvester": 0.1,
    "triangular sylvester": 0.1,
    "householder": -0.03,
    "realnvp": 0.2,
    "iaf": 0.2,
    "spline": 0.2,
}


@pytest.mark.parametrize("name", GAIN)
def test_a_flow_posterior_is_at_least_as_tight_as_the_diagonal(name, diagonal_bound):
    """On the banana, below the exact log p(x)."""
    deep = {"planar": {"layers": 6}, "radial": {"layers": 6}}.get(name)
    chosen = (lambda e, c: find("flow", name).function(e, c, **deep)) if deep else FLOWS[name]
    bound, error = fitted(target(), flow_posterior((D,), flow=chosen, context=0))
    assert bound < log_likelihood(target()) + 4 * error
    assert bound > diagonal_bound + GAIN[name]


def test_a_rotation_gives_a_normal_posterior_its_covariance():
    """Where the true posterior is a tilted normal, a Householder flow closes the gap that the diagonal leaves."""
    p = target(bend=False)
    truth = log_likelihood(p)
    bound, error = fitted(p, flow_posterior((D,), flow=FLOWS["householder"], context=0))
    assert truth - 0.01 - 4 * error < bound < truth + 4 * error
    assert fitted(p, diagonal((D,)))[0] < truth - 0.2


@pytest.mark.parametrize("name", ["full", "low-rank"])
def test_a_normal_with_correlations_is_at_least_as_tight_as_the_diagonal(name, diagonal_bound):
    """Exact where the true posterior is a tilted normal; no worse on a banana, whose best normal stands upright."""
    p = target(bend=False)
    bound, error = fitted(p, NORMAL[name]((D,)))
    assert abs(bound - log_likelihood(p)) < 0.01 + 4 * error
    bound, error = fitted(target(), NORMAL[name]((D,)))
    assert diagonal_bound - 0.02 - 4 * error < bound < log_likelihood(target()) + 4 * error


# Gradients


def gradients(model: Model, loss: Callable[[Model], Tensor], chunks: int) -> Tensor:
    """Of q's parameters, by chunk, (chunks, P)."""
    parameters = list(model.q.parameters())
    rows = []
    for _ in range(chunks):
        found = torch.autograd.grad(loss(model), parameters)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def agree(a: Tensor, b: Tensor) -> None:
    """Two estimators of one gradient, each (chunks, P), have one mean: within 4.5 standard errors, which are small."""
    error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    assert error.norm() < 0.1 * a.mean(0).norm()
    moving = error > 1e-12
    z = (a.mean(0) - b.mean(0))[moving] / error[moving]
    assert z.abs().max() < 4.5


def fixture_model(name: str) -> tuple[Model, Tensor]:
    head = posterior(name, 0.2)
    network = nn.Linear(1, *head.parameter_shape)  # pyright: ignore
    model = Model(target(scale=1.0), Joint({"z | x": Amortized(network, head)})).double()  # pyright: ignore
    torch.manual_seed(5)
    return model, torch.tensor([[0.5], [-0.3]], dtype=torch.float64).repeat(200, 1)


@pytest.mark.parametrize("name", ["planar", "radial", "triangular sylvester", "householder"])
def test_the_doubly_reparameterised_gradient_is_unbiased(name):
    """The mean over many draws is that of the plain gradient of the importance-weighted bound."""
    model, x = fixture_model(name)

    def of(kind: str) -> Tensor:
        phase = importance_weighted(particles=4, gradient=kind).stages[0].phases[0]  # pyright: ignore
        return gradients(model, lambda m: phase.loss(m, {"x": x}, 1.0).loss, 40)  # pyright: ignore

    agree(of("pathwise"), of("doubly-reparameterized"))


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester", "householder"])
def test_sticking_the_landing_is_unbiased(name):
    """The path gradient of the ELBO, q's parameters stopped in log q, has the mean of the whole one."""
    model, x = fixture_model(name)
    plain = gradients(model, lambda m: m.evidence({"x": x}).elbo().mean(), 60)
    path = gradients(model, lambda m: m.evidence({"x": x}).log_w_stopped.mean(), 60)
    agree(plain, path)


@every_flow
def test_stopped_densities_give_the_whole_gradient_to_the_value(name):
    """∂ log q / ∂z of the stopped density is that of the density itself, and no parameter has one."""
    q = posterior(name)
    parameters = torch.randn(B, *q.parameter_shape).double().requires_grad_()
    z = torch.randn(B, D).double().requires_grad_()
    dist = q(parameters)
    (whole,) = torch.autograd.grad(dist.log_prob(z).sum(), z)
    dist.detach().log_prob(z).sum().backward()
    torch.testing.assert_close(z.grad, whole)
    assert parameters.grad is None and all(p.grad is None for p in q.parameters())


def test_a_posterior_of_a_bounded_flow_lives_there():
    def bounded(event: tuple[int, ...], context: int) -> Transform:
        return Composed([Planar(2, context), Sigmoid(event)])

    def from_bounded(event: tuple[int, ...], context: int) -> Transform:
        return Composed([Inverse(Sigmoid(event)), Planar(2, context)])

    for flow in (bounded, from_bounded):
        q = flow_posterior((D,), flow=flow, context=C)
        z, log_q = q(torch.randn(B, *q.parameter_shape)).rsample_and_log_prob()  # pyright: ignore
        assert torch.isfinite(log_q).all()
        assert q.support.check(z).all()  # pyright: ignore


def test_every_prior_can_be_the_base_of_a_flow():
    for name in names("prior"):
        chosen = find("prior", name)
        base = Choice(chosen, configure(chosen, {"classes": D} if "classes" in chosen.settings else {}))((D,))
        if support_of(base).is_discrete:
            with pytest.raises(ConfigError, match="live on different sets"):
                Flow(base, Planar(D))
            continue
        if getattr(base, "needs_posterior", False):
            with pytest.raises(ConfigError, match="made of a posterior"):
                Flow(base, Planar(D))
            continue
        flow = Flow(base, Planar(D))
        x, log_p = flow().rsample_and_log_prob((50,))
        torch.testing.assert_close(flow().log_prob(x), log_p, rtol=1e-3, atol=1e-3)
