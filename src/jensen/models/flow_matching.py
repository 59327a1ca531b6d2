"""Flow matching: a continuous flow whose velocity is regressed on straight lines from noise to data.

    dz/dt = f(t, z, c)        loss = E ‖f(t, x_t, c) − (x_1 − x_0)‖²,   x_t = (1 − t) x_0 + t x_1

Lipman et al., "Flow matching for generative modeling", 2023, arXiv:2210.02747; Liu, Gong and Liu, "Flow straight and
fast", 2023, arXiv:2209.03003.
"""

from __future__ import annotations

import functools
from typing import Annotated

from pydantic import Field

from jensen.conditionals.dequantization import uniform
from jensen.conditionals.priors import normal
from jensen.core import Model
from jensen.data.schema import Schema
from jensen.models.flow import Name, density
from jensen.nets.field import PerceptronField, Smooth
from jensen.nets.stack import Size
from jensen.objectives import flow_matching as objective
from jensen.registry import model
from jensen.transforms import ActNorm, Continuous, Solver
from jensen.transforms.continuous import Trace


@model("flow-matching", paper="Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003", toy="table")
def flow_matching(
    schema: Schema,
    *,
    hidden: Annotated[list[Size], Field(min_length=1)] = [128, 128],
    activation: Smooth = "tanh",
    sigma: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    times: objective.Times = "late",
    pairs: objective.Pairs = "independent",
    trace: Trace = "exact",
    rtol: Annotated[float, Field(gt=0)] = 1e-5,
    atol: Annotated[float, Field(gt=0)] = 1e-5,
    sampling_steps: Annotated[int, Field(ge=0)] = 0,
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05,
    marginals: bool = False,
    positive: list[Name] = [],
    bounded: list[Name] = [],
    conditional: bool = False,
) -> Model:
    """Flow matching, rectified flow: a continuous flow trained by regression, without solving its equation.

    It is the model that `cnf` is, and a training step costs as little as one of a plain network; scores and samples
    solve the equation. Validation does so too, seldom, and so measures log p and not the regression.

    Settings:
        hidden: sizes of the network's hidden layers; with at most two the trace is in closed form.
        activation: between them; the solver needs it smooth.
        sigma: σ, deviation of the normal noise that the data end with, in standardised units.
        times: t uniform as in the papers, or late, of density 2t: near the data the velocity is hardest to learn.
        pairs: noise and data independent, or paired within a batch by the least total distance ("optimal", for data
            without conditions and weights), which straightens the paths.
        trace: "exact", or "hutchinson", for which the score is an estimate.
        rtol: of the solver, error allowed a step relative to the size of z and of its log-determinant.
        atol: the same, absolute.
        sampling_steps: samples are drawn by so many steps of the midpoint rule, whatever their error; 0 for the
            solver that scores.
        alpha: of grey levels, how far logit(α + (1 − 2α) v / levels) keeps from the ends.
        marginals: of grey levels and bits, whether each is carried to a standard normal by its own histogram in the
            first data, in place of the logit.
        positive: of a table, names of columns of positive numbers, which the flow sees by their logarithm.
        bounded: of a table, columns between bounds, as column:low:high, which the flow sees by their logit, or by the
            logarithm of the distance to the bound where the other is inf or -inf.
        conditional: whether p(x | y) is learned, given the labels; columns that are given condition it in any case.
    """
    sampler = Solver("midpoint", steps=sampling_steps) if sampling_steps else None

    def transform(event: tuple[int, ...], context: int) -> Continuous:
        field = PerceptronField(event, context, hidden, activation)
        return Continuous(event, field, Solver("dopri5", rtol, atol), trace, sampler)

    schema.expect_no_gaps()
    return density(
        schema,
        transform,
        functools.partial(objective.flow_matching, sigma=sigma, times=times, pairs=pairs),
        functools.partial(ActNorm, learned=False),
        base=normal,
        dequantizer=uniform,
        alpha=alpha,
        marginals=marginals,
        positive=positive,
        bounded=bounded,
        conditional=conditional,
    )
