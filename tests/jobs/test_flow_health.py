"""What a diagnosis says of flows: against maps whose faults and whose stretching are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor, nn

from jensen.cli.printing import plain
from jensen.conditionals.flows import Flow
from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model
from jensen.data import Schema
from jensen.errors import DataWarning
from jensen.jobs.diagnose import Finding
from jensen.jobs.flow_health import _quadrature
from jensen.jobs.train import train
from jensen.objectives.likelihood import maximum_likelihood
from jensen.registry import build
from jensen.transforms import Composed, Continuous, Scaling, Solver, Transform

RNG = np.random.default_rng(0)
NAMES = ["round trip", "stretching", "digits of the density", "normalisation", "range of samples"]


class Linear(Transform):
    """x = A z."""

    matrix: Tensor

    def __init__(self, matrix: np.ndarray, shape: tuple[int, ...]):
        super().__init__()
        self.domain_shape = self.codomain_shape = shape
        self.matrix = nn.Parameter(torch.from_numpy(matrix).float())

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (z.flatten(1) @ self.matrix.mT).reshape(z.shape), self.matrix.slogdet().logabsdet

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.linalg.solve(self.matrix, x.flatten(1).mT).mT.reshape(x.shape), -self.matrix.slogdet().logabsdet


class Wrong(Scaling):
    """x = z, wrong by numbers: in the volume and in the way back."""

    def __init__(self, shape: tuple[int, ...], volume: float = 0.0, shift: float = 0.0):
        super().__init__(shape)
        self.volume, self.shift = volume, shift

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, ladj = super().inverse_and_ladj(x, context)
        return z + self.shift, ladj + self.volume


def flow(*parts: Transform) -> Model:
    transform = Composed(parts)
    p = Joint({"x": Flow(Normal(transform.domain_shape), transform)})
    return Model(p, objective=maximum_likelihood()).eval()


def found(run, **options) -> dict[str, Finding]:
    return {finding.name: finding for finding in run.diagnose(**{"limit": None, **options}).findings}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_sound_flow_is_healthy(run_of, columns, dims):
    findings = found(run_of(flow(Scaling((dims,))), columns(dims), RNG.normal(size=(300, dims))))
    assert list(findings) == NAMES
    assert all(f.ok for f in findings.values()), findings


def test_the_numbers_are_plain(coupling_flow, run_of, columns):
    diagnosis = run_of(coupling_flow(columns(2)), columns(2), RNG.normal(size=(50, 2))).diagnose()
    kept = json.loads(json.dumps(plain(diagnosis.to_dict())))
    evidence = {f["name"]: f["evidence"] for f in kept["findings"]}
    assert evidence["round trip"]["float64"]["data_max"] < 1e-12 < evidence["round trip"]["float32"]["data_max"] < 1e-4
    assert [x["layer"] for x in evidence["stretching"]["layers"]] == ["ActNorm", *["Coupling"] * 4]
    assert evidence["normalisation"]["integral"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_wrong_volume_does_not_integrate_to_one(run_of, columns, dims):
    run = run_of(flow(Wrong((dims,), volume=0.05)), columns(dims), RNG.normal(size=(300, dims)))
    findings = found(run)
    assert [name for name, f in findings.items() if not f.ok] == ["normalisation"]
    assert findings["normalisation"].evidence["integral"] == pytest.approx(math.exp(0.05), abs=1e-3)


def test_a_wrong_way_back_is_told(run_of, columns):
    findings = found(run_of(flow(Wrong((3,), shift=1e-2)), columns(3), RNG.normal(size=(300, 3))))
    assert [name for name, f in findings.items() if not f.ok] == ["round trip"]
    trip = findings["round trip"]
    assert "not inverted" in trip.sentence
    assert trip.evidence["float64"]["samples_max"] == pytest.approx(1e-2, rel=0.1)


def test_a_solvers_tolerance_is_told_from_rounding(run_of, columns):
    run = run_of(flow(Wrong((3,), shift=1e-5)), columns(3), RNG.normal(size=(300, 3)))
    run.spec["settings"] = {"rtol": 1e-5, "atol": 1e-5}
    trip = found(run)["round trip"]
    assert trip.ok and trip.sentence.endswith(": the tolerance of a solver")
    assert trip.try_ == "rtol=1e-07 atol=1e-07"


@pytest.mark.parametrize("dims", [4, 60])
def test_stretching_is_the_largest_singular_value(run_of, columns, dims):
    """Found exactly in few dimensions and by power iteration in many; a gap between the values lets it converge."""
    u, v = (np.linalg.qr(RNG.normal(size=(dims, dims)))[0] for _ in range(2))
    sizes = np.concatenate([[7.0], np.linspace(1, 2, dims - 2), [0.25]])
    model = flow(Linear(u * sizes @ v, (dims,)), Scaling((dims,)))
    layers = found(run_of(model, columns(dims), RNG.normal(size=(40, dims))))["stretching"].evidence["layers"]
    assert [x["layer"] for x in layers] == ["Scaling", "Linear"]
    assert (layers[0]["to_base"], layers[0]["to_data"]) == pytest.approx((1, 1), rel=1e-6)
    assert (layers[1]["to_base"], layers[1]["to_data"]) == pytest.approx((4, 7), rel=1e-3)


def test_stretching_of_a_map_that_bends_is_that_of_its_jacobian(coupling_flow, run_of, columns):
    x = RNG.normal(size=(16, 3))
    model = coupling_flow(columns(3), layers=1, enlarge=3.0)
    evidence = found(run_of(model, columns(3), x))["stretching"].evidence["layers"][1]
    coupling = model.p["x"].module.transform.parts[0].double()
    rows = [torch.autograd.functional.jacobian(lambda r: coupling.inverse(r[None])[0], row) for row in torch.tensor(x)]
    sizes = np.stack([np.linalg.svd(j.numpy(), compute_uv=False) for j in rows])
    assert evidence["to_base"] == pytest.approx(sizes[:, 0].max(), rel=1e-5)
    assert evidence["to_data"] == pytest.approx(1 / sizes[:, -1].min(), rel=1e-5)


def test_enlarged_weights_are_told(coupling_flow, run_of, columns):
    run = run_of(coupling_flow(columns(5), layers=8, enlarge=5.0, bound=2.0), columns(5), RNG.normal(size=(200, 5)))
    run.spec["settings"] = {"bound": 2.0, "layers": 8}
    findings = found(run)
    assert not findings["stretching"].ok and findings["stretching"].evidence["largest"] > 1e3
    assert not findings["digits of the density"].ok
    assert findings["digits of the density"].try_.startswith("bound=1, layers=4")
    x, model = torch.from_numpy(RNG.normal(size=(4, 5))).float(), run.model
    with torch.no_grad():
        single = model.p["x"].module().log_prob(x)
    model.double()
    with torch.no_grad():
        assert (model.p["x"].module().log_prob(x.double()) - single).abs().mean() > 0.01


def test_samples_beyond_the_data_are_told(run_of, columns):
    """Data N(0, 1), samples N(0, 9) in one column of two: their share outside is the normal's beyond the extremes."""
    model = flow(Scaling((2,)))
    with torch.no_grad():
        model.p["x"].module.transform.parts[0].log_scale[1] = math.log(3)
    x = RNG.normal(size=(400, 2))
    finding = found(run_of(model, columns(2), x))["range of samples"]
    low, high = x[:, 1].min(), x[:, 1].max()
    truth = norm.cdf(low / 3) + norm.sf(high / 3)
    assert not finding.ok and "'c1'" in finding.sentence
    assert finding.evidence["outside"]["c1"] == pytest.approx(truth, abs=4 * math.sqrt(truth / 2000))


@pytest.mark.parametrize("model", ["maf", "spline"])
def test_a_column_that_never_varies_spoils_nothing(model):
    """Two columns N(0, 1) beside it score minus their entropy, 2.84 nats, and the third starts as N(7.3, 1)."""
    x = np.random.default_rng(1).normal(size=(400, 3)) * [1.0, 1.0, 0.0] + [0.0, 0.0, 7.3]
    with pytest.warns(DataWarning, match="column 'x2' holds one value"):
        run = train(model, x, epochs=3, seed=0, hidden=[16], layers=5)
    assert -5.0 < run.score().nats < 0.0
    finding = found(run)["range of samples"]
    assert list(finding.evidence["outside"]) == ["x0", "x1"] and finding.ok


def test_the_gap_to_training_data_is_measured(run_of, columns):
    """A density fitted to rows of unit scale, and test rows three times as wide: log p falls by 4 nats a column."""
    x = RNG.normal(size=(500, 2))
    finding = found(run_of(flow(Scaling((2,))), columns(2), 3 * x, train=x))["overfitting"]
    assert not finding.ok
    assert finding.evidence["difference"] == pytest.approx(8, abs=1.5)


def test_a_part_that_is_harder_is_not_taken_for_overfitting(run_of, columns):
    """Validation rows, which nobody learned from either, score as training rows do; and not where they do worse."""
    x = RNG.normal(size=(500, 2))
    for wide, fine in ((1, True), (3, False)):
        run = run_of(flow(Scaling((2,))), columns(2), 3 * x, train=x, valid=wide * RNG.normal(size=(500, 2)))
        finding = found(run)["overfitting"]
        assert finding.ok == fine
        assert ("a part that is harder" in finding.sentence) == fine
        assert finding.evidence["valid"] == pytest.approx(-math.log(2 * math.pi) - wide**2, abs=0.6 * wide**2)


def test_a_solver_that_stops_at_its_tolerance_is_no_fault():
    """Until that is a hundredth of a deviation."""
    x = 0.2 * RNG.normal(size=(300, 2)) + RNG.choice([-1, 1], (300, 1))
    run = train("flow-matching", x, epochs=60, hidden=[32])
    finding = found(run)["round trip"]
    assert finding.ok and finding.evidence["float64"]["data_max"] < 1e-2
    (flowing,) = (m for m in run.model.modules() if isinstance(m, Continuous))
    flowing.sampler = flowing.solver = Solver("euler", steps=1)
    assert not found(run)["round trip"].ok


def test_whole_numbers(coupling_flow, run_of):
    schema = Schema.of_pictures((1, 4, 4))
    x = RNG.integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    findings = found(run_of(coupling_flow(schema), schema, x))
    assert list(findings) == [*NAMES, "cost of the noise"]
    assert findings["round trip"].evidence["whole_numbers_lost"] == 0
    assert "pixels of samples" in findings["range of samples"].sentence
    assert findings["normalisation"].ok and "16" in findings["normalisation"].sentence


def test_counts_and_conditions(coupling_flow, run_of):
    """p(v | y) of two columns of counts integrates to one given a label."""
    x, y = RNG.poisson(9.0, size=(300, 2)).astype(float), np.arange(300) % 3
    schema = Schema.of_table(x, ["a", "b"], ["count"] * 2, classes=("u", "v", "w"), label="kind")
    model = coupling_flow(schema, conditional=True)
    model.initialize({"x": torch.from_numpy(x).float(), "y": torch.from_numpy(y)})
    findings = found(run_of(model, schema, x, y))
    assert findings["normalisation"].ok
    assert findings["normalisation"].evidence["integral"] == pytest.approx(1, abs=0.01)
    assert "given the conditions" in findings["normalisation"].sentence


def test_a_flow_as_prior_is_looked_at_beside_the_posterior(run_of, columns):
    vae = build("vae", columns(5), {"latents": 2, "encoder.hidden": [8], "decoder.hidden": [8]}).eval()
    p = Joint({"z": Flow(Normal((2,)), Scaling((2,))), "x | z": vae.p["x"].module})
    findings = found(run_of(Model(p, vae.q, vae.objective).eval(), columns(5), RNG.normal(size=(40, 5))))
    assert {"posterior collapse", "inference gap", "round trip of p(z)", "stretching of p(z)"} <= set(findings)
    assert findings["posterior collapse"].evidence["kl_per_dimension"] == []  # unknown by dimension
    assert "range of samples" not in findings


@pytest.mark.parametrize("dims", [1, 2])
def test_quadrature_of_a_narrow_mixture(dims):
    """Two normals of scales 0.01 and 1: the mass in a box, against their distribution functions."""
    scales = torch.tensor([0.01, 1.0], dtype=torch.float64)

    def log_p(x: Tensor) -> Tensor:
        terms = torch.distributions.Normal(0.0, scales[:, None, None]).log_prob(x).sum(-1)
        return terms.logsumexp(0) - math.log(2)

    low, high = torch.full((dims,), -1.0, dtype=torch.float64), torch.full((dims,), 2.0, dtype=torch.float64)
    draws = torch.randn(4000, dims, dtype=torch.float64) * scales[torch.randint(2, (4000, 1))]
    integral, error = _quadrature(log_p, low, high, draws, 250_000)
    truth = 0.0
    for scale in scales.tolist():
        one = norm.cdf(2 / scale) - norm.cdf(-1 / scale)
        truth += 0.5 * one**dims
    assert truth == pytest.approx(integral, abs=1e-4)
    assert error < 1e-2


@pytest.mark.parametrize("budget", [6_000, 12_000, 40_000])
def test_the_error_of_a_quadrature_cut_short_is_what_may_be_missed(budget):
    """All of the mass in the cells that were not split, and not one for each of them."""
    p = torch.distributions.Normal(torch.tensor([0.3, -0.2]).double(), 0.3)
    low, high = torch.full((2,), -3.0).double(), torch.full((2,), 3.0).double()
    integral, error = _quadrature(lambda x: p.log_prob(x).sum(-1), low, high, p.sample((20_000,)), budget)
    assert abs(integral - 1.0) <= error + 1e-6 and error <= 1.2


def test_quadrature_of_a_correlated_normal():
    covariance = np.array([[1.0, 0.95], [0.95, 1.0]])
    p = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.from_numpy(covariance))
    low, high = torch.tensor([-2.0, -1.0]).double(), torch.tensor([1.0, 3.0]).double()
    cdf = multivariate_normal(np.zeros(2), covariance).cdf
    truth = cdf([1, 3]) - cdf([-2, 3]) - cdf([1, -1]) + cdf([-2, -1])
    assert _quadrature(p.log_prob, low, high, p.sample((2000,)), 250_000)[0] == pytest.approx(truth, abs=1e-4)
