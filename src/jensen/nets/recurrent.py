"""Recurrent networks as causal cores: an unbounded memory, kept in a state of fixed size."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from jensen.nets.causal import Core


class Recurrent(Core):
    """GRU or LSTM, layer upon layer.

    Cho et al. 2014, arXiv:1406.1078 (GRU); Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation
    9(8), 1997.
    """

    def __init__(self, width: int, layers: int, cell: Literal["gru", "lstm"], dropout: float = 0.0):
        super().__init__()
        self.width = width
        kind = nn.GRU if cell == "gru" else nn.LSTM
        self.rnn = kind(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        return self.drop(self.rnn(h)[0])

    def start(self, rows: int) -> list[Any]:
        return [None]

    def step(self, h: Tensor, state: list[Any]) -> Tensor:
        y, state[0] = self.rnn(h.unsqueeze(1), state[0])
        return self.drop(y[:, 0])
