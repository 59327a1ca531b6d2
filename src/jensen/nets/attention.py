"""Causal attention of vectors with rotary positions: each looks at itself and at all before it.

    y_t = Σ_{s ≤ t} softmax_s(⟨R_t q_t, R_s k_s⟩ / √S) v_s        R_t turns each pair of numbers by its angle at t

Vaswani et al. 2017, arXiv:1706.03762; rotary positions: Su et al. 2021, arXiv:2104.09864.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

STRIP = 64  # queries that are multiplied with all keys up to the last of them at once
LONGEST = 512  # rows of which the weights are kept for the gradient; longer ones would take more memory than time


def causal_attention(qkv: Tensor, turn: Tensor, dropout: float = 0.0) -> Tensor:
    """What each vector gathers, (N, T, H·S).

    On a processor, rows of up to 512 go by strips of plain products that leave out what lies ahead, faster by a third
    than PyTorch's kernel; all else is that kernel's.

    Args:
        qkv: queries, keys and values of H heads, (N, T, 3, H, S), S even.
        turn: exp(i angle) of each position and pair of numbers, (T, S/2), complex.
        dropout: share of the weights that are left out.
    """
    plain = qkv.device.type == "cpu" and qkv.dtype in (torch.float32, torch.float64) and qkv.shape[1] <= LONGEST
    if plain and not torch._C._are_functorch_transforms_active():
        return _Strips.apply(qkv, turn, dropout)  # pyright: ignore[reportReturnType]
    qk, v = qkv.split([2, 1], 2)
    q, k, v = (part.transpose(1, 2) for part in (*_rotate(qk, turn[:, None, None]).unbind(2), v.squeeze(2)))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True).transpose(1, 2).flatten(2)


def _rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Each pair of neighbouring numbers of x, (..., size), turned: multiplied as complex numbers, (..., size/2)."""
    return torch.view_as_real(_pairs(x if x.dtype == torch.float64 else x.float()) * turn).flatten(-2).to(x.dtype)


def _pairs(x: Tensor) -> Tensor:
    """Neighbouring numbers as complex ones, (..., size) to (..., size/2): a view."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


class _Strips(Function):
    """The strip of queries a..b meets the keys 0..b; weights are kept, and are what the gradient starts from."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, turn: Tensor, dropout: float) -> Tensor:
        n, t, _, heads, size = qkv.shape
        turned = qkv.new_empty(3, n, heads, t, size)
        queries, keys, values = (part.transpose(1, 2) for part in qkv.unbind(2))
        torch.mul(_pairs(queries), turn * size**-0.5, out=_pairs(turned[0]))
        torch.mul(_pairs(keys), turn, out=_pairs(turned[1]))
        turned[2] = values
        q, k, v = turned.flatten(1, 2)
        ahead = qkv.new_full((STRIP, STRIP), -torch.inf).triu(1)
        y, kept = qkv.new_empty(n, t, heads, size), []
        for a in range(0, t, STRIP):
            b = min(a + STRIP, t)
            weights = torch.bmm(q[:, a:b], k[:, :b].mT)
            weights[:, :, a:] += ahead[: b - a, : b - a]
            weights = weights.softmax(2)
            keep = torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
            mixed = torch.bmm(weights if keep is None else weights * keep, v[:, :b])
            y[:, a:b] = mixed.unflatten(0, (n, heads)).transpose(1, 2)
            kept += [weights, keep]
        ctx.save_for_backward(q, k, v, turn, *kept)
        return y.flatten(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError("attention on a processor has no second derivative: leave out create_graph")
        q, k, v, turn, *kept = ctx.saved_tensors
        (n, t, _), size = gradient.shape, q.shape[2]
        heads = len(q) // n
        gradient = gradient.view(n, t, heads, size).transpose(1, 2).reshape(n * heads, t, size)
        parts = torch.zeros(3, *q.shape, dtype=q.dtype)
        of_q, of_k, of_v = parts
        for strip, a in enumerate(range(0, t, STRIP)):
            b = min(a + STRIP, t)
            weights, keep = kept[2 * strip : 2 * strip + 2]
            of_y = gradient[:, a:b]
            of_v[:, :b] += torch.bmm((weights if keep is None else weights * keep).mT, of_y)
            of_weights = torch.bmm(of_y, v[:, :b].mT)
            if keep is not None:
                of_weights *= keep
            of_logits = torch._softmax_backward_data(of_weights, weights, 2, weights.dtype)
            of_q[:, a:b] = torch.bmm(of_logits, k[:, :b])
            of_k[:, :b] += torch.bmm(of_logits.mT, q[:, a:b])
        parts, back = parts.unflatten(1, (n, heads)), turn.conj().resolve_conj()
        of_qkv = parts.new_empty(n, t, 3, heads, size)
        to_q, to_k, to_v = (part.transpose(1, 2) for part in of_qkv.unbind(2))
        torch.mul(_pairs(parts[0]), back * size**-0.5, out=_pairs(to_q))
        torch.mul(_pairs(parts[1]), back, out=_pairs(to_k))
        to_v.copy_(parts[2])
        return of_qkv, None, None
