"""U-Nets: any size, one context, no way around a code, and attention by its formula."""

from __future__ import annotations

import math

import pytest
import torch
from tests.contracts.toys import DATA

from jensen.core import seeded
from jensen.errors import ConfigError
from jensen.nets.context import Joined, contextual
from jensen.nets.unet import Attention, auto, unet
from jensen.registry import Choice, build, find


def shaken(*shapes, **settings):
    with seeded(0):
        network = unet(*shapes, **settings).double().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def without_norms(network):
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda h: h
    return network


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (13, 7), (16, 16), (17, 31)])
def test_one_network_takes_pictures_of_any_size(size, patch):
    network = shaken((2, 8, 8), (3, 8, 8), 4, channels=[8, 8, 16], attention=4, patch=patch)
    x, c = torch.randn(2, 2, *size, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    y = network(x, c)
    assert y.shape == (2, 3, *size)
    assert y.isfinite().all()
    for i in range(2):  # a datum's output does not depend on its batch
        torch.testing.assert_close(network(x[i : i + 1], c[i : i + 1]), y[i : i + 1], rtol=1e-9, atol=1e-9)


def test_every_parameter_receives_a_gradient():
    network = shaken((1, 9, 6), (2, 9, 6), 3, channels=[8, 16], blocks=2, attention=8, dropout=0.1)
    network(
        torch.randn(3, 1, 9, 6, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    ).square().sum().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


def test_shifting_a_picture_by_what_it_is_halved_to_shifts_what_comes_out():
    """Far from the edges, where neither attention nor a norm looks at all of it."""
    network = without_norms(shaken((1, 64, 64), (1, 64, 64), channels=[8, 8], attention=0))
    x = torch.randn(1, 1, 96, 96, dtype=torch.float64)
    y, moved = network(x), network(x.roll((2, -4), (2, 3)))
    inside = slice(40, 56)  # 40 pixels from an edge is farther than the layers reach
    torch.testing.assert_close(moved[..., inside, inside], y.roll((2, -4), (2, 3))[..., inside, inside])
    assert not torch.allclose(moved[..., inside, inside], y[..., inside, inside])


def test_a_pixel_far_away_is_seen_through_the_middle_and_by_attention():
    """By attention alone, at one size; without it, three by three pixels a layer."""
    for attention, sees in ((32, True), (0, False)):
        network = without_norms(shaken((1, 32, 32), (1, 32, 32), channels=[8], attention=attention))
        x = torch.randn(1, 1, 32, 32, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(network(x)[0, 0, 0, 0], x)
        assert (slope[0, 0, 31, 31] != 0) == sees
        assert slope[0, 0, 0, 0] != 0


def test_attention_is_its_formula():
    attention = Attention(64).double()
    h = torch.randn(2, 64, 3, 2, dtype=torch.float64)
    flat = attention.norm(h).flatten(2).mT  # (N, HW, C)
    weight, bias = attention.project.weight[:, :, 0, 0], attention.project.bias
    q, k, v = (flat @ weight.mT + bias).split(64, -1)
    heads = []
    for i in range(2):
        part = slice(32 * i, 32 * (i + 1))
        share = torch.softmax(q[..., part] @ k[..., part].mT / math.sqrt(32), -1)
        heads.append(share @ v[..., part])
    joined = torch.cat(heads, -1) @ attention.join.weight[:, :, 0, 0].mT + attention.join.bias
    torch.testing.assert_close(attention(h), h + joined.mT.unflatten(2, (3, 2)))


@pytest.mark.parametrize("slot", ["encoder", "decoder"])
def test_it_is_refused_beside_a_code(slot):
    with pytest.raises(ConfigError, match="bypass z"):
        build("vae", DATA["binary pictures"][0], {slot: "unet"})


def test_a_network_is_given_its_context_one_way_or_the_other():
    x, c = torch.randn(4, 3, 5, 5), torch.randn(4, 2)
    inner = contextual(Choice(find("network", "unet"), {"channels": [8]}), (3, 5, 5), (1, 5, 5), 2)
    outer = contextual(Choice(find("network", "conv"), {"channels": [8]}), (3, 5, 5), (1, 5, 5), 2)
    assert not isinstance(inner, Joined)
    assert isinstance(outer, Joined)
    assert outer(x, c).shape == inner(x, c).shape == (4, 1, 5, 5)
    assert not torch.equal(outer(x, c), outer(x, -c))
    assert auto((3,), (2,), 4)(x[:, :, 0, 0], torch.randn(4, 4)).shape == (4, 2)
    assert auto((3,), (2,))(x[:, :, 0, 0]).shape == (4, 2)
