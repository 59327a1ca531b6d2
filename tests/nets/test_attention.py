"""Strips of attention against PyTorch's kernel, and their gradient against differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from jensen.nets import attention
from jensen.nets.attention import STRIP, causal_attention
from jensen.nets.transformer import _angles


def parts(n: int, t: int, heads: int, size: int):
    torch.manual_seed(0)
    angles = _angles(t, size)
    qkv = torch.randn(n, t, 3, heads, size, dtype=torch.float64, requires_grad=True)
    return qkv, torch.polar(torch.ones_like(angles), angles)


def turned(x: torch.Tensor, t: int, size: int) -> torch.Tensor:
    """Pairs of neighbouring numbers turned by cosine and sine, as the paper writes it."""
    angles = _angles(t, size)[:, None]
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1).flatten(-2)


@pytest.mark.parametrize("t", [1, 7, STRIP, STRIP + 1, 3 * STRIP - 5])
def test_strips_gather_what_the_kernel_does(t: int):
    qkv, turn = parts(3, t, 2, 6)
    q, k, v = qkv.unbind(2)
    q, k, v = (x.transpose(1, 2) for x in (turned(q, t, 6), turned(k, t, 6), v))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    weights = torch.randn_like(expected)
    (of_expected,) = torch.autograd.grad((expected * weights).sum(), qkv)
    found = causal_attention(qkv, turn)
    (of_found,) = torch.autograd.grad((found * weights).sum(), qkv)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(of_found, of_expected)


def test_rows_too_long_for_strips_agree(monkeypatch: pytest.MonkeyPatch):
    qkv, turn = parts(2, 70, 2, 4)
    by_strips = causal_attention(qkv, turn)
    monkeypatch.setattr(attention, "LONGEST", 69)
    torch.testing.assert_close(causal_attention(qkv, turn), by_strips)


def test_gradient_with_weights_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "STRIP", 3)
    qkv, turn = parts(2, 5, 2, 4)

    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return causal_attention(x, turn, 0.4)

    assert not torch.allclose(seeded(qkv), causal_attention(qkv, turn))
    assert torch.autograd.gradcheck(seeded, (qkv,))


def test_what_is_left_out_is_made_up_for():
    qkv, turn = parts(1, 9, 1, 2)
    many = qkv.detach().expand(40_000, -1, -1, -1, -1)
    draws = causal_attention(many, turn, 0.5)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - causal_attention(qkv, turn)).abs() < 5 * error + 1e-12).all()
    assert (error > 1e-4).all()


def test_second_derivatives_are_refused_and_function_transforms_agree():
    """Refused also where only other terms are to be differentiated again: what attention adds would be missing."""
    qkv, turn = parts(2, 9, 2, 4)
    loss = causal_attention(qkv, turn).sum() + qkv.pow(3).sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, qkv, create_graph=True)
    (expected,) = torch.autograd.grad(causal_attention(qkv, turn).square().sum(), qkv)
    found = torch.func.grad(lambda x: causal_attention(x, turn).square().sum())(qkv.detach())
    torch.testing.assert_close(found, expected)
