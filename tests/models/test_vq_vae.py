"""Vector-quantised models: bounds and bits by enumeration, the two stages, and what jobs make of codes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jensen.core import Joint, Model, evidence, seeded
from jensen.data import Dataset, Schema, Split, TensorSplit
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.jobs.train_prior import train_prior
from jensen.nets.causal import SequenceNet
from jensen.objectives.estimators import elbo, prior
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer

TINY: dict[str, Any] = {
    "encoder": "linear",
    "decoder": "linear",
    "quantizer.codes": 3,
    "quantizer.width": 2,
    "prior.width": 4,
    "prior.layers": 2,
    "prior.hidden": 4,
}
ONE = {**TINY, "halvings": 0}
TWO = {**TINY, "halvings": 0, "features": 3}
MODELS = {"vqvae": ONE, "vqvae2": TWO}
every_model = pytest.mark.parametrize("name", MODELS)


def bars(n: int, size: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of one lit row, which is the label, with some noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, size, n)
    x = (rng.random((n, 1, size, size)) < 0.05).astype(np.uint8)
    x[np.arange(n), 0, y] = 1
    return x, y


def dataset(size: int = 4, labels: bool = False) -> Dataset:
    (x, y), (xt, yt) = bars(200, size), bars(60, size, 1)
    classes = [str(i) for i in range(size)] if labels else None
    schema = Schema.of_pictures((1, size, size), levels=2, classes=classes)
    return Dataset(
        "bars", schema, {"train": Split(x, y if labels else None), "test": Split(xt, yt if labels else None)}
    )


def shaken(name: str, shape: tuple[int, int, int] = (1, 2, 2), **settings: Any) -> Model:
    with seeded(4):
        model = build(name, Schema.of_pictures(shape, levels=2), {**MODELS[name], **settings}).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.7 * torch.randn_like(parameter))
    return model


def all_codes(model: Model) -> dict[str, Tensor]:
    """Every choice of codes there is, by name, (M, *shape)."""
    shapes = {name: model.p[name].module.explained for name in model.codes}  # pyright: ignore
    sizes = [math.prod(shape) for shape in shapes.values()]  # pyright: ignore
    rows = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * sum(sizes))
    parts = rows.split(sizes, 1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}  # pyright: ignore


@torch.no_grad()
def enumerated(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, k) of each datum and choice of codes, and log p(k), (B, M) and (M,)."""
    codes, rows, log_p_codes = all_codes(model), [], torch.zeros(0)
    m = len(next(iter(codes.values())))
    for datum in x:
        e = evidence(model.p, Joint(), {"x": datum.expand(m, *datum.shape), **codes})
        rows.append(e.log_w[0])
        log_p_codes = torch.stack([e.log_p[name][0] for name in model.codes]).sum(0)
    return torch.stack(rows), log_p_codes


@every_model
def test_the_score_is_a_term_of_the_sum_over_all_codes(name):
    """Σ_k p(k) = 1; the bound is log p(x, k) of q's codes, below log p(x) = log Σ_k p(x, k); draws of p(k) agree."""
    model = shaken(name)
    x = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 4).reshape(-1, 1, 2, 2)
    joint, codes = enumerated(model, x)
    assert codes.logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    exact = joint.logsumexp(1)
    assert exact.logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    bound = elbo(model, {"x": x}).rows
    assert (bound < exact).all()
    torch.testing.assert_close((joint - bound[:, None]).abs().amin(1), torch.zeros(len(x), dtype=torch.float64))
    with seeded(0):
        drawn = prior(model, {"x": x}, 4000)
    assert ((drawn.rows - exact).abs() < 5 * drawn.variance.sqrt() + 1e-3).all()


@every_model
def test_ancestral_samples_have_the_probabilities_of_the_sum(name):
    model, n = shaken(name), 4000
    x = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 4).reshape(-1, 1, 2, 2)
    p = enumerated(model, x)[0].logsumexp(1).exp()
    with seeded(1), torch.no_grad():
        drawn = model.sample(n)["x"]
    share = (drawn[:, None] == x).flatten(2).all(-1).double().mean(0)
    assert ((share - p).abs() < 4.5 * (p * (1 - p) / n).sqrt() + 1e-3).all()


@every_model
def test_untrained_codes_are_uniform(name):
    """Before the second stage log p(k) = −G log K, and densities that take no pass are those of the pass."""
    with seeded(0):
        model = build(name, Schema.of_pictures((1, 4, 4), levels=2), MODELS[name])
    x = torch.from_numpy(bars(7)[0]).float()
    with torch.no_grad():
        found = model.evidence({"x": x})
    passed = model.evidence({"x": x})  # with gradients all passes are made
    for code in model.codes:
        cells = math.prod(model.p[code].module.explained)  # pyright: ignore
        expected = torch.full((1, 7), -cells * math.log(3))
        torch.testing.assert_close(found.log_p[code], expected)
        torch.testing.assert_close(passed.log_p[code].detach(), expected)


@pytest.fixture(scope="module", params=MODELS)
def run(request) -> Run:
    settings = {**MODELS[request.param], "quantizer.codes": 6, "prior.width": 8}
    return train(request.param, dataset(), settings=settings, epochs=60, batch_size=20, lr=0.01, share=0.4)


def test_two_stages_share_the_budget(run):
    """The first leaves the prior as it is, and the second all else; what is monitored goes on where it was."""
    codes, priors = ([line for line in run.log if line["stage"] == stage] for stage in ("codes", "prior"))
    assert codes[-1]["epoch"] == 24
    assert priors[-1]["epoch"] == 36
    uniform = {n: math.prod(run.model.p[n].module.explained) * math.log(6) for n in run.model.codes}  # pyright: ignore
    for line in codes:
        for name, nats in uniform.items():
            assert line["valid"][f"kl_{name}"] == pytest.approx(nats, rel=1e-5)
        total = line["valid"]["reconstruction"] - sum(uniform.values())
        assert line["valid"]["elbo"] == pytest.approx(total, rel=1e-5)
        assert line["train"]["elbo"] == pytest.approx(line["train"]["reconstruction"] - sum(uniform.values()), rel=1e-5)
    kept = max(codes, key=lambda line: line["valid"]["elbo"])["valid"]
    for line in priors:
        assert line["valid"]["reconstruction"] == pytest.approx(kept["reconstruction"], rel=1e-5)
        for name in uniform:
            assert line["valid"][f"use_{name}"] == pytest.approx(kept[f"use_{name}"])
    assert priors[-1]["valid"]["elbo"] > kept["elbo"] + 1
    assert {f"perplexity_{n}" for n in uniform} <= codes[-1]["train"].keys() & codes[-1]["valid"].keys()


def test_scores_tell_the_bits_of_codes(run):
    score = run.score()
    assert (score.kind, score.estimator, score.particles, score.stderr_mc) == ("lower_bound", "elbo", 1, 0.0)
    assert score.code_bits is not None
    x = run.schema.prepare(run.data().split("test").x)
    with torch.no_grad():
        log_p = {name: value.mean().item() for name, value in run.model.evidence({"x": x}).log_p.items()}
    for name, bits in score.code_bits.items():
        assert bits["bits"] == pytest.approx(-log_p[name] / math.log(2), rel=1e-5)
        assert bits["uniform_bits"] == pytest.approx(bits["cells"] * math.log2(6))
        assert bits["bits"] < bits["uniform_bits"]
    assert "bits of it the codes" in str(score)
    with pytest.raises(CapabilityError, match="only codes"):
        run.score(estimator="iw")


def test_codes_as_numbers_and_as_vectors(run):
    x = run.schema.prepare(run.data().split("test").x)
    with torch.no_grad():
        values = run.model.evidence({"x": x}).values
    numbers, vectors = run.encode(codes=True), run.encode()
    assert numbers.dtype == np.int64
    found = torch.cat([values[name].flatten(1) for name in run.model.codes], 1)
    np.testing.assert_array_equal(numbers, found.numpy())
    found = torch.cat([values[name.replace("k", "e", 1)].flatten(1) for name in run.model.codes], 1)
    np.testing.assert_allclose(vectors, found.numpy(), rtol=1e-6)


def test_paths_lead_from_code_to_code(run):
    """They end at the two reconstructions, and what lies between is decoded from codes of the codebook."""
    path, back = run.interpolate(start=3, end=8, steps=7), run.reconstruct()
    np.testing.assert_allclose(path[0], back[3], atol=1e-5)
    np.testing.assert_allclose(path[-1], back[8], atol=1e-5)
    assert len(np.unique(path.reshape(7, -1), axis=0)) > 1
    with pytest.raises(CapabilityError, match="discrete codes"):
        run.interpolate(start=3, end=8, how="geodesic")


def test_samples_are_like_the_data(run):
    """One lit row, the rest dark, in most of them: the prior has learned how codes go together."""
    lit = run.sample(200, seed=1)[:, 0].mean(2) > 0.7
    assert (lit.sum(1) == 1).mean() > 0.7


def test_dead_codes_are_told(run):
    (found,) = [f for f in run.diagnose().findings if f.name == "dead codes"]
    for name, level in found.evidence.items():
        used = np.unique(run.encode(codes=True)).size if len(run.model.codes) == 1 else None
        assert used is None or level["dead"] == 6 - used
        assert level["use"] == pytest.approx(1 - level["dead"] / 6)
        assert f"{name}: " in found.sentence


def test_few_data_cannot_tell_dead_codes(run):
    (found,) = [f for f in run.diagnose(limit=2).findings if f.name == "dead codes"]
    assert found.ok and not found.evidence
    assert "too few to tell which of 6 codes are dead" in found.sentence


def test_a_dead_codebook_is_a_fault():
    run = train("vqvae", dataset(), settings={**ONE, "quantizer.codes": 6}, epochs=1)
    with torch.no_grad():
        run.model.q["k"].module.quantizer.vectors[2:] = 1e4  # pyright: ignore
    (found,) = [f for f in run.diagnose().findings if f.name == "dead codes"]
    assert not found.ok
    assert found.evidence["k"]["dead"] >= 4


def test_codes_are_drawn_given_labels():
    """Trained on labelled bars, samples of a label have their lit row there; so has the second level of two."""
    for name, settings in MODELS.items():
        settings = {**settings, "halvings": 1, "quantizer.codes": 8, "prior.width": 8, "conditional": True}
        run = train(name, dataset(labels=True), settings=settings, epochs=40, batch_size=20, lr=0.02)
        for row in range(4):
            x = run.sample(50, given={"y": str(row)}, seed=2)
            assert (x[:, 0].mean(2).argmax(1) == row).mean() > 0.7


def test_finite_scalars_and_a_transformer():
    settings = {"encoder": "linear", "decoder": "linear", "halvings": 1, "quantizer": "finite-scalar"}
    settings |= {"quantizer.levels": [3, 2], "prior": "transformer", "prior.width": 8, "prior.layers": 1}
    run = train("vqvae", dataset(), settings=settings, epochs=40, batch_size=20, lr=0.01)
    assert run.encode(codes=True).shape == (60, 4)
    assert run.encode(codes=True).max() < 6
    score = run.score()
    assert score.code_bits is not None
    assert score.code_bits["k"]["bits"] < score.code_bits["k"]["uniform_bits"]


def test_rows_of_tables_have_codes_too():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 1)) @ rng.normal(size=(1, 3)) + 0.2 * rng.normal(size=(300, 3))
    data = Dataset("table", Schema.of_table(rows, ["a", "b", "c"]), {"train": Split(rows), "test": Split(rows[:50])})
    settings = {"encoder": "mlp", "decoder": "mlp", "prior": "transformer", "prior.width": 8, "cells": 2}
    run = train("vqvae", data, settings={**settings, "quantizer.codes": 8, "quantizer.width": 2}, epochs=40, lr=0.01)
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
    assert run.score().nats > gaussian.log_prob(torch.from_numpy(rows[:50]).float()).mean()
    assert run.sample(5).shape == (5, 3)


def test_any_size_of_picture_and_colour():
    """Odd sizes are halved and doubled by convolutions; two levels are one halving apart."""
    settings = {"encoder.channels": [8], "decoder.channels": [8], "quantizer.codes": 4, "quantizer.width": 3}
    for name, shapes in {"vqvae": [(4, 3)], "vqvae2": [(4, 3), (7, 5)]}.items():
        model = build(name, Schema.of_pictures((3, 13, 9), levels=256), settings)
        x = torch.randint(0, 256, (2, 3, 13, 9)).float()
        with torch.no_grad():
            e = model.evidence({"x": x})
        assert [tuple(e.values[code].shape) for code in model.codes] == [(2, 1, *shape) for shape in shapes]
        assert torch.isfinite(e.elbo()).all()


def test_what_does_not_fit_is_refused():
    picture, table = Schema.of_pictures((1, 4, 4), levels=2), Schema.of_table(np.eye(3), ["a", "b", "c"])
    with pytest.raises(ConfigError, match="takes numbers"):
        build("vqvae", picture, {"encoder": "linear", "decoder": "linear", "prior": "made"})
    with pytest.raises(ConfigError, match="expected pictures"):
        build("vqvae", table, {"encoder": "mlp", "decoder": "mlp"})
    with pytest.raises(ConfigError, match="for other data take vqvae"):
        build("vqvae2", table)


def test_another_prior_is_fitted_to_codes(tmp_path):
    """All else stays as it is; where priors hang on one another they are trained together or not at all."""
    settings = {**ONE, "halvings": 1, "quantizer.codes": 6}
    old = train("vqvae", dataset(), out=tmp_path / "old", settings=settings, epochs=4, lr=0.01)
    new = train_prior(old, "transformer", out=tmp_path / "new", settings={"prior.width": 8}, epochs=20, lr=0.01)
    assert isinstance(new.model.p["k"].module.network, SequenceNet)  # pyright: ignore
    np.testing.assert_array_equal(new.encode(dataset(), codes=True), old.encode(dataset(), codes=True))
    bits = new.score(dataset()).code_bits
    assert bits is not None
    assert bits["k"]["bits"] < 0.8 * bits["k"]["uniform_bits"]
    two = train("vqvae2", dataset(), settings=TWO, epochs=2)
    with pytest.raises(CapabilityError, match="several parts"):
        train_prior(two, "transformer")


def test_a_step_that_is_not_finite_leaves_the_codebook():
    """A codebook that follows its data does not follow what is not finite, and is looked at before a state is saved."""
    model = shaken("vqvae", quantizer="ema").train()
    (phase,) = model.objective.stages[0].phases
    before = {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}
    x = torch.ones(4, 1, 2, 2, dtype=torch.float64)
    phase.loss(model, {"x": torch.full_like(x, math.nan)}, 0.5)
    for name, buffer in model.named_buffers():
        if name in before:
            torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)
    trainer = Trainer(model, TensorSplit(x), None, training_settings({"epochs": 1}))
    assert trainer._not_finite_parameter() is None
    name = next(n for n, b in model.state_dict().items() if n.endswith("vectors"))
    model.state_dict()[name].fill_(math.nan)
    assert trainer._not_finite_parameter() == name
