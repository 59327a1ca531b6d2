"""Ordinary differential equations, dy/dt = f(t, y), of rows that have nothing to do with one another.

Explicit Runge-Kutta methods: with stages k_i = f(t + c_i h, y + h Σ_j a_ij k_j),

    y(t + h) ≈ y + h Σ b_i k_i        error ≈ h Σ e_i k_i

The adaptive one gives every row a step size of its own (Lienen and Günnemann, "torchode", 2022, arXiv:2210.12375): what
comes of a row does not depend on the rows beside it, and a row that has arrived is computed no more.

Gradients are those of the steps as they were taken. The backward pass computes each accepted step anew from where it
started, so that memory holds one state a step and the network's activations of a single step (Zhuang et al.,
"Adaptive checkpoint adjoint", 2020, arXiv:2006.02493). An adjoint equation solved backwards holds even less, but its
path need not be the one that led forth, and its gradient is off by as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from jensen.errors import JensenError

Method = Literal["dopri5", "rk4", "midpoint", "euler"]
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0  # of step sizes: Hairer, Nørsett and Wanner 1993, section II.4
ROUNDING = 10.0  # a tolerance is at least so many units of rounding: below them errors are noise


class Tableau(NamedTuple):
    """Coefficients of a method; the row a_i belongs to the node c_i, the first stage being at c = 0."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    e: tuple[float, ...] = ()  # of the error, for an adaptive method, whose last stage is the next step's first


TABLEAUS: dict[str, Tableau] = {
    "euler": Tableau((), (1.0,), ()),
    "midpoint": Tableau(((1 / 2,),), (0.0, 1.0), (1 / 2,)),
    "rk4": Tableau(((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (1 / 2, 1 / 2, 1.0)),
    # Dormand and Prince, "A family of embedded Runge-Kutta formulae", 1980
    "dopri5": Tableau(
        a=(
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        c=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
        e=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    ),
}


def rms(scaled: Tensor) -> Tensor:
    """Root mean square of each row, (N, S) to (N,)."""
    return scaled.square().mean(1).sqrt()


@dataclass(frozen=True)
class Solver:
    """How an equation is solved, and how accurately.

    Attributes:
        method: "dopri5" chooses its steps by the tolerances; "rk4", "midpoint" and "euler" take `steps` equal ones.
        rtol, atol: error allowed a step, |error| ≤ atol + rtol |y|; not below a few roundings of the state's dtype.
        steps: of a fixed method; dopri5 tries 1 / steps first.
        most: attempted steps after which an adaptive solve gives up.
    """

    method: Method = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int = 10
    most: int = 1000

    @property
    def evaluations(self) -> int:
        """Evaluations of the field in a row; of dopri5 those of as many steps as `steps`, its actual ones varying."""
        return self.steps * len(TABLEAUS[self.method].b)

    def solve(
        self,
        field: nn.Module,
        y: Tensor,
        given: Sequence[Tensor] = (),
        start: float = 0.0,
        end: float = 1.0,
        norm: Callable[[Tensor], Tensor] = rms,
    ) -> Tensor:
        """y at `end`, (N, S), from y at `start`.

        Args:
            field: `field(t, y, *given)`, (N,) and (N, S) and the rest to dy/dt, (N, S), each row from its own alone.
            y: (N, S).
            given: what the field depends on besides, (N, ...) each.
            norm: of the error in units of what is allowed, (N, S) to (N,); a step with at most 1 is accepted.

        Differentiable once, in y, in what is given and in the field's parameters.

        Raises:
            JensenError: the steps became too many.
        """
        names, parameters = zip(*field.named_parameters(), strict=True) if [*field.parameters()] else ((), ())
        inputs = (y, *given, *parameters)
        keep = torch.is_grad_enabled() and any(v.requires_grad for v in inputs)
        problem = _Problem(self, field, start, end - start, norm, names, len(given), keep)
        return _Solve.apply(problem, *inputs)  # pyright: ignore[reportReturnType]


class _Step(NamedTuple):
    """An accepted step of some rows, or of all (None): where it started, (n,) and (n, S), and its size, (n,)."""

    rows: Tensor | None
    t: Tensor
    y: Tensor
    h: Tensor


@dataclass(frozen=True)
class _Problem:
    """One solve. Its own time runs from 0 to 1: t = start + span · time, dy/dtime = span · f."""

    solver: Solver
    field: nn.Module
    start: float
    span: float
    norm: Callable[[Tensor], Tensor]
    names: tuple[str, ...]  # of the field's parameters
    given: int  # how many tensors are given
    keep: bool  # the steps, for a backward pass

    def slope(self, time: Tensor, y: Tensor, given: Sequence[Tensor]) -> Tensor:
        return self.field(self.start + self.span * time, y, *given) * self.span

    def stages(
        self, time: Tensor, y: Tensor, h: Tensor, given: Sequence[Tensor], first: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """y after a step of size h, and its stages."""
        tableau = TABLEAUS[self.solver.method]
        wide = h[:, None]
        k = [first if first is not None else self.slope(time, y, given)]
        for a, c in zip(tableau.a, tableau.c, strict=True):
            k.append(self.slope(time + c * h, y + wide * _combined(a, k), given))
        return y + wide * _combined(tableau.b, k), k

    def steps(self, y: Tensor, given: Sequence[Tensor]) -> tuple[Tensor, list[_Step]]:
        return self.adaptive(y, given) if TABLEAUS[self.solver.method].e else self.fixed(y, given)

    def fixed(self, y: Tensor, given: Sequence[Tensor]) -> tuple[Tensor, list[_Step]]:
        kept, n = [], self.solver.steps
        h = y.new_full((len(y),), 1 / n)
        for i in range(n):
            time = y.new_full((len(y),), i / n)
            kept += [_Step(None, time, y, h)] if self.keep else []
            y, _ = self.stages(time, y, h, given)
        return y, kept

    def adaptive(self, y: Tensor, given: Sequence[Tensor]) -> tuple[Tensor, list[_Step]]:
        solver, tableau = self.solver, TABLEAUS[self.solver.method]
        least = ROUNDING * torch.finfo(y.dtype).eps
        rtol, atol = max(solver.rtol, least), max(solver.atol, least)
        end, kept = torch.empty_like(y), []
        rows = torch.arange(len(y), device=y.device)
        time = y.new_zeros(len(y))
        h = y.new_full((len(y),), 1 / solver.steps)
        k = self.slope(time, y, given)
        for _ in range(solver.most):
            if not len(rows):
                return end, kept
            last = h >= 1 - time
            h = torch.where(last, 1 - time, h)
            new, stages = self.stages(time, y, h, given, k)
            after = self.slope(time + h, new, given)
            error = h[:, None] * _combined(tableau.e, [*stages, after])
            ratio = self.norm(error / (atol + rtol * torch.maximum(y.abs(), new.abs())))
            accepted = ratio <= 1  # not where it is nan
            if self.keep:
                kept.append(_Step(rows[accepted], time[accepted], y[accepted], h[accepted]))
            time = torch.where(accepted, time + h, time)
            y, k = torch.where(accepted[:, None], new, y), torch.where(accepted[:, None], after, k)
            h = h * (SAFETY * ratio.nan_to_num(torch.inf).pow(-1 / 5)).clamp(SHRINK, GROW)
            lost = ~torch.isfinite(k).all(1)  # nothing is known of where it goes: nan, for the caller to see
            y = torch.where(lost[:, None], torch.nan, y)
            arrived = (accepted & last) | lost
            if arrived.any():
                end[rows[arrived]] = y[arrived]
                going = ~arrived
                rows, time, h, y, k = rows[going], time[going], h[going], y[going], k[going]
                given = [v[going] for v in given]
        if not len(rows):
            return end, kept
        raise JensenError(
            f"{solver.most:,} steps do not solve a continuous flow's equation to rtol={solver.rtol:g}, "
            f"atol={solver.atol:g}: it is too stiff; loosen the tolerances, or train with regularization"
        )

    def named(self, parameters: Sequence[Tensor]) -> _Problem:
        """The same with these parameters, as the field may hold others by the time of the backward pass."""
        if all(a is b for a, b in zip(parameters, self.field.parameters(), strict=True)):
            return self
        field = _Given(self.field, dict(zip(self.names, parameters, strict=True)))
        return _Problem(**{**self.__dict__, "field": field})


class _Given(nn.Module):
    """A module with parameters other than its own."""

    def __init__(self, module: nn.Module, parameters: dict[str, Tensor]):
        super().__init__()
        self._call = lambda *args: functional_call(module, parameters, args)

    def forward(self, *args: Tensor) -> Tensor:
        return self._call(*args)


class _Solve(torch.autograd.Function):
    """The end of a solve; backwards, each step anew."""

    @staticmethod
    def forward(ctx: Any, problem: _Problem, y: Tensor, *others: Tensor) -> Tensor:
        end, ctx.steps = problem.steps(y, others[: problem.given])
        ctx.problem = problem
        ctx.save_for_backward(*others)
        return end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        others = ctx.saved_tensors
        split = ctx.problem.given
        problem = ctx.problem.named(others[split:])
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        totals: list[Tensor | None] = [None] * len(others)
        for rows, time, start, h in reversed(ctx.steps):
            with torch.enable_grad():
                y = start.detach().requires_grad_()
                given = [_leaf(v if rows is None else v[rows], like=v) for v in others[:split]]
                inputs = [*given, *others[split:]]
                new, _ = problem.stages(time, y, h, given)
            found = torch.autograd.grad(
                new,
                [y, *(inputs[i] for i in wanted)],
                grad if rows is None else grad[rows],
                allow_unused=True,
                materialize_grads=True,
            )
            grad = found[0] if rows is None else grad.index_copy(0, rows, found[0])
            for i, g in zip(wanted, found[1:], strict=True):
                if i < split and rows is not None:
                    g = torch.zeros_like(others[i]).index_add_(0, rows, g)
                total = totals[i]
                totals[i] = g if total is None else total + g
        return None, grad if ctx.needs_input_grad[1] else None, *totals


def _combined(weights: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    """Σ w_i k_i."""
    terms: Iterator[tuple[float, Tensor]] = ((w, v) for w, v in zip(weights, k, strict=True) if w)
    w, v = next(terms)
    total = w * v
    for w, v in terms:
        total = torch.add(total, v, alpha=w)
    return total


def _leaf(v: Tensor, like: Tensor) -> Tensor:
    return v.detach().requires_grad_(like.requires_grad)
