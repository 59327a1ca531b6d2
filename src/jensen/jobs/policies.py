"""Policies: how well a target is known after each column that is measured, by what is chosen next.

    ours     of each row the column with the highest expected gain for its cost, given what has been measured of it
    fixed    one order for all: at each step the column whose gain for its cost is highest on average over training rows
    random   an order of its own for each row

Held-out rows are measured column by column. After each, log2 p(target | x_o) of the true value and the error of the
prediction are averaged: what a gain of so many bits promises is a rise of log2 p by as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from jensen.core import Shown, seeded
from jensen.data import Split
from jensen.errors import ConfigError, DataError, did_you_mean
from jensen.jobs.acquire.acquisition import FEW
from jensen.jobs.acquire.asked import Effort, check_target, read_costs, rows_of
from jensen.jobs.acquire.looking import prepared, probabilities, rows_at_once
from jensen.jobs.information import gains, latent_gains, levels
from jensen.jobs.job import job
from jensen.jobs.particles import Particles, particles
from jensen.jobs.run import Run
from jensen.units import LN2

NAMES = ("ours", "fixed", "random")


@dataclass(frozen=True)
class Path:
    """One policy, averaged over rows, after 0, 1, ... columns.

    Attributes:
        cost: what has been spent.
        log2_p: log2 p(target | x_o), in bits; of a number, of its density in the user's units.
        error: the share of wrong predictions of a target that has levels; of any other the root mean square error.
        log2_p_stderr, error_stderr: over rows.
        effective_sample_size: of the particles, the median over rows.
    """

    cost: list[float]
    log2_p: list[float]
    log2_p_stderr: list[float]
    error: list[float]
    error_stderr: list[float]
    effective_sample_size: list[float]


@dataclass(frozen=True, repr=False)
class Policies(Shown):
    """Curves of all policies on the same rows.

    Attributes:
        order: the fixed order.
        first: of each column, the share of rows of which ours measures it first.
        ahead: of ours over each other policy, log2 p averaged over all steps but the first and last: mean and standard
            error of the paired difference, in bits.
    """

    target: str
    data: str
    n: int
    n_train: int
    particles: int
    error_is: str
    paths: dict[str, Path]
    order: list[str]
    first: dict[str, float]
    ahead: dict[str, tuple[float, float]]
    with_costs: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def warnings(self) -> list[str]:
        """What not to trust, in sentences."""
        least = min(min(path.effective_sample_size) for path in self.paths.values())
        few = f"only {least:.0f} of {self.particles} particles count in the median row of a step: more --particles"
        return [few] if least < FEW else []

    def table(self) -> Any:
        """A frame: policy, columns, cost, log2_p, log2_p_stderr, error, error_stderr."""
        import pandas

        frames = [
            pandas.DataFrame({"policy": n, "columns": range(len(p.cost)), **asdict(p)}) for n, p in self.paths.items()
        ]
        return pandas.concat(frames, ignore_index=True)

    def picture(self) -> Any:
        """log2 p and error by columns measured, or by what was spent, a matplotlib figure."""
        from jensen.jobs.plots import Band, bands

        across = "spent" if self.with_costs else "columns measured"

        def found(what: str) -> list[Band]:
            return [
                Band(
                    name,
                    path.cost if self.with_costs else list(range(len(path.cost))),
                    getattr(path, what),
                    getattr(path, f"{what}_stderr"),
                )
                for name, path in self.paths.items()
            ]

        panels = {
            f"log2 p({self.target} | measured)": found("log2_p"),
            f"{self.error_is}: {self.target}": found("error"),
        }
        return bands(panels, across)

    def __str__(self) -> str:
        lines = [
            f"{self.target} of {self.n:,} rows of {self.data}, by columns measured: log2 p in bits and "
            f"{self.error_is}, ± standard error{', and what was spent' if self.with_costs else ''}",
            f"{'':8}" + "".join(f"{name:>36}" for name in self.paths),
        ]
        for step in range(len(self.paths["ours"].cost)):
            cells = [
                f"{p.log2_p[step]:8.3f} ± {p.log2_p_stderr[step]:.3f}"
                + f"  {p.error[step]:8.4g} ± {p.error_stderr[step]:.2g}"
                + (f"  {p.cost[step]:6.4g}" if self.with_costs else "")
                for p in self.paths.values()
            ]
            lines.append(f"{step:<8}" + "".join(f"{cell:>36}" for cell in cells))
        lines += [f"ours over {name}, mean over the steps between: {mean:+.4f} ± {stderr:.4f} bits"
                  for name, (mean, stderr) in self.ahead.items()]  # fmt: skip
        lines.append(f"fixed order, by {self.n_train:,} training rows: {', '.join(self.order)}")
        return "\n".join(lines)


@job("policies")
def policies(
    run: Run,
    data: Any = None,
    *,
    target: str,
    costs: Any = None,
    known: Sequence[str] = (),
    steps: int | None = None,
    split: str | None = None,
    limit: int | None = 200,
    method: str = "particles",
    particles: int = 200,
    points: int = 64,
    seed: int = 0,
    listener: Callable[[float], None] | None = None,
) -> Policies:
    """Measure held-out rows column by column, by several policies.

    Args:
        data: None for the run's own, whose training part gives the fixed order.
        target, costs: as in `acquire`.
        known: columns that are known of every row from the start.
        steps: columns that are measured of each row; by default all.
        split, limit: which part; a random subset of so many rows, and of as many training rows for the fixed order.
        method, particles, points: as in `acquire`; fewer do, for what counts is an average over rows.

    Raises:
        CapabilityError: as in `acquire`.
        ConfigError: as in `acquire`.
        DataError: no row has a target, or the run's training data are not to be had.
    """
    place, effort = check_target(run, target), Effort(method, particles, points)
    effort.check(run)
    worth = np.where(run.schema.constant, np.inf, read_costs(run, costs))
    start = np.zeros(run.schema.dims, dtype=bool)
    for name in known:
        if name not in run.schema.names or name == target:
            raise ConfigError(
                f"--known: expected a column besides the target, got {name!r}{did_you_mean(name, run.schema.names)}"
            )
        start[run.schema.names.index(name)] = True
    test = _with_target(run, rows_of(run, data, split), place, limit, seed)
    train = _with_target(run, run.data().split("train"), place, limit, seed + 1)
    open_ = ~start & np.isfinite(worth)
    open_[place] = False
    most = int(open_.sum())
    if steps is not None and not 1 <= steps <= most:
        raise ConfigError(f"--steps: expected 1 to {most}, the columns that can be measured, got {steps}")
    steps = steps or most
    walk = _Walk(run, place, worth, effort, steps, _Share(listener, 2 * steps + 1 + 2 * (steps + 1)))
    with seeded(seed, run.device):
        fixed = walk.order(train, start)
        orders = {
            "fixed": np.tile(fixed, (len(test), 1)),
            "random": _shuffled(most, len(test), np.flatnonzero(open_), seed),
        }
        rows = {"ours": walk.along(test, start, None)}
        rows |= {name: walk.along(test, start, order) for name, order in orders.items()}
    ours = rows["ours"]
    middle = slice(1, steps) if steps > 1 else slice(1, 2)
    ahead = {}
    for name in ("fixed", "random"):
        each = (ours.log2_p - rows[name].log2_p)[middle].mean(0)
        ahead[name] = (float(each.mean()), _stderr(each))
    names, firsts = run.schema.names, ours.chosen[0]
    counts = np.bincount(firsts[firsts >= 0], minlength=len(names)) / len(test)
    discrete = levels(run.schema.fields[place]) is not None
    return Policies(
        target,
        run.spec["data"]["name"] if data is None else str(data) if isinstance(data, str) else "data",
        len(test),
        len(train),
        effort.k,
        "error rate" if discrete else "RMSE",
        {name: found.path(discrete) for name, found in rows.items()},
        [names[d] for d in fixed[:steps]],
        {names[d]: float(counts[d]) for d in np.argsort(-counts) if counts[d]},
        ahead,
        costs is not None,
    )


def _with_target(run: Run, part: Split, target: int, limit: int | None, seed: int) -> Split:
    """Rows whose target is known, at most so many at random."""
    part = part.rows(np.flatnonzero(~np.isnan(part.x[:, target])))
    if not len(part):
        raise DataError(f"no row has a value of the target {run.schema.names[target]!r}")
    return part.rows(run.pick(part, limit, seed))


def _shuffled(most: int, n: int, columns: np.ndarray, seed: int) -> np.ndarray:
    """An order of the columns for each row, (n, most)."""
    rng = np.random.default_rng(seed)
    return columns[np.argsort(rng.random((n, most)), axis=1)]


def _stderr(x: np.ndarray) -> float:
    return float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


class _Share:
    """Tells a listener of the share done, by steps."""

    def __init__(self, listener: Callable[[float], None] | None, steps: int):
        self.listener, self.steps, self.done = listener, steps, 0

    def __call__(self) -> None:
        self.done += 1
        if self.listener is not None:
            self.listener(min(1.0, self.done / self.steps))


@dataclass(frozen=True)
class _Rows:
    """By step and row, (1 + steps, n): log2 p, errors, costs, effective sizes; what each step measures, -1: none."""

    log2_p: np.ndarray
    error: np.ndarray
    cost: np.ndarray
    size: np.ndarray
    chosen: np.ndarray

    def path(self, discrete: bool) -> Path:
        """Means over rows; of squared errors their root, with its error to first order."""
        error, stderr = self.error.mean(1), np.array([_stderr(e) for e in self.error])
        if not discrete:
            error = np.sqrt(error)
            stderr = stderr / (2 * np.maximum(error, np.finfo(float).tiny))
        cost, log2_p = self.cost.mean(1).tolist(), self.log2_p.mean(1).tolist()
        sizes = np.median(self.size, axis=1).tolist()
        return Path(cost, log2_p, [_stderr(e) for e in self.log2_p], error.tolist(), stderr.tolist(), sizes)


@dataclass(frozen=True)
class _Walk:
    """Measures rows column by column."""

    run: Run
    target: int
    costs: np.ndarray
    effort: Effort
    steps: int
    share: _Share

    def along(self, part: Split, start: np.ndarray, order: np.ndarray | None) -> _Rows:
        """By orders of columns (n, most), or by the highest gain for its cost."""
        seen, can = self._start(part, start)
        n, spent = len(part), np.zeros(len(part))
        log2_p, error, cost, size, chosen = [], [], [], [], []
        for step in range(self.steps + 1):
            wanted = can & ~seen if order is None and step < self.steps else None
            found = [self._look(part.rows(rows), seen[rows], None if wanted is None else wanted[rows])
                     for rows in self._blocks(n)]  # fmt: skip
            log2_p.append(np.concatenate([f[0] for f in found]))
            error.append(np.concatenate([f[1] for f in found]))
            cost.append(spent.copy())
            size.append(np.concatenate([f[3] for f in found]))
            self.share()
            if step == self.steps:
                break
            if order is None:
                rates = np.concatenate([f[2] for f in found]) / self.costs
                left = np.isfinite(rates).any(1)
                next_ = np.where(left, np.where(np.isfinite(rates), rates, -np.inf).argmax(1), -1)
            else:
                ranks = np.take_along_axis(can & ~seen, order, 1)
                next_ = np.where(ranks.any(1), order[np.arange(n), ranks.argmax(1)], -1)
            some = np.flatnonzero(next_ >= 0)
            seen[some, next_[some]] = True
            spent[some] += self.costs[next_[some]]
            chosen.append(next_)
        return _Rows(*map(np.stack, (log2_p, error, cost, size, chosen)))

    def order(self, part: Split, start: np.ndarray) -> np.ndarray:
        """Columns by their mean gain for their cost, each given those before it."""
        seen, can = self._start(part, start)
        order: list[int] = []
        anywhere = np.isfinite(self.costs) & ~start
        anywhere[self.target] = False
        for _ in range(self.steps):
            left = anywhere.copy()
            left[order] = False
            wanted = np.tile(left, (len(part), 1))
            found = [self._look(part.rows(rows), seen[rows], wanted[rows])[2] for rows in self._blocks(len(part))]
            mean = np.concatenate(found).mean(0) / self.costs
            best = int(np.where(left, mean, -np.inf).argmax())
            order.append(best)
            seen[:, best] = can[:, best]
            self.share()
        return np.array([*order, *np.flatnonzero(anywhere & ~np.isin(np.arange(len(anywhere)), order))])

    def _start(self, part: Split, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is seen of rows at first, and what can be measured: it is there, and has a price."""
        there = ~np.isnan(part.x)
        seen, can = there & start, there & np.isfinite(self.costs)
        seen[:, self.target] = can[:, self.target] = False
        return seen, can

    def _blocks(self, n: int) -> list[np.ndarray]:
        return np.array_split(np.arange(n), math.ceil(n / rows_at_once(self.effort.k, self.effort.points)))

    def _look(
        self, part: Split, seen: np.ndarray, wanted: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """log2 p of the target, its error, the gains in bits (n, D), NaN of what is not wanted, and effective sizes."""
        x, mask, context = prepared(self.run, part, seen)
        found = particles(self.run.model, x, mask, context, self.effort.k)
        log2_p, error = self._judge(part.x[:, self.target], found)
        size = found.effective_sample_size.double().cpu().numpy()
        if wanted is None:
            return log2_p, error, np.empty(0), size
        columns = [int(d) for d in np.flatnonzero(wanted.any(0))]
        of_all = self.run.schema.fields, self.target
        if self.effort.method == "latent":
            value, _ = latent_gains(self.run.model, found, x, mask, context, self.target, columns, self.effort.points)
        else:
            value, _ = gains(found, *of_all, columns, self.effort.points)
        return log2_p, error, np.where(wanted, value.double().cpu().numpy() / LN2, np.nan), size

    @torch.no_grad()
    def _judge(self, true: np.ndarray, found: Particles) -> tuple[np.ndarray, np.ndarray]:
        field = self.run.schema.fields[self.target]
        shift, scale = (field.center, field.scale) if field.continuous else (0.0, 1.0)
        values = torch.from_numpy((true - shift) / scale).to(found.weights).unsqueeze(0)
        log_p = torch.logsumexp(found.log_prob(self.target, values)[0] + found.weights.log(), 0)
        log2_p = (log_p.double().cpu().numpy() - math.log(scale)) / LN2
        if levels(field) is not None:
            guess = probabilities(found, self.target, field).argmax(0).cpu().numpy()
            return log2_p, (guess != true).astype(float)
        means = found.column(self.target).mean.view(found.weights.shape)
        mean = (means * found.weights).sum(0).double().cpu().numpy() * scale + shift
        return log2_p, (mean - true) ** 2
