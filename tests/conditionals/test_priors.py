"""Priors and bases: each is a density, its draws follow it, and it stands in a model as any other."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats as st
import torch
from scipy.integrate import quad
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from jensen.conditionals.flows import Flow, carry, flow_prior, onto
from jensen.conditionals.priors import NormalMixture, StudentTs, UnitCube, mixture, normal, student_t, uniform
from jensen.core import Joint, Model
from jensen.data import Schema
from jensen.distributions import DiagonalNormal, StudentT
from jensen.errors import ConfigError
from jensen.objectives.estimators import annealed, importance
from jensen.registry import build, find, names
from jensen.transforms import Affine, Planar, Sigmoid, interval


def planar(event: tuple[int, ...], context: int) -> Planar:
    return Planar(*event)


PRIORS: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "normal": normal,
    "student-t": student_t,
    "student-t of three degrees of freedom": lambda z: student_t(z, df=3.0),
    "mixture": lambda z: mixture(z, components=4),
    "mixture of full covariances": lambda z: mixture(z if len(z) == 1 else (4,), components=3, covariance="full"),
    "uniform": uniform,
    "flow": lambda z: flow_prior(z, flow=planar, base=student_t),
    "flow from a cube": lambda z: flow_prior(z, flow=planar, base=uniform),
    "flow from a mixture": lambda z: flow_prior(z, flow=planar, base=mixture),
}
every_prior = pytest.mark.parametrize("name", PRIORS)


def made(name: str, dims: int) -> nn.Module:
    torch.manual_seed(0)
    prior = PRIORS[name]((dims,)).double()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return prior


def density(prior: nn.Module) -> Callable[[float], float]:
    return lambda z: prior().log_prob(torch.tensor([z], dtype=torch.float64)).exp().item()


@every_prior
def test_it_has_no_batch_and_the_shape_asked_for(name):
    for shape in ((3,), (2, 1, 2)):
        p = PRIORS[name](shape)() if not ("flow" in name or "full" in name) or len(shape) == 1 else PRIORS[name]((4,))()
        shape = tuple(p.event_shape)
        assert p.batch_shape == ()
        z = p.sample((5,))
        assert z.shape == (5, *shape)
        assert p.log_prob(z).shape == (5,)
        assert p.log_prob(z.expand(2, 5, *shape)).shape == (2, 5)


@every_prior
def test_it_integrates_to_one_and_its_draws_follow_it(name):
    """By quadrature on a line, and Kolmogorov and Smirnov."""
    prior = made(name, 1)
    ends = (0.0, 1.0) if name == "uniform" else (-math.inf, math.inf)
    total = sum(quad(density(prior), a, b, epsabs=1e-7)[0] for a, b in ((ends[0], 0.5), (0.5, ends[1])))
    assert total == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        drawn = prior().sample((3000,))[:, 0].numpy()
        grid = torch.linspace(drawn.min() - 1e-9, drawn.max(), 20_001, dtype=torch.float64)
        cumulative = torch.cumulative_trapezoid(prior().log_prob(grid[:, None]).exp(), grid).numpy()
    below = quad(density(prior), ends[0], grid[0].item())[0] if ends[0] < grid[0] else 0.0
    assert st.kstest(drawn, lambda v: np.interp(v, grid[1:].numpy(), below + cumulative)).pvalue > 1e-4


def test_student_t_is_scipys():
    for df in (None, 3.0):
        prior = StudentTs((2,), df).double()
        z = torch.randn(7, 2, dtype=torch.float64)
        truth = st.t(df or 10.0).logpdf(z.numpy()).sum(1)
        np.testing.assert_allclose(prior().log_prob(z).detach(), truth, rtol=1e-6)


def test_mixture_is_that_of_another_library():
    """Density, moments, responsibilities, and those of a batch, against torch's mixture and a sum by hand."""
    prior = made("mixture", 3)
    assert isinstance(prior, NormalMixture)
    p = prior()
    other = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=p.logits),
        torch.distributions.Independent(torch.distributions.Normal(p.components.loc, p.components.scale), 1),
    )
    z = 2 * torch.randn(4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), other.log_prob(z))
    torch.testing.assert_close(p.mean, other.mean)
    torch.testing.assert_close(p.variance, other.variance)
    each = torch.stack(
        [p.logits.softmax(0)[k] * p.components.log_prob(z[..., None, :]).exp()[..., k] for k in range(4)]
    )
    torch.testing.assert_close(p.responsibilities(z), (each / each.sum(0)).movedim(0, -1))
    wide = p.expand((6,))
    assert wide.batch_shape == (6,) and wide.sample((2,)).shape == (2, 6, 3)
    torch.testing.assert_close(wide.unflatten((2, 3)).log_prob(z[0, 0]), p.log_prob(z[0, 0]).expand(2, 3))


def test_draws_of_a_mixture_have_its_moments():
    p = made("mixture", 2)()
    z = p.sample((40_000,))
    error = (p.variance / 40_000).sqrt()
    assert ((z.mean(0) - p.mean).abs() < 4.5 * error).all()
    torch.testing.assert_close(torch.var(z, 0), p.variance.detach(), rtol=0.05, atol=0)
    assert not p.has_rsample and not z.requires_grad


def test_a_mixture_starts_about_as_a_standard_normal():
    torch.manual_seed(0)
    p = NormalMixture((4,), 200, 1e-2)()
    assert p.mean.abs().max() < 0.2
    torch.testing.assert_close(p.variance, torch.ones(4), rtol=0.15, atol=0)


@every_prior
def test_stopped_it_gives_gradients_to_the_value_alone(name):
    prior = made(name, 2)
    z = prior().sample((3,)).requires_grad_()
    stopped = prior().detach().log_prob(z)
    torch.testing.assert_close(stopped, prior().log_prob(z))
    if name != "uniform":  # whose density is flat
        stopped.sum().backward()
        assert z.grad is not None and z.grad.abs().max() > 0
    assert all(p.grad is None for p in prior.parameters())


class Observation(nn.Module):
    """x | z ~ N(z, ½)."""

    def forward(self, z: Tensor) -> DiagonalNormal:
        return DiagonalNormal(z, torch.full_like(z, 0.5))


class Guess(nn.Module):
    """z | x ~ t₄(x, 1): tails that no prior here outweighs."""

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return (2,)

    def forward(self, x: Tensor) -> StudentT:
        return StudentT(torch.full_like(x, 4.0), x, torch.ones_like(x))


@every_prior
def test_it_stands_in_evidence(name):
    """With K particles the prior meets each of them; log p(x) by importance weighting is that of quadrature."""
    prior = made(name, 1)
    model = Model(Joint({"z": prior, "x | z": Observation()}), Joint({"z | x": onto(Guess(), prior, (1,))}))
    x = torch.tensor([[-1.0], [0.2], [0.9], [2.0]], dtype=torch.float64)
    with torch.no_grad():
        for k in (1, 3):
            e = model.evidence({"x": x}, k)
            assert e.log_p["z"].shape == e.log_q["z"].shape == (k, 4)
            for i in range(k):
                rows = e.values["z"].unflatten(0, (k, 4))[i]
                torch.testing.assert_close(e.log_p["z"][i], prior().log_prob(rows))
        assert model.sample(6)["x"].shape == (6, 1)
        found = importance(model, {"x": x}, 20_000)
        low, high = (0.0, 1.0) if name == "uniform" else (-10.0, 12.0)
        z = torch.linspace(low, high, 20_001, dtype=torch.float64)[:, None]
        joint = prior().log_prob(z) + torch.stack([Observation()(z).log_prob(row) for row in x])
        truth = torch.trapezoid(joint.exp(), z[:, 0]).log()
    assert ((found.rows - truth).abs() < 4.5 * found.variance.sqrt() + 1e-6).all()


def test_annealing_moves_from_a_mixture():
    """Its draws have no gradient, but z is continuous all the same."""
    prior = made("mixture", 1)
    model = Model(Joint({"z": prior, "x | z": Observation()}), Joint({"z | x": Guess()}))
    x = torch.tensor([[0.3], [1.5]], dtype=torch.float64)
    found = annealed(model, {"x": x}, particles=64, temperatures=30, leapfrog=3)
    truth = importance(model, {"x": x}, 100_000).rows
    assert ((found.rows - truth).abs() < 5 * found.variance.sqrt() + 0.01).all()


# Supports


def test_what_lies_between_two_supports():
    real, unit = torch.distributions.constraints.real, torch.distributions.constraints.unit_interval
    positive, disc = torch.distributions.constraints.positive, torch.distributions.constraints.interval(-2, 5)
    z = torch.randn(50, 2, dtype=torch.float64)
    for start in (real, unit, positive, disc):
        for end in (real, unit, positive, disc):
            chain = carry(start, end, (2,))
            assert bool(chain) == (start is not end)
            x = z
            for part in [*carry(real, start, (2,)), *chain]:
                x, ladj = part.double().forward_and_ladj(x)
                assert torch.isfinite(ladj).all()
            assert end.check(x).all()
    with pytest.raises(ConfigError, match="different sets: real numbers, IntegerInterval"):
        carry(real, torch.distributions.constraints.integer_interval(0, 3), (2,))


def test_a_flow_from_the_cube_starts_by_a_logit():
    """z = logit(u) is logistic: x = 1 + 2 z has its density."""
    flow = Flow(UnitCube((1,)), Affine((1,), 1.0, 2.0)).double()
    x = torch.linspace(-30, 30, 41, dtype=torch.float64)[:, None]
    np.testing.assert_allclose(flow().log_prob(x), st.logistic(1, 2).logpdf(x[:, 0].numpy()), rtol=1e-9)
    assert torch.isfinite(flow.float()().sample((100_000,))).all()


def test_a_flow_on_the_cube_takes_a_normal_base():
    flow = Flow(normal((2,)), Sigmoid((2,)))
    assert ((flow().sample((100,)) > 0) & (flow().sample((100,)) < 1)).all()
    inner = Flow(UnitCube((2,)), interval((2,), 0.0, 1.0))
    assert next(type(t).__name__ for t in inner.transform.chain) == "Inverse"  # pyright: ignore


def test_uniform_draws_keep_from_the_ends():
    u = UnitCube((1000,))().sample((1000,))
    assert 0 < u.min() < 1e-5 and 1 - 1e-5 < u.max() < 1
    assert UnitCube((2,))().log_prob(torch.tensor([[0.2, 1.1], [-0.1, 0.3]])).tolist() == [-math.inf] * 2


def test_a_vae_of_a_cube_infers_in_the_cube():
    model = build("vae", Schema.of_pictures((1, 2, 2), levels=2), {"latents": 2, "prior": "uniform"})
    e = model.evidence({"x": torch.ones(5, 1, 2, 2)}, 7)
    assert ((e.values["z"] > 0) & (e.values["z"] < 1)).all()
    assert torch.isfinite(e.log_w).all()
    e.elbo().sum().backward()
    assert all(p.grad is not None for p in model.q.parameters())


def test_every_prior_is_tried_here():
    assert {find("prior", n).function for n in names("prior")} >= {student_t, mixture, uniform}


@pytest.mark.parametrize(("covariance", "kind"), [("diagonal", "diag"), ("full", "full")])
def test_a_mixture_starts_from_codes_as_em_leaves_it(covariance, kind):
    """Against scikit-learn's mixture, from its own best of several runs, by the density of new points."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 6 * rng.normal(size=(4, 3))[rng.integers(0, 4, 500)]
    prior = mixture((3,), components=4, covariance=covariance).double()
    torch.manual_seed(0)
    prior.initialize(torch.tensor(codes))  # pyright: ignore[reportCallIssue]
    torch.manual_seed(0)
    seed = int(torch.randint(1 << 31, ()))
    em = GaussianMixture(4, covariance_type=kind, reg_covar=1e-4, n_init=3, random_state=seed).fit(codes)
    new = codes + 0.1 * rng.normal(size=codes.shape)
    found = prior().log_prob(torch.tensor(new)).detach().numpy()
    np.testing.assert_allclose(found, em.score_samples(new), rtol=1e-9)
    np.testing.assert_allclose(prior().responsibilities(torch.tensor(new)).detach(), em.predict_proba(new), atol=1e-9)


def test_full_covariances_are_for_vectors():
    with pytest.raises(ConfigError, match="full is for vectors"):
        mixture((2, 1, 2), covariance="full")
