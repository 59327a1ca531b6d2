"""Acquire: what to measure next of a row, to know more of one of its columns.

Each column that is not measured is worth the information, in bits, that it is expected to give about the target, and
that for its cost. See `jensen.jobs.information`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jensen.core import seeded
from jensen.jobs.acquire.acquisition import Acquisition, Belief, Stopping
from jensen.jobs.acquire.asked import Effort, check_target, read_costs, rows_of
from jensen.jobs.acquire.inquiry import Inquiry
from jensen.jobs.acquire.looking import look
from jensen.jobs.job import job
from jensen.jobs.run import Run

__all__ = ["Acquisition", "Belief", "Effort", "Inquiry", "Stopping", "acquire"]


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
