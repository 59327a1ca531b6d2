"""Compare: several runs on one test set, by paired differences."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jensen.core import Difference, Score, Shown, difference
from jensen.errors import ConfigError
from jensen.jobs.run import Run, open_run
from jensen.jobs.score import score


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Scores on the same data, best first within each kind, and differences from the first run.

    Attributes:
        names, scores: of the runs, in the order given.
        differences: of each run from the first, paired by datum; None for the first itself.
    """

    names: list[str]
    scores: list[Score]
    differences: list[Difference | None]

    @property
    def kinds(self) -> list[str]:
        return sorted({s.kind for s in self.scores}, key=["exact", "lower_bound", "estimate"].index)

    def to_dict(self) -> dict[str, Any]:
        rows = []
        for name, s, d in zip(self.names, self.scores, self.differences, strict=True):
            row: dict[str, Any] = {"run": name, **s.to_dict()}
            if d is not None:
                row["difference"] = {"nats": d.nats, "stderr": d.stderr, "same_kind": d.same_kind}
            rows.append(row)
        return {"runs": rows, "reference": self.names[0], "mixed_kinds": len(self.kinds) > 1}

    def __str__(self) -> str:
        lines = []
        width = max(map(len, self.names))
        for kind in self.kinds:
            lines.append({"exact": "exact", "lower_bound": "lower bounds", "estimate": "estimates"}[kind] + ":")
            ranked = [i for i, s in enumerate(self.scores) if s.kind == kind]
            for i in sorted(ranked, key=lambda i: -self.scores[i].nats):
                s, d = self.scores[i], self.differences[i]
                text = f"  {self.names[i]:<{width}}  {s.nats:10.2f} ± {s.stderr:.2f} nats"
                if s.bits_per_dim is not None:
                    text += f"  {s.bits_per_dim:.4f} bits/dim"
                if d is not None:
                    text += f"  {d.nats:+.3f} ± {d.stderr:.3f} nats against {self.names[0]}"
                    text += (
                        "" if d.same_kind else " (another kind of number: a bound and an exact value hardly compare)"
                    )
                if len({s.given for s in self.scores}) > 1:
                    text += f", {s.density}"
                lines.append(text)
        if len({s.given for s in self.scores}) > 1:
            lines.append("not all are given the same: what conditions tell of x is in the differences, too")
        return "\n".join(lines)


def compare(
    runs: Sequence[Run | str | os.PathLike[str]],
    data: Any = None,
    *,
    split: str | None = None,
    estimator: str = "auto",
    particles: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Score runs on the same data and difference them datum by datum.

    Args:
        runs: two or more, or their folders.
        data: what to score on; None for each run's own.
        split, estimator, particles, limit, seed: as in `score`.

    Raises:
        ConfigError: fewer than two runs; or the runs were scored on different data, binarisations, measures or units.
        CapabilityError: a run has no likelihood.
    """
    if isinstance(runs, Run | str | os.PathLike):
        raise ConfigError("compare: expected a list of runs, as compare([a, b], data), got one run")
    if len(runs) < 2:
        raise ConfigError(f"compare: expected two runs or more, got {len(runs)}")
    runs = [run if isinstance(run, Run) else open_run(run) for run in runs]
    scores = [
        score(run, data, split=split, estimator=estimator, particles=particles, limit=limit, seed=seed, keep=False)
        for run in runs
    ]
    problems = []
    for run, s in zip(runs[1:], scores[1:], strict=True):
        try:
            difference(s, scores[0])
        except ConfigError as e:
            problems.extend(f"{run.name} against {runs[0].name}: {p}" for p in e.problems)
    if problems:
        raise ConfigError(problems)
    differences = [None, *(difference(s, scores[0]) for s in scores[1:])]
    names = [str(run.folder.path) if run.folder else run.name for run in runs]
    return Comparison(names, scores, differences)
