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

    orderings = 1
    """M, orders in which the network can work; `use` chooses one."""

    def use(self, ordering: int) -> None:
        """Work in the order of that number from now on."""


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
        self.linear = nn.Linear(1, width)
        self.middle, self.unit, self.logarithm = middle, unit, logarithm

    def forward(self, x: Tensor) -> Tensor:
        x = x.log1p() if self.logarithm else (x - self.middle) / self.unit
        return self.linear(x.unsqueeze(-1))


class Symbols(nn.Module):
    """Whole numbers 0..count−1 as vectors of their own, `(*)` to `(*, width)`."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.embedding = nn.Embedding(count, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x.long())


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
    """

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
        self.first = nn.Parameter(0.1 * torch.randn(core.width))
        self.context = nn.Linear(context, core.width, bias=False) if context else None
        self.positions = nn.Parameter(0.1 * torch.randn(self.dims, core.width)) if positions else None
        self.output = nn.Linear(core.width, per_element)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        row = x.flatten(1).index_select(1, self.order)
        h = torch.cat([self.first.expand(len(x), 1, -1), self.embed(row[:, :-1])], 1)
        if self.positions is not None:
            h = h + self.positions
        if self.context is not None:
            assert context is not None
            h = h + self.context(context).unsqueeze(1)
        y = self.output(self.core(h))  # (N, D, P)
        return y.mT.index_select(2, self.order.argsort()) if len(self.shape) == 3 else y.mT

    def walk(self, rows: int, context: Tensor | None = None) -> Step:
        state, position = self.core.start(rows), 0
        given = self.context(context) if self.context is not None else None

        def step(x: Tensor | None) -> Tensor:
            nonlocal position
            h = self.first.expand(rows, -1) if x is None else self.embed(x)
            if self.positions is not None:
                h = h + self.positions[position]
            if given is not None:
                h = h + given
            position += 1
            return self.output(self.core.step(h, state))

        return step

    def set_output_bias(self, bias: Tensor) -> None:
        self.output.bias.copy_(bias.mean(1))


class Window(Core):
    """The last k vectors through a perceptron: a memory of k.

    y_t = mlp(h_{t−k+1}, ..., h_t), zeros before the first.
    """

    def __init__(self, width: int, memory: int, layers: int, act: Activation):
        super().__init__()
        self.width, self.memory = width, memory
        self.join = nn.Linear(memory * width, width)
        rest = [part for _ in range(layers - 1) for part in (nn.Linear(width, width), activation(act))]
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
        self.gates = nn.ModuleList(nn.Linear(2 * width, 2 * width) for _ in range(count))  # (V, W)
        self.outs = nn.ModuleList(nn.Linear(width, width + skip) for _ in range(count))  # (R, S)
        for out in self.outs:
            assert isinstance(out, nn.Linear)
            with torch.no_grad():  # so that the stream keeps its size, however many layers
                out.weight[:width].mul_(count**-0.5)
        self.last = nn.Sequential(nn.ReLU(), nn.Linear(skip, width), nn.ReLU())
        self.skip = skip

    @property
    def receptive_field(self) -> int:
        """How many vectors back an output sees, its own included."""
        return 1 + sum(self.dilations)

    def forward(self, h: Tensor) -> Tensor:
        total: Tensor | None = None
        h = h.mT  # (N, H, T): what convolutions take
        for dilation, gate, out in zip(self.dilations, self.gates, self.outs, strict=True):
            assert isinstance(gate, nn.Linear) and isinstance(out, nn.Linear)
            kernel = gate.weight.unflatten(1, (2, self.width)).mT  # (2H, H, 2)
            a, g = F.conv1d(F.pad(h, (dilation, 0)), kernel, gate.bias, dilation=dilation).chunk(2, 1)
            u = F.conv1d(torch.tanh(a) * torch.sigmoid(g), out.weight.unsqueeze(2), out.bias)
            h, s = h + u[:, : self.width], u[:, self.width :]
            total = s if total is None else total + s
        assert total is not None
        return self.last(total.mT)

    def start(self, rows: int) -> dict[str, Any]:
        like = next(self.parameters())
        layers = [
            (gate.weight.mT, gate.bias, out.weight.mT, out.bias)  # pyright: ignore
            for gate, out in zip(self.gates, self.outs, strict=True)
        ]
        return {"t": 0, "queues": [like.new_zeros(d, rows, self.width) for d in self.dilations], "layers": layers}

    def step(self, h: Tensor, state: dict[str, Any]) -> Tensor:
        t, total = state["t"], None
        width = self.width
        for dilation, queue, (v, b, r, c) in zip(self.dilations, state["queues"], state["layers"], strict=True):
            past = queue[t % dilation]
            gates = torch.addmm(b, torch.cat([past, h], 1), v)
            past.copy_(h)
            a, g = gates.split(width, 1)
            u = torch.addmm(c, a.tanh_().mul_(g.sigmoid_()), r)
            h, s = h + u[:, :width], u[:, width:]
            total = s if total is None else total + s
        state["t"] = t + 1
        assert total is not None
        return self.last(total)
