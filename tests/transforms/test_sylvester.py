"""The Sylvester map against its equation in whole matrices, and against the planar map where M = 1."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from jensen.transforms import Planar, Reflections, Sylvester
from jensen.transforms.householder import reflect
from jensen.transforms.planar import LEAST_SLOPE

D, M = 5, 3


def moved(map_: Sylvester) -> Sylvester:
    torch.manual_seed(1)
    map_ = map_.double()
    with torch.no_grad():
        for p in map_.parameters():
            p.normal_()
    return map_


VARIANTS = {
    "householder": lambda: Sylvester(D, M, reflections=4),
    "square": lambda: Sylvester(D, D, reflections=2),
    "triangular": lambda: Sylvester(D, D, reflections=0),
    "triangular, reversed": lambda: Sylvester(D, D, reflections=0, reverse=True),
}
every_variant = pytest.mark.parametrize("name", VARIANTS)


def matrices(map_: Sylvester) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Q, (D, M), R, S and b, by the definition."""
    vectors, r, s, b = (p[0].detach() for p in map_._coefficients(None))
    q = torch.eye(D, dtype=torch.float64)
    for v in vectors:
        q = q @ (torch.eye(D, dtype=torch.float64) - 2 * torch.outer(v, v) / (v @ v))
    return (q.flip(0) if map_.reverse else q)[:, : map_.width], r, s, b


@every_variant
def test_it_is_the_papers_equation(name):
    map_ = moved(VARIANTS[name]())
    q, r, s, b = matrices(map_)
    torch.testing.assert_close(q.mT @ q, torch.eye(map_.width, dtype=torch.float64))
    assert torch.equal(r, r.triu()) and torch.equal(s, s.triu())
    z = torch.randn(6, D, dtype=torch.float64)
    h = torch.tanh(z @ q @ s.mT + b)
    x, ladj = map_.forward_and_ladj(z)
    torch.testing.assert_close(x, z + h @ r.mT @ q.mT)
    for i in range(6):  # det(I_D + Q R diag(h′) S Qᵀ) whole
        whole = torch.eye(D, dtype=torch.float64) + q @ r @ torch.diag(1 - h[i] ** 2) @ s @ q.mT
        torch.testing.assert_close(ladj[i], torch.linalg.slogdet(whole)[1])


@every_variant
def test_the_inverse_by_iteration(name):
    map_ = moved(VARIANTS[name]())
    z = 3 * torch.randn(100, D, dtype=torch.float64)
    with torch.no_grad():
        x, there = map_.forward_and_ladj(z)
        again, back = map_.inverse_and_ladj(x)
    torch.testing.assert_close(again, z, rtol=0, atol=1e-9)
    torch.testing.assert_close(back, -there, rtol=0, atol=1e-8)


def test_one_column_is_a_planar_map():
    """x = z + q R tanh(S qᵀz + b): w = S q and û = R q."""
    torch.manual_seed(3)
    map_ = moved(Sylvester(D, 1, reflections=3))
    q, r, s, b = matrices(map_)
    w, hat, slope = s * q.mT, r * q.mT, 1 + (r * s).item()
    along = math.log(math.expm1(slope - LEAST_SLOPE))  # the wᵀu that the constraint takes to wᵀû
    planar = Planar(D).double()
    u = hat + (along - (slope - 1)) * w / w.square().sum()
    planar.parameters_of.start.data = torch.cat([w.flatten(), u.flatten(), b])
    z = torch.randn(6, D, dtype=torch.float64)
    for found, truth in zip(map_.forward_and_ladj(z), planar.forward_and_ladj(z), strict=True):
        torch.testing.assert_close(found, truth)
    for found, truth in zip(map_.inverse_and_ladj(z), planar.inverse_and_ladj(z), strict=True):
        torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("direction", ["forward_and_ladj", "inverse_and_ladj"])
@pytest.mark.parametrize("context", [0, 2])
def test_gradients(direction, context):
    """Of both results, with respect to the point, the context and the parameters."""
    map_ = Sylvester(3, 2, reflections=2, context=context).double()
    names = [n for n, _ in map_.named_parameters()]
    values = [torch.randn_like(p).requires_grad_() for p in map_.parameters()]
    given = [torch.randn(2, context).double().requires_grad_()] if context else []

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

    point = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (point, *given, *values))


def test_it_starts_as_the_identity():
    z = torch.randn(4, D)
    x, ladj = Sylvester(D, M, reflections=4).forward_and_ladj(z)
    torch.testing.assert_close(x, z, atol=1e-6, rtol=0)
    assert (ladj == 0).all()


def test_reflections_are_householder_matrices():
    """The last vector of the list is met first by z, so that x = H₁ … H_k z; each row may have vectors of its own."""
    vectors = torch.randn(4, 3, D, dtype=torch.float64)
    z = torch.randn(4, D, dtype=torch.float64)
    eye = torch.eye(D, dtype=torch.float64)
    h = eye - 2 * vectors[..., :, None] * vectors[..., None, :] / vectors.square().sum(-1)[..., None, None]
    torch.testing.assert_close(reflect(z, vectors.flip(1)), (h[:, 0] @ h[:, 1] @ h[:, 2] @ z[..., None])[..., 0])
    map_ = Reflections(D, 3, context=2).double()
    with torch.no_grad():
        map_.parameters_of.weight.normal_()  # pyright: ignore
    x, ladj = map_.forward_and_ladj(z, torch.randn(4, 2, dtype=torch.float64))
    torch.testing.assert_close(x.norm(dim=1), z.norm(dim=1))
    assert ladj.shape == () and ladj == 0
