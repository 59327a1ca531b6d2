"""Recurrent networks as causal cores: an unbounded memory, kept in a state of fixed size."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from jensen.nets.causal import Core


class Recurrent(Core):
    """GRU or LSTM, layer upon layer.

    With `truncate`, a gradient reaches that many vectors back at most: in training the row is cut into pieces, and the
    state is carried from piece to piece without its gradient. What is computed is the same.

    With `weight_dropout`, that share of the weights from state to state is dropped in training, the same ones all along
    the rows.

    Cho et al. 2014, arXiv:1406.1078 (GRU); Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation
    9(8), 1997; Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", 2018, arXiv:1708.02182
    (dropout of weights).
    """

    def __init__(
        self,
        width: int,
        layers: int,
        cell: Literal["gru", "lstm"],
        dropout: float = 0.0,
        truncate: int | None = None,
        weight_dropout: float = 0.0,
    ):
        super().__init__()
        self.width, self.truncate, self.weight_dropout = width, truncate, weight_dropout
        kind = nn.GRU if cell == "gru" else nn.LSTM
        self.rnn = kind(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        weights = self._thinned() if self.training and self.weight_dropout else {}
        if self.truncate is None or not torch.is_grad_enabled():
            return self.drop(functional_call(self.rnn, weights, h)[0])
        pieces, state = [], None
        for piece in h.split(self.truncate, 1):
            y, state = functional_call(self.rnn, weights, (piece, state))
            state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            pieces.append(y)
        return self.drop(torch.cat(pieces, 1))

    def _thinned(self) -> dict[str, Tensor]:
        """The weights from state to state, a share of them dropped."""
        weights = {name: w for name, w in self.rnn.named_parameters() if name.startswith("weight_hh")}
        return {name: F.dropout(w, self.weight_dropout) for name, w in weights.items()}

    def start(self, rows: int) -> list[Any]:
        return [None]

    def step(self, h: Tensor, state: list[Any]) -> Tensor:
        y, state[0] = self.rnn(h.unsqueeze(1), state[0])
        return self.drop(y[:, 0])
