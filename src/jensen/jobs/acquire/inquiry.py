"""One row that is measured column by column."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from jensen.core import seeded
from jensen.data.columns import encode
from jensen.data.field import Field
from jensen.data.raw import ALL, Part, Raw
from jensen.data.sources import Source
from jensen.errors import ConfigError, DataError, did_you_mean
from jensen.jobs.acquire.acquisition import Acquisition, Stopping
from jensen.jobs.acquire.asked import Effort, check_target, read_costs, rows_of
from jensen.jobs.acquire.looking import look
from jensen.jobs.run import Run


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
