"""Helmholtz machines so small that all their states can be listed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jensen.core import Joint, Model, evidence, seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import ConfigError
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.objectives.estimators import elbo, importance
from jensen.objectives.wake_sleep import log_q_of_dreams
from jensen.registry import build

LAYERS = [3, 2]


def machine(objective: Any = "wake-sleep", layers: list[int] = LAYERS) -> Model:
    """Of 2 × 2 pictures, with weights that are not small."""
    with seeded(3):
        settings = {"layers": layers, "objective": objective}
        model = build("helmholtz", Schema.of_pictures((1, 2, 2), levels=2), settings).double().eval()
        with torch.no_grad():
            for parameter in model.p.parameters():
                parameter.normal_(0, 0.8)
            for parameter in model.q.parameters():
                parameter.normal_(0, 0.4)
    return model


def binary(n: int) -> Tensor:
    """All that n bits can be, (2ⁿ, n)."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64)


def weights(model: Model) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias of each affine map, by factor of p and of q."""
    joints = {"p": model.p, "q": model.q}
    return {
        f"{name} {factor}": (factor.module.network.output.weight, factor.module.network.output.bias)  # pyright: ignore
        for name, joint in joints.items()
        for factor in joint
        if factor.parents
    }


def log_bernoulli(value: Tensor, logits: Tensor) -> Tensor:
    """Σ_d log p(value_d), written out."""
    p = torch.sigmoid(logits)
    return (value * p.log() + (1 - value) * (1 - p).log()).sum(-1)


def log_joints(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z | x) for all z, each (B, 2³, 2²), from the weights alone."""
    w = weights(model)
    x, z1, z2 = x.flatten(1)[:, None, None], binary(LAYERS[0])[None, :, None], binary(LAYERS[1])[None, None]

    def given(key: str, parent: Tensor) -> Tensor:
        weight, bias = w[key]
        return parent @ weight.T + bias

    log_p = log_bernoulli(z2, model.p["z2"].module.logits)  # pyright: ignore
    log_p = log_p + log_bernoulli(z1, given("p z1 | z2", z2)) + log_bernoulli(x, given("p x | z1", z1))
    log_q = log_bernoulli(z1, given("q z1 | x", x)) + log_bernoulli(z2, given("q z2 | z1", z1))
    return log_p, log_q


def gradients(value: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Of a scalar, as one vector; zero for what it does not depend on."""
    parameters = list(parameters)
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs])


def assert_unbiased(draw: Callable[[], Tensor], truth: Tensor, times: int = 60) -> None:
    """Means of draws of a vector lie within 4.5 standard errors of the truth, which is not all zero."""
    drawn = torch.stack([draw() for _ in range(times)])
    error = drawn.std(0) / math.sqrt(times)
    assert truth.abs().max() > 20 * error.median()  # the test can see a gradient
    assert ((drawn.mean(0) - truth).abs() < 4.5 * error + 1e-12).all()


def test_importance_weighting_meets_enumeration():
    model, x = machine(), binary(4).reshape(-1, 1, 2, 2)
    log_p, log_q = log_joints(model, x)
    truth = log_p.flatten(1).logsumexp(1).detach()
    assert truth.exp().sum().item() == pytest.approx(1, abs=1e-12)
    found = importance(model, {"x": x}, 20_000)
    assert ((found.rows - truth).abs() < 4.5 * found.variance.sqrt() + 1e-4).all()
    assert found.variance.sqrt().max() < 0.05
    bound = (log_q.exp() * (log_p - log_q)).flatten(1).sum(1).detach()
    drawn = elbo(model, {"x": x}, 20_000)
    assert ((drawn.rows - bound).abs() < 4.5 * drawn.variance.sqrt()).all()
    assert (truth - bound).max() > 0.1


def test_samples_have_the_enumerated_probabilities():
    model, x, n = machine(), binary(4).reshape(-1, 1, 2, 2), 40_000
    p = log_joints(model, x)[0].flatten(1).logsumexp(1).exp().detach()
    with torch.no_grad():
        drawn = model.sample(n)["x"].flatten(1)
    codes = (drawn @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=drawn.dtype)).long()
    counts = torch.bincount(codes, minlength=16)
    assert (n * p > 5).all()
    assert ((counts - n * p) ** 2 / (n * p)).sum() < 37.7  # chi-square, 15 degrees of freedom, 0.999


def test_wake_ascends_the_enumerated_expectation_in_p():
    """∇_θ E_{q(z | x)} log p(x, z), the top layer's own logits among θ."""
    model, x = machine(), torch.tensor([[1.0, 0, 0, 1]], dtype=torch.float64).reshape(1, 1, 2, 2)
    wake, _ = model.objective.stages[0].phases
    log_p, log_q = log_joints(model, x)
    truth = gradients((log_q.exp().detach() * log_p).sum(), model.p.parameters())
    assert truth[: LAYERS[1]].abs().min() > 0.01  # of the top layer's own logits, the first of p's parameters
    batch = {"x": x.expand(500, -1, -1, -1)}
    assert_unbiased(lambda: gradients(-wake.loss(model, batch, 0.0).loss, model.p.parameters()), truth)


def test_wake_and_sleep_leave_the_other_alone():
    for phase, other in zip(machine().objective.stages[0].phases, ("q", "p"), strict=True):
        model = machine()
        phase.loss(model, {"x": torch.ones(3, 1, 2, 2, dtype=torch.float64)}, 0.0).loss.backward()
        assert all(p.grad is None for p in getattr(model, other).parameters())


def test_sleep_ascends_the_enumerated_expectation_in_q():
    """∇_φ E_{p(x, z)} log q(z | x), over the model's own data and not those of the batch."""
    model, everything = machine(), binary(4).reshape(-1, 1, 2, 2)
    _, sleep = model.objective.stages[0].phases
    log_p, log_q = log_joints(model, everything)
    truth = gradients((log_p.exp().detach() * log_q).sum(), model.q.parameters())
    batch = {"x": torch.zeros(500, 1, 2, 2, dtype=torch.float64)}
    assert_unbiased(lambda: gradients(-sleep.loss(model, batch, 0.0).loss, model.q.parameters()), truth)


@pytest.mark.parametrize("learn_q", ["wake", "sleep", "both"])
def test_reweighted_ascends_what_pairs_of_particles_expect(learn_q):
    """All pairs of states are listed: E Σ_k w̃_k ∇ log p(x, z_k), and for q the same of log q, or of dreams."""
    model = machine({"name": "reweighted-wake-sleep", "particles": 2, "learn_q": learn_q})
    (phase,) = model.objective.stages[0].phases
    x = torch.tensor([[1.0, 0, 0, 1]], dtype=torch.float64).reshape(1, 1, 2, 2)
    log_p, log_q = (rows.flatten() for rows in log_joints(model, x))  # (32,)
    log_w, q = (log_p - log_q).detach(), log_q.exp().detach()
    first = torch.softmax(torch.stack([log_w[:, None].expand(32, 32), log_w[None].expand(32, 32)]), 0)[0]
    share = 2 * (q[:, None] * q[None] * first).sum(1)  # E of w̃ spent on each state, by both particles
    dreams_p, dreams_q = log_joints(model, binary(4).reshape(-1, 1, 2, 2))
    awake, asleep = (share * log_q).sum(), (dreams_p.exp().detach() * dreams_q).sum()
    mixed = {"wake": awake, "sleep": asleep, "both": 0.5 * (awake + asleep)}[learn_q]
    truth = gradients((share * log_p).sum() + mixed, model.parameters())
    batch = {"x": x.expand(500, -1, -1, -1)}
    assert_unbiased(lambda: gradients(-phase.loss(model, batch, 0.0).loss, model.parameters()), truth)


def test_reweighted_gradient_nears_that_of_the_likelihood():
    """With more particles the gradient in θ is that of log p(x); with two it is not yet."""
    x = torch.tensor([[1.0, 0, 0, 1]], dtype=torch.float64).reshape(1, 1, 2, 2)
    errors = []
    for particles in (2, 200):
        model = machine({"name": "reweighted-wake-sleep", "particles": particles})
        (phase,) = model.objective.stages[0].phases
        truth = gradients(log_joints(model, x)[0].flatten().logsumexp(0), model.p.parameters())
        batch = {"x": x.expand(20_000 // particles, -1, -1, -1)}
        found = [gradients(-phase.loss(model, batch, 0.0).loss, model.p.parameters()) for _ in range(10)]
        errors.append(float((torch.stack(found).mean(0) - truth).norm()))
    assert errors[1] < 0.2 * errors[0]


def test_dreams_of_continuous_units_are_scored_too():
    """A VAE under wake-sleep: log q of its own dreams is what its encoder says of them."""
    model = build("vae", Schema.of_pictures((1, 2, 2), levels=2), {"latents": 2, "objective": "wake-sleep"})
    with seeded(5):
        found = log_q_of_dreams(model, {"x": torch.zeros(4, 1, 2, 2)})
    with seeded(5), torch.no_grad():
        dreamt = model.sample(4)
        expected = model.q["z"].module(dreamt["x"]).log_prob(dreamt["z"])
    torch.testing.assert_close(found, expected)
    wake, _ = model.objective.stages[0].phases
    wake.loss(model, {"x": torch.zeros(4, 1, 2, 2)}, 0.0).loss.backward()
    assert all(p.grad is None for p in model.q.parameters())  # no path through the draws


@pytest.mark.parametrize("objective", ["iw", "semi-amortized", "per-datum"])
def test_an_objective_through_draws_is_refused(objective):
    with pytest.raises(ConfigError, match="binary units let none through"):
        build("helmholtz", Schema.of_pictures((1, 2, 2), levels=2), {"objective": objective})


@pytest.mark.parametrize("name", ["elbo", "iw"])
def test_score_functions_train_it_too(name):
    """Of two layers: ∇ E_q[log w] of the enumerated bound, with q's part from the score function."""
    settings = {
        "elbo": {"name": "elbo", "warmup": 0.0},
        "iw": {"name": "iw", "particles": 2, "gradient": "leave-one-out"},
    }
    model, x = machine(settings[name]), torch.tensor([[1.0, 0, 0, 1]], dtype=torch.float64).reshape(1, 1, 2, 2)
    (phase,) = model.objective.stages[0].phases
    log_p, log_q = (rows.flatten() for rows in log_joints(model, x))  # (32,)
    if name == "elbo":
        bound = (log_q.exp() * (log_p - log_q)).sum()
    else:
        log_w = log_p - log_q
        pairs = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
        bound = ((log_q[:, None] + log_q[None]).exp() * pairs).sum()
    truth = gradients(bound, model.parameters())
    batch = {"x": x.expand(500, -1, -1, -1)}
    assert_unbiased(lambda: gradients(-phase.loss(model, batch, 1.0).loss, model.parameters()), truth)


def test_any_number_of_layers_and_hidden_networks():
    mlp = {"name": "mlp", "hidden": [5]}
    model = build(
        "helmholtz", Schema.of_pictures((1, 2, 2), levels=2), {"layers": [4, 3, 2, 1], "encoder": mlp, "decoder": mlp}
    )
    assert str(model) == ("p = (z4) (z3 | z4) (z2 | z3) (z1 | z2) (x | z1), q = (z1 | x) (z2 | z1) (z3 | z2) (z4 | z3)")
    assert {name: tuple(v.shape) for name, v in model.sample(6).items()} == {
        "z4": (6, 1), "z3": (6, 2), "z2": (6, 3), "z1": (6, 4), "x": (6, 1, 2, 2),
    }  # fmt: skip


# Bars (Hinton et al. 1995): all horizontal or all vertical ones of a 4 × 4 picture, each there half of the time.


def bars() -> tuple[np.ndarray, np.ndarray]:
    """The 30 pictures, (30, 1, 4, 4), and their probabilities."""
    counts: dict[bytes, int] = {}
    for upright, on in itertools.product((False, True), itertools.product((0, 1), repeat=4)):
        picture = np.repeat(np.array(on, dtype=np.uint8)[:, None], 4, 1)
        key = np.ascontiguousarray(picture.T if upright else picture).tobytes()
        counts[key] = counts.get(key, 0) + 1
    pictures = np.stack([np.frombuffer(key, np.uint8).reshape(1, 4, 4) for key in counts])
    return pictures, np.array(list(counts.values())) / 32


@torch.no_grad()
def enumerated(model: Model, x: Tensor, layers: list[int]) -> Tensor:
    """log p(x), (B,), as a sum over all states."""
    states = binary(sum(layers)).to(x.dtype).split(layers[::-1], 1)
    z = {f"z{len(layers) - i}": part for i, part in enumerate(states)}
    log_z = evidence(model.p, Joint(), z).log_w[0]
    given = model.p["x"].module(z["z1"])
    return torch.stack([(log_z + given.log_prob(row)).logsumexp(0) for row in x])


def learned(layers: list[int], **options: Any) -> Run:
    pictures, p = bars()
    rows = np.random.default_rng(0).choice(len(pictures), 2000, p=p)
    splits = {"train": Split(pictures[rows]), "valid": Split(pictures), "test": Split(pictures)}
    data = Dataset("bars", Schema.of_pictures((1, 4, 4), levels=2), splits)
    return train("helmholtz", data, layers=layers, batch_size=100, **options)


def test_wake_sleep_learns_bars():
    """KL(data ‖ p), by enumeration. A product of independent pixels stands at 7.71 nats, the data's entropy is 3.38."""
    layers, (pictures, p) = [8, 2], bars()
    entropy = -(p * np.log(p)).sum()
    assert len(p) == 30
    assert entropy == pytest.approx(3.379, abs=1e-3)
    run = learned(layers, epochs=100, lr=0.06, seed=0)
    log_p = enumerated(run.model, torch.from_numpy(pictures).float(), layers).double().numpy()
    divergence = (p * (np.log(p) - log_p)).sum()
    assert 0 < divergence < 1.0
    score = run.score(estimator="iw", particles=1000)
    assert score.rows is not None
    assert abs((score.rows.numpy() * p).sum() - (log_p * p).sum()) < 0.05
    assert score.kind == "lower_bound"
