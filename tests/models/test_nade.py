"""Orderless NADE: against enumeration of all rows, of all orders and of all gaps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas
import pytest
import scipy.stats
import torch
from torch import Tensor

import jensen
from jensen.conditionals.orderless import OrderlessDensity, OrderlessNetwork
from jensen.core import seeded
from jensen.data import Schema
from jensen.distributions import Names
from jensen.jobs.conditioning import points, spreads
from jensen.registry import build

BITS = Schema.of_table(np.array([[0.0] * 4, [1.0] * 4]), list("abcd"), ["binary"] * 4)
ROWS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double()


def conditional(orderings: int = 3) -> OrderlessNetwork:
    """Of four bits, with weights at random."""
    with seeded(0):
        settings = {"network": "mlp", "network.hidden": [16], "orderings": orderings}
        found = build("nade", BITS, settings).double().eval()
        for parameter in found.parameters():
            parameter.data += 0.7 * torch.randn_like(parameter)
    module = found.p["x"].module
    assert isinstance(module, OrderlessNetwork)
    return module


def by_hand(p: OrderlessDensity, row: Tensor, places: list[int], known: Tensor) -> float:
    """Σ log p of these elements, one after another in this order, given what is known."""
    known, total = known.clone(), 0.0
    for d in places:
        total += float(p.given(row[None], known[None]).log_prob_terms(row[None])[0, d])
        known[d] = True
    return total


@pytest.mark.parametrize("seen", list(itertools.product([False, True], repeat=4)))
def test_every_marginal_is_a_probability_in_each_of_the_orders(seen):
    of, mask = conditional(), torch.tensor(seen)
    p = of()
    with torch.no_grad():
        found = p.log_marginal(ROWS, mask)
        kept = [d for d in range(4) if seen[d]]
        distinct = torch.cat([ROWS[:1], ROWS[1:][(ROWS[1:, ~mask] == 0).all(1)]])
        assert float(p.log_marginal(distinct, mask).exp().sum()) == pytest.approx(1, abs=1e-9)
        for row, value in zip(ROWS, found, strict=True):
            each = [by_hand(p, row, [d for d in o.tolist() if d in kept], ~mask & False) for o in of.orders]
            assert float(value) == pytest.approx(float(np.logaddexp.reduce(each)) - math.log(len(each)), abs=1e-9)


def test_what_was_not_seen_is_never_looked_at():
    p, seen = conditional()(), torch.tensor([True, False, True, False])
    other = ROWS.masked_fill(~seen, math.nan)
    with torch.no_grad():
        assert torch.equal(p.log_marginal(ROWS, seen), p.log_marginal(other, seen))


def test_training_estimates_the_mean_over_all_orders_without_bias():
    of, row, n = conditional(), ROWS[6], 40_000
    seen = torch.tensor([True, True, False, True])
    p = of()
    with torch.no_grad(), seeded(1):
        orders = itertools.permutations([0, 1, 3])
        exact = np.mean([by_hand(p, row, list(o), torch.zeros(4, dtype=torch.bool)) for o in orders])
        of.train()
        drawn = of().log_marginal(row.expand(n, 4), seen.expand(n, 4))
    assert abs(float(drawn.mean()) - exact) < 4 * float(drawn.std()) / math.sqrt(n)


def test_samples_follow_the_density():
    of, n = conditional(), 20_000
    with torch.no_grad(), seeded(2):
        drawn = of().sample((n,))
        expected = of().log_prob(ROWS).exp() * n
    counts = torch.bincount((drawn @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long(), minlength=16)
    assert scipy.stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_completions_follow_the_conditionals_of_all_orders():
    of, n = conditional(), 20_000
    p, known = of(), torch.tensor([False, True, False, True])
    row = torch.tensor([0.0, 1.0, 0.0, 0.0]).double()
    expected = []
    for a, c in itertools.product([0.0, 1.0], repeat=2):
        whole = torch.tensor([a, 1.0, c, 0.0]).double()
        with torch.no_grad():
            expected.append(np.mean([math.exp(by_hand(p, whole, list(o), known)) for o in ([0, 2], [2, 0])]))
    with seeded(3):
        drawn = p.complete(row.expand(n, 4), known.expand(n, 4))
    assert (drawn[:, known] == row[known]).all()
    counts = torch.bincount((2 * drawn[:, 0] + drawn[:, 2]).long(), minlength=4)
    assert scipy.stats.chisquare(counts.numpy(), n * np.array(expected)).pvalue > 1e-3


def test_a_datum_under_conditions_meets_its_own():
    """Rows that are walked together, in many particles, each under its own label."""
    with seeded(0):
        x = np.random.default_rng(0).normal(size=(60, 2))
        frame = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": np.where(x[:, 0] > 0, "u", "v")})
        run = jensen.train("nade", frame, label="y", conditional=True, epochs=2)
    module = run.model.p["x"].module.eval()
    x, y = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    with torch.no_grad():
        together = module(y).log_prob(x)
        alone = [module(y[i : i + 1]).log_prob(x[i : i + 1]) for i in range(6)]
        torch.testing.assert_close(together, torch.cat(alone))
        many = module(y).log_prob(x.expand(3, 6, 2))
        torch.testing.assert_close(many, together.expand(3, 6))
        drawn = module(y).tempered(1e-3).sample((50,))  # of the likeliest component nearly its mean
        assert drawn.shape == (50, 6, 2)
        first = [module(y[i : i + 1]).tempered(1e-3).sample((50,)) for i in range(6)]
        for i in range(6):
            torch.testing.assert_close(drawn[:, i].median(0).values, first[i][:, 0].median(0).values, atol=0.2, rtol=0)


def mixed(n: int = 1500) -> pandas.DataFrame:
    """A word that decides a number and a size, with gaps."""
    rng = np.random.default_rng(0)
    word = rng.choice(["low", "high"], n, p=[0.4, 0.6])
    frame = pandas.DataFrame(
        {
            "word": word,
            "number": np.where(word == "low", -2.0, 2.0) + 0.3 * rng.normal(size=n),
            "count": rng.poisson(np.where(word == "low", 2.0, 20.0)),
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.2)


def test_gaps_of_a_mixed_table_are_filled_by_the_conditionals():
    run = jensen.train("nade", mixed(), epochs=25, batch_size=50)
    asked = pandas.DataFrame({"word": ["low", "high", None], "number": [None, None, 2.1], "count": [None, 20, 21]})
    found = run.impute(asked, draws=400)
    assert set(found.method) == {"conditional"}
    assert np.isinf(found.effective_sample_size).all()
    whole = found.completed()
    assert whole["word"].tolist() == ["low", "high", "high"]
    np.testing.assert_allclose(whole["number"], [-2, 2, 2.1], atol=0.15)
    assert whole["count"][0] == pytest.approx(2, abs=1)
    assert found.spread[1, 1] == pytest.approx(0.3, abs=0.1)
    assert found.spread[2, 0] < 0.05
    assert found.spread[2, 1] == 0
    low, high = np.quantile(found.draws[:, 1, 1], [0.159, 0.841])
    assert (high - low) / 2 == pytest.approx(0.3, abs=0.1)
    assert "from p(missing | observed) itself" in str(found)
    assert found.to_dict()["methods"]["conditional"] == 3


def test_points_are_means_medians_and_the_likeliest_name():
    levels = ["S", "M", "L"]
    rng = np.random.default_rng(0)
    size, name = rng.choice(levels, 90, p=[0.8, 0.15, 0.05]), rng.choice([*"ab"], 90, p=[0.7, 0.3])
    frame = pandas.DataFrame({"x": rng.normal(size=90), "size": size, "name": name})
    kinds = {"size": {"kind": "ordinal", "categories": levels}}
    run = jensen.train("nade", frame, kinds=kinds, epochs=2)
    p = run.model.eval().p["x"].module()
    x = torch.zeros(5, 3)
    with torch.no_grad(), seeded(0):
        dist = p.given(x, torch.zeros_like(x, dtype=torch.bool))
        point, spread = points(dist), spreads(dist)
        drawn = dist.sample((40_000,))
    assert (point[:, 1] == drawn[..., 1].median(0).values).all()
    assert (point[:, 2] == drawn[..., 2].mode(0).values).all()
    torch.testing.assert_close(point[:, 0], drawn[..., 0].mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(spread[:, 0], drawn[..., 0].std(0), atol=0.03, rtol=0)
    torch.testing.assert_close(spread[:, 2], (drawn[..., 2] != point[:, 2]).float().mean(0), atol=0.015, rtol=0)


def test_a_model_of_pictures_paints_what_is_missing():
    model = build("nade", Schema.of_pictures((1, 2, 2), levels=3), {}).eval()
    p = model.p["x"].module()
    x, known = torch.randint(0, 3, (5, 1, 2, 2)).float(), torch.rand(5, 1, 2, 2) < 0.5
    drawn = p.complete(x, known)
    assert torch.equal(drawn[known], x[known])
    assert set(drawn.unique().tolist()) <= {0.0, 1.0, 2.0}


def test_training_starts_from_the_marginals():
    """Untrained, every conditional is the density of its column, whatever is known of the others."""
    frame = mixed(400)
    run = jensen.train("nade", frame, epochs=1, lr=1e-9)
    p = run.model.eval().p["x"].module()
    x, known = torch.randn(6, 3).abs().round(), torch.rand(6, 3) < 0.5
    x[:, 0] = 0
    with torch.no_grad():
        dist = p.given(x, known)
    for part in dist.parts:
        for name in part.parameter_dims:
            parameter = getattr(part, name)
            torch.testing.assert_close(parameter, parameter[:1].expand_as(parameter), rtol=0, atol=1e-5)
    (names,) = [part for part in dist.parts if isinstance(part, Names)]
    share = (frame["word"] == "low").sum() / frame["word"].count()
    assert float(names.probs[0, 0, run.schema.fields[0].categories.index("low")]) == pytest.approx(share, abs=0.15)


def test_a_model_of_whole_rows_takes_rows_with_gaps():
    whole = mixed().dropna().reset_index(drop=True)
    run = jensen.train("nade", whole, epochs=2)
    rows = pandas.DataFrame({"word": ["low", None], "number": [None, 2.0], "count": [3, 20]})
    assert run.score(rows).n == 2
    assert len(run.outliers(rows, columns=True).rows) == 2


@pytest.mark.parametrize("kind", ["count", "binary"])
def test_tables_of_one_whole_kind_with_gaps(kind):
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.choice([1.0, 9.0], (300, 1)), (300, 3)) if kind == "count" else rng.random((300, 3)) < 0.3
    frame = pandas.DataFrame(x.astype(float), columns=[*"abc"]).mask(rng.random((300, 3)) < 0.2)
    run = jensen.train("nade", frame, kinds=dict.fromkeys("abc", kind), epochs=2)
    filled = run.impute(frame, draws=3).draws
    assert (filled == filled.round()).all() and (filled >= 0).all()
    assert np.isfinite(
        run.outliers(frame.head(20), columns=True).surprise.bits[~frame.head(20).isna().to_numpy()]
    ).all()
