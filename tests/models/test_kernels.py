"""Kernel conditional densities: against sums written out row by row, and tables whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import jensen
from jensen.cli.training import summarize
from jensen.conditionals.kernels import AGREE, STRETCH, Kernels
from jensen.core import seeded
from jensen.errors import ConfigError

RNG = np.random.default_rng(4)
ROWS = np.array([[0.0, 1.0, np.nan], [0.3, np.nan, -1.0], [0.3, 1.2, 0.4], [0.3, 1.2, 0.4], [np.nan, -0.7, 2.0]])


def kernels(rows: np.ndarray = ROWS, room: int = 8) -> Kernels:
    """With scales at random, in float64."""
    with seeded(1):
        dims = rows.shape[1]
        found = Kernels(dims, room, torch.stack([torch.randperm(dims) for _ in range(2)]), gaps=True).double().eval()
        for parameter in found.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    found.initialize_from({"x": torch.from_numpy(rows)})
    return found


def by_hand(p: Kernels, x: np.ndarray, known: np.ndarray, d: int, rows: np.ndarray) -> float:
    """log p(x_d | x_known) as the module's docstring has it, with loops."""
    b, a, *agree = (w.detach().numpy() for w in p._weights.unbind(1))
    (wide, narrow), share = p.scales.detach().numpy()[:, d], float(torch.sigmoid(STRETCH * p.narrow.detach()[d]))
    logs = [float(STRETCH * p.base.detach()[d])]
    terms = [logs[0] + norm.logpdf(x[d], np.nanmean(rows[:, d]), np.nanstd(rows[:, d]))]
    for row in rows:
        if np.isnan(row[d]):
            continue
        log_w = 0.0
        for k in np.flatnonzero(known & ~np.isnan(row)):
            square = (x[k] - row[k]) ** 2
            log_w += b[d, k] - 0.5 * a[d, k] * square
            log_w += sum(c[d, k] * math.exp(-0.5 * square / h**2) for c, h in zip(agree, AGREE, strict=True))
        kernel = (1 - share) * norm.pdf(x[d], row[d], wide) + share * norm.pdf(x[d], row[d], narrow)
        logs.append(log_w)
        terms.append(log_w + math.log(kernel))
    return float(logsumexp(terms) - logsumexp(logs))


@pytest.mark.parametrize("known", [[], [0], [2], [0, 1], [0, 2], [1, 2]])
def test_conditionals_are_the_sums_written_out(known):
    p, x = kernels(), np.array([0.31, 0.9, -0.2])
    mask = np.isin(np.arange(3), known)
    row = torch.from_numpy(x)[None]
    terms = p.given(row, torch.from_numpy(mask)[None]).log_prob_terms(row)[0].detach().numpy()
    for d in set(range(3)) - set(known):
        assert terms[d] == pytest.approx(by_hand(p, x, mask, d, ROWS), abs=1e-10)


@pytest.mark.parametrize("i", range(len(ROWS)))
def test_a_row_is_learned_from_all_others_and_its_twin(i):
    p, seen = kernels(), ~np.isnan(ROWS[i])
    known = seen & (np.arange(3) == np.flatnonzero(seen)[0])
    x = np.nan_to_num(ROWS[i])
    terms = p.learning_terms(*(torch.tensor(v)[None] for v in (x, known, seen)))[0].detach().numpy()
    others = ROWS.copy()
    others[i] = np.nan  # takes no part, neither near nor far; but the moments are those of all rows
    for d in range(3):
        wanted = _with_moments_of_all(kernels(), x, known, d, others) if seen[d] and not known[d] else 0.0
        assert terms[d] == pytest.approx(wanted, abs=1e-10)


def _with_moments_of_all(p: Kernels, x: np.ndarray, known: np.ndarray, d: int, rows: np.ndarray) -> float:
    """`by_hand` of the others, by a module that keeps them alone and has the mean and deviation of all."""
    fewer = kernels(rows)
    fewer.loc.copy_(p.loc)
    fewer.scale.copy_(p.scale)
    xs = torch.tensor(x)[None]
    return float(fewer.given(xs, torch.tensor(known)[None]).log_prob_terms(xs).detach()[0, d])


def test_of_two_columns_the_density_integrates_to_one():
    p = kernels(ROWS[:, 1:])()
    grid = torch.linspace(-6, 7, 1301, dtype=torch.float64)
    with torch.no_grad():
        total = p.log_prob(torch.cartesian_prod(grid, grid)).exp().view(len(grid), -1)
    assert float(torch.trapezoid(torch.trapezoid(total, grid), grid)) == pytest.approx(1, abs=1e-4)
    first = p.log_marginal(torch.stack([grid, grid * math.nan], 1), torch.tensor([True, False])).exp()
    assert float(torch.trapezoid(first.detach(), grid)) == pytest.approx(1, abs=1e-6)


def test_what_is_not_seen_is_never_looked_at():
    p, x = kernels()(), torch.tensor([[0.3, 1.2, 5.0], [0.3, 1.2, math.nan]], dtype=torch.float64)
    a, b = p.log_marginal(x, torch.tensor([True, True, False])).tolist()
    assert a == b


def correlated(n: int, seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).multivariate_normal([0, 0, 0], COVARIANCE, n)


COVARIANCE = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])


def test_it_comes_near_the_truth_and_sees_which_columns_matter():
    x = correlated(1500)
    run = jensen.train("kernels", x, epochs=20, settings={"orderings": 2})
    fresh = correlated(1000, seed=5)
    found, truth = run.score(fresh), multivariate_normal([0, 0, 0], COVARIANCE).logpdf(fresh).mean()
    assert found.kind == "exact"
    assert truth - 0.15 < found.nats < truth + 2 * found.stderr
    near = torch.stack([w.detach() for w in run.model.p["x"].module._weights.unbind(1)])[1]  # a, (D, D)
    assert float(near[0, 1]) > 5 * float(near[0, 2])  # of x₀ the second column tells, the third does not


def test_values_that_come_again_are_found_again():
    """Rows of a few recipes, each several times, with half of the cells missing: kin rows tell what is missing."""
    rng = np.random.default_rng(6)
    recipes = rng.normal(size=(60, 8))
    table = pandas.DataFrame(recipes[rng.integers(60, size=600)], columns=[*"abcdefgh"])
    holes = table.mask(rng.random(table.shape) < 0.4)
    run = jensen.train("kernels", {"train": holes}, epochs=60)
    found = run.impute(holes)
    error = np.square(found.completed() - table).to_numpy()[holes.isna()]
    assert error.mean() < 0.1  # 1 is the error of the columns' means
    assert np.median(error) < 1e-3
    assert np.isinf(found.effective_sample_size).all()


def test_of_rows_of_a_weight_each_counts_as_often():
    rows, weight = ROWS[[0, 1, 4]], np.array([1.0, 3.0, 2.0])
    some, often = kernels(rows), kernels(np.repeat(rows, weight.astype(int), 0))
    some.initialize_from({"x": torch.from_numpy(rows), "weight": torch.from_numpy(weight)})
    often.base.data += math.log(2) / STRETCH  # beside twice as many rows
    x, known = torch.tensor([[0.2, 0.9, -0.2]] * 2).double(), torch.tensor([[True, False, False], [False] * 3])
    one, other = (p.given(x, known).log_prob_terms(x).detach() for p in (some, often))
    torch.testing.assert_close(one, other)


def test_of_more_rows_than_are_kept_weights_are_kept_on_average():
    x, weight = torch.arange(100.0)[:, None].double(), torch.linspace(0.1, 20.0, 100).double()
    p, means = kernels(np.zeros((3, 1)), 30), []
    with seeded(0):
        for _ in range(400):
            p.initialize_from({"x": x, "weight": weight})
            means.append(float(p.log_weight.softmax(0) @ p.values[:, 0]))
    truth = float(weight @ x[:, 0] / weight.sum())
    assert np.mean(means) == pytest.approx(truth, abs=4 * np.std(means) / 20 + 0.2)  # a ratio is biased a little
    assert int(p.count) == 30


def test_a_column_that_hardly_varies_in_the_rows_kept_has_no_peak_without_bound():
    x = np.random.default_rng(4).normal(size=(1000, 2))
    x[:, 1] = 5.0
    x[0, 1] = 9.0
    run = jensen.train("kernels", x, epochs=1, settings={"rows": 50}, seed=1)
    p = run.model.p["x"].module
    assert p.scale[1] >= p.min_scale
    assert p.values[:, 1].std() < 1e-3  # the row that differs is not among them


def test_training_rows_alone_do_not_choose_what_is_learned_by_heart():
    """What is kept is the best of rows told by others: on average what new rows score."""
    x = correlated(150)
    run = jensen.train("kernels", x, fractions=(1.0, 0.0, 0.0), epochs=15, lr=3e-3)
    kept = [line for line in run.log if line["best"]][-1]
    units = math.log(np.prod([field.scale for field in run.schema.fields]))
    assert kept["epoch"] > 5
    assert summarize(run, "")["valid"]["kind"] == "estimate"
    by_itself = run.score(x)
    assert kept["valid"]["log_likelihood"] - units < by_itself.nats - 2 * by_itself.stderr
    assert kept["valid"]["log_likelihood"] - units == pytest.approx(run.score(correlated(200, seed=5)).nats, abs=0.4)


def test_the_doctor_does_not_take_rows_that_find_themselves_for_overfitting():
    run = jensen.train("kernels", {"train": correlated(400), "test": correlated(200, seed=5)}, epochs=5)
    assert run.score(split="train").nats > run.score(split="test").nats + 0.5
    found = {finding.name: finding for finding in run.diagnose().findings}["overfitting"]
    assert abs(found.evidence["difference"]) < 4 * found.evidence["stderr"]


def test_saved_and_opened_it_scores_the_same(tmp_path):
    x = correlated(100)
    run = jensen.train("kernels", x, epochs=2, out=tmp_path / "r", settings={"rows": 30})
    assert int(run.model.p["x"].module.count) == 30
    assert jensen.open(tmp_path / "r").score(x).nats == run.score(x).nats


def test_what_it_is_not_for_is_refused():
    mixed = pandas.DataFrame({"a": RNG.normal(size=50), "b": ["x", "y"] * 25})
    with pytest.raises(ConfigError, match="columns of one kind"):
        jensen.train("kernels", mixed, epochs=1)
    with pytest.raises(ConfigError, match="tables of real numbers only, got binary"):
        jensen.train("kernels", pandas.DataFrame(RNG.integers(0, 2, (50, 3)), columns=[*"abc"]), epochs=1)


def test_a_report_says_that_validation_is_an_estimate(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 3))
    run = jensen.train("kernels", x, epochs=2, out=tmp_path / "run")
    run.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "log p(x), an estimate" in page and "log p(x), exact" not in page
