"""NICE, RealNVP and Glow, of vectors and of pictures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from jensen.conditionals.dequantization import Floor, UniformDequantizer
from jensen.conditionals.flows import Flow
from jensen.conditionals.heads import Support
from jensen.conditionals.priors import uniform
from jensen.core import Joint, Model, seeded
from jensen.data import Schema
from jensen.errors import ConfigError
from jensen.registry import build, find
from jensen.transforms import ActNorm, Affine, Marginals, Transform

FLOWS = ["nice", "realnvp", "glow"]
SMALL = {
    "nice": {"hidden": [16]},
    "realnvp": {"hidden": [16], "channels": 4, "couplings": 2},
    "glow": {"hidden": [16], "channels": 4, "steps": 2},
}
PICTURES = [(1, 1, 2), (3, 1, 1), (1, 2, 2), (1, 7, 7), (1, 4, 6), (2, 8, 8), (1, 28, 28), (3, 5, 4)]


def made(name: str, event: tuple[int, ...], moved: float = 0.0, **more) -> Transform:
    with seeded(0):
        transform = find("flow", name).function(event, 0, **{**SMALL[name], **more}).double()
        with torch.no_grad():
            for p in transform.parameters():
                p.add_(moved * torch.randn_like(p))
    return transform


def table(dims: int) -> Schema:
    with seeded(0):
        return Schema.of_table(torch.randn(100, dims).numpy(), [f"x{i}" for i in range(dims)])


@pytest.mark.parametrize("shape", PICTURES, ids=str)
@pytest.mark.parametrize("name", FLOWS)
def test_pictures_of_every_size_come_back(name, shape):
    """Where a side is odd there is no more squeezing, and every pixel is changed all the same."""
    transform = made(name, shape, moved=0.1)
    x = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        z, ladj = transform.inverse_and_ladj(x)
        again, back = transform.forward_and_ladj(z)
    assert z.shape[1:] == transform.domain_shape
    torch.testing.assert_close(again, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(ladj.expand(3), -back.expand(3), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("map", ["affine", "spline"])
@pytest.mark.parametrize("name", ["realnvp", "glow"])
def test_the_log_determinant_of_a_picture_is_that_of_the_jacobian(name, map):
    transform = made(name, (2, 4, 4), moved=0.1, map=map)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(transform.inverse, x).reshape(32, 32)
    ladj = transform.inverse_and_ladj(x)[1].detach()
    torch.testing.assert_close(ladj[0], torch.linalg.slogdet(jacobian)[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("shape", [(5,), (1, 4, 4), (1, 3, 3)], ids=str)
def test_every_element_depends_on_every_other(name, shape):
    deep = {"realnvp": {"couplings": 4}, "glow": {"steps": 4}}.get(name, {})
    transform = made(name, shape, moved=0.3, activation="tanh", **deep)
    x = torch.randn(1, *shape, dtype=torch.float64)
    n = x.numel()
    jacobian = torch.autograd.functional.jacobian(transform.inverse, x).reshape(n, n)
    assert (jacobian != 0).double().mean() > 0.9


@pytest.mark.parametrize("name", ["nice", "realnvp"])
def test_a_fresh_flow_only_sorts_even_features_before_odd_ones(name):
    transform = made(name, (5,))
    x = torch.randn(4, 5, dtype=torch.float64)
    z, ladj = transform.inverse_and_ladj(x)
    assert torch.equal(z, x[:, [0, 2, 4, 1, 3]])
    assert (ladj == 0).all()


def test_a_fresh_glow_is_a_rotation():
    transform = made("glow", (6,))
    x = torch.randn(4, 6, dtype=torch.float64)
    z, ladj = transform.inverse_and_ladj(x)
    torch.testing.assert_close(z.norm(dim=1), x.norm(dim=1), rtol=1e-5, atol=1e-5)
    assert ladj.abs().max() < 1e-5


@pytest.mark.parametrize("name", FLOWS)
def test_a_density_in_the_plane_integrates_to_one(name):
    model = build(name, table(2), {**SMALL[name], "layers": 4}).double()
    with seeded(1), torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        side = torch.linspace(-7, 7, 1001, dtype=torch.float64)
        grid = torch.cartesian_prod(side, side)  # of u, x = sinh u: fine within, and wide
        log_p = torch.cat(
            [model.p["x"].module().log_prob(u.sinh()) + u.cosh().log().sum(1) for u in grid.split(99_999)]
        )
    assert log_p.exp().sum().item() * (side[1] - side[0]).item() ** 2 == pytest.approx(1, abs=1e-3)


def test_nice_changes_volumes_by_the_same_everywhere():
    transform = made("nice", (6,), moved=0.3)
    ladj = transform.inverse_and_ladj(torch.randn(5, 6, dtype=torch.float64))[1]
    assert ladj.dim() == 0 and ladj != 0


def test_normalisation_starts_from_the_first_data_in_a_deep_model():
    """All of RealNVP's normalisations have seen the data, and the base is standard where they were fitted."""
    schema = Schema.of_pictures((1, 8, 8), levels=256)
    with seeded(0):
        model = build("realnvp", schema, SMALL["realnvp"])
        x = torch.randint(0, 256, (300, 1, 8, 8)).float()
        norms = [m for m in model.modules() if isinstance(m, ActNorm)]
        assert len(norms) > 8 and not any(m.initialized for m in norms)
        model.initialize({"x": x})
        assert all(m.initialized for m in norms)
        with torch.no_grad():
            z, _ = model.p["v"].module().to_base(x + torch.rand_like(x))
    assert z.mean().abs() < 0.02
    assert z.std() == pytest.approx(1, abs=0.02)


def bits(model: Model, x: Tensor) -> Tensor:
    return -model.evidence({"x": x}).elbo() / (math.log(2) * x[0].numel())


def test_a_uniform_model_of_bytes_scores_eight_bits():
    """v = 256 z with z uniform on the unit cube: exactly log₂ 256, whatever the picture and the noise."""
    schema, shape = Schema.of_pictures((1, 3, 3), levels=256), (1, 3, 3)
    support = Support.of(schema)
    scaling = Affine(shape, scale=256.0)
    scaling.domain = constraints.unit_interval  # straight from the cube, not by way of the real line
    p = Joint({"v": Flow(uniform(shape), scaling), "x | v": Floor(support)})
    model = Model(p, Joint({"v | x": UniformDequantizer(support)}))
    x = torch.randint(0, 256, (20, *shape)).float()
    torch.testing.assert_close(bits(model, x), torch.full((20,), 8.0), rtol=0, atol=1e-6)


def test_marginals_score_the_entropy_of_each_pixel_before_training():
    """A fresh flow over a histogram a pixel: their entropies, up to the little weight of the common histogram."""
    schema = Schema.of_pictures((1, 2, 2), levels=4)
    settings = {**SMALL["realnvp"], "marginals": True, "normalize": False}
    with seeded(0):
        model = build("realnvp", schema, settings)
        x = torch.distributions.Categorical(torch.tensor([0.6, 0.3, 0.1, 0.0])).sample((20_000, 1, 2, 2)).float()
        x[:, 0, 0, 0] = 2.0
        marginals = model.p["v"].module.transform.chain[-1]
        assert isinstance(marginals, Marginals)
        marginals.initialize(x + torch.rand_like(x))
        found = bits(model, x).mean()
    p = torch.tensor([0.6, 0.3, 0.1])
    entropy = -(p * p.log2()).sum() * 3 / 4
    assert found.item() == pytest.approx(entropy.item(), abs=0.02)


@pytest.mark.parametrize("name", FLOWS)
def test_one_number_has_nothing_to_couple(name):
    with pytest.raises(ConfigError, match=f"{name}: .*two elements or more"):
        build(name, table(1))


@pytest.mark.parametrize("name", ["realnvp", "glow"])
def test_what_is_neither_vector_nor_picture_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: expected a vector"):
        find("flow", name).function((2, 3), 0)
