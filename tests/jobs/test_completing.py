"""Filling in under autoregressive models, against enumeration of the model's own density."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch

from jensen.core import seeded
from jensen.data import Dataset, Schema, Split
from jensen.errors import CapabilityError
from jensen.jobs.imputation import Imputation
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.registry import build

RNG = np.random.default_rng(0)


def table() -> Dataset:
    """Four binary columns that know of each other."""
    z = RNG.random(400) < 0.4
    noise = RNG.random((400, 4))
    x = np.where(z[:, None], noise < [0.9, 0.8, 0.2, 0.7], noise < [0.2, 0.1, 0.6, 0.3]).astype(float)
    schema = Schema.of_table(x, [f"c{j}" for j in range(4)], ["binary"] * 4)
    return Dataset("bits", schema, {"train": Split(x), "valid": Split(x[:100]), "test": Split(x[:40])})


@pytest.fixture(scope="module", params=["given", "any"])
def run(request: pytest.FixtureRequest) -> Run:
    settings = {"hidden": [32], "order": request.param, "orderings": 4 if request.param == "any" else 1}
    return train("made", table(), settings=settings, epochs=30, batch_size=50, lr=0.02)


def conditional_means(run: Run, row: np.ndarray, order: list[int] | None = None) -> np.ndarray:
    """E[x | what is not NaN of a row], by enumeration of p, or of the one order."""
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    module = run.model.p["x"].module
    with torch.no_grad():
        if order is None:
            log_p = run.model.evidence({"x": every}).log_w[0]
        else:
            module.network.arrange(torch.tensor(order))  # pyright: ignore
            log_p = module().terms(every).sum(1)  # pyright: ignore
    known = ~np.isnan(row)
    fits = (every[:, known] == torch.tensor(row[known], dtype=torch.float32)).all(1)
    weight = log_p[fits].double().softmax(0)
    return (weight[:, None] * every[fits]).sum(0).clamp(0, 1).numpy()


def test_what_is_filled_in_follows_the_model(run):
    rows = np.array([[np.nan, np.nan, 0, 1], [1, np.nan, np.nan, 0], [1, 0, np.nan, np.nan], [1, 0, 1, 0]])
    found = run.impute(rows, draws=2000, particles=4000, seed=1)
    ordered = run.spec["settings"]["order"] == "any"
    assert list(found.method) == (["ordered"] * 3 + ["none"] if ordered else ["importance"] * 2 + ["ordered", "none"])
    for i, row in enumerate(rows[:3]):
        missing = np.isnan(row)
        order = [*np.flatnonzero(~missing), *np.flatnonzero(missing)] if ordered else None
        truth = conditional_means(run, row, order)
        size = found.effective_sample_size[i]
        assert size >= 100
        error = np.sqrt(truth * (1 - truth) * (1 / size + 1 / 2000)) + 1e-12
        assert (np.abs(found.mean[i] - truth) < 4.5 * error)[missing].all()
        assert (np.abs(found.draws[:, i].mean(0) - truth) < 4.5 * error)[missing].all()
        assert (found.draws[:, i][:, ~missing] == row[~missing]).all()


def test_chains_are_for_densities_along_which_one_can_move(run):
    with pytest.raises(CapabilityError, match="one after another"):
        run.impute(np.array([[np.nan, 1, 0, 1]]), method="mcmc")


def test_with_several_orderings_draws_follow_their_average():
    """Weights that know how each ordering explains what it meets first; all orders are far from one another here."""
    run = train("made", table(), settings={"hidden": [8], "orderings": 3}, epochs=1)
    module = run.model.p["x"].module
    with torch.no_grad():
        torch.manual_seed(2)
        for parameter in module.parameters():
            parameter.normal_(std=1.5)
    rows = np.array([[np.nan, np.nan, 0, 1], [1, np.nan, np.nan, 0], [1, 0, np.nan, np.nan]])
    found = run.impute(rows, draws=2000, particles=6000, seed=1)
    for i, row in enumerate(rows):
        missing, truth = np.isnan(row), conditional_means(run, row)
        size = found.effective_sample_size[i]
        assert found.method[i] == "importance" and size >= 100
        error = np.sqrt(truth * (1 - truth) * (1 / size + 1 / 2000)) + 1e-12
        assert (np.abs(found.mean[i] - truth) < 4.5 * error)[missing].all()
        assert (np.abs(found.draws[:, i].mean(0) - truth) < 4.5 * error)[missing].all()


def test_spreads_are_standard_deviations():
    """Of a binary element that is certainly drawn, √(p (1 − p))."""
    run = train("made", table(), settings={"hidden": [32]}, epochs=20, batch_size=50, lr=0.02)
    row = np.array([[np.nan, 1.0, 0.0, 1.0]])
    found = run.impute(row, draws=2000, particles=4000, seed=1)
    assert found.method[0] == "importance"
    p = found.mean[0, 0]
    assert 0.02 < p < 0.98
    assert found.spread[0, 0] == pytest.approx(np.sqrt(p * (1 - p)), rel=1e-3)


# Pictures of three rows and two columns, under random weights, against enumeration of all 64

SIZE, PIXELS, PARTICLES = (1, 3, 2), 6, 4000
NETWORKS = {
    "pixelcnn": ("pixelcnn", {"width": 8, "layers": 3, "first": 3, "hidden": 16}),
    "made": ("made", {"hidden": [32]}),
    "made at random": ("made", {"hidden": [32], "order": "random"}),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


class Truth(NamedTuple):
    """Of a picture with pixels missing, which are drawn from q = Π p(x_d | x_<d) over missing d.

    The weight w is the product of the factors of what is known after the first missing pixel, and of K draws

        mean of x, Σ w x / Σ w:  E_p[x | known],  with variance  E_q[w² (x − mean)²] / (K E_q[w]²)
        effective size:          K E_q[w]² / E_q[w²]

    Attributes:
        mean, variance: of p(x | known), (6,).
        error: E_q[w² (x − mean)²] / E_q[w²], (6,): what an effective draw adds to the variance of the mean.
        share: effective size / K.
        swing: standard deviation of the logarithm of the effective size, times √K.
    """

    mean: np.ndarray
    variance: np.ndarray
    error: np.ndarray
    share: float
    swing: float


@dataclass(frozen=True)
class Pictures:
    """A model of one order, and what it says of each picture.

    Attributes:
        every: all there are, (64, 6).
        terms: log p of each pixel given those before it in the order, (64, 6).
    """

    run: Run
    order: list[int]
    every: np.ndarray
    terms: np.ndarray

    @classmethod
    def of(cls, name: str, spread: float, kept: float = 1.0) -> Pictures:
        """With weights and biases away from where they start; `kept` then multiplies the weights."""
        which, settings = NETWORKS[name]
        schema = Schema.of_pictures(SIZE, levels=2)
        with seeded(3), torch.no_grad():
            model = build(which, schema, settings).eval()
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
                parameter.mul_(kept if parameter.dim() > 1 else 1.0)
            module = model.p["x"].module
            every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=PIXELS)))
            pictures = every.view(-1, *SIZE)
            terms = module().terms(pictures).flatten(1).double()  # pyright: ignore
            assert float(terms.sum(1).exp().sum()) == pytest.approx(1, abs=1e-5)
        data = Dataset("made", schema, {"test": Split(np.zeros((1, *SIZE), np.uint8))})
        run = Run({"model": which, "settings": {}}, schema, model, None, [], data)
        return cls(run, module.network.order.tolist(), every.numpy().astype(float), terms.numpy())  # pyright: ignore

    def truth(self, row: np.ndarray) -> Truth:
        """Of a row (6,), NaN where missing."""
        gone = np.isnan(row)
        fits = (self.every == row)[:, ~gone].all(1)
        later = self.order[next(i for i, d in enumerate(self.order) if gone[d]) :]
        drawn, weighed = [d for d in later if gone[d]], [d for d in later if not gone[d]]
        q, w = np.exp(self.terms[fits][:, drawn].sum(1)), np.exp(self.terms[fits][:, weighed].sum(1))
        assert q.sum() == pytest.approx(1, abs=1e-5)
        first, second = (q * w).sum(), (q * w**2).sum()
        mean = (q * w) @ self.every[fits] / first
        away = (self.every[fits] - mean) ** 2
        swing = float(np.sqrt(q @ (2 * w / first - w**2 / second - 1) ** 2))
        return Truth(mean, (q * w) @ away / first, (q * w**2) @ away / second, first**2 / second, swing)

    def fill(self, rows: np.ndarray) -> Imputation:
        return self.run.impute(rows.reshape(-1, *SIZE), draws=500, particles=PARTICLES, seed=1)

    def check(self, rows: np.ndarray, found: Imputation, method: str) -> None:
        """Means, draws and effective sizes."""
        assert (found.method == method).all()
        for i, row in enumerate(rows):
            gone, truth, size = np.isnan(row), self.truth(row), found.effective_sample_size[i]
            mean, draws = found.mean[i].reshape(PIXELS), found.draws[:, i].reshape(-1, PIXELS)
            error = truth.error / size
            assert (np.abs(mean - truth.mean) < 4.5 * np.sqrt(error) + 1e-6)[gone].all()
            error = error + truth.variance / len(draws)
            assert (np.abs(draws.mean(0) - truth.mean) < 4.5 * np.sqrt(error) + 1e-6)[gone].all()
            assert (draws == row)[:, ~gone].all() and (mean == row)[~gone].all()
            if method == "importance":
                assert 1 < size <= PARTICLES * (1 + 1e-6)
                off = abs(math.log(size / (PARTICLES * truth.share)))
                assert off < 4.5 * truth.swing / math.sqrt(PARTICLES) + 1e-4


@every_network
def test_pixels_are_filled_in_as_by_enumeration(name):
    """Every third of all patterns in which something known follows something missing, known pixels at random."""
    pictures = Pictures.of(name, 0.5)
    rng, rows = np.random.default_rng(4), []
    for pattern in itertools.product((False, True), repeat=PIXELS):  # in the order of the network
        if any(a and not b for a, b in itertools.pairwise(pattern)):
            row = rng.integers(0, 2, PIXELS).astype(float)
            row[[d for d, gone in zip(pictures.order, pattern, strict=True) if gone]] = np.nan
            rows.append(row)
    assert len(rows) == 64 - 7  # of seven all that is known comes first
    pictures.check(np.array(rows[::3]), pictures.fill(np.array(rows[::3])), "importance")


@every_network
def test_nothing_is_lost_where_all_that_is_known_comes_first(name):
    """As many draws as were asked for, each worth one."""
    pictures = Pictures.of(name, 0.5)
    rows = np.random.default_rng(5).integers(0, 2, (5, PIXELS)).astype(float)
    for i in range(5):
        rows[i, pictures.order[i + 1 :]] = np.nan
    found = pictures.fill(rows)
    pictures.check(rows, found, "ordered")
    assert (found.effective_sample_size == 500).all()


@every_network
def test_pixels_that_know_nothing_of_each_other_weigh_alike(name):
    pictures = Pictures.of(name, 0.5, kept=0.0)
    row = np.array([[np.nan, 1, np.nan, 0, 1, 0]])
    found = pictures.fill(row)
    pictures.check(row, found, "importance")
    assert found.effective_sample_size[0] == pytest.approx(PARTICLES, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "spread", "kept"), [("pixelcnn", 0.7, 1), ("made", 0.5, 2), ("made at random", 0.7, 1)]
)
def test_unlikely_pixels_that_follow_leave_few_draws(name, spread, kept):
    """The second and third pixel missing, and beside them what suits most draws, and what suits the fewest."""
    pictures = Pictures.of(name, spread, kept)
    rows = pictures.every.copy()
    rows[:, pictures.order[1:3]] = np.nan
    rows = np.unique(rows, axis=0)
    shares = np.array([pictures.truth(row).share for row in rows])
    chosen = rows[[shares.argmax(), shares.argmin()]]
    found = pictures.fill(chosen)
    pictures.check(chosen, found, "importance")
    likely, unlikely = found.effective_sample_size
    assert likely > PARTICLES / 2 and unlikely < PARTICLES / 6
