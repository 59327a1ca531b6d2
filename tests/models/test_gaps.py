"""Models of whole rows trained on rows with gaps: against marginals and conditionals of a Gaussian in closed form."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
import torch
from scipy.stats import multivariate_normal

import jensen
from jensen.conditionals.completion import Completed
from jensen.distributions import DiagonalNormal
from jensen.errors import CapabilityError, ConfigError

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


@pytest.fixture
def mixed() -> pandas.DataFrame:
    random = np.random.default_rng(0)
    table = pandas.DataFrame({"word": random.choice(["a", "b", "c"], 120), "size": random.normal(size=120)})
    table.loc[random.random(120) < 0.2, "word"] = None
    table.loc[random.random(120) < 0.2, "size"] = np.nan
    return table


@pytest.mark.parametrize(("name", "prior"), [("vae", "vamp"), ("vae", "aggregated"), ("not-miwae", "vamp")])
def test_a_prior_made_of_posteriors_of_rows_with_gaps(name, prior, tmp_path):
    """Pseudo-rows have the gaps of rows of the data; saved and opened, the prior is the same."""
    run = jensen.train(name, HOLES[:200], epochs=2, out=tmp_path / "run", settings={"latents": 2, "prior": prior})
    p_z = run.model.p["z"].module
    assert not p_z.given_seen.all() and p_z.given_seen.any()
    z = torch.randn(5, 2)
    each = [
        run.model.q["z"].module(u[None], seen[None]).log_prob(z)
        for u, seen in zip(p_z.pseudo_inputs, p_z.given_seen, strict=True)
    ]
    torch.testing.assert_close(p_z().log_prob(z), torch.stack(each).logsumexp(0) - math.log(len(each)))
    again = jensen.open(tmp_path / "run")
    assert torch.equal(again.model.p["z"].module().log_prob(z), p_z().log_prob(z))
    assert run.score(HOLES[:50], particles=20).nats == again.score(HOLES[:50], particles=20).nats


def test_mixed_rows_make_a_prior_and_are_not_learned(mixed):
    """A code between two categories is none; rows as they are serve."""
    run = jensen.train("vae", mixed, epochs=2, settings={"latents": 2, "prior": "aggregated", "prior.components": 20})
    assert np.isfinite(run.score(mixed, particles=20).nats)
    with pytest.raises(ConfigError, match="rows of mixed columns cannot be learned as pseudo-inputs"):
        jensen.train("vae", mixed, epochs=1, settings={"prior": "vamp"})


def test_what_takes_no_gaps_says_so():
    with pytest.raises(ConfigError, match=r"takes no empty cells .*'x0', 'x1'.* vae"):
        jensen.train("ppca", HOLES[:100], epochs=1)
    counts = np.where(np.isnan(HOLES[:100]), np.nan, np.abs(np.rint(HOLES[:100])))
    with pytest.raises(ConfigError, match="gaps of real columns only"):
        jensen.train("realnvp", counts, kinds={f"x{j}": "count" for j in range(DIMS)}, epochs=1)


COUNTS = jensen.load_data(RNG.poisson(3.0, (200, 3)), kinds={f"x{j}": "count" for j in range(3)})


@pytest.mark.parametrize("estimator", ["prior", "ais"])
@pytest.mark.parametrize(
    ("name", "data", "settings"),
    [("maf", HOLES[:200], {}), ("maf", COUNTS, {"hidden": [8]}), ("not-miwae", HOLES[:200], {})],
    ids=["gaps of a flow", "counts of a flow", "gaps of not-MIWAE"],
)
def test_draws_of_p_are_not_asked_to_meet_the_datum(name, data, settings, estimator):
    """Of the datum with noise, or with its gaps filled, hardly a draw from p is this datum."""
    run = jensen.train(name, data, epochs=1, settings=settings)
    with pytest.raises(
        CapabilityError,
        match=f"{estimator} draws . from p, and that is x itself.*use --estimator iw",
    ):
        run.score(data, estimator=estimator, particles=4, limit=5)
    assert np.isfinite(run.score(data, estimator="iw", particles=4, limit=5).nats)


def test_what_is_hidden_behind_gaps_may_be_drawn_from_p():
    run = jensen.train("vae", HOLES[:500], epochs=3, settings={"latents": 2})
    by_prior = run.score(HOLES[500:540], estimator="prior", particles=20_000)
    by_weights = run.score(HOLES[500:540], estimator="iw", particles=20_000)
    assert by_prior.nats == pytest.approx(by_weights.nats, abs=0.1)
