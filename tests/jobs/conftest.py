"""Small flows to do jobs with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, Split
from jensen.jobs.run import Run
from jensen.models.flow import density
from jensen.registry import Choice, find
from jensen.transforms import Composed, Transform


class Coupling(Transform):
    """x_A = z_A, x_B = z_B exp(s) + t with s, t an mlp of z_A and a context; the elements turned round afterwards."""

    def __init__(self, shape: tuple[int, ...], context: int, bound: float = 1.0):
        super().__init__()
        self.domain_shape = self.codomain_shape = shape
        n = int(np.prod(shape))
        self.kept, self.bound = n // 2, bound
        sizes = self.kept + context, 2 * (n - self.kept)
        self.network = nn.Sequential(nn.Linear(sizes[0], 16), nn.Tanh(), nn.Linear(16, sizes[1]))

    def _parameters_at(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        given = kept if context is None else torch.cat([kept, context], 1)
        s, t = self.network(given).chunk(2, 1)
        return self.bound * torch.tanh(s), t

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = z.flatten(1).tensor_split([self.kept], 1)
        s, t = self._parameters_at(a, context)
        x = torch.cat([a, b * s.exp() + t], 1).flip(1)
        return x.reshape(z.shape), s.sum(1)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = x.flatten(1).flip(1).tensor_split([self.kept], 1)
        s, t = self._parameters_at(a, context)
        z = torch.cat([a, (b - t) * (-s).exp()], 1)
        return z.reshape(x.shape), -s.sum(1)


def coupling_flow(
    schema: Schema, *, layers: int = 4, enlarge: float = 1.0, bound: float = 1.0, **settings: Any
) -> Model:
    """A flow of couplings with random weights, those of all layers multiplied by a number."""

    def make(event: tuple[int, ...], context: int) -> Transform:
        return Composed([Coupling(event, context, bound) for _ in range(layers)])

    slots = {"base": Choice(find("prior", "normal"), {}), "dequantizer": Choice(find("dequantizer", "uniform"), {})}
    with seeded(0):
        model = density(schema, make, **{**slots, **settings}).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(enlarge)
    return model


def run_of(model: Model, schema: Schema, x: np.ndarray, y: np.ndarray | None = None, **more: np.ndarray) -> Run:
    """A run in memory; `more` are other splits."""
    splits = {"test": Split(x, y), **{name: Split(values) for name, values in more.items()}}
    return Run({"model": "toy", "settings": {}}, schema, model, None, [], Dataset("made", schema, splits))


def table(columns: int, **extra: Any) -> Schema:
    """Real columns, taken as they are."""
    unit = np.array([[-1.0] * columns, [1.0] * columns])
    return Schema.of_table(unit, [f"c{j}" for j in range(columns)], **extra)


@pytest.fixture(name="coupling_flow")
def _coupling_flow() -> Callable[..., Model]:
    return coupling_flow


@pytest.fixture(name="run_of")
def _run_of() -> Callable[..., Run]:
    return run_of


@pytest.fixture(name="columns")
def _table() -> Callable[..., Schema]:
    return table
