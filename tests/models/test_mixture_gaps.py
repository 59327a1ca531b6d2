"""Mixtures of rows with gaps against scipy, numpy, enumeration and the plain EM."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor
from torch.distributions import MultivariateNormal

from jensen.core import EXACT, Model
from jensen.data import Dataset, Split, load_data
from jensen.errors import ConfigError
from jensen.jobs.run import Run, open_run
from jensen.jobs.train import train
from jensen.models.mixture import parts_of
from jensen.registry import build
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer

COVARIANCES = ("full", "tied", "diagonal", "spherical")
FAMILIES = ("gaussian", "student-t")


PRIOR = {"components": 2, "prior_data": "auto", "prior_variance": "learned"}


def table(rows: int = 200, dims: int = 4, share: float = 0.3, seed: int = 0) -> np.ndarray:
    """Correlated clusters, some cells of which are missing, and a row of which all are."""
    rng = np.random.default_rng(seed)
    x = 2 * rng.normal(size=(2, dims))[rng.integers(0, 2, rows)]
    x = x + rng.normal(size=(rows, dims)) @ rng.normal(size=(dims, dims))
    x = np.where(rng.random(x.shape) < share, np.nan, x)
    x[0] = np.nan
    return x


def dataset(x: np.ndarray, kind: str = "real") -> Dataset:
    frame = pandas.DataFrame(x, columns=[f"c{i}" for i in range(x.shape[1])])
    return load_data(frame, fractions=(1.0, 0.0, 0.0), kinds=dict.fromkeys(frame, kind))


def fitted(x: np.ndarray, kind: str = "real", **settings: Any) -> Run:
    return train("mixture", dataset(x, kind), keep="last", **{"components": 2, "epochs": 10, **settings})


def climbed(model: Model, data: Dataset, passes: int) -> list[float]:
    """EM from where the model stands; the mean log-likelihood before each pass, in prepared units."""
    model.objective = dataclasses.replace(model.objective, stages=model.objective.stages[1:])
    settings = training_settings({"epochs": passes, "keep": "last", "batch_size": 64})
    log = Trainer(model, data.split("train").to(data.schema), None, settings).run()
    return [line["train"]["log_likelihood"] for line in log]


def both_of(model: Model) -> tuple[Any, Any]:
    """π and the components."""
    return parts_of(model)


def density_of(run: Run) -> Any:
    """p(x), z summed out."""
    posterior: Any = run.model.q["z"].module
    return posterior.summed_out()


def prepared(run: Run) -> tuple[Tensor, Tensor]:
    """The training rows and what of them is there."""
    split = run.data().split("train").to(run.schema)
    assert split.seen is not None
    return split.x.double(), split.seen


def by_hand(model: Model, x: Tensor, seen: Tensor) -> Any:
    """log π_k p_k(x_o), (N, K), by scipy."""
    pi, parts = both_of(model)
    mu, sigma = parts.means.detach().numpy(), parts.covariances.detach().numpy()
    log_pi, out = pi.log_weights.detach().numpy(), []
    for row, o in zip(x.numpy(), seen.numpy(), strict=True):
        own = [0.0] * len(mu)
        for k in range(len(mu) if o.any() else 0):
            here = mu[k][o], sigma[k][np.ix_(o, o)]
            p = (
                stats.multivariate_t(*here, df=parts.df[k].item())
                if parts.student
                else stats.multivariate_normal(*here)
            )
            own[k] = p.logpdf(row[o])
        out.append(log_pi + own)
    return np.array(out)


# Scores


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_scipys_marginals_mixed(family, covariance):
    run = fitted(table(80), family=family, covariance=covariance)
    x, seen = prepared(run)
    hand: Any = logsumexp(by_hand(run.model, x, seen), axis=1)
    score = run.score(split="train")
    assert score.kind == EXACT
    with torch.no_grad():
        found = run.model.evidence({"x": x, "seen": seen}, particles=3).log_w
        again = density_of(run).log_marginal(x, seen)
    np.testing.assert_allclose(found, np.broadcast_to(hand, (3, len(hand))), atol=1e-8)
    np.testing.assert_allclose(again, hand, atol=1e-8)
    assert score.rows is not None
    scales = np.log([field.scale for field in run.schema.fields])
    np.testing.assert_allclose(score.rows, hand - seen.numpy() @ scales, atol=1e-4)


@pytest.mark.parametrize("kind", ["binary", "count"])
def test_whole_numbers_score_as_their_elements(kind):
    """Of a part, the sum over all that the rest can be."""
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, (60, 3)).astype(float).clip(0, 1 if kind == "binary" else None)
    run = fitted(np.where(rng.random(x.shape) < 0.3, np.nan, x), kind)
    values = torch.arange(2.0 if kind == "binary" else 60.0).double()
    p = density_of(run)
    row = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        for seen in itertools.product([False, True], repeat=3):
            free = torch.cartesian_prod(*[row[d : d + 1] if o else values for d, o in enumerate(seen)])
            total = p.log_prob(free).logsumexp(0)
            assert p.log_marginal(row[None], torch.tensor([seen])).item() == pytest.approx(total.item(), abs=1e-9)


# EM


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_without_gaps_it_is_the_plain_one_pass_by_pass(family, covariance):
    x = np.nan_to_num(table(120, 3, 0.0))
    whole = dataset(x)
    gapped = dataclasses.replace(whole, schema=whole.schema.with_gaps())
    found = []
    for data in (whole, gapped):
        settings = {"components": 3, "family": family, "covariance": covariance, "prior_data": 2.0}
        model = build("mixture", data.schema, settings)
        _, parts = both_of(model)
        parts.loc.data.copy_(data.schema.prepare(x)[1:4])
        found.append((climbed(model, data, 6), parts.loc.detach(), parts.covariances.detach()))
    for plain, parted in zip(*found, strict=True):
        np.testing.assert_allclose(plain, parted, atol=1e-8)


@pytest.mark.parametrize("kind", ["binary", "count"])
def test_without_gaps_whole_numbers_are_the_plain_ones(kind):
    x = np.random.default_rng(0).integers(0, 2 if kind == "binary" else 6, (100, 3)).astype(float)
    whole = dataset(x, kind)
    found = []
    for data in (whole, dataclasses.replace(whole, schema=whole.schema.with_gaps())):
        model = build("mixture", data.schema, {"components": 2})
        both_of(model)[1].natural.data.copy_(torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.0, -0.2]]))
        found.append((climbed(model, data, 5), both_of(model)[1].natural.detach()))
    for plain, parted in zip(*found, strict=True):
        np.testing.assert_allclose(plain, parted, atol=1e-9)


@pytest.mark.parametrize("settings", [{"covariance": c, "family": f} for c in COVARIANCES for f in FAMILIES], ids=str)
def test_em_never_lowers_the_likelihood_of_what_is_there(settings):
    run = fitted(table(150, seed=3), epochs=20, **settings)
    steps = np.diff([line["train"]["log_likelihood"] for line in run.log if line["stage"] == "em"])
    assert (steps > -1e-9).all() and steps.sum() > 0


def of_what_is_there(run: Run) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Data and where they are seen, (N, D); μ and Σ of the one component, which take gradients; Σ log p, row by row."""
    x, seen = prepared(run)
    _, parts = both_of(run.model)
    mu = parts.means[0].detach().clone().requires_grad_()
    sigma = parts.covariances[0].detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row, o in zip(x, seen, strict=True):
        if o.any():
            p = torch.distributions.MultivariateNormal(mu[o], sigma[o][:, o], validate_args=False)
            total = total + p.log_prob(row[o])
    return x, seen, mu, sigma, total


def test_the_fixed_point_of_one_component_has_no_gradient():
    run = fitted(table(100, 3), components=1, epochs=600, min_scale=1e-6)
    x, _, mu, sigma, total = of_what_is_there(run)
    for gradient in torch.autograd.grad(total / len(x), [mu, sigma]):
        assert gradient.abs().max() < 1e-6


def test_the_prior_is_that_of_the_penalised_likelihood():
    """μ and Σ of one component: no gradient of log p + log of the prior."""
    run = fitted(table(60, 3), components=1, epochs=400, prior_data="auto", prior_variance=0.1)
    x, seen, mu, sigma, total = of_what_is_there(run)
    variance = torch.stack([x[seen[:, d], d].var(correction=0) for d in range(3)])
    inner = (0.1 * variance * torch.linalg.inv(sigma).diagonal()).sum()
    total = total - 5 / 2 * (sigma.logdet() + inner)
    for gradient in torch.autograd.grad(total / len(x), [mu, sigma]):
        assert gradient.abs().max() < 1e-6


def penalised(run: Run) -> tuple[Tensor, list[Tensor]]:
    """Σ log p(x_o) − ν₀ Σ_k KL(N(0, Ψ) ‖ N(0, Σ_k)), by hand, and what it is a function of: μ, Σ and Ψ."""
    x, seen = prepared(run)
    pi, parts = both_of(run.model)
    prior, dims = parts.shared.detach().clone(), x.shape[1]
    if not parts.dense:
        prior = torch.diag_embed(prior.expand(dims))
    free = [parts.means.detach().clone(), parts.covariances.detach().clone(), prior]
    mu, sigma, prior = (value.requires_grad_() for value in free)
    total = x.new_zeros(())
    for row, o in zip(x, seen, strict=True):
        if o.any():
            own = [MultivariateNormal(m[o], s[o][:, o]).log_prob(row[o]) for m, s in zip(mu, sigma, strict=True)]
            total = total + (torch.stack(own) + pi.log_weights.detach()).logsumexp(0)
    usual, zero = MultivariateNormal(torch.zeros(dims).double(), prior), torch.zeros(dims).double()
    for s in sigma:
        total = total - parts.prior_data * torch.distributions.kl_divergence(usual, MultivariateNormal(zero, s))
    return total, [mu, sigma, prior]


@pytest.mark.parametrize("covariance", ["full", "diagonal", "spherical"])
def test_a_learned_prior_climbs_a_likelihood_that_keeps_components_alike(covariance):
    found = [
        penalised(fitted(table(60, 3), epochs=n, covariance=covariance, prior_data=4.0, prior_variance="learned"))[0]
        for n in (1, 2, 3, 5, 9, 17)
    ]
    assert all(later > before for before, later in itertools.pairwise(found))


def test_the_fixed_point_of_a_learned_prior_has_no_gradient():
    run = fitted(table(60, 3), epochs=1500, prior_data=4.0, prior_variance="learned", min_scale=1e-4)
    total, free = penalised(run)
    for gradient in torch.autograd.grad(total / 60, free):
        assert gradient.abs().max() < 1e-5
    parts = both_of(run.model)[1]
    mean = torch.linalg.inv(parts.covariances).mean(0)
    torch.testing.assert_close(torch.linalg.inv(parts.shared), mean)


def test_a_learned_prior_finds_the_shape_that_components_have():
    """Thirty clusters of three columns that hang together alike, of five rows each: no Σ_k can be told, but Ψ can."""
    rng = np.random.default_rng(3)
    shape = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, -0.5], [0.0, -0.5, 1.0]])
    x = np.repeat(rng.normal(size=(30, 3)) * 30, 5, 0) + rng.multivariate_normal(np.zeros(3), shape, 150)
    run = fitted(x, components=30, epochs=100, prior_data=50.0, prior_variance="learned", starts=10)
    parts, scale = both_of(run.model)[1], torch.tensor([field.scale for field in run.schema.fields])
    learned = (parts.shared * scale * scale[:, None]).numpy()
    within = 150 - 30  # the covariance within clusters, by their own means, has n − K degrees of freedom; EM counts n
    np.testing.assert_allclose(learned * 150 / within, shape, atol=0.25)


def test_what_a_learned_prior_takes():
    for settings in ({"prior_data": 0.0}, {"prior_data": 3.0, "covariance": "tied"}):
        with pytest.raises(ConfigError, match="prior_variance: to be learned it takes"):
            fitted(table(), prior_variance="learned", **settings)


def test_one_component_of_each_family_counts_what_is_there():
    rng = np.random.default_rng(0)
    for kind in ("binary", "count"):
        x = rng.integers(0, 2, (50, 3)).astype(float)
        x = np.where(rng.random(x.shape) < 0.4, np.nan, x)
        run = fitted(x, kind, components=1, smoothing=0.0, epochs=2)
        np.testing.assert_allclose(both_of(run.model)[1].means.detach()[0], np.nanmean(x, 0), rtol=1e-9)
    x = table(50, 3)
    run = fitted(x, components=1, covariance="diagonal", epochs=2)
    rows, seen = prepared(run)
    rows = np.where(seen, rows, np.nan)
    np.testing.assert_allclose(both_of(run.model)[1].means.detach()[0], np.nanmean(rows, 0), atol=1e-9)
    np.testing.assert_allclose(both_of(run.model)[1].variances.detach()[0], np.nanvar(rows, 0), rtol=1e-6)


# Conditionals


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_conditionals_by_hand(family, gaps):
    x = table(150, seed=1)
    run = fitted(x if gaps else np.nan_to_num(x), family=family, df=5.0 if family == "student-t" else None)
    x, seen = torch.from_numpy(np.nan_to_num(x)), torch.from_numpy(~np.isnan(x))
    p, parts = density_of(run), both_of(run.model)[1]
    mu, sigma = parts.means.detach().numpy(), parts.covariances.detach().numpy()
    joint = by_hand(run.model, x, seen)
    share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    with torch.no_grad():
        alone = p.given(x, seen)
        mean, variance, terms = alone.mean.numpy(), alone.variance.numpy(), alone.log_prob_terms(x).numpy()
    for n in range(20):
        o = seen[n].numpy()
        m, first, second, density = ~o, [], [], []
        for k in range(2):
            gain = np.linalg.solve(sigma[k][np.ix_(o, o)], sigma[k][np.ix_(o, m)]).T
            off = x[n].numpy()[o] - mu[k][o]
            centre, left = mu[k][m] + gain @ off, np.diag(sigma[k][np.ix_(m, m)] - gain @ sigma[k][np.ix_(o, m)])
            q: Any = stats.norm(centre, np.sqrt(left))
            if family == "student-t":
                df = 5.0 + o.sum()
                left = left * (5.0 + off @ np.linalg.solve(sigma[k][np.ix_(o, o)], off)) / df
                q = stats.t(df, centre, np.sqrt(left))
            first.append(q.mean())
            second.append(q.var() + q.mean() ** 2)
            density.append(q.pdf(x[n].numpy()[m]))
        hand = share[n] @ first
        np.testing.assert_allclose(mean[n][m], hand, atol=1e-8)
        np.testing.assert_allclose(variance[n][m], share[n] @ second - hand**2, atol=1e-7)
        np.testing.assert_allclose(np.exp(terms[n][m]), share[n] @ density, rtol=1e-6)


def test_where_there_is_no_mean_the_median_of_draws_is_filled_in():
    """Of a t with one degree of freedom, given nothing; given one element it has no variance."""
    run = fitted(table(200), family="student-t", df=1.0, components=1)
    rows = np.full((2, 4), np.nan)
    rows[1, 0] = 1.0
    found = run.impute(pandas.DataFrame(rows, columns=list(run.schema.names)), draws=400)
    parts: Any = both_of(run.model)[1]
    centre, scale = (np.array([getattr(field, name) for field in run.schema.fields]) for name in ("center", "scale"))
    centre = centre + scale * parts.loc.detach()[0].numpy()
    assert (np.abs(found.expected[:4] - centre) < 0.5 * scale).all()
    assert np.isfinite(found.expected).all()
    assert np.isinf(found.uncertainty).all()


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_completed_jointly(family, covariance):
    """Means, variances and covariances of what is drawn, against the conditional density."""
    run = fitted(table(150, 3), family=family, covariance=covariance, df=8.0 if family == "student-t" else None)
    p, n = density_of(run), 40_000
    x, seen = torch.tensor([[0.7, -0.3, 0.4]], dtype=torch.float64), torch.tensor([[True, False, False]])
    torch.manual_seed(0)
    drawn = p.complete(x.expand(n, -1), seen.expand(n, -1))
    assert (drawn[:, 0] == 0.7).all()
    with torch.no_grad():
        alone = p.given(x, seen)
        error = (alone.variance / n).sqrt()
        assert ((drawn.mean(0) - alone.mean)[0, 1:].abs() < 4.5 * error[0, 1:]).all()
        np.testing.assert_allclose(drawn.var(0)[1:], alone.variance[0, 1:], rtol=0.06)
        ends = torch.linspace(-12, 12, 161, dtype=torch.float64)
        grid = torch.cartesian_prod(x[0, :1], ends, ends)
        mass = p.log_prob(grid).softmax(0)
        hand = mass @ (grid[:, 1] * grid[:, 2]) - (mass @ grid[:, 1]) * (mass @ grid[:, 2])
    assert torch.cov(drawn[:, 1:].T)[0, 1].item() == pytest.approx(hand.item(), abs=0.05)


def test_conditionals_of_levels_by_enumeration():
    """Categories of grey pictures, some pixels given."""
    rng = np.random.default_rng(0)
    from jensen.data import Schema

    schema, x = Schema.of_pictures((1, 1, 3), levels=3), rng.integers(0, 3, (60, 1, 1, 3), dtype=np.uint8)
    run = train("mixture", Dataset("made", schema, {"train": Split(x)}), components=2)
    p = density_of(run)
    every = torch.cartesian_prod(*[torch.arange(3.0).double()] * 3).view(-1, 1, 1, 3)
    row, known = torch.tensor([2.0, 0.0, 0.0]).double().view(1, 1, 1, 3), torch.tensor([True, False, False])
    with torch.no_grad():
        mass = p.log_prob(every).exp() * (every[..., 0] == 2).flatten()
        assert p.log_marginal(row, known.view(1, 1, 1, 3)).exp().item() == pytest.approx(mass.sum().item())
        alone = p.given(row, known.view(1, 1, 1, 3))
        assert alone.mean.shape == (1, 1, 1, 3)
        hand = (mass / mass.sum()) @ every.flatten(1)
        np.testing.assert_allclose(alone.mean.flatten()[1:], hand[1:], atol=1e-9)
    drawn = p.complete(row.expand(20_000, -1, -1, -1), known.view(1, 1, 1, 3).expand(20_000, -1, -1, -1))
    np.testing.assert_allclose(drawn.mean(0).flatten()[1:], hand[1:], atol=0.03)


def test_counts_and_bits_are_filled_in():
    rng = np.random.default_rng(0)
    x = rng.poisson(np.array([[1.0, 9.0], [8.0, 0.5]])[rng.integers(0, 2, 200)]).astype(float)
    run = fitted(np.where(rng.random(x.shape) < 0.2, np.nan, x), "count", epochs=30)
    found = run.impute(np.array([[0.0, np.nan], [12.0, np.nan]])).mean[:, 1]
    assert found[0] == pytest.approx(9.0, abs=1.5) and found[1] == pytest.approx(0.5, abs=0.5)


# What is odd


@pytest.mark.filterwarnings("ignore:column 'c1' holds one value")
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_constant_columns_and_rows_without_a_cell(covariance):
    x = table(60, 3)
    x[:, 1] = np.where(np.isnan(x[:, 1]), np.nan, 4.0)
    x[5:9] = np.nan
    run = fitted(x, covariance=covariance, prior_data=3.0)
    scores = run.score(x).rows
    assert scores is not None and scores.isfinite().all()
    np.testing.assert_allclose(scores[5:9], 0.0, atol=1e-6)
    filled = run.impute(x).mean
    np.testing.assert_allclose(filled[:, 1], 4.0, atol=1e-2)


def test_a_column_without_a_cell():
    x = table(60, 3)
    data = dataset(x)
    x = data.split("train").x.copy()
    x[:, 2] = np.nan
    for settings in ({}, {"covariance": "diagonal"}, {"family": "student-t"}):
        given = dataclasses.replace(data, splits={"train": Split(x)})
        run = train("mixture", given, epochs=5, settings={"components": 2, **settings})
        scores = run.score(split="train").rows
        assert scores is not None and scores.isfinite().all()


@pytest.mark.filterwarnings("ignore:component")
def test_an_empty_component_starts_again_among_rows_with_gaps():
    data = dataset(table(150, 3))
    for settings in ({}, {"covariance": "diagonal"}):
        model = build("mixture", data.schema, {"components": 3, **settings})
        both_of(model)[1].loc.data.copy_(torch.tensor([[0.0] * 3, [0.1] * 3, [500.0] * 3]))
        with pytest.warns(UserWarning, match="starts again|stays empty"):
            found = climbed(model, data, 30)
        assert np.isfinite(found).all() and found[-1] > found[0]


def test_runs_with_gaps_reopen(tmp_path):
    x = table(100)
    run = train("mixture", dataset(x), out=tmp_path / "r", epochs=5, settings=PRIOR)
    again = open_run(tmp_path / "r")
    assert torch.equal(run.score(x).rows, again.score(x).rows)  # pyright: ignore
    np.testing.assert_array_equal(run.impute(x).mean, again.impute(x).mean)


def test_the_gradient_climbs_what_is_there():
    x = table(100, 3)
    before, after = (fitted(x, fit="gradient", epochs=epochs, seed=1).score(split="train").nats for epochs in (1, 40))
    assert after > before
    with pytest.raises(ConfigError, match="prior_data"):
        fitted(x, fit="gradient", prior_data=1.0)


@pytest.mark.parametrize("kind", ["real", "binary", "count"])
def test_where_nothing_is_missing_nothing_is_filled_in(kind):
    x = np.random.default_rng(0).integers(0, 2, (60, 3)).astype(float)
    table = pandas.DataFrame(
        x + (0.1 * np.random.default_rng(1).random(x.shape) if kind == "real" else 0), columns=[*"abc"]
    )
    run = train("mixture", table, components=2, kinds=dict.fromkeys("abc", kind), epochs=3)
    found = run.impute(table.head(5))
    assert str(found) == "nothing is missing in 5 data"
    pandas.testing.assert_frame_equal(found.completed(), table.head(5), check_dtype=False)
    for model in ("kernels", "nade"):
        if kind == "real":
            run = train(model, table, kinds=dict.fromkeys("abc", kind), epochs=1)
            assert not run.impute(table.head(5)).missing.any()
