"""Normal posteriors: densities that their draws follow, with the covariances and divergences that they should have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats as st
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from jensen.conditionals.posteriors import diagonal, full, low_rank, mean
from jensen.conditionals.priors import gaussian, normal
from jensen.data import Schema
from jensen.distributions import DiagonalNormal, divergence
from jensen.distributions.multivariate import LowRankNormal
from jensen.registry import build

D, B = 3, 4
HEADS: dict[str, Any] = {
    "diagonal": diagonal,
    "mean": mean,
    "full": full,
    "low-rank": low_rank,
    "of full rank": lambda z: low_rank(z, rank=5),
}
every_head = pytest.mark.parametrize("name", HEADS)


def made(name: str, dims: int = D, rows: int = B) -> Any:
    torch.manual_seed(0)
    head = HEADS[name]((dims,))
    return head(torch.randn(rows, *head.parameter_shape).double())


def covariance(q: Any) -> Tensor:
    """(B, D, D)."""
    return q.covariance_matrix if hasattr(q, "covariance_matrix") else torch.diag_embed(q.variance)


@every_head
def test_log_q_is_scipys(name):
    """log q, its entropy and KL to another normal against a dense normal density."""
    q = made(name)
    z = torch.randn(5, B, D).double()
    for b in range(B):
        other = st.multivariate_normal(q.mean[b].numpy(), covariance(q)[b].numpy())  # pyright: ignore
        np.testing.assert_allclose(q.log_prob(z)[:, b], other.logpdf(z[:, b].numpy()), rtol=1e-9)
        np.testing.assert_allclose(q.entropy()[b], other.entropy(), rtol=1e-9)


@every_head
def test_draws_bring_their_density(name):
    """By the change of variables: the density of the noise over |det| of the map from noise to draw, by autograd."""
    q = made(name)
    torch.manual_seed(1)
    z, log_q = q.rsample_and_log_prob((7,))
    torch.testing.assert_close(q.log_prob(z), log_q)
    if name in ("low-rank", "of full rank"):  # more noise than draw: no inverse
        return
    noise = torch.zeros(D).double()
    for b in range(B):

        def draw(e: Tensor, b: int = b) -> Tensor:
            one = q.scale_tril[b] if name == "full" else torch.diag_embed(q.stddev[b])
            return q.mean[b] + one @ e

        jacobian = torch.autograd.functional.jacobian(draw, noise)
        e = torch.linalg.solve(jacobian, (z[0, b] - q.mean[b]))
        found = -0.5 * e.square().sum() - 0.5 * D * math.log(2 * math.pi) - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(log_q[0, b], found)


@every_head
def test_draws_have_the_moments(name):
    q, n = made(name), 100_000
    torch.manual_seed(2)
    z, _ = q.rsample_and_log_prob((n,))
    sigma = covariance(q)
    assert ((z.mean(0) - q.mean).abs() < 4.5 * (q.variance / n).sqrt()).all()
    centred = z - q.mean
    found = torch.einsum("nbi,nbj->bij", centred, centred) / n
    spread = (sigma.square() + q.variance[:, :, None] * q.variance[:, None]) / n  # Isserlis
    assert ((found - sigma).abs() < 4.5 * spread.sqrt()).all()


@every_head
@pytest.mark.parametrize("prior", [normal, gaussian])
def test_divergence_in_closed_form(name, prior):
    """Against Monte Carlo, and torch's of dense normals."""
    q, p = made(name), prior((D,)).double()
    with torch.no_grad():
        for parameter in p.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        p = p()
        closed = divergence(q, p)
        assert closed.kind == "closed form"
        drawn = divergence(q, p, samples=20_000)
        assert drawn.stderr is not None
        assert ((closed.value - drawn.value).abs() < 4 * drawn.stderr).all()
        dense = torch.distributions.MultivariateNormal
        theirs = kl_divergence(dense(q.mean, covariance(q)), dense(p.mean, torch.diag_embed(p.variance)))
    torch.testing.assert_close(closed.value, theirs)
    assert (closed.value > 0).all()


@every_head
def test_divergence_has_the_gradient_of_its_estimate(name):
    head = HEADS[name]((2,))
    parameters = torch.randn(2, *head.parameter_shape).double()
    p = DiagonalNormal(torch.tensor([0.3, -1.0]).double(), torch.tensor([0.5, 2.0]).double())
    assert torch.autograd.gradcheck(lambda v: kl_divergence(head(v), p), parameters.requires_grad_())


@every_head
def test_zeros_are_the_standard_normal(name):
    head = HEADS[name]((D,))
    q = head(torch.zeros(2, *head.parameter_shape))
    torch.testing.assert_close(covariance(q), torch.eye(D).expand(2, D, D))
    torch.testing.assert_close(kl_divergence(q, normal((D,))()), torch.zeros(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["full", "low-rank"])
@pytest.mark.parametrize("raw", [-40.0, 40.0])
def test_extreme_outputs_stay_finite(name, raw):
    """In float32, scales at their floor under large correlations."""
    head = HEADS[name]((8,))
    torch.manual_seed(0)
    parameters = 5 * torch.randn(64, *head.parameter_shape)
    parameters[:, 8:16] = raw
    parameters.requires_grad_()
    z, log_q = head(parameters).rsample_and_log_prob((10,))
    (log_q.sum() + kl_divergence(head(parameters), normal((8,))()).sum() + z.sum()).backward()
    assert torch.isfinite(log_q).all()
    assert parameters.grad is not None and torch.isfinite(parameters.grad).all()


def test_low_rank_keeps_its_digits_where_the_floor_is_low():
    """In float32, where Woodbury's identity loses them: a difference of numbers of 10⁶."""
    torch.manual_seed(0)
    loc, factor, diagonal = torch.randn(50, 6), torch.randn(50, 6, 2), torch.full((50, 6), 1e-6)
    exact = LowRankNormal(loc.double(), factor.double(), diagonal.double())
    q = LowRankNormal(loc, factor, diagonal)
    z, log_q = q.rsample_and_log_prob()
    truth = torch.distributions.LowRankMultivariateNormal(loc, factor, diagonal, validate_args=False).log_prob(z)
    theirs = (truth - exact.log_prob(z.double())).abs().median()
    ours = (q.log_prob(z) - exact.log_prob(z.double())).abs().median()
    assert ours < 1e-2 and ours < theirs / 10
    assert (log_q.double() - exact.log_prob(z.double())).abs().median() < 1e-2


@every_head
def test_stopped_tempered_and_seen_by_particles(name):
    q, z = made(name, rows=6), torch.randn(6, D).double()
    torch.testing.assert_close(q.detach().log_prob(z), q.log_prob(z))
    torch.testing.assert_close(q.unflatten((2, 3)).log_prob(z.unflatten(0, (2, 3))), q.log_prob(z).unflatten(0, (2, 3)))
    torch.testing.assert_close(covariance(q.tempered(0.5)), covariance(q) / 4)


def test_learned_normal_is_a_normal_that_learns_scale_and_place():
    """The best prior of a mean-only posterior has the mean and the deviation of what it infers."""
    torch.manual_seed(0)
    p, z = gaussian((2,)), torch.tensor([2.0, -1.0]) + torch.tensor([0.5, 3.0]) * torch.randn(2000, 2)
    torch.testing.assert_close(p().log_prob(z), normal((2,))().log_prob(z))
    optimizer = torch.optim.Adam(p.parameters(), 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (-p().log_prob(z).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(p().mean, z.mean(0), rtol=0, atol=2e-2)
        torch.testing.assert_close(p().stddev, z.std(0, correction=0), rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", ["full", "low-rank"])
def test_it_stands_in_a_vae(name):
    """With one latent too; a walk's log-densities are those of the distribution met, whatever the particles."""
    schema = Schema.of_pictures((1, 2, 2), levels=2)
    for latents in (1, 5):
        model = build("vae", schema, {"latents": latents, "posterior": name, "prior": "gaussian"}).double()
        e = model.evidence({"x": torch.ones(3, 1, 2, 2).double()}, 4)
        found = e.q["z"].log_prob(e.values["z"].unflatten(0, (4, 3)))
        torch.testing.assert_close(e.log_q["z"], found)
        assert e.closed_kl("z") is not None
