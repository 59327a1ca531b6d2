"""Finite mixture.

    z ~ π        x | z ~ p_z(x)        so p(x) = Σ_k π_k p_k(x)

Everything is exact: p(z = k | x) = π_k p_k(x) / p(x) says which component a datum belongs to. Expectation
maximisation takes the two in turn,

    r_nk = p(z = k | x_n)        π_k = Σ_n r_nk / N        p_k = arg max Σ_n r_nk log p_k(x_n)

and never lowers the likelihood. It climbs to the nearest summit only, so it is started from several sets of centres
drawn far apart (k-means++), each improved for a few passes over some of the data, and goes on from the best of them.

Rows may have gaps: of what is missing, m, nothing is guessed. It is integrated out, p(x_o) = Σ_k π_k p_k(x_o), and the
M-step takes the sums that it needs of x_m as p_k(x_m | x_o) expects them.

Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm", JRSS B 39(1), 1977.
McLachlan and Peel, "Finite mixture models", 2000.
Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
Ghahramani and Jordan, "Supervised learning from incomplete data via an EM approach", 1994.
Little and Rubin, "Statistical analysis with missing data", 1987.
Biernacki, Celeux and Govaert, "Choosing starting values for the EM algorithm", 2003: short runs, of which the best.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from jensen.conditionals.components import Components, Explain, Responsibilities, Sums, Weights
from jensen.conditionals.discrete_components import Bernoullis, Categoricals, Poissons
from jensen.conditionals.elliptical import Elliptical
from jensen.conditionals.heads import Support
from jensen.core import Joint, Model, on
from jensen.data.schema import Schema
from jensen.errors import ConfigError, FitWarning
from jensen.objectives import Batch, Objective, Stage, UpdatePhase
from jensen.objectives.likelihood import maximum_likelihood
from jensen.registry import model

FAMILIES = {
    "binary": ("bernoulli",),
    "levels": ("categorical", "gaussian", "student-t"),
    "count": ("poisson",),
    "real": ("gaussian", "student-t"),
}
"""What a component can be of each kind of data, the default first."""


@model("mixture", paper="Dempster, Laird and Rubin 1977, JRSS B 39(1); McLachlan and Peel 2000", toy="table")
def mixture(
    schema: Schema,
    *,
    components: Annotated[int, Field(ge=1)] = 8,
    family: Literal["auto", "gaussian", "student-t", "bernoulli", "categorical", "poisson"] = "auto",
    covariance: Literal["full", "tied", "diagonal", "spherical"] = "full",
    df: Annotated[float, Field(gt=0)] | None = None,
    fit: Literal["em", "gradient"] = "em",
    starts: Annotated[int, Field(ge=1)] = 4,
    min_scale: Annotated[float, Field(gt=0, lt=1)] = 1e-3,
    smoothing: Annotated[float, Field(ge=0)] = 1.0,
    prior_data: Annotated[float, Field(ge=0)] | Literal["auto"] = 0.0,
    prior_variance: Annotated[float, Field(gt=0)] | Literal["learned"] = 0.05,
) -> Model:
    """Mixture of densities of one family: exact likelihood, posterior, samples and clusters.

    Settings:
        components: K.
        family: what a component is; "auto" follows the data: bernoulli for zeros and ones, categorical for levels,
            poisson for counts, gaussian for real numbers.
        covariance: of gaussian and student-t: a full matrix each, one for all ("tied"), a diagonal each, or σ² I each.
        df: degrees of freedom of student-t; none learns them for each component, between 2 and 1000.
        fit: expectation maximisation, or gradient ascent from the same start.
        starts: sets of centres from which EM is started; it goes on from the best.
        min_scale: floor under the standard deviations of gaussian and student-t in any direction, in the prepared
            data's units, for pictures half the grey range.
        smoothing: data added to each component's own in the other families, spread evenly over the values there are
            (one half of a one, and so of a zero), so that nothing is impossible; with 0 EM climbs the likelihood alone.
        prior_data: data added to each component's own in gaussian and student-t where its covariance is estimated, so
            that EM climbs the likelihood times a prior; "auto" for two more than there are columns, which suits many
            components of few data and filling in.
        prior_variance: variance of these, without correlation, as a share of each column's; or "learned", with
            correlations, as that of a usual component: so components of few data have the shape of others.
    """
    support = Support.of(schema, gaps=True)
    fitting = FAMILIES[support.kind]
    name = fitting[0] if family == "auto" else family
    if name not in fitting:
        raise ConfigError(f"family: {name!r} is not for {support.kind} data; choose {' or '.join(map(repr, fitting))}")
    if df is not None and name != "student-t":
        raise ConfigError(f"df: only student-t has degrees of freedom, got family {name!r}")
    if fit == "gradient" and prior_data != 0:
        raise ConfigError(f"prior_data: the gradient climbs the likelihood alone; use fit=em, got {prior_data}")
    prior: dict[str, Any] = {
        "prior_data": None if prior_data == "auto" else prior_data,
        "prior_variance": None if prior_variance == "learned" else prior_variance,
    }
    makers = {
        "gaussian": lambda: Elliptical(components, support, covariance, min_scale, **prior),
        "student-t": lambda: Elliptical(components, support, covariance, min_scale, student=True, df=df, **prior),
        "bernoulli": lambda: Bernoullis(components, support, smoothing),
        "categorical": lambda: Categoricals(components, support, smoothing),
        "poisson": lambda: Poissons(components, support, smoothing),
    }
    weights, parts = Weights(components), makers[name]()
    p = Joint({"z": weights, "x | z": parts})
    q = Joint({on("z", *support.parents): Responsibilities(weights, parts)})
    start = Stage((start_apart(starts),), passes=1, monitor="log_likelihood", name="start")
    if fit == "em":
        climb = Stage((EM,), monitor="log_likelihood", name="em")
        objective = Objective((start, climb), log_likelihood, "maximum likelihood, EM")
    else:
        ascent = maximum_likelihood()
        objective = Objective((start, *ascent.stages), log_likelihood, ascent.description)
    return Model(p, q, objective)


def log_likelihood(model: Model, batch: Batch) -> dict[str, Tensor]:
    """log Σ_k π_k p_k(x) of each datum, (B,), in nats: what a walk finds too, with nothing drawn."""
    weights, components = parts_of(model)
    return {"log_likelihood": (weights.log_weights + components.log_prob(batch["x"], batch.get("seen"))).logsumexp(1)}


def parts_of(model: Model) -> tuple[Weights, Components]:
    """π and the components."""
    weights, components = model.p["z"].module, model.p["x"].module
    assert isinstance(weights, Weights) and isinstance(components, Components)
    return weights, components


# EM: accumulate expected counts over a pass, then maximise.


@dataclass
class Expected:
    """What a pass through the data leaves: the E-step's sums.

    Attributes:
        explain, log_weights: the mixture, which stands still meanwhile.
        n: weight of the data of each component, (K,).
        log_likelihood: Σ w log p(x), in nats, ().
        sums: what the components count.
        worst: the data explained worst: their log p, weights and rows.
        at_once: rows that are worked on at once.
        waiting: rows and weights of small batches, until there are so many.
    """

    explain: Explain
    log_weights: Tensor
    n: Tensor
    log_likelihood: Tensor
    sums: Sums
    worst: tuple[Tensor, Tensor, Tensor]
    at_once: int
    waiting: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def expect_nothing(weights: Weights, components: Components) -> Expected:
    """Before the first datum."""
    log_weights = weights.log_weights.detach()
    zero = torch.zeros_like(log_weights)
    none = zero[:0], zero[:0], zero.new_zeros(0, components.dims)
    return Expected(components.explainer(), log_weights, zero, zero.sum(), {}, none, components.at_once)


@torch.no_grad()
def expect(components: Components, so_far: Expected, rows: Tensor, w: Tensor) -> Expected:
    """Add rows, (N, D), of weights w, (N,): a block that the cache holds after another."""
    s, counts = so_far, dict(so_far.sums)
    n, total, log_p = s.n, s.log_likelihood, []
    for x, own in zip(rows.split(s.at_once), w.split(s.at_once), strict=True):
        joint, seen = s.explain(x)
        joint = joint + s.log_weights[:, None]  # (K, N)
        top = joint.amax(0)
        share = joint.sub_(top).exp_()
        among = share.sum(0)
        evidence = top + among.log()  # log p(x)
        share = share.mul_(own / among)
        n, total = n + share.sum(1), total + own @ evidence
        log_p.append(evidence)
        for name, value in components.count(seen, share).items():
            counts[name] = counts[name] + value if name in counts else value
    found = torch.cat([s.worst[0], *log_p])
    least = found.topk(min(WORST, len(found)), largest=False).indices
    worst = found[least], torch.cat([s.worst[1], w])[least], torch.cat([s.worst[2], rows])[least]
    return Expected(s.explain, s.log_weights, n, total, counts, worst, s.at_once)


def maximise(weights: Weights, components: Components, found: Expected) -> None:
    """The M-step."""
    components.set_from(found.sums, found.n)
    weights.set(found.n)


def _weighed(batch: Batch) -> Tensor:
    """Row weights, (B,), in float64."""
    x = batch["x"]
    return batch["weight"].double() if "weight" in batch else torch.ones(len(x), dtype=torch.float64, device=x.device)


def _begin(model: Model) -> Expected:
    return expect_nothing(*parts_of(model))


def _accumulate(model: Model, state: Expected, batch: Batch) -> Expected:
    _, components = parts_of(model)
    state.waiting.append((components.rows(batch["x"], batch.get("seen")), _weighed(batch)))
    return _done(components, state) if sum(len(w) for _, w in state.waiting) >= state.at_once else state


def _done(components: Components, state: Expected) -> Expected:
    """With what was waiting."""
    if not state.waiting:
        return state
    rows, w = (torch.cat(parts) for parts in zip(*state.waiting, strict=True))
    return expect(components, state, rows, w)


@torch.no_grad()
def _apply(model: Model, state: Expected) -> dict[str, Tensor]:
    """Maximise, see to what is empty or has collapsed; the likelihood logged is that before."""
    weights, components = parts_of(model)
    state = _done(components, state)
    maximise(weights, components, state)
    _restart_empty(weights, components, state)
    _say_collapsed(components, state)
    return {"log_likelihood": state.log_likelihood / state.n.sum()}


EM = UpdatePhase(_begin, _accumulate, _apply)


# Components that are of no use

EMPTY = 1e-2  # data, of which a component with fewer has none
WORST, PLACES = 64, 16  # data explained worst that are kept, and those of them where a component may start again
NARROW, WEIGHT = (1.0, 0.5, 0.25), (1, 4, 16)  # of the average scale, and in data: with which it starts there
GAIN = 2.0  # nats that this must bring at least: more than what EMPTY data lose
MOVES, TRIES = 5, 10  # of one component, after which it is left alone
COUNTED = "moves", "tries", "said"  # of a fit: by component, what was done and told
PATIENCE = 3  # passes, before it is said that a component stays empty: others may yet make room


def _restart_empty(weights: Weights, components: Components, state: Expected) -> None:
    """Move components without data to where data are explained worst, if that raises the likelihood.

    With a new p_k of weight ε the log-likelihood of n data changes by no less than

        n log(1 − ε) + Σ log(1 + ε p_k(x) / ((1 − ε) p(x)))

    over any part of the data, here those explained worst.
    """
    moves, tries = (components.__dict__.setdefault(name, Counter()) for name in ("moves", "tries"))
    for k in torch.nonzero(state.n < EMPTY)[:, 0].tolist():
        if moves[k] < MOVES and tries[k] < TRIES and _moved(weights, components, state, k):
            moves[k] += 1
            _warn(f"component {k} had no data left; it starts again among those that were explained worst")
            continue
        tries[k] += 1
        if tries[k] == PATIENCE:
            _warn(f"component {k} has no data left, and no new start helps: it stays empty")


def _moved(weights: Weights, components: Components, state: Expected, k: int) -> bool:
    """Whether component k found a better place."""
    _, w, rows = state.worst
    total, before = state.n.sum(), copy.deepcopy(components.state_dict())
    now = (components.explainer()(rows)[0] + weights.log_weights[:, None]).logsumexp(0)  # log p(x)
    best, where = GAIN, None
    for x, narrow in itertools.product(rows[:PLACES], NARROW):
        components.load_state_dict(before)
        components.start_at(k, x, state.n, narrow)
        there = components.explainer()(rows)[0][k]
        for size in WEIGHT:
            share = size / (total + size)
            odds = torch.log(share) - torch.log1p(-share)
            gain = total * torch.log1p(-share) + w @ torch.nn.functional.softplus(there + odds - now)
            if gain > best:
                best, where = float(gain), (copy.deepcopy(components.state_dict()), size)
    components.load_state_dict(before if where is None else where[0])
    if where is None:
        return False
    state.n[k] = where[1]
    weights.set(state.n)
    return True


def _say_collapsed(components: Components, state: Expected) -> None:
    said = components.__dict__.setdefault("said", set())
    for k in torch.nonzero(components.collapsed(state.n))[:, 0].tolist():
        if k not in said:
            said.add(k)
            _warn(
                f"component {k} rests on too few data for its covariance, which is held at its floor; "
                "fewer components, a simpler covariance or a larger min_scale"
            )


def _warn(text: str) -> None:
    warnings.warn(text, FitWarning, stacklevel=2)


# The start: several sets of centres, a few passes of EM from each, and on from the best.

SOME = 20_000  # rows, at random, on which starts are tried
LLOYD, SHORT = 10, 10  # rounds of k-means, and passes of EM, of each


@dataclass
class Gathered:
    """Rows to start from."""

    rows: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    count: int = 0


def start_apart(starts: int) -> UpdatePhase:
    """Start the components from data: of several starts the best after a short run of EM."""

    def gather(model: Model, so_far: Gathered, batch: Batch) -> Gathered:
        if so_far.count < SOME:
            so_far.rows.append(parts_of(model)[1].rows(batch["x"], batch.get("seen")))
            so_far.weights.append(_weighed(batch))
            so_far.count += len(batch["x"])
        return so_far

    @torch.no_grad()
    def begin(model: Model, found: Gathered) -> None:
        weights, components = parts_of(model)
        for name in COUNTED:  # by a fit before
            components.__dict__.pop(name, None)
        x, w = torch.cat(found.rows), torch.cat(found.weights)
        if len(x) < components.components:
            number = components.components
            raise ConfigError(f"components: expected at most as many as training data, {len(x)}, got {number}")
        components.look(x, w)
        best, kept = None, None
        for _ in range(starts):
            reached = short_run(weights, components, x, w)
            if best is None or reached > best:
                best, kept = reached, copy.deepcopy((weights.state_dict(), components.state_dict()))
        assert kept is not None
        weights.load_state_dict(kept[0])
        components.load_state_dict(kept[1])

    return UpdatePhase(lambda model: Gathered(), gather, begin)


def short_run(weights: Weights, components: Components, x: Tensor, w: Tensor) -> tuple[int, float]:
    """A few passes of EM from centres drawn at random.

    Returns:
        minus the components that are of no use, then Σ w log p(x): a component on a few data that lie by chance in a
        plane is as likely as one pleases, and would be the best.
    """
    components.reset()
    nearest = k_means(x, components.components, w)
    share = torch.nn.functional.one_hot(nearest, components.components).mT * w  # (K, N)
    sums: Sums = {}
    explain, size = components.explainer(), components.at_once
    for rows, part in zip(x.split(size), share.split(size, 1), strict=True):
        for name, value in components.count(explain(rows)[1], part).items():
            sums[name] = sums[name] + value if name in sums else value
    components.set_from(sums, share.sum(1))
    weights.set(share.sum(1))
    found = expect(components, expect_nothing(weights, components), x, w)
    for _ in range(SHORT if components.components > 1 else 0):
        maximise(weights, components, found)
        found = expect(components, expect_nothing(weights, components), x, w)
    useless = (found.n < EMPTY) | components.collapsed(found.n)
    return -int(useless.sum()), float(found.log_likelihood)


def k_means(x: Tensor, count: int, w: Tensor) -> Tensor:
    """Of each row, (N, D), of weight w, (N,), the nearest of so many centres, (N,), after some rounds of k-means.

    The first centres are drawn one after another, each in proportion to the squared distance from those before. Where
    rows have gaps, distances are those in what is there, and centres have what is missing of a row from the mean.
    """
    there = ~x.isnan()
    gaps = not bool(there.all())
    seen, x = there.to(x.dtype), x.nan_to_num() if gaps else x
    mean = (w @ x / (w @ seen).clamp_min(1e-300)) if gaps else x[0]
    square = x.square().sum(1)

    def distances(centres: Tensor) -> Tensor:
        own = seen @ centres.square().mT if gaps else centres.square().sum(1)
        return torch.addmm(square[:, None] + own, x, centres.mT, alpha=-2).clamp_min_(0)

    def centre(chance: Tensor) -> Tensor:
        row = torch.multinomial(chance, 1)
        return torch.where(there[row], x[row], mean)

    centres = centre(w)
    nearest = distances(centres)[:, 0]
    for _ in range(count - 1):
        chance = nearest * w
        chance = chance if chance.sum() > 1e-12 * square.mean() else w  # all rows are centres already
        centres = torch.cat([centres, centre(chance)])
        nearest = torch.minimum(nearest, distances(centres[-1:])[:, 0])
    index = distances(centres).argmin(1)
    for _ in range(LLOYD):
        total = torch.zeros(count, *x.shape[1:] if gaps else (1,), dtype=x.dtype, device=x.device)
        total.index_add_(0, index, seen * w[:, None] if gaps else w[:, None])
        sums = torch.zeros_like(centres).index_add_(0, index, x * w[:, None])
        centres = torch.where(total > 0, sums / total.clamp_min(1e-300), centres)
        before, index = index, distances(centres).argmin(1)
        if torch.equal(before, index):
            break
    return index
