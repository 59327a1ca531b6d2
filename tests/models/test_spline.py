"""Neural spline flows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jensen.core import Model, seeded
from jensen.data import Schema
from jensen.errors import ConfigError
from jensen.nets import mlp
from jensen.nets.columns import FeaturesFirst
from jensen.registry import build
from jensen.training.adam import LeanAdam
from jensen.transforms import LULinear, Permutation

COLUMNS = Schema.of_table(torch.randn(50, 2).numpy(), ["a", "b"], ["real"] * 2)
KINDS = ["coupling", "autoregressive"]
SIZE = {"layers": 3, "hidden": [32]}


def checkerboard(n: int) -> Tensor:
    """Uniform on every other square of [−2, 2]² cut into 16, (n, 2): log-density −log 8."""
    column, row = torch.randint(4, (n,)), torch.randint(2, (n,))
    return torch.stack([column, 2 * row + column % 2], 1) + torch.rand(n, 2) - 2


def trained(name: str, settings: dict, steps: int = 150) -> Model:
    with seeded(0):
        model = build(name, COLUMNS, settings)
        optimizer = LeanAdam(list(model.parameters()), 8e-3, 0.0, False)
        model.initialize({"x": checkerboard(2000)})
        for _ in range(steps):
            loss = -model.evidence({"x": checkerboard(256)}).elbo().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.update()
    return model.eval()


def scores(model: Model) -> Tensor:
    """Log-likelihood of fresh data, the same for all models, (5000,), in nats."""
    with seeded(1), torch.no_grad():
        return model.evidence({"x": checkerboard(5000)}).elbo()


@pytest.fixture(scope="module")
def affine() -> Tensor:
    return scores(trained("realnvp", SIZE))


@pytest.mark.parametrize("kind", KINDS)
def test_learns_a_checkerboard_better_than_affine_couplings(kind, affine):
    """Of as many layers and hidden units, by four standard errors; and no density can score more than −log 8."""
    model = trained("spline", {**SIZE, "kind": kind, "between": "none"})
    found = scores(model)
    difference = found - affine
    assert difference.mean() > 4 * difference.std() / math.sqrt(len(difference))
    assert found.mean() < -math.log(8)
    with seeded(2), torch.no_grad():
        drawn = model.sample(2000)["x"] + 2
    column, row = drawn.floor().long().unbind(1)
    allowed = ((drawn > 0) & (drawn < 4)).all(1) & ((column + row) % 2 == 0)
    assert allowed.float().mean() > 0.5 + 4 * math.sqrt(0.25 / 2000)  # half, of what knows nothing of the squares


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("between", ["linear", "permutation", "none"])
def test_starts_as_a_linear_map(kind, between):
    """Whatever stands between layers: splines start as the identity."""
    model = build("spline", COLUMNS, {"kind": kind, "between": between, "hidden": [8], "layers": 3})
    transform = model.p["x"].module.transform  # pyright: ignore
    found = [m for m in transform.modules() if isinstance(m, LULinear | Permutation)]
    assert len(found) == (0 if between == "none" else 2)
    points = torch.randn(3, 2)
    one, two, both = (transform(z)[0] for z in (points[:1], points[1:2], points[:1] + points[1:2]))
    torch.testing.assert_close(one + two, both)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_flattened(kind):
    model = build("spline", Schema.of_pictures((1, 3, 3), levels=4), {"kind": kind, "hidden": [8], "layers": 2})
    assert model.sample(5)["x"].shape == (5, 1, 3, 3)


def test_a_coupling_of_one_column_is_refused():
    one = Schema.of_table(torch.randn(50, 1).numpy(), ["a"], ["real"])
    with pytest.raises(ConfigError, match="spline: a coupling needs two elements or more"):
        build("spline", one)
    assert build("spline", one, {"kind": "autoregressive"}).sample(3)["x"].shape == (3, 1)


def test_a_perceptron_features_first_is_the_same():
    network = mlp((3,), (4,), hidden=[5, 6], activation="relu")
    columns = FeaturesFirst(*network)
    assert columns.state_dict().keys() == network.state_dict().keys()
    x = torch.randn(7, 3, requires_grad=True)
    weight = torch.randn(7, 4)
    for ours, truth in zip(*(_gradients(net, x, weight) for net in (columns, network)), strict=True):
        torch.testing.assert_close(ours, truth)


def _gradients(network: torch.nn.Module, x: Tensor, weight: Tensor) -> list[Tensor]:
    y = network(x)
    return [y, *torch.autograd.grad((y * weight).sum(), [x, *network.parameters()])]
