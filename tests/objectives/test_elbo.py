"""The evidence lower bound as an objective, against the formula of the lectures written out."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model
from jensen.data import Schema
from jensen.distributions import Bernoulli, DiagonalNormal, Laplace
from jensen.errors import ConfigError
from jensen.objectives import weighted_mean
from jensen.registry import build, find

PIXELS, LATENTS = (1, 3, 3), 2


def lecture_vae(**settings) -> Model:
    """Binary pictures, a plane of latents, p(x | z) = Bernoulli(sigmoid(V tanh(W z + b) + β))."""
    tanh = {"name": "mlp", "hidden": [7], "activation": "tanh"}
    settings = {"latents": LATENTS, "encoder": tanh, "decoder": tanh, **settings}
    return build("vae", Schema.of_pictures(PIXELS, levels=2), settings).double()


def pictures(rows: int) -> Tensor:
    return torch.bernoulli(torch.full((rows, *PIXELS), 0.4, dtype=torch.float64))


def by_hand(model: Model, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x | z), (L, B), and KL(q(z | x) ‖ N(0, I)) by dimension, (B, D), from the weights alone."""
    decoder, encoder = model.p["x"].module.network, model.q["z"].module.network
    (w, b), (v, beta) = ((m.weight, m.bias) for m in decoder if isinstance(m, nn.Linear))
    p = torch.sigmoid(torch.tanh(z @ w.T + b) @ v.T + beta)  # (L, B, 9)
    flat = x.flatten(1)
    log_likelihood = (flat * p.log() + (1 - flat) * (1 - p).log()).sum(-1)
    (w, b), (v, beta) = ((m.weight, m.bias) for m in encoder if isinstance(m, nn.Linear))
    out = torch.tanh(flat @ w.T + b) @ v.T + beta
    mean, raw = out[:, :LATENTS], out[:, LATENTS:]
    start = 1 - 1e-4  # the scale is 1 where the output is 0
    scale = 1e-4 + torch.log1p(torch.exp(raw + math.log(math.expm1(start))))
    return log_likelihood, -0.5 * (1 + scale.log() * 2 - mean**2 - scale**2)


def loss_of(model: Model, batch: dict[str, Tensor], progress: float = 1.0, seed: int = 5):
    (stage,) = model.objective.stages
    (phase,) = stage.phases
    torch.manual_seed(seed)
    return phase.loss(model, batch, progress)


def draws(model: Model, x: Tensor, samples: int, seed: int = 5) -> Tensor:
    """The same draws of z that `loss_of` makes, (L, B, D)."""
    torch.manual_seed(seed)
    return model.evidence({"x": x}, samples).values["z"].unflatten(0, (samples, len(x)))


@pytest.mark.parametrize("samples", [1, 4])
def test_the_loss_of_the_lectures(samples):
    """−(1/L) Σ_l log p(x | z_l) + KL, averaged over the batch; and its gradient, whose factor is 1/L too."""
    model, x = lecture_vae(**{"objective.samples": samples}), pictures(5)
    terms = loss_of(model, {"x": x})
    log_likelihood, kl = by_hand(model, x, draws(model, x, samples))
    truth = -(log_likelihood.mean(0) - kl.sum(1)).mean()
    torch.testing.assert_close(terms.loss, truth)
    torch.testing.assert_close(terms.logged["elbo"], -truth.detach())
    torch.testing.assert_close(terms.logged["kl_z"], kl.sum(1).mean().detach())
    parameters = list(model.parameters())
    for found, wanted in zip(
        torch.autograd.grad(terms.loss, parameters), torch.autograd.grad(truth, parameters), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("settings", "progress", "weight"),
    [
        ({"beta": 4.0}, 1.0, 4.0),
        ({"beta": 0.0}, 1.0, 0.0),
        ({"warmup": 0.5}, 0.0, 0.0),
        ({"warmup": 0.5}, 0.2, 0.4),
        ({"warmup": 0.5}, 0.5, 1.0),
        ({"warmup": 0.0}, 0.0, 1.0),
        ({"warmup": 0.5, "beta": 2.0}, 0.25, 1.0),
    ],
)
def test_weights_on_the_divergence_change_the_loss_and_not_the_logged_bound(settings, progress, weight):
    model, x = lecture_vae(objective={"name": "elbo", **settings}), pictures(5)
    terms = loss_of(model, {"x": x}, progress)
    log_likelihood, kl = by_hand(model, x, draws(model, x, 1))
    torch.testing.assert_close(terms.loss, (weight * kl.sum(1) - log_likelihood[0]).mean())
    torch.testing.assert_close(terms.logged["elbo"], (log_likelihood[0] - kl.sum(1)).mean().detach())


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.0, 3.0, 0.5, 2.0], dtype=torch.float64)])
def test_free_bits_by_hand(weights):
    """A dimension whose KL, averaged over the batch, lies below the threshold costs the threshold."""
    x = pictures(5)
    model = lecture_vae()
    with torch.no_grad():  # one dimension far from the prior, one near it
        model.q["z"].module.network.output.bias.copy_(torch.tensor([2.0, 0.1, -1.0, 0.0]))
    w = torch.ones(5, dtype=torch.float64) if weights is None else weights
    log_likelihood, kl = by_hand(model, x, draws(model, x, 1))
    means = (w[:, None] * kl).sum(0) / w.sum()
    free = means.mean().item()
    assert (means > free).sum() == 1
    objective = find("objective", "elbo").function(free_bits=free)
    model.objective = objective
    terms = loss_of(model, {"x": x} if weights is None else {"x": x, "weight": weights})
    cost = torch.maximum(means, torch.tensor(free, dtype=torch.float64)).sum()
    loss = cost - (w * log_likelihood[0]).sum() / w.sum()
    torch.testing.assert_close(terms.loss, loss)
    truth = (w * (log_likelihood[0] - kl.sum(1))).sum() / w.sum()
    torch.testing.assert_close(terms.logged["elbo"], truth.detach())
    parameters = list(model.parameters())
    for found, wanted in zip(
        torch.autograd.grad(terms.loss, parameters), torch.autograd.grad(loss, parameters), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("each", ["dimension", "layer"])
@pytest.mark.parametrize(("free", "cost"), [(0.5, 1.01), (1.5, 1.5)])
def test_free_bits_are_counted_against_the_mean_of_the_batch(each, free, cost):
    """KL(N(x, 1) ‖ N(0, 1)) = x²/2 is 0.02 and 2 nats, on either side of both floors; p(x | z) does not hear z."""
    model, x = line_model(free_bits=free, free_bits_each=each), torch.tensor([[0.2], [2.0]], dtype=torch.float64)
    with torch.no_grad():
        model.q["z"].module.values.copy_(torch.tensor([1.0, 0.0, 1.0]))
        model.p["x"].module.values[0] = 0.0
    loss = loss_of(model, {"x": x}).loss
    assert loss.item() == pytest.approx(cost - norm.logpdf(x.numpy(), 0.1, 0.9).mean(), abs=1e-6)
    (slope, *_) = torch.autograd.grad(loss, model.q["z"].module.values)[0]
    assert slope.item() == pytest.approx(2.02 if cost > free else 0.0, abs=1e-6)  # of the mean of (slope · x)²/2


def test_free_bits_need_a_closed_form():
    class Peaked(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Laplace:
            return Laplace(self.map(x), torch.ones(2))

    class Decoder(nn.Module):
        def forward(self, z: Tensor) -> DiagonalNormal:
            return DiagonalNormal(z.sum(1, keepdim=True).expand(-1, 3), torch.ones(3))

    objective = find("objective", "elbo").function(free_bits=0.1)
    p, q = Joint({"z": Normal((2,)), "x | z": Decoder()}), Joint({"z | x": Peaked()})
    with pytest.raises(ConfigError, match=r"free_bits: no closed-form KL per dimension is known for 'z'"):
        loss_of(Model(p, q, objective), {"x": torch.zeros(2, 3)})


def test_row_weights_weigh_the_loss():
    model, x = lecture_vae(), pictures(4)
    weight = torch.tensor([1.0, 2.0, 0.0, 5.0], dtype=torch.float64)
    terms = loss_of(model, {"x": x, "weight": weight})
    log_likelihood, kl = by_hand(model, x, draws(model, x, 1))
    rows = log_likelihood[0] - kl.sum(1)
    torch.testing.assert_close(terms.loss, -(rows[0] + 2 * rows[1] + 5 * rows[3]) / 8)
    assert weighted_mean(torch.tensor([1.0, 3.0]), {}) == 2.0


def test_monte_carlo_divergence_is_log_q_minus_log_p():
    model, x = lecture_vae(**{"objective.kl": "monte-carlo", "objective.samples": 3}), pictures(5)
    terms = loss_of(model, {"x": x})
    torch.manual_seed(5)
    e = model.evidence({"x": x}, 3)
    torch.testing.assert_close(terms.loss, -e.log_w.mean())
    assert not torch.isclose(terms.logged["kl_z"], by_hand(model, x, draws(model, x, 3))[1].sum(1).mean())


def test_validation_reports_the_bound_of_each_datum_and_its_parts():
    model, x = lecture_vae(**{"objective.beta": 9.0, "objective.free_bits": 5.0}), pictures(5)
    torch.manual_seed(5)
    found = model.objective.validate(model, {"x": x})
    log_likelihood, kl = by_hand(model, x, draws(model, x, 1))
    torch.testing.assert_close(found["elbo"], log_likelihood[0] - kl.sum(1))
    torch.testing.assert_close(found["reconstruction"], log_likelihood[0])
    torch.testing.assert_close(found["kl_z"], kl.sum(1))


def test_validation_of_an_exact_model_is_its_likelihood():
    model = build("ppca", Schema.of_table(torch.randn(9, 3).numpy(), ["a", "b", "c"]), {"latents": 1})
    x = torch.randn(4, 3)
    truth = model.p["x"].module.marginal().log_prob(x)
    validate = find("objective", "elbo").function().validate
    torch.testing.assert_close(validate(model, {"x": x})["elbo"], truth, rtol=1e-4, atol=1e-4)


def test_early_stopping_waits_for_the_warm_up():
    (stage,) = lecture_vae(**{"objective.warmup": 0.3}).objective.stages
    assert stage.warmup == 0.3
    assert stage.monitor == "elbo"


# Sticking the landing


class Line(nn.Module):
    """N(slope · parent + shift, scale²)."""

    def __init__(self, slope: float, shift: float, scale: float):
        super().__init__()
        self.values = nn.Parameter(torch.tensor([slope, shift, scale], dtype=torch.float64))

    def forward(self, parent: Tensor) -> DiagonalNormal:
        slope, shift, scale = self.values
        return DiagonalNormal(slope * parent + shift, scale)


def line_model(**settings) -> Model:
    """z ~ N(0, 1), x | z ~ N(0.8 z + 0.1, 0.9²), and a q that is not the posterior."""
    p = Joint({"z": Normal((1,)).double(), "x | z": Line(0.8, 0.1, 0.9)})
    return Model(p, Joint({"z | x": Line(0.2, -0.1, 0.8)}), find("objective", "elbo").function(**settings))


def slopes(model: Model, rows: int, repeats: int) -> Tensor:
    """Of the loss at x = 1.3, by all parameters, (repeats, 6)."""
    (phase,) = model.objective.stages[0].phases
    batch = {"x": torch.full((rows, 1), 1.3, dtype=torch.float64)}
    torch.manual_seed(0)
    found = [torch.autograd.grad(-phase.loss(model, batch, 1.0).loss, list(model.parameters())) for _ in range(repeats)]
    return torch.stack([torch.cat(row) for row in found])


@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("samples", [1, 3])
def test_sticking_the_landing_is_unbiased(beta, samples):
    """Against the gradient of the bound in closed form: E log N(x; w z + b, s²) − β KL(N(m, σ²) ‖ N(0, 1))."""
    model = line_model(kl="sticking-the-landing", beta=beta, samples=samples)
    w, b, s = model.p["x"].module.values
    slope, shift, sigma = model.q["z"].module.values
    m = slope * 1.3 + shift
    fit = -s.log() - 0.5 * ((1.3 - w * m - b) ** 2 + (w * sigma) ** 2) / s**2
    kl = 0.5 * (m**2 + sigma**2 - 1) - sigma.log()
    truth = torch.cat(torch.autograd.grad(fit - beta * kl, list(model.parameters())))
    found = slopes(model, 2000 // samples, 100)
    stderr = found.std(0) / 10
    assert ((found.mean(0) - truth).abs() < 4 * stderr).all()
    assert (stderr < 0.02 * truth.abs().max()).all()


def test_sticking_the_landing_has_no_variance_where_q_is_the_posterior():
    """For q's parameters, draw by draw; of the closed form and of plain Monte Carlo some is left."""
    variance = 1 / (1 + 0.64 / 0.81)
    slope = 0.8 / 0.81 * variance
    spread = {}
    for kl in ("sticking-the-landing", "monte-carlo", "closed"):
        model = line_model(kl=kl)
        with torch.no_grad():
            model.q["z"].module.values.copy_(torch.tensor([slope, -0.1 * slope, math.sqrt(variance)]))
        spread[kl] = slopes(model, 1, 30)[:, 3:].abs().max()
    assert spread["sticking-the-landing"] < 1e-6
    assert spread["monte-carlo"] > 0.1
    assert spread["closed"] > 0.1


def test_sticking_the_landing_logs_the_bound_of_its_draws():
    model, x = lecture_vae(**{"objective.kl": "sticking-the-landing", "objective.samples": 3}), pictures(5)
    terms = loss_of(model, {"x": x})
    torch.manual_seed(5)
    e = model.evidence({"x": x}, 3)
    torch.testing.assert_close(terms.loss, -e.log_w.mean())
    torch.testing.assert_close(terms.logged["kl_z"], (e.log_q["z"] - e.log_p["z"]).mean().detach())


def test_sticking_the_landing_where_it_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="free_bits: needs the KL per dimension in closed form"):
        find("objective", "elbo").function(kl="sticking-the-landing", free_bits=0.1)
    bits = {"prior": "bernoulli", "posterior": "bernoulli", "objective.kl": "sticking-the-landing"}
    with pytest.raises(ConfigError, match="sticking-the-landing: 'z' is not reparameterised"):
        loss_of(lecture_vae(**bits), {"x": pictures(3)})


# What is drawn without a gradient


class Coin(nn.Module):
    """Bernoulli(sigmoid(logit)), whose draws are those given."""

    def __init__(self, logit: float):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor([logit], dtype=torch.float64))
        self.drawn: Tensor | None = None

    def forward(self, *parents: Tensor) -> Bernoulli:
        coin = Bernoulli(self.logit.expand(len(parents[0]), 1) if parents else self.logit)
        if self.drawn is not None:
            coin.sample = lambda shape=(): self.drawn  # pyright: ignore
        return coin


@pytest.mark.parametrize(("progress", "weight"), [(1.0, 3.0), (0.1, 0.6)])
@pytest.mark.parametrize("samples", [1, 2])
def test_the_score_of_a_drawn_divergence_has_its_weight(samples, progress, weight):
    """A coin, by listing all draws: E_q[log p(x | z)] − β KL(q ‖ p), both written out, and its gradient exactly."""
    baseline = "none" if samples == 1 else "leave-one-out"
    objective = find("objective", "elbo").function(
        kl="monte-carlo", beta=3.0, warmup=0.5, samples=samples, baseline=baseline
    )
    coin, prior, line = Coin(0.3), Coin(-0.5), Line(1.0, 0.2, 0.9)
    model = Model(Joint({"z": prior, "x | z": line}), Joint({"z | x": coin}), objective)
    x = torch.tensor([[1.3]], dtype=torch.float64)
    expected = torch.zeros(1, dtype=torch.float64)
    for draws in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * samples).view(-1, samples):
        coin.drawn = draws.reshape(-1, 1, 1) if samples > 1 else draws.reshape(1, 1)
        probability = torch.where(draws > 0, coin.logit.sigmoid(), 1 - coin.logit.sigmoid()).prod().detach()
        expected += probability * torch.autograd.grad(-loss_of(model, {"x": x}, progress).loss, coin.logit)[0]
    q, p = torch.sigmoid(coin.logit), torch.sigmoid(torch.tensor(-0.5, dtype=torch.float64))
    heard = [float(norm.logpdf(1.3, z + 0.2, 0.9)) for z in (0.0, 1.0)]
    kl = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    (truth,) = torch.autograd.grad((1 - q) * heard[0] + q * heard[1] - weight * kl, coin.logit)
    torch.testing.assert_close(expected, truth)
