"""Draws of what is missing of a datum, given the rest: x_m ~ p(x_m | x_o) where only the joint density is known.

    p(x_m | x_o) ∝ p(x_m, x_o)

Two methods, which need no more than the right-hand side and its gradient:

- importance resampling: particles from a proposal r(x_m | x_o), weighed by p(x_m, x_o) / r(x_m | x_o);
- Markov chains: Hamiltonian moves of x_m with x_o held, in coordinates that are real numbers.

Of whole numbers x = ⌊v⌋ the model has p(v), and what moves is v: of what is missing over its whole range, of what is
observed within its bin [x, x + 1). So the draws are those of p(x_m | x_o), noise integrated out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from jensen.conditionals.ranges import ranges_of
from jensen.core import EXACT, Model
from jensen.errors import CapabilityError
from jensen.jobs.filled import Effort, Filled
from jensen.jobs.precision import doubled, precision
from jensen.jobs.proposals import IMPOSSIBLE, Proposal, Proposals
from jensen.jobs.run import Run
from jensen.objectives.markov import effective_sample_size, hamiltonian, split_r_hat
from jensen.transforms import Continuous

ENOUGH = 100  # effective particles, after which no more are drawn
LEAST = 30  # of them with which auto is content, after all rounds
LATEST = 3  # proposals made of particles that are drawn from, beside the first one
MORE = 4  # times as many in the later half of the rounds
ROUNDS = 12  # of particles, where the first ones rest on few
CHAINS, LARGEST = 4, 64  # chains of a datum: at least, and at most, of tables where rows are few
TOGETHER = 64  # rows of all chains that are moved at once
REFERENCE = 4000  # samples of the model that a proposal is made of
ROWS = 16384  # evaluated at once
CANDIDATES = 16  # samples of the model, of which a chain of whole numbers starts from the likeliest
TOP = 1 - 2.0**-10  # of a bin, and of a range: where chains start at most


@dataclass(frozen=True)
class Target:
    """What is drawn from, and in which coordinates.

    Attributes:
        model: in the precision to work in.
        name: the variable that has the density: the datum "x", or "v" whose floor it is.
        shape: of a datum.
        low, high: bounds of each element of that variable, (D,), infinite where there are none.
        period: of each element, (D,); infinite where it is none.
    """

    model: Model
    name: str
    shape: tuple[int, ...]
    low: Tensor
    high: Tensor
    period: Tensor

    @classmethod
    def of(cls, run: Run) -> Target:
        """Raises `CapabilityError` with the reason where a model has no density to work with."""
        model, schema = run.model, run.schema
        name = next((f.name for f in model.p if model.is_noisy(f.name)), None)
        reason = ""
        if model.likelihood is None:
            reason = f"it has no likelihood: {run.capabilities.no_likelihood}"
        elif name is not None and not set(model.p[name].parents) <= set(model.context):
            reason = f"its p({model.p[name]}) depends on more than what is given"
        elif name is None and model.likelihood != EXACT:
            hidden = ", ".join(model.hidden or model.codes)
            reason = f"what it says of p(x) is a bound, {hidden} being hidden, and filling in takes the density itself"
        elif name is None and run.measure != "lebesgue":
            reason = "its data are whole numbers without noise, along which there is no gradient"
        if reason:
            raise CapabilityError(f"{run.spec['model']} cannot fill in: {reason}; vae, hvae, nade, made and flows can")
        inner = doubled(model) if not schema.is_image else model.eval()
        like = torch.full((schema.dims,), math.inf, dtype=precision(inner), device=run.device)
        low, high = (torch.zeros_like(like), like) if name else (-like, like)
        if name and schema.kind != "count":
            high = torch.full_like(like, schema.levels or 2)
        period = like.clone()
        ranges = ranges_of(inner.modules())
        if ranges is not None:
            low, high, period = (ends.to(like) for ends in (*ranges.prepared(), ranges.period()))
        return cls(inner, name or "x", schema.event_shape, low, high, period)

    @property
    def whole(self) -> bool:
        """Whether data are whole numbers, of which this density's variable is dequantised."""
        return self.name != "x"

    @property
    def solved(self) -> bool:
        """Whether a differential equation is solved for each density, and its gradient by another one: hundreds of
        network passes, too many for chains.
        """
        return any(isinstance(module, Continuous) for module in self.model.modules())

    @property
    def proposes(self) -> bool:
        """Whether importance resampling applies."""
        return not self.whole

    def log_prob(self, value: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """log p(value | context), (N, D) → (N,), in nats."""
        value = value.reshape(-1, *self.shape)
        if not self.whole:
            return self.model.evidence({"x": value, **context}).log_w[0]
        factor = self.model.p[self.name]
        return factor.module(*(context[name] for name in factor.parents)).log_prob(value)

    def sample(self, n: int, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Samples of the model, (n, D): of the datum, and of the variable that has the density."""
        values = self.model.sample(n, context)
        return {name: values[name].flatten(1) for name in {"x", self.name}}


class Coordinates:
    """Real numbers t for values between bounds, element by element, and back.

    v = t, low + exp t, high − exp t, or low + (high − low) / (1 + exp −t), by which of the two are finite; where there
    is a period, v = t but for whole periods.

    Args:
        low, high, period: of each element, infinite where there is none; of one shape, which t's ends in.
    """

    def __init__(self, low: Tensor, high: Tensor, period: Tensor):
        around = period.isfinite()
        below, above = low.isfinite() & ~around, high.isfinite() & ~around
        self.inner, self.outer, self.around = below & above, below ^ above, around
        self.free = not bool((below | above | around).any())
        self.start = torch.where(below | around, low, high).nan_to_num(0.0, 0.0, 0.0)
        self.width = torch.where(self.inner, high - low, 1.0)
        self.sign = torch.where(below, 1.0, -1.0).to(low)
        self.period = torch.where(around, period, 1.0)

    def value(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """v, and log |∂v/∂t| of each element."""
        if self.free:
            return t, torch.zeros_like(t)
        grown = torch.where(self.outer, t, 0.0)
        share = torch.where(self.inner, t, 0.0)
        v = torch.where(self.outer, self.start + self.sign * grown.exp(), t)
        v = torch.where(self.inner, self.start + self.width * share.sigmoid(), v)
        v = torch.where(self.around, self.start + torch.remainder(t - self.start, self.period), v)
        curve = self.width.log() + logsigmoid(share) + logsigmoid(-share)
        return v, torch.where(self.inner, curve, grown)

    def one_turn(self, t: Tensor) -> Tensor:
        """Where v and t are one to one: a turn from the start on, and everywhere where there is no period."""
        near = t - self.start
        return ~self.around | ((near >= 0) & (near < self.period))

    def real(self, v: Tensor) -> Tensor:
        """t of values within bounds; those at a bound are taken a little inside."""
        if self.free:
            return v
        near = v - self.start
        share = (near / self.width).clamp(1 - TOP, TOP)
        t = torch.where(self.outer, (self.sign * near).clamp_min((1 - TOP) ** 2).log(), v)
        return torch.where(self.inner, share.logit(), t)


@dataclass
class Holding:
    """Rows are taken by one method after another, and `out` filled."""

    target: Target
    x: Tensor
    missing: Tensor
    context: dict[str, Tensor]
    out: Filled
    effort: Effort
    listener: Callable[[float], None] | None
    rows: int
    done: float = 0.0

    def tell(self, rows: float) -> None:
        if self.listener is not None and self.rows:
            self.listener(min(1.0, (self.done + rows) / self.rows))

    def given(self, rows: Tensor, times: int = 1) -> dict[str, Tensor]:
        """Conditions of some rows, repeated."""
        return {n: v[rows].repeat(times, *(1,) * (v.dim() - 1)) for n, v in self.context.items()}

    def direct(self, rows: Tensor) -> None:
        """All is missing: samples of the model."""
        if not len(rows):
            return
        m = len(self.out.draws)
        total = max(m, ENOUGH)
        drawn = self.target.sample(total * len(rows), self.given(rows, total))["x"].view(total, len(rows), -1)
        self.keep(rows, "direct", drawn[:m], *self.moments(drawn), torch.full((len(rows),), float(total)))

    def keep(self, rows: Tensor, how: str, *found: Tensor) -> None:
        self.out.keep(rows, how, *found)
        self.done += len(rows)
        self.tell(0)

    def moments(self, values: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over draws (K, B, D), with weights (K, B) that add up to 1: (B, D) each. Of
        directions the mean direction, and the root of the mean square of the way from it.
        """
        w = 1 / len(values) if weights is None else weights[..., None]
        around, mean = self.target.period.isfinite(), (w * values).sum(0)
        if not bool(around.any()):
            return mean, (w * (values - mean).square()).sum(0).sqrt()
        low, period = self.target.low.where(around, 0.0), self.target.period.where(around, 1.0)
        turn = 2 * math.pi * (values - low) / period
        angle = torch.atan2((w * turn.sin()).sum(0), (w * turn.cos()).sum(0))
        mean = torch.where(around, low + torch.remainder(angle / (2 * math.pi), 1.0) * period, mean)
        away = values - mean
        away = torch.where(around, away - period * torch.round(away / period), away)
        return mean, (w * away.square()).sum(0).sqrt()

    # Importance resampling

    def importance(self, rows: Tensor, enough: float) -> Tensor:
        """Fill in by weighed particles; gives back the rows whose weights rest on too few.

        Where few particles have all the weight, others are drawn about those that have it, and so on. Each time only
        new particles count: those that a proposal was made of lie at its centers, and their weights would be too small.
        """
        poor = []
        for block, pattern in self.patterns(rows):
            holes = torch.nonzero(pattern)[:, 0]
            parts = [self.proposal(block, holes)]
            for turn in range(ROUNDS):
                proposal = Proposals(parts, self.effort.particles * (MORE if turn >= ROUNDS // 2 else 1))
                t = proposal.draw()  # (K, B, M)
                log_p, values = self.densities(block, holes, t)
                log_w = log_p - proposal.log_prob(t)
                w = log_w.softmax(0)
                values = torch.where((w > 0)[..., None], values, self.x[block])  # what is impossible may be infinite
                size = torch.where(log_p.amax(0) > IMPOSSIBLE, 1 / w.square().sum(0), 0.0)
                fine = size >= (enough if turn == ROUNDS - 1 else ENOUGH)
                chosen = torch.multinomial(w.T.float(), len(self.out.draws), replacement=True).T
                k = chosen[..., None].expand(-1, -1, values.shape[-1])  # (M, B, D)
                mean, spread = self.moments(values, w)
                found = values.gather(0, k)[:, fine], mean[fine], spread[fine], size[fine]
                self.keep(block[fine], "importance", *found)
                block = block[~fine]
                if not len(block):
                    break
                first, *others = (part.rows(~fine) for part in parts)
                parts = [first, *others[1 - LATEST :], Proposal.about(t[:, ~fine], log_w[:, ~fine])]
            poor.append(block)
        return torch.cat(poor) if poor else rows[:0]

    def patterns(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of rows of which the same is missing, and what that is."""
        if not len(rows):
            return
        patterns, which = torch.unique(self.missing[rows], dim=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            width = max(1, ROWS * 32 // (MORE * self.effort.particles * (1 + int(pattern.sum()))))
            for block in rows[which == i].split(width):
                yield block, pattern

    def densities(self, rows: Tensor, holes: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """log p, (K, B), of positions t, (K, B, M), of what is missing; and the data they make, (K, B, D)."""
        k, b, _ = t.shape
        part = self.part(holes)
        value, slope = part.value(t)
        full = self.x[rows].expand(k, b, -1).clone()
        full[..., holes] = value
        flat, given = full.flatten(0, 1), self.given(rows, k)
        log_p = torch.cat(
            [
                self.target.log_prob(flat[s : s + ROWS], {n: v[s : s + ROWS] for n, v in given.items()})
                for s in range(0, k * b, ROWS)
            ]
        )
        log_p = log_p.view(k, b) + slope.sum(-1)
        log_p = torch.where(part.one_turn(t).all(-1), log_p, IMPOSSIBLE)  # others say the same again
        return torch.nan_to_num(log_p, IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE), full

    def part(self, holes: Tensor) -> Coordinates:
        return Coordinates(self.target.low[holes], self.target.high[holes], self.target.period[holes])

    def proposal(self, rows: Tensor, holes: Tensor) -> Proposal:
        """For rows of which the same is missing, from samples of the model under their conditions."""
        reference, features = self.reference()
        everything = torch.ones_like(self.missing[0])
        everything[holes] = False
        keep = torch.cat([everything, everything.new_ones(features.shape[1] - len(everything))])
        own = torch.cat([self.whole_coordinates().real(self.x[rows]), *self.as_features(self.given(rows))], 1)
        return Proposal.near(own[:, keep], features[:, keep], reference[:, holes])

    def whole_coordinates(self) -> Coordinates:
        return Coordinates(self.target.low, self.target.high, self.target.period)

    def reference(self) -> tuple[Tensor, Tensor]:
        """Samples of the model in real coordinates, (R, D), and the same with their conditions beside them."""
        if not hasattr(self, "_reference"):
            rows = torch.randint(len(self.x), (REFERENCE,), device=self.x.device)
            given = self.given(rows)
            samples = self.whole_coordinates().real(self.target.sample(REFERENCE, given)["x"])
            self._reference = samples, torch.cat([samples, *self.as_features(given)], 1)
        return self._reference

    def as_features(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """Conditions as numbers: labels as indicators."""
        parts = []
        for name, value in given.items():
            if value.is_floating_point():
                parts.append(value.flatten(1))
            else:
                top = int(self.context[name].max()) + 1
                parts.append((value[:, None] == torch.arange(top, device=value.device)).to(self.x))
        return parts

    # Markov chains

    def chains(self, rows: Tensor) -> None:
        """Fill in by Hamiltonian chains, a block of rows at once."""
        if not len(rows):
            return
        dear = len(self.target.shape) > 1  # a picture costs as much among others as alone
        k = CHAINS if dear else max(CHAINS, min(LARGEST, TOGETHER // len(rows)))
        steps = max(self.effort.steps, math.ceil(len(self.out.draws) / k))
        for block in rows.split(max(1, TOGETHER // k)):
            self.chain_block(block, k, steps)

    def chain_block(self, rows: Tensor, k: int, steps: int) -> None:
        target, missing, x = self.target, self.missing[rows], self.x[rows]
        free = torch.ones_like(missing) if target.whole else missing
        low, high = target.low.expand(x.shape), target.high.expand(x.shape)
        if target.whole:
            low, high = torch.where(missing, low, x), torch.where(missing, high, x + 1)
        at = Coordinates(low, high, target.period.expand(x.shape))
        given = self.given(rows, k)

        def full(t: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = at.value(t)
            return torch.where(free, value, x), torch.where(free, slope, torch.zeros((), dtype=t.dtype)).sum(-1)

        def log_density(t: Tensor) -> Tensor:
            value, slope = full(t.view(k, len(rows), -1))
            return target.log_prob(value.flatten(0, 1), given) + slope.flatten()

        start = torch.where(free, at.real(self.starts(rows, k)), torch.zeros((), dtype=x.dtype))
        moved = hamiltonian(
            log_density,
            start,
            free,
            warmup=self.effort.warmup,
            steps=steps,
            leapfrog=self.effort.leapfrog,
            listener=lambda share: self.tell(share * len(rows)),
        )
        values = torch.stack([full(t)[0] for t in moved.draws])  # (S, K, B, D)
        if target.whole:
            values = values.floor().clamp_max(target.high - 1)
        size, r_hat = zip(
            *(self.trust(moved.draws[:, :, i], values[:, :, i], missing[i]) for i in range(len(rows))), strict=True
        )
        flat = values.flatten(0, 1)
        m = len(self.out.draws)
        spread = torch.linspace(0, len(flat) - 1, m, device=x.device).round().long()
        shuffled = spread[torch.randperm(m, device=x.device)]
        self.keep(rows, "mcmc", flat[shuffled], *self.moments(flat), torch.stack(size), torch.stack(r_hat))

    def trust(self, positions: Tensor, values: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Effective sample size and R̂ of the worst missing element, of draws (S, K, D)."""
        draws = positions if self.target.whole else values
        draws = draws[..., missing].double()
        return effective_sample_size(draws).min(), split_r_hat(draws).max()

    def starts(self, rows: Tensor, k: int) -> Tensor:
        """Where K chains of some rows start, (K, B, D), farther apart than the draws will lie."""
        x, missing, target = self.x[rows], self.missing[rows], self.target
        if target.whole:
            made = []
            for _ in range(k):
                best, value = None, None
                for _ in range(CANDIDATES):
                    v = target.sample(len(rows), self.given(rows))[target.name]
                    v = torch.where(missing, v, x + torch.rand_like(x) * TOP)
                    log_p = torch.nan_to_num(target.log_prob(v, self.given(rows)), -math.inf)
                    better = log_p > best if best is not None else torch.ones_like(log_p, dtype=torch.bool)
                    best = torch.where(better, log_p, best) if best is not None else log_p
                    value = torch.where(better[:, None], v, value) if value is not None else v
                assert value is not None
                made.append(value)
            return torch.stack(made)
        out = x.expand(k, *x.shape).clone()
        for block, pattern in self.patterns(rows):
            holes = torch.nonzero(pattern)[:, 0]
            proposal = self.proposal(block, holes)
            t = proposal.draw(8 * k)
            log_p, full = self.densities(block, holes, t)
            log_w = log_p - proposal.log_prob(t)
            tempered = (log_w - log_w.amax(0)).clamp_min(-60) * 0.3  # farther apart than the weights would have them
            chosen = torch.multinomial(tempered.softmax(0).T.float(), k, replacement=False).T  # (K, B)
            index = (rows[None] == block[:, None]).long().argmax(1)
            out[:, index] = full.gather(0, chosen[..., None].expand(-1, -1, full.shape[-1]))
        return out
