"""Walks through a masked perceptron from variable to variable, each hidden unit computed once."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from jensen.nets.masked_linear import column
from jensen.nets.products import put_product, quick_from

if TYPE_CHECKING:
    from jensen.nets.masked import MaskedMLP


class Walk:
    """From variable to variable, in the network's order; each hidden unit is computed once.

        parameters = walk.step()           # of the first variable, (N, P, 1)
        parameters = walk.step(x)          # of the next one, given the value x of the last, (N, 1)

    D steps in all: the last variable's value is of no use to the network.
    """

    def __init__(self, net: MaskedMLP):
        self.net, self.position, self.last = net, -1, len(net.linears) - 1

    def step(self, x: Tensor | None = None) -> Tensor:
        """Parameters of the next variable, `(N, P, 1)`."""
        raise NotImplementedError


class Product(NamedTuple):
    """A part of a layer's result: weights times rows of its input."""

    weight: Tensor
    size: int
    """How many numbers it has."""
    seen: slice
    """Rows of the input."""
    rows: slice | None
    """Rows of the result; None for those of the step."""
    adds: bool
    """Whether it is added to what they hold; else they hold nothing yet."""


class Plan:
    """What walks without gradients share: for each layer one matrix, (b W), and the products that each step takes.

    Rows and columns stand in the order of the walk: a one for the bias, the context, the variables or units by degree.
    Of a matrix about the lower triangle counts, a few rows a step. Where a block of steps begins, all its rows take at
    once what is known by then, and a step the rest, that became known within its block: a few tall products and many
    small ones take half the time of many wide and flat ones.
    """

    def __init__(self, net: MaskedMLP):
        self.net = net
        like = net.linears[0].weight.detach()
        self.dtype, self.device = like.dtype, like.device
        self.given = 1 + (net.context.in_features if net.context is not None else 0)
        counts = [_counts(degrees, net.dims) for degrees in net.degrees]
        self.sizes = [[self.given, *[1] * net.dims], *([1, *c] for c in counts), [0, *[net.per_element] * net.dims]]
        """Rows of the input of each layer and of the last result: what is given at the start, and of each step."""
        ends = [list(accumulate(sizes)) for sizes in self.sizes]
        known = [ends[0], *(rows[1:] for rows in ends[1:-1])]  # a variable, unlike units, is known one step later
        self.matrices = [like.new_empty(results[-1] - results[0], rows[-1]) for rows, results in pairwise(ends)]
        self.steps = list(zip(*map(_products, self.matrices, known, ends[1:]), strict=True))
        """For each step and layer its products."""
        self.direct: list[list[Product]] = []
        """For each step those from the input to the last result."""
        if net.direct is not None:
            self.direct_matrix = like.new_zeros(len(net.direct.weight), ends[0][-1])
            self.direct = _products(self.direct_matrix, known[0], ends[-1], adds=True)

    def fits(self) -> bool:
        weight = self.net.linears[0].weight
        return self.dtype == weight.dtype and self.device == weight.device

    def refresh(self) -> None:
        """Take the weights as they now are."""
        net, last = self.net, len(self.matrices) - 1
        for i, (layer, matrix) in enumerate(zip(net.linears, self.matrices, strict=True)):
            assert layer.bias is not None
            bias, weight, given = layer.bias.unsqueeze(1), layer.weight, []
            if i == 0:
                given = [net.context.weight] if net.context is not None else []
                weight = weight.index_select(1, net.order)
            columns = [bias, *given, weight]
            torch.cat([_by_variable(net, c) for c in columns] if i == last else columns, 1, out=matrix)
        if net.direct is not None:
            x, context = _by_variable(net, net.direct.weight).split([net.dims, self.given - 1], 1)
            self.direct_matrix[:, 1 : self.given] = context
            self.direct_matrix[:, self.given :] = x.index_select(1, net.order)


BLOCKS = 512, 64, 8, 1  # steps


def _products(matrix: Tensor, known: list[int], ends: list[int], adds: bool = False) -> list[list[Product]]:
    """For each step what is to be multiplied.

    Args:
        known: how many rows of the input are known to each step.
        ends: how many rows of the result there are at the start and after each step.
        adds: whether the result holds something already.
    """
    steps, dims = [], len(ends) - 1
    levels = [size for size in BLOCKS if size == 1 or size < dims]
    if len(levels) == 2:
        levels[0] = math.ceil(dims / math.ceil(dims / levels[0]))  # as even as can be; several levels fit as they are
    done = [0] * (1 + len(levels))
    """Of the input, what the blocks in hand have taken: at each level what was known as they began."""
    for d in range(dims):
        begin, products = ends[d], []
        for level, size in enumerate(levels):
            if d % size == 0:
                end, taken = ends[min(d + size, dims)], done[level]
                done[level + 1] = known[d]
                if begin < end and taken < known[d]:
                    weight = matrix[begin - ends[0] : end - ends[0], taken : known[d]]
                    rows = slice(begin, end) if size > 1 else None
                    seen = slice(taken, known[d])
                    products.append(Product(weight, weight.numel(), seen, rows, adds or taken > 0))
        steps.append(products)
    return steps


class InPlace(Walk):
    """The input of every layer has a buffer, filled from the top as its rows become known."""

    def __init__(self, net: MaskedMLP, rows: int, context: Tensor | None):
        super().__init__(net)
        if net.plan is None or not net.plan.fits():
            with torch.inference_mode(False), torch.no_grad():
                net.plan = Plan(net)
        self.plan = net.plan
        self.plan.refresh()
        self.buffers = [self.plan.matrices[0].new_empty(sum(sizes), rows) for sizes in self.plan.sizes]
        self.quick_from = quick_from(self.buffers[0])
        for buffer in self.buffers[:-1]:
            buffer[0].fill_(1)
        if net.context is not None and context is not None:
            self.buffers[0][1 : self.plan.given] = context.T
        slots = [buffer.split(sizes)[1:] for buffer, sizes in zip(self.buffers, self.plan.sizes, strict=True)]
        self.x_rows = slots[0]
        self.own = list(zip(*slots[1:], strict=True))
        """For each step and layer where what it computes goes."""
        self.found = self.buffers[-1].view(net.dims, net.per_element, rows).permute(2, 1, 0)
        """Of all variables met so far, `(N, P, D)`, in the order of the walk."""
        self.views = self.found.split(1, 2)

    def step(self, x: Tensor | None = None) -> Tensor:
        self.position = d = self.position + 1
        if x is not None:
            self.x_rows[d - 1].copy_(x.T)
        act, h = self.net.act.in_place, None
        for i, (products, units) in enumerate(zip(self.plan.steps[d], self.own[d], strict=True)):
            self._multiply(products, self.buffers[i], self.buffers[i + 1], units)
            if i < self.last:
                if self.net.residual and i % 2 == 0:
                    h = units.clone() if h is None else units.add_(h).clone()
                act(units)
        if self.plan.direct:
            self._multiply(self.plan.direct[d], self.buffers[0], self.buffers[-1], self.own[d][-1])
        return self.views[d]

    def _multiply(self, products: list[Product], known: Tensor, result: Tensor, own: Tensor) -> None:
        for weight, size, seen, rows, adds in products:
            to = own if rows is None else result[rows]
            if size >= self.quick_from:
                put_product(to, weight, known[seen], adds)
            elif adds:
                to.addmm_(weight, known[seen])
            else:
                torch.mm(weight, known[seen], out=to)


class Differentiable(Walk):
    """Every layer keeps what has been added up for its units to come; nothing is written in place."""

    def __init__(self, net: MaskedMLP, rows: int, context: Tensor | None):
        super().__init__(net)
        shifts: list[Any] = [net._shift(context), *(layer.bias for layer in net.linears[1:])]
        self.weights: list[Tensor] = [layer.weight for layer in net.linears]
        self.weights[0] = self.weights[0].index_select(1, net.order)
        self.weights[-1], shifts[-1] = _by_variable(net, self.weights[-1]), _by_variable(net, shifts[-1])
        self.pending = [column(shift).expand(-1, rows) for shift in shifts]
        self.direct = None
        if net.direct is not None:
            self.direct, onto = _by_variable(net, net.direct.weight).tensor_split([net.dims], 1)
            self.direct = self.direct.index_select(1, net.order)
            if context is not None and net.context is not None:
                self.pending[-1] = torch.addmm(self.pending[-1], onto, context.T)
        inputs = [0, *[1] * (net.dims - 1)]
        self.counts = [inputs, *(_counts(degrees, net.dims) for degrees in net.degrees), [net.per_element] * net.dims]
        self.ends = [list(accumulate(counts)) for counts in self.counts]

    def step(self, x: Tensor | None = None) -> Tensor:
        self.position += 1
        self.x = None if x is None else x.T
        return self.net.compose(self._linear, self.x).T.unsqueeze(-1)

    def _linear(self, i: int, a: Tensor | None) -> Tensor:
        d, pending = self.position, self.pending[i]
        done, end = self.ends[i + 1][d] - self.counts[i + 1][d], self.ends[i][d]
        if a is not None:
            pending = torch.addmm(pending, self.weights[i][done:, end - self.counts[i][d] : end], a)
        if i == self.last and self.direct is not None and self.x is not None:
            pending = torch.addmm(pending, self.direct[done:, d - 1 : d], self.x)
        now, self.pending[i] = pending.split([self.counts[i + 1][d], len(pending) - self.counts[i + 1][d]])
        return now


def _counts(degrees: list[int], dims: int) -> list[int]:
    """How many units have degree 0, ..., D − 1."""
    return [degrees.count(d) for d in range(dims)]


def _by_variable(net: MaskedMLP, rows: Tensor) -> Tensor:
    """Rows (P · D, ...) of the output as (D · P, ...), in the order of the walk."""
    rows = rows.unflatten(0, (net.per_element, net.dims))
    return rows.index_select(1, net.order).transpose(0, 1).flatten(0, 1)
