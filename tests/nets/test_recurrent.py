"""Truncated backpropagation: the state is carried, its gradient is not. Dropout of weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from jensen.nets.recurrent import Recurrent


def core(cell: str, truncate: int | None) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(4, 2, cell, truncate=truncate).double()  # pyright: ignore[reportArgumentType]


def jacobian(of: Recurrent, h: torch.Tensor) -> torch.Tensor:
    """Whether ∂y_t/∂h_s is other than zero, (T, T)."""
    found = torch.autograd.functional.jacobian(lambda h: of(h[None])[0], h)
    return found.abs().amax((1, 3)) > 0


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_what_is_computed_is_the_same(cell):
    h = torch.randn(3, 11, 4, dtype=torch.float64)
    torch.testing.assert_close(core(cell, 3)(h), core(cell, None)(h), rtol=0, atol=1e-14)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_gradient_ends_where_the_piece_began(cell):
    h = torch.randn(7, 4, dtype=torch.float64)
    t = torch.arange(7)
    causal = t[:, None] >= t
    assert torch.equal(jacobian(core(cell, None), h), causal)
    assert torch.equal(jacobian(core(cell, 3), h), causal & (t[:, None] // 3 == t // 3))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_gradient_is_that_of_pieces_that_start_from_known_states(cell):
    """Against each piece by itself, from a state that was computed before and is a constant."""
    h = torch.randn(2, 8, 4, dtype=torch.float64)
    truncated, plain = core(cell, 4), core(cell, None)
    truncated(h).square().sum().backward()
    with torch.no_grad():
        _, state = plain.rnn(h[:, :4])
    (plain.rnn(h[:, :4])[0].square().sum() + plain.rnn(h[:, 4:], state)[0].square().sum()).backward()
    for a, b in zip(truncated.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("truncate", [None, 3])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_weights_from_state_to_state_are_dropped_in_training_alone(cell, truncate):
    """Against a network whose weights were dropped by hand, with the same draws."""
    net, h = core(cell, truncate), torch.randn(3, 7, 4, dtype=torch.float64)
    truth = net(h)
    net.weight_dropout = 0.5
    torch.manual_seed(1)
    dropped = net(h)
    dropped.square().sum().backward()
    assert not torch.allclose(dropped, truth)
    assert torch.equal(net.eval()(h), truth)

    other = core(cell, truncate)
    torch.manual_seed(1)
    kept = {}
    with torch.no_grad():
        for name, weight in other.rnn.named_parameters():
            if "weight_hh" in name:
                kept[name] = torch.nn.functional.dropout(torch.ones_like(weight), 0.5)
                weight.mul_(kept[name])
    found = other(h)
    found.square().sum().backward()
    torch.testing.assert_close(dropped, found, rtol=0, atol=1e-14)
    for (name, a), b in zip(net.rnn.named_parameters(), other.rnn.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad * kept.get(name, 1.0), rtol=1e-12, atol=1e-12)


def test_a_network_that_dropped_weights_can_be_copied_and_kept():
    net, h = core("lstm", None), torch.randn(3, 7, 4, dtype=torch.float64)
    net.weight_dropout = 0.5
    net(h).sum().backward()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other.eval()(h), net.eval()(h))
