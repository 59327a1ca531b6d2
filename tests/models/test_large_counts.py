"""Counts of any size: encoders see them squashed, with gaps and without."""

import numpy as np
import pandas
import pytest
import torch
from scipy.stats import nbinom

import jensen
from jensen.conditionals.amortized import Beside, Squash, reading
from jensen.conditionals.flows import Columns, Context
from jensen.conditionals.heads import Support
from jensen.data.schema import Schema
from jensen.nets import linear
from jensen.registry import build

ALPHA = np.array([0.1, 0.4, 1.0])


def table(mean: float, rows: int, seed: int) -> pandas.DataFrame:
    """Independent negative binomial columns."""
    x = np.random.default_rng(seed).negative_binomial(1 / ALPHA, 1 / (1 + ALPHA * mean), (rows, 3))
    return pandas.DataFrame(x.astype(float), columns=pandas.Index(list("abc")))


@pytest.mark.parametrize(
    ("name", "mean", "given"), [("vae", 1e4, []), ("vae", 1e6, ["c"]), ("hvae", 100, []), ("hvae", 1e4, ["c"])]
)
def test_large_counts_score_as_well_as_independent_ones(name, mean, given):
    train, test = table(mean, 1000, 0), table(mean, 1000, 1)
    own = [column for column in train if column not in given]
    kinds = dict.fromkeys(own, "count")
    run = jensen.train(name, train, kinds=kinds, likelihood="negative-binomial", epochs=10, given=given)
    x, m, v = test[own].to_numpy(), train[own].to_numpy().mean(0), train[own].to_numpy().var(0)
    r = m**2 / (v - m)
    independent = nbinom.logpmf(x, r, r / (r + m)).sum(1).mean()
    assert run.score(test).nats > independent - 0.1  # nats, of a model that learned from 1,000 rows


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("context", [False, True])
def test_encoders_see_counts_squashed(gaps, context):
    support = Support("count", (3,), gaps=gaps)
    network, join = reading(linear, support, (2,), Context([Columns(1)]) if context else None)
    x = torch.tensor([[0.0, 7.0, 1e6], [3.0, 1.0, 2e4]])
    rest = [*([torch.ones(2, 3)] if gaps else []), *([torch.zeros(2, 1)] if context else [])]
    seen = []
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    network(x, *rest) if join is None else network(join(x, *rest))
    torch.testing.assert_close(seen[0][:, :3], x.asinh())


@pytest.mark.parametrize("support", [Support("binary", (1, 4, 4)), Support("real", (3,)), Support("levels", (3,), 9)])
@pytest.mark.parametrize("context", [None, Context([Columns(1)])])
def test_of_other_data_nothing_is_squashed(support, context):
    network, join = reading(linear, support, (2,), context)
    assert not any(isinstance(part, Squash) for part in network.modules())
    assert join is None or (isinstance(join, Beside) and not isinstance(join.first, Squash))


def test_the_contractive_penalty_takes_squashed_counts():
    """‖∂z/∂f‖² with f = asinh x, as the network sees them: of a linear one Σ W², whatever the counts."""
    schema = Schema.of_table(np.array([[0.0, 5.0], [9.0, 1e4]]), ["a", "b"], ["count", "count"])
    model = build("autoencoder", schema, {"latents": 2, "encoder": "linear", "contractive": 1.0}).double()
    x = torch.tensor([[0.0, 5.0], [9.0, 1e4]], dtype=torch.float64)
    terms = model.objective.stages[0].phases[0].loss(model, {"x": x}, 1.0)
    (weight,) = (w for w in model.q["z"].module.parameters() if w.dim() == 2)
    torch.testing.assert_close(terms.logged["contraction"], weight.detach().square().sum())
