"""Recurrent networks element by element, against PyTorch's cells with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jensen.conditionals.autoregressive import Autoregressive
from jensen.core import Model, seeded
from jensen.data import Schema
from jensen.data.text_tokens import Tokens
from jensen.nets.causal import SequenceNet
from jensen.nets.recurrent import Recurrent
from jensen.registry import build

WIDTH, LENGTH, END = 5, 9, 3
every_cell = pytest.mark.parametrize("cell", ["gru", "lstm"])
every_depth = pytest.mark.parametrize("layers", [1, 3])


class Cells:
    """Layers of `LSTMCell` or `GRUCell` with the weights of a core; what they remember of each layer, (h, c) or h."""

    def __init__(self, of: Recurrent, rows: int):
        self.lstm = isinstance(of.rnn, nn.LSTM)
        kind = nn.LSTMCell if self.lstm else nn.GRUCell
        self.layers = []
        for k in range(of.rnn.num_layers):
            cell = kind(of.width, of.width).double()
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            cell.load_state_dict({name: getattr(of.rnn, f"{name}_l{k}").detach() for name in names})
            self.layers.append(cell)
        zeros = torch.zeros(rows, of.width, dtype=torch.float64)
        self.state: list[Any] = [(zeros, zeros) if self.lstm else zeros for _ in self.layers]

    @torch.no_grad()
    def step(self, h: Tensor) -> Tensor:
        """(N, H) to (N, H)."""
        for k, cell in enumerate(self.layers):
            self.state[k] = cell(h, self.state[k])
            h = self.state[k][0] if self.lstm else self.state[k]
        return h

    @property
    def stacked(self) -> tuple[Tensor, ...]:
        """As `nn.LSTM` and `nn.GRU` give it: h, and c of an LSTM, each (layers, N, H)."""
        parts = zip(*self.state, strict=True) if self.lstm else [self.state]
        return tuple(torch.stack(list(part)) for part in parts)


def stacked(state: list) -> tuple[Tensor, ...]:
    """What a walk remembers."""
    return state[0] if isinstance(state[0], tuple) else (state[0],)


def core(cell, layers: int) -> Recurrent:
    with seeded(1):
        return Recurrent(WIDTH, layers, cell).double().eval()


@every_cell
@every_depth
def test_a_walk_is_that_of_cells(cell, layers):
    """Outputs and what is remembered, step by step; and the whole row at once."""
    net, h = core(cell, layers), torch.randn(4, LENGTH, WIDTH, dtype=torch.float64)
    cells, state, found = Cells(net, 4), net.start(4), []
    with torch.no_grad():
        whole = net(h)
        for t in range(LENGTH):
            truth = cells.step(h[:, t])
            found.append(net.step(h[:, t], state))
            torch.testing.assert_close(found[-1], truth, rtol=0, atol=1e-12)
            torch.testing.assert_close(stacked(state), cells.stacked, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.stack(found, 1), whole, rtol=0, atol=1e-12)


@every_cell
@every_depth
def test_a_walk_goes_on_from_what_was_read_at_once(cell, layers):
    """The state after a beginning is PyTorch's; without it the rest would come out otherwise."""
    net, h = core(cell, layers), torch.randn(4, LENGTH, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        truth = net.rnn(h)[0][:, 4:]
        for state, same in (([net.rnn(h[:, :4])[1]], True), (net.start(4), False)):
            found = torch.stack([net.step(h[:, t], state) for t in range(4, LENGTH)], 1)
            assert torch.allclose(found, truth, rtol=0, atol=1e-12) is same


# Models


def texts(cell: str, layers: int) -> Model:
    """Of nine letters out of three, or fewer and an end, in float64, with weights away from where they start."""
    schema = Schema.of_text(LENGTH, Tokens.of_characters(["abc"], lines=True))
    assert schema.tokens.end == END
    with seeded(2):
        model = build("rnn", schema, {"width": WIDTH, "cell": cell, "layers": layers}).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def conditional(model: Model) -> Autoregressive:
    module = model.p["x"].module
    assert isinstance(module, Autoregressive)
    return module


class ByHand:
    """p of one symbol after another: p(x_t | x_<t) = softmax(W y_t + b), y by cells."""

    def __init__(self, model: Model, rows: int):
        net = conditional(model).network
        assert isinstance(net, SequenceNet) and isinstance(net.core, Recurrent)
        self.net, self.rows, self.t = net, rows, 0
        self.cells = Cells(net.core, rows)

    @torch.no_grad()
    def step(self, x: Tensor | None) -> Tensor:
        """From the last symbol, (N,), None at the start, to the log-probabilities of the next, (N, 4)."""
        h = self.net.first.expand(self.rows, -1) if x is None else self.net.embed.embedding.weight[x.long()]  # pyright: ignore
        y = self.cells.step(h + self.net.positions[self.t])  # pyright: ignore
        self.t += 1
        return (y @ self.net.output.weight.T + self.net.output.bias).log_softmax(-1)

    def draw(self, u: Tensor, begin: Tensor | None = None) -> Tensor:
        """Each symbol the first with at least u of the mass up to it; ends after the end. Known ones first, (N, k)."""
        k, x, last = 0 if begin is None else begin.shape[1], torch.empty_like(u), None
        ended = torch.zeros(len(u), dtype=torch.bool)
        for t in range(LENGTH):
            below = self.step(last).exp().cumsum(1)
            last = begin[:, t] if begin is not None and t < k else (below < u[:, t, None]).sum(1).double()
            last = torch.where(ended, float(END), last)
            ended, x[:, t] = ended | (last == END), last
        return x


@every_cell
@every_depth
def test_a_text_scores_as_its_cells_say(cell, layers):
    model = texts(cell, layers)
    x = torch.randint(0, 3, (6, LENGTH)).double()
    for row, length in enumerate((9, 8, 5, 2, 1, 0)):
        x[row, length:] = END
    by_hand, last, total = ByHand(model, 6), None, torch.zeros(6, dtype=torch.float64)
    for t in range(LENGTH):
        here = by_hand.step(last).gather(1, x[:, t, None].long())[:, 0]
        total += here if t == 0 else torch.where(x[:, t - 1] == END, 0.0, here)
        last = x[:, t]
    with torch.no_grad():
        found = model.evidence({"x": x}).log_w[0]
    torch.testing.assert_close(found, total, rtol=0, atol=1e-12)


@every_cell
@every_depth
def test_a_text_is_drawn_as_its_cells_say(cell, layers):
    model, u = texts(cell, layers), torch.rand(200, LENGTH, dtype=torch.float64)
    found = conditional(model)().from_noise(u)
    assert torch.equal(found, ByHand(model, 200).draw(u))
    assert set(found.unique().tolist()) == {0, 1, 2, 3} and (found != END).all(1).any()


@every_cell
def test_what_is_drawn_after_a_beginning_remembers_it(cell):
    """The same noise after two beginnings that end alike."""
    model, u = texts(cell, 2), torch.rand(200, LENGTH, dtype=torch.float64)
    known, met, drawn = torch.arange(LENGTH) < 4, conditional(model)(), []
    for letters in ([0, 0, 0, 1], [2, 2, 2, 1]):
        begin = torch.tensor(letters).double().expand(200, -1)
        found, weight = met.complete(u, nn.functional.pad(begin, (0, LENGTH - 4)), known)
        assert torch.equal(found, ByHand(model, 200).draw(u, begin))
        assert weight is not None and not weight.any()
        drawn.append(found[:, 4:])
    assert not torch.equal(*drawn)
