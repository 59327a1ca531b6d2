"""Scores of flows: float64 where float32 loses digits, and bits where the truth is known."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Uniform

from jensen.conditionals.dequantization import Floor, UniformDequantizer
from jensen.conditionals.flows import Flow
from jensen.conditionals.heads import Support
from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model
from jensen.data import Schema
from jensen.errors import PrecisionWarning
from jensen.jobs.precision import doubled
from jensen.transforms import Affine

ROWS = np.random.default_rng(0).normal(size=(120, 5))


def test_float32_is_kept_where_it_is_good(coupling_flow, run_of, columns):
    score = run_of(coupling_flow(columns(5)), columns(5), ROWS).score(keep=False)
    assert (score.precision, score.float64_rows) == ("float32", 0)
    assert 0 < score.float32_error < 1e-4


def test_float64_takes_over_where_float32_loses_digits(coupling_flow, run_of, columns):
    """With weights five times as large float32 is wrong by a tenth of a nat; the score is that of float64."""
    model = coupling_flow(columns(5), layers=8, enlarge=5.0)
    with pytest.warns(PrecisionWarning, match="float32 was off by") as caught:
        score = run_of(model, columns(5), ROWS).score(keep=False)
    assert len(caught) == 1
    x = torch.from_numpy(ROWS).float()
    with torch.no_grad():
        truth = doubled(model).p["x"].module().log_prob(x.double())
        wrong = (model.p["x"].module().log_prob(x).double() - truth).abs().mean().item()
    assert score.precision == "float64"
    np.testing.assert_allclose(score.rows.numpy(), truth.numpy(), rtol=1e-12)
    assert score.float32_error == pytest.approx(wrong, rel=1) and wrong > 0.01
    assert json.loads(json.dumps(score.to_dict()))["precision"] == "float64"
    assert not torch.equal(score.rows, score.rows.float().double())


def test_a_model_in_float64_is_scored_as_it_is(coupling_flow, run_of, columns):
    model = coupling_flow(columns(5), layers=8, enlarge=5.0).double()
    score = run_of(model, columns(5), ROWS).score(keep=False)
    assert (score.precision, score.float32_error) == ("float64", None)


def test_whole_numbers_keep_their_noise_in_float64(coupling_flow, run_of):
    """The same draws, so that both precisions score the same v."""
    schema = Schema.of_pictures((1, 4, 4))
    x = np.random.default_rng(1).integers(0, 256, (30, 1, 4, 4), dtype=np.uint8)
    model = coupling_flow(schema, layers=8, enlarge=10.0)
    single = run_of(model, schema, x)
    double = run_of(doubled(model), schema, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        found = single.score(keep=False)
    truth = double.score(keep=False)
    assert found.precision == "float64"
    np.testing.assert_array_equal(found.rows.numpy(), truth.rows.numpy())


def stretched(scale: float) -> Model:
    return Model(Joint({"x": Flow(Normal((2,)), Affine((2,), 0.0, scale))})).eval()


def test_rows_that_are_not_finite_are_computed_again(run_of, columns):
    """z = x / 1e-19 squares to more than float32 holds, unless x is near 0."""
    x = np.array([[0.0, 1e-19], [1.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    scale = float(np.float32(1e-19))
    with pytest.warns(PrecisionWarning, match="no finite number for 2 data"):
        score = run_of(stretched(1e-19), columns(2), x).score(keep=False)
    z = x.astype(np.float32).astype(float) / scale
    truth = -0.5 * (z**2).sum(1) - math.log(2 * math.pi) - 2 * math.log(scale)
    np.testing.assert_allclose(score.rows.numpy(), truth, rtol=1e-6)
    assert (score.precision, score.float64_rows) == ("float32", 2)


def test_what_is_impossible_stays_so(run_of, columns):
    """Outside the support the density is 0 in any precision, and nothing is said of precision."""

    class Square(nn.Module):
        def forward(self):
            return Independent(Uniform(torch.zeros(2), torch.ones(2), validate_args=False), 1, validate_args=False)

    model = Model(Joint({"x": Flow(Square(), Affine((2,)))}))
    score = run_of(model, columns(2), np.array([[0.5, 0.5], [2.0, 0.5]])).score(keep=False)
    assert score.rows.tolist() == [0.0, -math.inf]
    assert score.float64_rows == 0


@pytest.mark.parametrize("estimator", ["elbo", "iw"])
def test_uniform_bytes_take_eight_bits(run_of, estimator):
    """p(v) = 1/256 on [0, 256): every byte has probability 1/256."""

    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("zero", torch.zeros(3, 2, 2))

        def forward(self):
            return Independent(Uniform(self.zero, 1 + self.zero, validate_args=False), 3, validate_args=False)

    schema = Schema.of_pictures((3, 2, 2))
    p = Joint({"v": Flow(Unit(), Affine((3, 2, 2), 0.0, 256.0)), "x | v": Floor(Support.of(schema))})
    model = Model(p, Joint({"v | x": UniformDequantizer(Support.of(schema))}))
    x = np.random.default_rng(0).integers(0, 256, (50, 3, 2, 2), dtype=np.uint8)
    x[0], x[1] = 0, 255
    for precise, tolerance in ((model, 1e-7), (doubled(model), 1e-12)):
        score = run_of(precise, schema, x).score(estimator=estimator, particles=3, keep=False)
        assert score.kind == "lower_bound"
        assert score.bits_per_dim == pytest.approx(8, abs=tolerance)


def test_whole_numbers_are_scored_with_a_draw_of_the_noise(coupling_flow, run_of):
    schema = Schema.of_pictures((1, 4, 4))
    run = run_of(coupling_flow(schema), schema, np.zeros((5, 1, 4, 4), np.uint8))
    score = run.score(keep=False)
    assert (score.estimator, score.particles, score.kind) == ("elbo", 1, "lower_bound")
