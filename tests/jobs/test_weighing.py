"""What is missing, filled in where something is hidden: against quadrature over the hidden variable."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

import jensen
from jensen.conditionals.heads import GaussianHead, Support
from jensen.conditionals.record import RecordHead
from jensen.core import Joint, Model
from jensen.data import Dataset, Schema, Split, load_data
from jensen.distributions import DiagonalNormal
from jensen.errors import CapabilityError
from jensen.jobs.run import Run


class Fixed(nn.Module):
    """A normal density of one number, whatever the parents."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        n = (len(parents[0]),) if parents else ()
        return DiagonalNormal(torch.zeros(*n, 1), self.scale.expand(*n, 1))


class Decoder(nn.Module):
    """A head after an affine map of z."""

    def __init__(self, head, seed: int):
        super().__init__()
        self.head = head
        (n,) = head.parameter_shape
        rng = torch.Generator().manual_seed(seed)
        self.slope = nn.Parameter(torch.randn(n, generator=rng))
        self.start = nn.Parameter(0.3 * torch.randn(n, generator=rng))

    def forward(self, z: Tensor):
        return self.head(z * self.slope + self.start)


def run_of(schema: Schema, x: np.ndarray, head) -> Run:
    """p(z) = N(0, 1), p(x | z) by the head, and a broad proposal that does not look at x."""
    model = Model(Joint({"z": Fixed(1.0), "x | z": Decoder(head, 3)}), Joint({"z | x": Fixed(1.5)})).eval()
    return Run({"model": "toy", "settings": {}}, schema, model, None, [], Dataset("t", schema, {"test": Split(x)}))


def frame(n: int = 30) -> pandas.DataFrame:
    rng = np.random.default_rng(0)
    return pandas.DataFrame({
        "real": rng.normal(size=n), "name": rng.choice(list("abc"), n), "count": rng.integers(0, 9, n),
        "bit": rng.random(n) < 0.5, "other": rng.normal(2, 3, n),
    })  # fmt: skip


def by_quadrature(run: Run, row: np.ndarray) -> tuple[dict[int, float], np.ndarray, float, dict[int, float]]:
    """Of missing cells E[x | rest] in the user's units, of the column `name` its probabilities, E z, and of missing
    real cells the standard deviation.
    """
    schema, decoder = run.schema, run.model.p["x"].module
    z = torch.linspace(-8, 8, 4001).unsqueeze(1)
    seen = ~np.isnan(row)
    x = schema.prepare(np.where(seen, row, schema.in_units(np.zeros(len(row))))[None])
    with torch.no_grad():
        dist = decoder(z)
        log_w = dist.log_prob_terms(x)[:, torch.from_numpy(seen)].sum(-1) - 0.5 * z[:, 0] ** 2
        w = log_w.double().softmax(0)
        means = (w[:, None] * dist.mean.double()).sum(0).numpy()
        names = next(part for part in dist.parts if hasattr(part, "named"))
        probs = (w[:, None] * names.probs[:, 0].double()).sum(0).numpy()
    values = schema.in_units(means)
    within = (0.7**2 + (w[:, None] * dist.mean.double() ** 2).sum(0) - torch.as_tensor(means) ** 2).sqrt()
    real = [j for j in np.flatnonzero(~seen) if schema.fields[j].kind == "real"]
    deviations = {int(j): float(within[j]) * schema.fields[j].scale for j in real}
    return {int(j): values[j] for j in np.flatnonzero(~seen)}, probs, float((w * z[:, 0]).sum()), deviations


def test_mixed_cells_are_filled_in_as_by_quadrature():
    whole = frame()
    data = load_data(whole)
    head = RecordHead(Support.of(data.schema, cells=True), lambda s: GaussianHead(s, "fixed", 0.7, 0.0))
    holes = whole.iloc[:6].copy().astype({"bit": object})
    holes.loc[0, "other"] = None
    holes.loc[1, ["name", "count"]] = None
    holes.loc[2, ["real", "bit", "name"]] = None
    holes.loc[3, ["real", "name", "count", "bit", "other"]] = None
    run = run_of(data.schema, data.split("train").x, head)
    found = run.impute(holes, particles=60000, draws=4000)
    rows = load_data(holes, schema=data.schema, gaps=True).split("all").x
    for i, row in enumerate(rows[:4]):
        means, probs, _, deviations = by_quadrature(run, row)
        for j, expected in means.items():
            if data.schema.fields[j].kind == "category":
                assert found.mean[i, j] == probs.argmax()
                assert found.spread[i, j] == pytest.approx(1 - probs.max(), abs=0.02)
                shares = np.bincount(found.draws[:, i, j].astype(int), minlength=3) / 4000
                np.testing.assert_allclose(shares, probs, atol=0.05)
            else:
                error = found.spread[i, j] / found.effective_sample_size[i] ** 0.5
                assert found.mean[i, j] == pytest.approx(expected, abs=5 * error + 1e-3)
            if j in deviations:  # of 4000 draws
                assert found.spread[i, j] == pytest.approx(deviations[j], rel=0.06)
    assert (found.spread[4:] == 0).all()
    assert (found.spread[:4][found.missing[:4]] > 0).all()


def test_dtypes_and_what_was_there_come_back():
    whole = frame().astype({"count": "Int64"})
    holes = whole.copy().astype({"bit": "boolean"})
    holes.loc[1, ["name", "count", "bit", "real"]] = None
    run = jensen.train("vae", whole, epochs=1, latents=2)
    done = run.impute(holes, particles=20).completed()
    assert (done.dtypes == whole.dtypes).all()
    assert not done.isna().any().any()
    pandas.testing.assert_frame_equal(done.drop(index=1), whole.drop(index=1))


def test_training_scoring_and_sampling_with_gaps(tmp_path):
    """What is missing adds nothing: log p of a row is that of what is there; an empty row has log p = 0."""
    holes = frame(200).astype({"bit": "boolean"})
    holes = holes.mask(np.random.default_rng(1).random(holes.shape) < 0.3)
    holes.iloc[0] = None
    options = {"latents": 2, "encoder.hidden": [16], "decoder.hidden": [16], "objective": "iw", "epochs": 3}
    run = jensen.train("vae", holes, out=tmp_path / "r", **options)
    assert run.spec["settings"]["objective"]["name"] == "iw"
    scored = run.score(holes, particles=200)
    assert torch.as_tensor(scored.rows).isfinite().all()
    e = run.model.evidence(run.tensors(run.data().split("train")).take(slice(0, 5)), particles=3)
    terms = e.p["x"].unflatten((3, 5)).log_prob_terms(e.values["x"])  # pyright: ignore
    seen = run.tensors(run.data().split("train")).seen[:5]
    torch.testing.assert_close(e.log_p["x"], (terms * seen).sum(-1))
    empty = load_data(holes.iloc[:1], schema=run.schema).split("all")
    nothing = run.model.evidence(run.tensors(empty).take(slice(None)), particles=5)
    assert (nothing.log_p["x"] == 0).all()
    again = jensen.open(tmp_path / "r")
    assert again.score(holes, particles=200).nats == scored.nats
    assert list(run.sample(3, seed=1).columns) == list(holes.columns)


def test_columns_that_are_given_are_held():
    run = jensen.train("vae", frame(200), epochs=2, latents=2)
    rows = run.sample(50, given={"name": "b", "count": 3}, say=lambda text: None)
    assert set(rows["name"]) == {"b"}
    assert set(rows["count"]) == {3}
    assert rows["real"].nunique() > 20


def test_a_model_of_a_row_as_a_whole_refuses():
    run = jensen.train("vae", "digits", binarize="static", likelihood="autoregressive", epochs=1, latents=2)
    with pytest.raises(CapabilityError, match="no density of single elements"):
        run.impute(region="top", limit=2)


def test_pictures_are_filled_in_by_a_vae():
    """An in-painted half is nearer to the truth than the mean of the training pictures."""
    run = jensen.train("vae", "digits", binarize="static", epochs=30, latents=8)
    truth = run.data().split("test").x[:100].astype(float)
    mask = np.zeros((1, 8, 8), bool)
    mask[:, 4:] = True
    found = run.impute(missing=mask, limit=None, particles=200)
    mean = run.data().split("train").x.mean(0)
    gain = ((mean - truth) ** 2 - (found.mean[:100] - truth) ** 2)[:, mask].mean(1)
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5
