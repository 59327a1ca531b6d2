"""Masked perceptrons: what sees what, against loops written out, and walks from variable to variable."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, vjp
from torch.utils.flop_counter import FlopCounterMode

from jensen.core import seeded
from jensen.nets.masked import ACTIVATIONS, MaskedMLP
from jensen.nets.masked_linear import STRIP

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


@st.composite
def nets(draw: st.DrawFn, **fixed: Any) -> MaskedMLP:
    """Any size, in float64: one variable, layers narrower than the variables are many, no layers at all."""
    dims, residual = draw(st.integers(1, 6)), draw(st.booleans())
    sizes = st.integers(1, 9)
    hidden = [draw(sizes)] * draw(st.integers(1, 3)) if residual else draw(st.lists(sizes, max_size=3))
    chosen = {
        "hidden": hidden,
        "context": draw(st.integers(0, 2)),
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS))),
        "residual": residual,
        "order": draw(st.permutations(range(dims))),
    }
    with seeded(draw(st.integers(0, 99))):
        return MaskedMLP(dims, draw(st.integers(1, 3)), **{**chosen, **fixed}).double()


def inputs(net: MaskedMLP, rows: int) -> tuple[Tensor, Tensor | None]:
    x = torch.randn(rows, net.dims, dtype=torch.float64)
    c = torch.randn(rows, net.context.in_features, dtype=torch.float64) if net.context is not None else None
    return x, c


def jacobian(net: MaskedMLP, x: Tensor, c: Tensor | None) -> Tensor:
    """max |∂(numbers of the i-th variable) / ∂x_j|, (D, D), variables in the order of the network."""
    dense = torch.autograd.functional.jacobian(lambda v: net(v[None], c)[0], x[0]).abs().amax(0)
    return dense[net.order][:, net.order]


# What sees what


@given(net=nets())
@settings(max_examples=50)
def test_a_variable_sees_only_those_before_it(net):
    assert (jacobian(net, *inputs(net, 1)).triu() == 0).all()


@given(net=nets(activation="elu"))
@settings(max_examples=50)
def test_a_variable_sees_all_before_it_and_the_context(net):
    """With positive weights no two ways from input to output cancel: what is zero then is not connected."""
    x, c = inputs(net, 1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.abs() + 0.1)
    seen = jacobian(net, x.abs(), c)
    assert (seen + torch.ones_like(seen).triu() > 0).all()
    if c is not None:
        given_context = torch.autograd.functional.jacobian(lambda v: net(x, v[None]), c[0])
        assert (given_context > 0).all()


def test_the_first_variable_is_no_linear_function_of_the_context():
    net = MaskedMLP(3, 1, [16], context=1).double()
    x = torch.zeros(3, 3, dtype=torch.float64)
    low, middle, high = net(x, torch.tensor([[-2.0], [0.0], [2.0]], dtype=torch.float64))[:, 0, 0]
    assert (low + high - 2 * middle).abs() > 1e-3


@given(
    size=st.integers(1, 40), dims=st.integers(2, 20), context=st.integers(0, 1), residual=st.booleans()
)  # fmt: skip
def test_units_are_sorted_and_every_degree_is_present(size, dims, context, residual):
    net = MaskedMLP(dims, 1, [size, size], context=context, residual=residual)
    possible = range(0 if context else 1, dims)
    for degrees in net.degrees:
        assert degrees == sorted(degrees)
        assert degrees[-1] == dims - 1
        assert set(degrees) <= set(possible)
        counts = [degrees.count(d) for d in possible]
        assert max(counts) - min(counts) <= 1  # all present where there are units enough, and as often


def test_one_variable_without_context_has_constants():
    net = MaskedMLP(1, 2, [8, 8])
    assert torch.equal(net(torch.randn(4, 1)), net(torch.zeros(4, 1)))
    assert net(torch.zeros(4, 1)).shape == (4, 2, 1)


@given(net=nets(), decay=st.sampled_from([0.0, 0.5]))
@settings(max_examples=10)
def test_training_leaves_what_is_masked_masked(net, decay):
    """Also with weight decay, and after weights are moved or averaged in place."""
    x, c = inputs(net, 8)
    for _ in range(3):
        (net(x, c) - 1).square().mean().backward()
        with torch.no_grad():
            for p in net.parameters():
                assert p.grad is not None
                p.mul_(1 - decay).sub_(0.1 * p.grad)
                p.grad = None
    with torch.no_grad():
        for p in net.parameters():
            p.lerp_(torch.randn_like(p), 0.3)
    assert (jacobian(net, x[:1], None if c is None else c[:1]).triu() == 0).all()


def test_a_checkpoint_brings_its_order():
    first = MaskedMLP(5, 2, [16], order=[3, 1, 4, 0, 2])
    second = MaskedMLP(5, 2, [16])
    x = torch.randn(3, 5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
    assert second.order.tolist() == [3, 1, 4, 0, 2]
    assert not any("mask" in name for name in first.state_dict())


@given(net=nets(), data=st.data())
@settings(max_examples=25)
def test_the_order_can_change(net, data):
    order = data.draw(st.permutations(range(net.dims)))
    fresh = copy.deepcopy(net)
    net.set_order(order)
    x, c = inputs(net, 1)
    assert (jacobian(net, x, c).triu() == 0).all()
    net.set_order(fresh.order)
    torch.testing.assert_close(net(x, c), fresh(x, c))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("dims", [6, 2 * STRIP])
def test_gradients_are_those_of_the_order_of_the_pass(dims, again):
    """As densities by several orders are averaged, and asked for their gradient at the end."""
    net = MaskedMLP(dims, 2, [2 * dims, 2 * dims]).double()
    x = torch.randn(5, dims, dtype=torch.float64, requires_grad=True)

    def gradients(then: list[int]) -> tuple[Tensor, ...]:
        net.set_order(range(dims))
        y = net(x).square().sum()
        net.set_order(then)
        return torch.autograd.grad(y, [x, *net.parameters()], create_graph=again)

    kept, changed = gradients(list(range(dims))), gradients(list(reversed(range(dims))))
    for a, b in zip(kept, changed, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [1, 2, 3]])
def test_a_wrong_order_is_refused(order):
    with pytest.raises(ValueError, match="expected an order of the variables 0 to 2"):
        MaskedMLP(3, 1, [4], order=order)


def test_residual_layers_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one size .* got \[4, 5\]"):
        MaskedMLP(3, 1, [4, 5], residual=True)


@given(net=nets(start_at_zero=True))
@settings(max_examples=25)
def test_it_starts_at_zero_where_asked(net):
    assert (net(*inputs(net, 2)) == 0).all()


# Numbers


def test_it_is_the_perceptron_of_the_paper():
    """Germain et al., equations 8 to 13, unit by unit; degrees as they are said to be."""
    net = MaskedMLP(4, 2, [7, 5], context=1, order=[2, 0, 3, 1]).double()
    x, c = inputs(net, 1)
    values = {name: p.detach().numpy() for name, p in net.named_parameters()}
    place = {variable: i + 1 for i, variable in enumerate([2, 0, 3, 1])}
    first, second = net.degrees
    h1 = [
        max(
            0.0,
            values["layers.0.bias"][k]
            + values["context.weight"][k, 0] * c[0, 0].item()
            + sum(values["layers.0.weight"][k, v] * x[0, v].item() for v in range(4) if first[k] >= place[v]),
        )
        for k in range(7)
    ]
    h2 = [
        max(
            0.0,
            values["layers.1.bias"][k]
            + sum(values["layers.1.weight"][k, j] * h1[j] for j in range(7) if second[k] >= first[j]),
        )
        for k in range(5)
    ]
    found = net(x, c)[0]
    for p in range(2):
        for v in range(4):
            row = 4 * p + v
            truth = values["layers.2.bias"][row]
            truth += sum(values["layers.2.weight"][row, j] * h2[j] for j in range(5) if place[v] > second[j])
            np.testing.assert_allclose(found[p, v].item(), truth, rtol=1e-12)


def settings_of_gradients() -> list[dict[str, Any]]:
    wide = [4 * STRIP + 3, 3 * STRIP]  # products leave blocks of zeros out
    found = [{"hidden": wide, "activation": a, "context": 2 * (a == "tanh")} for a in ACTIVATIONS]
    return [*found, {"hidden": [], "context": 2}, {"hidden": [3], "context": 1}, {"hidden": [9, 9], "residual": True}]


@pytest.mark.parametrize("chosen", settings_of_gradients(), ids=str)
def test_gradients_are_those_of_plain_operations(chosen):
    """Under function transforms the network is a chain of plain operations; `autograd` takes the gradients by hand."""
    net = MaskedMLP(5, 2, order=[4, 2, 0, 1, 3], **chosen).double()
    x, c = inputs(net, 6)
    arguments = (dict(net.named_parameters()), x, *([] if c is None else [c]))
    y, backward = vjp(lambda p, *a: functional_call(net, p, a), *arguments)
    g = torch.randn_like(y)
    named, *truths = backward(g)
    x, c = (None if v is None else v.clone().requires_grad_() for v in (x, c))
    found = net(x, c)
    found.backward(g)
    torch.testing.assert_close(found, y, rtol=1e-12, atol=1e-12)
    for value, truth in zip([x] + ([] if c is None else [c]), truths, strict=True):
        torch.testing.assert_close(value.grad, truth, rtol=1e-10, atol=1e-10)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, named[name], rtol=1e-10, atol=1e-10)


def test_some_gradients_alone():
    """Of the weights but not the input, and the other way round."""
    net = MaskedMLP(4, 2, [8, 8]).double()
    x, _ = inputs(net, 3)
    net(x).sum().backward()
    weights = [p.grad for p in net.parameters()]
    net.requires_grad_(False)
    x.requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None
    assert all(g is not None and p.grad is g for p, g in zip(net.parameters(), weights, strict=True))


@pytest.mark.parametrize("context", [0, 2])
def test_second_derivatives(context):
    net = MaskedMLP(3, 1, [4], context=context, activation="tanh").double()
    x, c = inputs(net, 2)
    given_inputs = tuple(v.requires_grad_() for v in (x, c) if v is not None)
    assert torch.autograd.gradgradcheck(net, given_inputs)


@every_activation
def test_half_precision_is_near(activation):
    net = MaskedMLP(4, 2, [STRIP * 2] * 2, activation=activation)
    x = torch.randn(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    torch.testing.assert_close(y.float(), net(x), rtol=0.1, atol=0.1)


# Walks


def walked(net: MaskedMLP, x: Tensor, c: Tensor | None, gradients: bool) -> Tensor:
    """Parameters of all variables, (N, P, D), found one after the other."""
    walk, found, last = net.walk(len(x), c, gradients), [x[:, :0]] * net.dims, None
    for d in net.order.tolist():
        found[d] = walk.step(last).clone()
        last = x[:, d : d + 1]
    return torch.cat(found, 2)


@pytest.mark.parametrize("gradients", [False, True])
@given(net=nets(), rows=st.integers(0, 5))
@settings(max_examples=50)
def test_a_walk_meets_the_parameters_of_one_pass(gradients, net, rows):
    x, c = inputs(net, rows)
    with torch.no_grad():
        torch.testing.assert_close(walked(net, x, c, gradients), net(x, c), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_walk_of_few_rows_in_single_precision(rows):
    torch.manual_seed(0)
    net, x = MaskedMLP(5, 2, [16, 16]), torch.randn(rows, 5)
    with torch.no_grad():
        torch.testing.assert_close(walked(net, x, None, False), net(x), rtol=1e-5, atol=1e-5)


@given(net=nets())
@settings(max_examples=25)
def test_gradients_flow_through_a_walk(net):
    x, c = inputs(net, 4)
    wanted = [v.requires_grad_() for v in (x, c) if v is not None]
    wanted += list(net.parameters())
    g = torch.randn(4, net.per_element, net.dims, dtype=torch.float64)
    truth = torch.autograd.grad(net(x, c), wanted, g, allow_unused=True, materialize_grads=True)
    found = torch.autograd.grad(walked(net, x, c, True), wanted, g, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_a_walk_costs_no_more_than_one_pass(gradients, residual):
    """In multiplications: each unit is computed once, from what it sees."""
    net = MaskedMLP(16, 2, [60, 60, 60], context=3, residual=residual, activation="silu")
    x, c = torch.randn(7, 16), torch.randn(7, 3)
    in_place = {torch.ops.aten.addmm_: lambda y, a, b, **_: 2 * a[0] * a[1] * b[1]}  # which it leaves out
    with torch.no_grad(), FlopCounterMode(display=False) as once:
        net(x, c)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=in_place) as steps:
        walked(net, x, c, gradients)
    assert 0.4 * once.get_total_flops() < steps.get_total_flops() < once.get_total_flops()


def test_a_walk_takes_the_weights_as_they_are():
    net = MaskedMLP(4, 2, [8], order=[1, 0, 3, 2])
    x = torch.randn(3, 4)
    with torch.no_grad():
        walked(net, x, None, False)
        for p in net.parameters():
            p.mul_(2)
        torch.testing.assert_close(walked(net, x, None, False), net(x))
        net.set_order([3, 2, 0, 1])
        torch.testing.assert_close(walked(net, x, None, False), net(x))
        net.double()
        torch.testing.assert_close(walked(net, x.double(), None, False), net(x.double()))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_stands_alone(copied):
    net = MaskedMLP(4, 2, [8, 8], context=1)
    x, c = torch.randn(3, 4), torch.randn(3, 1)
    with torch.no_grad():
        before = walked(net, x, c, False)
        other = copied(net)
        for p in net.parameters():
            p.zero_()
        assert torch.equal(walked(other, x, c, False), before)
        torch.testing.assert_close(other(x, c), before)
