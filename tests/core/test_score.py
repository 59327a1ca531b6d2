"""A score says what it is; scores on different data do not compare."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from jensen.core import Score, difference, mean_and_stderr
from jensen.errors import ConfigError


def score(rows: torch.Tensor | None = None, **changes) -> Score:
    rows = torch.randn(50, dtype=torch.float64) - 90 if rows is None else rows
    nats, stderr = mean_and_stderr(rows)
    made = Score(
        nats=nats,
        stderr=stderr,
        stderr_mc=0.01,
        kind="lower_bound",
        estimator="iw",
        particles=500,
        n=len(rows),
        dims=784,
        measure="counting",
        data="mnist",
        split="test",
        split_sha256="ab",
        binarization="static",
        rows=rows,
    )
    return dataclasses.replace(made, **changes)


class TestMean:
    def test_equals_numpy(self):
        rows = torch.randn(37)
        mean, stderr = mean_and_stderr(rows)
        assert mean == pytest.approx(rows.double().mean().item(), rel=1e-12)
        assert stderr == pytest.approx(np.std(rows.double().numpy(), ddof=1) / math.sqrt(37), rel=1e-12)

    def test_weights_that_are_equal_change_nothing(self):
        rows = torch.randn(37)
        assert mean_and_stderr(rows, torch.full((37,), 3.0)) == pytest.approx(mean_and_stderr(rows), rel=1e-12)

    def test_rows_without_weight_do_not_move_the_mean(self):
        rows, weights = torch.tensor([1.0, 5.0, 1e9]), torch.tensor([3.0, 1.0, 0.0])
        assert mean_and_stderr(rows, weights)[0] == 2.0

    def test_its_standard_error_is_that_of_repeated_draws(self):
        """The weighted mean of rows with unit variance has variance Σ w² / (Σ w)²."""
        weights = torch.rand(400, dtype=torch.float64) + 0.1
        found = [mean_and_stderr(torch.randn(400), weights)[1] for _ in range(50)]
        truth = (weights.square().sum().sqrt() / weights.sum()).item()
        assert np.mean(found) == pytest.approx(truth, rel=0.02)

    def test_one_datum_has_no_standard_error(self):
        mean, stderr = mean_and_stderr(torch.tensor([2.0]))
        assert mean == 2.0
        assert math.isnan(stderr)


class TestScore:
    def test_bits_per_dim_of_pictures(self):
        assert score(nats=-88.0).bits_per_dim == pytest.approx(88 / 784 / math.log(2))

    @pytest.mark.parametrize("measure", ["lebesgue", "mixed"])
    def test_a_density_has_no_bits(self, measure):
        made = score(measure=measure)
        assert made.bits_per_dim is None
        assert made.to_dict()["bits_per_dim"] is None
        assert "bits" not in str(made)

    def test_is_plain_json_without_rows(self):
        made = json.loads(json.dumps(score(stderr_mc=math.nan).to_dict(), allow_nan=False))
        assert made["stderr_mc"] is None
        assert "rows" not in made
        wanted = {"nats", "stderr", "bits_per_dim", "kind", "estimator", "particles", "n", "data", "split"}
        assert wanted | {"split_sha256", "binarization"} <= set(made)

    @pytest.mark.parametrize(("kind", "sign"), [("exact", "="), ("lower_bound", "≥"), ("estimate", "≈")])
    def test_says_what_it_is(self, kind, sign):
        text = str(score(kind=kind))
        assert f"log p(x) {sign} -" in text
        assert kind.replace("_", " ") in text
        assert "500 particles" in text

    def test_one_datum_is_told_without_a_standard_error(self):
        one = {"kind": "exact", "estimator": "exact", "particles": 1, "measure": "lebesgue"}
        text = str(score(nats=-3.0, stderr=math.nan, n=1, split="all", data="one.csv", **one))
        assert text == "log p(x) = -3.00 nats, exact, 1 datum of one.csv"


class TestDifference:
    def test_is_paired(self):
        a = torch.randn(60, dtype=torch.float64) * 10
        b = a + 0.1 * torch.randn(60, dtype=torch.float64) - 0.05
        found = difference(score(a), score(b))
        truth = ttest_rel(a, b)
        assert found.nats == pytest.approx((a - b).mean().item())
        assert found.standard_errors == pytest.approx(truth.statistic)
        assert found.same_kind

    def test_kinds_are_told_apart(self):
        a, b = score(), score(kind="exact", estimator="exact")
        assert not difference(a, b).same_kind

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("split_sha256", "cd"),
            ("binarization", "dynamic"),
            ("measure", "lebesgue"),
            ("units", "prepared"),
            ("subset", "10 of 100 at random, seed 0"),
            ("n", 49),
        ],
    )
    def test_other_data_are_refused(self, name, value):
        with pytest.raises(ConfigError, match=f"{name} differs: .*only on the same data"):
            difference(score(), score(**{name: value}))

    def test_all_that_differs_is_listed(self):
        with pytest.raises(ConfigError) as caught:
            difference(score(), score(measure="lebesgue", binarization="none"))
        assert len(caught.value.problems) == 2

    def test_rows_are_needed(self):
        with pytest.raises(ConfigError, match="without rows"):
            difference(score(), dataclasses.replace(score(), rows=None))

    def test_no_spread(self):
        rows = torch.zeros(5)
        assert difference(score(rows + 1), score(rows)).standard_errors == math.inf


@pytest.mark.parametrize(
    ("particles", "size", "leans"), [(500, 2.0, True), (500, 5.0, False), (1, 1.0, False), (16, None, False)]
)
def test_says_when_few_particles_carry_it(particles, size, leans):
    assert score(particles=particles, effective_sample_size=size).leans_on_few is leans
