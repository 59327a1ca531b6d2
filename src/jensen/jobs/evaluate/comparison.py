"""What methods reached in the same repetitions, with standard errors, and by how much one differs from each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jensen.core import Shown


@dataclass(frozen=True)
class Metric:
    """A number that a method is judged by.

    Attributes:
        words: what it is, in one line.
        paired: its differences between methods are of interest.
    """

    name: str
    words: str
    paired: bool = False


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """One table: methods by metrics.

    Attributes:
        kind: what was evaluated: imputation, outliers or synthetic.
        title: on what and how, in one line.
        about: how: data, protocol, sizes, seeds.
        values: by method and metric, one number a repetition; a method that has none of a metric leaves it out.
        ours: the method that the others are compared with; None where there are only baselines.
        seconds: by method, of each repetition.
        repetitions: what they are: "masks" or "seeds".
        notes: what to know when reading it, in sentences.
    """

    kind: str
    title: str
    about: Mapping[str, Any]
    metrics: Sequence[Metric]
    values: Mapping[str, Mapping[str, Sequence[float]]]
    ours: str | None
    seconds: Mapping[str, Sequence[float]]
    repetitions: str = "seeds"
    notes: Sequence[str] = field(default=())

    def mean(self, method: str, metric: str) -> tuple[float, float | None]:
        """Over repetitions, with its standard error, which one repetition has not."""
        return _mean(np.asarray(self.values[method][metric], dtype=np.float64))

    def difference(self, method: str, metric: str) -> tuple[float, float | None]:
        """Ours less that of a method, paired by repetition, with its standard error.

        Raises:
            ValueError: there are only baselines.
        """
        if self.ours is None:
            raise ValueError("expected a method to compare with, got only baselines")
        a, b = (np.asarray(self.values[name][metric], dtype=np.float64) for name in (self.ours, method))
        return _mean(a - b)

    @property
    def told(self) -> list[Metric]:
        """Metrics that any method has."""
        return [m for m in self.metrics if any(m.name in found for found in self.values.values())]

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        methods = {}
        for name, found in self.values.items():
            row: dict[str, Any] = {}
            for metric in self.told:
                if metric.name not in found:
                    continue
                mean, stderr = self.mean(name, metric.name)
                row[metric.name] = {"mean": mean, "stderr": stderr, "values": list(found[metric.name])}
                if metric.paired and self.ours not in (None, name) and metric.name in self.values[self.ours]:
                    less, spread = self.difference(name, metric.name)
                    row[metric.name] |= {"ours_less_it": less, "ours_less_it_stderr": spread}
            methods[name] = {**row, "seconds": list(self.seconds.get(name, ()))}
        about = {"kind": self.kind, **self.about, "ours": self.ours}
        metrics = {m.name: m.words for m in self.told}
        return {**about, "metrics": metrics, "methods": methods, "notes": list(self.notes)}

    def frame(self) -> Any:
        """One row a method, metric and repetition, as a data frame."""
        import pandas

        rows = [
            {"method": name, "metric": metric, "repetition": i, "value": value}
            for name, found in self.values.items()
            for metric, values in found.items()
            for i, value in enumerate(values)
        ]
        return pandas.DataFrame(rows)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headers and rows, as they are printed."""
        paired = [m for m in self.told if m.paired and self.ours is not None]
        headers = ["", *(m.name for m in self.told), *(f"{self.ours} − it, {m.name}" for m in paired)]
        rows = []
        for name, found in self.values.items():
            cells = [_plus_minus(*self.mean(name, m.name)) if m.name in found else "" for m in self.told]
            for m in paired:
                both = name != self.ours and m.name in found and m.name in self.values[self.ours or ""]
                cells.append(_plus_minus(*self.difference(name, m.name), sign=True) if both else "")
            rows.append([name, *cells])
        return headers, rows

    def __str__(self) -> str:
        headers, rows = self.table()
        widths = [max(len(line[i]) for line in [headers, *rows]) for i in range(len(headers))]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in [headers, *rows]
        ]
        count = max(len(values) for found in self.values.values() for values in found.values())
        meaning = [f"{m.name}: {m.words}" for m in self.told]
        what = {"masks": "mask", "seeds": "seed"}[self.repetitions] if count == 1 else self.repetitions
        spread = f"± is one standard error over {count} {what}" if count > 1 else f"one {what}: no standard errors"
        return "\n".join([self.title, "", *(line.rstrip() for line in lines), "", *meaning, spread, *self.notes])


def _mean(values: np.ndarray) -> tuple[float, float | None]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _plus_minus(mean: float, stderr: float | None, sign: bool = False) -> str:
    number = f"{mean:+.4f}" if sign else f"{mean:.4f}"
    return number if stderr is None else f"{number} ± {stderr:.4f}"
