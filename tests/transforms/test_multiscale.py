"""Squeezing, scales, and the histogram map."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jensen.core import seeded
from jensen.nets.coupling import PictureConditioner
from jensen.transforms import ActNorm, AffineMap, Composed, Coupling, LULinear, Marginals, MultiScale, Squeeze
from jensen.transforms.coupling import Partition, checkerboard, half


def affine(partition: Partition, context: int = 0) -> Coupling:
    inputs, outputs = partition.network_shapes(2, context)
    return Coupling(
        partition, PictureConditioner(inputs, outputs, channels=4, blocks=1, kernel=3, activation="tanh"), AffineMap()
    )


def three_scales(context: int = 0) -> MultiScale:
    """(2, 8, 4): (8, 4, 2), of which (4, 4, 2) go on, become (16, 2, 1), of which (8, 2, 1) go on."""
    first = Composed([affine(half((8, 4, 2)), context), LULinear((8, 4, 2)), Squeeze((2, 8, 4))])
    second = Composed([ActNorm((16, 2, 1)), Squeeze((4, 4, 2)), affine(checkerboard((4, 4, 2)), context)])
    third = affine(checkerboard((8, 2, 1)), context)
    return MultiScale([first, second, third])


def test_squeezed_channels_are_the_pixels_of_a_square():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    z = Squeeze((1, 4, 4)).inverse(x)
    assert torch.equal(z[0, :, 0, 0], torch.tensor([0.0, 5.0, 1.0, 4.0]))
    row, column = (x[0, 0] // 4).long(), (x[0, 0] % 4).long()
    colour = Squeeze((1, 4, 4)).inverse(((row + column) % 2).view(1, 1, 4, 4).float())
    assert (colour[:, :2] == 0).all() and (colour[:, 2:] == 1).all()


@settings(deadline=None, max_examples=20)
@given(c=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4))
def test_squeezing_there_and_back(c, h, w):
    squeeze = Squeeze((c, 2 * h, 2 * w))
    x = torch.randn(2, c, 2 * h, 2 * w)
    z = squeeze.inverse(x)
    assert z.shape[1:] == squeeze.domain_shape == (4 * c, h, w)
    assert torch.equal(squeeze(z), x)


@pytest.mark.parametrize("shape", [(1, 3, 4), (1, 4, 3), (2, 1, 1)])
def test_odd_pictures_are_not_squeezed(shape):
    with pytest.raises(ValueError, match="even height and width"):
        Squeeze(shape)


@pytest.mark.parametrize("context", [0, 2])
def test_the_log_determinant_of_three_scales_is_that_of_the_jacobian(context):
    with seeded(0):
        transform = three_scales(context).double()
        with torch.no_grad():
            for p in transform.parameters():
                p.add_(0.3 * torch.randn_like(p))
        z = torch.randn(1, 64, dtype=torch.float64)
        c = torch.randn(1, context, dtype=torch.float64) if context else None
    assert transform.domain_shape == (64,)
    jacobian = torch.autograd.functional.jacobian(lambda z: transform(z, c), z).reshape(64, 64)
    with torch.no_grad():
        x, ladj = transform.forward_and_ladj(z, c)
        again, back = transform.inverse_and_ladj(x, c)
    torch.testing.assert_close(ladj.squeeze(), torch.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back, -ladj)
    torch.testing.assert_close(again, z, rtol=1e-9, atol=1e-9)


def test_what_is_finished_first_stands_first():
    """z = (z₁, z₂, z₃): what the first scale finished does not depend on what happens to the rest."""
    with seeded(0):
        transform = three_scales()
        x = torch.randn(3, 2, 8, 4)
        before = transform.inverse(x)
        with torch.no_grad():
            for p in [*transform.levels[1].parameters(), *transform.levels[2].parameters()]:
                p.add_(0.3 * torch.randn_like(p))
        after = transform.inverse(x)
    assert torch.equal(before[:, :32], after[:, :32])
    assert not torch.equal(before[:, 32:], after[:, 32:])


def test_scales_start_from_data_each_in_turn():
    with seeded(0):
        levels = [
            Composed([ActNorm((4, 4, 4)), Squeeze((1, 8, 8))]),
            Composed([ActNorm((8, 2, 2)), Squeeze((2, 4, 4))]),
        ]
        transform = MultiScale(levels)
        x = 3 + 2 * torch.randn(100, 1, 8, 8)
        transform.initialize(x)
        z = transform.inverse(x)
    torch.testing.assert_close(z.mean(), torch.zeros(()), rtol=0, atol=1e-5)
    torch.testing.assert_close(z[:, 32:].view(100, 8, 4).var((0, 2), correction=0), torch.ones(8), rtol=1e-4, atol=1e-4)


def test_scales_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="takes some of the channels of"):
        MultiScale([Squeeze((1, 4, 4)), Squeeze((4, 2, 2))])  # nothing would be finished
    with pytest.raises(ValueError, match="takes some of the channels of"):
        MultiScale([Squeeze((1, 4, 4)), Squeeze((2, 4, 4))])


# Marginals


def data(rows: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    always = np.zeros((rows, 1))
    often = rng.choice(4, (rows, 1), p=[0.7, 0.1, 0.0, 0.2])
    return torch.from_numpy(np.concatenate([always, often, rng.integers(0, 4, (rows, 1))], 1)).float()


def test_standard_normals_become_the_histogram():
    """Under an identity flow the probability of ⌊v⌋ is the element's share, and every level is spread evenly."""
    x = data(20_000)
    marginals = Marginals((3,), 4)
    with seeded(0):
        marginals.initialize(x + torch.rand_like(x))
        shares = torch.stack([(x == k).float().mean(0) for k in range(4)], 1)
        torch.testing.assert_close(marginals.shares, shares, rtol=0, atol=0.002)
        v = torch.cartesian_prod(*[torch.arange(4.0) + 0.3] * 3)
        z, ladj = marginals.inverse_and_ladj(v)
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + ladj
        direct = torch.stack([marginals.shares[d][v[:, d].long()] for d in range(3)]).log().sum(0)
        torch.testing.assert_close(log_p, direct, rtol=1e-5, atol=1e-5)
        drawn = marginals(torch.randn(20_000, 3))
    for d in range(3):
        counts = torch.bincount(drawn[:, d].floor().long(), minlength=4) / 20_000
        torch.testing.assert_close(counts, marginals.shares[d], rtol=0, atol=0.02)
    assert drawn.min() >= 0 and drawn.max() <= 4
    torch.testing.assert_close((drawn - drawn.floor()).mean(), torch.tensor(0.5), rtol=0, atol=0.01)


def test_a_level_never_seen_is_possible_and_comes_back():
    x = data(2000)
    marginals = Marginals((3,), 4)
    marginals.initialize(x)
    v = torch.tensor([[3.5, 2.25, 0.0], [0.0, 3.999, 3.999]])
    z, ladj = marginals.inverse_and_ladj(v)
    assert torch.isfinite(z).all() and torch.isfinite(ladj).all()
    torch.testing.assert_close(marginals(z), v, rtol=1e-4, atol=1e-4)


def test_it_counts_only_once():
    x = data(100)
    marginals = Marginals((3,), 4)
    marginals.initialize(x)
    before = marginals.shares.clone()
    marginals.initialize(3 - x)
    assert torch.equal(marginals.shares, before)


def test_uniform_levels_score_exactly_their_number_of_bits():
    """Before data all levels are equally likely: 8 bits a pixel of 256 levels, whatever they are."""
    v = torch.randint(0, 256, (10, 1, 3, 3)).float() + torch.rand(10, 1, 3, 3)
    z, ladj = Marginals((1, 3, 3), 256).inverse_and_ladj(v)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1) + ladj
    torch.testing.assert_close(-log_p / (9 * math.log(2)), torch.full((10,), 8.0), rtol=1e-6, atol=1e-6)
