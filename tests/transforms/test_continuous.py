"""Continuous flows, against closed forms, autograd's Jacobian and torchdiffeq."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import expm
from torch import Tensor, nn
from torchdiffeq import odeint

from jensen.conditionals.priors import normal
from jensen.conditionals.transformed import Transformed
from jensen.core import seeded
from jensen.errors import JensenError
from jensen.nets.field import PerceptronField
from jensen.transforms import Continuous, Solver
from jensen.transforms.continuous import estimated_trace, exact_trace

FINE = Solver(rtol=1e-9, atol=1e-9)


class Linear(nn.Module):
    """dz/dt = A z."""

    def __init__(self, matrix: Tensor):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z @ self.matrix.mT


def matrix(seed: int = 0, dims: int = 3) -> Tensor:
    return torch.randn(dims, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def perceptron(
    hidden: list[int], dims: int = 3, context: int = 0, activation: str = "tanh", seed: int = 0
) -> PerceptronField:
    with seeded(seed):
        return PerceptronField((dims,), context, hidden, activation, start_at_zero=False).double()  # pyright: ignore


def points(n: int, dims: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(n, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The solver


@given(st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_a_linear_field_leads_to_the_matrix_exponential(seed):
    """x = exp(A) z and log |det| = tr A, both ways."""
    a, z = matrix(seed), points(4)
    flow = Continuous((3,), Linear(a), FINE)
    with torch.no_grad():
        x, there = flow.forward_and_ladj(z)
        again, back = flow.inverse_and_ladj(x)
    end = torch.from_numpy(expm(a.numpy()))
    torch.testing.assert_close(x, z @ end.mT, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(again, z, rtol=1e-6, atol=1e-6 * float(torch.linalg.cond(end)))
    for ladj, sign in ((there, 1), (back, -1)):
        torch.testing.assert_close(ladj, (sign * a.trace()).expand(4), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_a_fixed_method_has_its_order(method, order):
    """Twice the steps divide the error by 2^order."""
    a, z = matrix(), points(4)
    truth = z @ torch.from_numpy(expm(a.numpy())).mT
    errors = []
    for steps in (40, 80):
        with torch.no_grad():
            x = Continuous((3,), Linear(a), Solver(method, steps=steps))(z)
        errors.append(float((x - truth).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_the_error_is_of_the_size_of_torchdiffeqs_at_the_same_tolerance():
    """Of single rows, against a solve to the last digits; and it takes more evaluations the less is allowed."""
    field, z = perceptron([16, 16]), points(5)
    calls = [0]
    field.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        truth = Continuous((3,), field, Solver(rtol=1e-12, atol=1e-12))(z)
        spent = []
        for tolerance in (1e-3, 1e-5, 1e-7):
            calls[0] = 0
            ours = Continuous((3,), field, Solver(rtol=tolerance, atol=tolerance))(z)
            spent.append(calls[0])
            solved = [
                odeint(lambda t, y: field(t.expand(1), y), row, times, rtol=tolerance, atol=tolerance)[-1]
                for row in z.split(1)
            ]
            assert (ours - truth).norm() < 2 * (torch.cat(solved) - truth).norm()
    assert spent[0] < spent[1] < spent[2]


def test_values_and_gradients_are_those_of_torchdiffeq():
    """In the points, the context and every parameter; torchdiffeq differentiates through its own solver."""
    field, context = perceptron([8, 6], context=2), points(5, 2, seed=2).requires_grad_()
    x = points(5).requires_grad_()

    def change(t: Tensor, state: Tensor) -> Tensor:
        z = state[:, :3]
        velocity = field(t.expand(5), z, context)
        return torch.cat([velocity, exact_trace(velocity, z)[:, None]], 1)

    start = torch.cat([x, torch.zeros(5, 1, dtype=torch.float64)], 1)
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    theirs = odeint(change, start, times, rtol=1e-8, atol=1e-8)[-1]
    z, ladj = Continuous((3,), field, Solver(rtol=1e-8, atol=1e-8)).inverse_and_ladj(x, context)
    ours = torch.cat([z, ladj[:, None]], 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    weights, leaves = points(5, 4, seed=3), [x, context, *field.parameters()]
    found = torch.autograd.grad((ours * weights).sum(), leaves)
    truth = torch.autograd.grad((theirs * weights).sum(), leaves)
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    """Not even where one of them needs many more steps."""
    field = perceptron([16, 16])
    flow = Continuous((3,), field, Solver(rtol=1e-4, atol=1e-4))
    x = points(20)
    x[0] *= 50
    with torch.no_grad():
        together = flow.inverse_and_ladj(x)
        for i in range(20):
            alone = flow.inverse_and_ladj(x[i : i + 1])
            for a, b in zip(alone, together, strict=True):
                torch.testing.assert_close(a[0], b[i], rtol=1e-10, atol=1e-10)


def test_a_row_that_is_lost_takes_no_other_with_it():
    """Where the field is not finite the answer is nan, there alone; gradients of the others stay finite."""
    field = perceptron([8])
    flow = Continuous((3,), field)
    x = points(4)
    x[1] = math.inf
    z, ladj = flow.inverse_and_ladj(x)
    assert torch.isnan(z[1]).all() and torch.isnan(ladj[1])
    rest = torch.tensor([0, 2, 3])
    alone, _ = flow.inverse_and_ladj(x[rest])
    torch.testing.assert_close(z[rest], alone, rtol=1e-10, atol=1e-10)
    z[rest].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in field.parameters() if p.grad is not None)


def test_too_stiff_an_equation_is_named():
    flow = Continuous((3,), Linear(-1e6 * torch.eye(3, dtype=torch.float64)), Solver(rtol=1e-9, atol=1e-9, most=50))
    with pytest.raises(JensenError, match="too stiff"):
        flow(points(2))


# The trace


@pytest.mark.parametrize("activation", ["tanh", "softplus", "silu"])
@pytest.mark.parametrize("hidden", [[7], [7, 5], [7, 5, 6]])
def test_the_exact_trace_is_that_of_the_jacobian(hidden, activation):
    field, z, context = perceptron(hidden, 4, 2, activation), points(6, 4), points(6, 2, seed=2)
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    truth = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda v, i=i: field(t[i : i + 1], v[None], context[i : i + 1])[0], z[i]
            ).trace()  # pyright: ignore
            for i in range(6)
        ]
    )
    z.requires_grad_()
    velocity = field(t, z, context)
    torch.testing.assert_close(exact_trace(velocity, z), truth, rtol=1e-10, atol=1e-10)
    assert field.knows_trace == (len(hidden) <= 2)
    if field.knows_trace:
        again, trace = field.velocity_and_trace(t, z, context)
        torch.testing.assert_close(again, velocity, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(trace, truth, rtol=1e-10, atol=1e-10)


def test_a_field_of_pictures_has_the_trace_of_its_flat_jacobian():
    with seeded(0):
        field = PerceptronField((2, 2, 1), 0, [5, 6], start_at_zero=False).double()
    z, t = points(3, 4).view(3, 2, 2, 1), torch.full((3,), 0.3, dtype=torch.float64)
    _, trace = field.velocity_and_trace(t, z)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: field(t[:1], v[None])[0], z[i])
        torch.testing.assert_close(trace[i], jacobian.reshape(4, 4).trace(), rtol=1e-10, atol=1e-10)  # pyright: ignore


def test_hutchinsons_trace_is_unbiased():
    """Over probes, within four standard errors: of one Jacobian, and of a whole log-determinant."""
    field, z = perceptron([8, 8], 4), points(3, 4)
    exact, estimated = (Continuous((4,), field, Solver(), trace=kind) for kind in ("exact", "hutchinson"))
    assert estimated.estimates_density and not exact.estimates_density
    n = 1000
    with seeded(0):
        leaf = z.clone().requires_grad_()
        velocity = field(torch.zeros(3, dtype=torch.float64), leaf)
        truth = exact_trace(velocity, leaf)
        found = torch.stack([estimated_trace(velocity, leaf, torch.randint_like(z, 2) * 2 - 1) for _ in range(n)])
        assert ((found.mean(0) - truth).abs() < 4 * found.std(0) / math.sqrt(n)).all()
        with torch.no_grad():
            _, truth = exact.inverse_and_ladj(z)
            x, found = estimated.inverse_and_ladj(z.repeat(n, 1))
            torch.testing.assert_close(x[:3], exact.inverse(z), rtol=1e-3, atol=1e-3)
            found = found.view(n, 3)
        assert found.std(0).min() > 1e-3
        assert ((found.mean(0) - truth).abs() < 4 * found.std(0) / math.sqrt(n)).all()


# The density


def test_a_density_in_the_plane_integrates_to_one():
    flow = Continuous((2,), perceptron([8, 8], 2, seed=4))
    grid = torch.linspace(-9, 9, 181, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    p = Transformed(normal((2,)).double()(), flow)
    with torch.no_grad():
        total = p.log_prob(x).exp().sum() * (grid[1] - grid[0]) ** 2
    assert float(total) == pytest.approx(1, abs=1e-4)


def test_gradients_of_a_log_density_are_those_of_finite_differences():
    """Through the solver, whose steps are the same: in the datum and in every parameter."""
    field = perceptron([4], 2)
    p = Transformed(normal((2,)).double()(), Continuous((2,), field, Solver("rk4", steps=8)))
    x = points(1, 2).requires_grad_()
    leaves = [x, *field.parameters()]
    found = torch.autograd.grad(p.log_prob(x).sum(), leaves)
    step = 1e-5
    for leaf, gradient in zip(leaves, found, strict=True):
        flat, slope = leaf.detach().view(-1), gradient.reshape(-1)
        for i in range(0, len(flat), max(1, len(flat) // 3)):
            kept, ends = float(flat[i]), []
            for sign in (1, -1):
                flat[i] = kept + sign * step
                with torch.no_grad():
                    ends.append(p.log_prob(x).sum())
            flat[i] = kept
            assert float((ends[0] - ends[1]) / (2 * step)) == pytest.approx(float(slope[i]), rel=1e-4, abs=1e-6)


def test_a_density_with_its_parameters_stopped_still_moves_with_its_point():
    """And a parameter changed before the backward pass does not change what that gives."""
    field = perceptron([4, 4], 2)
    p = Transformed(normal((2,)).double()(), Continuous((2,), field))
    x = points(3, 2).requires_grad_()
    (truth,) = torch.autograd.grad(p.log_prob(x).sum(), x)
    log_p = p.detach().log_prob(x)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.data = parameter + 1
    log_p.sum().backward()
    torch.testing.assert_close(x.grad, truth)
    assert all(parameter.grad is None for parameter in field.parameters())


def test_points_alone_take_the_sampler_and_densities_the_solver():
    field, z = perceptron([8]), points(5)
    flow = Continuous((3,), field, FINE, sampler=Solver("euler", steps=4))
    with torch.no_grad():
        x, _ = flow.forward_and_ladj(z)
        rough = flow(z)
        for i in range(4):
            z = z + field(torch.full((5,), i / 4, dtype=torch.float64), z) / 4
    torch.testing.assert_close(rough, z)
    assert (x - rough).abs().max() > 1e-3
    assert flow.forward_steps == 4


def test_the_cost_of_paths_is_their_energy_and_stiffness():
    """For dz/dt = A z: ∫ ‖A e^{At} z‖² dt + ‖A‖²_F, the latter in expectation; the same both ways along a path."""
    a, z = matrix(dims=2), points(1, 2)
    flow = Continuous((2,), Linear(a), FINE)
    energy, _ = quad(lambda t: float((z @ torch.from_numpy(expm(t * a.numpy())).mT @ a.mT).square().sum()), 0, 1)
    n = 4000
    with seeded(0), torch.no_grad(), flow.costs() as costs:
        x, _ = flow.forward_and_ladj(z.expand(n, 2))
        flow.inverse_and_ladj(x)
    assert len(costs) == 2
    for cost in costs:
        truth = energy + float(a.square().sum())
        assert abs(float(cost.mean()) - truth) < 4 * float(cost.std()) / math.sqrt(n)
    flow.forward_and_ladj(z)
    assert len(costs) == 2  # outside, nothing is collected
