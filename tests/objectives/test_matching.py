"""Kernel distances against double loops and closed forms; Wasserstein autoencoders do what they are trained for."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from tests.objectives.linear import Linear
from torch import Tensor, nn

from jensen.core import Joint, Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.distributions import DiagonalNormal
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.objectives import kernels
from jensen.objectives.kernels import Kernel
from jensen.registry import build, find

KERNELS: dict[str, Kernel] = {
    "imq": kernels.several_scales("imq", 4.0),
    "rbf": kernels.several_scales("rbf", 4.0),
    "polynomial": kernels.polynomial,
}
every_kernel = pytest.mark.parametrize("name", KERNELS)


def rows(n: int, seed: int, dims: int = 3) -> Tensor:
    return torch.randn(n, dims, generator=torch.manual_seed(seed)).double()


def by_hand(name: str, x: Tensor, y: Tensor) -> float:
    """k of two rows, from its formula."""
    if name == "polynomial":
        return (sum(a * b for a, b in zip(x.tolist(), y.tolist(), strict=True)) / len(x) + 1) ** 3
    square = sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True))
    each = [
        4.0 * s / (4.0 * s + square) if name == "imq" else math.exp(-square / (4.0 * s))
        for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)
    ]
    return sum(each) / 7


@every_kernel
def test_the_statistic_is_the_double_sum(name):
    x, y = rows(5, 0), 0.7 * rows(7, 1) + 0.5
    among_x = np.mean([by_hand(name, a, b) for a, b in permutations(x, 2)])
    among_y = np.mean([by_hand(name, a, b) for a, b in permutations(y, 2)])
    across = np.mean([by_hand(name, a, b) for a in x for b in y])
    assert kernels.mmd(x, y, KERNELS[name]).item() == pytest.approx(among_x + among_y - 2 * across, rel=1e-9)


@every_kernel
def test_a_row_of_weight_two_counts_twice(name):
    """Over pairs of different rows: that of a row with its own copy is left out, as it is with itself."""
    x, y, weight = rows(4, 0), rows(6, 1), torch.tensor([2.0, 1.0, 1.0, 1.0]).double()
    pairs = [(i, j) for i, j in permutations(range(4), 2)]
    share = sum(float(weight[i] * weight[j]) for i, j in pairs)
    among_x = sum(float(weight[i] * weight[j]) * by_hand(name, x[i], x[j]) for i, j in pairs) / share
    among_y = np.mean([by_hand(name, a, b) for a, b in permutations(y, 2)])
    across = sum(float(weight[i]) * by_hand(name, x[i], b) for i in range(4) for b in y) / (5 * 6)
    assert kernels.mmd(x, y, KERNELS[name], weight).item() == pytest.approx(among_x + among_y - 2 * across, rel=1e-9)


def gaussian_mmd(d: int, mean: Tensor, s: float, t: float, typical: float) -> float:
    """MMD² of N(mean, s² I) and N(0, t² I) by E exp(−‖u‖²/b) = (1 + 2v/b)^{−d/2} exp(−‖m‖²/(b + 2v)), u ~ N(m, v I)."""

    def expected(m: float, v: float) -> float:
        each = [(1 + 2 * v / b) ** (-d / 2) * math.exp(-m / (b + 2 * v)) for b in (c * typical for c in kernels.SCALES)]
        return sum(each) / len(each)

    return expected(0, 2 * s**2) + expected(0, 2 * t**2) - 2 * expected(mean.square().sum().item(), s**2 + t**2)


def test_rbf_meets_the_closed_form_of_normals():
    """The mean of many estimates, within four standard errors: unbiased, also where the two are one."""
    d, mean = 3, torch.tensor([0.5, -0.3, 0.0]).double()
    kernel = kernels.several_scales("rbf", 4.0)
    torch.manual_seed(0)
    for shift, s in ((mean, 0.6), (0 * mean, 1.0)):
        found = torch.stack(
            [
                kernels.mmd(shift + s * torch.randn(20, d).double(), torch.randn(15, d).double(), kernel)
                for _ in range(1000)
            ]
        )
        truth = gaussian_mmd(d, shift, s, 1.0, 4.0)
        assert abs(found.mean().item() - truth) < 4 * found.std().item() / math.sqrt(len(found))
        assert found.std().item() / math.sqrt(len(found)) < 2e-3
    assert (found < 0).any()  # where the two are one, half of the estimates are below 0


@every_kernel
@pytest.mark.parametrize(("shift", "low", "high"), [(1.0, 0.8, 1.25), (0.0, 1.0, 1.8)])
def test_the_standard_error_is_that_of_repetitions(name, shift, low, high):
    """Right where the distributions differ, too large by some 40% where they are one."""
    torch.manual_seed(0)
    pairs = [
        kernels.mmd_and_stderr(torch.randn(60, 2).double() + shift, torch.randn(60, 2).double(), KERNELS[name])
        for _ in range(400)
    ]
    values, errors = np.array(pairs).T
    assert low < np.sqrt((errors**2).mean()) / values.std() < high


def test_the_standard_error_leaves_one_pair_out():
    x, y = rows(6, 0), rows(6, 1) + 1
    kernel = KERNELS["imq"]

    def paired(keep: list[int]) -> float:
        """The mean over i ≠ j of h_ij; its cross terms leave out i = j."""
        h = [
            kernel(x[[i]], x[[j]]) + kernel(y[[i]], y[[j]]) - kernel(x[[i]], y[[j]]) - kernel(x[[j]], y[[i]])
            for i, j in permutations(keep, 2)
        ]
        return torch.stack(h).mean().item()

    value, error = kernels.mmd_and_stderr(x, y, kernel)
    assert value == pytest.approx(paired(list(range(6))), rel=1e-9)
    without = np.array([paired([i for i in range(6) if i != left]) for left in range(6)])
    assert error == pytest.approx(math.sqrt(5 / 6 * ((without - without.mean()) ** 2).sum()), rel=1e-9)
    with pytest.raises(ValueError, match="as many rows of each, 3 or more, got 6 and 5"):
        kernels.mmd_and_stderr(x, y[:5], kernel)


def test_digits_far_from_the_origin_are_kept():
    x, y = rows(30, 0).float(), rows(30, 1).float()
    found = kernels.mmd(x + 1000, y + 1000, kernels.several_scales("rbf", 4.0))
    torch.testing.assert_close(found, kernels.mmd(x, y, kernels.several_scales("rbf", 4.0)), rtol=0, atol=1e-4)


def test_typical_squares():
    x = torch.tensor([[0.0], [1.0], [3.0]])
    assert kernels.typical_square(x) == 4.0  # of 1, 4 and 9
    assert kernels.typical_square(torch.zeros(5, 2)) == 1.0
    assert kernels.typical_square(x[:1]) == 1.0
    assert kernels.mmd(x[:1], x, KERNELS["imq"]).item() == 0


# Wasserstein autoencoders

SMALL = {"latents": 2, "encoder.hidden": [32], "decoder.hidden": [32]}


def ring(n: int = 600) -> Dataset:
    """A noisy ring with one more column, in the plane of which a code of two numbers can lie."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, n)
    x = np.stack([np.cos(angle), np.sin(angle), np.cos(angle) ** 2], 1) + 0.1 * rng.normal(size=(n, 3))
    schema = Schema.of_table(x, ["a", "b", "c"])
    return Dataset("ring", schema, {"train": Split(x[100:]), "valid": Split(x[:50]), "test": Split(x[50:100])})


def distance(run: Run, prior: Tensor) -> float:
    """Of draws of q(z) from draws of p(z)."""
    codes = run.encode(split="train", draws=1)[:, 0] if run.model.hidden else run.encode(split="train")
    codes = torch.from_numpy(codes).double()
    return kernels.mmd(codes, prior, kernels.several_scales("imq", 4.0)).item()


@pytest.mark.parametrize("objective", ["mmd", "adversarial"])
@pytest.mark.parametrize("stochastic", [False, True])
def test_codes_come_to_follow_the_prior(objective, stochastic):
    """Nearer to it than the codes of the same model trained without that penalty, by far."""
    settings = {**SMALL, "objective": objective, "stochastic": stochastic, "likelihood.variance": "fixed"}
    settings |= {"likelihood": "gaussian", "epochs": 20, "batch_size": 50, "lr": 3e-3}
    drawn = rows(500, 3, 2)
    matched = train("wae", ring(), settings=settings)
    free = train("wae", ring(), settings={**settings, "objective.weight": 0.0})
    assert distance(matched, drawn) < 0.05
    assert distance(matched, drawn) < 0.3 * distance(free, drawn)


def test_a_learned_prior_is_fitted_to_the_codes():
    """A mixture, whose draws carry no gradient, reaches at least the log-density of a standard normal."""
    settings = {**SMALL, "prior": "mixture", "objective.weight": 5.0, "epochs": 20, "batch_size": 50, "lr": 1e-2}
    run = train("wae", ring(), settings=settings)
    codes = torch.from_numpy(run.encode(split="train"))
    with torch.no_grad():
        learned = run.model.p["z"].module().log_prob(codes).mean()
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(codes).sum(1).mean()
    assert learned > standard


class Movable(nn.Module):
    """N(mean, I)."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(self.mean, torch.ones_like(self.mean))


def deaf_model(objective: str, **settings) -> Model:
    """z ∈ R² of x ∈ R², which p(x | z) does not hear: a code is moved by nothing but what it pays."""
    p = Joint({"z": Movable(), "x | z": Linear([[0.0, 0.0], [0.0, 0.0]], [0.5, 0.5])})
    q = Joint({"z | x": Linear([[0.9, 0.3], [0.8, -0.2]], [0.8, 0.6])})
    return Model(p, q, find("objective", objective).function(**settings))


@pytest.mark.parametrize("objective", ["mmd", "adversarial"])
def test_a_learned_prior_goes_to_the_codes_and_they_not_to_it(objective):
    """−E log N(z; m, I) has the slope m − E z in m, and none for the encoder."""
    critic = {"critic": lambda inputs, outputs: nn.Linear(2, 1)} if objective == "adversarial" else {}
    model, x = deaf_model(objective, weight=0.0, **critic), rows(5, 0, 2)
    if model.objective.prepare:
        model.objective.prepare(model, {"x": x})
    with seeded(0):
        loss = model.objective.stages[0].phases[0].loss(model, {"x": x}, 1.0).loss
    with seeded(0):
        z = model.evidence({"x": x}).values["z"].detach()
    mean, encoder = model.p["z"].module.mean, model.q["z"].module
    of_mean, of_matrix, of_scale = torch.autograd.grad(
        loss, [mean, encoder.matrix, encoder.scale], allow_unused=True, materialize_grads=True
    )
    torch.testing.assert_close(of_mean, mean.detach() - z.mean(0))
    assert (of_matrix == 0).all() and (of_scale == 0).all()


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0]).double()])
def test_codes_pay_what_the_critic_is_surprised_by(weight):
    """With its logit l = v·z + b, λ E log(1 + e⁻ˡ), of slope −λ (1 − σ(l)) v in a code: steepest for the worst."""
    v, b = torch.tensor([2.0, -1.0]).double(), 0.5
    model, x = deaf_model("adversarial", weight=3.0, critic=lambda inputs, outputs: nn.Linear(2, 1)), rows(5, 0, 2)
    batch = {"x": x} if weight is None else {"x": x, "weight": weight}
    share = torch.full((5,), 0.2).double() if weight is None else weight / 4.5
    model.objective.prepare(model, batch)
    judge = model.objective.helpers["critic"].network
    with torch.no_grad():
        judge.weight.copy_(v[None])
        judge.bias.fill_(b)
    with seeded(0):
        terms = model.objective.stages[0].phases[0].loss(model, batch, 1.0)
    with seeded(0):
        e = model.evidence(batch)
    logit = (e.values["z"] @ v + b).detach()
    surprise = (share * torch.log(1 + torch.exp(-logit))).sum()
    torch.testing.assert_close(terms.logged["surprise"], surprise)
    unheard = (share * (e.reconstruction() + e.p["z"].log_prob(e.values["z"]))).sum().detach()
    torch.testing.assert_close(terms.loss, 3 * surprise - unheard)
    (found,) = torch.autograd.grad(terms.loss, model.q["z"].module.matrix)  # z = A x + noise
    slope = -3 * share * (1 - torch.sigmoid(logit))
    torch.testing.assert_close(found, v[:, None] * (slope @ x))


def test_codes_live_where_the_prior_does():
    model = build("wae", Schema.of_pictures((1, 2, 2), levels=2), {"latents": 2, "prior": "uniform"})
    z = model.evidence({"x": torch.ones(4, 1, 2, 2)}).values["z"]
    assert ((z > 0) & (z < 1)).all()


def test_all_jobs_but_scoring():
    run = train("wae", ring(), settings={**SMALL, "epochs": 1})
    assert run.sample(5).shape == (5, 3)
    assert run.encode(limit=4).shape == (4, 2)
    assert run.reconstruct(limit=4).shape == (4, 3)
    assert run.interpolate(steps=3).shape == (3, 3)
    for settings in ({}, {"stochastic": True}):
        run = train("wae", ring(), settings={**SMALL, **settings, "epochs": 1})
        with pytest.raises(CapabilityError, match=r"no likelihood: p\(x \| z\) measures what it costs") as refused:
            run.score()
        assert refused.value.exit_code == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"objective": "elbo"}, "takes mmd or adversarial, got 'elbo'"),
        ({"prior": "vamp"}, "prior: 'vamp' is made of densities"),
        ({"prior": "bernoulli"}, "live on different sets"),
    ],
)
def test_what_does_not_fit_is_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        build("wae", Schema.of_pictures((1, 2, 2), levels=2), {"latents": 2, **settings})


def test_a_vae_may_be_trained_so_and_keeps_its_bound():
    """As InfoVAE: q is a density, so there is a bound, which is reported as such."""
    model: Model = build("vae", Schema.of_pictures((1, 2, 2), levels=2), {"latents": 2, "objective": "mmd"})
    assert model.likelihood == "lower_bound"
    phase = model.objective.stages[0].phases[0]
    with seeded(0):
        terms = phase.loss(model, {"x": torch.ones(6, 1, 2, 2)}, 1.0)
    assert set(terms.logged) == {"reconstruction", "mmd"}
