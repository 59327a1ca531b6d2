"""Walks through a masked perceptron from variable to variable, each hidden unit computed once."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jensen.nets.masked_linear import column

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


class Plan:
    """What walks without gradients share: for each layer one matrix, (b W), and the part of it that each step needs.

    Its columns stand in the order of the walk: a one for the bias, the context, the variables or units by degree.
    """

    def __init__(self, net: MaskedMLP):
        self.net, order = net, net.order.tolist()
        like = net.linears[0].weight.detach()
        self.dtype, self.device = like.dtype, like.device
        self.given = 1 + (net.context.in_features if net.context is not None else 0)
        counts = [_counts(degrees, net.dims) for degrees in net.degrees]
        known = [range(self.given, self.given + net.dims), *([1 + n for n in accumulate(c)] for c in counts)]
        self.sizes = [[self.given, *[1] * net.dims], *([1, *c] for c in counts)]
        """Rows of the input of each layer: what is given at the start, and what each step adds."""
        self.matrices = [
            like.new_empty(len(layer.weight), sum(sizes)) for layer, sizes in zip(net.linears, self.sizes, strict=True)
        ]
        parts = [list(matrix.split(c)) for matrix, c in zip(self.matrices[:-1], counts, strict=True)]
        parts.append(self._of_variables(self.matrices[-1], order))
        self.steps = [
            [(rows[d][:, : seen[d]], seen[d]) for rows, seen in zip(parts, known, strict=True)] for d in range(net.dims)
        ]
        """For each step and layer the weights of the units that it computes, and how many rows they see."""
        self.direct: list[Tensor] = []
        if net.direct is not None:
            self.direct_matrix = like.new_zeros(len(net.direct.weight), sum(self.sizes[0]))
            rows = self._of_variables(self.direct_matrix, order)
            self.direct = [r[:, :n] for r, n in zip(rows, known[0], strict=True)]

    def _of_variables(self, matrix: Tensor, order: list[int]) -> list[Tensor]:
        rows = matrix.unflatten(0, (self.net.per_element, self.net.dims)).unbind(1)
        return [rows[d] for d in order]

    def fits(self) -> bool:
        weight = self.net.linears[0].weight
        return self.dtype == weight.dtype and self.device == weight.device

    def refresh(self) -> None:
        """Take the weights as they now are."""
        net, first = self.net, True
        for layer, matrix in zip(net.linears, self.matrices, strict=True):
            assert layer.bias is not None
            columns = [layer.bias.unsqueeze(1), layer.weight]
            if first:
                given = [net.context.weight] if net.context is not None else []
                columns = [columns[0], *given, layer.weight.index_select(1, net.order)]
            torch.cat(columns, 1, out=matrix)
            first = False
        if net.direct is not None:
            x, context = net.direct.weight.split([net.dims, self.given - 1], 1)
            self.direct_matrix[:, 1 : self.given] = context
            self.direct_matrix[:, self.given :] = x.index_select(1, net.order)


class InPlace(Walk):
    """The input of every layer has a buffer, filled from the top as its rows become known."""

    def __init__(self, net: MaskedMLP, rows: int, context: Tensor | None):
        super().__init__(net)
        if net.plan is None or not net.plan.fits():
            with torch.inference_mode(False), torch.no_grad():
                net.plan = Plan(net)
        self.plan = net.plan
        self.plan.refresh()
        new = self.plan.matrices[0].new_empty
        self.buffers = [new(matrix.shape[1], rows) for matrix in self.plan.matrices]
        for buffer in self.buffers:
            buffer[0].fill_(1)
        if net.context is not None and context is not None:
            self.buffers[0][1 : self.plan.given] = context.T
        slots = [buffer.split(sizes)[1:] for buffer, sizes in zip(self.buffers, self.plan.sizes, strict=True)]
        parameters = new(net.per_element, net.dims, rows)
        targets, views = parameters.unbind(1), parameters.permute(2, 0, 1).split(1, 2)
        order = net.order.tolist()
        self.x_rows, self.views = slots[0], [views[d] for d in order]
        self.targets = list(zip(*slots[1:], [targets[d] for d in order], strict=True))
        """For each step where the result of each layer goes."""
        self.parameters = parameters.permute(2, 0, 1)
        """Of all variables met so far, `(N, P, D)`."""

    def step(self, x: Tensor | None = None) -> Tensor:
        self.position = d = self.position + 1
        if x is not None:
            self.x_rows[d - 1].copy_(x.T)
        if self.net.residual:
            self._residual(d)
        else:
            act = self.net.act.in_place
            for (part, seen), buffer, target in zip(self.plan.steps[d], self.buffers, self.targets[d], strict=True):
                torch.mm(part, buffer[:seen], out=target)
                if buffer is not self.buffers[-1]:
                    act(target)
        if self.plan.direct:
            self.targets[d][-1].addmm_(self.plan.direct[d], self.buffers[0][: self.plan.steps[d][0][1]])
        return self.views[d]

    def _residual(self, d: int) -> None:
        h = None
        for i, ((part, seen), target) in enumerate(zip(self.plan.steps[d], self.targets[d], strict=True)):
            y = part @ self.buffers[i][:seen]
            if i % 2 == 0 and i < self.last:
                h = y if h is None else h + y
                y = h
            target.copy_(self.net.act.function(y) if i < self.last else y)


class Differentiable(Walk):
    """Every layer keeps what has been added up for its units to come; nothing is written in place."""

    def __init__(self, net: MaskedMLP, rows: int, context: Tensor | None):
        super().__init__(net)
        shifts: list[Any] = [net._shift(context), *(layer.bias for layer in net.linears[1:])]
        self.weights: list[Tensor] = [layer.weight for layer in net.linears]
        self.weights[0] = self.weights[0].index_select(1, net.order)
        self.weights[-1], shifts[-1] = self._by_variable(self.weights[-1]), self._by_variable(shifts[-1])
        self.pending = [column(shift).expand(-1, rows) for shift in shifts]
        self.direct = None
        if net.direct is not None:
            self.direct, onto = self._by_variable(net.direct.weight).tensor_split([net.dims], 1)
            self.direct = self.direct.index_select(1, net.order)
            if context is not None and net.context is not None:
                self.pending[-1] = torch.addmm(self.pending[-1], onto, context.T)
        inputs = [0, *[1] * (net.dims - 1)]
        self.counts = [inputs, *(_counts(degrees, net.dims) for degrees in net.degrees), [net.per_element] * net.dims]
        self.ends = [list(accumulate(counts)) for counts in self.counts]

    def _by_variable(self, rows: Tensor) -> Tensor:
        """Rows (P · D, ...) of the output as (D · P, ...), in the order of the walk."""
        net = self.net
        rows = rows.unflatten(0, (net.per_element, net.dims))
        return rows.index_select(1, net.order).transpose(0, 1).flatten(0, 1)

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
