"""Continuous flows: the transform is where a differential equation leads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from jensen.transforms.ode import Solver, rms
from jensen.transforms.transform import Shape, Transform

Trace = Literal["exact", "hutchinson"]


class Continuous(Transform):
    r"""x = z(1), where z(0) = z and the velocity of every point is given.

        dz/dt = f(t, z, c)        log |det ∂x/∂z| = ∫₀¹ tr ∂f/∂z dt

    Both integrals are solved together and within the same tolerance, forwards or backwards in time. The density is
    exact up to that tolerance, or, with Hutchinson's trace, an unbiased estimate of its logarithm: tr J = E[εᵀ J ε],
    with one ε a row of independent signs, the same during a solve.

    Chen et al., "Neural ordinary differential equations", 2018, arXiv:1806.07366; Grathwohl et al., "FFJORD", 2019,
    arXiv:1810.01367.

    Args:
        shape: of an event.
        field: f; `field(t, z, c)` takes `(N,)`, `(N, *shape)` and `(N, C)` or None, and gives the velocity,
            `(N, *shape)`. A field with `knows_trace` gives `velocity_and_trace(t, z, c)` too; of any other the
            exact trace takes one backward pass an element.
        solver: of x and its density.
        trace: "exact" or "hutchinson".
        sampler: of x alone, where no density is asked for; None for the same solver.
        regularization: weight of the paths' `costs` in an objective that knows of them.
    """

    def __init__(
        self,
        shape: Shape,
        field: nn.Module,
        solver: Solver | None = None,
        trace: Trace = "exact",
        sampler: Solver | None = None,
        regularization: float = 0.0,
    ):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(shape)
        self.field, self.solver, self.trace = field, solver or Solver(), trace
        self.sampler, self.regularization = sampler or self.solver, regularization
        self.forward_steps, self.inverse_steps = self.sampler.evaluations, self.solver.evaluations
        self.estimates_density = trace == "hutchinson"
        self._costs: list[Tensor] | None = None

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._flow(z, context, 0.0, 1.0)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._flow(x, context, 1.0, 0.0)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self._move(z, context, 0.0, 1.0, self.sampler)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self._move(x, context, 1.0, 0.0, self.solver)

    @contextmanager
    def costs(self) -> Iterator[list[Tensor]]:
        """Within it, every solve with a density adds the cost of its paths, (N,), to the list that is given.

            ∫₀¹ ‖f‖² + ‖∂f/∂z‖² dt

        the second being the squared Frobenius norm, estimated by ‖εᵀ ∂f/∂z‖² with one normal ε a row. Straight paths
        of constant speed are the cheapest to solve. Finlay et al., "How to train your neural ODE", 2020,
        arXiv:2002.02798.
        """
        self._costs = costs = []
        try:
            yield costs
        finally:
            self._costs = None

    def _move(self, z: Tensor, context: Tensor | None, start: float, end: float, solver: Solver) -> Tensor:
        """Where points lead, without their density."""
        given = [] if context is None else [context]
        return solver.solve(_Velocity(self), z.flatten(1), given, start, end).view_as(z)

    def _flow(self, z: Tensor, context: Tensor | None, start: float, end: float) -> tuple[Tensor, Tensor]:
        rows = z.flatten(1)
        given = [] if context is None else [context]
        costly = self._costs is not None
        if self.trace == "hutchinson":
            given.append(torch.randint_like(rows, 2) * 2 - 1)
        if costly:
            given.append(torch.randn_like(rows))
        dims = rows.shape[1]

        def norm(scaled: Tensor) -> Tensor:  # the one number that the density hangs on must not drown in a large event
            return torch.maximum(rms(scaled[:, :dims]), scaled[:, dims].abs())

        state = torch.cat([rows, rows.new_zeros(len(rows), 1 + costly)], 1)
        state = self.solver.solve(_Dynamics(self, context is not None, costly), state, given, start, end, norm)
        if self._costs is not None:
            self._costs.append(state[:, dims + 1].abs())  # backwards in time it is collected with a minus
        return state[:, :dims].reshape(z.shape), state[:, dims]


class _Velocity(nn.Module):
    """f over flat points, (N, D)."""

    def __init__(self, flow: Continuous):
        super().__init__()
        self.field, self.shape = flow.field, flow.domain_shape

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.field(t, z.unflatten(1, self.shape), context).flatten(1)


class _Dynamics(nn.Module):
    """d/dt of (z, ladj) or (z, ladj, cost), flat, (N, D + 1) or (N, D + 2)."""

    def __init__(self, flow: Continuous, conditional: bool, costly: bool):
        super().__init__()
        self.field, self.shape, self.trace = flow.field, flow.domain_shape, flow.trace
        self.conditional, self.costly = conditional, costly

    def forward(self, t: Tensor, state: Tensor, *given: Tensor) -> Tensor:
        rest = list(given)
        context = rest.pop(0) if self.conditional else None
        probe = rest.pop(0) if self.trace == "hutchinson" else None
        closed = probe is None and getattr(self.field, "knows_trace", False)
        learning, differentiates = torch.is_grad_enabled(), self.costly or not closed
        z = state[:, : math.prod(self.shape)]
        with torch.set_grad_enabled(learning or differentiates):
            if differentiates and not (learning and z.requires_grad):
                z = z.detach().requires_grad_()
            points = z.unflatten(1, self.shape)
            if closed:
                velocity, trace = self.field.velocity_and_trace(t, points, context)  # pyright: ignore[reportCallIssue]
                velocity = velocity.flatten(1)
            else:
                velocity = self.field(t, points, context).flatten(1)
                trace = estimated_trace(velocity, z, probe) if probe is not None else exact_trace(velocity, z)
            parts = [velocity, trace[:, None]]
            if self.costly:
                energy = velocity.square().sum(1) + _pulled(velocity, z, rest[0]).square().sum(1)
                parts.append(energy[:, None])
            change = torch.cat(parts, 1)
        return change if learning else change.detach()


def exact_trace(velocity: Tensor, z: Tensor) -> Tensor:
    """tr ∂f/∂z of each row, (N,), by one backward pass an element of z, (N, D)."""
    one = torch.zeros_like(velocity)
    trace = torch.zeros_like(velocity[:, 0])
    for d in range(z.shape[1]):
        unit = one.clone()
        unit[:, d] = 1
        trace = trace + _pulled(velocity, z, unit)[:, d]
    return trace


def estimated_trace(velocity: Tensor, z: Tensor, probe: Tensor) -> Tensor:
    """εᵀ (∂f/∂z) ε of each row, (N,): tr ∂f/∂z in expectation where E[ε εᵀ] = I."""
    return (_pulled(velocity, z, probe) * probe).sum(1)


def _pulled(velocity: Tensor, z: Tensor, cotangent: Tensor) -> Tensor:
    """vᵀ ∂f/∂z, (N, D), differentiable in its turn."""
    return torch.autograd.grad(velocity, z, cotangent, create_graph=True)[0]
