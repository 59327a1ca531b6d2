"""Causal networks: nothing is seen too early, nothing is missed, and a walk computes what a full pass does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from jensen.conditionals.heads import Support
from jensen.core import seeded
from jensen.nets.causal import Causal, Dilated, Numbers, SequenceNet, Symbols, raster
from jensen.nets.pixelcnn import PixelCNN
from jensen.registry import Choice, configure, find, names

ROW, GREY, COLOUR = (7,), (1, 4, 5), (2, 3, 4)
SETTINGS: dict[str, dict[str, Any]] = {
    "made": {"hidden": [40, 40], "activation": "tanh"},
    "markov": {"memory": 30, "width": 8, "activation": "tanh"},
    "rnn": {"width": 8, "layers": 2},
    "wavenet": {"width": 8, "skip": 8, "blocks": 2, "layers": 4},
    "transformer": {"width": 16, "layers": 2, "heads": 2},
    "pixelcnn": {"width": 8, "layers": 4, "hidden": 64},
}
"""Each with a memory long enough for the data here."""


def network(name: str, shape: tuple[int, ...], context: int = 0, **settings: Any) -> Causal:
    """In float64, its weights away from where they start."""
    chosen = find("causal", name)
    with seeded(1):
        net = Choice(chosen, configure(chosen, {**SETTINGS[name], **settings}))(Support("real", shape), 3, context)
        net = net.double().eval()
        for parameter in net.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return net


CASES = [
    (name, shape, context)
    for name in SETTINGS
    for shape in (ROW, GREY, COLOUR)
    for context in (0, 2)
    if name != "pixelcnn" or len(shape) == 3
]
every_case = pytest.mark.parametrize(("name", "shape", "context"), CASES)


def data(shape: tuple[int, ...], context: int, rows: int = 3) -> tuple[Tensor, Tensor | None]:
    with seeded(2):
        x = torch.randn(rows, *shape, dtype=torch.float64)
        return x, torch.randn(rows, context, dtype=torch.float64) if context else None


def test_every_causal_network_is_tried():
    assert set(SETTINGS) == set(names("causal"))


def influence(net: Causal, x: Tensor, c: Tensor | None) -> Tensor:
    """How much the parameters of each element (rows, in the network's order) change with each element, (D, D)."""
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v, c).sum(0), x)  # (P, D, N, *shape)
    total = jacobian.abs().flatten(3).sum((0, 2))
    return total[net.order][:, net.order]


@every_case
def test_an_element_depends_on_all_before_it_and_on_nothing_else(name, shape, context):
    seen = influence(network(name, shape, context), *data(shape, context))
    assert (seen.triu() == 0).all()
    before = seen[torch.tril_indices(len(seen), len(seen), -1).unbind()]
    if name == "pixelcnn":  # convolutions reach so far and no farther; what is out of their reach is tested below
        assert (before > 0).float().mean() > 0.9
    else:
        assert (before > 0).all()


@every_case
def test_a_walk_gives_the_parameters_of_a_full_pass(name, shape, context):
    check_walk(network(name, shape, context), *data(shape, context))


def check_walk(net: Causal, x: Tensor, c: Tensor | None) -> None:
    with torch.no_grad():
        whole, step, last = net(x, c), net.walk(len(x), c), None
        for position in net.order.tolist():
            torch.testing.assert_close(step(last), whole[:, :, position], rtol=0, atol=1e-10)
            last = x.flatten(1)[:, position]


@every_case
def test_the_context_reaches_every_element(name, shape, context):
    if not context:
        return
    net, (x, c) = network(name, shape, context), data(shape, context)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(x, v), c)  # (N, P, D, N, C)
    assert (jacobian.abs().sum((0, 1, 3, 4)) > 0).all()


@pytest.mark.parametrize("name", ["made", "markov", "rnn", "wavenet", "transformer"])
def test_one_element_without_anything_before_it(name):
    net = network(name, (1,))
    x, _ = data((1,), 0)
    assert torch.equal(net(x), net(x + 1))
    with torch.no_grad():
        torch.testing.assert_close(net.walk(3)(None), net(x)[:, :, 0])


def test_the_convolutions_have_no_blind_spot():
    """Every pixel above, to the right as well as to the left, is seen once there are enough layers."""
    net = network("pixelcnn", (1, 6, 6), layers=6, first=3)
    x, _ = data((1, 6, 6), 0)
    before = influence(net, x, None)[torch.tril_indices(36, 36, -1).unbind()]
    assert (before > 0).all()


def test_dilated_convolutions_of_pictures_have_no_blind_spot_either():
    net = network("pixelcnn", (1, 9, 8), layers=6, first=3, dilations=[1, 2, 4])
    x, _ = data((1, 9, 8), 0)
    seen = influence(net, x, None)
    before = torch.ones(72, 72, dtype=torch.bool).tril(-1)
    assert (seen[before] > 0).all()
    assert (seen[~before] == 0).all()


@pytest.mark.parametrize("dilations", [[2], [3, 1], [1, 2, 4]])
def test_a_walk_through_dilated_convolutions_gives_the_parameters_of_a_full_pass(dilations):
    shape = (2, 7, 9)
    check_walk(network("pixelcnn", shape, 2, kernel=5, dilations=dilations), *data(shape, 2))


def test_a_shift_of_the_picture_shifts_the_parameters():
    """Convolutions: the same everywhere but for the border."""
    net = network("pixelcnn", (1, 16, 16), layers=2, first=3)
    assert isinstance(net, PixelCNN)
    x, _ = data((1, 16, 16), 0)
    moved = x.roll((1, 1), (2, 3))
    a, b = (net(v).view(3, 3, 16, 16) for v in (x, moved))
    torch.testing.assert_close(a[..., 5:-6, 5:-6], b[..., 6:-5, 6:-5])


def test_a_window_sees_as_far_as_it_says():
    seen = influence(network("markov", (9,), memory=3), *data((9,), 0))
    for back in range(1, 9):
        assert ((seen.diagonal(-back) > 0) == (back <= 3)).all()


def test_dilated_convolutions_see_as_far_as_they_say():
    net = network("wavenet", (12,), blocks=1, layers=3)
    assert isinstance(net, SequenceNet) and isinstance(net.core, Dilated)
    assert net.core.receptive_field == 1 + (2**3 - 1)
    seen = influence(net, *data((12,), 0))
    for back in range(1, 12):
        assert ((seen.diagonal(-back) > 0) == (back <= net.core.receptive_field)).all()


def test_the_raster_of_a_picture():
    picture = torch.arange(2 * 2 * 3).view(2, 2, 3)  # value = position
    expected = [int(picture[c, i, j]) for i in range(2) for j in range(3) for c in range(2)]
    assert raster((2, 2, 3)).tolist() == expected
    assert raster((4,)).tolist() == [0, 1, 2, 3]


def test_embeddings():
    numbers = Numbers(4, middle=2.0, unit=2.0)
    torch.testing.assert_close(numbers(torch.tensor([2.0]))[0], numbers.linear.bias)
    counts = Numbers(4, logarithm=True)
    torch.testing.assert_close(
        counts(torch.tensor([3.0]))[0], math.log(4) * counts.linear.weight[:, 0] + counts.linear.bias
    )
    symbols = Symbols(4, 3)
    assert torch.equal(symbols(torch.tensor([2.0]))[0], symbols.embedding.weight[2])


def test_masked_perceptrons_work_in_any_order():
    net = network("made", (6,), orderings=3)
    x, _ = data((6,), 0)
    orders = set()
    for m in range(net.orderings):
        net.use(m)
        orders.add(tuple(net.order.tolist()))
        seen = influence(net, x, None)
        assert (seen.triu() == 0).all()
        assert (seen[torch.tril_indices(6, 6, -1).unbind()] > 0).all()
    assert len(orders) == 3
