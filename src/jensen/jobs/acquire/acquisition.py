"""What measuring a column is worth: what is known of the target, and what to measure next."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jensen.core import Shown
from jensen.errors import ConfigError
from jensen.units import bits

FEW = 20  # effective particles below which a row is warned of
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


@dataclass(frozen=True, eq=False, repr=False)
class Acquisition(Shown):
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
