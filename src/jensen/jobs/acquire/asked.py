"""What is asked: a target, costs, rows with what was measured of them, and how much work to spend."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jensen.data import Dataset, Split
from jensen.data.raw import ALL, Part, Raw
from jensen.data.sources import Source, open_source
from jensen.errors import CapabilityError, ConfigError, DataError, did_you_mean
from jensen.jobs.given import read_given
from jensen.jobs.information import GROUPS, latent
from jensen.jobs.particles import check
from jensen.jobs.run import Run, check_conditions

METHODS = ("particles", "latent")


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
