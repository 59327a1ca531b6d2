"""Laws that hold for every registered model, with every registered component in each of its slots.

A new model or component is tested here because it is registered.
"""

from __future__ import annotations

import functools
import inspect
import math
import pickle
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest
from tests.contracts.toys import DATA, columns, small
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.conditionals.autoregressive import Autoregression, Autoregressive
from jensen.core import EXACT, LOWER_BOUND, Model, Observed, seeded
from jensen.data import Dataset, Schema, Split
from jensen.distributions import Elementwise
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.models import table, toy
from jensen.jobs.run import Run, open_run
from jensen.jobs.train import train
from jensen.nets.batch_norm import BatchNorm
from jensen.nets.causal import Causal
from jensen.objectives import GradientPhase
from jensen.objectives.estimators import elbo, importance, prior
from jensen.registry import MODEL, SLOTS, build, configure, find, names


@dataclass(frozen=True)
class Variant:
    """A model on some data, with one slot filled by a component other than the default's."""

    model: str
    data: str
    slot: str = ""
    component: str = ""
    settings: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def __str__(self) -> str:
        return f"{self.model} of {self.data}" + (f", {self.slot}={self.component}" if self.slot else "")

    @property
    def schema(self) -> Schema:
        return DATA[self.data][0]

    @functools.lru_cache  # noqa: B019
    def build(self) -> Model:
        """In float64 and eval, with weights away from where they start."""
        with seeded(1):
            model = build(self.model, self.schema, self.settings).double().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    @property
    def x(self) -> Tensor:
        """Prepared data, (8, *event); 0 where there are none."""
        schema, rows = DATA[self.data]
        return schema.prepare(rows).double()[:8].nan_to_num()

    @property
    def batch(self) -> dict[str, Tensor]:
        """Data as a model is given them."""
        schema, rows = DATA[self.data]
        seen = {"seen": torch.from_numpy(~np.isnan(rows[:8]))} if schema.gaps else {}
        return {"x": self.x, **seen}

    def dataset(self) -> Dataset:
        schema, rows = DATA[self.data]
        return Dataset("toy", schema, {"train": Split(rows), "valid": Split(rows[:8]), "test": Split(rows[8:16])})


def variants() -> list[Variant]:
    """Every model as it comes on all data that it takes, and with every component in every slot."""
    found = []
    tried: dict[tuple[str, str, str], set[frozenset[str]]] = defaultdict(set)  # in models that share these slots
    for model in sorted(names(MODEL), key=lambda name: toy(name)[1].capabilities("").sequential_steps):  # quick first
        slots = {k: s.role for k, s in find(MODEL, model).settings.items() if s.role}
        shared = getattr(find(MODEL, model).function, "shares", frozenset())
        quick = small(find(MODEL, model))
        candidates: list[tuple[str, str]] = [("", "")]
        candidates += [(slot, name) for slot, role in slots.items() for name in names(role or "")]
        for data in DATA:
            for slot, name in candidates:
                if "gaps" in data and slot and name != "set" and slots[slot] != "missingness":
                    continue  # the others see no gaps
                if name == "set" and slot != "encoder":
                    continue  # elsewhere it is a network of numbers as others are
                if "gaps" in data and shared and any(shared <= of for of in tried[data, "", ""]):
                    continue  # all flows, and all causal networks, are completed alike
                default = find(MODEL, model).settings[slot].default if slot else None
                if slot and name == default:
                    continue
                if slot and slots[slot] in ("prior", "posterior", "objective") and data != "binary pictures":
                    continue  # what they do does not depend on the kind of data
                if slot and slots[slot] == "flow" and data != "real table":
                    continue  # each flow is a model itself, tried on all data
                alone = "pictures" in data and model in names("causal")  # each of them meets all kinds of pixels
                if slot in shared and not alone and any(shared <= of for of in tried[data, slot, name]):
                    continue
                settings = dict(quick)
                if slot:
                    settings = {key: value for key, value in quick.items() if not key.startswith(f"{slot}.")}
                    part = find(slots[slot], name)
                    settings |= {slot: name, **small(part, f"{slot}."), **_beside(model, slots[slot], name)}
                variant = Variant(model, data, slot, name, settings)
                try:
                    variant.build()
                except ConfigError:  # does not fit these data
                    continue
                found.append(variant)
                tried[data, "", ""].add(shared)
                if slot in shared:
                    tried[data, slot, name].add(shared)
    return found


def _beside(model: str, role: str, name: str) -> dict[str, Any]:
    """What else a component needs, where the model has such settings: a prior of bits a posterior of bits."""
    wanted = getattr(find(role, name).function, "beside", {})
    return wanted if {key.partition(".")[0] for key in wanted} <= set(find(MODEL, model).settings) else {}


VARIANTS = variants()
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def likelihood(kind: str | None) -> pytest.MarkDecorator:
    chosen = [v for v in VARIANTS if v.build().likelihood == kind]
    return pytest.mark.parametrize("variant", chosen, ids=str)


def rows_of(model: Model, batch: dict[str, Tensor], particles: int) -> Tensor:
    with torch.no_grad():
        return model.evidence(batch, particles).log_w


# Every component is under these laws


@pytest.mark.parametrize("role", SLOTS)
def test_every_component_is_tried(role):
    slots = {(m, k): s.role for m in names(MODEL) for k, s in find(MODEL, m).settings.items()}
    tried = {v.component for v in VARIANTS if slots.get((v.model, v.slot)) == role}
    tried |= {s.default for m in names(MODEL) for s in find(MODEL, m).settings.values() if s.role == role}
    tried |= {v.model for v in VARIANTS} if role == "causal" else set()  # each is a model itself
    assert tried >= set(names(role))


def test_every_model_is_tried():
    assert {v.model for v in VARIANTS} == set(names(MODEL))


# Likelihood


@likelihood(EXACT)
def test_an_exact_model_has_constant_weight(variant):
    log_w = rows_of(variant.build(), variant.batch, 5)
    torch.testing.assert_close(log_w, log_w[:1].expand(5, -1), rtol=0, atol=1e-9)


@likelihood(LOWER_BOUND)
def test_bounds_are_ordered_below_the_likelihood(variant):
    """ELBO ≤ IW ≤ log p, which many draws from the prior find, each within four standard errors.

    Where q adds noise to the datum, draws from the prior seldom meet it: they count how often, the mean of the weights.
    Where q fills in its gaps, they never do: there the bound of many draws is above that of fewer.
    """
    model, x = variant.build(), variant.batch
    low, middle = elbo(model, x, 100), importance(model, x, 100)
    assert (low.rows - middle.rows).sum() < 4 * (low.variance + middle.variance).sum().sqrt() + 1e-9
    if any(model.is_noisy(name) for name in model.hidden):
        weight, share = middle.rows.exp(), prior(model, x, 4000).rows.exp()
        error = middle.variance * weight.square() + (share * (1 - share) + 1 / 4000) / 4000  # one more, where none hit
        assert (weight - share).sum() < 4 * error.sum().sqrt()
    else:
        high = importance(model, x, 4000) if model.completes else prior(model, x, 1000)
        assert (middle.rows - high.rows).sum() < 4 * (middle.variance + high.variance).sum().sqrt()


@likelihood(None)
def test_a_model_without_likelihood_says_why(variant):
    assert variant.build().capabilities("counting").no_likelihood
    run = train(variant.model, variant.dataset(), settings=variant.settings, epochs=1)
    with pytest.raises(CapabilityError, match="cannot score: it has no likelihood: "):
        run.score()


AUTOREGRESSIVE = [v for v in VARIANTS if any(isinstance(m, Autoregressive) for m in v.build().modules())]


@pytest.mark.parametrize("variant", AUTOREGRESSIVE, ids=str)
def test_a_sampler_that_computes_everything_once_equals_one_that_does_not(variant):
    """Given the same noise, in float64: element by element with what is kept, in full passes, and all at once."""
    model, found = variant.build(), 0
    with seeded(2), torch.no_grad():
        values = model.evidence({name: value[:3] for name, value in variant.batch.items()}).values
        for factor in model.p:
            p = factor.module(*(values[name] for name in factor.parents))
            p = getattr(p, "base", p)
            if not isinstance(p, Autoregression):
                continue
            u = p.noise((3, *p.event_shape))
            quick = p.from_noise(u)
            torch.testing.assert_close(quick, p.from_noise_naively(u), rtol=0, atol=1e-10)
            torch.testing.assert_close(quick, p.from_noise_jacobi(u)[0], rtol=0, atol=1e-10)
            found += 1
    assert found


@likelihood(LOWER_BOUND)
def test_closed_form_and_monte_carlo_divergences_agree(variant):
    model, k = variant.build(), 500
    with torch.no_grad():
        e = model.evidence(variant.batch, k)
        for name, closed in e.divergences().items():
            ratio = e.log_q.get(name, torch.zeros(())) - e.log_p[name]  # of a code log q = 0
            assert ((ratio.mean(0) - closed).abs() < 4.5 * ratio.std(0) / math.sqrt(k) + 1e-12).all()
            drawn = name in e.log_q and e.closed_kl(name) is None and e.kl_by_draw(name) is None
            assert drawn or (closed > -1e-9).all()  # a mean of draws of log q − log p may be below 0


@every_variant
def test_masking_everything_scores_zero(variant):
    model, x = variant.build(), variant.x
    holes = torch.full_like(x, math.nan)
    masks = [torch.zeros(len(x), dtype=torch.bool)]
    if isinstance(model.evidence(variant.batch).p["x"], Elementwise):
        masks.append(torch.zeros_like(x, dtype=torch.bool))
    for mask in masks:
        e = model.evidence({**variant.batch, "x": Observed(holes, mask)}, 2)
        assert (e.log_p["x"] == 0).all()
        assert all(torch.isfinite(value).all() for value in e.values.values())


@every_variant
def test_a_datums_score_does_not_depend_on_its_batch(variant):
    """Given what was drawn, each density of a row alone is that of the row among others."""
    model, x = variant.build(), variant.x
    with torch.no_grad():
        e = model.evidence(variant.batch)
        seen = {name: value for name, value in variant.batch.items() if name != "x"}
        for i in range(len(x)):
            row = {name: value[i : i + 1] for name, value in {**seen, **e.values}.items()}
            alone = model.evidence(row)
            for name, value in e.log_p.items():
                torch.testing.assert_close(alone.log_p[name][0, 0], value[0, i], rtol=1e-9, atol=1e-9)
            for factor in model.q:
                met = factor.module(*(row[parent] for parent in factor.parents))
                if isinstance(met, Distribution):
                    found = met.log_prob(row[factor.name])[0]
                    torch.testing.assert_close(found, e.log_q[factor.name][0, i], rtol=1e-9, atol=1e-9)
                else:
                    torch.testing.assert_close(met, row[factor.name], rtol=1e-9, atol=1e-9)


@every_variant
def test_no_batch_normalisation_but_in_the_ladder(variant):
    """Its paper has it, and `docs/architecture.md` says so; that a datum's score is its own holds for it as well."""
    kinds = (BatchNorm, nn.modules.batchnorm._BatchNorm)
    assert any(isinstance(m, kinds) for m in variant.build().modules()) is (variant.model == "ladder")


# Training


@every_variant
def test_every_parameter_receives_a_gradient(variant):
    model = variant.build()
    phases = [p for stage in model.objective.stages for p in stage.phases if isinstance(p, GradientPhase)]
    model.zero_grad()
    x = {
        n: v.repeat(8, *(1,) * (v.dim() - 1)) for n, v in variant.batch.items()
    }  # several draws: a few units may be off
    with seeded(0):
        if phases:
            for phase in phases:
                phase.loss(model, x, 1.0).loss.backward()
        else:
            model.evidence(x).elbo().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    model.zero_grad()
    if len(variant.schema.event_shape) == 3 and variant.schema.event_shape[1] == 1:  # nothing stands above a single row
        silent = [n for n in silent if not n.endswith("vertical.weight")]
    single = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, Causal) and m.dims == 1)
    silent = [n for n in silent if not n.startswith(single)]  # and nothing comes before a single element
    assert not silent


@every_variant
def test_saving_and_loading_scores_identically(variant, tmp_path):
    """Through a run folder: train, open again, and compare row by row."""
    data = variant.dataset()
    run = train(variant.model, data, out=tmp_path / "run", settings=variant.settings, epochs=2, batch_size=10)
    again = open_run(tmp_path / "run")
    assert again.spec == run.spec
    x = data.split("test").to(data.schema).take(slice(None))

    def walked(run: Run) -> dict[str, Tensor]:
        with seeded(3), torch.no_grad():
            e = run.model.evidence(x, 3)
            return {**e.log_p, **{f"q {n}": v for n, v in e.log_q.items()}}

    before, after = walked(run), walked(again)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, after[name])
    if run.capabilities.likelihood:
        again._data = data
        one, two = (some.score(split="test", particles=5) for some in (run, again))
        assert one.rows is not None and two.rows is not None
        assert torch.equal(one.rows, two.rows)
        assert one.kind == run.capabilities.likelihood


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.slot], ids=str)
def test_a_pickled_run_walks_identically(variant):
    """Of the record, the schema and the weights alone, in the precision that they had."""
    settings = configure(find(MODEL, variant.model), variant.settings)
    run = Run({"model": variant.model, "settings": settings}, variant.schema, variant.build())
    again = pickle.loads(pickle.dumps(run))
    walks = []
    for model in (run.model, again.model):
        with seeded(0), torch.no_grad():
            e = model.evidence(variant.batch)
            walks.append({**e.values, **{f"log p {name}": value for name, value in e.log_p.items()}})
    assert walks[0].keys() == walks[1].keys()
    assert all(torch.equal(value, walks[1][name]) for name, value in walks[0].items())


@every_variant
def test_validation_logs_what_is_monitored(variant):
    model, x = variant.build(), variant.x
    logged = model.objective.validate(model, variant.batch)
    assert all(stage.monitor in logged for stage in model.objective.stages)
    assert all(value.shape == (len(x),) for value in logged.values())


# Sampling


def outcomes(schema: Schema) -> Tensor:
    """Every datum there is, (N, *event)."""
    values = torch.arange(float(schema.levels or 2), dtype=torch.float64)
    return torch.cartesian_prod(*[values] * schema.dims).reshape(-1, *schema.event_shape)


def countable() -> list[Variant]:
    """Where all data can be listed. Networks and objectives are left to the other laws."""
    kinds = ("binary table", "binary pictures", "grey pictures", "text")
    roles = {k: s.role for m in names(MODEL) for k, s in find(MODEL, m).settings.items()}
    return [
        v
        for v in VARIANTS
        if v.data in kinds
        and roles.get(v.slot) in (None, "prior", "posterior", "likelihood")
        and v.build().capabilities("counting").sample
        and v.build().likelihood  # without one there is nothing to agree with
        and v.build().evidence(v.batch).p["x"].support.is_discrete  # pyright: ignore
    ]


@pytest.mark.parametrize("variant", countable(), ids=str)
def test_a_sampler_agrees_with_its_probabilities(variant):
    """All data are listed: probabilities sum to one, and samples have them (chi-square, one in ten thousand).

    Where q adds noise to the datum, probabilities are themselves counted among draws, and as uncertain.
    """
    model, x = variant.build(), outcomes(variant.schema)
    counted = any(model.is_noisy(name) for name in model.hidden)
    with seeded(0):
        p = (
            prior(model, {"x": x}, 4000).rows.exp()
            if model.hidden or model.codes
            else rows_of(model, {"x": x}, 1)[0].exp()
        )
    error = 4 * (p * (1 - p) / 4000).sum().sqrt().item() if counted else 0.02
    assert p.sum().item() == pytest.approx(1, abs=error)
    n = 2000
    with torch.no_grad():
        drawn = model.sample(n)["x"].flatten(1)
    counts = (drawn[:, None] == x.flatten(1)).all(-1).sum(0)
    assert counts.sum() == n
    expected = n * p / p.sum()
    order = expected.argsort()
    rare, common = order.tensor_split([int((expected[order].cumsum(0) < 5).sum()) + 1])  # the rarest count as one
    expected = torch.cat([expected[rare].sum(0, keepdim=True), expected[common]])
    counts = torch.cat([counts[rare].sum(0, keepdim=True), counts[common]])
    statistic = ((counts - expected) ** 2 / expected).sum().item() / (1 + n / 4000 if counted else 1)
    assert statistic < chi2.ppf(0.9999, len(expected) - 1)


@pytest.mark.parametrize("name", names("likelihood"))
def test_a_sampler_agrees_with_its_density(name):
    """On one real column: the density integrates to one, and samples follow it (Kolmogorov-Smirnov)."""
    rows = np.linspace(-1, 1, 20)[:, None]
    try:
        settings = {"latents": 1, "likelihood": name, **small(find("likelihood", name), "likelihood.")}
        model = build("vae", columns(rows, "real"), settings).double().eval()
    except ConfigError:
        assert name not in ("auto", "gaussian", "student-t")
        return
    grid = torch.linspace(-60, 60, 6001, dtype=torch.float64)
    with torch.no_grad():
        z = torch.randn(4000, 1, dtype=torch.float64)
        head = model.p["x"].module(z)
        density = torch.empty_like(grid)  # filled in place: small results kept between large passes cut up the heap
        for i, g in enumerate(grid.split(1)):
            density[i] = head.log_prob(g).exp().mean()
        drawn = model.sample(2000)["x"][:, 0].numpy()
    cumulative = torch.cumulative_trapezoid(density, grid).numpy()
    assert cumulative[-1] == pytest.approx(1, abs=2e-3)
    assert kstest(drawn, lambda v: np.interp(v, grid[1:].numpy(), cumulative)).pvalue > 1e-4


# What is said of a model


def components() -> list[tuple[str, str]]:
    roles = (*SLOTS, MODEL, "training")
    return [(role, name) for role in roles for name in names(role)]


@pytest.mark.parametrize(("role", "name"), components())
def test_every_setting_is_explained(role, name):
    found = find(role, name)
    text = inspect.getdoc(found.function) or ""
    assert found.summary.endswith((".", ":"))
    settings = text.partition("Settings:\n")[2].partition("\n\n")[0]
    explained = re.findall(r"^    (\w+): \S", settings, flags=re.MULTILINE)
    assert sorted(explained) == sorted(found.settings)


@pytest.mark.parametrize("name", names(MODEL))
def test_every_model_names_its_source(name):
    assert re.search(r"\d{4}", find(MODEL, name).paper)


def test_the_table_of_models_is_computed():
    """As the lectures have it: a prescribed model bounds, samples fast, and codes with bits-back."""
    found = {row["model"]: row for row in table()}
    assert set(found) == set(names(MODEL))
    vae, ppca, autoencoder = found["vae"], found["ppca"], found["autoencoder"]
    assert (vae["likelihood"], vae["sampling"]) == ("lower bound", "fast")
    assert (vae["lossy compression"], vae["lossless compression"]) == ("yes", "with bits-back")
    assert (ppca["likelihood"], ppca["encoding"], ppca["lossless compression"]) == ("exact", "yes", "no")
    assert (autoencoder["likelihood"], autoencoder["sampling"], autoencoder["encoding"]) == ("none", "no", "yes")
