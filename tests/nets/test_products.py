"""Linear maps by either library: the same values and gradients, whatever lies how in memory."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jensen.nets import products as module
from jensen.nets.masked import MaskedMLP
from jensen.nets.products import Linear, columns, linear, product, put_product, quick_from

I, O, N = 96, 112, 320


@pytest.fixture(autouse=True)
def used(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of what oneDNN was given, which is taken for the faster one here, on processors that have it."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(module, "ONEDNN", True)
    found, real = [], module._onednn

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not torch.compiler.is_compiling():
            found.append((*x.shape, len(weight)))
        return real(x, weight, bias)

    monkeypatch.setattr(module, "_onednn", noted)
    torch.manual_seed(0)
    return found


ROWS = {
    "as they are": lambda: torch.randn(N, I),
    "one row again and again": lambda: torch.randn(1, I).expand(N, I),
    "one number again and again": lambda: torch.randn(1, 1).expand(N, I),
    "features first": lambda: torch.randn(I, N).T,
    "part of longer rows": lambda: torch.randn(N, 3 * I)[:, I : 2 * I],
    "every second": lambda: torch.randn(2 * N, 2 * I)[::2, ::2],
    "from an odd place on": lambda: torch.randn(N * I + 3)[3:].view(N, I),
    "two dimensions": lambda: torch.randn(16, N // 16, I),
    "two dimensions the other way": lambda: torch.randn(N // 16, 16, I).transpose(0, 1),
    "channels first": lambda: torch.randn(16, I, N // 16).transpose(1, 2),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("weight", ["as it is", "transposed", "masked", "part of longer rows", "one row"])
def test_rows_of_any_strides(used, rows, weight):
    x = ROWS[rows]()
    w = {
        "as it is": torch.randn(O, I),
        "transposed": torch.randn(I, O).T,
        "masked": torch.randn(O, I).tril(),
        "part of longer rows": torch.randn(O, 2 * I)[:, 5 : I + 5],
        "one row": torch.randn(1, I).expand(O, I),
    }[weight]
    b = torch.randn(O)
    with torch.no_grad():
        found = linear(x, w, b)
    assert len(used) == 1
    torch.testing.assert_close(found.double(), F.linear(x.double(), w.double(), b.double()), rtol=1e-5, atol=1e-4)
    assert found.shape == (*x.shape[:-1], O)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("of", ["sum", "squares", "a slice"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_a_plain_layer(used, rows, of, bias):
    loss = {"sum": lambda y: y.sum(), "squares": lambda y: y.square().mean(), "a slice": lambda y: y[..., ::3].sum()}[
        of
    ]
    layer, x = Linear(I, O, bias=bias), ROWS[rows]().requires_grad_()
    mine = torch.autograd.grad(loss(layer(x)), [x, *layer.parameters()])
    assert len(used) >= 2  # forward, and the gradient in x
    big, layer = x.detach().double().requires_grad_(), layer.double()
    theirs = torch.autograd.grad(loss(F.linear(big, layer.weight, layer.bias)), [big, *layer.parameters()])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-3)


def test_the_gradient_in_large_weights_is_by_it_too(used):
    layer, x = Linear(200, 120), torch.randn(400, 200)
    (g,) = torch.autograd.grad(layer(x).square().sum(), [layer.weight])
    assert used[1:] == [(120, 400, 200)]  # of x none is asked for
    (truth,) = torch.autograd.grad(F.linear(x, layer.weight, layer.bias).square().sum(), [layer.weight])
    torch.testing.assert_close(g, truth, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("rows", ROWS)
def test_what_follows_may_work_in_place(used, rows):
    layer, x = Linear(I, O), ROWS[rows]().requires_grad_()
    mine = torch.autograd.grad(layer(x).relu_().sum(), [x, layer.weight])
    theirs = torch.autograd.grad(F.linear(x, layer.weight, layer.bias).relu().sum(), [x, layer.weight])
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)
    y = columns(torch.randn(I, N), layer.weight, layer.bias).relu_()
    torch.autograd.grad(y.sum(), [layer.weight])
    assert used


def test_gradients_of_gradients(used):
    layer, x = Linear(I, O), torch.randn(N, I, requires_grad=True)
    first = columns(x.T, layer.weight, layer.bias)

    def penalty(y: Tensor) -> list[Tensor]:
        (g,) = torch.autograd.grad(y.pow(3).sum(), [x], create_graph=True)
        return list(torch.autograd.grad(g.square().sum(), [x, layer.weight]))

    truth = penalty(F.linear(x, layer.weight, layer.bias))
    for y in (layer(x), first):
        for a, b in zip(penalty(y), truth, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.mark.parametrize("needed", ["x", "weight", "bias", "all"])
def test_columns(used, needed):
    """(inputs, N) to (outputs, N), and only the gradients that are asked for."""
    x, w, b = torch.randn(I, N), torch.randn(O, I), torch.randn(O)
    chosen = {"x": [x], "weight": [w], "bias": [b], "all": [x, w, b]}[needed]
    with torch.no_grad():
        alone = columns(x, w, b)
    for v in chosen:
        v.requires_grad_()
    y = columns(x, w, b)
    assert y.is_contiguous() and y.shape == (O, N)
    torch.testing.assert_close(y, alone)
    torch.testing.assert_close(y, w @ x + b[:, None], rtol=1e-4, atol=1e-4)
    mine = torch.autograd.grad(y.square().sum(), chosen)
    assert len(used) == 2 + {"x": 1, "weight": 1, "bias": 0, "all": 2}[needed]
    theirs = torch.autograd.grad((w @ x + b[:, None]).square().sum(), chosen)
    for a, c in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 2000), (20, 130), (130, 20), (21, 128), (128, 43)])
def test_parts_of_tables_of_few_columns(used, inputs, outputs):
    """Which PyTorch's product of oneDNN takes hundreds of times as long for, or refuses."""
    whole, w, b = torch.randn(1000, inputs + 3), torch.randn(outputs, inputs), torch.randn(outputs)
    x = whole[:, 1 : inputs + 1]
    for y in (linear(x, w.requires_grad_(), b), columns(x.T, w, b).T):
        truth = F.linear(x, w, b)
        torch.testing.assert_close(y, truth, rtol=1e-4, atol=1e-4)
        mine, theirs = (torch.autograd.grad(v.sum(), [w])[0] for v in (y, truth))
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-2)
    assert used


def test_products_of_matrices(used):
    a, b, c = torch.randn(O, I), torch.randn(I, N), torch.randn(O, N)
    torch.testing.assert_close(product(a, b), a @ b, rtol=1e-4, atol=1e-4)
    for adds in (False, True):
        held = torch.cat([c, c])
        put_product(held[:O], a, b, adds)
        torch.testing.assert_close(held, torch.cat([c * adds + a @ b, c]), rtol=1e-4, atol=1e-4)
    assert len(used) == 3
    assert quick_from(b) == module.LEAST / N
    assert quick_from(b.double()) == math.inf
    assert quick_from(b[:, :0]) < math.inf


def test_what_is_small_or_of_another_kind_stays_as_it_was(used):
    layer, x = Linear(I, O), torch.randn(N, I)
    same = [(layer(x[:4]), F.linear(x[:4], layer.weight, layer.bias))]
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    found = torch.func.grad(lambda w: F.mse_loss(linear(x, w), torch.zeros(N, O)))(layer.weight.detach())
    assert found.shape == (O, I)
    double = torch.randn(N, I).double()
    same.append((linear(double, layer.weight.double()), F.linear(double, layer.weight.double())))
    for a, b in same:
        assert torch.equal(a, b)
    assert not used


def test_a_processor_without_it_is_left_alone(monkeypatch, used):
    monkeypatch.setattr(module, "ONEDNN", False)
    layer, x = Linear(I, O), torch.randn(N, I)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert not used


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")  # torch's own
def test_a_compiled_layer_gives_the_same():
    """Rows and weights of any strides in one graph, which calls oneDNN itself."""
    from torch._inductor.utils import fresh_cache

    torch.compiler.reset()
    module.lower_products()
    layer, rows = Linear(I, O), [make() for make in ROWS.values()]
    weights = [layer.weight, layer.weight.T.contiguous().T, torch.cat([layer.weight, layer.weight], 1)[:, 5 : I + 5]]

    def loss(rows: list[Tensor]) -> Tensor:
        found = [linear(x, w, layer.bias) for x in rows for w in weights]
        return torch.stack([y.square().mean() for y in (*found, columns(rows[0].T, layer.weight, layer.bias))]).sum()

    truth = torch.autograd.grad(loss(rows), list(layer.parameters()))
    compiled = torch.compile(loss, fullgraph=True)
    with fresh_cache():  # a graph of before would be found again
        value = compiled(rows)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as events:
            value = compiled(rows)
        found = torch.autograd.grad(value, list(layer.parameters()))
    named = {event.key for event in events.key_averages()}
    assert "mkldnn::_linear_pointwise" in named
    assert "jensen::linear" not in named
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_masked_network_is_the_same_by_either(used, monkeypatch, dtype):
    """As whole products, and in strips where oneDNN takes none: values and all gradients."""
    net = MaskedMLP(24, 2, [256, 256]).to(dtype)
    x = torch.randn(400, 24, dtype=dtype, requires_grad=True)

    def found() -> list[Tensor]:
        y = net(x)
        return [y, *torch.autograd.grad(y.sin().sum(), [x, *net.parameters()])]

    mine = found()
    assert bool(used) == (dtype == torch.float32)
    monkeypatch.setattr(module, "ONEDNN", False)
    assert net.linears[1].tiles is not None
    near = 1e-3 if dtype == torch.float32 else 1e-10
    for a, b in zip(mine, found(), strict=True):
        torch.testing.assert_close(a, b, rtol=near, atol=near)
