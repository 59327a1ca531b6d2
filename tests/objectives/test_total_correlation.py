"""The KL taken apart: against enumeration of a tiny data set, integrals on a grid, Gaussian codes in closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tests.objectives.linear import Linear
from torch import Tensor, nn

from jensen.conditionals.priors import Normal
from jensen.core import Joint, Model
from jensen.data import Schema, TensorSplit
from jensen.distributions import DiagonalNormal
from jensen.errors import ConfigError
from jensen.objectives import Batch, GradientPhase, Objective, Stage, Terms
from jensen.objectives.total_correlation import Decomposition, aggregate, decompose, exchange, log_shares
from jensen.registry import build, find
from jensen.training.settings import training_settings
from jensen.training.trainer import Trainer

MEANS = torch.tensor([[0.0, 0.3], [1.0, 1.2], [-1.0, -0.5], [0.4, -1.0]], dtype=torch.float64)
SCALES = torch.tensor([[0.5, 0.9], [0.4, 0.6], [1.1, 0.5], [0.7, 0.3]], dtype=torch.float64)


def linear_model(objective: str, **settings) -> Model:
    """z ∈ R², x ∈ R² and all of it normal, so that q(z) is where x is."""
    p = Joint({"z": Normal((2,)).double(), "x | z": Linear([[1.0, 0.2], [0.0, 0.7]], [0.5, 0.5])})
    q = Joint({"z | x": Linear([[0.9, 0.3], [0.8, -0.2]], [0.8, 0.6])})
    return Model(p, q, find("objective", objective).function(**settings))


def loss_of(model: Model, batch: dict[str, Tensor], seed: int = 5, phase: int = 0, progress: float = 1.0) -> Terms:
    torch.manual_seed(seed)
    return model.objective.stages[0].phases[phase].loss(model, batch, progress)


# The aggregated posterior


def test_a_batch_of_all_the_data_gives_the_aggregate_of_the_definition():
    """(1/N) Σ_j q(z_i | x_j), jointly and for each dimension, written out with scipy."""
    z = torch.randn(4, 2, dtype=torch.float64)
    found = aggregate(DiagonalNormal(MEANS, SCALES), z, log_shares({"x": z}, "stratified"))
    for i in range(4):
        densities = norm.pdf(z[i].numpy(), MEANS.numpy(), SCALES.numpy())  # (j, d)
        assert found[0][i].item() == pytest.approx(math.log(densities.prod(1).mean()), abs=1e-12)
        assert found[1][i].item() == pytest.approx(np.log(densities.mean(0)).sum(), abs=1e-12)


def test_stratified_shares_are_unbiased_over_all_batches():
    """A datum of five, in every batch of three that holds it: the mean of its q(z) is that of all five."""
    q = DiagonalNormal(torch.randn(5, 2, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64) + 0.3)
    z = torch.randn(5, 2, dtype=torch.float64)
    truth = aggregate(q, z, log_shares({"x": z}, "stratified"))[0].exp()
    sums, counts = torch.zeros(5, dtype=torch.float64), torch.zeros(5)
    for rows in map(list, itertools.combinations(range(5), 3)):
        batch = {"x": z[rows], "total": torch.tensor(5.0, dtype=torch.float64)}
        here = aggregate(DiagonalNormal(q.loc[rows], q.scale[rows]), z[rows], log_shares(batch, "stratified"))[0]
        sums[rows] += here.exp()
        counts[rows] += 1
    torch.testing.assert_close(sums / counts, truth, rtol=1e-12, atol=0)


def test_a_row_alone_is_its_own_aggregate():
    """The last batch may have one row: its posterior is all that is known of the others'."""
    shares = log_shares({"x": torch.zeros(1, 2), "total": torch.tensor(1000.0)}, "stratified")
    assert shares.tolist() == [[0.0]]


def test_weighted_sampling_counts_one_over_n_m_once_for_each_density():
    """Chen et al., equation S5: logsumexp − log N M for the joint, and the same again for each dimension."""
    z = torch.randn(4, 2, dtype=torch.float64)
    batch = {"x": z, "total": torch.tensor(50.0, dtype=torch.float64)}
    joint, marginals = aggregate(DiagonalNormal(MEANS, SCALES), z, log_shares(batch, "weighted"))
    for i in range(4):
        densities = norm.pdf(z[i].numpy(), MEANS.numpy(), SCALES.numpy())
        assert joint[i].item() == pytest.approx(math.log(densities.prod(1).sum() / 200), abs=1e-12)
        assert marginals[i].item() == pytest.approx(np.log(densities.sum(0) / 200).sum(), abs=1e-12)


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_a_row_of_weight_two_counts_as_two_rows(sampling):
    z = torch.randn(4, 2, dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    found = aggregate(DiagonalNormal(MEANS, SCALES), z, log_shares({"x": z, "weight": weight}, sampling))
    rows = [0, 1, 1, 3]
    twice = aggregate(DiagonalNormal(MEANS[rows], SCALES[rows]), z[rows], log_shares({"x": z[rows]}, sampling))
    for one, two in zip(found, twice, strict=True):
        torch.testing.assert_close(one[rows], two)


def test_the_three_parts_are_those_of_integrals_on_a_grid():
    """Four data with posteriors in the plane: MI, TC and the KL of each dimension, by summing over a fine grid."""
    axis = np.linspace(-7, 7, 701)
    step = axis[1] - axis[0]
    each = norm.pdf(axis[:, None, None], MEANS.numpy(), SCALES.numpy())  # (G, j, d)
    conditional = each[:, None, :, 0] * each[None, :, :, 1]  # (G, G, j)
    joint, marginals = conditional.mean(-1), each.mean(1)
    product = marginals[:, None, 0] * marginals[None, :, 1]
    total_correlation = (joint * np.log(joint / product)).sum() * step**2
    ratio = np.where(conditional > 0, np.log(np.maximum(conditional, 1e-300) / joint[..., None]), 0)
    information = (conditional * ratio).sum((0, 1)).mean() * step**2
    by_dimension = (marginals * np.log(marginals / norm.pdf(axis)[:, None])).sum() * step

    class Table(nn.Module):
        def forward(self, x: Tensor) -> DiagonalNormal:
            return DiagonalNormal(MEANS, SCALES)

    p = Joint({"z": Normal((2,)).double(), "x | z": Linear([[1.0, 0.0]], [1.0])})
    model, x = Model(p, Joint({"z | x": Table()})), torch.zeros(4, 1, dtype=torch.float64)
    torch.manual_seed(0)
    shares = log_shares({"x": x}, "stratified")
    found = [torch.stack(decompose(model.evidence({"x": x}), "z", shares)).mean(1) for _ in range(4000)]
    mean, stderr = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(4000)
    truth = torch.tensor([information, total_correlation, by_dimension], dtype=torch.float64)
    assert ((mean - truth).abs() < 4 * stderr).all()
    assert (stderr < 0.02).all()
    assert math.log(4) > information > 0.3  # neither trivial nor more than four data can tell
    assert total_correlation > 0.1


def test_gaussian_codes_in_closed_form():
    """x ~ N(0, I) and z | x ~ N(A x, S): q(z) = N(0, A Aᵀ + S)."""
    model = linear_model("beta-tcvae")
    torch.manual_seed(1)
    x = torch.randn(1500, 2, dtype=torch.float64)
    with torch.no_grad():
        e = model.evidence({"x": x})
        parts = decompose(e, "z", log_shares({"x": x}, "stratified"))
        a, s = model.q["z"].module.matrix, torch.diag(model.q["z"].module.scale ** 2)
        c = a @ a.mT + s
        information = 0.5 * (torch.logdet(c) - torch.logdet(s))
        total_correlation = 0.5 * (c.diagonal().log().sum() - torch.logdet(c))
        by_dimension = 0.5 * (c.diagonal() - 1 - c.diagonal().log()).sum()
    truth = Decomposition(information, total_correlation, by_dimension)
    for found, wanted in zip(parts, truth, strict=True):
        assert (found.mean() - wanted).abs() < 4 * found.std() / math.sqrt(len(x))  # over data as well as draws
    assert total_correlation > 0.1


# β-TCVAE


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_the_logged_parts_sum_to_the_divergence_and_the_bound_is_the_bound(sampling):
    model = linear_model("beta-tcvae", sampling=sampling, beta=20.0, alpha=0.0)
    batch = {"x": torch.randn(6, 2, dtype=torch.float64), "total": torch.tensor(40.0)}
    logged = loss_of(model, batch).logged
    torch.testing.assert_close(sum(logged[name] for name in Decomposition._fields), logged["kl_z"])
    torch.manual_seed(5)
    torch.testing.assert_close(logged["elbo"], model.evidence(batch).elbo().mean().detach())
    torch.manual_seed(5)
    found = model.objective.validate(model, batch)
    torch.testing.assert_close(sum(found[name] for name in Decomposition._fields), found["kl_z"])
    torch.testing.assert_close(found["elbo"], found["reconstruction"] - found["kl_z"])


def test_equal_weights_leave_the_bound():
    """α = β = γ = 1: loss and gradient are those of the ELBO by Monte Carlo, for q(z) cancels."""
    batch = {"x": torch.randn(6, 2, dtype=torch.float64)}
    ours = linear_model("beta-tcvae", beta=1.0)
    plain = linear_model("elbo", kl="monte-carlo")
    losses = [loss_of(model, batch).loss for model in (ours, plain)]
    torch.testing.assert_close(*losses)
    one, two = (torch.autograd.grad(v, list(m.parameters())) for v, m in zip(losses, (ours, plain), strict=True))
    for found, wanted in zip(one, two, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_validation_takes_the_rows_it_measures_for_all_the_data(sampling):
    """log q(z | x_i) − log (1/N) Σ_j q(z | x_j) and so on, written out with scipy, however training samples."""
    model, x = linear_model("beta-tcvae", sampling=sampling), torch.randn(5, 2, dtype=torch.float64)
    torch.manual_seed(5)
    found = model.objective.validate(model, {"x": x, "total": torch.tensor(40.0)})
    torch.manual_seed(5)
    z = model.evidence({"x": x}).values["z"].detach().numpy()
    means = x.numpy() @ np.array([[0.9, 0.3], [0.8, -0.2]]).T
    each = norm.pdf(z[:, None], means, [0.8, 0.6])  # (i, j, d)
    own, joint, marginals = each[range(5), range(5)].prod(1), each.prod(2).mean(1), each.mean(1).prod(1)
    truth = Decomposition(own / joint, joint / marginals, marginals / norm.pdf(z).prod(1))
    for name, ratio in truth._asdict().items():
        np.testing.assert_allclose(found[name].detach(), np.log(ratio), atol=1e-6)


def test_each_weight_is_on_its_own_part():
    batch = {"x": torch.randn(6, 2, dtype=torch.float64)}
    base = linear_model("beta-tcvae", alpha=0.0, beta=0.0, gamma=0.0)
    terms = loss_of(base, batch)
    for weight, part in (("alpha", "mutual_information"), ("beta", "total_correlation"), ("gamma", "dimension_kl")):
        weighed = linear_model("beta-tcvae", **{"alpha": 0.0, "beta": 0.0, "gamma": 0.0, weight: 3.0})
        torch.testing.assert_close(loss_of(weighed, batch).loss - terms.loss, 3 * terms.logged[part])
        early = loss_of(weighed, batch, progress=0.025).loss  # a quarter of the warm-up
        torch.testing.assert_close(early - terms.loss, 0.75 * terms.logged[part])


@pytest.mark.parametrize("name", ["beta-tcvae", "dip-vae"])
def test_posteriors_that_do_not_fit_are_refused(name):
    schema = Schema.of_pictures((1, 2, 2), levels=2)
    model = build("vae", schema, {"latents": 2, "posterior": "flow", "objective": name})
    with pytest.raises(ConfigError, match=f"objective: '{name}' needs .*; use posterior=diagonal"):
        loss_of(model, {"x": torch.zeros(3, 1, 2, 2)})


@pytest.mark.parametrize("name", ["beta-tcvae", "factor-vae", "dip-vae", "capacity"])
def test_draws_without_a_gradient_are_refused(name):
    schema = Schema.of_pictures((1, 2, 2), levels=2)
    bits = {"prior": "bernoulli", "posterior": "bernoulli", "posterior.gradient": "score"}
    model = build("vae", schema, {"latents": 2, "objective": name, **bits})
    with pytest.raises(ConfigError, match=f"'{name}' differentiates through draws of 'z'; use objective=elbo"):
        loss_of(model, {"x": torch.zeros(3, 1, 2, 2)})


def test_two_hidden_variables_are_refused():
    both = Joint({"z | x": Linear([[1.0]], [1.0]), "y | x": Linear([[1.0]], [1.0])})

    class Sum(nn.Module):
        def forward(self, z: Tensor, y: Tensor) -> DiagonalNormal:
            return DiagonalNormal(z + y, torch.ones(1, dtype=z.dtype))

    normal, objective = Normal((1,)).double(), find("objective", "beta-tcvae").function()
    model = Model(Joint({"z": normal, "y": normal, "x | z, y": Sum()}), both, objective)
    with pytest.raises(ConfigError, match="needs exactly one hidden variable, q infers z, y"):
        loss_of(model, {"x": torch.zeros(3, 1, dtype=torch.float64)})


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 4.0, 0.5, 1.0, 0.0, 1.5, 1.0])])
def test_the_trainer_says_how_many_data_there_are(weight):
    seen = []

    def look(model: Model, batch: Batch, progress: float) -> Terms:
        seen.append(float(batch["total"]))
        return Terms(model.p["x"].module.scale.sum() ** 2, {})

    def measure(model: Model, batch: Batch) -> dict[str, Tensor]:
        return {"elbo": torch.zeros(len(batch["x"]))}

    model = linear_model("elbo").float()
    model.objective = Objective((Stage((GradientPhase(look),)),), measure)
    split = TensorSplit(torch.randn(7, 2), weight=weight)
    Trainer(model, split, None, training_settings({"batch_size": 3, "epochs": 1})).run()
    assert seen == pytest.approx([7.0 if weight is None else 9.0] * len(seen))
    assert len(seen) > 1


# FactorVAE


def test_exchanged_codes_keep_their_marginals_and_lose_their_company():
    z = torch.arange(40.0).reshape(20, 2)
    torch.manual_seed(0)
    found = exchange(z)
    assert torch.equal(found.sort(0).values, z)
    assert (found[:, 1] - found[:, 0] != 1).any()
    weight = torch.zeros(20)
    weight[[3, 7]] = torch.tensor([1.0, 2.0])
    drawn = exchange(z.repeat(1, 200), weight)
    assert set(drawn[:, ::2].unique().tolist()) == {6.0, 14.0}
    share = (drawn[:, ::2] == 14.0).float().mean().item()
    assert share == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / 4000))


def test_a_critic_at_its_best_estimates_the_total_correlation():
    """Codes N(0, C): TC = ½ (Σ log C_dd − log det C)."""
    critic = {"name": "mlp", "hidden": [32, 32], "activation": "tanh"}
    schema = Schema.of_table(np.zeros((2, 2)), ["a", "b"])
    model = build("vae", schema, {"latents": 2, "objective": {"name": "factor-vae", "critic": critic}})
    objective, model = model.objective, linear_model("elbo").float()
    with torch.no_grad():
        model.q["z"].module.matrix.copy_(torch.tensor([[1.0, 0.2], [1.0, -0.2]]))
        model.q["z"].module.scale.fill_(0.4)
        a = model.q["z"].module.matrix
        c = a @ a.mT + 0.16 * torch.eye(2)
        truth = 0.5 * (c.diagonal().log().sum() - torch.logdet(c)).item()
    torch.manual_seed(0)
    _, learn = objective.stages[0].phases
    objective.prepare(model, {"x": torch.randn(2, 2)})
    optimizer = torch.optim.Adam(learn.parameters(model), 1e-2)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 300)
        optimizer.zero_grad()
        learn.loss(model, {"x": torch.randn(400, 2)}, 1.0).loss.backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        terms = objective.stages[0].phases[0].loss(model, {"x": torch.randn(20_000, 2)}, 1.0)
    assert terms.logged["total_correlation"].item() == pytest.approx(truth, rel=0.1)
    assert truth > 0.5


@pytest.mark.parametrize(("progress", "rise"), [(0.0, 0.0), (0.2, 0.4), (0.5, 1.0), (1.0, 1.0)])
def test_the_bound_less_the_critics_logit(progress, rise):
    """Both KL and logit rise in the warm-up."""
    model = linear_model("factor-vae", gamma=7.0, critic=lambda inputs, outputs: nn.Linear(2, 1), warmup=0.5)
    batch = {"x": torch.randn(6, 2, dtype=torch.float64)}
    first, second = model.objective.stages[0].phases
    assert list(second.parameters(model)) == []
    model.objective.prepare(model, batch)
    assert len(list(second.parameters(model))) == 2
    assert not set(second.parameters(model)) & set(first.parameters(model))
    terms = loss_of(model, batch, progress=progress)
    torch.manual_seed(5)
    e = model.evidence(batch)
    logit = model.objective.helpers(e.values["z"])
    torch.testing.assert_close(terms.loss, (rise * (e.kl("z") + 7.0 * logit) - e.reconstruction()).mean())
    torch.testing.assert_close(terms.logged["elbo"], (e.reconstruction() - e.kl("z")).mean().detach())
