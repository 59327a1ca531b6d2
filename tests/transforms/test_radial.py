"""The radial map against its equation; its inverse is a formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call

from jensen.transforms import Radial
from jensen.transforms.planar import LEAST_SLOPE

D = 3


def radial(centre: list[float], alpha: float, slope: float) -> Radial:
    map_ = Radial(len(centre)).double()
    map_.parameters_of.start.data = torch.tensor([*centre, alpha, slope], dtype=torch.float64)
    return map_


def test_it_is_the_papers_equation():
    """f(z) = z + β h(α, r)(z − z₀), log |det| = (D − 1) log(1 + βh) + log(1 + βh + βh′r), by numpy."""
    rng = np.random.default_rng(0)
    centre, z, raw = rng.normal(size=D), rng.normal(size=(5, D)), (0.3, -2.0)
    alpha, s = np.log1p(np.exp(raw)) + LEAST_SLOPE
    beta = s - alpha
    assert beta < 0
    r = np.linalg.norm(z - centre, axis=1)
    h, slope = 1 / (alpha + r), -1 / (alpha + r) ** 2
    x, ladj = radial([*centre], *raw).forward_and_ladj(torch.from_numpy(z))
    np.testing.assert_allclose(x.detach(), z + (beta * h)[:, None] * (z - centre), rtol=1e-12)
    truth = (D - 1) * np.log(1 + beta * h) + np.log(1 + beta * h + beta * slope * r)
    np.testing.assert_allclose(ladj.detach(), truth, rtol=1e-10)


@given(
    alpha=st.floats(-20, 20),
    slope=st.floats(-20, 20),
    away=st.lists(st.floats(-1e3, 1e3), min_size=D, max_size=D),
)
def test_the_closed_inverse_is_one_everywhere(alpha, slope, away):
    """Also at the centre and far from it, for any weights: all terms are positive, so no digits are lost."""
    map_ = radial([0.0] * D, alpha, slope)
    x = torch.tensor([away], dtype=torch.float64)
    z, back = map_.inverse_and_ladj(x)
    again, there = map_.forward_and_ladj(z)
    torch.testing.assert_close(again, x, rtol=1e-11, atol=1e-300)
    torch.testing.assert_close(there, -back, rtol=1e-10, atol=1e-10)


def test_it_starts_as_the_identity():
    z = torch.randn(4, D)
    x, ladj = Radial(D).forward_and_ladj(z)
    torch.testing.assert_close(x, z, atol=1e-6, rtol=0)
    torch.testing.assert_close(ladj, torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("direction", ["forward_and_ladj", "inverse_and_ladj"])
def test_gradients(direction):
    map_ = Radial(D).double()

    class Method(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = map_

        def forward(self, point: Tensor) -> tuple[Tensor, Tensor]:
            return getattr(self.map, direction)(point)

    method = Method()

    def run(point: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        return functional_call(method, {"map.parameters_of.start": start}, (point,))

    start = torch.randn(D + 2, dtype=torch.float64, requires_grad=True)
    point = torch.randn(4, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (point, start))


def test_the_centre_is_no_trap():
    """Where r = 0 the norm has no gradient; the map's is finite."""
    map_ = radial([1.0, 2.0, 3.0], 0.5, -1.0)
    for direction in (map_.forward_and_ladj, map_.inverse_and_ladj):
        point = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
        value, ladj = direction(point)
        (value.sum() + ladj.sum()).backward()
        assert torch.isfinite(point.grad).all() and torch.isfinite(ladj).all()  # pyright: ignore
        torch.testing.assert_close(value.detach(), point.detach())
