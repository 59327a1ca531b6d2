"""Masked autoregressive transforms: fast sampling against plain passes, densities against integration and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from jensen.conditionals.transformed import Transformed
from jensen.core import seeded
from jensen.distributions import StandardNormal
from jensen.nets.masked import MaskedMLP
from jensen.transforms import (
    AdditiveMap,
    AffineMap,
    Composed,
    Inverse,
    MaskedAutoregressive,
    Monotone,
    RationalQuadratic,
    autoregressive,
)

MAPS = {"affine": AffineMap, "additive": AdditiveMap, "spline": lambda: RationalQuadratic(4)}
every_map = pytest.mark.parametrize("name", MAPS)


@st.composite
def transforms(draw: st.DrawFn, monotone: Monotone) -> tuple[MaskedAutoregressive, int]:
    """In float64, with its context's size."""
    dims, context = draw(st.integers(1, 6)), draw(st.integers(0, 2))
    hidden = draw(st.lists(st.integers(1, 12), max_size=3))
    with seeded(draw(st.integers(0, 99))):
        order = torch.randperm(dims)
        net = MaskedMLP(dims, monotone.size, hidden, context=context, order=order)
        return MaskedAutoregressive(net, monotone).double(), context


def inputs(transform: MaskedAutoregressive, context: int, rows: int) -> tuple[Tensor, Tensor | None]:
    z = torch.randn(rows, *transform.domain_shape, dtype=torch.float64)
    return z, torch.randn(rows, context, dtype=torch.float64) if context else None


def by_plain_passes(transform: MaskedAutoregressive, z: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """D passes of the whole network, as the other libraries do it."""
    x = torch.zeros_like(z)
    for _ in range(z.shape[1]):
        x, ladj = transform.monotone.forward_and_ladj(z, transform.network(x, c))
    return x, ladj


def flow(context: int = 0) -> Composed:
    """Two dimensions, three layers of random weights, in float64."""
    with seeded(3):
        nets = [
            MaskedMLP(2, 2, [16, 16], context=context, activation="tanh", order=[i % 2, 1 - i % 2]) for i in (0, 1, 0)
        ]
    return Composed(MaskedAutoregressive(net, AffineMap()) for net in nets).double()


def density(transform: Composed, context: Tensor | None = None) -> Transformed:
    zeros = torch.zeros(2, dtype=torch.float64)
    return Transformed(StandardNormal(zeros, zeros + 1), transform, context)


# Sampling


@every_map
@given(data=st.data(), rows=st.integers(0, 9))
@settings(max_examples=30)
def test_the_fast_sampler_equals_plain_passes(name, data, rows):
    transform, context = data.draw(transforms(MAPS[name]()))
    z, c = inputs(transform, context, rows)
    with torch.no_grad():
        x, ladj = transform.forward_and_ladj(z, c)
        truth, truth_ladj = by_plain_passes(transform, z, c)
    torch.testing.assert_close(x, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(ladj, truth_ladj, rtol=0, atol=1e-10)


@every_map
@given(data=st.data())
@settings(max_examples=15)
def test_gradients_of_the_sampler_are_those_of_plain_passes(name, data):
    transform, context = data.draw(transforms(MAPS[name]()))
    z, c = inputs(transform, context, 3)
    wanted = [v.requires_grad_() for v in (z, c) if v is not None]
    wanted += list(transform.parameters())
    weights = torch.randn_like(z)

    def gradients(x: Tensor, ladj: Tensor) -> tuple[Tensor, ...]:
        loss = (weights * x).sum() + ladj.square().sum()
        return torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)

    found, truth = gradients(*transform.forward_and_ladj(z, c)), gradients(*by_plain_passes(transform, z, c))
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("context", [0, 2])
def test_many_rows_are_walked_in_parts(context, monkeypatch):
    transform = MaskedAutoregressive(MaskedMLP(5, 2, [16, 16], context=context), AffineMap()).double()
    z, c = inputs(transform, context, 23)
    with torch.no_grad():
        x, ladj = transform.forward_and_ladj(z, c)
        monkeypatch.setattr(autoregressive, "ROWS", 5)
        in_parts, ladj_in_parts = transform.forward_and_ladj(z, c)
    torch.testing.assert_close(in_parts, x)
    torch.testing.assert_close(ladj_in_parts, ladj)


def test_a_draw_without_gradients_can_meet_gradients_later():
    transform = MaskedAutoregressive(MaskedMLP(3, 2, [8]), AffineMap())
    with torch.no_grad():
        x, ladj = transform.forward_and_ladj(torch.randn(4, 3))
    weight = torch.ones(3, requires_grad=True)
    ((x * weight).sum(1) * ladj).sum().backward()
    x.add_(1)
    assert weight.grad is not None


def test_steps_are_counted():
    transform = MaskedAutoregressive(MaskedMLP(7, 2, [8]), AffineMap())
    assert (transform.forward_steps, transform.inverse_steps) == (7, 1)
    assert (Inverse(transform).forward_steps, Inverse(transform).inverse_steps) == (1, 7)


def test_a_network_of_other_size_is_refused():
    with pytest.raises(ValueError, match="gives 1 numbers an element, got 2"):
        MaskedAutoregressive(MaskedMLP(3, 2, [8]), AdditiveMap())


# Density


def test_the_density_is_the_product_of_its_conditionals():
    """p(x) = Π_d N(x_d | t_d, exp(2 s_d)), by scipy and loops over elements and units."""
    order, bound = [2, 0, 1], 2.0
    net = MaskedMLP(3, 2, [6], order=order, activation="tanh").double()
    transform = MaskedAutoregressive(net, AffineMap(bound))
    x = torch.randn(5, 3, dtype=torch.float64)
    base = StandardNormal(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    found = Transformed(base, transform).log_prob(x).detach().numpy()
    (w1, b1, w2, b2), (degrees,) = [p.detach().numpy() for p in net.parameters()], net.degrees
    for row, log_p in zip(x.numpy(), found, strict=True):
        truth = 0.0
        for place, d in enumerate(order):
            before = order[:place]
            units = [k for k in range(6) if degrees[k] <= place]
            sees = {k: order[: degrees[k]] for k in units}
            assert all(set(seen) <= set(before) for seen in sees.values())
            h = {k: math.tanh(b1[k] + sum(w1[k, v] * row[v] for v in sees[k])) for k in units}
            raw, t = (b2[p * 3 + d] + sum(w2[p * 3 + d, k] * h[k] for k in units) for p in (0, 1))
            truth += stats.norm.logpdf(row[d], t, math.exp(bound * math.tanh(raw / bound)))
        np.testing.assert_allclose(log_p, truth, rtol=1e-10)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("context", [0, 2])
def test_a_density_in_two_dimensions_integrates_to_one(inverse, context):
    transform = flow(context)
    p = density(Inverse(transform) if inverse else transform, torch.ones(1, 2).double() if context else None)
    axis = torch.linspace(-25, 25, 501, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_p = p.log_prob(x.unsqueeze(1) if context else x)
    assert log_p.exp().sum() * 0.1**2 == pytest.approx(1, abs=1e-4)


def test_draws_have_the_density():
    """Cells of a grid, their shares among draws against the integral of the density (chi-square)."""
    p = density(flow())
    edges = torch.linspace(-6, 6, 241, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    n, cells = 20_000, (12, 20)
    with torch.no_grad():
        mass = p.log_prob(torch.cartesian_prod(middles, middles)).exp().view(240, 240) * 0.05**2
        x, log_p = p.rsample_and_log_prob((n,))
        torch.testing.assert_close(log_p, p.log_prob(x), rtol=1e-9, atol=1e-9)
    expected = n * mass.view(cells[0], cells[1], cells[0], cells[1]).sum((1, 3)).flatten().numpy()
    counts = np.histogramdd(x.numpy(), [np.linspace(-6, 6, 13)] * 2)[0].flatten()
    often = expected > 5
    expected = np.append(expected[often], n - expected[often].sum())
    counts = np.append(counts[often], n - counts[often].sum())
    statistic = ((counts - expected) ** 2 / np.maximum(expected, 1)).sum()
    assert statistic < stats.chi2.ppf(0.9999, len(counts) - 1)


# The affine map, whose derivatives are taken by hand


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_derivatives_of_the_affine_map(shape, inverse):
    """Against finite differences, the first and the second; also where parameters lie elements first in memory."""
    monotone = AffineMap(1.5)
    value = torch.randn(2, *shape, dtype=torch.float64).requires_grad_()
    parameters = torch.randn(2, *shape, 2, dtype=torch.float64).movedim(-1, 1).requires_grad_()
    direction = monotone.inverse_and_ladj if inverse else monotone.forward_and_ladj
    assert torch.autograd.gradcheck(direction, (value, parameters))
    assert torch.autograd.gradgradcheck(direction, (value, parameters))


def test_the_affine_map_under_function_transforms():
    monotone, z, parameters = AffineMap(), torch.randn(4, 3), torch.randn(4, 2, 3)
    x, ladj = monotone.forward_and_ladj(z, parameters)
    mapped, terms = torch.func.vmap(lambda z, p: monotone.forward_and_ladj(z[None], p[None]))(z, parameters)
    torch.testing.assert_close(mapped.squeeze(1), x)
    torch.testing.assert_close(terms.squeeze(1), ladj)
    torch.testing.assert_close(monotone(z, parameters), x)


@pytest.mark.parametrize("name", ["affine", "spline"])
@pytest.mark.parametrize("needs", ["weights", "data", "both"])
def test_second_derivatives_of_what_needs_them(name, needs):
    """Of a penalty on gradients, whether or not the data take one, against differences."""
    torch.manual_seed(0)
    monotone = AffineMap() if name == "affine" else RationalQuadratic(4, -3.0, 3.0)
    transform = MaskedAutoregressive(MaskedMLP(3, monotone.size, [8], activation="silu"), monotone).double()
    for p in transform.parameters():
        p.requires_grad_(needs != "data")
        p.data += 0.3 * torch.randn_like(p)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=needs != "weights")
    wanted = [v for v in (x, *transform.parameters()) if v.requires_grad]

    def penalty() -> torch.Tensor:
        z, ladj = transform.inverse_and_ladj(x)
        loss = (z.square().sum(1) / 2 - ladj).mean()
        return torch.stack([g.square().sum() for g in torch.autograd.grad(loss, wanted, create_graph=True)]).sum()

    slopes = torch.autograd.grad(penalty(), wanted)
    toward = [torch.randn_like(v) for v in wanted]
    step, values = 1e-5, []
    for sign in (1, -1):
        for v, d in zip(wanted, toward, strict=True):
            v.data += sign * step * d
        values.append(float(penalty().detach()))
        for v, d in zip(wanted, toward, strict=True):
            v.data -= sign * step * d
    told = float(sum((g * d).sum() for g, d in zip(slopes, toward, strict=True)))
    assert told == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-7)
