"""Couplings, their partitions, and what a deep chain of them must stand."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from jensen.core import seeded
from jensen.nets import mlp
from jensen.nets.coupling import PictureConditioner
from jensen.transforms import ActNorm, AdditiveMap, AffineMap, Composed, Coupling, Squeeze, Transform
from jensen.transforms.coupling import (
    Blocks,
    Chosen,
    Masked,
    Partition,
    alternating,
    checkerboard,
    half,
    random_half,
)

PARTITIONS = {
    "half": lambda: half((5,)),
    "half, the first changed": lambda: half((5,), keep_first=False),
    "cut": lambda: Blocks((5,), 1),
    "even": lambda: alternating((5,), 0),
    "odd": lambda: alternating((5,), 1),
    "chosen": lambda: Chosen((5,), [4, 0]),
    "random": lambda: random_half((5,)),
    "channels": lambda: half((3, 2, 2)),
    "alternating channels": lambda: alternating((3, 2, 2), 1),
    "checkerboard": lambda: checkerboard((2, 4, 2)),
    "other checkerboard": lambda: checkerboard((2, 4, 2), 1),
    "odd checkerboard": lambda: checkerboard((2, 3, 5)),
    "flat checkerboard": lambda: checkerboard((1, 1, 2), 1),
    "mask": lambda: Masked(torch.tensor([1.0, 0.0, 0.0, 1.0])),
}
every_partition = pytest.mark.parametrize("name", PARTITIONS)


def network(partition: Partition, size: int, context: int = 0, width: int = 16) -> nn.Module:
    inputs, outputs = partition.network_shapes(size, context)
    if len(inputs) == 1:
        return mlp(inputs, outputs, hidden=[width, width])
    return PictureConditioner(inputs, outputs, channels=width, blocks=1, kernel=3, activation="relu")


def affine(partition: Partition, context: int = 0, width: int = 16) -> Coupling:
    return Coupling(partition, network(partition, AffineMap.size, context, width), AffineMap())


def move(transform: nn.Module, size: float) -> None:
    with torch.no_grad():
        for p in transform.parameters():
            p.add_(size * torch.randn_like(p))


def numbered(partition: Partition) -> Tensor:
    """Events whose elements are 1, 2, ..., (2, *shape)."""
    n = torch.Size(partition.shape).numel()
    return torch.arange(1.0, 2 * n + 1).view(2, *partition.shape)


# Partitions


@every_partition
def test_a_partition_joins_what_it_took_apart(name):
    partition = PARTITIONS[name]()
    x = numbered(partition)
    kept, changed = partition.split(x)
    assert kept.shape[1:] == partition.kept_shape
    assert changed.shape[1:] == partition.changed_shape
    assert torch.equal(partition.join(kept, changed), x)


@every_partition
def test_what_is_kept_and_what_is_changed_are_complements(name):
    """By the Jacobian of a coupling with random weights: kept rows are those of the identity, the others are not."""
    partition = PARTITIONS[name]()
    with seeded(0):
        coupling = affine(partition).double()
        move(coupling, 0.5)
        z = torch.randn(1, *partition.shape, dtype=torch.float64)
    n = z.numel()
    jacobian = torch.autograd.functional.jacobian(coupling, z).reshape(n, n)
    kept = (jacobian == torch.eye(n)).all(1)
    assert 0 < kept.sum() < n
    assert (jacobian[kept][:, ~kept] == 0).all()
    among_changed = jacobian[~kept][:, ~kept]
    assert (among_changed == among_changed.diagonal().diag()).all()  # each changed element moves by itself
    if name != "mask" and "random" not in name:
        share = kept.double().mean()
        assert 0.2 <= share <= 0.8


def test_a_checkerboard_keeps_one_colour():
    x = torch.zeros(1, 1, 4, 6)
    for shape in ((1, 4, 6), (1, 3, 5)):
        for parity in (0, 1):
            partition = checkerboard(shape, parity)
            x = torch.zeros(1, *shape)
            kept, changed = partition.split(x)
            colour = partition.join(torch.ones_like(kept), torch.zeros_like(changed))
            if isinstance(partition, Masked):
                colour = partition.mask[None]
            row, column = torch.meshgrid(torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
            assert torch.equal(colour[0, 0], ((row + column) % 2 == parity).float())


def test_both_ways_to_a_checkerboard_are_one():
    """Gathered squares and a mask keep and change the same pixels, given parameters that do not depend on the input."""
    gathered, masked = checkerboard((1, 4, 4)), Masked(1.0 - torch.tensor([[0.0, 1], [1, 0]]).repeat(1, 2, 2))
    x = torch.randn(3, 1, 4, 4)
    outputs = []
    for partition in (gathered, masked):
        coupling = affine(partition)
        with torch.no_grad():
            assert isinstance(coupling.network, PictureConditioner)
            bias = coupling.network.output.bias
            assert bias is not None
            bias.view(2, -1).copy_(torch.tensor([[0.7], [0.3]]))
        outputs.append(coupling.forward_and_ladj(x))
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 3, 5), (2, 2, 6), (1, 1, 2)])
def test_two_colours_change_every_pixel_of_a_picture(shape):
    with seeded(0):
        block = Composed([affine(checkerboard(shape, 0)), affine(checkerboard(shape, 1))])
        move(block, 0.3)
        z = torch.randn(4, *shape)
        assert (block(z) != z).all()


@pytest.mark.parametrize("make", [half, alternating])
def test_two_masks_of_channels_change_every_channel(make):
    with seeded(0):
        block = Composed([affine(make((4, 3, 3), False)), affine(make((4, 3, 3), True))])
        move(block, 0.3)
        z = torch.randn(4, 4, 3, 3)
        assert (block(z) != z).all()


@pytest.mark.parametrize("make", [lambda: half((1,)), lambda: alternating((1,)), lambda: Blocks((3,), 3)])
def test_a_partition_with_an_empty_part_is_refused(make):
    with pytest.raises(ValueError, match="something to keep and something to change"):
        make()


# Couplings


@every_partition
@pytest.mark.parametrize("context", [0, 3])
def test_a_coupling_starts_as_the_identity(name, context):
    partition = PARTITIONS[name]()
    coupling = affine(partition, context)
    z = torch.randn(5, *partition.shape)
    c = torch.randn(5, context) if context else None
    for direction in (coupling.forward_and_ladj, coupling.inverse_and_ladj):
        x, ladj = direction(z, c)
        assert torch.equal(x, z)
        assert (ladj == 0).all()


@pytest.mark.parametrize("partition", [half((4,)), checkerboard((1, 4, 4)), checkerboard((1, 3, 3))])
def test_a_context_changes_the_map(partition):
    with seeded(0):
        coupling = affine(partition, context=2)
        move(coupling, 0.5)
        z = torch.randn(1, *partition.shape).expand(2, *partition.shape)
        x = coupling(z, torch.randn(2, 2))
    assert not torch.allclose(x[0], x[1])


def test_additive_couplings_keep_volumes():
    with seeded(0):
        part = half((4,))
        coupling = Coupling(part, network(part, 1), AdditiveMap())
        move(coupling, 1.0)
        x, ladj = coupling.forward_and_ladj(torch.randn(3, 4))
    assert (ladj == 0).all()
    torch.testing.assert_close(coupling.inverse_and_ladj(x)[1], torch.zeros(()))


def test_a_network_without_weights_is_refused():
    with pytest.raises(ValueError, match="linear or convolutional"):
        Coupling(half((4,)), nn.Identity(), AdditiveMap())


@pytest.mark.parametrize("shape", [(6,), (2, 4, 4)])
def test_a_network_in_bfloat16_leaves_the_map_in_single_precision(shape):
    """What comes out is float32, is near what a float32 network gives, and inverts as exactly."""
    with seeded(0):
        coupling = affine(half(shape))
        move(coupling, 0.2)
        z = torch.randn(8, *shape)
        exact = coupling(z)
        coupling.precision = torch.bfloat16
        x, ladj = coupling.forward_and_ladj(z)
    assert x.dtype == ladj.dtype == torch.float32
    assert not torch.equal(x, exact)
    torch.testing.assert_close(x, exact, rtol=0.1, atol=0.1)
    torch.testing.assert_close(coupling.inverse(x), z, rtol=1e-5, atol=1e-5)


# Deep chains


def deep(dims: int, layers: int) -> Transform:
    """Alternating couplings with activation normalisation."""
    parts: list[Transform] = []
    for i in range(layers):
        parts += [affine(alternating((dims,), i), width=32), ActNorm((dims,))]
    return Composed(parts)


@settings(deadline=None, max_examples=10)
@given(dims=st.integers(2, 9), size=st.sampled_from([0.0, 0.05, 0.1]), seed=st.integers(0, 1000))
def test_sixteen_layers_come_back(dims, size, seed):
    with seeded(seed), torch.no_grad():
        transform = deep(dims, 16).double()
        move(transform, size)
        x = torch.randn(50, dims, dtype=torch.float64)
        z, ladj = transform.inverse_and_ladj(x)
        again, back = transform.forward_and_ladj(z)
    torch.testing.assert_close(again, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((ladj + back).expand(50), torch.zeros(50, dtype=x.dtype), rtol=0, atol=1e-6)


def student(rows: int, dims: int) -> Tensor:
    """Student-t with two degrees of freedom: its variance is infinite."""
    return torch.distributions.StudentT(2.0).sample((rows, dims))


def fit(transform: Transform, x: Tensor, steps: int, lr: float = 1e-3, batch: int = 128) -> list[float]:
    """Mean log-densities of the batches."""
    transform.initialize(x)
    optimizer = torch.optim.Adam(transform.parameters(), lr)
    base = torch.distributions.Normal(0.0, 1.0)
    seen = []
    for _ in range(steps):
        z, ladj = transform.inverse_and_ladj(x[torch.randint(0, len(x), (batch,))])
        log_p = (base.log_prob(z).sum(1) + ladj).mean()
        optimizer.zero_grad()
        (-log_p).backward()
        optimizer.step()
        seen.append(log_p.item())
    return seen


def test_heavy_tails_give_no_nan_and_a_trained_flow_comes_back():
    """Also with all of its weights enlarged by a half; in float64 and float32."""
    with seeded(0):
        x = student(2000, 6)
        transform = deep(6, 16)
        seen = torch.tensor(fit(transform, x, 200))
    assert torch.isfinite(seen).all()
    assert seen[-50:].mean() > seen[:50].mean()
    with torch.no_grad():
        for enlarged in (1.0, 1.5):
            for p in transform.parameters():
                p.mul_(enlarged)
            double = copy.deepcopy(transform).double()
            exact = double(double.inverse(x.double()))
            torch.testing.assert_close(exact, x.double(), rtol=1e-8, atol=1e-8)
            error = (transform(transform.inverse(x)) - x).abs().amax(1)
            assert (error <= 1e-3 * x.abs().amax(1).clamp_min(1)).all()  # of the row: its elements mix


def test_normalisation_inside_a_deep_flow_starts_from_what_reaches_it():
    """Every ActNorm of a chain with squeezes and couplings gives, of the first data, mean 0 and variance 1."""
    with seeded(0):
        shape = (1, 8, 8)
        inner = (4, 4, 4)
        parts = [ActNorm(inner), affine(half(inner)), ActNorm(inner), Squeeze(shape), affine(checkerboard(shape))]
        flow = Composed([*parts, ActNorm(shape)])
        for m in flow.modules():
            if isinstance(m, Coupling):
                move(m, 0.2)
        h = x = 5 + 3 * torch.randn(200, *shape)
        flow.initialize(x)
        normalised = 0
        for part in reversed(flow.chain):
            h = part.inverse(h)
            if isinstance(part, ActNorm):
                normalised += 1
                torch.testing.assert_close(h.mean((0, 2, 3)), torch.zeros(h.shape[1]), rtol=0, atol=1e-5)
                torch.testing.assert_close(h.var((0, 2, 3), correction=0), torch.ones(h.shape[1]), rtol=1e-4, atol=1e-4)
    assert normalised == 3
