"""Measures a model on the validation data."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jensen.core import Model, seeded
from jensen.data.dataset import Index
from jensen.errors import TrainingError
from jensen.hardware import out_of_memory
from jensen.objectives import Objective
from jensen.training.workers import Workers

ROWS = 1000  # data a batch


class Validation:
    """Means over the validation data of what an objective validates, by the rows' weights.

    Args:
        take: rows of the data as a batch.
        n: how many rows there are.
        batch_size: of training, for advice where memory does not suffice.
    """

    def __init__(
        self,
        objective: Objective,
        take: Callable[[Index], dict[str, Tensor]],
        n: int,
        batch_size: int,
        device: torch.device,
    ):
        self.objective, self.take, self.n, self.batch_size, self.device = objective, take, n, batch_size, device
        self.rows = ROWS

    def of(self, model: Model, workers: Workers) -> dict[str, float]:
        """By name, in smaller batches where memory does not suffice; each worker measures its part.

        Raises:
            ResourceError: memory does not suffice for a single row.
            TrainingError: the workers' weights differ.
        """
        while True:
            try:
                names, sums = self._sums(model, workers)
                break
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
                answer = out_of_memory(e, self.batch_size)
                if answer is None:
                    raise
                if self.rows == 1:
                    raise answer from None
                self.rows = math.ceil(self.rows / 2)
        if workers.number > 1:
            _check_agreement(model, workers)
        weight, *totals = workers.sum(sums)
        return {name: total / weight for name, total in zip(names, totals, strict=True)}

    @torch.no_grad()
    def _sums(self, model: Model, workers: Workers) -> tuple[list[str], list[float]]:
        """Names, and sums over this worker's part of the rows: of the weights, and of each name."""
        model.eval()
        totals: dict[str, Tensor] = {}
        weights = 0.0
        first, end = workers.range(self.n)
        with seeded(1 + workers.rank, self.device):
            for start in range(first, end, self.rows):
                batch = self.take(slice(start, min(end, start + self.rows)))
                weight = batch.get("weight", torch.ones(len(batch["x"]), device=self.device))
                weights += float(weight.sum())
                for name, value in self.objective.validate(model, batch).items():
                    total = (value * weight).sum()
                    totals[name] = totals[name] + total if name in totals else total
        model.train()
        return list(totals), [weights, *map(float, totals.values())]


def _check_agreement(model: Model, workers: Workers) -> None:
    """Raises `TrainingError` where the workers' weights are no longer the same."""
    with torch.no_grad():
        total = torch.stack([p.sum(dtype=torch.float64) for p in model.parameters()]).sum()
    said = workers.exchange([total])
    if (said.nan_to_num() != said[0].nan_to_num()).any():
        raise TrainingError("the workers' weights have come to differ, which is an error of this program")
