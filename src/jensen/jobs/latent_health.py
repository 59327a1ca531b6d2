"""Faults of latent-variable models, each looked for with evidence.

Posterior collapse (Bowman et al. 2016; Burda et al. 2016), unbounded Gaussian likelihood (Mattei and Frellsen 2018,
arXiv:1802.04826), the inference gap and its two parts (Cremer et al. 2018, arXiv:1801.03558).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jensen.conditionals.record import RecordHead
from jensen.core import EXACT, Evidence, Model, mean_and_stderr
from jensen.distributions import Elementwise, Record, StandardNormal
from jensen.errors import CapabilityError
from jensen.jobs.cluster_health import is_component
from jensen.jobs.finding import Finding
from jensen.objectives.estimators import ROWS, elbo, importance, row_bytes, rows_within
from jensen.objectives.refinement import PerDatum, refine
from jensen.objectives.total_correlation import aggregate_terms

ACTIVE_KL = 0.01  # nats, of a dimension that stands on what was drawn of other layers
ACTIVE_VARIANCE = 0.01  # of the posterior mean over data, above which a unit is active (Burda et al. 2016)
ACTIVE_SHARE = 0.5  # of units; with fewer active the posterior is called collapsed
LEAST_TOLD, MOST_TOLD = 0.1, 0.5  # nats a code must tell of its datum: by dimension, and at most
FLOOR_SHARE = 0.01  # of scales at their floor
FLOOR_COLUMN = 0.5  # of one column's
LISTED = 5  # columns that a sentence names
GAP_NATS_PER_DIM = 0.25  # inference gap per latent dimension in use
PARTICLES = 100
DRAWS = 50
REFINE_DATA, REFINE_STEPS, REFINE_SAMPLES = 100, 300, 4
WORK = 2**36  # bytes that modules put out while a model is looked at in one way: about a minute of one core
FEWEST = 100  # data that are looked at however large the model is
LEAST_PARTICLES, LEAST_REFINED = 10, 20  # below, nothing is told
MEMORY = 1024.0  # megabytes that a walk may take


@dataclass(frozen=True)
class Effort:
    """How far a look at a model goes: less far for large ones, by what their modules put out for a row.

    Attributes:
        data: at most so many.
        draws, particles: of the ELBO, and of the importance-weighted bound, of each datum.
        refined: data for which the best q is sought; too few are none, 0.
        rows: walked at once.
    """

    data: int
    draws: int = DRAWS
    particles: int = PARTICLES
    refined: int = REFINE_DATA
    rows: int = ROWS["cpu"]


def effort(model: Model, batch: Mapping[str, Tensor]) -> Effort:
    """What a model may be looked at with."""
    n, rows = len(next(iter(batch.values()))), WORK // row_bytes(model, batch)
    share = min(1.0, rows / (n * (DRAWS + PARTICLES)))
    particles = max(LEAST_PARTICLES, int(share * PARTICLES))
    refined = min(REFINE_DATA, rows // (3 * REFINE_STEPS * REFINE_SAMPLES))  # a gradient costs two walks more
    refined = refined if refined >= LEAST_REFINED else 0
    most = max(FEWEST, rows // 40)
    return Effort(most, max(5, particles // 2), particles, refined, rows_within(model, batch, MEMORY))


@torch.no_grad()
def collapse(model: Model, batch: dict[str, Tensor]) -> Finding | None:
    """Active units, the KL in all, and that of each dimension (of its marginal, where q is not diagonal), in nats."""
    e = model.evidence(batch)
    names = [name for name in model.inferred if name in e.q and name in e.p and not is_component(e.q[name])]
    if not names:
        return None
    kl: list[list[float]] = []
    active, layers = [], {}
    for name in names:
        q = e.q[name]
        mean, terms = q.mean, e.kl_terms(name)
        if terms is None and isinstance(e.p[name], StandardNormal):
            terms = _marginal_kl(mean, q.variance)
        kl.append(terms.flatten(1).mean(0).tolist() if terms is not None else [])
        p = e.p[name]
        if model.p[name].parents and not e.hangs_on_draws(name) and not is_component(p):
            mean = (mean - p.mean) / p.variance.sqrt()  # p(z | c) moves too, and tells nothing of x
        moving = mean.expand(e.batch, *q.event_shape).flatten(1).var(0) > ACTIVE_VARIANCE
        if e.hangs_on_draws(name) and terms is not None:  # its mean moves with the layer above, whatever the datum
            moving &= terms.flatten(1).mean(0) > ACTIVE_KL
        active.append(moving)
        layers[name] = {
            "kl": float(e.kl(name).mean()),
            "active_units": int(active[-1].sum()),
            "units": len(active[-1]),
            **mutual_information(e, name),
        }
    active_all = torch.cat(active)
    used, units = int(active_all.sum()), len(active_all)
    total = float(sum(e.kl(name).mean() for name in names))  # more than the sum where q correlates its dimensions
    each = [x for part in kl for x in part] if all(kl) else []  # known only where the prior takes dimensions one by one
    busiest = f", {max(each):.2f} in the busiest dimension" if each else ""
    told = [layer["mutual_information"] for layer in layers.values() if "mutual_information" in layer]
    busiest += f"; a code tells {told[0]:z.2f} nats of which of these data it is of" if len(told) == 1 else ""
    silent = len(told) == 1 and len(layers) == 1 and told[0] < min(MOST_TOLD, LEAST_TOLD * units)
    busiest += ", next to nothing" if silent else ""
    by_layer = ", ".join(f"{name} {x['kl']:.2f} ({x['active_units']} of {x['units']})" for name, x in layers.items())
    busiest += f". By layer, KL and active: {by_layer}" if len(layers) > 1 else ""
    dead = [name for name, layer in layers.items() if not layer["active_units"]]
    busiest += f"; nothing of {' and '.join(dead)} is" if dead and len(layers) > 1 else ""
    return Finding(
        "posterior collapse",
        used / units >= ACTIVE_SHARE and not silent and not dead,
        f"{used} of {units} latent dimensions are active (their posterior means vary by more than "
        f"{ACTIVE_VARIANCE} over the data); KL {total:.2f} nats in all{busiest}",
        {
            "active_units": used,
            "units": units,
            "kl_per_dimension": each,
            "mutual_information_at_most": total,
            "layers": layers,
        },
        "fewer latents, or objective.warmup=0.3, objective.free_bits=0.1, or a weaker decoder",
    )


def mutual_information(e: Evidence, name: str) -> dict[str, Any]:
    """I(x; z) and that of each dimension, by draws, with these N data for all there are: at most log N nats.

        I(x; z) = E log q(z | x) − E log (1/N) Σ_n q(z | x_n)

    Empty where q's dimensions depend on one another, or on what was drawn of other variables, or its parameters do not
    differ from datum to datum.
    """
    q = e.q[name]
    if not isinstance(q, Elementwise) or e.hangs_on_draws(name) or q.batch_shape != (e.batch,):
        return {}
    z, n = e.values[name], e.batch
    own = q.log_prob_terms(z).flatten(1)
    same = torch.full((n, n), -math.log(n), dtype=own.dtype, device=own.device)
    joint, marginals = aggregate_terms(q, z, same)
    each = (own - marginals).mean(0)
    return {
        "mutual_information": float((own.sum(1) - joint).mean()),
        "mutual_information_per_dimension": each.tolist(),
    }


def _marginal_kl(mean: Tensor, variance: Tensor) -> Tensor:
    """KL from N(0, 1) of each dimension, (B, D), by its moments: exact where it is normal."""
    return 0.5 * (mean.square() + variance - 1 - variance.clamp_min(1e-12).log())


@torch.no_grad()
def floor(model: Model, batch: dict[str, Tensor], columns: Sequence[str] = ()) -> Finding | None:
    """Scales at their floor: there the likelihood would grow without bound. Of mixed columns, those of numbers.

    Args:
        columns: names of what a datum is made of, where each element has one.
    """
    looked = _scales(model, model.evidence(batch).p.get(model.data))
    if not looked:
        return None
    worst = max(looked, key=lambda scales: float(scales.share.max()))
    shares = torch.cat([scales.share for scales in looked])
    places = [j for scales in looked for j in scales.places]
    share = float(shares.mean())
    each = sorted(zip(shares.tolist(), places, strict=True), reverse=True)
    at = {columns[j]: part for part, j in each if columns and part > FLOOR_SHARE}
    ok = share <= FLOOR_SHARE and not any(part > FLOOR_COLUMN for part in at.values())
    return Finding(
        "unbounded likelihood",
        ok,
        f"{share:.1%} of the likelihood's scales are at their floor ({worst.floor:g}, prepared units)"
        + (f", those of {_listed(list(at))}; " if at else "; ")
        + ("the guard is not needed here" if ok else "only the guard bounds the likelihood there"),
        {
            "share_at_floor": share,
            "floor": worst.floor,
            "smallest_scale": min(scales.smallest for scales in looked),
            **({"columns": at} if columns else {}),
        },
        "a constant or rounded column may be the cause; likelihood.min_scale higher, or likelihood.variance=learned",
    )


class Scales(NamedTuple):
    """Of densities that share a floor, in prepared units: the share at it and the place in a datum of each element."""

    share: Tensor  # (n,)
    places: list[int]
    floor: float
    smallest: float


def _scales(model: Model, dist: Any) -> list[Scales]:
    """The scales of what a datum's density is made of, where they have a floor; a probability is bounded anyway."""
    module = model.p[model.data].module
    if isinstance(dist, Record):
        heads: Any = next(part for part in module.modules() if isinstance(part, RecordHead)).heads
        parts = zip(dist.parts, heads, [place.tolist() for place in dist.places], strict=True)
    else:
        parts = [(dist, module, None)]
    found = []
    for part, head, places in parts:
        scale, floor = getattr(part, "scale", None), _least_scale(head)
        if not isinstance(scale, Tensor) or floor is None or part.support.is_discrete:
            continue
        scale = scale / float(getattr(getattr(getattr(head, "head", None), "support", None), "unit", 1.0))
        low, size = (scale <= floor * 1.05).float(), part.event_shape.numel()
        if isinstance(part, Elementwise):
            low = low.mean(-1) if part.parameter_dims["scale"] else low  # of a mixture's components
            low = low.expand(torch.broadcast_shapes(low.shape, part.event_shape)).flatten(-len(part.event_shape))
        low = low.expand(*low.shape[:-1], size).reshape(-1, size)
        found.append(Scales(low.mean(0), places or list(range(size)), floor, float(scale.min())))
    return found


def _least_scale(module: nn.Module) -> float | None:
    for part in module.modules():
        for name in ("floor", "min_scale"):
            if isinstance(getattr(part, name, None), float):
                return float(getattr(part, name))
    return None


def _listed(names: Sequence[str]) -> str:
    """Names, the first few of them."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def inferred(model: Model) -> list[str]:
    """What q draws, noise added to the datum left out."""
    return [name for name in model.hidden if not model.is_noise(name)]


def inference_gap(model: Model, batch: dict[str, Tensor]) -> Finding | None:
    """IW bound − ELBO: in expectation a lower bound on log p − ELBO.

    Split, on some of the data, at the ELBO of the best q of the family for each datum: what the encoder loses by giving
    all data their posterior at once (amortisation), and what the family loses at its best (approximation).
    """
    hidden = inferred(model)
    if not hidden:
        return None
    if model.likelihood == EXACT:
        return Finding("inference gap", True, "the posterior is exact: there is none", {"gap": 0.0})
    how = effort(model, batch)
    amortised = elbo(model, batch, how.draws, how.rows).rows
    gap, stderr = mean_and_stderr(importance(model, batch, how.particles, how.rows).rows - amortised)
    evidence: dict[str, Any] = {"gap": gap, "stderr": stderr, "particles": how.particles}
    text = f"log p is at least {gap:.2f} ± {stderr:.2f} nats above the ELBO (IW-{how.particles} − ELBO)"
    few = torch.randperm(len(amortised))[: how.refined].to(
        amortised.device
    )  # at random: data may come ordered by class
    try:
        if not how.refined:
            raise CapabilityError("the best q of each datum would take long: the model is large")
        own, parameters = refine(
            model, {name: value[few] for name, value in batch.items()}, REFINE_STEPS, REFINE_SAMPLES
        )
    except CapabilityError as e:
        evidence["not_split"] = str(e)
    else:
        split = gaps(own, {**{name: value[few] for name, value in batch.items()}, **parameters}, amortised[few], how)
        evidence |= {**split, "refined": len(few)}
        text += (
            f". The best q of its family for each of {len(few)} data regains "
            f"{split['amortization_gap']:.2f} ± {split['amortization_stderr']:.2f} nats: that much the encoder loses "
            f"(amortisation). {split['approximation_gap']:.2f} ± {split['approximation_stderr']:.2f} more are out of "
            "the family's reach (approximation)"
        )
    used = max(1, sum(math.prod(model.evidence(batch).q[n].event_shape) for n in hidden))
    return Finding(
        "inference gap",
        gap <= GAP_NATS_PER_DIM * used,
        text,
        evidence,
        _against_gap(evidence),
    )


def _against_gap(evidence: Mapping[str, Any]) -> str:
    """What to try against the larger part of the gap, or where it could not be split."""
    if evidence.get("approximation_gap", 0.0) > evidence.get("amortization_gap", 0.0):
        return "a richer posterior, as posterior=flow, or objective=iw"
    tries = "a larger encoder, longer training, or encoder.input_dropout=0.1 where the validation bound falls behind"
    return tries if "not_split" in evidence else f"{tries}; score --refine 200 makes good for it, datum by datum"


def gaps(own: PerDatum, refined: Mapping[str, Tensor], amortised: Tensor, how: Effort) -> dict[str, float]:
    """Approximation and amortisation gap, means over data in nats with standard errors; their sum is IW − ELBO.

    Args:
        own: the model whose q takes its parameters from the data.
        refined: data, and the best parameters of each.
        amortised: the ELBO of each datum as the encoder has it, (B,).
        how: with how many draws.
    """
    best = elbo(own.model, refined, how.draws, how.rows).rows
    tight = importance(own.model, refined, how.particles, how.rows).rows
    amortization, approximation = mean_and_stderr(best - amortised), mean_and_stderr(tight - best)
    return {
        "amortization_gap": amortization[0],
        "amortization_stderr": amortization[1],
        "approximation_gap": approximation[0],
        "approximation_stderr": approximation[1],
    }


def overfitting_apart(model: Model, train: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Any]:
    """What the encoder and what the decoder lose from training data to others, means in nats with standard errors.

    The ELBO of a datum is that of the best q of its family for it, which no encoder has a part in, less what the
    encoder loses. The first falls from training data to others where p has learned these by heart; the second grows
    where q has. Cremer, Li and Duvenaud 2018, arXiv:1801.03558; Wu et al. 2017, arXiv:1611.04273.

    Raises:
        CapabilityError: the best q of a datum cannot be sought, or the model is too large for that.
    """
    how = effort(model, train)
    if not how.refined:
        raise CapabilityError("the best q of each datum would take long: the model is large")
    best, lost = [], []
    for batch in (train, other):
        some = torch.randperm(len(batch[model.data]))[: how.refined].to(batch[model.data].device)  # they may be ordered
        few = {name: value[some] if value.dim() else value for name, value in batch.items()}
        own, parameters = refine(model, few, REFINE_STEPS, REFINE_SAMPLES)
        refined = elbo(own.model, {**few, **parameters}, how.draws, how.rows).rows
        best.append(refined)
        lost.append(refined - elbo(model, few, how.draws, how.rows).rows)
    decoder, decoder_error = _difference(best[0], best[1])
    encoder, encoder_error = _difference(lost[1], lost[0])
    return {
        "refined": len(best[0]),
        "decoder": decoder,
        "decoder_stderr": decoder_error,
        "encoder": encoder,
        "encoder_stderr": encoder_error,
    }


def _difference(a: Tensor, b: Tensor) -> tuple[float, float]:
    (mean_a, error_a), (mean_b, error_b) = mean_and_stderr(a), mean_and_stderr(b)
    return mean_a - mean_b, math.hypot(error_a, error_b)
