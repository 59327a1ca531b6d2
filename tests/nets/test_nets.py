"""Laws of every network, and worked truths of the layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jensen import registry
from jensen.errors import ConfigError
from jensen.nets import Stack, conv, gated, linear, mlp, resconv, residual
from jensen.nets.convolutional import double, group_norm, halve
from jensen.nets.resnet import resnet
from jensen.nets.stack import activation

Builder = Callable[[tuple[int, ...], tuple[int, ...]], Stack]

DENSE: dict[str, Builder] = {
    "linear": linear,
    "mlp": partial(mlp, hidden=[12]),
    "mlp-none": partial(mlp, hidden=[]),
    "mlp-dropout": partial(mlp, hidden=[12, 7], activation="gelu", dropout=0.3, input_dropout=0.2),
    **{a: partial(mlp, hidden=[12], activation=a) for a in ("tanh", "silu", "leaky-relu", "elu")},
    "gated": partial(gated, hidden=[12, 7]),
    "gated-dropout": partial(gated, hidden=[12], dropout=0.3, input_dropout=0.2),
    "residual": partial(residual, width=12, blocks=2),
    "residual-dropout": partial(residual, width=12, dropout=0.3, input_dropout=0.2),
}
PICTURE: dict[str, Builder] = {
    "conv": partial(conv, channels=[8, 16], hidden=12),
    "conv-group": partial(conv, channels=[8, 16], hidden=12, normalization="group", activation="elu"),
    "conv-nearest": partial(conv, channels=[5], hidden=12, upsampling="nearest"),
    "conv-bilinear": partial(conv, channels=[4, 6, 8], hidden=12, upsampling="bilinear"),
    "resconv": partial(resconv, channels=[8, 16], hidden=12),
    "resconv-dropout": partial(resconv, channels=[8, 8], blocks=2, hidden=12, dropout=0.3),
    "resnet": partial(resnet, width=8),
    "resnet-dropout": partial(resnet, width=8, blocks=2, dropout=0.3, activation="elu"),
    "resconv-transposed": partial(resconv, channels=[8], hidden=12, activation="relu", upsampling="transposed"),
}
VECTOR_TO_VECTOR = [((9,), (4,)), ((1,), (1,))]
PICTURES = [((2, 13, 7), (5,)), ((5,), (2, 13, 7)), ((1, 28, 28), (3, 20, 28)), ((1, 1, 1), (1, 1, 1))]
CASES = [
    pytest.param(build, *shapes, id=f"{name}-{shapes[0]}-{shapes[1]}".replace(" ", ""))
    for builders, table in ((DENSE, VECTOR_TO_VECTOR + PICTURES), (PICTURE, PICTURES))
    for name, build in builders.items()
    for shapes in table
]
size = st.integers(1, 40)


@pytest.mark.parametrize(("build", "inputs", "outputs"), CASES)
def test_network_maps_event_to_event(build: Builder, inputs: tuple[int, ...], outputs: tuple[int, ...]):
    net = build(inputs, outputs)
    assert net(torch.randn(3, *inputs)).shape == (3, *outputs)
    assert net.eval()(torch.randn(1, *inputs)).shape == (1, *outputs)


@pytest.mark.parametrize(("build", "inputs", "outputs"), CASES)
def test_network_leaves_its_input_alone(build: Builder, inputs: tuple[int, ...], outputs: tuple[int, ...]):
    x = torch.randn(3, *inputs)
    before = x.clone()
    build(inputs, outputs)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("build", "inputs", "outputs"), CASES)
def test_every_parameter_gets_a_gradient(build: Builder, inputs: tuple[int, ...], outputs: tuple[int, ...]):
    torch.manual_seed(0)
    net = build(inputs, outputs).double()
    y = net(torch.randn(64, *inputs, dtype=torch.float64))
    (y * torch.randn_like(y)).sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


@pytest.mark.parametrize(("build", "inputs", "outputs"), CASES)
def test_output_of_a_datum_does_not_depend_on_its_batch(
    build: Builder, inputs: tuple[int, ...], outputs: tuple[int, ...]
):
    net = build(inputs, outputs).double().eval()
    x = torch.randn(6, *inputs, dtype=torch.float64)
    alone = torch.cat([net(datum[None]) for datum in x])
    torch.testing.assert_close(net(x), alone)
    torch.testing.assert_close(net(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize(("build", "inputs", "outputs"), CASES)
def test_output_layer_is_the_last_word(build: Builder, inputs: tuple[int, ...], outputs: tuple[int, ...]):
    """With its weight at zero, the network puts out its bias and nothing else."""
    net = build(inputs, outputs).eval()
    with torch.no_grad():
        net.output.weight.zero_()
        net.output.bias.fill_(0.7)
    torch.testing.assert_close(net(torch.randn(2, *inputs)), torch.full((2, *outputs), 0.7))


@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "bilinear"])
@settings(max_examples=25, deadline=None)
@given(c=st.integers(1, 4), height=size, width=size, stages=st.integers(1, 4))
def test_pictures_of_any_size(upsampling: str, c: int, height: int, width: int, stages: int):
    picture = (c, height, width)
    build = partial(conv, channels=[3] * stages, hidden=4, upsampling=upsampling)
    for inputs, outputs in ((picture, (5,)), ((5,), picture), (picture, picture), ((2, 9, 5), picture)):
        assert build(inputs, outputs)(torch.randn(2, *inputs)).shape == (2, *outputs)


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 20, 28), (2, 97, 65), (1, 1, 1), (1, 1, 9)])
@pytest.mark.parametrize("build", [conv, resconv, resnet])
def test_pictures_of_named_sizes_at_default_settings(build: Builder, shape: tuple[int, ...]):
    assert build(shape, (7,))(torch.randn(2, *shape)).shape == (2, 7)
    assert build((7,), shape)(torch.randn(2, 7)).shape == (2, *shape)


@pytest.mark.parametrize("name", ["mlp-dropout", "gated-dropout", "residual-dropout", "resconv-dropout"])
def test_dropout_is_on_in_training_and_off_in_eval(name: str):
    torch.manual_seed(0)
    net = {**DENSE, **PICTURE}[name]((1, 6, 6), (4,))
    x = torch.randn(8, 1, 6, 6)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_no_network_normalises_over_the_batch():
    for name in registry.names("network"):
        net = registry.find("network", name).function((1, 8, 8), (1, 8, 8))
        assert not [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._NormBase)], name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tanh_is_that_of_pytorch_with_its_derivatives(dtype: torch.dtype):
    """To four roundings of numbers about 1, infinite ones and second derivatives among them."""
    tanh, eps = activation("tanh"), torch.finfo(dtype).eps
    x = torch.linspace(-20, 20, 2001, dtype=dtype)
    found, torchs = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.no_grad():
        assert torch.allclose(tanh(x), torch.tanh(x), rtol=0, atol=4 * eps)
    ends = tanh(torch.tensor([-torch.inf, torch.inf, torch.nan], dtype=dtype))
    assert ends[:2].tolist() == [-1.0, 1.0] and ends[2].isnan()
    for one, value in ((found, tanh(found)), (torchs, torch.tanh(torchs))):
        (slope,) = torch.autograd.grad((value * value.cos()).sum(), one, create_graph=True)
        (bend,) = torch.autograd.grad(slope.square().sum(), one)
        one.kept = (value.detach(), slope.detach(), bend)  # pyright: ignore
    for ours, truth in zip(found.kept, torchs.kept, strict=True):  # pyright: ignore
        torch.testing.assert_close(ours, truth, rtol=0, atol=20 * eps)
    assert torch.equal(x, torch.linspace(-20, 20, 2001, dtype=dtype))


def test_tanh_can_be_looked_through_by_transforms():
    x = torch.randn(5)
    slope = torch.func.vmap(torch.func.grad(lambda v: activation("tanh")(v)))(x)
    torch.testing.assert_close(slope, 1 - x.tanh().square())


def test_gated_layer_is_the_papers_equation():
    net = gated((3,), (2,), hidden=[4])
    first, x = net[0], torch.randn(5, 3)
    W, V = first.weight.chunk(2)
    b, c = first.bias.chunk(2)
    h = (x @ W.T + b) * torch.sigmoid(x @ V.T + c)  # (5, 4)
    torch.testing.assert_close(net(x), net.output(h))


# Worked by hand: one kernel, seen through a convolution and its transpose.
KERNEL = torch.tensor([[1.0, 2.0], [2.0, 1.0]])[None, None]


def test_convolution_worked_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0], [6.0, 5.0, 3.0], [1.0, 4.0, 1.0]])[None]
    assert F.conv2d(x, KERNEL).tolist() == [[[22, 21], [22, 20]]]


def test_transposed_convolution_worked_by_hand():
    z = torch.tensor([[1.0, 2.0], [2.0, 4.0]])[None]
    assert F.conv_transpose2d(z, KERNEL).tolist() == [[[1, 4, 4], [4, 13, 10], [4, 10, 4]]]


@settings(max_examples=30, deadline=None)
@given(height=size, width=size)
def test_doubling_is_the_adjoint_of_halving(height: int, width: int):
    """⟨halve x, y⟩ = ⟨x, double y⟩ where the two share their weights."""
    down = halve(3, 2, (height, width)).double()
    (up,) = double(2, 3, (height, width), "transposed")
    up = copy.deepcopy(up).double()
    up.weight, down.bias, up.bias = down.weight, None, None
    x = torch.randn(1, 3, height, width, dtype=torch.float64)
    y = torch.randn(1, 2, math.ceil(height / 2), math.ceil(width / 2), dtype=torch.float64)
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())


@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "bilinear"])
@pytest.mark.parametrize("extent", [(16, 16), (17, 12), (13, 21)])
def test_no_checkerboard(upsampling: str, extent: tuple[int, int]):
    """From equal inputs and equal weights come equal pixels, away from the border."""
    up = nn.Sequential(*double(1, 1, extent, upsampling))
    with torch.no_grad():
        up[-1].weight.fill_(1.0)
        up[-1].bias.zero_()
        smaller = [math.ceil(s / 2) for s in extent]
        inside = up(torch.ones(1, 1, *smaller))[0, 0, 3:-3, 3:-3]
    assert torch.equal(inside, inside[0, 0].expand_as(inside))


@pytest.mark.parametrize("width", [1, 3, 7, 8, 12, 32, 64, 100])
def test_group_norm_fits_any_width(width: int):
    norm = group_norm(width)
    assert width % norm.num_groups == 0
    assert width // norm.num_groups >= min(width, 8)


@pytest.mark.parametrize("build", [conv, resconv])
def test_convolution_between_vectors_is_refused(build: Builder):
    with pytest.raises(ConfigError, match=rf"{build.__name__}.*got \(9,\) -> \(4,\); for vectors choose .*mlp"):
        build((9,), (4,))
    with pytest.raises(ConfigError, match=rf"{build.__name__}.*channels.*\[\]"):
        build((1, 8, 8), (4,), channels=[])


def test_settings_are_checked_by_the_registry():
    found = registry.find("network", "mlp")
    assert registry.configure(found, {"hidden": [32, 16]})["hidden"] == [32, 16]
    with pytest.raises(ConfigError) as e:
        registry.configure(found, {"hidden": [0], "dropout": 1.0, "activation": "sigmoid", "hiden": [3]})
    assert len(e.value.problems) == 4
    assert "did you mean 'hidden'?" in str(e.value)
