"""Models of whole rows trained on rows with gaps: against marginals and conditionals of a Gaussian in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import jensen
from jensen.conditionals.completion import Completed
from jensen.distributions import DiagonalNormal
from jensen.errors import ConfigError

DIMS, SCALE = 4, np.array([1.0, 10.0, 0.1, 3.0])
RNG = np.random.default_rng(0)
A = RNG.normal(size=(DIMS, DIMS))
COVARIANCE = (A @ A.T / DIMS + 0.2 * np.eye(DIMS)) * SCALE * SCALE[:, None]
WHOLE = RNG.multivariate_normal(np.zeros(DIMS), COVARIANCE, size=3000)
HOLES = np.where(RNG.random(WHOLE.shape) < 0.3, np.nan, WHOLE)


def exact(row: np.ndarray) -> tuple[float, np.ndarray]:
    """log p of what is there, and the row with E[rest | what is there]."""
    seen, full = ~np.isnan(row), row.copy()
    if not seen.any():
        return 0.0, np.zeros(DIMS)
    among = COVARIANCE[np.ix_(seen, seen)]
    full[~seen] = COVARIANCE[np.ix_(~seen, seen)] @ np.linalg.solve(among, row[seen])
    return float(multivariate_normal(np.zeros(seen.sum()), among).logpdf(row[seen])), full


@pytest.mark.parametrize("name", ["realnvp", "made", "vae", "nade"])
def test_scores_and_fillings_come_near_the_truth(name):
    """In the user's units: a row's score takes the scales of the cells that are there, and of no others."""
    settings = {
        "realnvp": {"layers": 4}, "made": {"hidden": [64]}, "vae": {"latents": 4, "objective": "iw"}, "nade": {},
    }[name]  # fmt: skip
    run = jensen.train(name, HOLES[:2500], epochs=12, **settings)
    test = HOLES[2500:]
    truth = [exact(row) for row in test]
    scored = run.score(test) if name == "nade" else run.score(test, estimator="iw", particles=100)
    assert scored.kind == ("exact" if name == "nade" else "lower_bound")
    gap = np.array([t[0] for t in truth]) - torch.as_tensor(scored.rows).numpy()
    assert abs(gap.mean()) < 0.25  # nats, of a model that learned from 2,000 rows
    filled = run.impute(test, particles=200).mean
    missing = np.isnan(test)
    error = (((filled - WHOLE[2500:]) / SCALE)[missing] ** 2).mean()
    best = (((np.array([t[1] for t in truth]) - WHOLE[2500:]) / SCALE)[missing] ** 2).mean()
    assert error < 1.15 * best
    assert (filled[~missing] == test[~missing]).all()


def test_an_empty_row_has_no_density_to_add():
    run = jensen.train("realnvp", HOLES[:300], epochs=1)
    empty = np.full((1, DIMS), np.nan)
    # log p(w) - log q(w) of rows that are wholly drawn: its mean weight is 1.
    assert run.score(empty, estimator="iw", particles=4000).nats == pytest.approx(0, abs=0.15)


def test_a_completed_row_keeps_what_was_seen():
    x, seen = torch.randn(6, 3), torch.rand(6, 3) < 0.5
    rest = DiagonalNormal(torch.randn(6, 3), torch.rand(6, 3) + 0.5)
    p = Completed(rest, x, seen)
    drawn, log_p = p.rsample_and_log_prob()
    assert (drawn[seen] == x[seen]).all()
    torch.testing.assert_close(log_p, (rest.log_prob_terms(drawn) * ~seen).sum(-1))


def test_what_takes_no_gaps_says_so():
    with pytest.raises(ConfigError, match=r"takes no empty cells .*'x0', 'x1'.* vae"):
        jensen.train("ppca", HOLES[:100], epochs=1)
    counts = np.where(np.isnan(HOLES[:100]), np.nan, np.abs(np.rint(HOLES[:100])))
    with pytest.raises(ConfigError, match="gaps of real columns only"):
        jensen.train("realnvp", counts, kinds={f"x{j}": "count" for j in range(DIMS)}, epochs=1)
