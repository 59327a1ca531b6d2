"""Models made sick on purpose: each illness is found, and a healthy model raises nothing."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pandas
import pytest
import torch
from scipy.stats import multivariate_normal
from tests.objectives.linear import Linear

import jensen
from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.data.text_tokens import Tokens
from jensen.distributions import DiagonalNormal
from jensen.errors import DataWarning
from jensen.jobs import latent_health
from jensen.jobs.diagnose import diagnose
from jensen.jobs.hole_health import apart, holes, mmd_test
from jensen.jobs.latent_health import Effort, effort, gaps, mutual_information, overfitting_apart
from jensen.jobs.run import Run
from jensen.objectives.estimators import row_bytes
from jensen.objectives.kernels import several_scales, typical_square
from jensen.objectives.refinement import PerDatum
from jensen.registry import build

DIMS, LATENTS, SCALE = 6, 2, 0.5
UNIT = Schema.of_table(np.array([[-1.0] * DIMS, [1.0] * DIMS]), list("abcdef"))  # columns are taken as they are


@functools.cache
def loadings() -> torch.Tensor:
    with seeded(3):
        return torch.linalg.qr(torch.randn(DIMS, LATENTS))[0] * torch.tensor([2.0, 1.5])


def data(n: int, seed: int = 4) -> torch.Tensor:
    with seeded(seed):
        return torch.randn(n, LATENTS) @ loadings().T + SCALE * torch.randn(n, DIMS)


def linear_vae(stretch: float = 1.0, kept: float = 1.0):
    """The model that the data come from, with its posterior, μ(x) times `stretch`.

    With `kept` = 0 the code says nothing, and the decoder does not listen.
    """
    fixed = {"name": "gaussian", "variance": "fixed", "scale": SCALE}
    settings = {"latents": LATENTS, "encoder": "linear", "decoder": "linear", "likelihood": fixed}
    model, w = build("vae", UNIT, settings), loadings()
    precision = w.T @ w / SCALE**2 + torch.eye(LATENTS)  # diagonal, as the columns of w are orthogonal
    decoder, encoder = model.p["x"].module.network.output, model.q["z"].module.network.output
    sigma = precision.diagonal().rsqrt() if kept else torch.ones(LATENTS)
    with torch.no_grad():
        decoder.weight.copy_(w * kept)
        decoder.bias.zero_()
        encoder.weight.zero_()
        encoder.weight[:LATENTS] = kept * stretch * torch.linalg.inv(precision) @ w.T / SCALE**2
        encoder.bias.zero_()
        raw = encoder.bias[LATENTS:]
        for _ in range(60):  # the head's own map from raw numbers to σ, inverted by Newton's method on differences
            x = torch.zeros(1, DIMS)
            now = model.q["z"].module(x).scale[0]
            raw += (sigma.log() - now.log()).clamp(-0.5, 0.5)
    torch.testing.assert_close(model.q["z"].module(torch.zeros(1, DIMS)).scale[0], sigma, rtol=1e-3, atol=1e-4)
    return model.eval()


def findings(model, x, train=None):
    splits = {"test": Split(x.double().numpy())}
    if train is not None:
        splits["train"] = Split(train.double().numpy())
    run = Run({"model": "vae"}, UNIT, model, None, [], Dataset("made", UNIT, splits))
    return {f.name: f for f in diagnose(run, limit=None).findings}


def test_a_healthy_model_raises_nothing():
    found = findings(linear_vae(), data(1000), data(1000, 5))
    assert {"posterior collapse", "holes", "inference gap", "overfitting"} <= set(found)
    assert [name for name, f in found.items() if not f.ok] == []


def test_collapse_is_found():
    found = findings(linear_vae(kept=0.0), data(500))["posterior collapse"]
    assert not found.ok and found.evidence["active_units"] == 0
    assert found.evidence["layers"]["z"]["mutual_information"] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("stretch", [0.4, 2.5])
def test_holes_are_found_where_codes_do_not_fill_the_prior(stretch):
    """μ shrunk: codes near 0 only. μ stretched: codes where the prior has none."""
    found = findings(linear_vae(stretch), data(1000))["holes"]
    assert not found.ok and found.evidence["accuracy"] > 0.6 and found.evidence["mmd_p_value"] < 0.01
    assert len(found.evidence["worst"][0]) == LATENTS
    if stretch < 1:
        lengths = np.linalg.norm(found.evidence["worst"], axis=1)
        assert found.evidence["prior_mass_unreached"] > 0.1 and lengths.min() > 1.5  # outside, where no code is


def test_mutual_information_is_that_of_normals():
    """I(x; z) = ½ log det(Cov z / σ²) for the posterior of a linear model; each dimension by itself, as W's columns
    are orthogonal."""
    model, x = linear_vae(), data(1000)
    with torch.no_grad(), seeded(0):
        e = model.evidence({"x": x})
        found = mutual_information(e, "z")
    precision = (loadings().T @ loadings() / SCALE**2 + torch.eye(LATENTS)).diagonal()
    expected = 0.5 * precision.log()
    np.testing.assert_allclose(found["mutual_information_per_dimension"], expected, atol=0.08)
    assert found["mutual_information"] == pytest.approx(float(expected.sum()), abs=0.12)


def test_a_test_of_two_samples_keeps_its_level():
    """Where both come from one law, p-values are uniform: few are small, in 40 tries."""
    small = []
    for seed in range(40):
        with seeded(seed):
            x, y = torch.randn(60, 3).double(), torch.randn(60, 3).double()
            small.append(mmd_test(x, y, several_scales("imq", typical_square(y)))[1] < 0.1)
    assert sum(small) <= 11  # binomial(40, 0.1): beyond with probability 3e-4


def test_the_discrepancy_is_that_of_a_double_loop():
    with seeded(0):
        x, y = torch.randn(9, 2).double(), 3 + torch.randn(9, 2).double()
        k = several_scales("rbf", 2.0)
        found, p = mmd_test(x, y, k)
    pairs = [(i, j) for i in range(9) for j in range(9)]
    inside = sum(float(k(a[i : i + 1], a[j : j + 1])) for a in (x, y) for i, j in pairs if i != j) / 72
    across = sum(float(k(x[i : i + 1], y[j : j + 1])) for i, j in pairs) / 81
    assert found == pytest.approx(inside - 2 * across, abs=1e-12)
    assert p == 1 / 401  # of 24,310 divisions no other is so far apart


@pytest.mark.parametrize("dims", [2, 20])
def test_draws_of_one_law_are_not_told_apart(dims):
    with seeded(1):
        found = apart(torch.randn(800, dims).double(), torch.randn(800, dims).double())
    assert found.accuracy < 0.58 and found.p_value > 1e-3 and found.unreached < 0.05


def test_accuracy_is_at_most_that_of_the_best_classifier():
    """Of N(0, 1) and N(1, 1): Φ(½)."""
    with seeded(2):
        found = apart(torch.randn(2000, 1).double() + 1, torch.randn(2000, 1).double())
    best = float(multivariate_normal.cdf(0.5))
    assert best - 0.05 < found.accuracy < best + 4 * (best * (1 - best) / found.n) ** 0.5


def test_who_overfits_is_told():
    """A decoder that knows sixty rows by heart, and an encoder that does, beside a decoder that is true."""
    splits = {"train": Split(data(60).double().numpy()), "test": Split(data(100, 9).double().numpy())}
    settings = {"latents": 6, "encoder.hidden": [200], "decoder.hidden": [200], "objective.warmup": 0.0}
    run = jensen.train("vae", Dataset("made", UNIT, splits), settings=settings, epochs=1500, lr=3e-3, keep="last")
    train, test = (run.tensors(run.data().split(part)) for part in ("train", "test"))
    parts = overfitting_apart(run.model, train.take(slice(None)), test.take(slice(None)))
    assert parts["decoder"] > 3 * parts["decoder_stderr"] > 0

    model = linear_vae()
    seen, unseen = {"x": data(100, 7)}, {"x": data(100, 8)}
    model.q["z"].module.network = _ByHeart(model.q["z"].module.network, seen["x"])
    parts = overfitting_apart(model, seen, unseen)
    assert parts["encoder"] > 3 * parts["encoder_stderr"] > 0
    assert abs(parts["decoder"]) < 4 * parts["decoder_stderr"]


class _ByHeart(torch.nn.Module):
    """An encoder that is right for rows it knows, and for others off by one standard deviation of the prior."""

    def __init__(self, network: torch.nn.Module, known: torch.Tensor):
        super().__init__()
        self.network, self.known = network, known

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        off = (torch.cdist(x, self.known).amin(1) > 1e-3).to(x.dtype)[:, None]
        shift = torch.zeros(2 * LATENTS)
        shift[:LATENTS] = 1.0
        return self.network(x) + off * shift


def test_the_gaps_are_those_of_normals_and_sum_to_the_whole():
    """z ~ N(0, I), x | z ~ N(W z, I): the best diagonal q has μ and 1/Λ_dd of the posterior N(μ, Λ⁻¹), and its ELBO is
    ½ (Σ log Λ_dd − log det Λ) below log p(x). An encoder five nats below log p(x) is given."""
    w = torch.tensor([[1.5, 0.6], [0.3, 1.2], [0.5, 0.6]], dtype=torch.float64)
    precision, x = w.T @ w + torch.eye(2), torch.randn(30, 3, dtype=torch.float64)
    log_p = multivariate_normal(np.zeros(3), (w @ w.T + torch.eye(3)).numpy()).logpdf(x.numpy())
    wide = precision.diagonal().rsqrt().double()

    class Free(torch.nn.Module):
        def forward(self, mean: torch.Tensor) -> DiagonalNormal:
            return DiagonalNormal(mean, wide)

    p = Joint({"z": Normal((2,)).double(), "x | z": Linear(w.tolist(), [1.0, 1.0, 1.0])})
    own = PerDatum(Model(p, Joint({"z | parameters_of_z": Free()})), {})
    best = {"x": x, "parameters_of_z": x @ w @ torch.linalg.inv(precision)}
    found = gaps(own, best, torch.from_numpy(log_p - 5), Effort(data=30, draws=3000, particles=3000))
    lost = float(0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)))
    assert lost > 0.1
    assert found["approximation_gap"] == pytest.approx(lost, abs=0.02)
    assert found["amortization_gap"] == pytest.approx(5 - lost, abs=0.02)
    assert found["amortization_gap"] + found["approximation_gap"] == pytest.approx(5, abs=0.02)


def test_large_models_are_looked_at_with_less(monkeypatch):
    """Fewer data, particles and draws, in proportion to what a row's walk puts out; below some, no search at all."""
    schema = Schema.of_pictures((1, 4, 4), levels=2)
    small, large = (build("vae", schema, {"decoder.hidden": [size]}).eval() for size in (16, 6000))
    batch = {"x": torch.zeros(1000, 1, 4, 4)}
    assert row_bytes(large, batch) > 8 * row_bytes(small, batch)
    monkeypatch.setattr(latent_health, "WORK", row_bytes(small, batch) * 1000 * 150)
    usual, less = effort(small, batch), effort(large, batch)
    affordable = 150_000 * row_bytes(small, batch) // row_bytes(large, batch)
    assert (usual.data, usual.draws, usual.particles) == (3750, 50, 100)
    assert usual.refined == 150_000 // 3600 == 41
    assert (less.data, less.draws, less.particles, less.refined) == (affordable // 40, 5, 10, 0)
    found = latent_health.inference_gap(large, batch)
    assert found is not None
    assert "would take long" in found.evidence["not_split"] and found.evidence["particles"] == 10


def test_overfitting_is_not_told_of_data_that_are_ordered():
    """The first rows of an ordered file are like one another and unlike the rest."""
    model, test = linear_vae(), data(3000, 8)
    by_size = test.square().flatten(1).sum(1).argsort()
    parts = overfitting_apart(model, {"x": data(3000, 7)}, {"x": test[by_size]})
    assert abs(parts["decoder"]) < 4 * parts["decoder_stderr"]
    first = {"x": test[by_size][: effort(model, {"x": test}).refined]}
    misled = overfitting_apart(model, {"x": data(3000, 7)}, first)
    assert misled["decoder"] < -8 * misled["decoder_stderr"]


def test_a_code_that_tells_next_to_nothing_is_not_called_well():
    """Means that move by a tenth of a standard deviation: active by their variance, and 0.01 nats each."""
    model = linear_vae(kept=0.0)
    output = model.q["z"].module.network.output
    with torch.no_grad():
        output.weight[:LATENTS] = 0.15 * loadings().T / (loadings() ** 2).sum()
        output.weight[:LATENTS] *= 0.15 / model.q["z"].module(data(500)).mean.std()
    found = findings(model, data(500))["posterior collapse"]
    assert found.evidence["active_units"] == LATENTS
    assert found.evidence["layers"]["z"]["mutual_information"] < 0.1 * LATENTS
    assert not found.ok and "next to nothing" in found.sentence


@pytest.mark.parametrize(("shift", "ok"), [(0.0, True), (3.0, False)])
def test_holes_under_conditions_are_between_codes_and_the_prior_of_the_same_conditions(shift, ok):
    """p(z | c) = N(10 c, 1), and codes that are draws of it, or beside it."""

    class At(torch.nn.Module):
        def __init__(self, scale: float, shift: float):
            super().__init__()
            self.scale, self.shift = scale, shift

        def forward(self, *parents: torch.Tensor) -> DiagonalNormal:
            mean = self.scale * parents[-1] + self.shift
            return DiagonalNormal(mean, torch.ones_like(mean))

    p = Joint({"z | c": At(10.0, 0.0), "x | z": At(1.0, 0.0)})
    model = Model(p, Joint({"z | x, c": At(10.0, shift)}))
    c = torch.arange(600.0)[:, None] % 3
    with seeded(0):
        found = holes(model, {"x": torch.zeros(600, 1), "c": c})
    assert found is not None and found.ok is ok and (found.evidence["mmd_p_value"] < 0.01) is not ok


@pytest.mark.parametrize(
    ("settings", "advised", "not_advised"),
    [
        ({"objective": {"name": "elbo", "beta": 0.1}}, "objective.beta=1", "weight"),
        ({"objective": {"name": "elbo", "beta": 4.0}}, "prior=flow", "beta"),
        ({"objective": {"name": "mmd", "weight": 200.0, "kernel": "imq"}}, "objective.weight=400", "beta"),
        ({}, "prior=flow", "objective"),
    ],
)
def test_what_helps_against_holes_is_what_the_objective_has(settings, advised, not_advised):
    with seeded(0):
        found = holes(linear_vae(stretch=4.0), {"x": data(400)}, settings)
    assert found is not None and not found.ok
    assert advised in found.try_ and not_advised not in found.try_


def test_texts_are_looked_at_no_further_than_the_longest_allows():
    """A short text in front does not stand for all: of it, nothing but its own tokens is computed."""
    schema = Schema.of_text(30, Tokens.of_characters(["abcdefgh"], True))
    hidden = {"latents": 2, "encoder": "rnn", "likelihood": "autoregressive", "likelihood.network": "rnn"}
    model = build("vae", schema, hidden).eval()
    x = torch.full((8, 30), 8.0)
    x[:, 0] = 0.0
    short = row_bytes(model, {"x": x[:1]})
    x[5, :29] = 1.0
    assert row_bytes(model, {"x": x}) > 8 * short
    assert row_bytes(model, {"x": x}) == pytest.approx(row_bytes(model, {"x": x[5:6]}), rel=0.01)


@pytest.mark.parametrize("words", [False, True], ids=["numbers", "numbers and words"])
@pytest.mark.parametrize("still", [False, True], ids=["healthy", "a column that is constant"])
def test_a_scale_that_falls_to_its_floor_is_found_and_its_column_named(still, words):
    """A constant column has no least scale but the floor: beside columns that vary, and beside one of words."""
    rng, n = np.random.default_rng(0), 400
    columns = {"height": rng.normal(size=n), "still": np.full(n, 3.0) if still else rng.normal(size=n)}
    columns |= {"name": rng.choice(["red", "green", "blue"], n)} if words else {}
    columns |= {"width": rng.normal(size=n)}
    with pytest.warns(DataWarning, match="still") if still else contextlib.nullcontext():
        run = jensen.train(
            "vae", pandas.DataFrame(columns), kinds={"still": "real"}, latents=1, epochs=60, lr=0.1, batch_size=20,
            settings={"encoder": "linear", "decoder": "linear", "likelihood": {"name": "gaussian", "min_scale": 0.1}},
        )  # fmt: skip
    found = {f.name: f for f in diagnose(run).findings}["unbounded likelihood"]
    assert found.ok is not still
    assert found.evidence["floor"] == 0.1
    if still:
        assert found.evidence["columns"] == {"still": 1.0} and found.evidence["share_at_floor"] == pytest.approx(1 / 3)
        assert found.evidence["smallest_scale"] == pytest.approx(0.1, rel=0.05)
        assert "their floor (0.1, prepared units), those of still; only the guard" in found.sentence
    else:
        assert found.evidence["columns"] == {} and found.evidence["smallest_scale"] > 0.3


def test_one_column_at_its_floor_is_a_fault_however_many_there_are():
    """One of 300 columns is a third of a per cent of the scales."""
    model = build("vae", Schema.of_table(data(20).repeat(1, 50).numpy(), [f"c{j}" for j in range(300)]), {"latents": 1})
    head, x = model.p["x"].module, torch.zeros(50, 300)
    found = latent_health.floor(model, {"x": x}, [f"c{j}" for j in range(300)])
    assert found is not None and found.ok and found.evidence["share_at_floor"] == 0
    with torch.no_grad():
        head.network.output.bias[300 + 17] = -20
    found = latent_health.floor(model, {"x": x}, [f"c{j}" for j in range(300)])
    assert found is not None and not found.ok and found.evidence["columns"] == {"c17": 1.0}
    assert found.evidence["share_at_floor"] == pytest.approx(1 / 300)


def test_a_layer_that_tells_nothing_is_a_fault_however_much_others_tell():
    schema = Schema.of_table(np.random.default_rng(0).normal(size=(50, 6)), list("abcdef"))
    with seeded(0):
        model = build("hvae", schema, {"latents": [8, 4]}).eval()
        batch = {"x": torch.randn(64, 6)}
        whole = latent_health.collapse(model, batch)
        torch.nn.init.zeros_(model.get_parameter("q.z2.network.2.weight"))  # q(z2 | z1) is the same of all z1
        dead = latent_health.collapse(model, batch)
    assert whole is not None and whole.ok and dead is not None and not dead.ok
    units = dead.evidence["layers"]["z1"]["active_units"], dead.evidence["layers"]["z2"]["active_units"]
    assert units[0] == dead.evidence["active_units"] >= dead.evidence["units"] / 2 and units[1] == 0
    assert "nothing of z2 is" in dead.sentence
