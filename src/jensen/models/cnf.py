"""Continuous normalizing flow: noise follows a learned velocity to the data.

    dz/dt = f(t, z, c)        log p(x) = log p(z(0)) − ∫₀¹ tr ∂f/∂z dt,   z(1) = x

Chen et al., "Neural ordinary differential equations", 2018, arXiv:1806.07366; Grathwohl et al., "FFJORD", 2019,
arXiv:1810.01367. Regularized: Finlay et al., "How to train your neural ODE", 2020, arXiv:2002.02798.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jensen.core import Model
from jensen.models.flow import flow
from jensen.nets.field import PerceptronField, Smooth
from jensen.nets.stack import Size
from jensen.objectives import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean
from jensen.objectives.likelihood import maximum_likelihood
from jensen.transforms import Continuous, Solver, Transform
from jensen.transforms.continuous import Trace
from jensen.transforms.ode import Method


def regularized(monitor: str) -> Objective:
    """Maximum likelihood, less what the paths cost where the flow asks for it: `Continuous.costs`."""
    plain = maximum_likelihood(monitor)
    (stage,) = plain.stages

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        (flow,) = (module for module in model.modules() if isinstance(module, Continuous))
        if not flow.regularization:
            (phase,) = stage.phases
            assert isinstance(phase, GradientPhase)
            return phase.loss(model, batch, progress)
        with flow.costs() as costs:
            total = weighted_mean(model.evidence(batch).elbo(), batch)
        cost = weighted_mean(sum(costs), batch)  # pyright: ignore[reportArgumentType]
        return Terms(flow.regularization * cost - total, {monitor: total.detach(), "path_cost": cost.detach()})

    return Objective((Stage((GradientPhase(loss),), monitor=monitor),), plain.validate, plain.description)


@flow("cnf", paper="Chen et al. 2018, arXiv:1806.07366; Grathwohl et al. 2019, arXiv:1810.01367", objective=regularized)
def cnf(
    event: tuple[int, ...],
    context: int,
    *,
    hidden: Annotated[list[Size], Field(min_length=1)] = [64, 64],
    activation: Smooth = "tanh",
    trace: Trace = "exact",
    solver: Method = "dopri5",
    rtol: Annotated[float, Field(gt=0)] = 1e-5,
    atol: Annotated[float, Field(gt=0)] = 1e-5,
    steps: Size = 10,
    regularization: Annotated[float, Field(ge=0)] = 0.0,
) -> Transform:
    """Continuous flow, FFJORD: a network is the velocity, a solver follows it; trained by maximum likelihood.

    The density is exact up to the solver's tolerance. With at most two hidden layers the trace is in closed form, at
    hardly any cost; with more the exact one takes a backward pass an element, and Hutchinson's a single one, for which
    the score is an estimate.

    Settings:
        hidden: sizes of the network's hidden layers.
        activation: between them; the solver needs it smooth.
        trace: "exact" or "hutchinson".
        solver: "dopri5" takes the steps that each datum needs; "rk4", "midpoint" and "euler" take `steps` equal ones,
            whatever their error.
        rtol: of dopri5, error allowed a step relative to the size of z and of its log-determinant.
        atol: the same, absolute.
        steps: of a fixed solver; dopri5 first tries one of 1 / steps.
        regularization: weight of ∫ ‖f‖² + ‖∂f/∂z‖² dt in training by this model's own objective, which straightens
            paths and so saves steps; 0.01 in the paper.
    """
    field = PerceptronField(event, context, hidden, activation)
    return Continuous(event, field, Solver(solver, rtol, atol, steps), trace, regularization=regularization)
