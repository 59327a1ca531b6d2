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
        turn = self._turns(h)[: h.shape[1]]
        h = self.drop(h)
        for block in self.blocks:
            h = block(h, turn)
        return self.norm(h)

    def _turns(self, like: Tensor) -> Tensor:
        """exp(i angle) of each position and pair of numbers, (length, size/2)."""
        angles = self.angles.to(like.dtype)
        return torch.polar(torch.ones_like(angles), angles)

    def start(self, rows: int) -> dict:
        shape = (rows, self.heads, self.length, self.width // self.heads)
        new = self.norm.weight.new_empty
        return {"t": 0, "turns": self._turns(self.norm.weight), "kept": [(new(shape), new(shape)) for _ in self.blocks]}

    def step(self, h: Tensor, state: dict) -> Tensor:
        t = state["t"]
        for block, (keys, values) in zip(self.blocks, state["kept"], strict=True):
            h = block.step(h, state["turns"][t], keys, values, t)  # pyright: ignore
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

    def forward(self, h: Tensor, turn: Tensor) -> Tensor:
        n, t, width = h.shape
        qkv = self.qkv(self.before(h)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (3, N, heads, T, size)
        (q, k), v = _rotate(qkv[:2], turn), qkv[2]
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        h = h + self.drop(self.out(mixed.transpose(1, 2).reshape(n, t, width)))
        return h + self.drop(self.mlp(self.between(h)))

    def step(self, h: Tensor, turn: Tensor, keys: Tensor, values: Tensor, t: int) -> Tensor:
        """The next vector, (N, H); its key and value join those kept, (N, heads, length, size)."""
        qkv = self.qkv(self.before(h)).view(len(h), 3, self.heads, 1, -1)
        turned = _rotate(qkv[:, :2], turn)
        keys[:, :, t : t + 1], values[:, :, t : t + 1] = turned[:, 1], qkv[:, 2]
        mixed = F.scaled_dot_product_attention(turned[:, 0], keys[:, :, : t + 1], values[:, :, : t + 1])
        h = h + self.out(mixed.flatten(1))
        return h + self.mlp(self.between(h))


def _angles(length: int, size: int) -> Tensor:
    """t · 10000^(−2i/size), (length, size/2)."""
    rates = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    return torch.outer(torch.arange(length, dtype=torch.float64), rates)


def _rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Each pair of neighbouring numbers of x, (..., size), turned: multiplied as complex numbers, (..., size/2)."""
    pairs = (x if x.dtype == torch.float64 else x.float()).unflatten(-1, (-1, 2)).contiguous()
    return torch.view_as_real(torch.view_as_complex(pairs) * turn).flatten(-2).to(x.dtype)
