"""Quantisers against brute force, closed forms and enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]
from sklearn.cluster import KMeans
from torch import Tensor

from jensen.conditionals.quantizers import (
    AveragedCodebook,
    Codebook,
    FiniteScalar,
    GradientCodebook,
    Quantizer,
    StraightThrough,
    k_means,
    nearest_rows,
    use,
)
from jensen.core import seeded

KINDS = {
    "gradient": lambda: GradientCodebook(11, 3, 0.25, 0.9, 0.0),
    "running means": lambda: AveragedCodebook(11, 3, 0.25, 0.9, 0.0),
    "finite scalar": lambda: FiniteScalar([5, 4, 2]),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str) -> Quantizer:
    with seeded(0):
        return KINDS[kind]().double()


def vectors_of(quantizer: Quantizer) -> Tensor:
    """(K, D)."""
    return quantizer.lookup(torch.arange(quantizer.codes, dtype=torch.float64).unsqueeze(0))[0].mT


@pytest.mark.parametrize("kind", ["gradient", "running means"])
def test_a_code_is_the_nearest_vector(kind):
    quantizer = made(kind)
    h = torch.randn(20, 3, 7, dtype=torch.float64)
    rows = h.mT.reshape(-1, 3).numpy()
    nearest = cKDTree(vectors_of(quantizer).detach().numpy()).query(rows)[1]
    np.testing.assert_array_equal(quantizer.assign(h).flatten().numpy(), nearest)


def test_nearest_rows_are_found_part_by_part(monkeypatch):
    rows, centres = torch.randn(1000, 4, dtype=torch.float64), torch.randn(1 << 16, 4, dtype=torch.float64)
    nearest = cKDTree(centres.numpy()).query(rows.numpy())[1]
    np.testing.assert_array_equal(nearest_rows(rows, centres).numpy(), nearest)


@every_kind
def test_numbers_and_vectors_of_codes_go_round(kind):
    """Every code is the nearest to its own vector, and reached from it."""
    quantizer = made(kind)
    k = torch.arange(quantizer.codes, dtype=torch.float64).reshape(1, -1)
    e = quantizer.lookup(k)
    assert torch.equal(quantizer.nearest(e), k)
    assert len(torch.unique(e[0].mT, dim=0)) == quantizer.codes


def test_finite_scalars_reach_all_codes_about_equally():
    """In numbers whose sigmoid is uniform all are equally likely."""
    quantizer = FiniteScalar([8, 5, 3, 2]).double()
    assert quantizer.codes == 240
    k = quantizer.assign(torch.rand(200, 4, 600, dtype=torch.float64).logit())
    counts = torch.bincount(k.long().flatten(), minlength=240).double()
    assert (counts - 500).abs().max() < 5.5 * math.sqrt(500)
    e = quantizer.lookup(k)
    assert e.min() == -1
    assert e.max() == 1


def test_finite_scalars_at_the_ends_stay_codes():
    quantizer = FiniteScalar([8, 5, 3, 2])
    ends = torch.tensor([-1e6, 1e6]).repeat(4, 1).unsqueeze(0)
    assert quantizer.assign(ends).tolist() == [[0, 239]]


@every_kind
def test_the_vector_is_that_of_the_code_exactly_and_its_gradient_that_of_the_input(kind):
    quantizer = made(kind)
    h = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    k = quantizer.assign(h)
    e = quantizer.through(h, k)
    assert torch.equal(e, quantizer.lookup(k))
    slope = torch.randn_like(e)
    (found,) = torch.autograd.grad((slope * e).sum(), h)
    if isinstance(quantizer, FiniteScalar):
        levels = quantizer.levels.double()
        slope = slope * 2 * levels / (levels - 1) * h.sigmoid() * (1 - h.sigmoid())
    torch.testing.assert_close(found, slope)


def test_no_gradient_goes_straight_through_to_the_codebook():
    h, e = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    one, other = torch.autograd.grad(StraightThrough.apply(h, e).sum(), (h, e), allow_unused=True)
    assert torch.equal(one, torch.ones(3))
    assert other is None


@pytest.mark.parametrize("kind", ["gradient", "running means"])
def test_costs_are_sums_over_cells_and_dimensions(kind):
    """Twice the cells, all alike, cost twice as much; twice the data the same on average."""
    quantizer = made(kind)
    h = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    k = quantizer.assign(h)
    cost = quantizer.cost(h, k)
    distance = (h - quantizer.lookup(k)).square().sum((1, 2))
    torch.testing.assert_close(cost, (1.25 if kind == "gradient" else 0.25) * distance)
    torch.testing.assert_close(quantizer.cost(h.repeat(1, 1, 2), k.repeat(1, 2)), 2 * cost)
    (to_h,) = torch.autograd.grad(cost.sum(), h, retain_graph=True)
    torch.testing.assert_close(to_h, 0.5 * (h - quantizer.lookup(k)).detach())
    if isinstance(quantizer, GradientCodebook):
        (to_vectors,) = torch.autograd.grad(cost.sum(), quantizer.vectors)
        rows, index = h.detach().mT.reshape(-1, 3), k.long().flatten()
        expected = torch.zeros_like(to_vectors).index_add_(0, index, 2 * (quantizer.vectors[index] - rows).detach())
        torch.testing.assert_close(to_vectors, expected)


def blobs(n: int, centres: Tensor) -> Tensor:
    return (centres[torch.arange(n) % len(centres)] + 0.05 * torch.randn(n, centres.shape[1])).double()


def test_running_means_come_to_those_of_k_means():
    """Of a fixed set, quantised again and again: each vector is the mean of what falls to it, as in K-means."""
    with seeded(3):
        rows = blobs(300, 4 * torch.randn(6, 3))
        quantizer = AveragedCodebook(6, 3, 0.25, 0.9, 0.0).double()
        h = rows.mT.unsqueeze(0)
        quantizer.start(h)
        for _ in range(300):
            quantizer.learn(h, quantizer.assign(h))
    reference = KMeans(6, n_init=10, random_state=0).fit(rows.numpy())  # pyright: ignore[reportArgumentType]
    found = quantizer.vectors[torch.from_numpy(cKDTree(quantizer.vectors.numpy()).query(reference.cluster_centers_)[1])]
    np.testing.assert_allclose(found.numpy(), reference.cluster_centers_, atol=1e-6)


def test_running_means_by_hand():
    """Two steps in closed form: counts and sums decay, the smoothed counts divide and are not written back."""
    with seeded(0):
        quantizer = AveragedCodebook(3, 2, 0.25, 0.8, 0.0).double()
        h = torch.randn(4, 2, 5, dtype=torch.float64)
    counts, sums = torch.ones(3, dtype=torch.float64), quantizer.sums.clone()
    for _ in range(2):
        k = quantizer.assign(h)
        quantizer.learn(h, k)
        found = torch.nn.functional.one_hot(k.long().flatten(), 3).double()
        counts = 0.8 * counts + 0.2 * found.sum(0)
        sums = 0.8 * sums + 0.2 * found.mT @ h.mT.reshape(-1, 2)
        torch.testing.assert_close(quantizer.counts, counts)
        smoothed = counts.sum() * (counts + 1e-5) / (counts.sum() + 3e-5)
        torch.testing.assert_close(quantizer.vectors, sums / smoothed.unsqueeze(1))


@pytest.mark.parametrize("kind", [GradientCodebook, AveragedCodebook])
def test_rows_count_by_their_weight(kind):
    """A row of weight 2 is two rows, and one of weight 0 none."""
    with seeded(0):
        one, h = kind(4, 2, 0.25, 0.8, 0.0).double(), torch.randn(3, 2, 5, dtype=torch.float64)
        two = kind(4, 2, 0.25, 0.8, 0.0).double()
    two.load_state_dict(one.state_dict())
    k = one.assign(h)
    one.learn(h, k, torch.tensor([2.0, 1.0, 0.0]))
    again = torch.tensor([0, 0, 1])
    two.learn(h[again], k[again])
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name])


@pytest.mark.parametrize("kind", [GradientCodebook, AveragedCodebook])
def test_dead_codes_start_anew_at_what_the_encoder_puts_out(kind):
    with seeded(0):
        quantizer: Codebook = kind(20, 2, 0.25, 0.9, 0.05)
        h = torch.randn(16, 2, 25)
        with torch.no_grad():
            away = quantizer.vectors + torch.where(torch.arange(20) < 15, 1e3, 0.0).unsqueeze(1)
            quantizer.vectors.copy_(away)
            if isinstance(quantizer, AveragedCodebook):
                quantizer.sums.copy_(away)
        assert len(quantizer.assign(h).unique()) <= 5
        for _ in range(60):
            quantizer.learn(h, quantizer.assign(h))
        assert len(quantizer.assign(h).unique()) == 20
    assert quantizer.vectors.abs().max() < 10


@pytest.mark.parametrize("kind", [GradientCodebook, AveragedCodebook])
def test_a_code_that_starts_anew_counts_as_much_as_others(kind):
    """Else it is dead again at the next step, before it can be used."""
    with seeded(0):
        quantizer: Codebook = kind(4, 2, 0.25, 0.9, 0.5)
        quantizer.counts.copy_(torch.tensor([0.0, 4.0, 4.0, 4.0]))
        h = torch.randn(16, 2, 5)
        quantizer.learn(h, torch.randint(1, 4, (16, 5)))
    others = quantizer.counts[1:]
    assert quantizer.counts[0].item() == pytest.approx(others.sum().item() / 4)


@pytest.mark.parametrize("kind", [GradientCodebook, AveragedCodebook])
def test_codes_start_at_centres_of_data(kind):
    with seeded(1):
        centres = 4 * torch.randn(6, 3)
        quantizer = kind(6, 3, 0.25, 0.9, 0.0).double()
        quantizer.start(blobs(300, centres).mT.unsqueeze(0))
    assert cKDTree(quantizer.vectors.detach().numpy()).query(centres.numpy())[0].max() < 0.05


def test_k_means_finds_about_what_scikit_learn_finds():
    with seeded(2):
        rows = torch.randn(2000, 4, dtype=torch.float64)
        centres, counts = k_means(rows, 20)
    inertia = cKDTree(centres.numpy()).query(rows.numpy())[0] ** 2
    reference = KMeans(20, n_init=3, random_state=0).fit(rows.numpy())  # pyright: ignore[reportArgumentType]
    assert inertia.sum() < 1.05 * float(reference.inertia_)  # pyright: ignore[reportArgumentType]
    assert counts.sum() == 2000


def test_more_codes_than_data_are_no_fault():
    quantizer = AveragedCodebook(50, 2, 0.25, 0.9, 0.05)
    h = torch.zeros(3, 2, 4)
    quantizer.start(h)
    quantizer.learn(h, quantizer.assign(h))
    assert torch.isfinite(quantizer.vectors).all()


def test_perplexity_and_use():
    perplexity, share = use(torch.tensor([0.0, 0, 1, 1]), 4)
    assert perplexity.item() == pytest.approx(2)
    assert share.item() == 0.5
