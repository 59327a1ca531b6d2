"""Pictures of several rows, columns and colours, pixel by pixel: against enumeration of all there are."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from jensen.conditionals.autoregressive import Autoregression, Autoregressive
from jensen.core import Model, seeded
from jensen.data import Schema
from jensen.registry import build

SMALL = {"width": 8, "layers": 3, "first": 3, "hidden": 16}


@dataclass(frozen=True)
class Case:
    """Pictures of some shape and number of levels under one likelihood, with labels of two classes or without."""

    shape: tuple[int, int, int]
    levels: int
    likelihood: str
    labels: bool

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{self.likelihood} of {size}, {self.levels} levels{', labels' if self.labels else ''}"

    def build(self) -> Model:
        """In float64, with weights away from where they start."""
        schema = Schema.of_pictures(self.shape, levels=self.levels, classes=("a", "b") if self.labels else ())
        settings = {**SMALL, "likelihood": self.likelihood, "conditional": self.labels}
        with seeded(1):
            model = build("pixelcnn", schema, settings).double().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    @property
    def given(self) -> list[int | None]:
        """Every label there is."""
        return [0, 1] if self.labels else [None]

    def pictures(self, order: Tensor) -> Tensor:
        """All there are, (N, C, H, W), sorted by the first element of an order, then by the second and so on."""
        values = torch.tensor(list(itertools.product(range(self.levels), repeat=len(order))), dtype=torch.float64)
        return values[:, order.argsort()].reshape(-1, *self.shape)


CASES = [
    Case(shape, levels, likelihood, labels)
    for shape, levels, likelihood in (
        ((2, 2, 2), 2, "bernoulli"),
        ((3, 2, 2), 2, "bernoulli"),
        ((2, 3, 2), 2, "bernoulli"),
        ((2, 2, 2), 3, "categorical"),
        ((2, 2, 2), 3, "discretized-logistic-mixture"),
        ((1, 2, 4), 3, "discretized-logistic-mixture"),
    )
    for labels in (False, True)
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def conditional(model: Model) -> Autoregressive:
    module = model.p["x"].module
    assert isinstance(module, Autoregressive)
    return module


def density(model: Model, label: int | None, rows: int) -> Autoregression:
    """p(x | y), for so many rows."""
    return conditional(model)(*([] if label is None else [torch.full((rows,), label)]))


@every_case
def test_each_element_has_its_conditional_of_the_joint(case):
    """p(x_1, ..., x_k) is a sum over all that can follow, and the product of the first k factors; over all it is 1."""
    model = case.build()
    order = conditional(model).network.order
    x, dims, found = case.pictures(order), len(order), []
    for label in case.given:
        with torch.no_grad():
            met = density(model, label, len(x))
            p, factors = met.log_prob(x).exp(), met.terms(x).flatten(1)[:, order]
            batch = {"x": x} if label is None else {"x": x, "y": torch.full((len(x),), label)}
            torch.testing.assert_close(model.evidence(batch).log_w[0].exp(), p)
        for k in range(dims + 1):
            marginal = p.reshape(case.levels**k, -1).sum(1, keepdim=True)
            product = factors[:, :k].sum(1).exp().reshape(case.levels**k, -1)
            torch.testing.assert_close(product, marginal.expand_as(product), rtol=1e-9, atol=1e-12)
        found.append(p)
    assert not case.labels or (found[0] - found[1]).abs().sum() > 0.1


@every_case
def test_every_way_to_sample_gives_the_same(case):
    model = case.build()
    with seeded(2):
        for label in case.given:
            met = density(model, label, 40)
            u = met.noise((40, *case.shape))
            quick, slow, (parallel, passes) = met.from_noise(u), met.from_noise_naively(u), met.from_noise_jacobi(u)
            assert torch.equal(quick, slow)
            assert torch.equal(parallel, slow)
            assert 2 < passes <= math.prod(case.shape) + 1
            assert torch.equal(met.sampled("jacobi").draw(u), quick)
            assert len(quick.unique(dim=0)) > 5


@every_case
def test_samples_have_the_moments_of_the_density(case):
    """Of pairs of elements, and its entropy, each within 4.5 standard errors."""
    model, n = case.build(), 5000
    x = case.pictures(conditional(model).network.order)
    with seeded(3), torch.no_grad():
        for label in case.given:
            drawn = model.sample(n, None if label is None else {"y": torch.full((n,), label)})["x"]
            log_p, of_drawn = (density(model, label, len(v)).log_prob(v) for v in (x, drawn))
            p = log_p.exp()
            for one, other in ((pairs(x), pairs(drawn)), (log_p[:, None], of_drawn[:, None])):
                truth = p @ one
                error = (p @ (one - truth).square() / n).sqrt()
                assert ((other.mean(0) - truth).abs() < 4.5 * error).all()


def pairs(x: Tensor) -> Tensor:
    """Products of two elements, (N, D²), of rows (N, *event)."""
    return (x.flatten(1)[:, :, None] * x.flatten(1)[:, None]).flatten(1)


@every_case
def test_pictures_of_several_rows_need_the_rows_above(case):
    """So that what is found here is not found of the horizontal stack alone."""
    model = case.build()
    network = conditional(model).network
    x = case.pictures(network.order)
    last, label = network.order[-1], case.given[0]
    with torch.no_grad():
        terms = density(model, label, len(x)).terms(x).flatten(1)
        other = x.clone()
        other[:, :, 0] = case.levels - 1 - other[:, :, 0]  # the first row is another one
        moved = density(model, label, len(x)).terms(other).flatten(1)
        assert (moved - terms)[:, last].abs().max() > 0.05
        for name, parameter in network.named_parameters():
            if name.endswith(("vertical.weight", "across.weight")):
                parameter.zero_()
        alone = density(model, label, len(x)).terms(x).flatten(1)
        unmoved = density(model, label, len(x)).terms(other).flatten(1)
        torch.testing.assert_close(unmoved[:, last], alone[:, last])
