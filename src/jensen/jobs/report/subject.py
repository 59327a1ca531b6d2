"""The data that a report shows."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from jensen.conditionals.autoregressive import Autoregression
from jensen.core import seeded
from jensen.data import Dataset, Split
from jensen.errors import CapabilityError
from jensen.jobs.report.record import GONE
from jensen.jobs.run import Run
from jensen.units import LN2


class NoData(Exception):
    """The data to show are not to be had; the rest of the report still is."""


class Subject:
    """The data that a report shows, read once. Those of the run may be gone; those asked for may not."""

    def __init__(self, run: Run, data: Any):
        self.run, self.given = run, data
        if data is not None:
            _ = self.found

    @cached_property
    def found(self) -> tuple[Dataset, str, Split]:
        try:
            return self.run.split(self.given)
        except GONE as e:
            if self.given is not None:
                raise
            raise NoData(e) from None

    def few(self, n: int, seed: int = 0) -> tuple[Dataset, Split]:
        """A data set of n random rows, of different classes as far as there are any."""
        data, name, part = self.found
        order = np.random.default_rng(seed).permutation(len(part))
        if part.y is not None:
            turn = np.zeros(len(part), int)  # how often a row's class came before it
            for label in np.unique(part.y):
                rows = order[part.y[order] == label]
                turn[rows] = np.arange(len(rows))
            order = order[np.lexsort((part.y[order], turn[order]))]
        chosen = part.rows(order[:n])
        return Dataset(data.name, data.schema, {name: chosen}), chosen

    @torch.no_grad()
    def bits(self, part: Split) -> np.ndarray:
        """−log₂ p of each element of rows given those before it, (n, *event), in the first of several orders.

        Of rows as they are `shown`. Raises `CapabilityError` where elements do not follow one another.
        """
        model = self.run.model
        with seeded(0):
            batch = self.run.tensors(part).take(slice(None))
        factor = model.p[model.data]
        found: Any = factor.module(*(batch[name] for name in factor.parents))
        if not isinstance(found, Autoregression):
            raise CapabilityError(f"the elements of what {self.run.spec['model']} makes do not follow one another")
        found.of.network.use(0)
        return -found.terms(batch[model.data]).double().cpu().numpy() / LN2

    def shown(self, part: Split) -> np.ndarray:
        """Rows as the model takes them: binary pictures that are drawn afresh are drawn once."""
        if not part.redraw:
            return part.x
        with seeded(0):
            return part.to(self.run.schema).take(slice(None))["x"].numpy()
