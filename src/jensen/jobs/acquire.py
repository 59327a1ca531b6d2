"""Acquire: what to measure next of a row, to know more of one of its columns.

Each column that is not measured is worth the information, in bits, that it is expected to give about the target, and
that for its cost. See `jensen.jobs.information`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from jensen.core import seeded
from jensen.data import Dataset, Split
from jensen.data.columns import encode
from jensen.data.dtypes import in_dtype
from jensen.data.field import Field
from jensen.data.raw import ALL, Part, Raw
from jensen.data.sources import Source, open_source
from jensen.errors import CapabilityError, ConfigError, DataError, did_you_mean
from jensen.jobs.given import context_of, read_given
from jensen.jobs.information import GROUPS, gains, latent, latent_gains, levels
from jensen.jobs.job import job
from jensen.jobs.particles import Particles, check, particles
from jensen.jobs.precision import as_in
from jensen.jobs.run import Run, check_conditions
from jensen.units import LN2, bits

METHODS = ("particles", "latent")
DRAWS = 1000  # by which the spread of a target is told
QUANTILES = (0.05, 0.5, 0.95)
FEW = 20  # effective particles below which a row is warned of
NUMBERS = 1 << 24  # densities in memory at once
LIKELIEST = 8  # categories of a target that are shown


@dataclass(frozen=True)
class Stopping:
    """When measuring more is not worth it.

    Attributes:
        gain: bits that the best column must be expected to give.
        rate: bits for its cost, likewise.
        certain: how well the target is known when that is enough: bits of entropy of a target that has levels, the
            standard deviation of any other.
        budget: what may be spent in all.
    """

    gain: float = 0.01
    rate: float = 0.0
    certain: float = 0.0
    budget: float = math.inf

    def __post_init__(self) -> None:
        problems = [f"{name}: expected >= 0, got {value:g}" for name, value in asdict(self).items() if not value >= 0]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Belief:
    """p(target | x_o), in the units of the data.

    Attributes:
        target: the column's name.
        probabilities: of a target that has levels, by level.
        mean, std: of any other; quantiles 0.05, 0.5 and 0.95.
    """

    target: str
    probabilities: dict[str, float] = field(default_factory=dict)
    mean: float | None = None
    std: float | None = None
    quantiles: tuple[float, ...] = ()
    dates: tuple[str, ...] = ()

    @property
    def uncertainty(self) -> float:
        """Bits of entropy, or the standard deviation."""
        if self.std is not None:
            return self.std
        return bits(-math.fsum(p * math.log(p) for p in self.probabilities.values() if p > 0))

    def __str__(self) -> str:
        if self.std is not None:
            low, middle, high = self.dates or [f"{q:.4g}" for q in self.quantiles]
            mean = "" if self.dates else f"{self.mean:.4g} ± {self.std:.3g}, "
            return f"{self.target}: {mean}median {middle}, 90% from {low} to {high}"
        likeliest = sorted(self.probabilities.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {p:.3f}" for name, p in likeliest[:LIKELIEST])
        more = f" and {len(likeliest) - LIKELIEST} more" if len(likeliest) > LIKELIEST else ""
        return f"{self.target}: {shown}{more} (entropy {self.uncertainty:z.3f} bits)"


@dataclass(frozen=True, eq=False)
class Acquisition:
    """What each column that is not measured is expected to tell of the target, row by row.

    Attributes:
        columns: D names.
        gains, stderr: expected information in bits and its standard error, (n, D); NaN of what is measured, of the
            target, of what cannot be measured, and of columns that held one value throughout in training.
        costs: (D,).
        beliefs: what is known of the target, of each row.
        effective_sample_size: of the particles, (n,).
        rows: numbers of the rows in what they came from, the first one 0.
    """

    target: str
    columns: list[str]
    gains: np.ndarray
    stderr: np.ndarray
    costs: np.ndarray
    beliefs: list[Belief]
    effective_sample_size: np.ndarray
    rows: np.ndarray
    stopping: Stopping
    method: str

    @property
    def rates(self) -> np.ndarray:
        """Bits for their cost, (n, D), by which columns are ranked."""
        return self.gains / self.costs

    def ranked(self, row: int = 0, spent: float = 0.0) -> list[int]:
        """Columns of a row that can be measured within the budget, the best first."""
        rates = np.where(self.costs <= self.stopping.budget - spent, self.rates[row], np.nan)
        return [int(d) for d in np.argsort(-rates, kind="stable") if np.isfinite(rates[d])]

    def reason(self, row: int = 0, spent: float = 0.0) -> str:
        """Why no more should be measured of a row; empty where it should."""
        if self.beliefs[row].uncertainty <= self.stopping.certain:
            return f"{self.target} is known well enough"
        ranked = self.ranked(row, spent)
        if not ranked:
            left = np.isfinite(self.gains[row]).any()
            return "what is left to measure costs more than is left" if left else "nothing is left to measure"
        best = ranked[0]
        if max(self.gains[row, d] for d in ranked) < self.stopping.gain:
            return f"no column is expected to give {self.stopping.gain:g} bits"
        if self.rates[row, best] < self.stopping.rate:
            return f"no column is expected to give {self.stopping.rate:g} bits for its cost"
        return ""

    def advice(self, row: int = 0, spent: float = 0.0) -> str | None:
        """The column to measure next; None to stop."""
        return None if self.reason(row, spent) else self.columns[self.ranked(row, spent)[0]]

    def table(self) -> Any:
        """A frame, columns of each row by rank: row, rank, column, bits, stderr, cost, bits_per_cost, measure."""
        import pandas

        found = []
        for i, row in enumerate(self.rows):
            stop = bool(self.reason(i))
            for rank, d in enumerate(self.ranked(i), 1):
                bits, stderr = float(self.gains[i, d]), float(self.stderr[i, d])
                cost = float(self.costs[d])
                found.append((row, rank, self.columns[d], bits, stderr, cost, bits / cost, rank == 1 and not stop))
        names = ["row", "rank", "column", "bits", "stderr", "cost", "bits_per_cost", "measure"]
        return pandas.DataFrame(found, columns=names)

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON, its rows counted from 1."""
        return {
            "target": self.target,
            "method": self.method,
            "stopping": asdict(self.stopping),
            "rows": [
                {
                    "row": int(row) + 1,
                    "next": self.advice(i),
                    "stop": self.reason(i) or None,
                    "target": asdict(self.beliefs[i]),
                    "uncertainty": self.beliefs[i].uncertainty,
                    "effective_sample_size": float(self.effective_sample_size[i]),
                    "columns": [
                        {
                            "column": self.columns[d],
                            "bits": float(self.gains[i, d]),
                            "stderr": float(self.stderr[i, d]),
                            "cost": float(self.costs[d]),
                            "bits_per_cost": float(self.rates[i, d]),
                        }
                        for d in self.ranked(i)
                    ],
                }
                for i, row in enumerate(self.rows)
            ],
        }

    @property
    def warnings(self) -> list[str]:
        """What not to trust, in sentences."""
        few = int((self.effective_sample_size < FEW).sum())
        return [f"fewer than {FEW} effective particles in {few:,} of {len(self.rows):,} rows: more --particles"] * bool(
            few
        )

    def __str__(self) -> str:
        if len(self.rows) == 1:
            return f"{self.beliefs[0]}\nnext: {self.advice() or f'stop, since {self.reason()}'}"
        chosen = [self.advice(i) for i in range(len(self.rows))]
        stopped = chosen.count(None)
        lines = [f"{len(self.rows):,} rows; what to measure next to know {self.target}:"]
        counts = sorted(((chosen.count(name), name) for name in self.columns if name in chosen), reverse=True)
        lines += [f"  {name}: {n:,}" for n, name in counts]
        lines += [f"  nothing: {stopped:,}"] if stopped else []
        return "\n".join(lines)


@job("acquire")
def acquire(
    run: Run,
    data: Any = None,
    *,
    target: str,
    costs: Any = None,
    split: str | None = None,
    limit: int | None = None,
    stopping: Stopping | None = None,
    method: str = "particles",
    particles: int = 1000,
    points: int = 300,
    seed: int = 0,
    listener: Callable[[float], None] | None = None,
) -> Acquisition:
    """Expected information gain of every column that is not measured, about the target.

    Args:
        data: a table, empty cells being what is not measured, and so are whole columns that it lacks; values by column
            of one row; or None for the run's own. What stands in the target's column is not looked at.
        target: the column that is to be known.
        costs: of columns, by name, or a YAML file of them; 1 of those that are not named, `.inf` of those that cannot
            be measured.
        split, limit: which part; a random subset of so many rows.
        stopping: when measuring more is not worth it.
        method: "particles", or "latent" as in EDDI, for a q that takes a mask.
        particles: K, of each row.
        points: values of a column that is not enumerated, over which the gain is averaged.
        listener: told of the share done, in [0, 1].

    Raises:
        CapabilityError: the model has no density of single columns given what it hides.
        ConfigError: an option is out of range, or names a column that there is not.
        DataError: data that cannot be read or do not fit the model.
    """
    place = check_target(run, target)
    effort = Effort(method, particles, points)
    effort.check(run)
    worth = read_costs(run, costs)
    part = rows_of(run, data, split)
    part = part.rows(run.pick(part, limit, seed))
    with seeded(seed, run.device):
        return look(run, part, place, worth, stopping or Stopping(), effort, listener)


@dataclass(frozen=True)
class Effort:
    """How gains are estimated, as in `acquire`."""

    method: str = "particles"
    particles: int = 1000
    points: int = 300

    @property
    def k(self) -> int:
        """So many particles and no fewer, in equal groups, half of them from q."""
        return 2 * GROUPS * math.ceil(self.particles / (2 * GROUPS))

    def check(self, run: Run) -> None:
        problems = []
        if self.method not in METHODS:
            problems.append(
                f"--method: {self.method!r} is no way to estimate gains{did_you_mean(self.method, METHODS)}"
            )
        if self.particles < 2 * GROUPS:
            problems.append(f"--particles: expected >= {2 * GROUPS}, got {self.particles}")
        if self.points < GROUPS:
            problems.append(f"--points: expected >= {GROUPS}, got {self.points}")
        if problems:
            raise ConfigError(problems)
        if self.method == "latent":
            latent(run.model)


def check_target(run: Run, target: str) -> int:
    """Which column the target is.

    Raises:
        CapabilityError: the data are no table, or nothing is hidden of a row.
        ConfigError: there is no such column.
    """
    schema = run.schema
    if schema.is_array:
        kind = schema.fields[0].kind
        raise CapabilityError(f"{run.spec['model']} cannot acquire: expected a model of a table, got one of {kind}")
    if target in (schema.label, *schema.given_names) and target not in schema.names:
        raise ConfigError(
            f"--target: {target!r} is {'the label' if target == schema.label else 'given'}, which the model does not "
            "explain; train on a table in which it is a column like others"
        )
    if target not in schema.names:
        raise ConfigError(f"--target: the model has no column {target!r}{did_you_mean(target, schema.names)}")
    check(run.model)
    return schema.names.index(target)


def read_costs(run: Run, costs: Any) -> np.ndarray:
    """What measuring each column costs, (D,): 1 where nothing is said.

    Raises:
        ConfigError: naming columns that the model does not have, and costs that are no positive numbers.
    """
    names, where = run.schema.names, "costs"
    if isinstance(costs, str | os.PathLike):
        where = f"--costs: {costs}"
        try:
            costs = yaml.safe_load(Path(costs).expanduser().read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{where}: cannot be read ({e})") from None
        except yaml.YAMLError as e:
            raise ConfigError(f"{where}: no YAML: {str(e).splitlines()[0]}") from None
    if costs is not None and not isinstance(costs, Mapping):
        raise ConfigError(f"{where}: expected columns with their costs, as age: 2.5, got {type(costs).__name__}")
    found, problems = np.ones(len(names)), []
    for name, cost in (costs or {}).items():
        if str(name) not in names:
            problems.append(f"{where}: the model has no column {str(name)!r}{did_you_mean(str(name), names)}")
        elif isinstance(cost, bool) or not isinstance(cost, int | float) or not cost > 0:
            problems.append(f"{where}: {name}: expected a number above 0, got {cost!r}")
        else:
            found[names.index(str(name))] = cost
    if problems:
        raise ConfigError(problems)
    return found


def rows_of(run: Run, data: Any, split: str | None = None) -> Split:
    """Rows in the user's units, NaN where they are not measured."""
    if isinstance(data, Mapping):
        given = read_given(run, 1, data, None, 1)
        x = np.full((1, run.schema.dims), np.nan) if given.x is None else given.x
        return Split(x, y=given.y, c=given.c)
    source = open_source(data, run.schema.missing) if data is not None and not isinstance(data, Dataset) else data
    if isinstance(source, Source):
        source = _with_absent_columns(run, source)
    _, _, part = run.split(source, split, **({} if source is None else {"gaps": True}))
    check_conditions(run.model, run.schema, part)
    return part


def _with_absent_columns(run: Run, source: Source) -> Source:
    """A table with the columns that it lacks, empty."""
    if not source.raw.named or ALL not in source.raw.parts:
        return source
    part = source.raw.parts[ALL]
    frame: Any = part.x
    lacking = [name for name in run.schema.names if name not in frame.columns]
    known = [*run.schema.names, *run.schema.given_names, run.schema.label]
    strange = [name for name in frame.columns if name not in known]
    if lacking and strange:
        hints = "".join(f"\n  {name!r}{did_you_mean(name, lacking)}" for name in strange)
        raise DataError(f"{source.name}: columns that the model does not know, while others are missing:{hints}")
    if not lacking:
        return source
    frame = frame.assign(**dict.fromkeys(lacking, np.nan))
    raw = Raw({ALL: Part(frame, part.y, given=part.given)}, named=True)
    return Source(raw, source.name, source.description, source.origin, source.container, line=source.line)


def look(
    run: Run,
    part: Split,
    target: int,
    costs: np.ndarray,
    stopping: Stopping,
    effort: Effort,
    listener: Callable[[float], None] | None = None,
) -> Acquisition:
    """Gains of rows as they are now."""
    schema = run.schema
    seen = ~np.isnan(part.x)
    seen[:, target] = False
    size = rows_at_once(effort.k, effort.points)
    value, stderr = (np.full(part.x.shape, np.nan) for _ in range(2))
    beliefs, sizes = [], []
    for start in range(0, len(part), size):
        block = slice(start, start + size)
        some = part.rows(np.arange(len(part))[block])
        x, mask, context = prepared(run, some, seen[block])
        found = particles(run.model, x, mask, context, effort.k)
        candidate = ~seen[block] & np.isfinite(costs) & ~schema.constant
        candidate[:, target] = False
        wanted = [int(d) for d in np.flatnonzero(candidate.any(0))]
        if effort.method == "latent":
            told = latent_gains(run.model, found, x, mask, context, target, wanted, effort.points)
        else:
            told = gains(found, schema.fields, target, wanted, effort.points)
        for out, numbers in zip((value, stderr), told, strict=True):
            out[block] = np.where(candidate, numbers.double().cpu().numpy() / LN2, np.nan)
        beliefs += beliefs_of(run, found, target)
        sizes.append(found.effective_sample_size.double().cpu().numpy())
        if listener is not None:
            listener(min(1.0, (start + size) / len(part)))
    return Acquisition(
        schema.names[target], schema.names, value, stderr, costs, beliefs, np.concatenate(sizes), part.index, stopping,
        effort.method,
    )  # fmt: skip


def rows_at_once(k: int, points: int) -> int:
    """Rows whose particles, points and pairs of these fit into memory."""
    return max(1, NUMBERS // (3 * k * points + 4 * GROUPS * points * points))


def prepared(run: Run, part: Split, seen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Rows as the model takes them, with what was seen of them (n, D), and what is given of each."""
    x = run.schema.prepare(np.where(seen, part.x, np.nan)).nan_to_num_().to(run.device)
    context = context_of(run, part.y, part.c)
    context = {name: value for name, value in context.items() if name in run.model.context}
    taken = as_in(run.model, {"x": x, **context})
    return taken.pop("x"), torch.from_numpy(seen).to(run.device), taken


@torch.no_grad()
def beliefs_of(run: Run, found: Particles, target: int) -> list[Belief]:
    """What is known of the target, of each row."""
    field_, name = run.schema.fields[target], run.schema.names[target]
    if levels(field_) is not None:
        shares = probabilities(found, target, field_)
        return [Belief(name, dict(zip(words_of(field_), row, strict=True))) for row in shares.T.tolist()]
    drawn = found.draw(target, found.drawn_from(DRAWS)).double().cpu().numpy()  # (S, B)
    drawn = drawn * (field_.scale if field_.continuous else 1.0) + (field_.center if field_.continuous else 0.0)
    mean, std, quantiles = drawn.mean(0), drawn.std(0), np.quantile(drawn, QUANTILES, axis=0).T
    return [
        Belief(name, {}, float(m), float(s), tuple(map(float, q)), _dates(field_, q))
        for m, s, q in zip(mean, std, quantiles, strict=True)
    ]


def _dates(field_: Field, values: np.ndarray) -> tuple[str, ...]:
    return tuple(str(value) for value in in_dtype(values, field_)) if field_.kind == "time" else ()


def probabilities(found: Particles, target: int, field_: Field) -> torch.Tensor:
    """Of the levels of a column, (C, B)."""
    count, b = levels(field_) or 0, found.weights.shape[1]
    values = torch.arange(count, device=found.weights.device).to(found.weights).unsqueeze(1).expand(-1, b)
    shares = (found.log_prob(target, values).exp() * found.weights).sum(1)
    return shares / shares.sum(0)


def words_of(field_: Field) -> tuple[str, ...]:
    """The levels of a column, as the user writes them."""
    if field_.categories is not None:
        return field_.categories
    return ("False", "True") if field_.dtype.startswith("bool") else ("0", "1")


def read_value(field_: Field, value: Any) -> float:
    """A cell as a number, in the user's units. Raises `DataError` where the column cannot have it."""
    import pandas

    frame, source = pandas.DataFrame({field_.name: [value]}), Source(Raw({ALL: Part(np.empty(0))}), "measured")
    try:
        found = float(encode(frame, [field_], source)[0, 0])
    except DataError:
        found = math.nan
    if math.isnan(found):
        numbers = {
            "count": "a count 0, 1, 2, ...",
            "binary": "true or false" if field_.dtype.lower().startswith("bool") else "0 or 1",
            "positive": "a number above 0",
            "time": "a date",
        }
        bounds = f"a number from {field_.low:g} to {field_.high:g}" if field_.kind == "bounded" else "a number"
        hint = did_you_mean(str(value), field_.categories or ())
        expected = numbers.get(field_.kind, bounds) if field_.categories is None else "a category of the training data"
        raise DataError(f"{field_.name}: expected {expected}, got {value!r}{hint}")
    return found


class Inquiry:
    """A row that is measured column by column.

    >>> import numpy as np, jensen
    >>> x = np.random.default_rng(0).normal(size=(200, 1)) + np.zeros((1, 3))
    >>> run = jensen.train("ppca", x + 0.1 * np.random.default_rng(1).normal(size=x.shape), latents=1)
    >>> inquiry = Inquiry(run, "x0")
    >>> inquiry.now().advice() in ("x1", "x2")
    True
    >>> inquiry.learn("x1", 1.0)
    >>> inquiry.now().beliefs[0].std < 0.3
    True
    """

    def __init__(
        self,
        run: Run,
        target: str,
        data: Any = None,
        costs: Any = None,
        stopping: Stopping | None = None,
        effort: Effort | None = None,
        seed: int = 0,
    ):
        self.run, self.target, self.effort = run, check_target(run, target), effort or Effort()
        self.effort.check(run)
        self.costs, self.stopping, self.seed = read_costs(run, costs), stopping or Stopping(), seed
        part = rows_of(run, {} if data is None else data)
        self.part = replace(part, x=part.x.copy())
        if len(self.part) != 1:
            raise ConfigError(
                f"expected one row, got {len(self.part):,}; a table is ranked row by row, with --out FILE"
            )
        self.spent, self._own = 0.0, np.array(self.costs, dtype=float)

    def now(self) -> Acquisition:
        """What is known, and what each column is expected to tell."""
        with seeded(self.seed, self.run.device):
            return look(self.run, self.part, self.target, self.costs, self.stopping, self.effort)

    def learn(self, column: str, value: Any) -> None:
        """A column has been measured. Raises `DataError` for a value that it cannot have."""
        place = self._place(column)
        self.part.x[0, place] = read_value(self.run.schema.fields[place], value)
        self.costs[place] = self._own[place]  # it may have been skipped before
        self.spent += float(self.costs[place])

    def skip(self, column: str) -> None:
        """A column cannot be measured."""
        self.costs[self._place(column)] = math.inf

    def _place(self, column: str) -> int:
        names = self.run.schema.names
        if column not in names:
            raise ConfigError(f"the model has no column {column!r}{did_you_mean(column, names)}")
        return names.index(column)
