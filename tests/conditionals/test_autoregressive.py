"""Autoregressive densities against enumeration, closed forms, and the sampler that recomputes everything."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from jensen.conditionals import autoregressive
from jensen.conditionals.autoregressive import DRAWS_OF_MEAN, Autoregression, Autoregressive, at, embedding
from jensen.conditionals.heads import Support
from jensen.core import seeded
from jensen.distributions import Categorical, DiagonalNormal, MixtureDiscretizedLogistic, StudentT
from jensen.errors import CapabilityError, ConfigError
from jensen.nets.causal import SequenceNet
from jensen.nets.made import MADE
from jensen.nets.recurrent import Recurrent
from jensen.registry import Choice, configure, find

LEVELS, DIMS = 3, 4


def conditional(
    support: Support, likelihood: str = "auto", orderings: int = 1, context: int = 0, seed: int = 0
) -> Autoregressive:
    """In float64, by a masked perceptron with weights away from where they start."""
    chosen = find("likelihood", likelihood)
    with seeded(seed):
        head = Choice(chosen, configure(chosen, {}))(support)
        dims = math.prod(support.shape)
        orders = torch.stack([torch.randperm(dims) for _ in range(orderings)]) if orderings > 1 else None
        net = MADE(
            support.shape,
            head.per_element,
            [16],
            context=context,
            orders=orders,
            middle=support.middle,
            unit=support.unit,
        )
        made = Autoregressive(net, head).double().eval()
        for parameter in made.parameters():
            parameter.data.add_(0.5 * torch.randn_like(parameter))
    return made


def everything() -> Tensor:
    """All data of DIMS elements of LEVELS levels."""
    return torch.tensor(list(itertools.product(range(LEVELS), repeat=DIMS)), dtype=torch.float64)


LEVELED = Support("levels", (DIMS,), levels=LEVELS)


@pytest.mark.parametrize("orderings", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_all_data_together_have_probability_one(orderings, temperature, share):
    dist = conditional(LEVELED, "categorical", orderings)().tempered(temperature).nucleus(share)
    torch.testing.assert_close(dist.log_prob(everything()).exp().sum().item(), 1.0)


@pytest.mark.parametrize("orderings", [1, 3])
def test_samples_follow_the_density(orderings):
    dist, n = conditional(LEVELED, "categorical", orderings)(), 20_000
    with seeded(3):
        x = dist.sample((n,))
    index = (x @ torch.tensor([LEVELS**i for i in reversed(range(DIMS))], dtype=x.dtype)).long()
    expected = n * dist.log_prob(everything()).exp()
    found = torch.bincount(index, minlength=len(expected)).double()
    assert stats.chisquare(found.numpy(), expected.detach().numpy()).pvalue > 1e-4


def test_samples_follow_the_density_whatever_order_was_in_use_before():
    dist = conditional(LEVELED, "categorical")()
    before = draw(dist)
    network = dist.of.network
    network.any_order = True
    network.arrange(network.order.flip(0))  # as a step of training, or filling in, leaves it
    assert torch.equal(draw(dist), before)


def draw(dist):
    torch.manual_seed(0)
    return dist.sample((100,))


def test_the_average_over_orderings_is_one_of_densities():
    made = conditional(LEVELED, "categorical", 3)
    parts = []
    for m in range(3):
        made.network.use(m)
        parts.append(made().terms(everything()).sum(1).exp())
    torch.testing.assert_close(made().log_prob(everything()).exp(), torch.stack(parts).mean(0))
    made.train()  # one of them at random stands for all
    with seeded(0):
        drawn = torch.stack([made().log_prob(everything()[:1]) for _ in range(30)])
    assert {round(v, 9) for v in drawn.flatten().tolist()} == {round(p[0].log().item(), 9) for p in parts}


@pytest.mark.parametrize(
    ("support", "likelihood"),
    [
        (Support("binary", (5,)), "auto"),
        (LEVELED, "categorical"),
        (Support("levels", (2, 2, 2), levels=9), "discretized-logistic"),
        (Support("levels", (1, 2, 3), levels=9), "discretized-logistic-mixture"),
        (Support("count", (4,)), "poisson"),
        (Support("count", (4,)), "negative-binomial"),
        (Support("real", (4,)), "gaussian"),
        (Support("real", (4,)), "student-t"),
    ],
)
def test_every_way_to_sample_gives_the_same(support, likelihood):
    made = conditional(support, likelihood, context=2)
    with seeded(4):
        dist = made(torch.randn(6, 2, dtype=torch.float64))
        u = dist.noise((6, *support.shape))
    quick, slow, (parallel, passes) = dist.from_noise(u), dist.from_noise_naively(u), dist.from_noise_jacobi(u)
    torch.testing.assert_close(quick, slow, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(parallel, slow, rtol=1e-10, atol=1e-10)
    assert 1 < passes <= math.prod(support.shape) + 1
    assert torch.isfinite(dist.log_prob(quick)).all()


def test_own_parameters_of_elements_stay_with_them():
    """Degrees of freedom are learned for each element; the sampler meets each with its own."""
    made = conditional(Support("real", (3,)), "student-t")
    with torch.no_grad():
        made.head.raw_df.copy_(torch.tensor([-1.0, 0.0, 5.0]))  # pyright: ignore
    dist = made()
    u = dist.noise((4, 3))
    torch.testing.assert_close(dist.from_noise(u), dist.from_noise_naively(u))
    assert at(made.head, 1)(torch.zeros(1, 2, dtype=torch.float64)).df.item() == pytest.approx(  # pyright: ignore
        made.head(torch.zeros(1, 6, dtype=torch.float64)).df[1].item()  # pyright: ignore
    )


def test_batches_of_particles():
    """A value (B, D) under a density (K, B), and the other way round."""
    made = conditional(Support("real", (3,)), context=2)
    with seeded(5):
        c = torch.randn(4 * 5, 2, dtype=torch.float64)
        x = torch.randn(5, 3, dtype=torch.float64)
    wide = made(c).unflatten((4, 5))
    assert wide.batch_shape == (4, 5)
    for k in range(4):
        torch.testing.assert_close(wide.log_prob(x)[k], made(c[5 * k : 5 * k + 5]).log_prob(x))
    draws = made(c[:5]).sample((4,))
    assert draws.shape == (4, 5, 3)
    torch.testing.assert_close(made(c[:5]).log_prob(draws)[2], made(c[:5]).log_prob(draws[2]))


def test_known_elements_are_held():
    dist = conditional(LEVELED, "categorical")()
    known = torch.tensor([True, True, False, False])
    with seeded(6):
        u = dist.noise((500, DIMS))
    x, weight = dist.complete(u, torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64), known)
    assert weight is not None
    assert not weight.any()  # all that is known comes first
    assert (x[:, 0] == 2).all()
    assert (x[:, 1] == 0).all()
    data = everything()
    chance = dist.log_prob(data).exp().detach()
    fits = (data[:, 0] == 2) & (data[:, 1] == 0)
    expected = 500 * chance[fits] / chance[fits].sum()
    found = torch.tensor([(x == row).all(1).sum().item() for row in data[fits]])
    assert stats.chisquare(found.numpy(), expected.numpy()).pvalue > 1e-4


def test_what_is_known_later_weighs_what_was_drawn_before():
    """Weighted draws, each row with gaps of its own, against the conditional by enumeration."""
    dist, n = conditional(LEVELED, "categorical")(), 20_000
    data = everything()
    chance = dist.log_prob(data).exp().detach()
    row = torch.tensor([[1.0, 2.0, 0.0, 1.0], [0.0, 0.0, 2.0, 2.0]], dtype=torch.float64)
    known = torch.tensor([[False, True, False, True], [True, False, False, True]])
    with seeded(7):
        x, weight = dist.complete(dist.noise((n, 2, DIMS)), row, known)
    assert weight is not None
    for i in range(2):
        assert (x[:, i][:, known[i]] == row[i, known[i]]).all()
        fits = (data[:, known[i]] == row[i, known[i]]).all(1)
        share, expected = weight[:, i].softmax(0), chance[fits] / chance[fits].sum()
        for outcome, p in zip(data[fits], expected, strict=True):
            hit = (x[:, i] == outcome).all(1).double()
            error = (share.square() * (hit - p).square()).sum().sqrt()
            assert abs((share * hit).sum() - p) < 4.5 * error
        # The weights average to the probability of what is known, over that of the prefix.
        first = next(d for d in range(DIMS) if not known[i, d])
        prefix = (data[:, :first] == row[i, :first]).all(1)
        truth = chance[fits].sum() / chance[prefix].sum()
        w = weight[:, i].exp()
        assert abs(w.mean() - truth) < 4.5 * w.std() / math.sqrt(n)


def test_no_end_is_drawn_before_what_is_known():
    dist = conditional(Support("symbol", (3,), levels=3, end=2))()
    every = torch.tensor(list(itertools.product(range(3), repeat=3)), dtype=torch.float64)
    fits, known = every[:, 2] == 1, torch.tensor([False, False, True])
    truth = (dist.log_prob(every)[fits].softmax(0)[:, None] * every[fits]).sum(0).detach()
    with seeded(4):
        found, weight = dist.complete(dist.noise((20_000, 3)), torch.tensor([0.0, 0.0, 1.0]).double(), known)
    assert weight is not None
    assert (found[:, :2] < 2).all() and (found[:, 2] == 1).all() and torch.isfinite(weight).all()
    torch.testing.assert_close(weight.exp().mean(), dist.log_prob(every)[fits].exp().sum().detach(), atol=0.005, rtol=0)
    torch.testing.assert_close(weight.softmax(0) @ found, truth, atol=0.03, rtol=0)


def test_a_network_of_any_order_puts_what_is_known_first():
    made = conditional(LEVELED, "categorical")
    made.network.any_order = True
    made.train()
    orders = set()
    with seeded(8):
        for _ in range(20):
            made().log_prob(everything()[:1])
            orders.add(tuple(made.network.order.tolist()))
    assert len(orders) > 10
    made.network.arrange(torch.tensor([3, 1, 0, 2]))
    u = made().noise((5, DIMS))
    _, weight = made().complete(u, torch.zeros(DIMS, dtype=torch.float64), torch.tensor([False, True, False, True]))
    assert weight is not None
    assert not weight.any()


def test_stopped_parameters():
    made = conditional(Support("real", (3,)), context=2)
    c = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    made(c).detach().log_prob(x).sum().backward()
    assert x.grad is not None
    assert c.grad is None
    assert all(p.grad is None for p in made.parameters())
    torch.testing.assert_close(made(c).detach().log_prob(x), made(c).log_prob(x))


def test_a_mean_is_that_of_a_few_draws():
    dist, data = conditional(LEVELED, "categorical")(), everything()
    p = dist.log_prob(data).exp().detach()
    truth = p @ data
    error = (p @ (data - truth).square() / DRAWS_OF_MEAN).sqrt()
    assert ((dist.mean - truth).abs() < 4.5 * error).all()
    assert torch.equal(dist.mean, dist.mean)


def test_symbols_have_no_mean():
    with pytest.raises(CapabilityError, match="symbols have no mean"):
        _ = conditional(Support("symbol", (3,), levels=4))().mean


def test_a_nucleus_needs_classes():
    dist: Autoregression = conditional(Support("real", (3,)))().nucleus(0.5)
    with pytest.raises(ValueError, match="nucleus needs a choice among classes"):
        dist.sample((1,))


def test_a_factor_that_is_itself_autoregressive_is_refused():
    chosen = find("prior", "autoregressive")
    settings = configure(chosen, {"likelihood": "autoregressive"})
    with pytest.raises(ConfigError, match="factorises"):
        Choice(chosen, settings)((3,))


# Quantiles of the elements


def test_quantiles_against_scipy():
    u = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    one = torch.tensor(1.7, dtype=torch.float64)
    found = StudentT(one + 1, one, one / 2, 0).quantile(u)
    torch.testing.assert_close(found, torch.as_tensor(stats.t.ppf(u, 2.7, 1.7, 0.85)))
    found = DiagonalNormal(one, one, 0).quantile(u)
    torch.testing.assert_close(found, torch.as_tensor(stats.norm.ppf(u, 1.7, 1.7)))


def test_a_nucleus_keeps_the_fewest_classes_that_weigh_enough():
    p = torch.tensor([0.1, 0.5, 0.15, 0.25], dtype=torch.float64)
    for share, kept in ((0.3, [1]), (0.5, [1]), (0.6, [1, 3]), (0.75, [1, 3]), (0.8, [1, 2, 3]), (1.0, [0, 1, 2, 3])):
        found = Categorical(p.log(), 0).nucleus(share).probs
        assert torch.nonzero(found)[:, 0].tolist() == kept
        torch.testing.assert_close(found[kept], p[kept] / p[kept].sum())


def test_rows_in_parts_keep_their_contexts(monkeypatch: pytest.MonkeyPatch):
    made = conditional(Support("real", (3,)), context=2)
    with seeded(5):
        c, x = torch.randn(20, 2, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    with torch.no_grad():
        whole = made(c).terms(x)
        monkeypatch.setattr(autoregressive, "PARAMETERS", 3 * made.network.per_element * 3)
        torch.testing.assert_close(made(c).terms(x), whole)


def test_rows_of_wide_networks_are_computed_few_at_once(monkeypatch: pytest.MonkeyPatch):
    """What is between data and densities counts as well, of each element."""
    head = Choice(find("likelihood", "categorical"), {})(LEVELED)
    net = SequenceNet(LEVELED.shape, head.per_element, embedding(LEVELED, 6), Recurrent(6, 1, "gru")).double()
    dist, x = Autoregressive(net, head)(), everything()[:20]
    seen: list[int] = []
    net.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    with torch.no_grad():
        whole = dist.terms(x)
        monkeypatch.setattr(autoregressive, "HIDDEN", DIMS * 7 * net.breadth)
        torch.testing.assert_close(dist.terms(x), whole)
    assert seen == [20, 7, 7, 6]


def test_an_end_known_after_an_end_weighs_nothing():
    """Known: the last symbol is the end. Where the end came before, that is certain."""
    dist = conditional(Support("symbol", (3,), levels=3, end=2))()
    known, given = torch.tensor([False, False, True]), torch.tensor([0.0, 0.0, 2.0]).double()
    with seeded(4):
        found, weight = dist.complete(dist.noise((500, 3)), given, known)
    assert weight is not None
    ended = (found[:, :2] == 2).any(1)
    assert ended.any() and not ended.all()
    assert (weight[ended] == 0).all()
    with torch.no_grad():
        torch.testing.assert_close(weight[~ended], dist.terms(found[~ended])[:, 2])


def test_jacobi_stops_only_where_nothing_changes():
    """Of three hundred rows, one in which the last element is still wrong is less than a hundredth of all elements."""
    dist = conditional(Support("levels", (40,), levels=LEVELS), "categorical")()
    with seeded(9):
        u = dist.noise((300, 40))
    torch.testing.assert_close(dist.from_noise_jacobi(u)[0], dist.from_noise(u), rtol=0, atol=0)
    shares = []
    dist.from_noise_jacobi(u, listener=lambda _, share: shares.append(share))
    assert any(0 < share < 0.01 for share in shares) and shares[-1] == 0


@pytest.mark.parametrize("support", [Support("symbol", (6,), levels=3, end=2), Support("levels", (6,), levels=3)])
def test_jacobi_goes_on_from_a_beginning(support):
    """Also where the noise of what is known would have ended the row."""
    dist = conditional(support, "auto" if support.kind == "symbol" else "categorical")()
    given, known = torch.tensor([0.0, 1, 0, 0, 0, 0]).double(), torch.arange(6) < 2
    with seeded(9):
        u = dist.noise((200, 6))
    truth, _ = dist.complete(u, given, known)
    assert torch.equal(dist.from_noise_jacobi(u, given, known)[0], truth)
    assert torch.equal(dist.sampled("jacobi").draw(u, given, known), truth)
    assert (truth[:, :2] == given[:2]).all() and len(truth.unique(dim=0)) > 10


def test_temperature_divides_logits_and_multiplies_scales():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    cooled = Categorical(logits, 1).tempered(0.5)
    torch.testing.assert_close(cooled.probs, (logits / 0.5).softmax(-1))
    mixed = MixtureDiscretizedLogistic(logits, torch.tensor([[2.0, 9.0, 5.0]]), torch.ones(1, 3), 12, 1).tempered(0.5)
    torch.testing.assert_close(mixed.logits, logits / 0.5)
    torch.testing.assert_close(mixed.scale, torch.full((1, 3), 0.5))


def test_densities_are_in_float32_where_networks_are_in_bfloat16():
    made = conditional(LEVELED, "categorical").float()
    x = everything().float()
    whole = made().log_prob(x)
    made.precision = torch.bfloat16
    found = made().log_prob(x)
    assert found.dtype == torch.float32
    total = found.double().exp().sum().item()  # of probabilities rounded to bfloat16 it would be off by more
    assert total == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found, whole, atol=0.2, rtol=0.05)
