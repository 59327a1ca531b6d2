"""Rational-quadratic splines, against another implementation, autograd, integrals and the laws of a bijection."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from jensen.core import seeded
from jensen.transforms import Coupling, Elementwise, RationalQuadratic, Rotation
from jensen.transforms.coupling import half
from jensen.transforms.spline import Ends, evaluate

ENDS: list[Ends] = ["linear", "circular", "free"]
SPREADS = {"fresh": 0.0, "moved": 1.0, "enlarged": 6.0}
every_end = pytest.mark.parametrize("ends", ENDS)
every_spread = pytest.mark.parametrize("spread", SPREADS)
both_ways = pytest.mark.parametrize("inverse", [False, True])


def drawn(
    spline: RationalQuadratic, spread: str, n: int, event: tuple[int, ...] = (3,), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Points inside and outside of the interval, and parameters, `(n, *event)` and `(n, P, *event)`."""
    low, high = spline.curve.low, spline.curve.high
    x = low + (high - low) * (1.4 * torch.rand(n, *event, dtype=dtype) - 0.2)
    return x, SPREADS[spread] * torch.randn(n, spline.size, *event, dtype=dtype)


def mapped(spline: RationalQuadratic, inverse: bool, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    return (spline.inverse_and_ladj if inverse else spline.forward_and_ladj)(value, parameters)


def knots_of(spline: RationalQuadratic, parameters: Tensor) -> Tensor:
    """Abscissae of one element's knots, `(K + 1,)`, from its parameters, `(P,)`, by the definition."""
    c = spline.curve
    share = c.least + (1 - c.least * c.bins) * parameters[: c.bins].softmax(0)
    return c.low + (c.high - c.low) * torch.cat([share.new_zeros(1), share.cumsum(0)])


def curve_of(spline: RationalQuadratic, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """y and dy/dx of one spline at many points, (n,), the slope by autograd."""
    x = x[:, None].clone().requires_grad_()
    y, _ = spline.forward_and_ladj(x, parameters.expand(len(x), -1)[:, :, None])
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach()[:, 0], slope[:, 0]


# What it is


@every_end
@both_ways
def test_no_parameters_give_the_identity(ends, inverse):
    spline = RationalQuadratic(8, -3.0, 3.0, ends=ends)
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)[:, None]
    y, ladj = mapped(spline, inverse, x, torch.zeros(801, spline.size, 1, dtype=torch.float64))
    torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(ladj, torch.zeros(801, dtype=torch.float64), rtol=0, atol=1e-12)


@every_end
@both_ways
@every_spread
@pytest.mark.parametrize("bins", [1, 2, 8])
def test_agrees_with_nflows(ends, inverse, spread, bins):
    """The same parameters, and with them the slopes at the ends that `ends` says."""
    rqs = pytest.importorskip("nflows.transforms.splines.rational_quadratic").rational_quadratic_spline
    spline = RationalQuadratic(bins, -2.0, 3.0, ends=ends)
    x, parameters = drawn(spline, spread, 200)
    x = x.clamp(-2 + 1e-9, 3 - 1e-9)
    widths, heights, raw = parameters.movedim(1, -1).split([bins, bins, spline.size - 2 * bins], -1)
    if ends == "linear":
        raw = torch.nn.functional.pad(raw, (1, 1))
    elif ends == "circular":
        raw = torch.cat([raw, raw[..., :1]], -1)
    truth, terms = rqs(
        x, widths, heights, raw + math.log(math.expm1(1 - 1e-3)), inverse=inverse, left=-2.0, right=3.0, bottom=-2.0,
        top=3.0, min_bin_width=1e-3, min_bin_height=1e-3, min_derivative=1e-3,
    )  # fmt: skip
    y, ladj = mapped(spline, inverse, x, parameters)
    torch.testing.assert_close(y, truth, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ladj, terms.sum(1), rtol=1e-6, atol=1e-6)


@every_end
@both_ways
@every_spread
def test_log_slope_is_that_of_autograd(ends, inverse, spread):
    spline = RationalQuadratic(5, ends=ends)
    x, parameters = drawn(spline, spread, 300)
    x.requires_grad_()
    y, ladj = mapped(spline, inverse, x, parameters)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(ladj, slope.log().sum(1), rtol=1e-8, atol=1e-8)


@every_end
@every_spread
def test_increases_and_is_smooth_at_its_knots(ends, spread):
    """Value and slope are the same from both sides, at the ends by what `ends` says."""
    spline = RationalQuadratic(6, ends=ends)
    low, high = spline.curve.low, spline.curve.high
    for parameters in SPREADS[spread] * torch.randn(20, spline.size, dtype=torch.float64):
        grid = torch.linspace(low, high, 2001, dtype=torch.float64)
        y, _ = curve_of(spline, parameters, grid)
        assert (y.diff() > 0).all()
        torch.testing.assert_close(y[[0, -1]], grid[[0, -1]])
        knots = knots_of(spline, parameters)
        step = 1e-11  # a slope may change by 1e5 in a unit
        left, right = (curve_of(spline, parameters, knots[1:-1] + side) for side in (-step, step))
        torch.testing.assert_close(left[0], right[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(left[1], right[1], rtol=1e-3, atol=1e-4)
        first, last = curve_of(spline, parameters, torch.tensor([low + 1e-9, high - 1e-9], dtype=torch.float64))[1]
        if ends == "linear":
            torch.testing.assert_close(
                torch.stack([first, last]), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-3
            )
        elif ends == "circular":
            torch.testing.assert_close(first, last, rtol=1e-3, atol=1e-4)
        elif spread != "fresh":
            assert abs(first - last) > 1e-3


# There and back


@every_end
@every_spread
def test_there_and_back(ends, spread):
    spline = RationalQuadratic(8, ends=ends)
    x, parameters = drawn(spline, spread, 2000)
    y, there = spline.forward_and_ladj(x, parameters)
    again, back = spline.inverse_and_ladj(y, parameters)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-6)
    torch.testing.assert_close(there, -back, rtol=0, atol=1e-6)


@every_end
@every_spread
@both_ways
def test_round_trip_in_single_precision(ends, spread, inverse):
    """A value that one direction gave comes back from the other and the first again within 1e-3, on [−5, 5]. (A flat
    piece loses digits that no inverse brings back, but they make no difference to where it leads.)"""
    spline = RationalQuadratic(8, ends=ends)
    x, parameters = drawn(spline, spread, 2000, dtype=torch.float32)
    y, there = mapped(spline, inverse, x, parameters)
    again, back = mapped(spline, not inverse, y, parameters)
    torch.testing.assert_close(mapped(spline, inverse, again, parameters)[0], y, rtol=0, atol=1e-3)
    if spread != "enlarged":
        torch.testing.assert_close(again, x, rtol=0, atol=1e-3)
        torch.testing.assert_close(there, -back, rtol=0, atol=2e-2)


number = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(st.lists(number, min_size=1, max_size=8), st.integers(0, 2**31), st.floats(0, 8), st.sampled_from(ENDS))
@example([0.0, 0.0, 0.0, 2.0], 0, 1.0, "linear")  # the last one rounds past the end
@settings(max_examples=60)
def test_any_number_comes_back(values, seed, spread, ends):
    """And to the same place of the interval, with finite gradients; far outside it is not touched at all."""
    spline = RationalQuadratic(7, -4.0, 2.0, ends=ends)
    x = torch.tensor(values, dtype=torch.float64)[:, None]
    parameters = spread * torch.randn(len(x), spline.size, 1, generator=torch.Generator().manual_seed(seed)).double()
    x.requires_grad_()
    parameters.requires_grad_()
    y, there = spline.forward_and_ladj(x, parameters)
    again, back = spline.inverse_and_ladj(y, parameters)
    torch.testing.assert_close(again, x, rtol=1e-12, atol=1e-6)
    torch.testing.assert_close(there, -back, rtol=0, atol=1e-6)
    outside = (x < -4) | (x > 2)
    assert torch.equal(y[outside], x[outside]) and (there[outside[:, 0]] == 0).all()
    assert ((y >= -4) & (y <= 2) | outside).all()
    assert all(
        torch.isfinite(g).all() for g in torch.autograd.grad((y + again).sum() + (there - back).sum(), (x, parameters))
    )


@every_end
@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_on_knots_and_far_out(ends, inverse, dtype):
    """Values and gradients, on the knots themselves and one rounding beside them, at the ends and at 10⁶."""
    spline = RationalQuadratic(8, ends=ends)
    for spread in (0.0, 1.0, 10.0, 1e4):
        parameters = spread * torch.randn(spline.size, dtype=dtype)
        knots = knots_of(spline, parameters)
        if inverse:
            knots = spline.forward_and_ladj(knots[:, None], parameters.expand(9, -1)[:, :, None])[0][:, 0]
        far = torch.tensor([-1e6, 1e6, -5.0, 5.0, 0.0], dtype=dtype)
        x = torch.cat([knots, torch.nextafter(knots, far[:1]), torch.nextafter(knots, far[1:2]), far])[:, None]
        x.requires_grad_()
        every = parameters.expand(len(x), -1)[:, :, None].clone().requires_grad_()
        y, ladj = mapped(spline, inverse, x, every)
        gradients = torch.autograd.grad(y.sum() + ladj.sum(), (x, every))
        assert all(torch.isfinite(t).all() for t in (y, ladj, *gradients))


# Gradients by hand


@every_end
@both_ways
@every_spread
@pytest.mark.parametrize("batch_innermost", [False, True])
def test_gradients_by_hand_are_those_of_autograd(ends, inverse, spread, batch_innermost):
    spline = RationalQuadratic(4, ends=ends)
    x, parameters = drawn(spline, spread, 100)
    if batch_innermost:
        parameters = parameters.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    x.requires_grad_()
    parameters.requires_grad_()
    weights = torch.randn(2, *x.shape, dtype=x.dtype)

    def gradients(by_hand: bool) -> tuple[Tensor, ...]:
        if by_hand:
            y, ladj = mapped(spline, inverse, x, parameters)
            terms = ladj * weights[1, :, 0]
        else:
            rows = parameters.transpose(0, 1).reshape(spline.size, -1)
            y, log_slope, _ = evaluate(x.reshape(-1), rows, spline.curve, inverse)
            y, terms = y.view_as(x), log_slope.view_as(x).sum(1) * weights[1, :, 0]
        return torch.autograd.grad((y * weights[0]).sum() + terms.sum(), (x, parameters))

    for ours, truth in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-8 * float(truth.abs().max()))


@both_ways
@every_end
def test_gradients_by_hand_are_finite_differences(ends, inverse):
    """Also of the second order: derivatives of derivatives go through plain operations."""
    spline = RationalQuadratic(3, -1.0, 1.0, ends=ends)
    x, parameters = drawn(spline, "moved", 4, (1,))
    inputs = (x.requires_grad_(), parameters.requires_grad_())
    assert torch.autograd.gradcheck(lambda *a: mapped(spline, inverse, *a), inputs)
    assert torch.autograd.gradgradcheck(lambda *a: mapped(spline, inverse, *a), inputs)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, in forward mode
@both_ways
def test_function_transforms_see_through(inverse):
    """torch.func: Jacobians, row by row, in forward and in reverse mode."""
    spline = RationalQuadratic(5)
    x, parameters = drawn(spline, "moved", 7)

    def row(x: Tensor, parameters: Tensor) -> Tensor:
        return mapped(spline, inverse, x[None], parameters[None])[0][0]

    ladj = mapped(spline, inverse, x, parameters)[1]
    for jacobian in (torch.func.jacrev(row), torch.func.jacfwd(row)):
        found = torch.func.vmap(jacobian)(x, parameters)
        torch.testing.assert_close(torch.linalg.slogdet(found)[1], ladj)


@both_ways
def test_exports(inverse):
    """Without a search, indices or anything else that depends on the data."""
    spline = RationalQuadratic(5)

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
            return mapped(spline, inverse, x, parameters)

    x, parameters = drawn(spline, "moved", 7)
    found = torch.export.export(Module(), (x, parameters)).module()(x, parameters)
    torch.testing.assert_close(found, mapped(spline, inverse, x, parameters))


# Densities


def fine(grid: Tensor, mapped: Tensor) -> Tensor:
    """Points to integrate over, (n,): even ones and, where a steep piece needs them, the images of even ones."""
    return torch.cat([grid, mapped]).sort()[0]


def test_density_of_a_normal_through_a_spline_integrates_to_one():
    spline = RationalQuadratic(8)
    even = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    for parameters in 3 * torch.randn(5, spline.size, dtype=torch.float64):
        grid = fine(even, curve_of(spline, parameters, even)[0])
        z, ladj = spline.inverse_and_ladj(grid[:, None], parameters.expand(len(grid), -1)[:, :, None])
        density = (Normal(0.0, 1.0).log_prob(z[:, 0]) + ladj).exp()
        assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-4)


def test_density_in_two_dimensions_integrates_to_one():
    """Of a coupling whose spline depends on the other coordinate."""
    with seeded(1), torch.no_grad():
        network = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 11))
        coupling = Coupling(half((2,)), network, RationalQuadratic(4)).double()
        for p in network.parameters():
            p.add_(0.7 * torch.randn_like(p))
    line, across = (torch.linspace(-7, 7, n, dtype=torch.float64) for n in (201, 2001))
    with torch.no_grad():
        images = coupling(torch.cartesian_prod(line, across))[:, 1].view(201, 2001)
        assert (images - across).abs().max() > 0.1
        rows = torch.stack([fine(across, image) for image in images])  # (201, 4002)
        z, ladj = coupling.inverse_and_ladj(torch.stack([line[:, None].expand_as(rows), rows], -1).flatten(0, 1))
    density = (Normal(0.0, 1.0).log_prob(z).sum(1) + ladj).exp().view_as(rows)
    assert torch.trapezoid(torch.trapezoid(density, rows), line).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_density_on_the_circle(spread):
    """Uniform through a circular spline and a rotation: it integrates to one and goes on smoothly across ±π."""
    spline = Elementwise(RationalQuadratic(6, -math.pi, math.pi, ends="circular"), (1,)).double()
    turn = Rotation((1,)).double()
    with seeded(2), torch.no_grad():
        for p in (*spline.parameters(), *turn.parameters()):
            p.copy_(spread * torch.randn_like(p))

    def density(x: Tensor) -> Tensor:
        y, first = turn.inverse_and_ladj(x[:, None])
        return (spline.inverse_and_ladj(y)[1] + first).exp().detach() / (2 * math.pi)

    even = torch.linspace(-math.pi, math.pi, 40_001, dtype=torch.float64)
    with torch.no_grad():
        grid = fine(even, turn(spline(even[:, None]))[:, 0])
    assert torch.trapezoid(density(grid), grid).item() == pytest.approx(1, abs=1e-4)
    ends = density(torch.tensor([-math.pi + 1e-7, math.pi - 1e-7], dtype=torch.float64))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-6)
    if spread:
        before, after = spline.inverse_and_ladj(torch.tensor([[-math.pi], [math.pi]], dtype=torch.float64))[1]
        assert before.item() == pytest.approx(after.item(), abs=1e-9)
        assert density(grid).max() > 1.2 * density(grid).min()


def test_a_turn_and_its_inverse_stay_on_the_circle():
    turn = Rotation((2,), context=3).double()
    with torch.no_grad():
        for p in turn.parameters():
            p.copy_(5 * torch.randn_like(p))
    z, context = 2 * math.pi * torch.rand(500, 2, dtype=torch.float64) - math.pi, torch.randn(500, 3).double()
    x = turn(z, context)
    assert (x.abs() <= math.pi).all() and (x - z).abs().max() > 1
    torch.testing.assert_close(turn.inverse(x, context), z)


def test_elementwise_splines_fit_their_marginals():
    """A mixture of normals and an exponential, each by its own spline and no network: near the entropy's bound."""
    spline = Elementwise(RationalQuadratic(12, -6.0, 6.0), (2,))
    n = 4000
    modes = torch.where(torch.rand(n) < 0.5, -2.0, 2.0) + 0.5 * torch.randn(n)
    x = torch.stack([modes, -torch.rand(n).log() - 2.0], 1)
    optimizer = torch.optim.Adam(spline.parameters(), 0.05)
    for _ in range(150):
        z, ladj = spline.inverse_and_ladj(x)
        loss = -(Normal(0.0, 1.0).log_prob(z).sum(1) + ladj).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parts = torch.stack([Normal(m, 0.5).log_prob(x[:, 0]) for m in (-2.0, 2.0)])
    truth = -(torch.logsumexp(parts, 0) - math.log(2) - (x[:, 1] + 2)).mean()
    assert loss.item() == pytest.approx(truth.item(), abs=0.1)
    normal = -(Normal(*(f(x, 0) for f in (torch.mean, torch.std))).log_prob(x).sum(1)).mean()
    assert loss < normal - 0.5


# Settings


@pytest.mark.parametrize("wrong", [{"bins": 0}, {"low": 1.0, "high": 1.0}, {"bins": 10, "least": 0.1}, {"least": 0.0}])
def test_refuses_what_is_no_spline(wrong):
    with pytest.raises(ValueError, match="expected bins"):
        RationalQuadratic(**wrong)


def test_an_interval_is_its_support():
    assert RationalQuadratic().domain.is_discrete is False
    for ends in ("circular", "free"):
        support = RationalQuadratic(4, 0.0, 1.0, ends=ends).codomain
        assert (support.lower_bound, support.upper_bound) == (0.0, 1.0)  # pyright: ignore
