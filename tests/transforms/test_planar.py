"""The planar map against its equation, and its inverse, which is found by iteration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call

from jensen.transforms import Planar
from jensen.transforms.planar import LEAST_SLOPE

D = 3


def planar(w: list[float], u: list[float], b: float, dtype: torch.dtype = torch.float64) -> Planar:
    map_ = Planar(len(w)).to(dtype)
    map_.parameters_of.start.data = torch.tensor([*w, *u, b], dtype=dtype)
    return map_


def test_it_is_the_papers_equation():
    """With u where the constraint is far, û = u + (m(wᵀu) − wᵀu) w / ‖w‖² by numpy."""
    rng = np.random.default_rng(0)
    w, u, b, z = rng.normal(size=D), rng.normal(size=D), 0.4, rng.normal(size=(5, D))
    m = -1 + np.log1p(np.exp(w @ u)) + LEAST_SLOPE
    hat = u + (m - w @ u) * w / (w @ w)
    h = np.tanh(z @ w + b)
    x, ladj = planar([*w], [*u], b).forward_and_ladj(torch.from_numpy(z))
    np.testing.assert_allclose(x.detach(), z + h[:, None] * hat, rtol=1e-12)
    np.testing.assert_allclose(ladj.detach(), np.log(np.abs(1 + (1 - h**2) * (w @ hat))), rtol=1e-10)


@given(
    w=st.lists(st.floats(-5, 5), min_size=D, max_size=D).filter(lambda w: max(map(abs, w)) > 1e-2),
    u=st.lists(st.floats(-1e4, 1e4), min_size=D, max_size=D),
    b=st.floats(-5, 5),
)
def test_any_weights_give_an_invertible_map(w, u, b):
    """In float32: the slope along w never falls to zero, and nothing overflows, which log(1 + exp(wᵀu)) would."""
    map_ = planar(w, u, b, torch.float32)
    z = torch.randn(20, D)
    x, there = map_.forward_and_ladj(z)
    again, back = map_.inverse_and_ladj(x)
    assert all(torch.isfinite(t).all() for t in (x, there, again, back))
    assert (there > np.log(LEAST_SLOPE) - 1e-2).all()
    hat = map_._coefficients(None)[1].detach().norm()
    stretch = 1 + np.linalg.norm(w) * hat  # of a rounding error of z
    size = hat + x.detach().abs().max() + np.linalg.norm(u)  # û comes from u by cancelling
    torch.testing.assert_close(map_(again), x, rtol=0, atol=1e-6 * float(stretch * size))


def test_it_starts_as_the_identity():
    for context in (None, torch.randn(4, 2)):
        z = torch.randn(4, D)
        map_ = Planar(D, 0 if context is None else 2)
        x, ladj = map_.forward_and_ladj(z, context)
        torch.testing.assert_close(x, z, atol=1e-6, rtol=0)
        torch.testing.assert_close(ladj, torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("direction", ["forward_and_ladj", "inverse_and_ladj"])
@pytest.mark.parametrize("context", [0, 2])
def test_gradients(direction, context):
    """Of both results, with respect to the point, the context and the parameters."""
    map_ = Planar(D, context).double()
    names = [n for n, _ in map_.named_parameters()]
    values = [torch.randn_like(p).requires_grad_() for p in map_.parameters()]
    given = [torch.randn(4, context).double().requires_grad_()] if context else []

    class Method(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = map_

        def forward(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
            return getattr(self.map, direction)(*arguments)

    method = Method()

    def run(point: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        c, parameters = rest[: len(given)], rest[len(given) :]
        return functional_call(method, {f"map.{n}": p for n, p in zip(names, parameters, strict=True)}, (point, *c))

    point = torch.randn(4, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (point, *given, *values))


def test_a_context_is_needed_where_it_was_promised():
    with pytest.raises(ValueError, match="expected a context of size 2, got none"):
        Planar(D, 2)(torch.zeros(1, D))


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-7, 1e-6, 1e-5])
def test_a_w_of_almost_nothing(size):
    """The log-determinant is autograd's, and the map comes back."""
    torch.manual_seed(0)
    map_, z = planar([size, -2 * size, size], [0.7, -0.2, 0.5], 0.4), torch.randn(D, dtype=torch.float64)
    x, ladj = map_.forward_and_ladj(z[None])
    jacobian = torch.autograd.functional.jacobian(lambda z: map_.forward_and_ladj(z[None])[0][0], z)
    torch.testing.assert_close(ladj[0], torch.linalg.slogdet(jacobian).logabsdet, rtol=0, atol=1e-10)
    back, minus = map_.inverse_and_ladj(x)
    torch.testing.assert_close(back[0], z, rtol=0, atol=1e-9)
    torch.testing.assert_close(minus, -ladj, rtol=0, atol=1e-9)
