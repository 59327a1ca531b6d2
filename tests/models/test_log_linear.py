"""Log-linear classes: enumeration, gradients, EM that never falls, closed forms, scikit-learn, refusals."""

from __future__ import annotations

import gzip
import itertools
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from jensen.conditionals.features import Crossed, Joint
from jensen.conditionals.loglinear import Domain, LogLinear
from jensen.core import EXACT, Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.data.words import read_sentences, word_features
from jensen.errors import ConfigError, DataError, SeparationWarning
from jensen.jobs.run import Run, open_run
from jensen.jobs.train import train
from jensen.models.log_linear import latent_classes
from jensen.objectives.log_linear import conditional_objective, em, expectation_maximisation, fit, penalty
from jensen.registry import build

RNG = np.random.default_rng(0)
WORDS = ["walking", "talking", "walked", "talked", "walk", "Talk", "x-ray"]


def joint(classes: int = 3, x: int = 5, f: int = 4, seed: int = 0) -> Joint:
    return Joint(np.random.default_rng(seed).normal(size=(classes, x, f)))


def of(features, seed: int = 1) -> LogLinear:
    """With weights drawn, in float64."""
    likelihood = LogLinear(features).double()
    with torch.no_grad(), seeded(seed):
        likelihood.weight.normal_()
    return likelihood


def counts_of(likelihood: LogLinear, seed: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 9, size=likelihood.features.sizes)).double()


def enumerated(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """log p(x | z), (Z, X), written out: every score, and the sum over a fresh x'."""
    table = np.empty(features.shape[:2])
    for z, x in itertools.product(*map(range, features.shape[:2])):
        scores = [weight @ features[z, other] for other in range(features.shape[1])]
        table[z, x] = scores[x] - logsumexp(scores)
    return table


# p(x | z, w)


def test_probabilities_are_those_of_the_enumeration():
    f = RNG.normal(size=(3, 5, 4))
    p = of(Joint(f))
    np.testing.assert_allclose(p.table().detach(), enumerated(f, p.weight.detach().numpy()), atol=1e-13)
    z, x = torch.tensor([0, 2, 1]), torch.tensor([4, 0, 3])
    torch.testing.assert_close(p(z).log_prob(x), p.table()[z, x])
    hot = torch.eye(3, dtype=torch.float64)[z]
    torch.testing.assert_close(p(hot).log_prob(x), p.table()[z, x])
    torch.testing.assert_close(p(hot).probs.sum(-1), torch.ones(3).double())


def test_the_gradient_is_f_less_its_expectation_and_autograds():
    f = RNG.normal(size=(3, 5, 4))
    p = of(Joint(f))
    z, x = torch.tensor([1]), torch.tensor([3])
    (found,) = torch.autograd.grad(p(z).log_prob(x).sum(), p.weight)
    probs = np.exp(enumerated(f, p.weight.detach().numpy()))
    np.testing.assert_allclose(found, f[1, 3] - probs[1] @ f[1], atol=1e-13)

    w = p.weight.detach().clone().requires_grad_()  # all in plain torch
    plain = (torch.from_numpy(f) @ w).log_softmax(-1)[1, 3]
    torch.testing.assert_close(found, torch.autograd.grad(plain, w)[0], rtol=0, atol=1e-13)


def test_the_marginals_gradient_holds_the_responsibilities_fixed():
    """∂ log p(x) = E[f(x, Z) | x] − E[E[f(X, Z) | Z] | x], responsibilities being constants in it."""
    f = RNG.normal(size=(3, 5, 4))
    p = LogLinear(Joint(f)).double()
    with seeded(0):
        model = latent_classes({"x": p}).double()
    x = torch.tensor([2])
    (found,) = torch.autograd.grad(model.evidence({"x": x}).elbo().sum(), p.weight)
    r = model.q["z"].module(x).probs[0].detach().numpy()
    table = np.exp(enumerated(f, p.weight.detach().numpy()))
    wanted = sum(r[z] * (f[z, 2] - table[z] @ f[z]) for z in range(3))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("kind", ["crossed", "structured", "joint"])
@pytest.mark.parametrize("as_sparse", [sparse.csr_matrix, sparse.coo_matrix, lambda m: torch.from_numpy(m).to_sparse()])
def test_sparse_equals_dense(kind, as_sparse):
    g = np.where(RNG.random((6, 4)) < 0.5, RNG.normal(size=(6, 4)), 0.0)
    h = np.array([[1.0, 0, 1], [0, 1, 1]])
    make = {"crossed": lambda m: Crossed(m, 2), "structured": lambda m: Crossed(m, h), "joint": lambda m: Joint(m, 2)}
    dense, other = of(make[kind](g)), of(make[kind](as_sparse(g)))
    assert other.features.matrix.sparse and not dense.features.matrix.sparse
    torch.testing.assert_close(other.table(), dense.table(), rtol=0, atol=1e-14)
    counts = counts_of(dense)
    a, b = (torch.autograd.grad(conditional_objective(p, counts), p.weight)[0] for p in (dense, other))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    for low, high in zip(dense.features.extremes(counts.sum(1)), other.features.extremes(counts.sum(1)), strict=True):
        torch.testing.assert_close(low, high)
    np.testing.assert_allclose(dense.features.rows().toarray(), other.features.rows().toarray())
    squares = dense.features.rows().power(2).T @ counts.flatten().numpy()
    np.testing.assert_allclose(dense.features.squares(counts).flatten(), squares, atol=1e-12)
    np.testing.assert_allclose(other.features.squares(counts).flatten(), squares, atol=1e-12)


def test_crossed_features_are_joint_ones():
    """g(x) ⊗ h(z) as one long vector, the same weights, the same table; and the extremes by looking at every x."""
    g, h = RNG.normal(size=(6, 4)), RNG.normal(size=(3, 2))
    crossed = of(Crossed(g, h))
    rows = np.stack([[np.outer(g[x], h[z]).ravel() for x in range(6)] for z in range(3)])
    long = of(Joint(rows))
    with torch.no_grad():
        long.weight.copy_(crossed.weight.flatten())
    torch.testing.assert_close(crossed.table(), long.table(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(crossed.features.rows().toarray(), rows.reshape(18, 8), atol=1e-15)
    n = torch.tensor([3.0, 0.0, 5.0])
    for mine, other, ends in zip(
        crossed.features.extremes(n), long.features.extremes(n), (rows.min(1), rows.max(1)), strict=True
    ):
        np.testing.assert_allclose(mine.flatten(), n.numpy() @ ends, atol=1e-12)
        np.testing.assert_allclose(other, n.numpy() @ ends, atol=1e-12)


def test_feature_functions():
    by_x = Crossed.of(word_features, WORDS, 2)
    by_both = Joint.of(lambda word, z: [f"{name} & {z}" for name in word_features(word)], WORDS, 2)
    a, b = of(by_x), of(by_both)
    with torch.no_grad():  # the same weights by name
        for i, name in enumerate(by_both.names):
            stem, _, z = name.rpartition(" & ")
            b.weight[i] = a.weight[by_x.names.index(stem), int(z)]
    torch.testing.assert_close(a.table(), b.table(), rtol=0, atol=1e-13)
    numbers = Joint.of(lambda x, z: {"product": x * z, "sum": x + z}, [1.0, 2.0], [3.0, 4.0])
    np.testing.assert_array_equal(numbers.rows().toarray(), [[3, 4], [6, 5], [4, 5], [8, 6]])
    vectors = Joint.of(lambda x, z: [x * z, x + z], [1.0, 2.0], [3.0, 4.0])
    np.testing.assert_array_equal(vectors.rows().toarray(), numbers.rows().toarray())


def test_words_are_read_and_described(tmp_path):
    assert word_features("U.S.", endings=1) == ["-.", "4 letters", "capital", "other sign"]
    assert word_features("a") == ["1 letters"]
    assert word_features("1990s", endings=1, beginnings=2) == ["-s", "1-", "19-", "5 letters", "digit"]
    (tmp_path / "text").write_text("a b\n\nc\n")
    assert read_sentences(tmp_path / "text") == [["a", "b"], [], ["c"]]
    with pytest.raises(DataError, match="none"):
        read_sentences(tmp_path / "none")


def test_the_example_of_words_runs(tmp_path, monkeypatch, capsys):
    """On a small text in which what follows "the" ends in s, and what follows it in ed."""
    lines = ["the dogs barked", "the cats jumped", "the hens jumped", "the cats barked", "the dogs walked"]
    for part in ("train", "valid"):
        (tmp_path / f"ptb_{part}.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    script = Path(__file__).parents[2] / "examples" / "word_classes.py"
    options = ["--classes", "3", "--rounds", "30", "--few", "2", "--l2", "0.1", "--out", str(tmp_path / "kept")]
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path), *options])
    runpy.run_path(str(script), run_name="__main__")
    kept = (tmp_path / "kept").read_text()
    assert kept in capsys.readouterr().out
    classes = {frozenset(line.split()) for line in kept.splitlines()[-3:]}
    for together in ({"dogs", "cats", "hens", "-s"}, {"barked", "jumped", "walked", "-ed"}, {"the"}):
        assert sum(together <= found for found in classes) == 1


def test_a_domain_counts_every_value_once():
    domain = Domain([2, 3, 4], (3,))
    values = domain.values()
    assert {tuple(v) for v in values.tolist()} == set(itertools.product(range(2), range(3), range(4)))
    assert torch.equal(domain.index(values.float()), torch.arange(24))
    with pytest.raises(DataError, match=r"column 'b': expected 0..2, .* got 3"):
        Domain([2, 3], (2,), ["a", "b"]).index(torch.tensor([[0.0, 1.0], [1.0, 3.0]]))


def test_draws_follow_the_probabilities():
    p = of(joint())
    z = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]).double()
    drawn = p(z).sample((4000,))
    assert drawn.shape == (4000, 2)
    for i, probs in enumerate(p(z).probs.detach().numpy()):
        seen = np.bincount(drawn[:, i].long(), minlength=5)
        assert ((seen - 4000 * probs) ** 2 / (4000 * probs)).sum() < chi2.ppf(0.9999, 4)
        torch.testing.assert_close(p(z).mean[i], torch.from_numpy(probs) @ torch.arange(5.0).double())
    assert torch.equal(p(z).mode.long(), p(z).probs.argmax(-1))


# z observed


@pytest.mark.parametrize("classes", [1, 3])
def test_indicators_give_the_frequencies(classes):
    p = LogLinear(Crossed(np.eye(4), classes)).double()
    counts = torch.from_numpy(RNG.integers(1, 50, size=(classes, 4))).double()
    found = fit(p, counts)
    torch.testing.assert_close(p.table().exp(), counts / counts.sum(1, keepdim=True), rtol=0, atol=1e-7)
    assert found.violation < 1e-8
    truth = (counts * (counts / counts.sum(1, keepdim=True)).log()).sum() / counts.sum()
    assert found.objective == pytest.approx(truth.item(), abs=1e-12)


def test_multinomial_logistic_regression_is_scikit_learns():
    """p(y | c) with a row's numbers as features of "z" and indicators of y: C = 1 / (λ₂ n)."""
    n, l2 = 60, 0.02
    c = np.hstack([RNG.normal(size=(n, 3)), np.ones((n, 1))])
    y = RNG.integers(0, 3, size=n)
    oracle = LogisticRegression(C=1 / (l2 * n), fit_intercept=False, tol=1e-12, max_iter=10_000).fit(c, y)
    p = LogLinear(Crossed(np.eye(3), c)).double()
    counts = torch.eye(3, dtype=torch.float64)[y]
    found = fit(p, counts, l2=l2, tolerance=1e-11)
    assert found.violation < 1e-8
    np.testing.assert_allclose(p.weight.detach(), oracle.coef_, atol=1e-7)
    np.testing.assert_allclose(p.table().exp().detach(), oracle.predict_proba(c), atol=1e-7)


def test_feature_expectations_match_at_the_maximum():
    p = of(joint())
    counts = counts_of(p)
    fit(p, counts, tolerance=1e-10)
    expected = p.features.totals(counts.sum(1, keepdim=True) * p.table().exp())
    torch.testing.assert_close(expected, p.features.totals(counts), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("l1", "l2"), [(0.03, 0.0), (0.03, 0.05), (10.0, 0.0)])
def test_l1_meets_its_subgradient_condition(l1, l2):
    """|∂| ≤ λ₁ where w = 0, and ∂ = λ₁ sign w elsewhere, ∂ by autograd of plain torch; some zeros are exact."""
    f = RNG.normal(size=(2, 6, 12))
    p = LogLinear(Joint(f)).double()
    counts = counts_of(p)
    found = fit(p, counts, l1=l1, l2=l2, tolerance=1e-10)
    w = p.weight.detach().clone().requires_grad_()
    smooth = (counts * (torch.from_numpy(f) @ w).log_softmax(-1)).sum() / counts.sum() - l2 / 2 * w.square().sum()
    (gradient,) = torch.autograd.grad(smooth, w)
    zero = w == 0
    assert zero.any()
    assert zero.all() == (l1 == 10.0)
    assert (gradient[zero].abs() <= l1 + 1e-8).all()
    torch.testing.assert_close(gradient[~zero], l1 * w[~zero].sign(), rtol=0, atol=1e-7)
    assert found.violation < 1e-7
    assert found.objective == pytest.approx((smooth - l1 * w.abs().sum()).item(), abs=1e-12)


def test_adam_climbs_to_the_same_maximum():
    a, b = of(joint()), of(joint(), seed=5)
    counts, l2 = counts_of(a), 0.05
    fit(a, counts, l2=l2)
    adam = torch.optim.Adam(b.parameters(), lr=0.05)
    for step in range(600):
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / 600)
        adam.zero_grad()
        (-conditional_objective(b, counts, l2=l2)).backward()
        adam.step()
    torch.testing.assert_close(b.weight, a.weight, rtol=0, atol=1e-5)


def test_a_fit_never_ends_worse_than_it_began():
    p = of(joint())
    counts = counts_of(p)
    fit(p, counts, l2=0.1, tolerance=1e-12)
    best = p.weight.detach().clone()
    for steps in (1, 5):
        fit(p, counts, l2=0.1, steps=steps)
        torch.testing.assert_close(p.weight, best, rtol=0, atol=1e-8)
    values = []
    q = of(joint(), seed=9)
    for _ in range(12):
        values.append(fit(q, counts, l2=0.1, steps=1).objective)
    assert (np.diff(values) >= 0).all()


def test_weights_of_rare_features_keep_pace():
    """Features of very different size: in few steps as near to the best as with all of one size."""
    size = np.array([1e-3, 1e-2, 1.0, 1e2])
    f = RNG.normal(size=(3, 5, 4))
    counts = counts_of(LogLinear(Joint(f)))
    even, uneven = LogLinear(Joint(f)).double(), LogLinear(Joint(f * size)).double()
    a, b = fit(even, counts, steps=8), fit(uneven, counts, steps=8)
    assert b.objective == pytest.approx(a.objective, abs=1e-9)
    torch.testing.assert_close(uneven.weight * torch.from_numpy(size), even.weight, rtol=0, atol=1e-5)


def test_counts_are_checked():
    p = of(joint())
    for counts in (torch.ones(5, 3), -torch.ones(3, 5), torch.full((3, 5), torch.nan), torch.zeros(3, 5)):
        with pytest.raises(ConfigError, match="counts: expected"):
            fit(p, counts)
    with pytest.raises(ConfigError, match="l2: expected >= 0, got -1"):
        fit(p, torch.ones(3, 5), l2=-1)
    with pytest.raises(ConfigError, match="data: expected x, got no 'x'"):
        em(classes(), {"y": torch.ones(3)})
    with pytest.raises(ConfigError, match="counts: expected finite"):
        em(classes(), {"x": torch.tensor([0, 1]), "weight": torch.tensor([1.0, torch.nan])}, l2=0.1)
    with pytest.raises(DataError, match=r"element 0 of x: expected 0..7, .* got 8"):
        em(classes(), {"x": torch.tensor([0, 8])})


# No maximum


def test_a_feature_that_separates_is_named():
    features = Crossed.of(lambda word: [f"-{word[-3:]}"], ["walking", "talking", "walk"], 1)
    p = LogLinear(features).double()
    with pytest.warns(SeparationWarning, match=r"'-ing & z = 0' to \+∞.* l2 > 0"):
        fit(p, torch.tensor([[3.0, 2.0, 0.0]]))
    with pytest.warns(SeparationWarning, match="'-alk & z = 0' to −∞"):
        fit(p, torch.tensor([[3.0, 2.0, 0.0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(p, torch.tensor([[3.0, 2.0, 0.0]]), l2=0.01)
        fit(p, torch.tensor([[3.0, 2.0, 0.0]]), l1=0.01)
        fit(p, torch.tensor([[3.0, 2.0, 1.0]]))


def test_features_that_separate_together_are_named():
    """Neither number alone tells y apart, their sum does: two classes on both sides of a line."""
    c = np.array([[1.0, 0.2], [-0.5, 2.0], [-1.0, -0.1], [0.5, -2.0], [0.6, -0.3], [-0.6, 0.3]])
    y = np.array([1, 1, 0, 0, 1, 0])
    p = LogLinear(Crossed(np.array([[0.0], [1.0]]), c, ["y"], class_names=["a", "b"])).double()
    counts = torch.eye(2, dtype=torch.float64)[y]
    with pytest.warns(SeparationWarning, match="'y & a' to [+]∞"):
        fit(p, counts)
    y[0] = 0  # now they overlap
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(p, torch.eye(2, dtype=torch.float64)[y])


def test_em_names_a_value_that_never_occurs():
    model = latent_classes({"x": LogLinear(Crossed(np.eye(3), 2, ["a", "b", "c"]))})
    with pytest.warns(SeparationWarning, match="'c & z = 0' to −∞"):
        em(model, {"x": torch.tensor([0, 1, 1, 0])}, rounds=2)


# Refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dense", [True, False])
def test_a_feature_that_is_not_finite_is_named(bad, dense):
    matrix = np.eye(3)
    matrix[2, 1] = bad
    with pytest.raises(DataError, match=f"feature 'second': expected a finite number, got {bad} at x = 'w2'"):
        Crossed(matrix if dense else sparse.csr_matrix(matrix), 2, ["first", "second", "third"], ["w0", "w1", "w2"])
    with pytest.raises(DataError, match=r"feature 'length': .* at x = 'b', z = 1"):
        Joint.of(lambda x, z: {"length": bad if (x, z) == ("b", 1) else 1.0}, ["a", "b"], 2)


def test_sizes_beyond_enumeration_are_refused():
    bits = np.zeros((2, 40))
    schema = Schema.of_table(bits, [f"c{i}" for i in range(40)], ["binary"] * 40)
    with pytest.raises(ConfigError, match=r"some 10\^12 values of x .*40 columns of 2.* × 4 of z .* sum over every x"):
        build("log-linear", schema)
    with pytest.raises(ConfigError, match=r"some 10\^237 scores"):
        build("log-linear", Schema.of_pictures((1, 28, 28), levels=2))
    small = Schema.of_table(bits[:, :20], [f"c{i}" for i in range(20)], ["binary"] * 20)
    with pytest.raises(ConfigError, match=r"features .* held in memory"):
        build("log-linear", small)
    with pytest.raises(ConfigError, match=r"20,000,000 scores"):
        Crossed(sparse.csr_matrix((20_000, 1)), 1000)
    with pytest.raises(ConfigError, match="real column 'c0'"):
        build("log-linear", Schema.of_table(RNG.normal(size=(9, 2)), ["c0", "c1"]))


def test_shapes_are_checked():
    with pytest.raises(ConfigError, match="expected 3 names, got 2"):
        Crossed(np.eye(3), 2, ["a", "b"])
    with pytest.raises(ConfigError, match=r"\|Z\| = 2, got 5"):
        Joint(np.ones((5, 3)), 2)
    with pytest.raises(ConfigError, match="those of 4 values, got 3"):
        LogLinear(Crossed(np.eye(3), 2), Domain([2, 2], (2,)))
    with pytest.raises(ConfigError, match="r: expected 2 classes as the others, got 3"):
        latent_classes({"x": LogLinear(Crossed(np.eye(3), 2)), "r": LogLinear(Crossed(np.eye(3), 3))})


# z hidden


def classes(seed: int = 0, x: int = 8, f: int = 5, k: int = 3) -> Model:
    with seeded(seed):
        features = Crossed(np.random.default_rng(seed).normal(size=(x, f)), k)
        return latent_classes({"x": LogLinear(features)}).double()


def marginal(model: Model, x: Tensor) -> np.ndarray:
    """log p(x), enumerated with plain numpy."""
    g, w = model.p["x"].module.features.matrix.by_row.numpy(), model.p["x"].module.weight.detach().numpy()
    scores = g @ w
    table = scores - logsumexp(scores, axis=0)
    prior = model.p["z"].module.logits.detach().log_softmax(-1).numpy()
    return logsumexp(prior + table[x.numpy()], axis=1)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([(0.0, 0.0), (0.0, 1e-2), (1e-2, 1e-3)]), st.sampled_from([1, 3, 10]))
def test_em_never_falls(seed, penalties, steps):
    """However few steps the M-step takes."""
    model, (l1, l2) = classes(seed), penalties
    data = {"x": torch.arange(8), "weight": torch.from_numpy(np.random.default_rng(seed).integers(1, 20, 8)).double()}
    history = em(model, data, l1=l1, l2=l2, steps=steps, rounds=15, tolerance=0.0)
    objective = np.array([r.objective for r in history])
    assert len(objective) == 16
    assert (np.diff(objective) > -1e-12).all()
    assert objective[-1] > objective[0]
    truth = (marginal(model, data["x"]) * data["weight"].numpy()).sum() / data["weight"].sum()
    assert history[-1].log_likelihood == pytest.approx(float(truth), abs=1e-12)
    if not l1 and not l2:
        assert [r.log_likelihood for r in history] == objective.tolist()
    paid = penalty(model.p["x"].module.weight, l1, l2)
    assert history[-1].objective == pytest.approx((truth - paid).item(), abs=1e-12)


def test_em_ends_where_the_marginals_gradient_is_zero():
    model, l2 = classes(), 0.01
    data = {"x": torch.arange(8), "weight": torch.tensor([9.0, 1, 7, 2, 8, 1, 6, 3]).double()}
    em(model, data, l2=l2, steps=30, rounds=600, tolerance=1e-12)
    rows = model.evidence({"x": data["x"]}).elbo()
    objective = (rows * data["weight"]).sum() / data["weight"].sum() - penalty(model.p["x"].module.weight, 0, l2)
    objective.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-5


def test_main_features_are_latent_class_analysis():
    """From one start, round by round as EM with its closed forms, written out in numpy."""
    rows = RNG.integers(0, 2, size=(60, 4))
    schema = Schema.of_table(rows.astype(float), list("abcd"), ["binary"] * 4)
    with seeded(0):
        model = build("log-linear", schema, {"features": "main", "classes": 2, "l2": 0.0}).double()
    ones = torch.nn.functional.one_hot(torch.arange(2)).double()
    with torch.no_grad():
        theta = np.stack([model.p["x"].module(z[None]).mean[0].numpy() for z in ones])  # p(x_d = 1 | z)
    pi = np.full(2, 0.5)
    wanted = []
    for _ in range(12):
        log_joint = np.log(pi) + rows @ np.log(theta).T + (1 - rows) @ np.log1p(-theta).T
        wanted.append(logsumexp(log_joint, axis=1).mean())
        r = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
        pi, theta = r.mean(0), r.T @ rows / r.sum(0)[:, None]
    history = em(model, {"x": torch.from_numpy(rows)}, steps=500, rounds=11, tolerance=0.0)
    np.testing.assert_allclose([r.log_likelihood for r in history], wanted, atol=1e-9)


def test_batches_do_not_matter():
    x = torch.from_numpy(RNG.integers(0, 8, size=50))
    one, other = classes(), classes()
    em(one, {"x": x}, l2=0.01, rounds=3, tolerance=0.0)
    phase = expectation_maximisation(l2=0.01)
    for _ in range(3):
        state = phase.start(other)
        with torch.no_grad():
            for batch in x.split(7):
                state = phase.accumulate(other, state, {"x": batch})
        phase.apply(other, state)
    torch.testing.assert_close(other.p["x"].module.weight, one.p["x"].module.weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(other.p["z"].module.logits, one.p["z"].module.logits, rtol=0, atol=1e-9)


def test_weights_equal_repeated_rows():
    x, weight = torch.arange(8), torch.tensor([3, 1, 0, 2, 5, 1, 1, 4])
    one, other = classes(), classes()
    em(one, {"x": x, "weight": weight}, l2=0.01, rounds=4, tolerance=0.0)
    em(other, {"x": x.repeat_interleave(weight)}, l2=0.01, rounds=4, tolerance=0.0)
    torch.testing.assert_close(other.p["x"].module.weight, one.p["x"].module.weight, rtol=0, atol=1e-9)


def test_two_things_explained_by_one_class():
    """p(z) p(x | z) p(r | z): the posterior is exact, and so is the likelihood."""
    with seeded(0):
        x, r = (LogLinear(Crossed(RNG.normal(size=(n, 3)), 3)) for n in (5, 4))
        model = latent_classes({"x": x, "r": r}).double()
    data = {"x": torch.from_numpy(RNG.integers(0, 5, 30)), "r": torch.from_numpy(RNG.integers(0, 4, 30))}
    assert model.likelihood == EXACT
    prior = model.p["z"].module.logits.log_softmax(-1)
    truth = (prior + x.table().mT[data["x"]] + r.table().mT[data["r"]]).logsumexp(-1)
    for log_w in model.evidence(data, particles=4).log_w:
        torch.testing.assert_close(log_w, truth, rtol=0, atol=1e-12)
    history = em(model, data, l2=1e-3, rounds=20, tolerance=0.0)
    assert (np.diff([h.objective for h in history]) > -1e-12).all()


def test_labels_are_classes():
    """All known: p(z) and p(x | z) each from what was counted. Some known: the others are inferred."""
    y = torch.from_numpy(RNG.integers(0, 2, 80))
    x = torch.where(y == 0, torch.from_numpy(RNG.integers(0, 3, 80)), torch.from_numpy(RNG.integers(1, 4, 80)))
    model = latent_classes({"x": LogLinear(Crossed(np.eye(4), 2))}).double()
    l2 = 1e-4
    em(model, {"x": x, "y": y}, l2=l2, steps=1000, rounds=1, labels=True)
    counts = torch.zeros(2, 4).double().index_put((y, x), torch.ones(80).double(), accumulate=True)
    alone = LogLinear(Crossed(np.eye(4), 2)).double()
    fit(alone, counts, l2=l2)
    torch.testing.assert_close(model.p["x"].module.table().exp(), alone.table().exp(), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.p["z"].module().probs, counts.sum(1) / 80)
    some = torch.where(torch.arange(80) < 20, y, -1)
    history = em(model, {"x": x, "y": some}, l2=l2, rounds=20, labels=True, tolerance=0.0)
    assert (np.diff([h.objective for h in history]) > -1e-12).all()
    joint = model.p["z"].module.logits.log_softmax(-1)[:, None] + model.p["x"].module.table()
    truth = torch.where(some < 0, joint.logsumexp(0)[x], joint[y, x]).mean()
    assert history[-1].log_likelihood == pytest.approx(truth.item(), abs=1e-12)


# On tables


def table(rows: int = 600) -> np.ndarray:
    """Binary columns that depend on each other, by two classes and by a copy."""
    rng = np.random.default_rng(3)
    z = rng.random(rows) < 0.4
    x = rng.random((rows, 4)) < np.where(z[:, None], [0.9, 0.8, 0.2, 0.5], [0.1, 0.3, 0.7, 0.5])
    return np.column_stack([x, x[:, 3] ^ (rng.random(rows) < 0.1)]).astype(float)


def dataset(x: np.ndarray, kind: str = "binary", y: np.ndarray | None = None) -> Dataset:
    extra = {} if y is None else {"classes": tuple(str(i) for i in range(y.max() + 1))}
    schema = Schema.of_table(x, [f"c{i}" for i in range(x.shape[1])], [kind] * x.shape[1], **extra)  # pyright: ignore
    split = Split(x, y=y)
    return Dataset("made", schema, {"train": split, "valid": split, "test": split})


def test_pairs_tell_what_depends():
    """One class with pairs scores as its enumeration does, and better than columns alone."""
    x = table()
    found = {
        name: train("log-linear", dataset(x), classes=1, features=name, epochs=15, batch_size=200).score()
        for name in ("main", "pairs")
    }
    frequencies = x.mean(0)
    alone = (frequencies * np.log(frequencies) + (1 - frequencies) * np.log1p(-frequencies)).sum()
    assert found["main"].kind == EXACT
    assert found["main"].nats == pytest.approx(alone, abs=1e-3)
    assert found["pairs"].nats > found["main"].nats + 0.3
    _, counts = np.unique(x, axis=0, return_counts=True)
    saturated = (counts / len(x) * np.log(counts / len(x))).sum()  # of every value a frequency of its own
    assert found["pairs"].nats < saturated
    assert found["pairs"].nats > saturated - 0.02


@pytest.mark.parametrize("fit", ["em", "gradient"])
def test_training_is_saved_and_goes_on(fit, tmp_path):
    x = table()
    options = {"classes": 2, "features": "main", "fit": fit, "batch_size": 100}
    options |= {} if fit == "em" else {"lr": 0.05}
    run = train("log-linear", dataset(x), out=tmp_path / "run", epochs=40, **options)
    assert run.score().nats == open_run(tmp_path / "run").score(x).nats
    codes = run.encode(x)
    assert codes.shape == (600, 2)  # p(z | x)
    np.testing.assert_allclose(codes.sum(1), 1, atol=1e-6)
    drawn = np.asarray(run.sample(4000))
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=0.05)
    likelihoods = [line["valid"]["log_likelihood"] for line in run.log]
    assert likelihoods[-1] > likelihoods[0]
    if fit == "em":
        assert (np.diff(likelihoods) > -1e-6).all()


def test_em_and_gradient_find_the_same_likelihood():
    x = table()
    options = {"classes": 2, "features": "main", "l2": 1e-3, "batch_size": 600}
    a = train("log-linear", dataset(x), fit="em", epochs=60, **options)
    b = train("log-linear", dataset(x), fit="gradient", epochs=300, lr=0.1, average=0.0, **options)
    assert a.score().nats == pytest.approx(b.score().nats, abs=2e-3)


def test_shared_weights_leave_less_to_the_classes():
    """With h(z) = [1, indicator of z] and λ₁, what classes have in common stands once."""
    run = train("log-linear", dataset(table()), classes=3, shared=True, features="main", l1=0.02, l2=0.0, epochs=30)
    weight = run.model.p["x"].module.weight
    assert weight.shape == (5, 4)
    assert (weight == 0).float().mean() > 0.3


def test_labelled_tables():
    """z is the label, and p(z | x) classifies as Bayes' rule on frequencies does."""
    x = table()
    y = x[:, 0].astype(int)
    run = train("log-linear", dataset(x[:, 1:], y=y), labels=True, features="pairs", epochs=10)
    assert (run.encode(x[:, 1:]).argmax(1) == y).mean() > 0.7
    share = run.model.p["z"].module().probs.detach()
    np.testing.assert_allclose(share, [1 - y.mean(), y.mean()], atol=1e-5)
    with pytest.raises(ConfigError, match="labels: expected data with labels, got none"):
        build("log-linear", dataset(x).schema, {"labels": True})


def test_counts_above_the_top_are_refused():
    x = RNG.poisson(1.0, size=(50, 2)).astype(float)
    x[7, 1] = 12
    with pytest.raises(DataError, match=r"column 'c1': expected 0..9, .* got 12"):
        train("log-linear", dataset(x, "count"), epochs=1)
    run = train("log-linear", dataset(x, "count"), epochs=2, top=12)
    assert np.isfinite(run.score().nats)
    assert isinstance(run, Run)
