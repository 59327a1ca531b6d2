"""Whole numbers as floors: noise stays in its bin, its density is honest, and the bounds lie below the exact P(x)."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats as st
import torch
from torch import Tensor, nn

from jensen.conditionals.dequantization import GRID, Floor, LearnedOnBins, VariationalDequantizer, uniform, variational
from jensen.conditionals.flows import Flow
from jensen.conditionals.heads import Support
from jensen.conditionals.priors import normal
from jensen.core import Joint, Model
from jensen.transforms import Composed, Inverse, Planar, levels

GREY = Support("levels", (1, 2, 2), levels=256)
SUPPORTS = {
    "grey pictures": GREY,
    "pictures of odd sides": Support("levels", (3, 3, 5), levels=8),
    "one pixel": Support("levels", (2, 1, 1), levels=4),
    "binary pictures": Support("binary", (1, 4, 4)),
    "binary rows": Support("binary", (5,)),
    "counts": Support("count", (3,)),
    "one count": Support("count", (1,)),
}
every_support = pytest.mark.parametrize("name", SUPPORTS)


def moved(support: Support, size: float = 0.5, **settings: int) -> VariationalDequantizer:
    """Weights away from where they start."""
    torch.manual_seed(0)
    q = variational(support, **{"width": 8, **settings})
    with torch.no_grad():
        for p in q.parameters():
            p.add_(size * torch.randn_like(p) / math.sqrt(p[0].numel()))
    assert isinstance(q, VariationalDequantizer)
    return q


def data(support: Support, n: int) -> Tensor:
    top = {"binary": 2, "levels": support.levels, "count": 9}[support.kind]
    return torch.randint(0, top or 2, (n, *support.shape)).float()


# The bin


@pytest.mark.parametrize("name", ["uniform", "variational", "variational, saturated"])
def test_grey_level_255_is_never_left(name):
    """A million draws in float32."""
    q = uniform(GREY) if name == "uniform" else moved(GREY)
    if name.endswith("saturated"):
        with torch.no_grad():
            for p in q.parameters():
                p.mul_(30)
    x = torch.full((250, 1, 2, 2), 255.0)
    with torch.no_grad():
        v, log_q = q(x).rsample_and_log_prob((1000,))
    assert v.numel() == 1_000_000
    assert torch.equal(v.floor(), torch.full_like(v, 255))
    assert torch.isfinite(log_q).all()
    assert Floor(GREY)(v).log_prob(x).eq(0).all()


@pytest.mark.parametrize("x", [0.0, 300.0, 70_000.0, 3e6, 2.0**23, 1e7])
def test_large_counts_are_never_left(x):
    """Where 1 − 2⁻¹⁶ more would be rounded to the next number."""
    support = Support("count", (1,))
    rows = torch.full((2000, 1), x)
    for q in (uniform(support), moved(support, 5.0)):
        with torch.no_grad():
            v, log_q = q(rows).rsample_and_log_prob((100,))
        assert torch.equal(v.floor(), rows.expand_as(v))
        assert torch.isfinite(log_q).all()
        assert (Floor(support)(v).log_prob(rows) == 0).all()


# The density


@every_support
def test_it_starts_uniform(name):
    support = SUPPORTS[name]
    x = data(support, 500)
    with torch.no_grad():
        v, log_q = variational(support)(x).rsample_and_log_prob((4,))
    torch.testing.assert_close(log_q, torch.zeros(4, 500), atol=1e-3, rtol=0)
    assert st.kstest((v - x).flatten().double().numpy(), st.uniform.cdf).pvalue > 1e-4


@every_support
def test_a_draw_and_its_density_agree(name):
    """With one draw a datum and with several; the inverse finds what the draw brought along, unless v was rounded."""
    support = SUPPORTS[name]
    q, x = moved(support, 0.3).double(), data(support, 6).double()
    for shape in ((), (5,)):
        dist = q(x)
        v, log_q = dist.rsample_and_log_prob(shape)
        assert v.shape == (*shape, 6, *support.shape) and log_q.shape == (*shape, 6)
        assert (v.floor() == x).all()
        free = ((v - x > GRID) & (v - x < 1 - 2 * GRID)).flatten(len(shape) + 1).all(-1)
        assert free.double().mean() > 0.3
        torch.testing.assert_close(dist.log_prob(v)[free], log_q[free], rtol=1e-6, atol=1e-6)
    assert (dist.log_prob(x + 1) == -math.inf).all() and (dist.log_prob(x - 0.5) == -math.inf).all()
    wide = q(x.repeat(5, *(1,) * (x.dim() - 1)))
    torch.testing.assert_close(wide.unflatten((5, 6)).log_prob(v), dist.log_prob(v))
    assert wide.unflatten((5, 6)).sample().shape == v.shape


@pytest.mark.parametrize("couplings", [0, 2])
def test_it_integrates_to_one_on_its_bin(couplings):
    """In two dimensions, by the trapezoidal rule on logits, which sees peaks at the ends."""
    q = moved(Support("count", (2,)), 0.3, couplings=couplings).double()
    logits = torch.linspace(-20, 20, 400, dtype=torch.float64)
    u = torch.cartesian_prod(logits, logits).sigmoid()
    w = (u * (1 - u)).prod(1) * (logits[1] - logits[0]) ** 2
    for x in ([0.0, 0.0], [3.0, 1.0]):
        x = torch.tensor([x], dtype=torch.float64)
        with torch.no_grad():
            density = q(x.expand(len(u), 2)).log_prob(x + u).exp()
        assert (w @ density).item() == pytest.approx(1, abs=1e-4)


def test_couplings_make_the_noise_of_pixels_depend_on_one_another():
    x = torch.zeros(4000, 1, 2, 2)
    for couplings, depends in ((0, False), (2, True)):
        q = moved(Support("levels", (1, 2, 2), levels=4), 2.0, couplings=couplings)
        with torch.no_grad():
            v = q(x).sample().flatten(1)
        r = np.corrcoef(v.T.numpy()) - np.eye(4)
        assert (np.abs(r).max() > 5 / math.sqrt(4000)) == depends


def test_gradients_reach_it_through_its_draws():
    q = moved(GREY)
    x = data(GREY, 8)
    v, log_q = q(x).rsample_and_log_prob()
    (v.sum() + log_q.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in q.parameters())
    stopped = q(x).detach()
    assert isinstance(stopped, LearnedOnBins)
    q.zero_grad()
    stopped.log_prob(v.detach().requires_grad_()).sum().backward()
    assert all(p.grad is None for p in q.parameters())


# The bound, where every datum can be listed

TINY = Support("levels", (2,), levels=3)


def tiny_flow() -> Flow:
    """A density on the square [−, 3 +)², from two planar maps."""
    torch.manual_seed(3)
    chain = Composed([Inverse(Planar(2)), Inverse(Planar(2)), levels((2,), 3, 0.05)]).double()
    with torch.no_grad():
        for p in chain.parameters():
            p.add_(0.7 * torch.randn_like(p))
    return Flow(normal((2,)).double(), chain)


def exact(flow: nn.Module) -> tuple[Tensor, Tensor]:
    """Every datum, (9, 2), and P(x) = ∫ p(v) over its bin; what lies beyond the ends counts as the ends."""
    nodes, weights = np.polynomial.legendre.leggauss(120)
    low, high = -0.05 * 3 / 0.9, 3 + 0.05 * 3 / 0.9
    edges = [low, 1.0, 2.0, high]
    rows, chances = [], []
    for i, j in product(range(3), range(3)):
        axes = []
        for k in (i, j):
            a, b = edges[k], edges[k + 1]
            axes.append((torch.from_numpy((b - a) / 2 * nodes + (a + b) / 2), torch.from_numpy((b - a) / 2 * weights)))
        v = torch.cartesian_prod(axes[0][0], axes[1][0])
        w = torch.cartesian_prod(axes[0][1], axes[1][1]).prod(1)
        with torch.no_grad():
            chances.append(w @ flow().log_prob(v).exp())
        rows.append([i, j])
    return torch.tensor(rows, dtype=torch.float64), torch.stack(chances)


def bin_of(flow: nn.Module, rows: Tensor) -> Tensor:
    """∫ p(v) over [x, x + 1)² alone, which is what noise in [0, 1) can reach."""
    nodes, weights = (torch.from_numpy(a) / 2 for a in np.polynomial.legendre.leggauss(60))
    u = torch.cartesian_prod(nodes + 0.5, nodes + 0.5)
    w = torch.cartesian_prod(weights, weights).prod(1)
    with torch.no_grad():
        return torch.stack([w @ flow().log_prob(x + u).exp() for x in rows])


def model_of(flow: nn.Module, q: nn.Module) -> Model:
    return Model(Joint({"v": flow, "x | v": Floor(TINY)}), Joint({"v | x": q}))


def test_the_probabilities_of_floors_sum_to_one():
    assert exact(tiny_flow())[1].sum().item() == pytest.approx(1, abs=1e-3)


def test_both_bounds_lie_below_the_exact_probability_and_learned_noise_is_tighter():
    """p held, q learned: KL(q ‖ p(v | x)) falls to a tenth of uniform noise's. Weights average to the bin's P."""
    flow = tiny_flow().requires_grad_(False)
    x, total = exact(flow)
    reachable = bin_of(flow, x)
    assert (reachable <= total + 1e-9).all()
    learned = variational(TINY, width=16).double()
    model = model_of(flow, learned)
    optimizer = torch.optim.Adam(learned.parameters(), lr=1e-2)
    for _ in range(300):
        loss = -model.evidence({"x": x.repeat(8, 1)}).elbo().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    gaps: dict[str, float] = {}
    for name, q in {"uniform": uniform(TINY), "variational": learned}.items():
        with torch.no_grad():
            log_w = model_of(flow, q).evidence({"x": x}, 4000).log_w
        error = log_w.std(0) / math.sqrt(4000)
        assert (log_w.mean(0) < reachable.log() + 4.5 * error).all()
        weights = log_w.exp()
        assert ((weights.mean(0) - reachable).abs() < 4.5 * weights.std(0) / math.sqrt(4000) + 1e-4 * reachable).all()
        gaps[name] = (reachable.log() - log_w.mean(0)).mean().item()
    assert gaps["uniform"] > 0.05
    assert gaps["variational"] < 0.1 * gaps["uniform"]


def test_learned_together_the_bound_is_no_looser():
    """Flow and noise learned from draws of a coarse density: the bound with learned noise beats that with uniform."""
    torch.manual_seed(0)
    x = (1.5 + torch.randn(200, 2).mul(0.4) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])).clamp(0, 2.999).floor().double()
    bounds = {}
    for name, q in {"uniform": uniform(TINY), "variational": variational(TINY, width=16).double()}.items():
        model = model_of(tiny_flow(), q)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(300):
            optimizer.zero_grad()
            (-model.evidence({"x": x}).elbo().mean()).backward()
            optimizer.step()
        with torch.no_grad():
            elbo = model.evidence({"x": x}, 200).elbo().mean().item()
        rows, chances = exact(model.p["v"].module)
        log_p = chances.log()[(rows[None] == x[:, None]).all(2).double().argmax(1)].mean().item()
        assert elbo < log_p
        bounds[name] = elbo
    assert bounds["variational"] > bounds["uniform"]
