r"""Expected information gain: how much a column would tell of another, given what is known of a row.

    I(x_d; t | x_o) = E_{x_d | x_o} KL(p(t | x_d, x_o) ‖ p(t | x_o))

By particles. With p(x_d, t | x_o) ≈ Σ_k w̃_k p(x_d | z_k) p(t | z_k), values a of x_d and b of t, and the ratio

    ρ(a, b) = Σ_k w̃_k p(a | z_k) p(b | z_k) / (p(a) p(b)),        p(a) = Σ_k w̃_k p(a | z_k),

it is E_{p(a) p(b)} [ρ log ρ − ρ + 1], of which every term is ≥ 0. Names, ordinals and truth values are enumerated, so
that of two such columns it is exact given the particles; of other columns values are drawn from p(a). Few particles
make densities look sharper, and the gain larger, than they are, by a bias of order 1/K: the jackknife over groups of
particles takes that away, and gives the standard error (Quenouille 1956; Tukey 1958). What is left may be below 0 by
about that error.

Where a density has all its conditionals, p(t | a, x_o) is asked for, for each value a, with no particles.

In latent space. Ma, Tschiatschek, Palla, Hernández-Lobato, Nowozin and Zhang, "EDDI: efficient dynamic discovery of
high-value information with partial VAE", 2019, arXiv:1809.11142, equation 9: with q for the posterior of z,

    E KL(q(z | x_d, x_o) ‖ q(z | x_o)) − E KL(q(z | x_d, t, x_o) ‖ q(z | t, x_o))

which is the same where q is the exact posterior, and z all that t and x_d have in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.core import Model
from jensen.data.field import Field
from jensen.distributions.closed_kl import kl_divergence
from jensen.errors import CapabilityError
from jensen.jobs.particles import Conditioned, Particles

DRAWS = 4  # of the target, for each value of a column
GROUPS = 10  # of particles, each left out once by the jackknife


def levels(field: Field) -> int | None:
    """How many values a column can have, 0, 1, ...; None of a number."""
    if field.kind == "binary":
        return 2
    return len(field.categories) if field.categories is not None else None


@dataclass(frozen=True)
class Values:
    """Values a of one column, and how likely each is, by all particles (0) and with each group left out (1..G).

    Attributes:
        likelihood: w̃_k p(a | z_k) up to a factor of a, by group, (B, G, P, K/G).
        unweighted: the same without w̃.
        density: p(a) up to that factor, (B, 1 + G, P), times the mass of the particles that are left.
        share: what each value counts in E_{p(a)}, (B, 1 + G, P), of sum 1.
    """

    likelihood: Tensor
    unweighted: Tensor
    density: Tensor
    share: Tensor


def left_out(groups: Tensor) -> Tensor:
    """Sums over all groups, and over all but each, (B, G, ...) to (B, 1 + G, ...). Never a difference."""
    g = groups.shape[1]
    which = torch.cat([torch.ones(1, g), 1 - torch.eye(g)]).to(groups)
    return torch.einsum("hg,bg...->bh...", which, groups)


def by_group(x: Tensor) -> Tensor:
    """(..., K) as (..., K/G, G)."""
    return x.unflatten(-1, (-1, GROUPS))


def values_of(found: Particles, place: int, field: Field, points: int) -> Values:
    """Values of a column: all that it can have, or `points` draws."""
    b = found.weights.shape[1]
    w = by_group(found.weights.T).movedim(-1, 1)  # (B, G, K/G)
    count, which = levels(field), None
    if count is None:
        which = found.drawn_from(points)
        values = found.draw(place, which)
    else:
        values = torch.arange(count, device=w.device).to(w).unsqueeze(1).expand(-1, b)
    log_p = found.log_prob(place, values).permute(2, 0, 1)  # (B, P, K)
    top = log_p.amax(-1, keepdim=True)
    unweighted = by_group((log_p - top).exp()).movedim(-1, 1)  # (B, G, P, K/G)
    likelihood = unweighted * w.unsqueeze(2)
    density = left_out(likelihood.sum(-1))
    if which is None:
        share = density * top[..., 0].exp().unsqueeze(1)
    else:
        group = which.T % GROUPS  # (B, P)
        others = group.unsqueeze(1) != torch.arange(GROUPS, device=group.device).view(1, -1, 1)
        share = torch.cat([torch.ones_like(others[:, :1]), others], 1).to(w)
    return Values(likelihood, unweighted, density, share / share.sum(-1, keepdim=True).clamp_min(_tiny(w)))


def gain(found: Particles, x: Values, t: Values) -> tuple[Tensor, Tensor]:
    """I(x_d; t | x_o) in nats, (B,), and its standard error."""
    mass = left_out(by_group(found.weights.T).movedim(-1, 1).sum(-1))  # (B, 1 + G)
    joint = left_out(torch.einsum("bgpk,bgjk->bgpj", x.likelihood, t.unweighted))  # (B, 1 + G, P, J)
    counted = (x.share > 0).unsqueeze(-1) & (t.share > 0).unsqueeze(-2)
    independent = (x.density.unsqueeze(-1) * t.density.unsqueeze(-2)).clamp_min(_tiny(mass))
    ratio = torch.where(counted, joint * mass[..., None, None] / independent, torch.ones((), dtype=joint.dtype))
    terms = torch.xlogy(ratio, ratio) - ratio + 1
    each = torch.einsum("bhp,bhj,bhpj->bh", x.share, t.share, terms)
    whole, without = each[:, 0], each[:, 1:]
    mean = without.mean(1)
    variance = (GROUPS - 1) / GROUPS * (without - mean.unsqueeze(1)).square().sum(1)
    return GROUPS * whole - (GROUPS - 1) * mean, variance.sqrt()


@torch.no_grad()
def gains(
    found: Particles, fields: Sequence[Field], target: int, wanted: Sequence[int], points: int
) -> tuple[Tensor, Tensor]:
    """Gains of columns about the target, in nats, each (B, D), NaN of what is not wanted; and their standard errors."""
    b = found.weights.shape[1]
    value = torch.full((b, len(fields)), torch.nan, dtype=found.weights.dtype, device=found.weights.device)
    stderr = value.clone()
    if isinstance(found, Conditioned):
        for d in wanted:
            value[:, d], stderr[:, d] = gain_by_asking(found, fields, target, d, points)
        return value, stderr
    t = values_of(found, target, fields[target], points)
    for d in wanted:
        value[:, d], stderr[:, d] = gain(found, values_of(found, d, fields[d], points), t)
    return value, stderr


def gain_by_asking(
    found: Conditioned, fields: Sequence[Field], target: int, d: int, points: int
) -> tuple[Tensor, Tensor]:
    """I(x_d; t | x_o) in nats, (B,), and its standard error, where p(t | x_d, x_o) can be asked for.

    With values a of x_d, all or drawn, and b of t, the mean over a of KL(p(t | a) ‖ Σ_a' p(a') p(t | a')). Where a is
    drawn, its own density is among those that are averaged: the gain is too small by a bias of order 1/points, and at
    most log(points).
    """
    b = found.weights.shape[1]
    every = _levels_of(found, fields[d])
    a = found.draw(d, found.drawn_from(points)) if every is None else every  # (P, B)
    log_a = a.new_full(a.shape, -math.log(len(a)))
    if every is not None:
        log_a = found.log_prob(d, a)[:, 0].log_softmax(0)
    after = found.after(d, a)
    shape = (1, len(a), b)
    t = _levels_of(found, fields[target])
    if t is not None:
        log_p = after.log_prob(target, t.repeat(1, len(a)))[:, 0].view(-1, *shape[1:])  # (J, P, B)
        log_mean = (log_a + log_p).logsumexp(1, keepdim=True)
        each = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_mean), 0.0).sum(0)  # (P, B)
        noise = torch.zeros_like(each)
    else:
        drawn = after.draw(target, after.drawn_from(max(DRAWS, math.ceil(points / len(a)))))  # (J, P·B)
        own = after.log_prob(target, drawn)[:, 0].view(-1, *shape[1:])  # (J, P, B)
        values = drawn.view(-1, *shape[1:]).flatten(0, 1).unsqueeze(1).expand(-1, len(a), -1)  # (J·P, P', B)
        other = after.log_prob(target, values.flatten(1))[:, 0].view(values.shape)
        log_mean = (log_a + other).logsumexp(1).view_as(own)
        terms = own - log_mean
        each, noise = terms.mean(0), terms.var(0) / len(terms)
    share = log_a.exp()
    mean = (share * each).sum(0)
    if every is None:  # values and draws together vary so
        return mean, ((each - mean).square().mean(0) / (len(a) - 1)).sqrt()
    return mean, (share.square() * noise).sum(0).sqrt()


def _levels_of(found: Particles, field: Field) -> Tensor | None:
    """All values that a column can have, (C, B); None of a number."""
    count = levels(field)
    if count is None:
        return None
    values = torch.arange(count, device=found.weights.device).to(found.weights)
    return values.unsqueeze(1).expand(-1, found.weights.shape[1])


@torch.no_grad()
def latent_gains(
    model: Model,
    found: Particles,
    x: Tensor,
    seen: Tensor,
    context: Mapping[str, Tensor],
    target: int,
    wanted: Sequence[int],
    points: int,
) -> tuple[Tensor, Tensor]:
    """Gains of columns about the target in latent space, in nats, each (B, D); and their standard errors.

    Args:
        x, seen: prepared data, and which of it is known, (B, D).
        points: draws of (x_d, t) that are averaged.

    Raises:
        CapabilityError: q takes no mask, or draws more than one variable, or its divergence has no closed form.
    """
    (b, dims), name = x.shape, latent(model)
    which = found.drawn_from(points)
    drawn = {d: found.draw(d, which).flatten() for d in (*wanted, target)}  # (S·B,)
    given = {key: value.repeat(points, *(1,) * (value.dim() - 1)) for key, value in context.items()}
    values, known = x.repeat(points, 1), seen.repeat(points, 1)

    def q(*columns: int) -> torch.distributions.Distribution:
        """q(z | x_o and those columns)."""
        one, mask = values.clone(), known.clone()
        for d in columns:
            one[:, d], mask[:, d] = drawn[d].to(one), True
        e = model.evidence({**given, model.data: torch.where(mask, one, 0), "seen": mask}, paths=False)
        return e.q[name]

    value = torch.full((b, dims), torch.nan, dtype=x.dtype, device=x.device)
    stderr, now, after = value.clone(), q(), q(target)
    try:
        for d in wanted:
            each = (kl_divergence(q(d), now) - kl_divergence(q(d, target), after)).view(points, b)
            value[:, d], stderr[:, d] = each.mean(0), each.std(0) / points**0.5
    except NotImplementedError:
        raise CapabilityError(
            "method: latent needs the divergence of two q(z | x) in closed form, as posterior=diagonal has it; use "
            "particles"
        ) from None
    return value, stderr


def latent(model: Model) -> str:
    """The one variable that q draws, given a mask. Raises `CapabilityError` where there is no such."""
    if not model.hidden:
        raise CapabilityError("method: latent asks q(z | x), and this model hides nothing; use particles")
    if not model.sees_gaps:
        raise CapabilityError(
            "method: latent asks q(z | x) of rows with gaps, and q of this model takes none; train with train.hide=1, "
            "or use particles"
        )
    if len(model.hidden) != 1:
        raise CapabilityError(f"method: latent needs one hidden variable, got {', '.join(model.hidden)}; use particles")
    return model.hidden[0]


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny
