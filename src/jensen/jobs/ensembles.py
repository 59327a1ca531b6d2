"""Several runs that answer together."""

from __future__ import annotations

import os
from collections.abc import Sequence

from jensen.jobs.run import Run, open_run


def together(run: Run, others: Sequence[Run | str | os.PathLike[str]]) -> list[Run]:
    """A run and others, or their folders, which are opened where the first one is."""
    return [run, *(other if isinstance(other, Run) else open_run(other, str(run.device)) for other in others)]


def strangers(runs: Sequence[Run]) -> list[str]:
    """Complaints about runs whose data have other columns, or pictures, sound or texts of another kind, than the first
    one's.
    """
    first = _kinds(runs[0])
    return [
        f"--ensemble: {other.name} was trained on other columns than {runs[0].name}"
        for other in runs[1:]
        if _kinds(other) != first
    ]


def _kinds(run: Run) -> list[tuple[object, ...]]:
    """What a value of each field can be."""
    return [(field.name, field.kind, field.shape, field.categories, field.levels) for field in run.schema.fields]
