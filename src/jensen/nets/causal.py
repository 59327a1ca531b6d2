"""Causal networks: what belongs to an element of the datum depends only on the elements before it.

Two ways through the same network. `forward` sees the whole datum and gives the parameters of all elements at once, for
densities. `walk` meets one element after another and computes everything once, for samples. Tests say that they agree.

Here are sequences: each element is embedded, the row is shifted by one, and a *core*, itself causal, mixes along it.

    h_d = embed(x_{d−1}) + position_d + context        y = core(h)        parameters of x_d = W y_d + b
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jensen.nets.products import Linear, linear
from jensen.nets.stack import Activation, activation

Step = Callable[[Tensor | None], Tensor]
"""From the value of the last element, `(N,)`, None at the start, to the parameters of the next one, `(N, P)`."""


class Causal(nn.Module):
    """A network of which each element's parameters depend on those before it in `order`, strictly, and on a context.

    Attributes:
        shape: of a datum.
        per_element: P, numbers for each element.
        order: positions in the flattened datum, first to last, (D,); None where a subclass has its own.
        dims: D.
    """

    order: Any

    def __init__(self, shape: tuple[int, ...], per_element: int, order: Tensor | None = None):
        super().__init__()
        self.shape, self.per_element, self.dims = tuple(shape), per_element, math.prod(shape)
        if order is not None:
            self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of all elements, `(N, P, D)`.

        Args:
            x: `(N, *shape)`.
            context: `(N, C)`, or None where the network has none.
        """
        raise NotImplementedError

    def walk(self, rows: int, context: Tensor | None = None) -> Step:
        """A walk from element to element in `order`, for that many rows; used where gradients are off."""
        raise NotImplementedError

    def set_output_bias(self, bias: Tensor) -> None:
        """Let the parameters be around these, `(P, D)`, before any training."""

    @property
    def last(self) -> Any:
        """The layer that gives the parameters."""
        raise NotImplementedError

    local: int | None = None
    """How many of the C numbers of the context each position has of its own; None where no network of this kind can.

    The context is then (N, C − local + local · positions), those of the positions last, channel by channel; a picture
    has a position a pixel.
    """

    def widen(self, context: Tensor, positions: int) -> Tensor:
        """A context with what each position has of its own, (N, C, positions)."""
        local = self.local or 0
        shared, own = context.split([context.shape[1] - local * positions, local * positions], 1)
        return torch.cat([shared.unsqueeze(2).expand(-1, -1, positions), own.unflatten(1, (local, positions))], 1)

    breadth = 0
    """Hidden numbers of an element that are in memory at once where there is no gradient, roughly; 0 for few."""

    orderings = 1
    """M, orders in which the network can work; `use` chooses one."""

    def use(self, ordering: int) -> None:
        """Work in the order of that number from now on."""

    any_order = False
    """Whether the network is trained in all orders, so that any will do; `arrange` chooses one."""

    def arrange(self, order: Tensor) -> None:
        """Work in this order from now on, (D,). Only where `any_order`."""
        raise NotImplementedError


def raster(shape: tuple[int, ...]) -> Tensor:
    """Positions of a picture (C, H, W) pixel by pixel, row by row, the colours of a pixel together; of a row as it is.

    >>> raster((2, 1, 2)).tolist()
    [0, 2, 1, 3]
    """
    positions = torch.arange(math.prod(shape))
    return positions.reshape(shape[0], -1).T.flatten() if len(shape) == 3 else positions


class Numbers(nn.Module):
    """Numbers as vectors: affine in x, `(*)` to `(*, width)`. Whole numbers first go to order one.

    Args:
        middle, unit: x enters as (x − middle) / unit.
        logarithm: whether it enters as log(1 + x): counts.
    """

    def __init__(self, width: int, middle: float = 0.0, unit: float = 1.0, logarithm: bool = False):
        super().__init__()
        self.linear = Linear(1, width)
        self.middle, self.unit, self.logarithm = middle, unit, logarithm

    def forward(self, x: Tensor) -> Tensor:
        x = x.log1p() if self.logarithm else (x - self.middle) / self.unit
        return self.linear(x.unsqueeze(-1))


class Symbols(nn.Module):
    """Whole numbers 0..count−1 as vectors of their own, `(*)` to `(*, width)`.

    What lies between them or beyond, as draws of a density of real numbers do, is taken for the nearest.
    """

    def __init__(self, width: int, count: int):
        super().__init__()
        self.embedding = nn.Embedding(count, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x.round().clamp(0, self.embedding.num_embeddings - 1).long())


class Core(nn.Module):
    """A causal map of rows of vectors: `forward` (N, T, H) to (N, T, H), y_t a function of h_1, ..., h_t.

    `start(rows)` gives a state, and `step(h, state)` one vector after another, (N, H) to (N, H).
    """

    width: int

    def forward(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def start(self, rows: int) -> Any:
        raise NotImplementedError

    def step(self, h: Tensor, state: Any) -> Tensor:
        raise NotImplementedError


class SequenceNet(Causal):
    """A datum as a row of elements, each embedded, mixed by a causal core.

    Args:
        shape, per_element: of the datum, and P.
        embed: values `(*)` to vectors `(*, width)`.
        core: mixes along the row.
        context: C, 0 for none.
        positions: whether each position has a vector of its own, added to the input: for data whose elements are not
            alike, as the columns of a table or the pixels of a centred picture.

    Attributes:
        hidden_share: of the elements that training hides, each at random, from those after it.
    """

    local = 0

    def __init__(
        self,
        shape: tuple[int, ...],
        per_element: int,
        embed: nn.Module,
        core: Core,
        *,
        context: int = 0,
        positions: bool = True,
    ):
        super().__init__(shape, per_element, raster(shape))
        self.embed, self.core = embed, core
        self.breadth = 8 * core.width
        self.first = nn.Parameter(0.1 * torch.randn(core.width))
        self.context = Linear(context, core.width, bias=False) if context else None
        self.positions = nn.Parameter(0.1 * torch.randn(self.dims, core.width)) if positions else None
        self.output = Linear(core.width, per_element)
        nn.init.zeros_(self.output.bias)
        self.hidden_share = 0.0

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        row = x.flatten(1)  # a sequence may be cut short, as what comes after does not matter
        row = row.index_select(1, self.order) if len(self.shape) == 3 else row
        before = self.embed(row[:, :-1])
        if self.training and self.hidden_share:
            seen = torch.rand_like(before[..., :1]) >= self.hidden_share
            before = before * seen
        h = torch.cat([self.first.expand(len(x), 1, -1), before], 1)
        if self.positions is not None:
            h = h + self.positions[: h.shape[1]]
        if self.context is not None:
            h = h + self._given(context)[:, : h.shape[1]]
        y = self.output(self.core(h))  # (N, D, P)
        return y.mT.index_select(2, self.order.argsort()) if len(self.shape) == 3 else y.mT

    def walk(self, rows: int, context: Tensor | None = None) -> Step:
        state, position = self.core.start(rows), 0
        given = self._given(context).expand(-1, self.dims, -1).unbind(1) if self.context is not None else None

        def step(x: Tensor | None) -> Tensor:
            nonlocal position
            h = self.first.expand(rows, -1) if x is None else self.embed(x)
            if self.positions is not None:
                h = h + self.positions[position]
            if given is not None:
                h = h + given[position]
            position += 1
            return self.output(self.core.step(h, state))

        return step

    def _given(self, context: Tensor | None) -> Tensor:
        """What the context adds at each position, (N, D, H), or at all, (N, 1, H)."""
        assert context is not None
        assert self.context is not None
        if not self.local:
            return self.context(context).unsqueeze(1)
        own = self.widen(
            context, self.dims // self.shape[0] if len(self.shape) == 3 else self.dims
        ).mT  # (N, pixels, C)
        return self.context(own).repeat_interleave(self.dims // own.shape[1], 1)

    @property
    def last(self) -> nn.Module:
        return self.output

    def set_output_bias(self, bias: Tensor) -> None:
        self.output.bias.copy_(bias.mean(1))


class Window(Core):
    """The last k vectors through a perceptron: a memory of k.

    y_t = mlp(h_{t−k+1}, ..., h_t), zeros before the first.
    """

    def __init__(self, width: int, memory: int, layers: int, act: Activation):
        super().__init__()
        self.width, self.memory = width, memory
        self.join = Linear(memory * width, width)
        rest = [part for _ in range(layers - 1) for part in (Linear(width, width), activation(act))]
        self.after = nn.Sequential(activation(act), *rest)

    def forward(self, h: Tensor) -> Tensor:
        windows = F.pad(h, (0, 0, self.memory - 1, 0)).unfold(1, self.memory, 1)  # (N, T, H, k)
        return self.after(self.join(windows.mT.flatten(2)))

    def start(self, rows: int) -> list[Tensor]:
        return [self.join.weight.new_zeros(rows, self.memory * self.width)]

    def step(self, h: Tensor, state: list[Tensor]) -> Tensor:
        state[0] = torch.cat([state[0][:, self.width :], h], 1)
        return self.after(self.join(state[0]))


class Dilated(Core):
    """Gated causal convolutions whose dilation doubles from layer to layer, with skip connections.

        a_t, g_t = V h_{t−d} + W h_t        u_t = tanh(a_t) σ(g_t)        h ← h + R u        skip ← skip + S u

    van den Oord et al., "WaveNet: a generative model for raw audio", 2016, arXiv:1609.03499. Walking, each layer keeps
    a queue of its last d inputs: Le Paine et al., "Fast Wavenet generation algorithm", 2016, arXiv:1611.09482.

    Args:
        width: H, of the vectors between layers.
        skip: of the sum that the last perceptron sees.
        blocks, layers: each block has layers of dilation 1, 2, ..., 2^(layers − 1).
    """

    def __init__(self, width: int, skip: int, blocks: int, layers: int):
        super().__init__()
        self.width = width
        self.dilations = [2**i for _ in range(blocks) for i in range(layers)]
        count = len(self.dilations)
        self.gates = nn.ModuleList(Linear(2 * width, 2 * width) for _ in range(count))  # (V, W)
        self.outs = nn.ModuleList(Linear(width, width + skip) for _ in range(count))  # (R, S)
        for out in self.outs:
            assert isinstance(out, nn.Linear)
            with torch.no_grad():  # so that the stream keeps its size, however many layers
                out.weight[:width].mul_(count**-0.5)
        self.last = nn.Sequential(nn.ReLU(), Linear(skip, width), nn.ReLU())
        self.skip = skip

    @property
    def receptive_field(self) -> int:
        """How many vectors back an output sees, its own included."""
        return 1 + sum(self.dilations)

    def forward(self, h: Tensor) -> Tensor:
        length, outputs = h.shape[1], []
        for dilation, (gate, gate_bias, out, out_bias) in zip(self.dilations, self.weights, strict=True):
            v, w = gate.split(self.width, 1)
            back = min(dilation, length)
            past = F.pad(linear(h[:, : length - back], v), (0, 0, back, 0))
            a, g = (past + linear(h, w, gate_bias)).chunk(2, 2)
            outputs.append(torch.tanh(a) * torch.sigmoid(g))
            h = h + linear(outputs[-1], out[: self.width], out_bias[: self.width])
        s = torch.cat([out[self.width :] for _, _, out, _ in self.weights], 1)
        bias = sum(out_bias[self.width :] for _, _, _, out_bias in self.weights)
        return self.last(linear(torch.cat(outputs, 2), s, bias))  # pyright: ignore[reportArgumentType]

    @property
    def weights(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Of each layer (V, W) and their bias, (R, S) and their bias."""
        return [
            (gate.weight, gate.bias, out.weight, out.bias)  # pyright: ignore[reportReturnType]
            for gate, out in zip(self.gates, self.outs, strict=True)
        ]

    def start(self, rows: int) -> DilatedWalk:
        return DilatedWalk(self, rows)

    def step(self, h: Tensor, state: DilatedWalk) -> Tensor:
        return self.last(state.step(h))


class DilatedWalk:
    """What `Dilated` remembers from step to step, and its arithmetic in as few operations as will do.

    A step is bound by the number of operations, not by their size. So what comes from the past, V h_{t−d} + b, is
    computed for all layers at once, and so is what goes to the skip; with

        2 tanh(a) σ(g) = tanh(a) (1 + tanh(g / 2)) = t_a + t_a t_g

    a layer is left with four: [t_a, t_g] in two, u in one, and the next h in one. The halves are inside the weights,
    and a last element of u that is always 1 brings the biases.
    """

    def __init__(self, of: Dilated, rows: int):
        width, count = of.width, len(of.dilations)
        weights = of.weights
        like = weights[0][0]
        halved = torch.cat([like.new_ones(width), like.new_full((width,), 0.5)])
        gates = torch.stack([halved * gate.mT for gate, _, _, _ in weights])  # (L, 2H, 2H)
        self.v, w = gates.split(width, 1)
        self.b = torch.stack([halved * bias for _, bias, _, _ in weights]).unsqueeze(1)  # (L, 1, 2H)
        outs = torch.stack([torch.cat([0.5 * out.mT, bias[None]]) for _, _, out, bias in weights])
        r, s = outs.split([width, of.skip], 2)  # (L, H + 1, H), (L, H + 1, S)
        self.s = s.flatten(0, 1)

        dilations = torch.tensor(of.dilations, device=like.device)
        self.dilations, self.first, self.t = dilations, dilations.cumsum(0) - dilations, 0
        self.queues = like.new_zeros(sum(of.dilations), rows, width)  # of all layers, one after another
        self.past = like.new_empty(count, rows, width)
        self.h = like.new_empty(count + 1, rows, width)  # the input of each layer
        self.gates = like.new_empty(count, rows, 2 * width)
        self.u = like.new_ones(rows, count, width + 1)
        self.layers = [
            (self.h[i], gates, *gates.split(width, 1), self.u[:, i, :width], self.u[:, i], self.h[i + 1], w[i], r[i])
            for i, gates in enumerate(self.gates)
        ]

    def step(self, h: Tensor) -> Tensor:
        """The sum that goes to the skip, (rows, S), from the next input, (rows, H)."""
        place = self.first + self.t % self.dilations
        torch.index_select(self.queues, 0, place, out=self.past)
        torch.baddbmm(self.b, self.past, self.v, out=self.gates)
        self.h[0] = h
        for x, gates, a, g, u, u1, after, w, r in self.layers:
            gates.addmm_(x, w).tanh_()
            torch.addcmul(a, a, g, out=u)
            torch.addmm(x, u1, r, out=after)
        self.queues.index_copy_(0, place, self.h[:-1])
        self.t += 1
        return self.u.flatten(1) @ self.s
