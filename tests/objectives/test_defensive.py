"""The second look at a target, against integrals that are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from jensen.distributions import DiagonalNormal
from jensen.objectives.defensive import SecondLook, Wider, look_again

SEEDS = range(5)
STUDENT: Any = scipy.stats.multivariate_t


def seen(log_target, q, n: int = 5000, dtype: torch.dtype = torch.float64) -> tuple[float, float, SecondLook]:
    """log Z by q alone, its error, and the second look."""
    u = q.sample((n,)).to(dtype)
    log_q = q.log_prob(u)
    log_w = log_target(u) - log_q
    w = (log_w - log_w.max()).exp()
    alone = float(log_w.logsumexp(0)) - math.log(n)
    return alone, float(w.std() / w.mean() / math.sqrt(n)), look_again(log_target, q, u, log_w, log_q)


def standard(dims: int) -> DiagonalNormal:
    return DiagonalNormal(torch.zeros(dims, dtype=torch.float64), torch.ones(dims, dtype=torch.float64))


def test_the_wider_density_is_student_t():
    torch.manual_seed(0)
    u = torch.randn(500, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 2
    wider = Wider.around(u)
    truth = STUDENT(u.mean(0), 4 * torch.cov(u.T).numpy(), df=3)
    far = wider.sample(200)
    torch.testing.assert_close(wider.log_prob(far), torch.from_numpy(truth.logpdf(far.numpy())))
    few = Wider.around(u[:5])  # too few draws for a covariance
    truth = STUDENT(u[:5].mean(0), 4 * u[:5].var(0).diag().numpy(), df=3)
    torch.testing.assert_close(few.log_prob(far), torch.from_numpy(truth.logpdf(far.numpy())))


@pytest.mark.parametrize("scale", ["full", "diagonal"])
def test_draws_of_the_wider_density_follow_it(scale):
    """Squared distances over D are F-distributed with D and ν degrees of freedom (Kotz and Nadarajah 2004)."""
    torch.manual_seed(1)
    root = torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    wider = Wider(torch.tensor([3.0, -1.0], dtype=torch.float64), root if scale == "full" else root.diagonal())
    tril = wider.scale if wider.scale.dim() == 2 else wider.scale.diag()
    x = wider.sample(4000) - wider.loc
    distance = torch.linalg.solve_triangular(tril, x.T, upper=False).square().sum(0) / 2
    assert scipy.stats.kstest(distance.numpy(), scipy.stats.f(2, 3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dims", [1, 5, 20])
def test_it_agrees_where_q_is_the_target(dims, seed):
    torch.manual_seed(seed)
    q = standard(dims)
    alone, stderr, second = seen(lambda u: q.log_prob(u) + 3, q)
    assert alone == pytest.approx(3) and stderr < 1e-6
    assert abs(second.log_evidence - 3) < 4 * second.stderr < 0.05
    assert not second.misses(alone, stderr)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mode_that_q_never_visits_is_found(seed):
    """Z = 1, of which 0.3 lies 8 standard deviations away from q."""
    torch.manual_seed(seed)

    def two(u: Tensor) -> Tensor:
        near, far = Normal(0.0, 1.0).log_prob(u[:, 0]), Normal(8.0, 1.0).log_prob(u[:, 0])
        return torch.logaddexp(near + math.log(0.7), far + math.log(0.3))

    alone, stderr, second = seen(two, standard(1))
    assert alone == pytest.approx(math.log(0.7), abs=1e-3)
    assert abs(second.log_evidence) < 4 * second.stderr
    assert second.misses(alone, stderr)


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_of_q_that_make_up_for_it_are_enough(seed):
    """A normal too narrow by a tenth in each of five dimensions: the weights see all there is."""
    torch.manual_seed(seed)
    scale = torch.full((5,), 1.1, dtype=torch.float64)
    target = MultivariateNormal(torch.zeros(5, dtype=torch.float64), scale_tril=scale.diag(), validate_args=False)
    alone, stderr, second = seen(target.log_prob, standard(5))
    assert abs(second.log_evidence) < 4 * second.stderr
    assert not second.misses(alone, stderr)


def test_where_the_target_cannot_be_computed_it_counts_as_nothing():
    """NaN beyond 4, infinite below −4, failures beyond 6: a normal's mass all the same, never more, and no error."""
    torch.manual_seed(0)
    q = standard(1)

    def fragile(u: Tensor) -> Tensor:
        if (u[:, 0] > 6).any():
            raise ValueError("too large")
        log_p = q.log_prob(u)
        log_p = torch.where(u[:, 0] > 4, torch.nan, log_p)
        return torch.where(u[:, 0] < -4, torch.inf, log_p)

    alone, stderr, second = seen(fragile, q)
    assert abs(second.log_evidence) < 4 * second.stderr
    assert not second.misses(alone, stderr)


def test_a_target_that_always_fails_is_not_asked_for_ever():
    torch.manual_seed(0)
    q, calls = standard(1), []

    def fragile(u: Tensor) -> Tensor:
        calls.append(len(u))
        raise RuntimeError("nowhere")

    u = q.sample((20_000,))
    second = look_again(fragile, q, u, torch.zeros(20_000, dtype=torch.float64), q.log_prob(u))
    assert len(calls) < 6000
    assert second.log_evidence < 0  # never more than there is


def test_single_precision_goes_in_and_out():
    torch.manual_seed(0)
    q = DiagonalNormal(torch.zeros(2), torch.ones(2))

    def target(u: Tensor) -> Tensor:
        assert u.dtype == torch.float32
        return q.log_prob(u)

    _, _, second = seen(target, q, dtype=torch.float32)
    assert abs(second.log_evidence) < 4 * second.stderr
