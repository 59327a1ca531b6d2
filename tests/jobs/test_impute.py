"""Filling in agrees with known conditionals: of Gaussians in closed form, of a curved density by quadrature."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor

import jensen
from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.filled import Effort
from jensen.jobs.filling import fill
from jensen.jobs.held import LEAST, Coordinates, Target
from jensen.jobs.impute import impute, region_mask
from jensen.jobs.proposals import Proposal, Proposals
from jensen.jobs.run import Run
from jensen.models.flow import density
from jensen.registry import Choice, build, find
from jensen.transforms import Transform

SLOTS = {"base": Choice(find("prior", "normal"), {}), "dequantizer": Choice(find("dequantizer", "uniform"), {})}
MIX = np.array([[1.0, 0.0, 0.0, 0.0], [0.8, 0.6, 0.0, 0.0], [-0.5, 0.3, 0.9, 0.0], [0.2, -0.7, 0.4, 0.5]])
SHORT, SHORTER = {"warmup": 150, "steps": 150}, {"warmup": 100, "steps": 60}
CENTER, SCALE = np.array([1.0, -2.0, 30.0, 0.0]), np.array([1.0, 0.1, 5.0, 2.0])
NAMES = ["a", "b", "c", "d"]


class Linear(Transform):
    """x = A z + B c."""

    def __init__(self, matrix: Tensor, context: int = 0):
        super().__init__()
        self.domain_shape = self.codomain_shape = (len(matrix),)
        self.register_buffer("matrix", matrix)
        self.register_buffer("shift", torch.linspace(-1, 1, len(matrix) * max(1, context)).reshape(len(matrix), -1))

    def _moved(self, context: Tensor | None) -> Tensor:
        return context @ self.shift.T if context is not None else torch.zeros(())

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z @ self.matrix.T + self._moved(context), torch.linalg.slogdet(self.matrix)[1]

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = torch.linalg.solve(self.matrix, (x - self._moved(context)).T).T
        return z, -torch.linalg.slogdet(self.matrix)[1]


class Banana(Transform):
    """x₁ = z₁, x₂ = ½ z₂ + ½ z₁² − 1: given x₂, x₁ has two modes."""

    domain_shape = codomain_shape = (2,)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.stack([z[:, 0], 0.5 * z[:, 1] + 0.5 * z[:, 0] ** 2 - 1], 1), z.new_tensor(math.log(0.5))

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = torch.stack([x[:, 0], 2 * (x[:, 1] - 0.5 * x[:, 0] ** 2 + 1)], 1)
        return z, -x.new_tensor(math.log(0.5))


def schema_of(rows: np.ndarray, names: list[str], **extra) -> Schema:
    return Schema.of_table(rows, names, container="pandas", **extra)


def gaussian_run(**extra) -> Run:
    """A flow that is N(CENTER, S MIX MIXᵀ S), in the units of the data."""
    ends = np.stack([CENTER - SCALE, CENTER + SCALE])
    schema = schema_of(ends, NAMES, **extra)
    model = density(schema, lambda event, context: Linear(torch.tensor(MIX).float(), context), **SLOTS).eval()
    return run_of(model, schema, ends)


def run_of(model: Model, schema: Schema, x: np.ndarray) -> Run:
    return Run({"model": "toy", "settings": {}}, schema, model, None, [], Dataset("made", schema, {"test": Split(x)}))


def conditional(row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a row is empty, and mean and covariance there given the rest, in closed form."""
    holes = np.isnan(row)
    covariance = (SCALE[:, None] * MIX) @ (SCALE[:, None] * MIX).T
    among, across = covariance[np.ix_(holes, holes)], covariance[np.ix_(holes, ~holes)]
    gain = across @ np.linalg.inv(covariance[np.ix_(~holes, ~holes)])
    return holes, CENTER[holes] + gain @ (row - CENTER)[~holes], among - gain @ across.T


def table_with_gaps(n: int = 12, seed: int = 0) -> pandas.DataFrame:
    rng = np.random.default_rng(seed)
    rows = CENTER + SCALE * (rng.normal(size=(n, 4)) @ MIX.T)
    holes = rng.random(rows.shape) < 0.4
    holes[:, 0] &= ~holes.all(1)  # something is observed
    holes[0] = False
    return pandas.DataFrame(np.where(holes, np.nan, rows), columns=NAMES)


@pytest.mark.parametrize("method", ["importance", "mcmc", "auto"])
def test_a_gaussian_is_filled_in_as_in_closed_form(method):
    """Means within 4.5 standard errors by the reported effective sample size, and covariances likewise."""
    run, frame = gaussian_run(), table_with_gaps()
    found = run.impute(frame, draws=1000, method=method, seed=1, **SHORT)
    assert not found.warnings
    for i, row in enumerate(frame.to_numpy()):
        holes, mean, covariance = conditional(row)
        if not holes.any():
            assert found.method[i] == "none"
            continue
        size = found.effective_sample_size[i]
        assert size > 100
        deviation = np.sqrt(np.diag(covariance))
        assert (abs(found.mean[i, holes] - mean) < 4.5 * deviation / math.sqrt(size)).all()
        squares = 300 if method == "mcmc" else min(size, 1000)  # of a chain 300 to 840, measured over 30 seeds
        assert (abs(found.spread[i, holes] / deviation - 1) < 4.5 / math.sqrt(2 * squares)).all()
        draws = (found.draws[:, i, holes] - mean) / deviation
        correlation = covariance / np.outer(deviation, deviation)
        # a product of two normals has variance 1 + ρ², and resampled draws are worth no more than their particles
        error = np.sqrt(2 / min(size, 1000) + 2 / 1000)
        assert (abs(draws.T @ draws / 1000 - correlation) < 4.5 * error).all()
    if method != "auto":
        assert set(found.method) == {"none", method}
    if method == "mcmc":
        assert np.nanmax(found.r_hat) < 1.05


def test_what_was_observed_comes_back_to_the_last_bit():
    run, frame = gaussian_run(), table_with_gaps()
    frame.index = [f"row {i}" for i in range(len(frame))]
    found = run.impute(frame, draws=2)
    for table in (found.completed(), found.completed(0), found.completed(1)):
        assert list(table.columns) == NAMES
        assert (table.index == frame.index).all()
        assert not table.isna().any().any()
        assert (table.where(frame.notna()) == frame).where(frame.notna(), True).all().all()
    assert not (found.completed(0) == found.completed(1)).all().all()


def test_columns_that_are_not_explained_are_left_alone_and_dtypes_come_back():
    rng = np.random.default_rng(0)
    n = 200
    x = rng.normal(size=n)
    frame = pandas.DataFrame(
        {
            "note": [f"n{i}" for i in range(n)],
            "count": (10 + 3 * x).round().astype("int64"),
            "x": x.astype("float32"),
            "kind": rng.choice(["a", "b"], n),
        }
    )
    run = jensen.train("ppca", frame, drop="note", label="kind", latents=1)
    holes = frame.head(20).copy()
    holes.loc[[1, 3], "count"] = np.nan
    holes.loc[[4, 5], "x"] = np.nan
    whole = run.impute(holes).completed()
    assert list(whole.columns) == list(frame.columns)
    assert list(whole.dtypes) == list(frame.dtypes)  # the gap had made whole numbers real
    known = holes.notna()
    assert (whole[known] == frame.head(20)[known]).where(known, True).all().all()
    assert abs(whole.loc[[1, 3], "count"] - frame.loc[[1, 3], "count"]).max() <= 3


def test_ppca_too_fills_in_as_its_closed_form():
    """Its likelihood is exact, though z is hidden."""
    rows = CENTER + SCALE * (np.random.default_rng(0).normal(size=(500, 4)) @ MIX.T)
    run = jensen.train("ppca", rows, latents=2)
    p = run.model.p["x"].module
    w = p.weight.detach().double().numpy()
    covariance = w @ w.T + p.scale.item() ** 2 * np.eye(4)
    scale = np.array([f.scale for f in run.schema.fields])
    center = p.mean.detach().double().numpy() * scale + [f.center for f in run.schema.fields]
    covariance *= np.outer(scale, scale)
    row = rows[:1].copy()
    row[0, 2] = np.nan
    gain = covariance[2, [0, 1, 3]] @ np.linalg.inv(covariance[np.ix_([0, 1, 3], [0, 1, 3])])
    mean = center[2] + gain @ (row[0] - center)[[0, 1, 3]]
    deviation = math.sqrt(covariance[2, 2] - gain @ covariance[[0, 1, 3], 2])
    for method in ("importance", "mcmc"):
        found = run.impute(row, method=method, particles=300, warmup=60, steps=30)
        assert abs(found.mean[0, 2] - mean) < 4.5 * deviation / math.sqrt(found.effective_sample_size[0])


@pytest.mark.parametrize(("x2", "method"), [*product([-1.2, 0.0, 2.0], ["importance", "mcmc"]), (30.0, "auto")])
def test_a_curved_density_is_filled_in_as_by_quadrature(x2, method):
    """p(x₁ | x₂) has two modes where x₂ is high; its moments and the share of the right mode by a fine grid. At 30 they
    are narrow, 100 deviations apart from each other, and far from all samples.
    """
    schema = schema_of(np.array([[-1.0, -1.0], [1.0, 1.0]]), ["a", "b"])
    model = density(schema, lambda event, context: Banana(), **SLOTS).eval()
    run = run_of(model, schema, np.zeros((1, 2)))
    grid = torch.linspace(-9, 9, 12_001)
    with torch.no_grad():
        log_p = model.p["x"].module().log_prob(torch.stack([grid, torch.full_like(grid, x2)], 1)).double()
    p = (log_p - log_p.logsumexp(0)).exp().numpy()
    g = grid.double().numpy()
    found = run.impute(pandas.DataFrame({"a": [np.nan], "b": [x2]}), method=method, draws=2000, seed=2, **SHORTER)
    draws, size = found.draws[:, 0, 0], found.effective_sample_size[0]
    if method == "mcmc" and x2 == 2.0:  # a chain seldom crosses from mode to mode: it must say so
        assert found.warnings or size > 100
        draws, g = abs(draws), abs(g)
        size = min(size, 100)
    else:
        assert size > 100
    for f in (lambda x: x, np.square, lambda x: x > 1):
        truth = (p * f(g)).sum()
        deviation = math.sqrt((p * (f(g) - truth) ** 2).sum())
        assert abs(f(draws).mean() - truth) < 4.5 * deviation * math.sqrt(1 / size + 1 / 2000)


@pytest.mark.parametrize("method", ["importance", "mcmc"])
def test_directions_and_bounded_columns_are_filled_in_as_by_quadrature(method):
    """Of a flow with random weights: shares of directions about the seam, and of a bounded column, on a grid."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.lognormal(size=60), rng.uniform(size=60), rng.uniform(0, 360, 60)], 1)
    schema = schema_of(x, ["a", "b", "c"])
    ranges = {"positive": ["a"], "bounded": ["b:0:1"], "circular": ["c:0:360"]}
    with seeded(0):
        model = build("maf", schema, {"hidden": [8], "layers": 2, **ranges}).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.2 * torch.randn_like(p))
    run = run_of(model, schema, x[:1])
    b, c = (torch.arange(150) + 0.5) / 150, (torch.arange(150) + 0.5) / 150 * 360
    grid = np.stack(np.meshgrid(1.3, b, c, indexing="ij"), -1).reshape(-1, 3)
    with torch.no_grad():
        p = model.p["x"].module().log_prob(schema.prepare(grid)).double().softmax(0).numpy()
    row = pandas.DataFrame({"a": [1.3], "b": [np.nan], "c": [np.nan]})
    found = run.impute(row, method=method, draws=1000, seed=0, particles=2000, warmup=60, steps=40)
    drawn, size = found.draws[:, 0], found.effective_sample_size[0]
    assert size > 30
    assert (drawn[:, 1:] > 0).all() and (drawn[:, 1] < 1).all() and (drawn[:, 2] <= 360).all()

    def turned(values: np.ndarray) -> np.ndarray:
        return np.radians(values[:, 2])

    for f in (lambda v: np.cos(turned(v)), lambda v: np.sin(turned(v)), lambda v: v[:, 1], lambda v: v[:, 1] < 0.2):
        truth = (p * f(grid)).sum()
        deviation = math.sqrt((p * (f(grid) - truth) ** 2).sum())
        assert deviation > 0.05
        assert abs(f(drawn).mean() - truth) < 4.5 * deviation * math.sqrt(1 / size + 1 / 1000)
    told = math.radians(found.mean[0, 2])
    mean = complex((p * np.exp(1j * turned(grid))).sum())
    assert abs(mean * np.exp(-1j * told) / abs(mean) - 1) < 4.5 / math.sqrt(size) / abs(mean)


def near_samples() -> Proposal:
    features, values = torch.randn(500, 2, dtype=torch.float64), torch.randn(500, 1, dtype=torch.float64)
    values = values * 0.3 + features[:, :1] ** 2
    return Proposal.near(torch.tensor([[0.5, 0.0], [-2.0, 1.0]], dtype=torch.float64), features, values)


def about_particles() -> Proposal:
    t = torch.randn(500, 2, 1, dtype=torch.float64)
    return Proposal.about(t, torch.cat([-40 * (t[:, :1] - 1) ** 2, 0 * t[:, 1:]], 1)[..., 0])


@pytest.mark.parametrize("made", [near_samples, about_particles])
def test_a_proposal_draws_from_its_density(made):
    """Its density integrates to one, and its draws lie where the density says."""
    with seeded(0):
        proposal = made()
        t = proposal.draw(20_000)
    grid = torch.linspace(-200, 200, 200_001, dtype=torch.float64)
    r = proposal.log_prob(grid[:, None, None].expand(-1, 2, 1)).exp()
    step = grid[1] - grid[0]
    assert ((r.sum(0) * step - 1).abs() < 1e-3).all()
    for edge in (-1.0, 0.0, 0.3, 1.0, 3.0, 5.0):
        share, truth = (t[..., 0] < edge).double().mean(0), (r * (grid < edge)[:, None]).sum(0) * step
        assert ((share - truth).abs() < 4.5 * (truth * (1 - truth) / 20_000).sqrt() + 2e-3).all()


def test_particles_of_several_proposals_are_weighed_by_their_mean():
    """Of two, one of which misses a mode: Z and the mean of a density known up to Z."""
    with seeded(0):
        v = torch.randn(500, 1, 1, dtype=torch.float64)
        both = Proposals([Proposal.about(v, -50 * (v - 1)[..., 0] ** 2), Proposal.about(v, 0 * v[..., 0])], 40_001)
        t = both.draw()
    log_p = torch.logaddexp(-50 * (t - 1) ** 2, -50 * (t + 1) ** 2)[..., 0] + 3
    w = (log_p - both.log_prob(t)).exp()
    z = 2 * math.exp(3) * math.sqrt(math.pi / 50)
    assert abs(w.mean().item() - z) < 4.5 * w.std().item() / math.sqrt(len(w))
    size = (w.sum() ** 2 / w.square().sum()).item()
    assert abs((w * t[..., 0]).sum().item() / w.sum().item()) < 4.5 * 1.005 / math.sqrt(size)


def test_sizes_and_spreads_are_honest_where_proposals_follow_particles():
    """A narrow normal far from where the model's samples lie, over many rows: the scatter of means is what their sizes
    say, and the spreads are right."""
    run = gaussian_run()
    far = pandas.DataFrame([[np.nan, 5.0, np.nan, -40.0]] * 40, columns=NAMES)
    found = run.impute(far, method="importance", particles=300)
    holes, mean, covariance = conditional(far.to_numpy()[0])
    deviation, sizes = np.sqrt(np.diag(covariance)), found.effective_sample_size
    z = (found.mean[:, holes] - mean) / deviation * np.sqrt(sizes)[:, None]
    assert (np.square(z).mean(0) < 1 + 4.5 * math.sqrt(2 / 40)).all()
    assert (abs(z.mean(0)) < 4.5 / math.sqrt(40)).all()
    assert (abs((found.spread[:, holes] / deviation).mean(0) - 1) < 4.5 / math.sqrt(2 * sizes.sum())).all()


def test_coordinates_go_there_and_back_with_their_slopes():
    inf = math.inf
    low = torch.tensor([-inf, 0.0, -inf, -2.0, -3.0], dtype=torch.float64)
    high = torch.tensor([inf, inf, 1.0, 5.0, 3.0], dtype=torch.float64)
    period = torch.tensor([inf, inf, inf, inf, 6.0], dtype=torch.float64)
    at = Coordinates(low, high, period)
    t = torch.linspace(-2.9, 2.9, 30, dtype=torch.float64)[:, None].expand(-1, 5).clone().requires_grad_()
    v, slope = at.value(t)
    assert ((v > low) & (v < high)).all()
    torch.testing.assert_close(at.real(v.detach()), t.detach())
    (gradient,) = torch.autograd.grad(v.sum(), t)
    torch.testing.assert_close(gradient.abs().log(), slope)
    torch.testing.assert_close(at.value(t + 6)[0][:, 4], v[:, 4])


def test_a_conditional_flow_fills_in_under_its_conditions():
    """p(x | c) = N(B c, A Aᵀ): the conditional mean moves with c."""
    names = ["a", "b", "c", "d"]
    frame = pandas.DataFrame(np.stack([CENTER - SCALE, CENTER + SCALE]), columns=names)
    frame["age"] = [20.0, 40.0]
    schema = jensen.load_data(pandas.concat([frame] * 4), given="age", fractions=(1, 0, 0)).schema
    model = density(schema, lambda event, context: Linear(torch.tensor(MIX).float(), context), **SLOTS).eval()
    run = run_of(model, schema, np.zeros((1, 4)))
    shift = np.linspace(-1, 1, 4)
    new = frame.copy()
    new.loc[:, "c"] = np.nan
    found = run.impute(new, method="importance")
    for i, age in enumerate((-1.0, 1.0)):
        row = new[names].to_numpy()[i] - SCALE * shift * age
        holes, mean, covariance = conditional(row)
        error = np.sqrt(np.diag(covariance) / found.effective_sample_size[i])
        assert abs(found.mean[i, holes] - (mean + (SCALE * shift * age)[holes])) < 4.5 * error
    whole = found.completed()
    assert list(whole.columns) == [*names, "age"]
    assert (whole["age"] == frame["age"]).all()


def test_rows_of_which_nothing_is_known_are_samples():
    run = gaussian_run()
    frame = pandas.DataFrame(np.full((2, 4), np.nan), columns=NAMES)
    found = run.impute(frame, draws=4000)
    assert list(found.method) == ["direct", "direct"]
    covariance = (SCALE[:, None] * MIX) @ (SCALE[:, None] * MIX).T
    flat = found.draws.reshape(-1, 4)
    assert (abs(flat.mean(0) - CENTER) < 4.5 * np.sqrt(np.diag(covariance) / 8000)).all()
    np.testing.assert_allclose(np.corrcoef(flat.T), correlation(covariance), atol=0.06)


def correlation(covariance: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(np.diag(covariance))
    return covariance / np.outer(deviation, deviation)


# Whole numbers


class Picture(Linear):
    """The same of two pixels, seen as a picture (1, 1, 2)."""

    def __init__(self, matrix: Tensor):
        super().__init__(matrix)
        self.domain_shape = self.codomain_shape = (1, 1, 2)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, ladj = super().forward_and_ladj(z.flatten(1), context)
        return x.reshape(z.shape), ladj

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, ladj = super().inverse_and_ladj(x.flatten(1), context)
        return z.reshape(x.shape), ladj


def picture_run(levels: int = 4) -> Run:
    schema = Schema.of_pictures((1, 1, 2), levels)
    matrix = torch.tensor([[1.0, 0.0], [0.9, 0.5]])
    model = density(schema, lambda event, context: Picture(matrix), **SLOTS).eval()
    return run_of(model, schema, np.array([[[[0, 2]]], [[[3, 1]]]], dtype=np.uint8))


def test_a_pixel_is_filled_in_as_by_quadrature():
    """P(x₂ | x₁) ∝ ∫ p(v) over the bin of both, noise of the observed pixel integrated out."""
    run, cells = picture_run(), 40
    at = (torch.arange(4 * cells) + 0.5) / cells  # 0..4
    v = torch.cartesian_prod(at, at).reshape(-1, 1, 1, 2)
    with torch.no_grad():
        p = run.model.p["v"].module().log_prob(v).double().exp().reshape(4, cells, 4, cells).sum((1, 3))
    truth = (p / p.sum(1, keepdim=True)).numpy()
    found = run.impute(missing=np.array([[[False, True]]]), draws=1200, seed=0, leapfrog=8, **SHORT)
    assert set(found.method) == {"mcmc"}
    assert not found.warnings
    for i, first in enumerate((0, 3)):
        assert (found.draws[:, i, 0, 0, 0] == first).all()
        second, size = found.draws[:, i, 0, 0, 1], min(found.effective_sample_size[i], 1200)
        assert set(np.unique(second)) <= {0, 1, 2, 3}
        for k in range(4):
            error = math.sqrt(truth[first, k] * (1 - truth[first, k]) * (1 / size + 1 / 1200))
            assert abs((second == k).mean() - truth[first, k]) < 4.5 * error + 2e-3
    assert found.completed(0).dtype == np.uint8


def test_regions_and_gaps_of_pictures():
    mask = region_mask((1, 4, 6), "top")
    assert mask[0, :2].all() and not mask[0, 2:].any()
    assert region_mask((1, 4, 6), "center").sum() == 2 * 4
    assert (region_mask((3, 5, 6), "left") | region_mask((3, 5, 6), "right")).all()
    assert (region_mask((3, 5, 6), "top") | region_mask((3, 5, 6), "bottom")).sum() == 3 * 4 * 6
    run = picture_run()
    holes = np.array([[[[0.0, np.nan]]], [[[np.nan, 3.0]]]])
    found = run.impute(holes, warmup=20, steps=20)
    np.testing.assert_array_equal(found.missing, np.isnan(holes))
    whole = found.completed(0)
    assert (whole[~found.missing] == holes[~found.missing]).all()


@pytest.mark.parametrize("kind", ["count", "binary"])
def test_tables_of_whole_numbers_are_filled_in_with_whole_numbers(kind):
    rows = np.random.default_rng(0).integers(0, 2, size=(30, 2)).astype(float)
    schema = Schema.of_table(rows, ["a", "b"], [kind] * 2, container="pandas")
    model = density(schema, lambda event, context: Linear(torch.eye(2)), **SLOTS).eval()
    run = run_of(model, schema, rows)
    holes = pandas.DataFrame({"a": [1, 0, np.nan], "b": [np.nan, 1, 0]})
    found = run.impute(holes, draws=20, warmup=50, steps=50)
    assert (found.draws == np.floor(found.draws)).all()
    assert (found.draws >= 0).all()
    assert kind == "count" or (found.draws <= 1).all()
    assert (found.completed(3).where(holes.notna()) == holes).where(holes.notna(), True).all().all()


# Drawing with columns held


def test_drawing_with_columns_held_has_the_moments_of_the_conditional():
    run = gaussian_run()
    said: list[str] = []
    drawn = run.sample(2000, given={"b": -1.9, "d": 1.0}, say=said.append)
    assert list(drawn.columns) == NAMES
    assert (drawn["b"] == -1.9).all() and (drawn["d"] == 1.0).all()
    _, mean, covariance = conditional(np.array([np.nan, -1.9, np.nan, 1.0]))
    rest = drawn[["a", "c"]].to_numpy()
    size = float(said[0].split("least ")[1])
    error = np.sqrt(np.diag(covariance) * (1 / size + 1 / 2000))
    assert (abs(rest.mean(0) - mean) < 4.5 * error).all()
    assert np.allclose(np.cov(rest.T), covariance, rtol=0.3, atol=0.1)
    several = run.sample(given={"b": np.array([-2.2, -1.8]), "d": 0.0})
    assert several["b"].tolist() == [-2.2, -1.8]


def test_equal_seeds_fill_in_equally():
    run, frame = gaussian_run(), table_with_gaps()
    one, two, three = (run.impute(frame, seed=s).draws for s in (0, 0, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)


# Refusals


def test_models_without_a_density_of_the_data_refuse_with_the_reason():
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=["a", "b", "c"])
    diffusion = jensen.train("diffusion", frame, epochs=1, steps=2)
    for attempt in (lambda: diffusion.impute(frame.mask(frame > 1)), lambda: diffusion.sample(3, given={"a": 0.0})):
        with pytest.raises(CapabilityError, match=r"diffusion cannot fill in: what it says of p\(x\) is a bound"):
            attempt()
    autoencoder = jensen.train("autoencoder", frame, latents=1, epochs=1)
    with pytest.raises(CapabilityError, match="no likelihood"):
        autoencoder.impute(frame)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 0}, "--draws: expected >= 1, got 0"),
        ({"method": "mcm"}, "did you mean 'mcmc'"),
        ({"region": "top"}, "--region: expected pictures"),
        ({"missing": np.ones((3, 9), bool)}, "expected a mask of shape"),
        ({"particles": 1, "steps": 1}, "2 problems"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        impute(gaussian_run(), table_with_gaps(), **options)


def test_pictures_must_say_what_is_missing_and_whole_numbers_take_chains():
    with pytest.raises(ConfigError, match="say what is missing"):
        picture_run().impute()
    with pytest.raises(ConfigError, match="did you mean 'center'"):
        picture_run().impute(region="centre")
    with pytest.raises(CapabilityError, match="use mcmc"):
        picture_run().impute(region="left", method="importance")


def test_a_table_with_nothing_missing_is_given_back():
    run, frame = gaussian_run(), table_with_gaps().fillna(0.5)
    found = run.impute(frame)
    assert str(found) == "nothing is missing in 12 data"
    pandas.testing.assert_frame_equal(found.completed(), frame)


def test_gaps_are_refused_by_every_other_job():
    with pytest.raises(DataError, match="empty cells"):
        gaussian_run().score(table_with_gaps())


def test_few_effective_draws_are_said():
    """A datum far from all that the model knows, with few particles."""
    run = gaussian_run()
    far = pandas.DataFrame([[np.nan, 5.0, np.nan, -40.0]], columns=NAMES)
    found = run.impute(far, method="importance", particles=2)
    assert found.effective_sample_size[0] < 10
    assert "fewer than 10 effective draws in row 1 (the first is 1)" in found.warnings[0]
    assert found.to_dict()["rows_with_few"] == [1]


def test_where_weights_rest_on_few_particles_chains_take_over():
    """A datum that the model finds next to impossible, off a curve that no line fits."""
    schema = schema_of(np.array([[-1.0, -1.0], [1.0, 1.0]]), ["a", "b"])
    run = run_of(density(schema, lambda event, context: Banana(), **SLOTS).eval(), schema, np.zeros((1, 2)))
    far = pandas.DataFrame({"a": [np.nan], "b": [40.0]})
    weighed = run.impute(far, method="importance", particles=2)
    assert weighed.effective_sample_size[0] < LEAST
    found = run.impute(far, particles=2, **SHORT)
    assert list(found.method) == ["mcmc"]
    assert abs(abs(found.draws[0, 0, 0]) - 9) < 1  # x₁² / 2 = 41, drawn in a little by p(z₁)


def test_a_continuous_flow_fills_in_by_particles_alone():
    """Each density is hundreds of passes, so no chain runs unless asked for; against the table's own regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3)) @ np.array([[1.0, 0.5, -0.6], [0.0, 0.5, 0.3], [0.0, 0.0, 0.5]])
    frame = pandas.DataFrame(x, columns=["a", "b", "c"])
    run = jensen.train("flow-matching", frame, hidden=[32], epochs=30)
    gaps = frame.head(6).mask(rng.random((6, 3)) < 0.5)
    gaps.iloc[0] = [0.5, np.nan, np.nan]
    gaps.loc[gaps.isna().all(axis=1), "a"] = 0.5
    found = run.impute(gaps, particles=200)
    assert set(found.method) <= {"none", "importance"}
    assert found.effective_sample_size.min() > LEAST
    slope, _, _, _ = np.linalg.lstsq(x[:, :1], x[:, 1:], rcond=None)
    assert abs(found.mean[0, 1:] - 0.5 * slope[0]).max() < 0.4


def test_the_density_that_is_worked_with_is_that_of_the_model():
    run = gaussian_run()
    x = torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        truth = run.model.p["x"].module().log_prob(x.float()).double()
    torch.testing.assert_close(Target.of(run).log_prob(x, {}), truth, rtol=0, atol=1e-4)
    assert next(run.model.buffers()).dtype == torch.float32  # the run itself stays as it was


def test_the_listener_hears_of_the_end():
    run, told = gaussian_run(), []
    frame = table_with_gaps()
    x = run.schema.prepare(np.nan_to_num(frame.to_numpy()))
    with seeded(0):
        missing = torch.tensor(frame.isna().to_numpy())
        fill(run, x, missing, {}, method="mcmc", effort=Effort(10, 5, 8, 2), listener=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
