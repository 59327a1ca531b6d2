"""The importance-weighted objective: value, unbiased gradients, and a lower variance where it is promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jensen.conditionals.linear_gaussian import LinearGaussian, LinearGaussianPosterior
from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model, seeded
from jensen.distributions import Bernoulli, DiagonalNormal
from jensen.errors import ConfigError
from jensen.registry import find

X = 1.3


class Gaussian(nn.Module):
    """N(slope · parent + shift, exp(log_scale)²)."""

    def __init__(self, slope: float, shift: float, log_scale: float):
        super().__init__()
        values = torch.tensor([slope, shift, log_scale], dtype=torch.float64)
        self.values = nn.Parameter(values)

    def forward(self, parent: Tensor) -> DiagonalNormal:
        slope, shift, log_scale = self.values
        return DiagonalNormal(slope * parent + shift, log_scale.exp())


def small_model(gradient: str, particles: int, **settings) -> Model:
    """z ~ N(0, 1), x | z ~ N(0.8 z + 0.1, 0.9²), and a q that is not the posterior."""
    p = Joint({"z": Normal((1,)).double(), "x | z": Gaussian(0.8, 0.1, math.log(0.9))})
    q = Joint({"z | x": Gaussian(0.2, -0.1, math.log(0.8))})
    objective = find("objective", "iw").function(particles=particles, gradient=gradient, **settings)
    return Model(p, q, objective)


def gradients(model: Model, rows: int, repeats: int) -> np.ndarray:
    """Of the bound, by all six parameters, one row a repeat; each a mean over `rows` draws."""
    (phase,) = model.objective.stages[0].phases
    x = torch.full((rows, 1), X, dtype=torch.float64)
    found = []
    for _ in range(repeats):
        loss = phase.loss(model, {"x": x}, 1.0).loss
        found.append(torch.cat(torch.autograd.grad(-loss, list(model.parameters()))))
    return torch.stack(found).numpy()


def exact_gradient(model: Model, share: float = 0.0) -> np.ndarray:
    """Of share · E log w + (1 − share) · E log ½(w₁ + w₂) by Gauss-Hermite quadrature over both draws."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    noise = torch.from_numpy(nodes)
    weight = torch.from_numpy(weights / weights.sum())
    x = torch.tensor(X, dtype=torch.float64)
    q, p = model.q["z"].module(x), model.p["x"].module
    z = q.loc + q.scale * noise

    def normal(value: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
        scale = torch.as_tensor(scale, dtype=torch.float64)
        return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)

    likelihood = p(z)
    log_w = normal(z, 0.0, 1.0) + normal(x, likelihood.loc, likelihood.scale) - normal(z, q.loc, q.scale)
    pairs = torch.logaddexp(log_w[:, None], log_w[None, :]) - math.log(2)
    bound = share * (weight @ log_w) + (1 - share) * (weight @ pairs @ weight)
    return torch.cat(torch.autograd.grad(bound, list(model.parameters()))).numpy()


@pytest.mark.parametrize("gradient", ["doubly-reparameterized", "pathwise"])
def test_gradients_are_unbiased(gradient):
    """For p's and q's parameters, against quadrature."""
    model = small_model(gradient, 2)
    found, truth = gradients(model, rows=2000, repeats=60), exact_gradient(model)
    stderr = found.std(0, ddof=1) / math.sqrt(len(found))
    assert (np.abs(found.mean(0) - truth) < 4 * stderr).all()
    assert (stderr < 0.05 * np.abs(truth).max()).all()


@pytest.mark.parametrize("gradient", ["doubly-reparameterized", "pathwise"])
@pytest.mark.parametrize(("averages", "share"), [(3, 0.0), (1, 0.4), (2, 0.7), (1, 1.0)])
def test_gradients_of_averaged_and_mixed_bounds_are_unbiased(gradient, averages, share):
    """MIWAE, CIWAE, both at once, and the ELBO: for p's and q's parameters, against quadrature."""
    model = small_model(gradient, 2, averages=averages, elbo_share=share)
    torch.manual_seed(1)
    found, truth = gradients(model, rows=1500, repeats=60), exact_gradient(model, share)
    stderr = found.std(0, ddof=1) / math.sqrt(len(found))
    assert (np.abs(found.mean(0) - truth) < 4 * stderr).all()
    assert (stderr < 0.05 * np.abs(truth).max()).all()
    apart = exact_gradient(model, 0.0) - exact_gradient(model, 1.0)  # the bounds differ by more than the noise
    assert (np.abs(apart) > 8 * stderr).any()


def test_averages_of_k_particles_have_the_variance_of_an_average():
    """By 4 groups: a quarter of that of one."""
    torch.manual_seed(1)
    one, four = (gradients(small_model("doubly-reparameterized", 5, averages=m), 10, 400).var(0) for m in (1, 4))
    ratio = one / four
    assert (ratio > 2.6).all()  # an F of 399 and 399 degrees of freedom is within 0.65..1.55 but once in ten thousand
    assert (ratio < 6.2).all()


def test_the_bound_itself_has_no_noise_left_where_q_is_the_posterior():
    """CIWAE's and IWAE's doubly-reparameterised gradients for q vanish draw by draw; the plain one's do not."""
    for gradient, share in (("doubly-reparameterized", 0.0), ("doubly-reparameterized", 0.5), ("pathwise", 0.5)):
        model = small_model(gradient, 4, elbo_share=share)
        with torch.no_grad():  # z | x ~ N(0.8 (x − 0.1) s²/0.81, s²), s² = 1/(1 + 0.64/0.81)
            variance = 1 / (1 + 0.64 / 0.81)
            slope = 0.8 / 0.81 * variance
            model.q["z"].module.values.copy_(torch.tensor([slope, -0.1 * slope, 0.5 * math.log(variance)]))
        of_q = np.abs(gradients(model, 3, 20)[:, 3:])
        assert (of_q.max() < 1e-6) == (gradient != "pathwise")


def test_leave_one_out_is_unbiased_for_averaged_and_mixed_bounds():
    """A coin, three draws twice: by listing all 64, and the gradient of the logit in expectation exactly."""

    class Coin(nn.Module):
        def __init__(self, logit: float):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor([logit], dtype=torch.float64))
            self.drawn: Tensor | None = None

        def forward(self, *parents: Tensor) -> Bernoulli:
            coin = Bernoulli(self.logit.expand(len(parents[0]), 1) if parents else self.logit)
            if self.drawn is not None:
                coin.sample = lambda shape=(): self.drawn  # pyright: ignore
            return coin

    coin = Coin(0.3)
    q = Joint({"z | x": coin})
    objective = find("objective", "iw").function(particles=3, averages=2, elbo_share=0.4, gradient="leave-one-out")
    model = Model(Joint({"z": Coin(-0.5), "x | z": Gaussian(1.0, 0.2, 0.1)}), q, objective)
    x = torch.tensor([[X]], dtype=torch.float64)
    expected, truth = torch.zeros(1, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for draws in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6):
        coin.drawn = draws.reshape(6, 1, 1)
        probability = torch.exp((draws * coin.logit - torch.nn.functional.softplus(coin.logit)).sum())
        loss = objective.stages[0].phases[0].loss(model, {"x": x}, 1.0).loss
        expected += probability.detach() * torch.autograd.grad(-loss, coin.logit)[0]
        w = model.evidence({"x": x}, 6).log_w[:, 0].reshape(2, 3)
        bound = (0.4 * w.mean(1) + 0.6 * (torch.logsumexp(w, 1) - math.log(3))).mean()
        truth = truth + probability * bound
    (wanted,) = torch.autograd.grad(truth, coin.logit)
    torch.testing.assert_close(expected, wanted)


def test_double_reparameterisation_lowers_the_variance_of_qs_gradient():
    found = {g: gradients(small_model(g, 50), 10, 200) for g in ("doubly-reparameterized", "pathwise")}
    spread = {g: values.var(0) for g, values in found.items()}
    of_q = slice(3, 6)
    assert (spread["doubly-reparameterized"][of_q] < 0.5 * spread["pathwise"][of_q]).all()
    middle = {g: values.mean(0) for g, values in found.items()}
    stderr = np.sqrt(sum(spread.values()) / 200)
    assert (np.abs(middle["doubly-reparameterized"] - middle["pathwise"]) < 4 * stderr).all()


@pytest.mark.parametrize("gradient", ["doubly-reparameterized", "pathwise"])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_what_is_logged_is_the_bound_itself(gradient, share):
    """Not its mixture with the ELBO, which is what is maximised."""
    model = small_model(gradient, 6, elbo_share=share)
    x = torch.randn(5, 1, dtype=torch.float64)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    (phase,) = model.objective.stages[0].phases
    torch.manual_seed(3)
    logged = phase.loss(model, {"x": x, "weight": weight}, 1.0).logged
    torch.manual_seed(3)
    log_w = model.evidence({"x": x}, 6).log_w.detach()
    rows = log_w.exp().mean(0).log()
    torch.testing.assert_close(logged["iw"], (weight * rows).sum() / 5)
    torch.testing.assert_close(logged["elbo"], (weight * log_w.mean(0)).sum() / 5)
    assert not logged["iw"].requires_grad


def test_validation_needs_no_gradient():
    model = small_model("doubly-reparameterized", 4)
    with torch.no_grad():
        found = model.objective.validate(model, {"x": torch.randn(5, 1, dtype=torch.float64)})
    assert found["iw"].shape == found["elbo"].shape == (5,)
    assert (found["iw"] >= found["elbo"] - 1e-12).all()
    assert model.objective.stages[0].monitor == "iw"


def test_of_several_variables_the_gradient_is_the_plain_one():
    """auto, where q draws two variables: the gradient of the bound itself, as automatic differentiation has it."""
    x, z = torch.tensor([[0.3], [-1.0]], dtype=torch.float64), Normal((1,)).double()
    p = Joint({"z": z, "y | z": Gaussian(0.7, 0.1, 0.2), "x | y": Gaussian(1.1, 0.0, -0.3)})
    q = Joint({"y | x": Gaussian(0.5, 0.0, 0.0), "z | y": Gaussian(0.4, 0.0, 0.1)})
    objective = find("objective", "iw").function(particles=7)
    model = Model(p, q, objective)
    (phase,) = objective.stages[0].phases
    with seeded(3):
        found = torch.autograd.grad(phase.loss(model, {"x": x}, 1.0).loss, list(model.parameters()))
    with seeded(3):
        log_w = model.evidence({"x": x}, particles=7).log_w
    bound = (torch.logsumexp(log_w, 0) - math.log(7)).mean()
    torch.testing.assert_close(found, torch.autograd.grad(-bound, list(model.parameters())))


def refused(p: Joint, q: Joint, x: Tensor) -> str:
    objective = find("objective", "iw").function(gradient="doubly-reparameterized")
    (phase,) = objective.stages[0].phases
    with pytest.raises(ConfigError) as caught:
        phase.loss(Model(p, q, objective), {"x": x}, 1.0)
    return str(caught.value)


def test_models_it_does_not_fit_are_refused():
    class Coin(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, *parents: Tensor) -> Bernoulli:
            return Bernoulli(self.logit + 0 * parents[0] if parents else self.logit)

    x, emit = torch.zeros(3, 1, dtype=torch.float64), Gaussian(1.0, 0.0, 0.0)
    z = Normal((1,)).double()
    two = Joint({"z": z, "y | z": Gaussian(1.0, 0.0, 0.0), "x | y": emit})
    q = Joint({"y | x": Gaussian(1.0, 0.0, 0.0), "z | y": Gaussian(1.0, 0.0, 0.0)})
    assert "exactly one hidden variable, q infers y, z" in refused(two, q, x)
    coins = Joint({"z": Coin(), "x | z": emit})
    assert "'z' is not reparameterised" in refused(coins, Joint({"z | x": Coin()}), x)
    likelihood = LinearGaussian(1, (1,)).double()
    full = Joint({"z | x": LinearGaussianPosterior(likelihood)})
    assert "cannot stop the parameters of a MultivariateNormal" in refused(
        Joint({"z": z, "x | z": likelihood}), full, x
    )
