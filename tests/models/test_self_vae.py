"""The self-supervised VAE: its bound against sums over all that is hidden, views, every job, what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import jensen
from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import ConfigError, DataError
from jensen.jobs.given import infer
from jensen.objectives.estimators import elbo, importance, prior
from jensen.registry import build

PICTURES = Schema.of_pictures((1, 2, 2), levels=2)
SMALL = {"encoder.width": 8, "decoder.width": 8}


def made(schema: Schema = PICTURES, seed: int = 3, scale: float = 0.2, **settings) -> Model:
    with seeded(seed):
        model = build("self-vae", schema, {"latents": 1, "details": 1, **SMALL, **settings}).double().eval()
        with torch.no_grad():
            for joint, size in ((model.p, scale), (model.q, 0.05)):  # q stays near N(0, I), from which weights are even
                for p in joint.parameters():
                    p.add_(size * torch.randn_like(p))
    return model


def all_pictures() -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4).reshape(-1, 1, 2, 2)


def points(most: float, count: int) -> tuple[Tensor, float]:
    """So many points of a line, (count, 1, 1, 1), and the logarithm of the distance between them."""
    line = torch.linspace(-most, most, count, dtype=torch.float64).reshape(-1, 1, 1, 1)
    return line, math.log(2 * most / (count - 1))


def exact(model: Model) -> tuple[Tensor, Tensor]:
    """log p(x) of all sixteen pictures, and log p(x, v(x)), by sums over y and fine grids of u and z."""
    x, (u, of_u), (z, of_z) = all_pictures(), points(7, 281), points(30, 1201)
    log_u = model.p["u"].module().log_prob(u) + of_u
    own = model.q["y1"].module(x)
    total, joint = [], torch.empty(len(x), dtype=torch.float64)
    for value in (0.0, 1.0):
        y = torch.full_like(u, value)
        log_y = model.p["y1"].module(u).log_prob(y)  # (U,)
        log_z = model.p["z1"].module(y, u).log_prob(z.unsqueeze(1).expand(-1, len(u), -1, -1, -1)) + of_z  # (Z, U)
        weight = (log_z + (log_y + log_u)).logsumexp(1)  # (Z,): u is no parent of x
        head = model.p["x"].module(torch.full_like(z, value), z)
        log_x = torch.stack([head.log_prob(one) for one in x], 1)  # (Z, 16)
        both = (weight[:, None] + log_x).logsumexp(0)
        total.append(both)
        mine = own.flatten() == value
        joint[mine] = both[mine]
    return torch.stack(total).logsumexp(0).detach(), joint.detach()


def test_the_bound_is_below_the_likelihood_of_a_picture_with_its_view():
    """Σ_x p(x) = 1; importance weighting finds p(x, v(x)), the prior p(x); the ELBO is below both."""
    model, x = made(), all_pictures()
    truth, joint = exact(model)
    assert truth.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert (joint < truth).all()
    assert (truth - joint).max() > 0.2  # other views do explain these pictures
    found = importance(model, {"x": x}, 4000)
    assert ((found.rows - joint).abs() < 5 * found.variance.sqrt() + 1e-6).all()
    naive = prior(model, {"x": x}, 20_000)
    assert ((naive.rows - truth).abs() < 5 * naive.variance.sqrt() + 1e-6).all()
    low = elbo(model, {"x": x}, 200)
    assert (low.rows < joint + 4 * low.variance.sqrt()).all()
    assert model.likelihood == "lower_bound"


def test_samples_have_their_probabilities():
    model = made()
    truth, _ = exact(model)
    with seeded(0), torch.no_grad():
        drawn = model.sample(20_000)["x"].flatten(1)
    counts = torch.bincount((drawn @ torch.tensor([8.0, 4, 2, 1]).double()).long(), minlength=16)
    expected = 20_000 * truth.exp()
    assert (expected > 5).all()
    assert (((counts - expected) ** 2 / expected).sum() < 37.7).item()  # the 0.999 quantile, 15 degrees of freedom


def test_given_a_view_pictures_follow_q_and_then_p():
    """x given y has probability ∫ q(u | y) p(z | y, u) p(x | y, z), found on grids."""
    model, x, (u, of_u), (z, of_z) = made(seed=5), all_pictures(), points(10, 401), points(30, 1201)
    for value in (0.0, 1.0):
        y = torch.full((20_000, 1, 1, 1), value, dtype=torch.float64)
        with seeded(1), torch.no_grad():
            values = model.sample(len(y), infer(model, {"y1": y}))
            log_u = model.q["u"].module(y[:1]).log_prob(u) + of_u
            normal = model.p["z1"].module(y[: len(u)], u)
            log_z = normal.log_prob(z.unsqueeze(1).expand(-1, len(u), -1, -1, -1)) + of_z
            head = model.p["x"].module(y[: len(z)], z)
            log_x = torch.stack([head.log_prob(one) for one in x], 1)
            p = ((log_z + log_u).logsumexp(1)[:, None] + log_x).logsumexp(0).exp()
        assert p.sum().item() == pytest.approx(1, abs=1e-6)
        assert (values["y1"] == value).all()
        counts = torch.bincount((values["x"].flatten(1) @ torch.tensor([8.0, 4, 2, 1]).double()).long(), minlength=16)
        expected = 20_000 * p
        assert (expected > 5).all()
        assert (((counts - expected) ** 2 / expected).sum() < 37.7).item()


def test_without_details_a_picture_hangs_on_its_view_alone():
    model = made(details=0)
    assert str(model.p) == "(u) (y1 | u) (x | y1)"
    assert str(model.q) == "(y1 | x) (u | y1)"
    e = model.evidence({"x": all_pictures()}, 3)
    torch.testing.assert_close(e.log_p["x"], e.log_p["x"][:1].expand(3, -1))


def test_views_of_views():
    """y2 is the view of y1; each level has a term of its own, and q infers z from where it is added."""
    schema = Schema.of_pictures((3, 12, 9), levels=256)
    model = build("self-vae", schema, {"depth": 2, "view": "sketch", "coarser.factor": 3, "latents": 4, **SMALL})
    assert str(model.p) == "(u) (y2 | u) (z2 | y2, u) (y1 | y2, z2) (z1 | y1, z2) (x | y1, z1)"
    assert str(model.q) == "(y1 | x) (y2 | y1) (u | y2) (z2 | y1, y2) (z1 | x, y1)"
    x = torch.randint(0, 256, (4, 3, 12, 9)).float()
    e = model.evidence({"x": x}, 2)
    assert e.values["y1"].shape == (4, 1, 12, 9) and e.values["y2"].shape == (4, 1, 4, 3)
    assert set(e.values["y1"].unique().tolist()) <= {0.0, 1.0}
    assert e.log_w.shape == (2, 4) and torch.isfinite(e.log_w).all()
    drawn = model.sample(5)
    assert drawn["x"].shape == (5, 3, 12, 9)
    from_y2 = infer(model, {"y2": e.values["y2"]})
    assert set(from_y2) == {"y2", "u"}
    from_y1 = infer(model, {"y1": e.values["y1"]})
    assert set(from_y1) == {"y1", "y2", "u", "z2"}
    assert torch.equal(from_y1["y2"], e.values["y2"])


def test_warming_up_spares_only_what_is_drawn():
    """At weight 0 the loss is −log p(x | y, z) − log p(y | u): a view is data, and to be learned from the start."""
    model, x = made(objective={"name": "elbo", "warmup": 0.5}), all_pictures()
    (phase,) = model.objective.stages[0].phases
    with seeded(4):
        loss = phase.loss(model, {"x": x}, 0.0).loss
    with seeded(4):
        e = model.evidence({"x": x})
    torch.testing.assert_close(loss, -(e.log_p["x"] + e.log_p["y1"]).mean())


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    """Grey pictures of two flat halves with fine noise: what is large is in the view, what is fine is not."""
    rng = np.random.default_rng(0)
    low = rng.integers(40, 200, (300, 1, 2, 2))
    x = np.clip(low.repeat(4, 2).repeat(4, 3) + rng.integers(-20, 21, (300, 1, 8, 8)), 0, 255).astype(np.uint8)
    schema = Schema.of_pictures((1, 8, 8), levels=256)
    return Dataset("blocks", schema, {"train": Split(x[:200]), "valid": Split(x[200:240]), "test": Split(x[240:])})


@pytest.fixture(scope="module")
def run(blocks, tmp_path_factory):
    out = tmp_path_factory.mktemp("self-vae") / "run"
    options = {"latents": 4, "details": 2, "view.factor": 4, "encoder.width": 16, "decoder.width": 16}
    return jensen.train("self-vae", blocks, out=out, epochs=60, batch_size=20, lr=0.005, **options)


def test_it_enlarges_what_it_is_given(run, blocks, tmp_path):
    """From views of test pictures it draws pictures whose views are near those given, far nearer than any others."""
    x = blocks.split("test").x[:20]
    view = run.model.q["y1"].module
    y = view(torch.from_numpy(x).float()).numpy().astype(np.uint8)
    np.savez(tmp_path / "small.npz", X=y)
    drawn = run.sample(given_from=tmp_path / "small.npz")
    assert drawn.shape == x.shape and drawn.dtype == np.uint8
    again = view(torch.from_numpy(drawn).float()).numpy()
    error = np.abs(again - y.astype(float)).mean()
    other = np.abs(again[::-1] - y.astype(float)).mean()
    assert error < 12 and error < other / 3
    twice = run.sample(40, given_from=y)
    assert len(twice) == 40 and not np.array_equal(twice[:20], twice[20:])
    mean = run.sample(given_from=y, mean=True)
    assert np.abs(mean - x).mean() < np.abs(drawn.astype(float) - x).mean()


def test_data_come_back_from_their_view_alone(run, blocks):
    whole = run.reconstruct(limit=20)
    alone = run.reconstruct(limit=20, only="y1")
    x = blocks.split("test").rows(run.pick(blocks.split("test"), 20)).x.astype(float)
    unknown = run.reconstruct(limit=20, only="u", mean=False)
    assert np.abs(alone - x).mean() < 16  # the noise itself is 10 on average
    assert np.abs(whole - x).mean() < np.abs(alone - x).mean() + 1
    assert unknown.shape == x.shape and unknown.dtype == np.uint8
    with pytest.raises(ConfigError, match="did you mean 'y1'"):
        run.reconstruct(limit=2, only="y")
    with pytest.raises(ConfigError, match="--only: top4: self-vae infers 3: "):
        run.reconstruct(limit=2, only="top4")


def test_whole_pictures_are_viewed_first(run, blocks):
    x = blocks.split("test").x[:4]
    y = run.model.q["y1"].module(torch.from_numpy(x).float()).numpy().astype(np.uint8)
    np.testing.assert_array_equal(run.sample(given_from=x, seed=2), run.sample(given_from=y, seed=2))


def test_every_job(run, tmp_path):
    score = run.score(particles=8, limit=30)
    assert score.kind == "lower_bound" and score.bits_per_dim < 7.5  # 6.9 at best: fine noise of 41 levels is 5.4
    assert run.encode(limit=3).shape == (3, 4 + 4 + 2 * 4)
    assert run.interpolate(steps=3).shape == (3, 1, 8, 8)
    page = run.report(tmp_path / "report.html").read_text()
    assert "From a view" in page
    assert run.diagnose(limit=40).to_dict()
    again = jensen.open(run.folder.path)
    again._data = run._data
    assert torch.equal(again.score(particles=8, limit=30).rows, score.rows)


@pytest.mark.parametrize(
    ("pictures", "told"),
    [
        (
            np.zeros((3, 1, 4, 4), np.uint8),
            r"expected pictures of 1 x 2 x 2 \(y1\), or whole pictures of 1 x 8 x 8, got 1 x 4 x 4",
        ),
        (np.zeros((3, 5)), r"got 5"),
    ],
)
def test_other_pictures_are_refused(run, pictures, told):
    with pytest.raises(DataError, match=told):
        run.sample(given_from=pictures)


def test_sketches_are_read_as_levels_or_as_black_and_white():
    schema = Schema.of_pictures((1, 4, 4), levels=256)
    x = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    data = Dataset("x", schema, {"train": Split(x)})
    run = jensen.train("self-vae", data, epochs=1, view="sketch", latents=2, details=1, **SMALL)
    edges = np.random.default_rng(1).integers(0, 2, (5, 1, 4, 4), dtype=np.uint8)
    np.testing.assert_array_equal(run.sample(given_from=edges), run.sample(given_from=edges * 255))
    with pytest.raises(DataError, match=r"expected values 0\.\.1, got 0\.\.100"):
        run.sample(given_from=edges * 100)


@pytest.mark.parametrize(
    ("schema", "settings", "told"),
    [
        (Schema.of_table(np.zeros((3, 2)), ["a", "b"]), {}, "whole levels"),
        (PICTURES, {"depth": 3}, "one pixel"),
        (PICTURES, {"view": "grey"}, "colour"),
        (PICTURES, {"objective": "beta-tcvae"}, "one hidden variable"),
        (PICTURES, {"encoder": "rnn"}, "reads a row"),
        (PICTURES, {"prior": "bernoulli"}, "different sets"),
    ],
)
def test_what_does_not_fit_is_refused(schema, settings, told):
    with pytest.raises(ConfigError, match=told):
        build("self-vae", schema, settings)


def test_vamp_starts_from_views():
    """Pseudo-inputs of p(u) live where views do."""
    x = torch.full((6, 1, 4, 4), 200.0)
    schema = Schema.of_pictures((1, 4, 4), levels=256)
    model = build("self-vae", schema, {"prior": "vamp", "prior.components": 3, "latents": 2, **SMALL})
    model.initialize({"x": x})
    assert model.p["u"].module.pseudo_inputs.shape == (3, 1, 2, 2)
    assert (model.p["u"].module.pseudo_inputs == 200).all()


def test_capacity_is_of_what_is_drawn():
    """The view is a function of the datum: what it costs stands with the reconstruction, outside of |KL − C|."""
    model = made(objective="capacity", **{"objective.capacity": 5.0, "objective.gamma": 10.0, "objective.warmup": 0.0})
    (phase,) = model.objective.stages[0].phases
    x = all_pictures()
    with seeded(0):
        terms = phase.loss(model, {"x": x}, 1.0)
    with seeded(0):
        e = model.evidence({"x": x})
    drawn = sum(e.kl(name) for name in ("u", "z1")).mean()
    told = (e.log_p["x"] + e.log_p["y1"]).mean()
    assert terms.loss.item() == pytest.approx((10 * (drawn - 5).abs() - told).item(), rel=1e-9)
    assert terms.logged["elbo"].item() == pytest.approx((told - drawn).item(), rel=1e-9)
