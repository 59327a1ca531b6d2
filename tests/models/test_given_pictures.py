"""Pictures as conditions: read beside data or taken from them, in every network, in every job; refused where they do
not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import jensen
from jensen.data import Dataset, describe, load_data
from jensen.errors import ConfigError, DataError
from jensen.registry import build

SMALL = {"encoder.hidden": [32], "decoder.hidden": [32]}
CONV = {"encoder": "conv", "decoder": "conv", "encoder.channels": [8], "decoder.channels": [8]}
CONV |= {"encoder.hidden": 32, "decoder.hidden": 32}


def halves(n: int, seed: int = 0) -> np.ndarray:
    """Binary pictures whose right half is the left one inverted, with a pixel in twenty flipped."""
    rng = np.random.default_rng(seed)
    left = rng.integers(0, 2, (n, 1, 6, 4), dtype=np.uint8)
    return np.concatenate([left, 1 - left], 3) ^ (rng.random((n, 1, 6, 8)) < 0.05)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_data(halves(1500), given_view="half,side=left")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("halves") / "run"
    return jensen.train("vae", data, out=out, latents=2, epochs=30, batch_size=64, lr=0.01, **SMALL)


@pytest.mark.parametrize("settings", [SMALL, CONV], ids=["mlp", "conv"])
def test_what_is_given_need_not_be_coded(data, settings):
    """The left half is 24 bits that p(x | c) is told, and p(x) has to code by itself."""
    options = {"latents": 2, "epochs": 30, "batch_size": 64, "lr": 0.01, **settings}
    plain = jensen.train("vae", load_data(halves(1500)), **options)
    given = jensen.train("vae", data, **options)
    gain = given.score(particles=20).rows - plain.score(particles=20).rows
    assert gain.mean() > 10 and gain.mean() > 5 * gain.std() / len(gain) ** 0.5  # of the 16.6 nats that there are
    assert given.score(particles=20).nats > -15  # −9.5 at best: 48 pixels of which one in twenty is flipped


def test_a_picture_is_completed_by_what_is_given(run, data):
    """Draws agree with the half that they were given, in both halves; of other halves they differ."""
    new = halves(50, seed=1)
    left = new[..., :4]
    drawn = run.sample(given_from=left)
    assert drawn.shape == new.shape
    assert (drawn[..., :4] == left).mean() > 0.8 and (drawn[..., 4:] == 1 - left).mean() > 0.8
    assert (drawn[..., :4] == left[::-1]).mean() < 0.6
    np.testing.assert_array_equal(run.sample(given_from=new), drawn)  # whole pictures are viewed first


def test_it_is_saved_and_scores_the_same(run):
    again = jensen.open(run.folder.path)
    assert again.schema == run.schema and again.schema.given_picture.view == {"name": "half", "side": "left"}
    new = halves(20, seed=2)
    assert torch.equal(again.score(new, particles=5).rows, run.score(new, particles=5).rows)
    with pytest.raises(DataError, match="as in training expected pictures"):
        again.score(np.zeros((3, 1, 6, 5), np.uint8))


def test_every_job(run, data, tmp_path):
    assert run.encode(data, limit=5).shape == (5, 2)
    assert run.reconstruct(data, limit=5).shape == (5, 1, 6, 8)
    assert run.interpolate(data, steps=3).shape == (3, 1, 6, 8)
    assert run.diagnose(data, limit=40).to_dict()
    assert run.distance(data, limit=30).n == 30
    refined = run.score(data, limit=20, estimator="elbo", refine=20, particles=20)
    assert refined.nats > run.score(data, limit=20, estimator="elbo", particles=20).nats - 0.5
    assert "conditions that it was given" in run.report(tmp_path / "report.html", data=data).read_text()


def test_resuming_ends_where_an_uninterrupted_run_does(tmp_path):
    np.save(tmp_path / "x.npy", halves(80))
    options = {"given_view": "half,side=top", "latents": 2, "epochs": 4, "batch_size": 16, **CONV}

    def interrupt(event) -> None:
        if event.epoch == 2:
            raise KeyboardInterrupt

    whole = jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "part", listener=interrupt, **options)
    part = jensen.train("vae", tmp_path / "x.npy", out=tmp_path / "part", resume=True, **options)
    assert len(part.log) == 4
    states = part.model.state_dict()
    assert all(torch.equal(value, states[name]) for name, value in whole.model.state_dict().items())


def test_pictures_come_beside_the_data(tmp_path):
    """Colour from grey, in an .npz with splits, and in one without; the digest knows what is given."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(one).convert("L").resize((4, 4))) for one in x])
    np.savez(tmp_path / "all.npz", X=x, given=grey)
    parts = {"train": slice(0, 24), "valid": slice(24, 32), "test": slice(32, 40)}
    arrays = {name: x[rows] for name, rows in parts.items()}
    np.savez(tmp_path / "parts.npz", **arrays, **{f"{name}_given": grey[rows] for name, rows in parts.items()})
    np.savez(tmp_path / "plain.npz", **arrays)
    whole, data, plain = (load_data(tmp_path / f"{name}.npz") for name in ("all", "parts", "plain"))
    assert whole.split("train").c.shape == (32, 1, 4, 4)
    np.testing.assert_array_equal(data.split("test").c[:, 0], grey[32:])
    first = whole.split("train").index[0]
    np.testing.assert_array_equal(whole.split("train").c[0, 0], grey[first])
    assert data.split("test").sha256 != plain.split("test").sha256
    assert describe(data)["given"][0]["shape"] == [1, 4, 4]
    batch = data.split("test").to(data.schema).take(torch.arange(2))
    assert torch.equal(batch["c"], torch.from_numpy(grey[32:34, None]).float())
    run = jensen.train("vae", tmp_path / "parts.npz", out=tmp_path / "run", epochs=1, latents=2, **SMALL)
    again = jensen.open(tmp_path / "run")
    assert torch.equal(again.score(particles=2).rows, run.score(particles=2).rows)
    assert again.sample(given_from=tmp_path / "all.npz").shape == (40, 3, 8, 8)
    with pytest.raises(DataError, match="expected given pictures"):
        again.score(tmp_path / "plain.npz")
    with pytest.raises(ConfigError, match=r"expected pictures of 1 x 4 x 4 that are given, as --given-from FILE"):
        again.sample(3)
    with pytest.raises(DataError, match=r"expected pictures of 1 x 4 x 4 that are given, got 3 x 8 x 8"):
        again.sample(given_from=tmp_path / "plain.npz")


def test_numbers_come_beside_pictures(tmp_path):
    rng = np.random.default_rng(0)
    level = rng.uniform(50, 200, 60)
    x = np.clip(level[:, None, None] + rng.normal(0, 5, (60, 4, 4)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "x.npz", X=x, given=level)
    run = jensen.train("vae", tmp_path / "x.npz", epochs=150, lr=0.01, latents=1, batch_size=24, **SMALL)
    assert run.schema.given_names == ["given0"]
    dark, bright = (run.sample(40, given={"given0": v}).mean() for v in (60, 190))
    assert bright - dark > 60
    assert load_data(load_data(tmp_path / "x.npz"), schema=run.schema).split("test").c.shape == (6, 1)


def test_a_table_may_be_given_a_picture(tmp_path):
    rng = np.random.default_rng(0)
    level = rng.integers(0, 256, 60)
    picture = np.broadcast_to(level[:, None, None], (60, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", X=np.stack([level + rng.normal(0, 2, 60), rng.normal(size=60)], 1), given=picture)
    run = jensen.train("realnvp", tmp_path / "x.npz", epochs=2)
    assert str(run.model.p) == "(x | c)"
    assert run.sample(5, given_from=picture).shape == (5, 2)
    assert np.isfinite(run.score().nats)


@pytest.mark.parametrize("model", ["realnvp", "pixelcnn", "made", "hvae"])
def test_other_models_take_features_of_a_picture(model, data):
    """Exact ones too: what is given moves the score of the same pictures."""
    few = {"pixelcnn": {"layers": 2}, "realnvp": {}, "made": {"hidden": [16]}, "hvae": {"latents": [3, 2]}}[model]
    run = jensen.train(model, data, epochs=1, batch_size=64, **few)
    assert run.model.context == ["c"]
    part = data.split("test")
    batch = part.to(data.schema).take(slice(0, 8))
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        torch.manual_seed(0)
        one = run.model.evidence(batch).log_w
        torch.manual_seed(0)
        other = run.model.evidence({**batch, "c": 1 - batch["c"]}).log_w
    assert not torch.allclose(one, other)
    assert run.sample(3, given_from=part.c[:3]).shape == (3, 1, 6, 8)


def test_convolutions_meet_pictures_as_planes():
    """What is given stands behind x in the encoder, and at the size of x before the decoder's last layers."""
    data = load_data(np.full((9, 3, 8, 8), 255, np.uint8), given_view="downscale,factor=4")
    model = build("vae", data.schema, {"latents": 2, **CONV})
    seen = {}
    first = next(m for m in model.q["z"].module.network.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, args: seen.update(q=args[0]))
    model.p["x"].module.network.merge.register_forward_pre_hook(lambda module, args: seen.update(p=args[0]))
    c = torch.arange(12.0).reshape(1, 3, 2, 2)
    model.evidence({"x": torch.zeros(1, 3, 8, 8), "c": c})
    planes = (c / 127.5 - 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(seen["q"][:, 3:], planes)
    torch.testing.assert_close(seen["p"][:, -3:], planes)
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    model.evidence({"x": torch.zeros(1, 3, 8, 8), "c": c}).elbo().sum().backward()
    assert silent and not [n for n, p in model.named_parameters() if p.grad is None]


def test_views_are_taken_of_what_the_model_sees():
    grey = np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4), dtype=np.uint8)
    data = load_data(grey, binarize="static", given_view="downscale")
    part = data.split("train")
    assert set(np.unique(part.x)) <= {0, 1} and set(np.unique(part.c)) <= {0, 1}
    blocks = part.x.reshape(-1, 1, 2, 2, 2, 2).sum((3, 5))
    np.testing.assert_array_equal(part.c, blocks >= 2)


@pytest.mark.parametrize(
    ("ref", "options", "told"),
    [
        (np.zeros((9, 3)), {"given_view": "downscale"}, "expected pictures, got other data"),
        (np.zeros((9, 4, 4), np.uint8), {"given_view": "downscal"}, "did you mean 'downscale'"),
        (np.zeros((9, 4, 4), np.uint8), {"given_view": "downscale,4"}, "downscale,factor=4"),
        (np.zeros((9, 4, 4), np.uint8), {"given_view": "downscale,factor=0"}, ">= 2"),
        (np.zeros((9, 4, 4), np.uint8), {"given_view": "grey"}, "colour"),
        (np.full((9, 4, 4), 7, np.uint8), {"given_view": "half", "binarize": "dynamic"}, "drawn anew"),
    ],
)
def test_views_that_cannot_be_given_are_refused(ref, options, told):
    with pytest.raises(ConfigError, match=told):
        load_data(ref, **options)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"given": np.zeros((8, 4, 4), np.uint8)}, "all: expected 9 given, one for each row, got 8"),
        ({"given": np.full((9, 4, 4), 300)}, "values 0..255"),
        ({"given": np.array(["a"] * 9)}, "expected numbers"),
    ],
)
def test_what_is_given_has_to_fit_its_rows(arrays, told, tmp_path):
    np.savez(tmp_path / "x.npz", X=np.zeros((9, 4, 4), np.uint8), **arrays)
    with pytest.raises(DataError, match=told):
        load_data(tmp_path / "x.npz")


def test_what_is_given_in_one_split_is_given_in_all(tmp_path):
    x = np.zeros((9, 4, 4), np.uint8)
    np.savez(tmp_path / "x.npz", train=x, test=x, train_given=x)
    with pytest.raises(DataError, match="got none in test"):
        load_data(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", X=x, given=x)
    with pytest.raises(ConfigError, match="name no more"):
        load_data(tmp_path / "y.npz", given_view="downscale")


def test_a_model_without_conditions_says_so(data):
    with pytest.raises(ConfigError, match="takes no conditions"):
        jensen.train("self-vae", data, epochs=1)
