"""Expected information gain: against closed forms of linear Gaussian models, enumeration, and made data."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.distributions import Categorical

import jensen
from jensen.conditionals.heads import GaussianHead, Support
from jensen.conditionals.orderless import OrderlessDensity, OrderlessNetwork
from jensen.core import Joint, Model, seeded
from jensen.data import Dataset, Schema, Split, load_data
from jensen.data.field import Field
from jensen.distributions import Bernoulli, DiagonalNormal, Names, NormalMixture, Record
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.acquire import Inquiry, Stopping
from jensen.jobs.information import GROUPS, gain_by_asking, gains
from jensen.jobs.particles import Conditioned, Particles
from jensen.jobs.run import Run
from jensen.jobs.surprise import surprise

SLOPE = torch.tensor([1.0, 0.9, -0.6, 0.3, 0.0])
NOISE = torch.tensor([0.5, 0.4, 0.8, 0.3, 1.0])


class Prior(nn.Module):
    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(1))

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(self.zero, torch.ones(1))


class Decoder(nn.Module):
    """x_d = a_d z + s_d ε."""

    def forward(self, z: Tensor) -> DiagonalNormal:
        return DiagonalNormal(z * SLOPE, NOISE.expand(len(z), -1))


class Posterior(nn.Module):
    """The exact q(z | x_o), or one `wider` than that."""

    def __init__(self, wider: float):
        super().__init__()
        self.wider = wider

    def forward(self, x: Tensor, seen: Tensor) -> DiagonalNormal:
        precision = 1 + (seen * (SLOPE / NOISE) ** 2).sum(1, keepdim=True)
        mean = (seen * x * SLOPE / NOISE**2).sum(1, keepdim=True) / precision
        return DiagonalNormal(mean, self.wider / precision.sqrt())


def linear(wider: float = 1.0) -> Run:
    """p(z) = N(0, 1) and five columns, in units twice as large as the model's, off by 1."""
    fields = tuple(Field(name=f"c{j}", kind="real", center=1.0, scale=2.0, gaps=True) for j in range(5))
    schema = Schema(fields=fields)
    model = Model(Joint({"z": Prior(), "x | z": Decoder()}), Joint({"z | x, seen": Posterior(wider)})).eval()
    with seeded(0):
        rows = 1 + 2 * (torch.randn(150, 1) * SLOPE + torch.randn(150, 5) * NOISE).double().numpy()
    spec = {"model": "toy", "settings": {}, "data": {"name": "toy", "ref": None}}
    return Run(spec, schema, model, None, [], Dataset("toy", schema, {"train": Split(rows), "test": Split(rows)}))


class Conditionals(OrderlessNetwork):
    """Those of x ~ N(0, C), C the covariance of `linear`."""

    def __init__(self):
        super().__init__(nn.Linear(1, 1), nn.Identity(), GaussianHead(Support("real", (5,)), "fixed", 1.0, 0.1),
                         torch.arange(5).unsqueeze(0))  # fmt: skip

    def given(self, x: Tensor, known: Tensor, *conditions: Tensor) -> DiagonalNormal:
        mean, scale = torch.zeros_like(x), torch.ones_like(x)
        for i in range(len(x)):
            o = known[i].nonzero()[:, 0]
            c = torch.from_numpy(COVARIANCE).to(x)
            solved = torch.linalg.solve(c[o][:, o], c[o])  # (O, D)
            mean[i] = x[i, o] @ solved
            scale[i] = (c.diagonal() - (c[o] * solved).sum(0)).clamp_min(1e-6).sqrt()
        return DiagonalNormal(mean, scale)


def with_all_conditionals() -> Run:
    run = linear()
    run.model = Model(Joint({"x": Conditionals()})).eval()
    return run


def conditional(covariance: np.ndarray, wanted: list[int], given: list[int]) -> np.ndarray:
    c = covariance[np.ix_(wanted, wanted)]
    if given:
        cross = covariance[np.ix_(wanted, given)]
        c = c - cross @ np.linalg.solve(covariance[np.ix_(given, given)], cross.T)
    return c


def closed_form(covariance: np.ndarray, target: int, given: list[int]) -> np.ndarray:
    """I(x_d; t | x_o) = ½ log2 Var(t | x_o) / Var(t | x_o, x_d), (D,), NaN of what is given."""
    found = np.full(len(covariance), np.nan)
    for d in set(range(len(covariance))) - {target, *given}:
        before, after = (conditional(covariance, [target], known)[0, 0] for known in (given, [*given, d]))
        found[d] = 0.5 * math.log2(before / after)
    return found


COVARIANCE = torch.outer(SLOPE, SLOPE).double().numpy() + np.diag(NOISE.double().numpy() ** 2)


@pytest.mark.parametrize("given", [[], [1], [1, 3]])
def test_a_density_with_all_its_conditionals_is_asked(given):
    found = with_all_conditionals().acquire({f"c{j}": 1.0 + 0.7 * j for j in given}, target="c0", points=300)
    truth = closed_form(COVARIANCE, 0, given)
    wanted = ~np.isnan(truth)
    assert (np.abs(found.gains[0] - truth)[wanted] < 4 * found.stderr[0][wanted] + 0.01).all(), (found.gains, truth)
    assert (found.stderr[0][wanted] < 0.1).all()
    assert np.isinf(found.effective_sample_size).all()


def test_what_a_word_tells_of_a_number_has_an_error_that_covers_it():
    """The sign of x, for x ~ N(0, 1) + a word's ±1: by drawn values of the target alone."""
    shift, n = torch.tensor([-0.7, 0.7]), 200

    class Words(Conditionals):
        def given(self, x: Tensor, known: Tensor, *conditions: Tensor) -> Record:
            named = torch.where(known[:, :1], shift[x[:, 0].long()].unsqueeze(1), torch.zeros(1))
            halves = torch.zeros(len(x), 1, 2)
            loc = torch.where(known[:, :1], named, shift).unsqueeze(1).expand(-1, 1, 2)
            return Record(
                [Names(torch.zeros(len(x), 1, 2)), NormalMixture(halves, loc, torch.ones_like(loc))], [[0], [1]]
            )

    density = OrderlessDensity(Words())
    x, seen = torch.zeros(n, 2), torch.zeros(n, 2, dtype=torch.bool)
    found = Conditioned(density.given(x, seen), torch.ones(1, n), density, x, seen)
    fields = (Field(name="word", kind="category", categories=("a", "b")), Field(name="number", kind="real"))
    with seeded(0):
        told, stderr = gain_by_asking(found, fields, 1, 0, points=100)
    grid = torch.linspace(-8, 8, 4001).double()
    each = torch.stack([torch.exp(-0.5 * (grid - s) ** 2) for s in shift]) / math.sqrt(2 * math.pi)
    truth = float((0.5 * each * (each / each.mean(0)).log()).sum() * (grid[1] - grid[0]))
    assert float(told.mean()) == pytest.approx(truth, abs=4 * float(told.std()) / math.sqrt(n))
    assert float(stderr.mean()) == pytest.approx(float(told.std()), rel=0.2)


def test_surprise_asks_for_each_column_given_the_others():
    run = with_all_conditionals()
    x = run.data().split("test").x[:20]
    found = surprise(run, run.tensors(Split(x)), np.arange(20))
    unit = (x - 1) / 2
    for d in range(5):
        others = [j for j in range(5) if j != d]
        among = COVARIANCE[np.ix_(others, others)]
        mean = unit[:, others] @ np.linalg.solve(among, COVARIANCE[others, d])
        scale = math.sqrt(conditional(COVARIANCE, [d], others)[0, 0])
        np.testing.assert_allclose(found.bits[:, d], -norm(mean, scale).logpdf(unit[:, d]) / math.log(2), atol=1e-4)
        np.testing.assert_allclose(np.asarray(found.expected)[:, d], 1 + 2 * mean, atol=1e-4)


def test_names_are_asked_one_by_one():
    """Of a word that says the sign of a number, and of one that says nothing."""
    rng = np.random.default_rng(0)
    number = rng.choice([-3.0, 3.0], 600) + 0.3 * rng.normal(size=600)
    frame = pandas.DataFrame({"number": number, "sign": np.where(number > 0, "up", "down")})
    frame["noise"] = rng.choice(["a", "b"], 600)
    run = jensen.train("nade", frame, epochs=40, batch_size=25)
    told = run.acquire({}, target="number", points=200)
    gains = dict(zip(run.schema.names, told.gains[0], strict=True))
    assert gains["sign"] == pytest.approx(1, abs=0.1)
    assert gains["noise"] == pytest.approx(0, abs=0.05)
    back = run.acquire({"noise": "a"}, target="sign")
    assert back.gains[0][0] == pytest.approx(1, abs=0.1)
    assert back.beliefs[0].probabilities["up"] == pytest.approx((number > 0).mean(), abs=0.1)
    known = run.acquire({"number": 3.0}, target="sign")
    assert known.beliefs[0].probabilities["up"] > 0.95


@pytest.mark.parametrize("given", [[], [1], [1, 3]])
@pytest.mark.parametrize(("wider", "method"), [(1.0, "particles"), (2.0, "particles"), (1.0, "latent")])
def test_a_linear_gaussian_model_against_the_closed_form(given, wider, method):
    run = linear(wider)
    row = {f"c{j}": 1.0 + 0.7 * j for j in given}
    found = run.acquire(row, target="c0", particles=2000, points=400, method=method)
    truth = closed_form(COVARIANCE, 0, given)
    np.testing.assert_array_equal(np.isnan(found.gains[0]), np.isnan(truth))
    wanted = ~np.isnan(truth)
    error = np.abs(found.gains[0] - truth)[wanted]
    assert (error < 4 * found.stderr[0][wanted] + 1e-4).all(), (found.gains, truth, found.stderr)
    assert (found.stderr[0][wanted] < 0.1).all()
    belief = found.beliefs[0]
    variance = conditional(COVARIANCE, [0], given)[0, 0]
    x = np.array([row[f"c{j}"] for j in given])
    mean = COVARIANCE[0, given] @ np.linalg.solve(COVARIANCE[np.ix_(given, given)], (x - 1) / 2) if given else 0.0
    assert belief.std == pytest.approx(2 * variance**0.5, rel=0.1)
    assert belief.mean == pytest.approx(1 + 2 * mean, abs=0.3 * variance**0.5)


def test_gains_of_an_encoder_that_takes_no_mask():
    """What is known of z where little is seen comes from p: q(z | x) of a whole row would be far too sure."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 2)) @ rng.normal(size=(2, 5)) + 0.4 * rng.normal(size=(2000, 5))
    run = jensen.train("ppca", x, latents=2)
    with torch.no_grad():
        dist = run.model.p["x"].module(torch.cat([torch.zeros(1, 2), torch.eye(2)]))
    weight = (dist.mean[1:] - dist.mean[0]).T.double().numpy()
    covariance = weight @ weight.T + np.diag(dist.variance[0].double().numpy())
    for given in ([], [2], [1, 4]):
        found = run.acquire({f"x{j}": x[0, j] for j in given}, target="x0", particles=2000, points=400)
        truth = closed_form(covariance, 0, given)
        wanted = ~np.isnan(truth)
        assert (np.abs(found.gains[0] - truth)[wanted] < 4 * found.stderr[0][wanted] + 1e-3).all()
        assert found.effective_sample_size[0] > 100


def test_two_discrete_columns_are_exact_given_the_particles():
    """Three atoms z, each so often that every group of particles is the same: nothing is left to chance."""
    rng = np.random.default_rng(0)
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.double)
    logits = torch.from_numpy(rng.normal(size=(3, 1, 4)) * 2)
    bits = torch.from_numpy(rng.normal(size=(3, 2)) * 2)
    atom = torch.arange(3).repeat_interleave(GROUPS)
    dist = Record([Names(logits[atom]), Bernoulli(bits[atom])], [[1], [0, 2]])
    found = Particles(dist, (prior[atom] / GROUPS).unsqueeze(1))
    fields = [Field(name="a", kind="binary"), Field(name="b", kind="category", categories=tuple("wxyz")),
              Field(name="c", kind="binary")]  # fmt: skip
    p = [torch.stack([1 - bits[:, j].sigmoid(), bits[:, j].sigmoid()], 1) for j in (0, 1)]
    tables = {0: p[0], 1: logits[:, 0].softmax(-1), 2: p[1]}
    for target in range(3):
        value, stderr = gains(found, fields, target, [d for d in range(3) if d != target], 50)
        for d in set(range(3)) - {target}:
            joint = torch.einsum("k,ka,kb->ab", prior, tables[d], tables[target])
            independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
            truth = float((joint * (joint / independent).log()).sum())
            assert float(value[0, d]) == pytest.approx(truth, abs=1e-12)
            assert float(stderr[0, d]) == pytest.approx(0, abs=1e-12)


class Groups(nn.Module):
    """One of three groups: with these shares, or whatever the parents each as likely."""

    def __init__(self, shares: list[float]):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(shares).log())

    def forward(self, *parents: Tensor) -> Categorical:
        return Categorical(logits=self.logits.expand(len(parents[0]), 3) if parents else self.logits)


class Bits(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(2 * torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, z: Tensor) -> Bernoulli:
        return Bernoulli(self.logits[z])


def test_a_mixture_of_bits_by_enumeration():
    """Five bits in three groups: all that z and the columns can be, summed over."""
    shares, decoder = [0.2, 0.5, 0.3], Bits()
    p = Joint({"z": Groups(shares), "x | z": decoder})
    model = Model(p, Joint({"z | x": Groups([1 / 3] * 3)})).eval()
    schema = Schema(fields=tuple(Field(name=f"x{j}", kind="binary") for j in range(5)))
    run = Run({"model": "toy", "settings": {}}, schema, model)
    on = decoder.logits.detach().double().sigmoid()
    tables = torch.stack([1 - on, on], -1)  # (z, column, value)
    weight = torch.tensor(shares, dtype=torch.double) * tables[:, 1, 1] * tables[:, 3, 0]
    weight = weight / weight.sum()
    found = run.acquire({"x1": 1, "x3": 0}, target="x0", particles=4000)
    for d in (2, 4):
        joint = torch.einsum("k,ka,kb->ab", weight, tables[:, d], tables[:, 0])
        independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        truth = float((joint * (joint / independent).log2()).sum())
        assert found.gains[0, d] == pytest.approx(truth, abs=4 * found.stderr[0, d] + 1e-6)
        assert found.stderr[0, d] < max(0.01, 0.2 * truth)
    assert found.beliefs[0].probabilities["1"] == pytest.approx(float(weight @ tables[:, 0, 1]), abs=0.03)


def telling(n: int = 600) -> pandas.DataFrame:
    """`tells` says what the target is, in 9 of 10 rows; the others say nothing."""
    rng = np.random.default_rng(0)
    target = rng.random(n) < 0.5
    tells = np.where(rng.random(n) < 0.9, target, ~target) * 4 + rng.normal(size=n) * 0.3
    return pandas.DataFrame({
        "noise": rng.normal(size=n), "tells": tells, "word": rng.choice(list("abc"), n),
        "count": rng.poisson(3, n), "target": np.where(target, "yes", "no"),
    })  # fmt: skip


@pytest.fixture(scope="module")
def told() -> Run:
    options = {"latents": 2, "encoder.hidden": [32], "decoder.hidden": [32], "train.hide": 0.6, "objective": "iw"}
    return jensen.train("vae", telling(), epochs=30, batch_size=32, lr=5e-3, seed=1, **options)


def test_the_column_that_tells_comes_first(told):
    found = told.acquire({}, target="target")
    assert found.advice() == "tells"
    of_others = [found.gains[0, told.schema.names.index(name)] for name in ("noise", "word", "count")]
    assert max(of_others) < 0.1 < 0.3 < found.gains[0, 1]
    table = found.table()
    assert list(table["rank"]) == [1, 2, 3, 4] and table["measure"].tolist() == [True, False, False, False]
    assert table["bits"].is_monotonic_decreasing
    assert found.to_dict()["rows"][0]["next"] == "tells"


def test_gains_are_not_below_zero_beyond_their_error(told):
    gone = telling(40).mask(np.random.default_rng(0).random((40, 5)) < 0.5)
    found = told.acquire(gone, target="target", particles=500)
    value, stderr = found.gains, found.stderr
    np.testing.assert_array_equal(np.isnan(value[:, :4]), gone.notna().to_numpy()[:, :4])
    assert np.isnan(value[:, 4]).all()
    measured = ~np.isnan(value)
    assert (value[measured] > -4 * stderr[measured] - 1e-3).all()


def test_costs_rank_and_unknown_columns_are_refused(told, tmp_path):
    cheap, dear = (linear().acquire({}, target="c0", costs=costs) for costs in ({}, {"c1": 10}))
    assert [cheap.ranked()[0], dear.ranked()[0]] == [1, 3]
    assert dear.gains[0, 1] == cheap.gains[0, 1]
    assert dear.rates[0, 1] == dear.gains[0, 1] / 10  # ten times that may differ from the gain in its last digit
    assert "tells" not in told.acquire({}, target="target", costs={"tells": math.inf}).table()["column"].tolist()
    path = tmp_path / "costs.yaml"
    path.write_text("tell: 3\nnoise: -1\n")
    with pytest.raises(ConfigError, match="no column 'tell'; did you mean 'tells'") as e:
        told.acquire({}, target="target", costs=path)
    assert len(e.value.problems) == 2 and "noise: expected a number above 0" in e.value.problems[1]
    with pytest.raises(ConfigError, match="no column 'targe'; did you mean 'target'"):
        told.acquire({}, target="targe")
    with pytest.raises(ConfigError, match="is no way to estimate"):
        told.acquire({}, target="target", method="latents")


def test_an_inquiry_ends_once_the_target_is_known(told):
    inquiry = Inquiry(told, "target", stopping=Stopping(gain=0.05, budget=2), costs={"tells": 2})
    before = inquiry.now()
    assert before.advice() == "tells"
    assert before.beliefs[0].uncertainty == pytest.approx(1, abs=0.05)
    inquiry.learn("tells", 4.1)
    after = inquiry.now()
    assert after.beliefs[0].probabilities["yes"] > 0.75
    assert "costs more" in after.reason(0, inquiry.spent) and inquiry.spent == 2
    inquiry.skip("noise")
    assert "noise" not in inquiry.now().table()["column"].tolist()
    with pytest.raises(DataError, match="word: expected a category of the training data, got 'd'"):
        inquiry.learn("word", "d")
    with pytest.raises(DataError, match="noise: expected a number, got 'many'"):
        inquiry.learn("noise", "many")
    stopping = Stopping(certain=1.1)
    assert told.acquire({}, target="target", stopping=stopping).reason() == "target is known well enough"
    assert "expected to give 3 bits" in told.acquire({}, target="target", stopping=Stopping(gain=3)).reason()


def test_columns_that_a_table_lacks_are_not_measured(told):
    found = told.acquire(pandas.DataFrame({"tells": [4.0, 0.1]}), target="target", particles=500)
    assert [b.probabilities["yes"] > 0.5 for b in found.beliefs] == [True, False]
    assert np.isnan(found.gains[:, 1]).all()
    with pytest.raises(DataError, match="'tels'; did you mean 'tells'"):
        told.acquire(pandas.DataFrame({"tels": [4.0]}), target="target")


def test_policies_ours_finds_what_tells_and_random_does_not(told):
    found = told.policies(telling(160), target="target", limit=80, particles=100, points=40, costs={"word": 2.0})
    ours, random = found.paths["ours"], found.paths["random"]
    assert found.order[0] == "tells" and found.first == {"tells": 1.0}
    assert ours.log2_p[0] == pytest.approx(-1, abs=0.05) and ours.error[0] == pytest.approx(0.5, abs=0.25)
    assert ours.log2_p[1] - random.log2_p[1] > 3 * math.hypot(ours.log2_p_stderr[1], random.log2_p_stderr[1])
    assert found.ahead["random"][0] > 3 * found.ahead["random"][1]
    for path in found.paths.values():
        assert path.cost[-1] == 5.0 and len(path.cost) == 5
    assert len(found.table()) == 15
    assert not found.warnings and all(1 <= size <= 100 for size in ours.effective_sample_size)
    assert "fixed order" in str(found)


def test_measuring_raises_log2_p_by_the_gain_that_was_expected():
    """E log2 p(t | x_o, x_d) − log2 p(t | x_o) is the gain; after all columns log2 p is that of the closed form."""
    run = linear()
    found = run.policies(target="c0", particles=100, points=40)
    ours, truth = found.paths["ours"], closed_form(COVARIANCE, 0, [])
    assert found.order[0] == f"c{np.nanargmax(truth)}"
    rise = ours.log2_p[1] - ours.log2_p[0]
    assert rise == pytest.approx(np.nanmax(truth), abs=4 * ours.log2_p_stderr[1])
    variance = 4 * conditional(COVARIANCE, [0], [1, 2, 3, 4])[0, 0]
    log2_p = -0.5 * math.log2(2 * math.pi * math.e * variance)
    assert ours.log2_p[-1] == pytest.approx(log2_p, abs=4 * ours.log2_p_stderr[-1])
    assert ours.error[-1] == pytest.approx(variance**0.5, abs=4 * ours.error_stderr[-1])


def test_models_that_cannot_refuse():
    table = np.random.default_rng(0).normal(size=(100, 3))
    flow = jensen.train("realnvp", table, epochs=1)
    with pytest.raises(CapabilityError, match="gives no density of one column given some"):
        flow.acquire({}, target="x0")
    holes = np.where(np.random.default_rng(1).random(table.shape) < 0.2, np.nan, table)
    completing = jensen.train("not-miwae", holes, epochs=1, latents=2)
    with pytest.raises(CapabilityError, match="gives no density of one column given some"):
        completing.acquire({}, target="x0")
    plain = jensen.train("vae", table, epochs=1, latents=2)
    with pytest.raises(CapabilityError, match=r"train\.hide=1"):
        plain.acquire({}, target="x0", method="latent")
    assert np.isfinite(plain.acquire({"x1": 0.3}, target="x0").gains[0, 2])
    labelled = load_data(telling(60), label="target")
    run = jensen.train("vae", labelled, epochs=1, latents=2)
    with pytest.raises(ConfigError, match="'target' is the label"):
        run.acquire({}, target="target")
