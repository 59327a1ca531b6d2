"""How a normalizing flow becomes a model.

    p(x) = p_base(T⁻¹(x)) |det ∂T⁻¹/∂x|                     real numbers: exact
    p(v) the same, x = ⌊v⌋, q(v | x) the dequantiser         whole numbers: a lower bound

A flow is one function with `flow(name)` above it: from an event shape and the size of a context to a transform. From
it come a model of that name, and the prior, the posterior and the variational family that use it by that name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from jensen.conditionals.completion import Completer, Seen
from jensen.conditionals.dequantization import Floor
from jensen.conditionals.flows import Flow
from jensen.conditionals.heads import Support
from jensen.conditionals.likelihoods import gaussian
from jensen.conditionals.ranges import Ranges, onto_ranges
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.models.family import family, given
from jensen.objectives import Objective
from jensen.objectives.likelihood import maximum_likelihood
from jensen.registry import Dequantizer, Prior
from jensen.transforms import ActNorm, Affine, Composed, Exp, Marginals, Transform, levels

Builder = Callable[..., Transform]
Name = Annotated[str, Field(coerce_numbers_to_str=True)]  # of a column, which may be a number


def flow(
    name: str,
    *,
    paper: str,
    toy: str = "table",
    objective: Callable[[str], Objective] = maximum_likelihood,
    **defaults: Any,
) -> Callable[[Builder], Builder]:
    """Register `builder(event, context, *, settings...) -> Transform` as a flow and as a model of that name.

    `event` is the shape of a datum, `context` the size C of what the transform is conditioned on, 0 for nothing. The
    model has the builder's settings and those of `density`, and `objective(monitor)` trains it; `defaults` are those of
    its settings that differ where a flow is learned from data, by its density, from where it is drawn from.
    """

    def register(builder: Builder) -> Builder:
        family("flow", name, builder, density, paper=paper, toy=toy, defaults=defaults, objective=objective)
        return builder

    return register


def density(
    schema: Schema,
    transform: Callable[[tuple[int, ...], int], Transform],
    objective: Callable[[str], Objective] = maximum_likelihood,
    normalization: Callable[[tuple[int, ...]], Transform] = ActNorm,
    *,
    base: Prior = "normal",
    dequantizer: Dequantizer = "uniform",
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05,
    marginals: bool = False,
    positive: list[Name] = [],
    bounded: list[Name] = [],
    circular: list[Name] = [],
    conditional: bool = False,
) -> Model:
    """A model of the data whose density is that of a flow.

    `objective(monitor)` trains it, monitoring the name it is given; `normalization(shape)` follows the transform.

    Settings:
        base: density of z, from which the flow starts.
        dequantizer: for whole numbers, how noise is added to them.
        alpha: of grey levels, how far logit(α + (1 − 2α) v / levels) keeps from the ends.
        marginals: of grey levels and bits, whether each is carried to a standard normal by its own histogram in the
            first data, in place of the logit.
        positive: of a table, names of columns of positive numbers, which the flow sees by their logarithm.
        bounded: of a table, columns between bounds, as column:low:high, which the flow sees by their logit, or by the
            logarithm of the distance to the bound where the other is inf or -inf.
        circular: of a table, columns that are directions, as column:low:high from where a turn begins to where it ends,
            which is the same; learned first, by circular splines, and the flow is given them.
        conditional: whether p(x | y) is learned, given the labels; columns that are given condition it in any case.
    """
    support, (parents, context) = Support.of(schema, gaps=True), given(schema, conditional)
    ranges = Ranges.of(schema, positive, bounded, circular)
    if any(ranges.around) and getattr(base, "name", "normal") != "normal":
        raise ConfigError(f"circular: expected base=normal, which becomes a uniform direction, got {base.name!r}")

    def inner(event: tuple[int, ...], context: int) -> Transform:
        return Composed([transform(event, context), normalization(event)])

    size = context.size if context else 0
    if ranges.any:
        made = onto_ranges(ranges, lambda columns, size: inner((columns,), size), size)
    else:
        made = Composed([inner(support.shape, size), *_onto(support, alpha, marginals)])
    name = "x" if support.kind == "real" else "v"
    if support.gaps and (name == "v" or ranges.any):
        schema.expect_no_gaps("a flow fills gaps of real columns only, and of columns without ranges")
    name = "w" if support.gaps else name
    on = f" | {', '.join(parents)}" if context else ""
    flow = Flow(base(made.domain_shape), made, context, ranges if ranges.any else None)
    p: dict[str, nn.Module] = {f"{name}{on}": flow}
    q: dict[str, nn.Module] = {}
    if name == "v":
        p["x | v"] = Floor(support)
        q["v | x"] = dequantizer(support)
    if name == "w":
        p["x | w"] = Seen(whole=False)
        q["w | x, seen"] = Completer(support, gaussian(Support("real", support.shape)))
    return Model(Joint(p), Joint(q), objective("log_likelihood" if name == "x" else "elbo"))


def _onto(support: Support, alpha: float, marginals: bool) -> list[Transform]:
    """From standardised real numbers to where the data lie."""
    if support.kind == "real":
        return []
    if support.kind == "count":
        return [Exp(support.shape), Affine(support.shape, -0.5)]  # large counts by their logarithm
    if marginals:
        return [Marginals(support.shape, support.levels or 2)]
    return [levels(support.shape, support.levels or 2, alpha)]
