"""The lean optimizer takes the steps of PyTorch's own, bit for bit, and exchanges its state with it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jensen.training.adam import LeanAdam


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def train(model: nn.Sequential, optimizer: torch.optim.Optimizer, steps: range, skip_second: bool = False) -> None:
    for i in steps:
        optimizer.zero_grad()
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(i))
        out = model[0](x) if skip_second and i % 2 else model(x)
        out.square().sum().backward()
        optimizer.step()


def other(model: nn.Sequential, decoupled: bool) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    return kind(model.parameters(), 0.01, weight_decay=0.1 if decoupled else 0.0, fused=True)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("skip_second", [False, True])
def test_equals_pytorch(decoupled, skip_second):
    """Also where some parameters get no gradient in every other step."""
    a, b = network(0), network(0)
    lean = LeanAdam(list(a.parameters()), 0.01, 0.1 if decoupled else 0.0, decoupled)
    train(a, lean, range(9), skip_second)
    train(b, other(b, decoupled), range(9), skip_second)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def test_state_is_exchanged():
    """Five steps with one and five with the other equal ten with PyTorch's."""
    a, b = network(0), network(0)
    first = LeanAdam(list(a.parameters()), 0.01)
    train(a, first, range(5))
    second = other(a, decoupled=False)
    second.load_state_dict(first.state_dict())
    train(a, second, range(5, 8))
    third = LeanAdam(list(a.parameters()), 0.01)
    third.load_state_dict(second.state_dict())
    train(a, third, range(8, 10))
    train(b, other(b, decoupled=False), range(10))
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)
