"""Recurrent networks as causal cores: an unbounded memory, kept in a state of fixed size."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from jensen.nets.causal import Core


class Recurrent(Core):
    """GRU or LSTM, layer upon layer.

    With `truncate`, a gradient reaches that many vectors back at most: in training the row is cut into pieces, and the
    state is carried from piece to piece without its gradient. What is computed is the same.

    Cho et al. 2014, arXiv:1406.1078 (GRU); Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation
    9(8), 1997.
    """

    def __init__(
        self, width: int, layers: int, cell: Literal["gru", "lstm"], dropout: float = 0.0, truncate: int | None = None
    ):
        super().__init__()
        self.width, self.truncate = width, truncate
        kind = nn.GRU if cell == "gru" else nn.LSTM
        self.rnn = kind(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        if self.truncate is None or not torch.is_grad_enabled():
            return self.drop(self.rnn(h)[0])
        pieces, state = [], None
        for piece in h.split(self.truncate, 1):
            y, state = self.rnn(piece, state)
            state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            pieces.append(y)
        return self.drop(torch.cat(pieces, 1))

    def start(self, rows: int) -> list[Any]:
        return [None]

    def step(self, h: Tensor, state: list[Any]) -> Tensor:
        y, state[0] = self.rnn(h.unsqueeze(1), state[0])
        return self.drop(y[:, 0])
