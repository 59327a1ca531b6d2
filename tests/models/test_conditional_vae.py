"""The variational autoencoder given labels and columns: quadrature, enumeration, every job, refusals."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor

import jensen
from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import ConfigError, DataError
from jensen.objectives.estimators import annealed, importance
from jensen.registry import build

SMALL = {"encoder.hidden": [16], "decoder.hidden": [16]}
PICTURES = Schema.of_pictures((1, 2, 2), levels=2, classes=("a", "b", "c"))


def made(**settings) -> Model:
    torch.manual_seed(2)
    model = build("vae", PICTURES, {"latents": 1, **SMALL, "conditional": True, **settings}).double()
    with torch.no_grad():
        for p in model.p["x"].module.parameters():
            p.normal_(0, 0.7)
        for p in model.p["z"].module.parameters():
            p.mul_(2)
        for p in model.q.parameters():
            p.normal_(0, 0.2)
    return model.eval()


def all_pictures() -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4).reshape(-1, 1, 2, 2)


def exact(model: Model, y: int) -> Tensor:
    """log p(x | y) of all sixteen pictures, by a sum over a fine grid of z."""
    x, z = all_pictures(), torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    label = torch.full((len(z),), y)
    prior = model.p["z"].module(*([label[:1]] if model.p["z"].parents else []))
    log_z = prior.log_prob(z) + math.log(z[1, 0] - z[0, 0])
    head = model.p["x"].module(z, label)
    return torch.stack([(head.log_prob(one) + log_z).logsumexp(0) for one in x]).detach()


@pytest.mark.parametrize("prior", ["vamp", "aggregated"])
def test_a_prior_made_of_posteriors_given_conditions(prior):
    """p(z) = (1/K) Σ_k q(z | u_k, y_k) for pairs of the data, and log p(x | y) as ever, against quadrature."""
    model, x = made(prior=prior, **{"prior.components": 7}), all_pictures()
    y = torch.arange(16) % 3
    with seeded(1):
        model.initialize({"x": x, "y": y})
    p_z = model.p["z"].module
    pairs = {(*row.flatten().tolist(), label.item()) for row, label in zip(x, y, strict=True)}
    assert {(*u.flatten().tolist(), c.item()) for u, c in zip(p_z.inputs, p_z.given_y, strict=True)} <= pairs
    assert len(p_z.given_y.unique()) > 1
    z = torch.randn(5, 1, dtype=torch.float64)
    each = torch.stack(
        [model.q["z"].module(u[None], c[None]).log_prob(z) for u, c in zip(p_z.inputs, p_z.given_y, strict=True)]
    )
    torch.testing.assert_close(p_z().log_prob(z), each.logsumexp(0) - math.log(7))
    for label in range(3):
        truth = exact(model, label)
        assert truth.exp().sum().item() == pytest.approx(1, abs=1e-6)
        estimate = importance(model, {"x": x, "y": torch.full((16,), label)}, 5000)
        assert ((estimate.rows - truth).abs() < 4.5 * estimate.variance.sqrt() + 1e-6).all()


@pytest.mark.parametrize("prior_given", [False, True])
def test_each_condition_has_a_distribution_of_its_own(prior_given):
    """Under each label probabilities sum to one, importance weighting finds them, and samples have them."""
    model, x = made(prior_given=prior_given), all_pictures()
    found = []
    for label in range(3):
        y, truth = torch.full((16,), label), exact(model, label)
        assert truth.exp().sum().item() == pytest.approx(1, abs=1e-6)
        estimate = importance(model, {"x": x, "y": y}, 5000)
        assert ((estimate.rows - truth).abs() < 4.5 * estimate.variance.sqrt() + 1e-6).all()
        with torch.no_grad():
            drawn = model.sample(20_000, {"y": torch.full((20_000,), label)})["x"].flatten(1)
        counts = torch.bincount((drawn @ torch.tensor([8.0, 4, 2, 1]).double()).long(), minlength=16)
        expected = 20_000 * truth.exp()
        assert (expected > 5).all()
        assert (((counts - expected) ** 2 / expected).sum() < 37.7).item()  # the 0.999 quantile, 15 degrees of freedom
        found.append(truth)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_annealing_takes_conditions_along():
    model, x, y = made(prior_given=True), all_pictures()[:4], torch.tensor([0, 1, 2, 0])
    truth = torch.stack([exact(model, int(label))[i] for i, label in enumerate(y)])
    found = annealed(model, {"x": x, "y": y}, particles=64, temperatures=20, leapfrog=2)
    assert ((found.rows - truth).abs() < 5 * found.variance.sqrt() + 0.02).all()


@pytest.mark.parametrize("prior_given", [False, True])
def test_what_is_given_reaches_encoder_decoder_and_prior(prior_given):
    model, x = made(prior_given=prior_given), all_pictures()[:2]
    one, other = (model.evidence({"x": x, "y": torch.full((2,), y)}, 3) for y in (0, 1))
    assert not torch.allclose(one.q["z"].mean, other.q["z"].mean)
    assert not torch.allclose(
        *(model.p["x"].module(torch.zeros(1, 1).double(), torch.tensor([y])).mean for y in (0, 1))
    )
    assert (one.p["z"].batch_shape == (2,)) == prior_given
    closed, ratio = one.closed_kl("z"), one.log_q["z"] - one.log_p["z"]
    assert closed is not None and (closed > 0).all()
    assert ratio.shape == (3, 2)
    assert str(model.q) == "(z | x, y)"
    assert str(model.p) == ("(z | y) (x | z, y)" if prior_given else "(z) (x | z, y)")


def test_pictures_meet_conditions_as_planes():
    """A convolution sees the grey levels rescaled, and behind them a plane for each class."""
    schema = Schema.of_pictures((1, 4, 4), levels=256, classes=("a", "b"))
    small = {"name": "conv", "channels": [4], "hidden": 8}
    model = build("vae", schema, {"latents": 2, "encoder": small, "decoder": small, "conditional": True})
    seen = []
    first = next(m for m in model.q["z"].module.network.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.full((2, 1, 4, 4), 255.0)
    e = model.evidence({"x": x, "y": torch.tensor([0, 1])}, 5)
    torch.testing.assert_close(seen[0][:, :, 0, 0], torch.tensor([[1.0, 1, 0], [1, 0, 1]]))
    assert e.log_w.shape == (5, 2)


def people(n: int = 400) -> pandas.DataFrame:
    rng = np.random.default_rng(0)
    sex, age = rng.choice(["f", "m"], n), rng.uniform(20, 60, n).round(1)
    height = 160 + 15 * (sex == "m") - 0.1 * (age - 40) + 3 * rng.normal(size=n)
    return pandas.DataFrame({"age": age, "height": height, "sex": sex, "weight": 0.5 * height + rng.normal(size=n)})


@pytest.mark.parametrize("prior_given", [False, True])
def test_every_job_of_a_table_given_columns(prior_given, tmp_path):
    options = {"given": ["sex", "age"], "latents": 1, "prior_given": prior_given, **SMALL}
    jensen.train("vae", people(), out=tmp_path / "run", epochs=40, lr=0.01, batch_size=50, **options)
    run, data = jensen.open(tmp_path / "run"), people()
    plain = jensen.train(
        "vae", people().drop(columns=["sex", "age"]), latents=1, epochs=40, lr=0.01, batch_size=50, **SMALL
    )
    assert run.score(data, limit=200).nats > plain.score(data.drop(columns=["sex", "age"]), limit=200).nats + 0.2
    drawn = run.sample(500, given={"sex": "m", "age": 40.0})
    other = run.sample(500, given={"sex": "f", "age": 40.0})
    assert list(drawn.columns) == list(data.columns) and (drawn["sex"] == "m").all()
    assert drawn["height"].mean() - other["height"].mean() == pytest.approx(15, abs=3)
    rows = pandas.DataFrame({"sex": ["m", "f"], "age": [30.0, 50.0]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert run.sample(given_from=tmp_path / "rows.csv")["sex"].tolist() == ["m", "f"]
    assert run.encode(data, limit=7).shape == (7, 1)
    assert run.reconstruct(data, limit=7).shape == (7, 2)
    assert run.interpolate(data, steps=3).shape == (3, 2)
    refined = run.score(data, limit=20, estimator="elbo", refine=30, particles=20)
    assert refined.nats > run.score(data, limit=20, estimator="elbo", particles=20).nats - 0.5
    assert run.diagnose(data, limit=100).to_dict()
    run._data = None
    with pytest.raises(ConfigError, match="expected values of sex, age"):
        run.sample(3)
    with pytest.raises(DataError, match="sex"):
        run.score(data.drop(columns=["sex"]))


def test_every_job_of_pictures_given_labels(tmp_path):
    """Two classes, bright above and bright below; a sample of a class is one of it."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    x = np.zeros((200, 1, 4, 4), np.uint8)
    x[y == 0, :, :2], x[y == 1, :, 2:] = 1, 1
    x ^= rng.random(x.shape) < 0.05
    schema = Schema.of_pictures((1, 4, 4), levels=2, classes=("top", "bottom"))
    data = Dataset("halves", schema, {"train": Split(x, y), "valid": Split(x[:50], y[:50]), "test": Split(x, y)})
    run = jensen.train(
        "vae", data, latents=2, conditional=True, epochs=30, batch_size=20, lr=0.01, out=tmp_path / "run", **SMALL
    )
    for label, bright in (("top", slice(0, 2)), ("bottom", slice(2, 4))):
        drawn = run.sample(100, given={"y": label})
        assert drawn[:, :, bright].mean() > 0.9 and drawn.mean() < 0.6
    assert run.reconstruct(limit=5).shape == (5, 1, 4, 4)
    assert run.interpolate(start=0, end=1, steps=3).shape == (3, 1, 4, 4)
    assert run.score(particles=10).nats > -16 * 0.3
    path = run.report()
    assert "svg" in path.read_text()
    with pytest.raises(ConfigError, match="did you mean 'top'"):
        run.sample(2, given={"y": "to"})


@pytest.mark.parametrize(
    ("schema", "settings", "told"),
    [
        (PICTURES, {"prior_given": True}, "nothing is given"),
        (PICTURES, {"prior_given": True, "conditional": True, "prior": "mixture"}, "in place of prior=mixture"),
        (Schema.of_pictures((1, 2, 2), levels=2), {"conditional": True}, "no labels to condition on"),
    ],
)
def test_what_does_not_fit_is_refused(schema, settings, told):
    with pytest.raises(ConfigError, match=told):
        build("vae", schema, settings)
