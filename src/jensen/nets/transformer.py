"""A causal Transformer as a core: every vector attends to itself and to all before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jensen.nets.causal import Core


class Transformer(Core):
    """Blocks h ← h + attention(norm(h)), h ← h + mlp(norm(h)), with rotary positions.

    Vaswani et al. 2017, arXiv:1706.03762; normalisation before each branch: Xiong et al. 2020, arXiv:2002.04745; rotary
    positions: Su et al. 2021, arXiv:2104.09864. Walking, keys and values of what has passed are kept.

    Args:
        width: H, a multiple of twice the heads.
        length: the longest row.
    """

    def __init__(self, width: int, layers: int, heads: int, length: int, dropout: float = 0.0):
        super().__init__()
        self.width, self.heads, self.length = width, heads, length
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        with torch.no_grad():  # so that the stream keeps its size, however many layers
            for block in self.blocks:
                for out in (block.out, block.mlp[2]):  # pyright: ignore
                    out.weight.mul_((2 * layers) ** -0.5)  # pyright: ignore
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        self.register_buffer("angles", _angles(length, width // heads), persistent=False)

    angles: Tensor

    def forward(self, h: Tensor) -> Tensor:
        turn = self._turn(slice(0, h.shape[1]), h)
        h = self.drop(h)
        for block in self.blocks:
            h = block(h, turn)
        return self.norm(h)

    def _turn(self, positions: slice, like: Tensor) -> tuple[Tensor, Tensor]:
        angles = self.angles[positions].to(like.dtype)
        return angles.cos(), angles.sin()

    def start(self, rows: int) -> dict:
        weight = self.norm.weight
        new = weight.new_empty
        size = self.width // self.heads
        return {
            "t": 0,
            "keys": [new(rows, self.heads, self.length, size) for _ in self.blocks],
            "values": [new(rows, self.heads, self.length, size) for _ in self.blocks],
        }

    def step(self, h: Tensor, state: dict) -> Tensor:
        t = state["t"]
        turn = self._turn(slice(t, t + 1), h)
        for block, keys, values in zip(self.blocks, state["keys"], state["values"], strict=True):
            h = block.step(h, turn, keys, values, t)  # pyright: ignore
        state["t"] = t + 1
        return self.norm(h)


class Block(nn.Module):
    """One layer: attention, then a perceptron of each vector, each added to what it saw."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        n, t, width = h.shape
        q, k, v = self.qkv(self.before(h)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (N, heads, T, size)
        q, k = _rotate(q, *turn), _rotate(k, *turn)
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        h = h + self.drop(self.out(mixed.transpose(1, 2).reshape(n, t, width)))
        return h + self.drop(self.mlp(self.between(h)))

    def step(self, h: Tensor, turn: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, t: int) -> Tensor:
        """The next vector, (N, H); its key and value join those kept, (N, heads, length, size)."""
        q, k, v = self.qkv(self.before(h)).view(len(h), 3, self.heads, 1, -1).unbind(1)
        keys[:, :, t : t + 1], values[:, :, t : t + 1] = _rotate(k, *turn), v
        q, seen = _rotate(q, *turn), slice(0, t + 1)
        weights = (q @ keys[:, :, seen].mT * q.shape[-1] ** -0.5).softmax(-1)
        h = h + self.drop(self.out((weights @ values[:, :, seen]).flatten(1)))
        return h + self.drop(self.mlp(self.between(h)))


def _angles(length: int, size: int) -> Tensor:
    """t · 10000^(−2i/size), (length, size/2)."""
    rates = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    return torch.outer(torch.arange(length, dtype=torch.float64), rates)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of numbers turned by its position's angle, (..., T, size)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
