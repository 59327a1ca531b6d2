"""The walk: infer what is hidden, then explain everything. What it leaves behind is the evidence.

For observed x and hidden z, with K particles z_k ~ q(z | x),

    log w_k = Σ log p(.) − Σ log q(.)
    ELBO    = mean_k log w_k                     (Kingma and Welling 2014, arXiv:1312.6114)
    IW_K    = logmeanexp_k log w_k               (Burda et al. 2016, arXiv:1509.00519)

and E[ELBO] ≤ E[IW_K] ≤ log p(x), with equality where q is the exact posterior. With nothing hidden log w is log p(x).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.core.joint import Factor, Joint
from jensen.distributions import Elementwise
from jensen.distributions.closed_kl import kl_divergence


@dataclass(frozen=True)
class Observed:
    """A value of which only a part was observed.

    `mask` is True where observed: (B,) speaks of whole rows, (B, *event) of elements. Hidden rows are drawn from
    q where q has the variable; hidden elements add nothing to the density. What q is shown in their place is 0, or with
    `keep` what stands there, a guess.
    """

    value: Tensor
    mask: Tensor
    keep: bool = False

    def __post_init__(self) -> None:
        if self.mask.shape not in (self.value.shape, self.value.shape[:1]):
            raise ValueError(
                f"expected a mask of shape {tuple(self.value.shape)} or {tuple(self.value.shape[:1])}, "
                f"got {tuple(self.mask.shape)}"
            )


class Densities(Mapping[str, Tensor]):
    """Log-densities by variable name, in nats, (K, B); each is computed when first read.

    A view that evidence makes when asked: evidence does not hold it, so that nothing holds the graph of a training
    step in a cycle once the step is over.
    """

    def __init__(self, names: Mapping[str, Distribution], compute: Callable[[str], Tensor], known: dict[str, Tensor]):
        self._names, self._compute, self._known = names, compute, known

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            if name not in self._names:
                raise KeyError(name)
            self._known[name] = self._compute(name)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Evidence:
    """What a walk leaves: values, distributions and log-densities.

    Attributes:
        particles: K, the number of draws of what is hidden.
        batch: B, the number of data.
        values: by name, flat: (K·B, *event), particle-major; (B, *event) where the same for all particles.
        p, q: the distributions met, by name.
        log_p, log_q: log-densities by name, in nats, each (K, B).
    """

    def __init__(self, particles: int, batch: int, paths: bool = True):
        self.particles, self.batch, self.paths = particles, batch, paths
        self.values: dict[str, Tensor] = {}
        self.p: dict[str, Distribution] = {}
        self.q: dict[str, Distribution] = {}
        self._log_p: dict[str, Tensor] = {}
        self._log_q: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}
        self.inferred: list[str] = []  # names that q gave a value
        self._wide: set[str] = set()  # names whose values have K·B rows while K > 1
        self._q_factors: dict[str, Factor] = {}
        self._p_factors: dict[str, Factor] = {}
        self._came_from: dict[str, tuple[str, ...]] = {}  # parents of what was computed or drawn
        self._made: dict[tuple[int, tuple[str, ...]], Distribution | Tensor] = {}
        self._repeated: dict[str, Tensor] = {}

    # What is read from it

    @property
    def log_p(self) -> Densities:
        """Log-densities under p, in nats, each (K, B)."""
        return Densities(self.p, self._compute_log_p, self._log_p)

    @property
    def log_q(self) -> Densities:
        """Log-densities of what was drawn under q, in nats, each (K, B)."""
        return Densities(self.q, self._compute_log_q, self._log_q)

    @property
    def log_w(self) -> Tensor:
        """log w = Σ log p − Σ log q, in nats, (K, B)."""
        log_p = self._total(self.log_p, list(self.p))
        return log_p - self._total(self.log_q, list(self.q)) if self.q else log_p

    @property
    def log_w_stopped(self) -> Tensor:
        """log w, (K, B), with the parameters of q stopped and the draws live: what remains is the path gradient."""
        total = self._total(self.log_p, list(self.p))
        for name in self.q:
            total = total - self.log_q_stopped(name)
        return total

    def log_q_stopped(self, name: str) -> Tensor:
        """log q of what was drawn, (K, B), with the parameters of q stopped and the draw live."""
        stopped = self.q[name].detach()  # pyright: ignore[reportAttributeAccessIssue]
        return self._log_prob(stopped, name, self.is_wide(self._q_factors[name]), drawn=True)

    def elbo(self) -> Tensor:
        """Evidence lower bound by the drawn particles, in nats, (B,)."""
        return self.log_w.mean(0)

    def importance_bound(self) -> Tensor:
        """logmeanexp over the particles of log w, in nats, (B,); the ELBO when K = 1."""
        return torch.logsumexp(self.log_w, 0) - math.log(self.particles)

    def effective_sample_size(self) -> Tensor:
        """(Σ w)² / Σ w² in 1..K, (B,)."""
        log_w = self.log_w
        return torch.exp(2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0))

    def explained(self) -> list[str]:
        """Names in p that q does not infer: the data, whose log p is the reconstruction term."""
        return [name for name in self.p if name not in self.inferred]

    def reconstruction(self) -> Tensor:
        """Σ log p over what was observed, given what was drawn, mean over particles, in nats, (B,)."""
        return _mean(self._total(self.log_p, self.explained()))

    def divergences(self, closed: bool = True) -> dict[str, Tensor]:
        """KL(q ‖ p) of all that q inferred, by name, each (B,) in nats: ELBO = reconstruction − their sum."""
        names = [name for name in self.inferred if name in self.q or name in self.p]
        return {name: self.kl(name, closed) for name in names}

    def kl(self, name: str, closed: bool = True) -> Tensor:
        """KL(q ‖ p) of one hidden variable in nats, (B,).

        In closed form where it is known, holds and is wanted (an expectation over this variable), or step by step
        given the draw of a chain; else the mean over particles of log q − log p, which may be negative.
        """
        divergence = self.closed_kl(name) if closed else None
        if divergence is None and closed:
            by_draw = self.kl_by_draw(name)
            divergence = None if by_draw is None else _mean(by_draw)
        if divergence is not None:
            return divergence
        if name not in self.q:
            return -_mean(self.log_p[name])  # a code: log q = 0
        if name not in self.p:
            return _mean(self.log_q[name])
        return _mean(self.log_q[name] - self.log_p[name])

    def closed_kl(self, name: str) -> Tensor | None:
        """KL(q ‖ p) of one hidden variable in closed form, in nats, (B,); None where none is known or holds."""
        if not self._closed_form_holds(name):
            return None
        try:
            divergence = kl_divergence(*self._side_by_side(name))
        except NotImplementedError:
            return None
        if divergence.dim() == 0:
            return divergence.expand(self.batch)
        return divergence if divergence.shape == (self.batch,) else divergence.view(-1, self.batch).mean(0)

    def kl_by_draw(self, name: str) -> Tensor | None:
        """An estimate of KL(q ‖ p) from each draw, in nats, (K, B), less noisy than log q − log p; None without one.

        A q of several steps may know what each costs on average given the draw where it starts: `divergence_given`.
        """
        if not self._closed_form_holds(name) or not hasattr(self.q[name], "divergence_given"):
            return None
        q, p, value = self.q[name], self.p[name], self.values[name]
        if self.particles > 1:
            wide = (self.is_wide(self._q_factors[name]), self.is_wide(self._p_factors[name]))
            q, p = (self._by_particle(d) if w else d for d, w in zip((q, p), wide, strict=True))
        found = q.divergence_given(value.unflatten(0, (self.particles, self.batch)), p)  # pyright: ignore
        return found.expand(self.particles, self.batch)

    def bounds_by_draw(self) -> Tensor:
        """Of each draw an estimate of the ELBO, in nats, (K, B): log w, less noisy where `kl_by_draw` is known.

        It is no importance weight: only its mean is a bound.
        """
        known = {name: kl for name in self.q if (kl := self.kl_by_draw(name)) is not None}
        if not known:
            return self.log_w
        total = self._total(self.log_p, [name for name in self.p if name not in known])
        total = total - self._total(self.log_q, [name for name in self.q if name not in known])
        return total - reduce(torch.add, known.values())

    def kl_terms(self, name: str) -> Tensor | None:
        """KL(q ‖ p) of each element of a hidden variable, (B, *event); None where no closed form is known."""
        if not self._closed_form_holds(name):
            return None
        try:
            q, p = self._side_by_side(name)
            if not (isinstance(q, Elementwise) and isinstance(p, Elementwise)):
                return None
            terms = kl_divergence(_elements(q), _elements(p))
        except NotImplementedError:
            return None
        if terms.dim() == len(q.event_shape):
            return terms.expand(self.batch, *q.event_shape)
        return terms.reshape(-1, self.batch, *q.event_shape).mean(0)

    def _closed_form_holds(self, name: str) -> bool:
        """Whether p's parents of a variable were drawn without it, so that given them it still follows q.

        In q(z₁ | x) q(z₂ | z₁) against p(z₂) p(z₁ | z₂), z₂ was drawn from z₁, and KL(q(z₁ | x) ‖ p(z₁ | z₂)) is
        not the term of the bound.
        """
        if name in self.masks or name not in self._q_factors or name not in self._p_factors:
            return False
        return not any(self._descends(parent, name) for parent in self._p_factors[name].parents)

    def hangs_on_draws(self, name: str) -> bool:
        """Whether q of a variable depends on what was drawn of others."""
        return any(self._descends(parent, other) for parent in self._q_factors[name].parents for other in self.q)

    def _descends(self, name: str, ancestor: str) -> bool:
        """Whether a variable is another or was computed or drawn from it, each looked at once."""
        known, waiting = {name}, [name]
        while waiting:
            found = self._came_from.get(waiting.pop(), ())
            waiting += [parent for parent in found if parent not in known]
            known.update(found)
        return ancestor in known

    def _side_by_side(self, name: str) -> tuple[Distribution, Distribution]:
        """q and p of a variable, with batches that fit: (K, B) beside (B,) where one differs between particles."""
        q, p = self.q[name], self.p[name]
        if self.particles > 1:
            q_wide, p_wide = self.is_wide(self._q_factors[name]), self.is_wide(self._p_factors[name])
            if q_wide and not p_wide:
                q = self._by_particle(q)
            elif p_wide and not q_wide:
                p = self._by_particle(p)
        return q, p

    def _by_particle(self, dist: Distribution) -> Distribution:
        if not hasattr(dist, "unflatten"):
            raise NotImplementedError
        return dist.unflatten((self.particles, self.batch))  # pyright: ignore[reportAttributeAccessIssue]

    # The steps of a walk

    def observe(self, name: str, value: Tensor | Observed) -> None:
        if isinstance(value, Observed):
            mask = value.mask.bool()
            full = mask.reshape(mask.shape + (1,) * (value.value.dim() - mask.dim()))
            self.masks[name] = mask
            rest = value.value.nan_to_num() if value.keep else torch.zeros((), dtype=value.value.dtype)
            value = torch.where(full, value.value, rest)  # NaN never enters
        self.values[name] = value

    def meet(self, factor: Factor) -> Distribution | Tensor:
        """Run a factor's module on its parents; once for the same parents."""
        key = (id(factor.module), factor.parents)
        if key not in self._made:
            missing = [name for name in factor.parents if name not in self.values]
            if missing:
                raise ValueError(f"factor ({factor}) needs {missing[0]!r}, which is neither observed nor inferred")
            wide = self.is_wide(factor)
            self._made[key] = factor.module(*(self._rows(name, wide) for name in factor.parents))
        return self._made[key]

    def is_wide(self, factor: Factor) -> bool:
        """Whether a factor's parents differ between particles."""
        return any(name in self._wide for name in factor.parents)

    def keep(self, factor: Factor, value: Tensor) -> None:
        """Keep the value of a deterministic node."""
        self.values[factor.name] = value
        self._came_from[factor.name] = factor.parents
        if self.is_wide(factor):
            self._wide.add(factor.name)

    def draw(self, factor: Factor, dist: Distribution) -> None:
        """Draw a hidden variable from q, and keep its log-density."""
        name, k = factor.name, self.particles
        wide = self.is_wide(factor)
        many = k > 1 and not wide
        shape = torch.Size((k,)) if many else torch.Size()
        if many and dist.batch_shape[:1] != (self.batch,):
            shape = torch.Size((k, self.batch))
        elif not many and not dist.batch_shape:
            shape = torch.Size((k * self.batch,))
        if self.paths and getattr(dist, "density_comes_with_draw", False):
            value, log_q = dist.rsample_and_log_prob(shape)  # pyright: ignore[reportAttributeAccessIssue]
            self._log_q[name] = self._paid(name, log_q.reshape(k, self.batch), drawn=True)
        else:
            value = dist.rsample(shape) if self.paths and dist.has_rsample else dist.sample(shape)
        if many:
            value = value.flatten(0, 1)
        if name in self.masks:  # a row that was observed is not drawn, and pays nothing
            rows = self.masks[name]
            observed = self.values[name]
            wanted = rows.repeat(k) if k > 1 else rows
            value = torch.where(_like(wanted, value), observed.repeat(k, *(1,) * (observed.dim() - 1)), value)
        self.values[name] = value
        if k > 1:
            self._wide.add(name)
        self.q[name] = dist
        self._q_factors[name], self._came_from[name] = factor, factor.parents
        self.inferred.append(name)

    def explain(self, factor: Factor, dist: Distribution) -> None:
        """Keep log p of a value that was observed or drawn."""
        self.p[factor.name] = dist
        self._p_factors[factor.name] = factor

    def _compute_log_p(self, name: str) -> Tensor:
        return self._log_prob(self.p[name], name, self.is_wide(self._p_factors[name]))

    def _compute_log_q(self, name: str) -> Tensor:
        return self._log_prob(self.q[name], name, self.is_wide(self._q_factors[name]), drawn=True)

    def _rows(self, name: str, wide: bool) -> Tensor:
        value = self.values[name]
        if not wide or name in self._wide:
            return value
        if name not in self._repeated:
            self._repeated[name] = value.repeat(self.particles, *(1,) * (value.dim() - 1))
        return self._repeated[name]

    def _log_prob(self, dist: Distribution, name: str, dist_wide: bool, drawn: bool = False) -> Tensor:
        """log-density of a value under a distribution, (K, B), whichever of the two has K·B rows."""
        k, b = self.particles, self.batch
        value, value_wide = self.values[name], name in self._wide
        mask = self.masks.get(name)
        if k > 1 and value_wide and not dist_wide:
            value = value.unflatten(0, (k, b))
        elif k > 1 and dist_wide:
            if hasattr(dist, "unflatten"):
                dist = dist.unflatten((k, b))  # pyright: ignore[reportAttributeAccessIssue]
                value = value.unflatten(0, (k, b)) if value_wide else value
            elif not value_wide:
                value = self._rows(name, True)
        if mask is not None and mask.dim() > 1 and hasattr(dist, "log_marginal"):
            log_prob = dist.log_marginal(value, mask)  # pyright: ignore[reportAttributeAccessIssue]
        elif mask is not None and mask.dim() > 1:  # elements
            if not hasattr(dist, "log_prob_terms"):
                kind = type(dist).__name__
                raise ValueError(f"{name!r}: a {kind} has no density of single elements to mask")
            terms = dist.log_prob_terms(value)  # pyright: ignore[reportAttributeAccessIssue]
            lead = terms.dim() - len(dist.event_shape)
            log_prob = torch.where(mask, terms, torch.zeros((), dtype=terms.dtype)).flatten(lead).sum(-1)
        else:
            log_prob = dist.log_prob(value)
        if log_prob.numel() == k * b:
            log_prob = log_prob.reshape(k, b)
        else:  # the same for all particles, or for all data
            log_prob = log_prob.expand(k, b)
        return self._paid(name, log_prob, drawn)

    def _paid(self, name: str, log_prob: Tensor, drawn: bool) -> Tensor:
        """A log-density, (K, B), in the rows that count: q pays where drawn, a leaf of p where observed."""
        mask = self.masks.get(name)
        if mask is None or mask.dim() > 1 or (name in self.q and not drawn):
            return log_prob
        return torch.where(~mask if drawn else mask, log_prob, torch.zeros((), dtype=log_prob.dtype))

    def _total(self, densities: Densities, names: list[str]) -> Tensor:
        if names:
            return reduce(torch.add, (densities[name] for name in names))
        return torch.zeros(self.particles, self.batch, device=next(iter(self.values.values())).device)


def evidence(
    p: Joint, q: Joint, observed: Mapping[str, Tensor | Observed], particles: int = 1, paths: bool = True
) -> Evidence:
    """Walk through q, drawing what is hidden, then through p, explaining everything.

    Args:
        p, q: how data come about, and how what is hidden is inferred.
        observed: by name, (B, *event).
        particles: K ≥ 1.
        paths: let gradients pass through draws, where these are differentiable, to the parameters of q.

    Variables of p that are neither observed nor inferred are dropped when nothing depends on them.

    Raises:
        ValueError: a variable that is needed is neither observed nor inferred.
    """
    e = Evidence(particles, _batch_size(observed), paths)
    for name, value in observed.items():
        e.observe(name, value)
    fully = {name for name in observed if name not in e.masks or e.masks[name].dim() > 1}

    for factor in q:  # infer
        if factor.name in fully:
            continue
        met = e.meet(factor)
        if isinstance(met, Tensor):
            e.keep(factor, met)
            e.inferred.append(factor.name)
        else:
            e.draw(factor, met)

    for factor in p:  # explain
        if factor.deterministic:
            if factor.name not in e.values and all(name in e.values for name in factor.parents):
                e.keep(factor, e.meet(factor))  # pyright: ignore[reportArgumentType]
        elif factor.name in e.values:
            e.explain(factor, e.meet(factor))  # pyright: ignore[reportArgumentType]
    return e


def _mean(rows: Tensor) -> Tensor:
    """Over particles, (K, B) to (B,)."""
    return rows.squeeze(0) if rows.shape[0] == 1 else rows.mean(0)


def _elements(dist: Elementwise) -> Elementwise:
    """The same density, each element an event of its own."""
    dist = copy.copy(dist)
    dist.event_dims = 0
    return dist


def _batch_size(observed: Mapping[str, Tensor | Observed]) -> int:
    sizes = {name: (v.value if isinstance(v, Observed) else v).shape[0] for name, v in observed.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"expected observed variables of one batch size, got {sizes}")
    return next(iter(sizes.values()))


def _like(rows: Tensor, value: Tensor) -> Tensor:
    return rows.reshape(-1, *(1,) * (value.dim() - 1))
