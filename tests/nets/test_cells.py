"""Cells as inputs of networks: kinds of columns, gaps, and sets of them."""

from __future__ import annotations

import torch

from jensen.nets.cells import Cells
from jensen.nets.set import SetNetwork

X = torch.tensor([[2.0, 1.0, 40.0, 7.0], [0.0, 2.0, 3.0, 1.0]])
SEEN = torch.tensor([[True, True, False, True], [False, True, True, False]])


def cells(gaps: bool = True) -> Cells:
    """A number, three names, fifty names, and a positive number whose logarithm is taken."""
    torch.manual_seed(0)
    return Cells(4, gaps, [0, 3, 50, 0], [1.0, 0, 0, 0.0], [2.0, 1, 1, 1.0], logarithm=[3])


def test_cells_become_numbers_of_their_kind_and_a_mask():
    c = cells()
    found = c(X, SEEN)
    assert found.shape == (2, c.size)
    assert c.size == 2 + 3 + 16 + 4
    torch.testing.assert_close(found[0, :2], torch.tensor([0.5, 7.0]).where(torch.tensor([True, False]), X[0, 3].log()))
    assert found[0, 2:5].tolist() == [0, 1, 0]
    assert (found[0, 5:21] == 0).all()  # not seen
    assert (found[1, 5:21] == c.vectors.weight[3]).all()  # pyright: ignore
    assert found[1, :2].tolist() == [0, 0]
    torch.testing.assert_close(found[:, -4:], SEEN.float())


def test_what_was_not_seen_does_not_matter():
    other = torch.where(SEEN, X, torch.tensor([9.0, 0.0, 11.0, 3.0]))
    net = SetNetwork((4,), (5,), 8, [16], "relu")
    net.take_cells(cells())
    torch.testing.assert_close(cells()(X, SEEN), cells()(other, SEEN))
    torch.testing.assert_close(net(X, SEEN), net(other, SEEN))
    assert not torch.allclose(net(X, SEEN), net(X, torch.ones_like(SEEN)))


def test_a_set_knows_no_order_of_columns():
    """With the vectors of two columns of numbers exchanged, exchanging their values changes nothing."""
    torch.manual_seed(0)
    net, x = SetNetwork((3,), (2,), 8, [], "tanh"), torch.randn(6, 3)
    before, order = net(x), [2, 0, 1]
    with torch.no_grad():
        net.slopes.copy_(net.slopes[order].clone())
        net.places.copy_(net.places[order].clone())
    torch.testing.assert_close(net(x[:, order]), before)
