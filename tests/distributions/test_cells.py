"""Densities of cells against scipy, quadrature and enumeration; a record against its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from jensen.distributions import (
    Bernoulli,
    BoundedLogistic,
    DiagonalNormal,
    LogNormal,
    Names,
    Record,
    WholeLogisticMixture,
)
from jensen.errors import CapabilityError

torch.manual_seed(0)
LOC, SCALE = torch.tensor([-1.5, 0.3, 2.0]).double(), torch.tensor([0.2, 1.0, 0.5]).double()


def test_a_log_normal_is_scipys():
    ours, theirs = LogNormal(LOC, SCALE, 1), stats.lognorm(SCALE.numpy(), scale=LOC.exp().numpy())
    x = torch.tensor([0.1, 1.7, 9.0]).double()
    np.testing.assert_allclose(ours.log_prob_terms(x), theirs.logpdf(x), rtol=1e-10)
    np.testing.assert_allclose(ours.mean, theirs.mean(), rtol=1e-10)
    np.testing.assert_allclose(ours.variance, theirs.var(), rtol=1e-10)
    np.testing.assert_allclose(ours.quantile(torch.full((3,), 0.3).double()), theirs.ppf(0.3), rtol=1e-7)


@pytest.mark.parametrize(("loc", "scale"), [(0.4, 0.1), (-0.5, 0.2), (1.3, 0.05), (0.5, 5.0), (0.0, 0.01)])
def test_a_bounded_logistic_integrates_to_one_and_has_its_mean(loc, scale):
    p = BoundedLogistic(torch.tensor([loc]).double(), torch.tensor([scale]).double())

    def density(x: float) -> float:
        return float(p.log_prob(torch.tensor([x]).double()).exp())

    around = [min(max(loc, 0.0), 1.0)]
    assert integrate.quad(density, 0, 1, points=around)[0] == pytest.approx(1, abs=1e-7)
    assert float(p.mean) == pytest.approx(integrate.quad(lambda x: x * density(x), 0, 1, points=around)[0], abs=1e-6)
    u = 0.35
    assert integrate.quad(density, 0, float(p.quantile(torch.tensor([u]).double())))[0] == pytest.approx(u, abs=1e-5)
    drawn = p.sample(torch.Size((4000,)))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert float(drawn.mean()) == pytest.approx(float(p.mean), abs=4 * float(drawn.std()) / 4000**0.5 + 1e-9)


@pytest.mark.parametrize(("loc", "scale"), [(-1.0, 0.05), (-5.0, 0.2), (2.0, 0.05), (0.5, 1e3), (-20.0, 0.1)])
def test_a_bounded_logistic_far_outside_its_bounds_keeps_its_mean(loc, scale):
    """In float32 against quadrature of exp(log p), in float64: the limit is a truncated exponential."""
    p = BoundedLogistic(torch.tensor([loc]), torch.tensor([scale]))
    x = torch.linspace(0, 1, 200001).double()
    exact = BoundedLogistic(torch.tensor([loc]).double(), torch.tensor([scale]).double())
    weight = exact.log_prob(x[:, None]).exp()
    mean = float((weight * x).mean() / weight.mean())
    assert float(p.mean) == pytest.approx(mean, abs=2e-4)
    torch.manual_seed(0)
    drawn = p.sample(torch.Size((4000,)))
    assert float(drawn.mean()) == pytest.approx(mean, abs=5 * float(drawn.std()) / 4000**0.5 + 2e-4)


@pytest.mark.parametrize("scale", [0.05, 0.7, 1.3, 8.0])
def test_whole_numbers_have_probabilities_that_sum_to_one_and_their_mean(scale):
    loc = torch.tensor([[-3.0, 0.2, 11.6]]).double()
    p = WholeLogisticMixture(torch.tensor([[0.0, 1.0, -1.0]]).double(), loc, torch.full_like(loc, scale))
    x = torch.arange(2000.0).double().unsqueeze(-1)
    probs = p.log_prob(x).exp()
    assert float(probs.sum()) == pytest.approx(1, abs=1e-9)
    assert float(p.mean) == pytest.approx(float((probs * x[:, 0]).sum()), abs=2e-3)
    assert float(p.log_prob(p.mode)) >= float(p.log_prob(x.round()).max()) - 1e-9 or scale > 1


def test_far_numbers_keep_a_finite_density_and_gradient():
    loc = torch.tensor([[0.0, 1e5]], requires_grad=True)
    p = WholeLogisticMixture(torch.zeros(1, 2), loc, torch.tensor([[0.05, 3.0]]))
    found = p.log_prob(torch.tensor([1.6e7]))
    found.sum().backward()
    assert found.isfinite()
    assert loc.grad is not None
    assert loc.grad.isfinite().all()


def test_names_that_a_column_does_not_have_have_no_probability():
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [0.5, 0.5, 0.5]])
    p = Names(logits)
    assert p.probs[0, 2] == 0
    assert p.sample(torch.Size((200,)))[:, 0].max() == 1
    with pytest.raises(CapabilityError, match="names have no mean"):
        _ = p.mean


def test_a_record_is_its_parts_in_the_order_of_columns():
    bits, real = Bernoulli(torch.randn(5, 2)), DiagonalNormal(torch.randn(5, 1), torch.ones(5, 1))
    names = Names(torch.randn(5, 1, 4))
    p = Record([bits, real, names], [[3, 0], [2], [1]])
    assert (p.batch_shape, p.event_shape) == ((5,), (4,))
    x = p.sample()
    expected = bits.log_prob(x[:, [3, 0]]) + real.log_prob(x[:, [2]]) + names.log_prob(x[:, [1]])
    torch.testing.assert_close(p.log_prob(x), expected)
    torch.testing.assert_close(p.log_prob_terms(x)[:, 3], bits.log_prob_terms(x[:, [3, 0]])[:, 0])
    index = torch.tensor([4, 4, 1])
    torch.testing.assert_close(p.rows(index).log_prob(x[index]), expected[index])
    torch.testing.assert_close(p.unflatten((5, 1)).log_prob(x[:, None]), expected[:, None])
    assert p.mean[:, 1].tolist() == names.mode[:, 0].tolist()
