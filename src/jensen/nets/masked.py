"""Masked perceptrons: what belongs to the d-th variable depends only on those before it, in a given order.

    h = act((W ∘ M) x + b)        M_kd = 1[m(k) ≥ d]: a hidden unit of degree m(k) sees the variables up to the m(k)-th
    y = (V ∘ A) h + c             A_dk = 1[d > m(k)]: an output of the d-th variable sees the units of lower degree

Germain, Gregor, Murray and Larochelle, "MADE: masked autoencoder for distribution estimation", 2015, arXiv:1502.03509.

Hidden units are sorted by degree, so that masks are staircases: a product leaves out the blocks that are zero, and a
walk from variable to variable (`MaskedMLP.walk`) computes each unit once, as soon as all that it sees is known. Inside,
tensors lie features first, `(features, N)`, so that the parameters of each variable are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jensen.nets.masked_linear import MaskedLinear, Tiles, column
from jensen.nets.masked_walk import Differentiable, InPlace, Plan, Walk
from jensen.nets.products import is_quick, product
from jensen.nets.stack import Activation
from jensen.transforms.compilation import is_looked_through


class _Act(NamedTuple):
    """An activation, the same in place, and its derivative where that follows from the result."""

    function: Callable[[Tensor], Tensor]
    in_place: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Any] | None = None  # (g, act(x)): g becomes g · act′(x)


_aten = torch.ops.aten
ACTIVATIONS: dict[Activation, _Act] = {
    "relu": _Act(torch.relu, torch.relu_, lambda g, h: _aten.threshold_backward.grad_input(g, h, 0, grad_input=g)),
    "leaky-relu": _Act(
        F.leaky_relu,
        F.leaky_relu_,
        lambda g, h: _aten.leaky_relu_backward.grad_input(g, h, 0.01, True, grad_input=g),
    ),
    "elu": _Act(F.elu, F.elu_, lambda g, h: _aten.elu_backward.grad_input(g, 1, 1, 1, True, h, grad_input=g)),
    "tanh": _Act(torch.tanh, torch.tanh_, lambda g, h: _aten.tanh_backward.grad_input(g, h, grad_input=g)),
    "silu": _Act(F.silu, _aten.silu_),
    "gelu": _Act(F.gelu, _aten.gelu_),
}


class MaskedMLP(nn.Module):
    """A masked perceptron: `(N, D)` and perhaps a context `(N, C)` to P numbers for each variable, `(N, P, D)`.

    The numbers of a variable depend on the variables before it in the order, and on the context, strictly. It knows no
    probability: what the numbers mean is for others to say.

    Args:
        dims: D.
        per_element: P.
        hidden: sizes of the hidden layers. Where one has fewer units than there are degrees, direct connections from
            inputs to outputs are added, so that each variable still sees all before it, and the context.
        context: C, 0 for none; every unit sees it.
        activation: between the layers.
        residual: whether hidden layers after the first are residual blocks h + V act(W act(h)), of equal sizes.
        order: the variables from first to last; 0, ..., D − 1 if not given.
        start_at_zero: whether the last layer starts at zero.

    Raises:
        ValueError: sizes of residual blocks differ, or the order is none.

    >>> MaskedMLP(3, 2, [16], order=[2, 1, 0])(torch.zeros(5, 3)).shape
    torch.Size([5, 2, 3])
    """

    order: Tensor

    def __init__(
        self,
        dims: int,
        per_element: int,
        hidden: Sequence[int],
        *,
        context: int = 0,
        activation: Activation = "relu",
        residual: bool = False,
        order: Sequence[int] | Tensor | None = None,
        start_at_zero: bool = False,
    ):
        super().__init__()
        self.dims, self.per_element, self.residual = dims, per_element, residual
        if residual and len(set(hidden)) > 1:
            raise ValueError(f"expected hidden layers of one size for residual blocks, got {list(hidden)}")
        least = 0 if context else 1  # a unit of degree 0 sees the context alone
        if least == dims:
            hidden = []  # one variable and no context: there is nothing for a unit to see
        self.activation: Activation = activation
        sizes = [*hidden[:1], *(size for size in hidden[1:] for _ in range(2))] if residual else hidden
        self.degrees = [_degrees(size, least, dims) for size in sizes]
        widths = [dims, *sizes, per_element * dims]
        self.linears = tuple(MaskedLinear(n, m) for n, m in pairwise(widths))  # quicker to reach than through `layers`
        self.layers = nn.ModuleList(self.linears)
        self.context = nn.Linear(context, widths[1], bias=False) if context else None
        narrow = any(size < dims - least for size in hidden)
        self.direct = MaskedLinear(dims + context, per_element * dims, bias=False) if narrow else None
        self.register_buffer("order", torch.arange(dims))
        self.register_load_state_dict_post_hook(_restore_order)
        self.set_order(range(dims) if order is None else order)
        self.reset_parameters(start_at_zero)

    def set_order(self, order: Sequence[int] | Tensor) -> None:
        """Let the variables follow each other so: `order[0]` depends on none. Weights stay as they are.

        Raises:
            ValueError: not every variable stands in it once.
        """
        order = order.cpu() if isinstance(order, Tensor) else torch.tensor(list(order))
        if sorted(order.tolist()) != list(range(self.dims)):
            raise ValueError(f"expected an order of the variables 0 to {self.dims - 1}, got {order.tolist()}")
        self.order = order.to(self.order.device)
        rank = order.argsort()
        sees_below, sees_up_to = rank + 1, rank.repeat(self.per_element)
        levels = [sees_below, *(torch.tensor(d) for d in self.degrees), sees_up_to]
        for layer, (ins, outs) in zip(self.linears, pairwise(levels), strict=True):
            layer.connect(outs, ins)
        if self.direct is not None:
            self.direct.connect(sees_up_to, F.pad(sees_below, (0, self.direct.weight.shape[1] - self.dims)))
        self.plan: Plan | None = None

    def reset_parameters(self, start_at_zero: bool = False) -> None:
        onto_outputs = [self.linears[-1], self.direct, None if self.degrees else self.context]
        for layer in (*self.linears, self.direct, self.context):
            if layer is not None:
                layer.reset_parameters()
        for layer in onto_outputs if start_at_zero else []:
            for parameter in layer.parameters() if layer is not None else []:
                nn.init.zeros_(parameter)

    @property
    def act(self) -> _Act:
        return ACTIVATIONS[self.activation]

    @property
    def size(self) -> int:
        """How many weights its layers have."""
        return sum(layer.weight.numel() for layer in self.linears)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`(N, P, D)`, features first in memory.

        Args:
            x: `(N, D)`.
            context: `(N, C)`.
        """
        first = self._shift(context)
        if self._fusable(x):
            head, *rest = self.linears
            y = _Fused.apply(self, x, head.weight, first, *(p for layer in rest for p in (layer.weight, layer.bias)))
        else:
            y = self._by_element(self.compose(lambda i, a: self._linear(i, a, first), x.T))
        if self.direct is not None:
            known = x if context is None or self.context is None else torch.cat([x, context], 1)
            y = y + self._by_element(self.direct(known.T))
        return y

    def _by_element(self, y: Tensor) -> Tensor:
        """`(P · D, N)` as `(N, P, D)`."""
        return y.view(self.per_element, self.dims, y.shape[1]).permute(2, 0, 1)

    def compose(self, linear: Callable[[int, Any], Tensor], x: Tensor | None) -> Tensor:
        """The network of x, given what applies its i-th linear map."""
        act, last, h = self.act.function, len(self.linears) - 1, linear(0, x)
        if self.residual:
            for i in range(1, last, 2):
                h = h + linear(i + 1, act(linear(i, act(h))))
        else:
            for i in range(1, last):
                h = linear(i, act(h))
        return linear(last, act(h)) if last else h

    def walk(self, rows: int, context: Tensor | None = None, gradients: bool = False) -> Walk:
        """A walk from variable to variable for that many rows.

        Without gradients it works in buffers of its own, and must be used where gradients are off.
        """
        return (Differentiable if gradients else InPlace)(self, rows, context)

    def _shift(self, context: Tensor | None) -> Tensor:
        """What the first layer adds: its bias, `(H,)`, and the context's part, `(H, N)`."""
        bias = self.linears[0].bias
        assert bias is not None
        if self.context is None:
            return bias
        assert context is not None
        return torch.addmm(bias.unsqueeze(1), self.context.weight, context.T)

    def _linear(self, i: int, a: Tensor, shift: Tensor) -> Tensor:
        layer = self.linears[i]
        if i > 0 or shift.dim() == 1:
            return layer(a)
        return torch.addmm(shift, layer.weight * layer.mask, a)

    def _fusable(self, x: Tensor) -> bool:
        return (
            not self.residual
            and (self.act.gradient is not None or len(self.linears) == 1)
            and not torch.is_autocast_enabled(x.device.type)
            and not is_looked_through()
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "plan": None}  # rebuilt when needed


def _degrees(size: int, least: int, dims: int) -> list[int]:
    """Degrees of a hidden layer, sorted: each of least, ..., dims − 1 as often, always with the last.

    >>> _degrees(7, 1, 4), _degrees(2, 1, 6)
    ([1, 1, 2, 2, 3, 3, 3], [3, 5])
    """
    count = dims - least
    return [least - 1 + -(-(unit + 1) * count // size) for unit in range(size)]


def _restore_order(net: nn.Module, _: Any) -> None:
    assert isinstance(net, MaskedMLP)
    net.set_order(net.order)


def _cut(layer: MaskedLinear, x: Tensor) -> Tiles | None:
    """Whether the layer's product is taken in strips: as one, by the faster library, it takes less time than those."""
    return None if is_quick(x, layer.weight) else layer.tiles


class _Fused(torch.autograd.Function):
    """All layers in one node of the graph: masks and activations in place, blocks of zeros left out.

    Arguments are the network, its input, and for each layer the weight and what it adds, `(H,)` or `(H, N)`. Masks are
    those of the pass, whatever order the network is set to before the gradient is asked for.
    """

    @staticmethod
    def forward(ctx: Any, net: MaskedMLP, x: Tensor, *parameters: Tensor) -> Tensor:  # pyright: ignore
        hs, weights, last = [x.T], [], len(net.linears) - 1
        for i, layer in enumerate(net.linears):
            weight, shift = parameters[2 * i] * layer.mask, column(parameters[2 * i + 1])
            weights.append(weight)
            if (tiles := _cut(layer, hs[i])) is None:
                h = product(weight, hs[i]).add_(shift)
            else:
                h = shift.expand(-1, len(x)).clone(memory_format=torch.contiguous_format)
                for seen, columns in tiles.columns:
                    h[seen].addmm_(weight[seen, columns], hs[i][columns])
            hs.append(net.act.in_place(h) if i < last else h)
        ctx.net, ctx.layers = net, [(layer.mask, _cut(layer, h)) for layer, h in zip(net.linears, hs, strict=False)]
        ctx.save_for_backward(x, *hs[1:-1], *weights, *parameters)
        return net._by_element(hs[-1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        net, n, saved = ctx.net, len(ctx.layers), ctx.saved_tensors
        x, parameters = saved[0], saved[2 * n :]
        if torch.is_grad_enabled():  # derivatives of derivatives are asked for
            masks = [mask for mask, _ in ctx.layers]
            return (None, *_plain_gradients(net, masks, (x, *parameters), g, ctx.needs_input_grad[1:]))
        hs, weights = [x.T, *saved[1:n]], saved[n : 2 * n]
        g = g.permute(1, 2, 0).reshape(-1, len(x))
        gradients: list[Tensor | None] = [None] * (2 * n)
        for i in reversed(range(n)):
            (mask, tiles), h, weight = ctx.layers[i], hs[i], weights[i]
            if ctx.needs_input_grad[2 * i + 2]:
                gradients[2 * i] = _weight_gradient(g, h, mask, tiles)
            if ctx.needs_input_grad[2 * i + 3]:
                gradients[2 * i + 1] = g.sum(1) if parameters[2 * i + 1].dim() == 1 else g
            if i == 0 and not ctx.needs_input_grad[1]:
                return (None, None, *gradients)
            if tiles is None:
                g = product(weight.T, g)
            else:
                below = torch.zeros_like(h)
                for rows, seen in tiles.rows:
                    below[seen].addmm_(weight[rows, seen].T, g[rows])
                g = below
            if i > 0:
                net.act.gradient(g, h)
        return (None, g.T, *gradients)


def _weight_gradient(g: Tensor, h: Tensor, mask: Tensor, tiles: Tiles | None) -> Tensor:
    """(g hᵀ) ∘ M."""
    if tiles is None:
        if len(h) < len(g) and not is_quick(h, g):  # that product is much faster with the fewer rows
            return torch.mul((h @ g.T).T, mask, out=torch.empty_like(mask))
        return product(g, h.T).mul_(mask)
    gradient = torch.zeros_like(mask)
    for rows, seen in tiles.rows:
        torch.mm(g[rows], h[seen].T, out=gradient[rows, seen])
    return gradient.mul_(mask)


def _plain_gradients(
    net: MaskedMLP, masks: list[Tensor], inputs: tuple[Tensor, ...], g: Tensor, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients as functions that can be differentiated again."""
    x, *parameters = inputs

    def linear(i: int, a: Tensor) -> Tensor:
        return torch.addmm(column(parameters[2 * i + 1]), parameters[2 * i] * masks[i], a)

    wanted = [v for v, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(net._by_element(net.compose(linear, x.T)), wanted, g, create_graph=True))
    return [next(found) if need else None for need in needed]
