"""A causal Transformer as a core: every vector attends to itself and to all before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jensen.nets.attention import causal_attention
from jensen.nets.causal import Core
from jensen.nets.products import Linear

HALF = 0.5**0.5


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

    def start(self, rows: int) -> TransformerWalk:
        return TransformerWalk(self, rows)

    def step(self, h: Tensor, state: TransformerWalk) -> Tensor:
        return state.step(h)


class Block(nn.Module):
    """One layer: attention, then a perceptron of each vector, each added to what it saw."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.mlp = nn.Sequential(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor, turn: Tensor) -> Tensor:
        n, t, _ = h.shape
        qkv = self.qkv(self.before(h)).view(n, t, 3, self.heads, -1)
        h = h + self.drop(self.out(causal_attention(qkv, turn, self.dropout if self.training else 0.0)))
        return h + self.drop(self.mlp(self.between(h)))


class TransformerWalk:
    """Keys and values of what has passed, and the arithmetic of one more vector in as few operations as will do.

    A step is bound by the number of operations, not by their size. To turn a pair (a, b) by an angle is
    (a, b) cos + (−b, a) sin, and (−b, a) is put out by the same product as (a, b), by rows of the weights in another
    order. The attention's 1/√size is inside the weights of the queries, each norm's scale and shift inside those of the
    layer that follows it, and with s = x/√2, of which both halves are inside weights, gelu(x) = (s + s erf(s)) / √2.
    """

    def __init__(self, of: Transformer, rows: int):
        self.t, self.width, self.norm = 0, of.width, of.norm
        like, size, heads = of.norm.weight, of.width // of.heads, of.heads
        angles = of.angles.to(like.dtype).repeat_interleave(2, 1).repeat(1, 2 * heads)  # of queries and keys alike
        self.cos, self.sin = angles.cos().unbind(0), angles.sin().unbind(0)
        scale = torch.cat([like.new_full((of.width,), size**-0.5), like.new_ones(of.width)])
        self.turned = like.new_empty(rows, 2 * of.width)  # queries and keys
        self.shape = rows, heads, size
        self.layers = []
        for block in of.blocks:
            assert isinstance(block, Block)
            qkv, bias = _after_norm(block.qkv, block.before)
            (qk, v), (qk_bias, v_bias) = qkv.split([2 * of.width, of.width]), bias.split([2 * of.width, of.width])
            qk, qk_bias = qk * scale.unsqueeze(1), qk_bias * scale
            first = torch.cat([qk, _quarter_turn(qk), v]).mT.contiguous()
            up, up_bias = _after_norm(block.mlp[0], block.between)  # pyright: ignore[reportArgumentType]
            down: nn.Linear = block.mlp[2]  # pyright: ignore[reportAssignmentType]
            kept = like.new_empty(2, rows * heads, of.length, size)
            self.layers.append(
                (first, torch.cat([qk_bias, _quarter_turn(qk_bias), v_bias]), *kept, block.out.weight.mT,
                 block.out.bias, (HALF * up).mT, HALF * up_bias, (HALF * down.weight).mT, down.bias)
            )  # fmt: skip

    def step(self, h: Tensor) -> Tensor:
        """The next vector, (rows, H), from the next input, (rows, H)."""
        t, width, wide = self.t, (self.width,), 2 * self.width
        rows, heads, size = self.shape
        for first, first_bias, keys, values, out, out_bias, up, up_bias, down, down_bias in self.layers:
            y = torch.addmm(first_bias, F.layer_norm(h, width), first)
            torch.mul(y[:, :wide], self.cos[t], out=self.turned).addcmul_(y[:, wide : 2 * wide], self.sin[t])
            keys[:, t] = self.turned[:, self.width :].reshape(rows * heads, size)
            values[:, t] = y[:, 2 * wide :].reshape(rows * heads, size)
            query = self.turned[:, : self.width].reshape(rows * heads, 1, size)
            weights = torch.bmm(query, keys[:, : t + 1].mT).softmax(2)
            mixed = torch.bmm(weights, values[:, : t + 1]).view(rows, -1)
            h = h + torch.addmm(out_bias, mixed, out)
            s = torch.addmm(up_bias, F.layer_norm(h, width), up)
            h = h + torch.addmm(down_bias, torch.addcmul(s, s, torch.erf(s)), down)
        self.t = t + 1
        return self.norm(h)


def _after_norm(linear: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias that take in the scale and shift of the norm before them."""
    return linear.weight * norm.weight, torch.addmv(linear.bias, linear.weight, norm.bias)


def _quarter_turn(rows: Tensor) -> Tensor:
    """(a, b) to (−b, a) for each pair of neighbouring rows."""
    a, b = rows.unflatten(0, (-1, 2)).unbind(1)
    return torch.stack([-b, a], 1).flatten(0, 1)


def _angles(length: int, size: int) -> Tensor:
    """t · 10000^(−2i/size), (length, size/2)."""
    rates = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    return torch.outer(torch.arange(length, dtype=torch.float64), rates)
