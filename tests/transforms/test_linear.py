"""The triangular factorisation and permutations, against plain linear algebra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jensen.core import seeded
from jensen.transforms import LULinear, Permutation
from jensen.transforms.permutation import reverse, shuffle


def matrix_of(linear: LULinear) -> torch.Tensor:
    """W of z = W x, by mapping the unit vectors."""
    n = linear.domain_shape[0]
    unit = torch.eye(n, dtype=linear.factors.dtype).view(n, n, *[1] * (len(linear.domain_shape) - 1))
    return linear.inverse(unit.expand(n, *linear.domain_shape))[(..., *[0] * (len(linear.domain_shape) - 1))].mT


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 30), seed=st.integers(0, 1000))
def test_it_starts_as_a_rotation(n, seed):
    with seeded(seed), torch.no_grad():
        w = matrix_of(LULinear((n,)).double())
    torch.testing.assert_close(w @ w.mT, torch.eye(n, dtype=w.dtype), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 30), seed=st.integers(0, 1000))
def test_it_starts_as_a_permutation_where_that_is_asked_for(n, seed):
    with seeded(seed), torch.no_grad():
        w = matrix_of(LULinear((n,), start="permutation"))
    assert sorted(w.argmax(1).tolist()) == list(range(n))
    assert torch.equal(w, torch.eye(n)[w.argmax(1)])


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 12), seed=st.integers(0, 1000), pixels=st.sampled_from([(), (2, 3)]))
def test_the_determinant_is_that_of_the_matrix(n, seed, pixels):
    with seeded(seed), torch.no_grad():
        linear = LULinear((n, *pixels)).double()
        linear.factors.add_(0.3 * torch.randn_like(linear.factors))
        x = torch.randn(4, n, *pixels, dtype=torch.float64)
        z, ladj = linear.inverse_and_ladj(x)
        again, back = linear.forward_and_ladj(z)
        w = matrix_of(linear)
    torch.testing.assert_close(z, torch.einsum("ij,nj...->ni...", w, x))
    count = 6 if pixels else 1
    torch.testing.assert_close(ladj, count * torch.linalg.slogdet(w)[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again, x, rtol=1e-7, atol=1e-7)
    assert ladj == -back


def test_pivots_stay_away_from_zero():
    linear = LULinear((3,))
    with torch.no_grad():
        linear.factors.diagonal().fill_(-1e6)
        x = torch.randn(5, 3)
        torch.testing.assert_close(linear(linear.inverse(x)), x, rtol=1e-3, atol=1e-3)


def test_training_reaches_a_given_matrix():
    """A normal with full covariance: the maximum of the likelihood is its Cholesky factor's, log det = −½ log |Σ|."""
    with seeded(0):
        factor = torch.tensor([[1.0, 0, 0], [2.0, 0.5, 0], [-1.0, 0.3, 2.0]])
        x = torch.randn(4000, 3) @ factor.mT
        linear = LULinear((3,))
        optimizer = torch.optim.Adam(linear.parameters(), 0.02)
        for _ in range(400):
            z, ladj = linear.inverse_and_ladj(x)
            loss = 0.5 * z.square().sum(1).mean() - ladj
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    w = matrix_of(linear).detach()
    empirical = x.mT @ x / len(x)
    torch.testing.assert_close(w @ empirical @ w.mT, torch.eye(3), rtol=0, atol=0.02)


@pytest.mark.parametrize("make", [lambda: reverse((5,)), lambda: shuffle((5,)), lambda: shuffle((5, 2, 2))])
def test_a_permutation_moves_elements_and_nothing_else(make):
    permutation = make()
    z = torch.randn(3, *permutation.domain_shape)
    x, ladj = permutation.forward_and_ladj(z)
    assert ladj == 0
    assert torch.equal(x, z[:, permutation.order])
    assert torch.equal(permutation.inverse(x), z)


def test_reverse_is_backwards():
    assert torch.equal(reverse((3,))(torch.tensor([[1.0, 2, 3]])), torch.tensor([[3.0, 2, 1]]))


def test_a_shuffle_is_kept_with_the_weights():
    one, two = shuffle((50,)), shuffle((50,))
    assert not torch.equal(one.order, two.order)
    two.load_state_dict(one.state_dict())
    z = torch.randn(2, 50)
    assert torch.equal(one(z), two(z))
    assert torch.equal(two.inverse(two(z)), z)


def test_what_is_no_order_is_refused():
    with pytest.raises(ValueError, match="expected an order of 3 features"):
        Permutation((3,), [0, 1, 1])
