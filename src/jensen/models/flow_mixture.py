"""Mixture of flows.

    p(x) = Σ_k π_k p_k(x)        p_k(x) = p_base(T_k⁻¹(x)) |det ∂T_k⁻¹/∂x|

A flow carries one connected region to another, so separate clusters stay joined by bridges of some density. A mixture
has a flow for each. The sum is exact; responsibilities p(k | x) come with it.

Pires and Figueiredo, "Variational mixture of normalizing flows", 2020, arXiv:2009.00585, who infer k by a network.
"""

from typing import Annotated

from pydantic import Field

from jensen.conditionals.mixtures import FlowMixture
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.models.flow import Name, density
from jensen.registry import Dequantizer, FlowSlot, Prior, model


@model("flow-mixture", paper="Pires and Figueiredo 2020, arXiv:2009.00585", toy="table")
def flow_mixture(
    schema: Schema,
    *,
    components: Annotated[int, Field(ge=1)] = 4,
    flow: FlowSlot = "realnvp",
    base: Prior = "normal",
    dequantizer: Dequantizer = "uniform",
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05,
    positive: list[Name] = [],
    bounded: list[Name] = [],
    circular: list[Name] = [],
    conditional: bool = False,
) -> Model:
    """Mixture of flows, p(x) = Σ_k π_k p_k(x): exact, for data in separate clusters.

    Settings:
        components: K.
        flow: the transform of each component, all of one kind.
        base: density of z, from which each flow starts.
        dequantizer: for whole numbers, how noise is added to them.
        alpha: of grey levels, how far logit(α + (1 − 2α) v / levels) keeps from the ends.
        positive: of a table, names of columns of positive numbers, which the flow sees by their logarithm.
        bounded: of a table, columns between bounds, as column:low:high, which the flow sees by their logit, or by the
            logarithm of the distance to the bound where the other is inf or -inf.
        circular: of a table, columns that are directions, as column:low:high from where a turn begins to where it ends,
            which is the same; learned first, by circular splines, and the flow is given them.
        conditional: whether p(x | y) is learned, given the labels; columns that are given condition it in any case.
    """
    schema.expect_no_gaps()
    parts = [
        density(
            schema,
            flow,
            base=base,
            dequantizer=dequantizer,
            alpha=alpha,
            positive=positive,
            bounded=bounded,
            circular=circular,
            conditional=conditional,
        )
        for _ in range(components)
    ]
    first = parts[0]
    name = "v" if "v" in first.p else "x"  # that has the density: the datum, or it with noise
    mixture = FlowMixture([part.p[name].module for part in parts])  # pyright: ignore[reportArgumentType]
    p = {str(f): mixture if f.name == name else f.module for f in first.p}
    return Model(Joint(p), first.q, first.objective)


flow_mixture.shares = frozenset({"base", "dequantizer"})  # what every flow has: tried in one of them
