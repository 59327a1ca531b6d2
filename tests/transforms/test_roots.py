"""Roots of increasing functions, against scipy's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from jensen.transforms import roots
from jensen.transforms.planar import residual_root
from jensen.transforms.roots import increasing_root

numbers = st.floats(-50, 50)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(y=numbers, inner=st.floats(-20, 20), slope=st.floats(1e-3, 30), shift=numbers)
def test_a_residual_equation_is_solved(y, inner, slope, shift):
    """v + r tanh(s v + t) = y, for every product r s = slope − 1 > −1."""
    outer = (slope - 1) / inner if abs(inner) > 1e-2 else 1.0
    v = residual_root(*map(double, (y, outer, inner, shift))).item()

    def f(v: float) -> float:
        return v + outer * torch.tanh(double(inner * v + shift)).item() - y

    scale = abs(y) + abs(outer)
    assert abs(f(v)) < 1e-13 * (1 + scale)
    truth = brentq(f, y - abs(outer) - 1, y + abs(outer) + 1, xtol=1e-15)
    assert v == pytest.approx(truth, abs=1e-11 * (1 + scale))


def test_an_element_does_not_depend_on_the_others():
    y, outer = 5 * torch.randn(200), 3 * torch.rand(200)
    one, zero = torch.ones(200), torch.zeros(200)
    together = residual_root(y, outer, one, zero)
    for i in range(0, 200, 7):
        assert torch.equal(residual_root(y[i : i + 1], outer[i : i + 1], one[:1], zero[:1])[0], together[i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_takes_few_evaluations(dtype):
    """Also where the function is nearly flat: what is declared as the steps of an inverse is what it takes."""
    worst, usual = 0, []
    for least in (1e-3, 0.1, 1.0, 10.0, 100.0):
        for spread in (0.1, 1.0, 10.0):
            count = [0]

            def f(v, y, c=least - 1, count=count):
                count[0] += 1
                h = torch.tanh(v)
                return v + c * h - y, 1 + c * (1 - h**2)

            y = spread * torch.randn(500, dtype=dtype)
            reach = 1.01 * abs(least - 1)
            v = increasing_root(lambda v, y=y, f=f: f(v, y), y - reach, y + reach, y.abs() + reach)
            torch.testing.assert_close(v + (least - 1) * torch.tanh(v), y, rtol=1e-5, atol=1e-5)
            worst, usual = max(worst, count[0]), [*usual, count[0]]
    assert worst < 2.5 * roots.STEPS
    assert sorted(usual)[len(usual) // 2] <= roots.STEPS


def test_where_newton_fails_the_bracket_is_halved():
    """On arctan Newton's steps diverge from 1.4 on."""
    y = double(1.5, -1.5, 0.0)
    v = increasing_root(lambda v: (torch.atan(v) - y, 1 / (1 + v**2)), double(-90, -95, -900), double(100, 90, 700), y)
    torch.testing.assert_close(v, torch.tan(y), rtol=1e-12, atol=1e-12)


def test_the_gradient_is_that_of_the_implicit_function():
    arguments = [torch.randn(6, dtype=torch.float64) for _ in range(4)]
    arguments[1] = arguments[1].abs()
    arguments[2] = arguments[2].abs()
    assert torch.autograd.gradcheck(residual_root, [a.requires_grad_() for a in arguments])
