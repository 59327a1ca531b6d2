"""Muon takes the steps of PyTorch's own where that can take them, along a direction that a decomposition confirms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jensen.nets.masked_linear import MaskedLinear
from jensen.training.adam import LeanAdam
from jensen.training.muon import Muon, matrices_of, orthogonal


def learn(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Towards a point of each parameter's own, along a path that turns."""
    for i in steps:
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(i)
        loss = torch.zeros(())
        for p in parameters:
            loss = loss + (p - torch.randn(p.shape, generator=generator)).pow(4).sum()
        loss.backward()
        optimizer.step()


def some(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_pytorch_but_for_its_precision(decay, monkeypatch):
    """Wide, tall and square matrices, two of a shape; PyTorch rounds gradients to bfloat16, which is left out here."""
    shapes = (4, 9), (5, 5), (7, 5), (4, 9)
    ours, theirs = some(*shapes), some(*shapes)
    reference = torch.optim.Muon(theirs, 0.03, weight_decay=decay, adjust_lr_fn="match_rms_adamw", eps=1e-30)
    learn(ours, Muon(ours, [], 0.03, decay), range(12))
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x)
    learn(theirs, reference, range(12))
    for p, q, start in zip(ours, theirs, some(*shapes), strict=True):
        assert (p - start).abs().max() > 0.05
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 6), (3, 20), (20, 3)])
def test_direction_is_orthogonal(shape):
    """Singular vectors are kept and every singular value comes near 1, whatever it was."""
    generator = torch.Generator().manual_seed(1)
    g = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    scales = torch.logspace(0, -1.5, s.shape[1], dtype=torch.float64)
    found = torch.linalg.svdvals(orthogonal(u @ torch.diag_embed(s[:, :1] * scales) @ vh))
    assert bool(((found > 0.6) & (found < 1.25)).all()), found
    inner = u.mT @ orthogonal(u @ torch.diag_embed(s[:, :1] * scales) @ vh) @ vh.mT
    off = inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(off, torch.zeros_like(off), rtol=0, atol=1e-9)


def test_squares_upon_one_another_are_matrices_of_their_own():
    (gates,), pieces = some((12, 4)), some((4, 4), (4, 4), (4, 4))
    with torch.no_grad():
        for p, rows in zip(pieces, gates.chunk(3), strict=True):
            p.copy_(rows)
    target = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
    optimizers = Muon([gates], [], 0.1), Muon(pieces, [], 0.1)
    for _ in range(5):
        for parameters, optimizer in zip(([gates], pieces), optimizers, strict=True):
            optimizer.zero_grad()
            (torch.cat(parameters) - target).pow(4).sum().backward()
            optimizer.step()
    torch.testing.assert_close(gates, torch.cat(pieces))


def test_a_kernel_is_a_matrix():
    """Of (outputs, all else), also where its memory is laid out otherwise."""
    (kernel,), (matrix,) = some((6, 2, 3, 3)), some((6, 18))
    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        matrix.copy_(kernel.flatten(1))
    weight = torch.randn(6, 18, generator=torch.Generator().manual_seed(2))
    optimizers = Muon([kernel], [], 0.1), Muon([matrix], [], 0.1)
    for _ in range(5):
        for p, optimizer in zip((kernel, matrix), optimizers, strict=True):
            optimizer.zero_grad()
            (p.flatten(1).pow(3) * weight).sum().backward()
            optimizer.step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_all_else_is_adams():
    ours = some((4, 3), (7,), ())
    theirs = [nn.Parameter(p.detach().clone()) for p in ours[1:]]
    learn(ours, Muon(ours[:1], ours[1:], 0.01, 0.1), range(6))
    optimizer = LeanAdam(theirs, 0.01, 0.1, decoupled=True)
    for i in range(6):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(i)
        torch.randn(4, 3, generator=generator)
        sum((p - torch.randn(p.shape, generator=generator)).pow(4).sum() for p in theirs).backward()  # pyright: ignore
        optimizer.step()
    for p, q in zip(ours[1:], theirs, strict=True):
        assert torch.equal(p, q)


def test_state_is_kept():
    shapes = (4, 3), (7,)
    a, b = some(*shapes), some(*shapes)
    first = Muon(a[:1], a[1:], 0.02)
    learn(a, first, range(4))
    second = Muon(a[:1], a[1:], 0.02)
    second.load_state_dict(first.state_dict())
    learn(a, second, range(4, 9))
    learn(b, Muon(b[:1], b[1:], 0.02), range(9))
    for p, q in zip(a, b, strict=True):
        assert torch.equal(p, q)


def test_matrices_of_a_model():
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 4),
            "linear": nn.Linear(4, 3),
            "masked": MaskedLinear(3, 2),
            "kernel": nn.Conv2d(2, 3, 3),
            "recurrent": nn.GRU(3, 4),
            "norm": nn.LayerNorm((2, 3)),
        }
    )
    found = set(matrices_of(model))
    names = {name for name, p in model.named_parameters() if p in found}
    weights = {"linear.weight", "masked.weight", "kernel.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0"}
    assert names == weights
