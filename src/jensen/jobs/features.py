"""Features of data, in which samples are compared with data: small networks of our own, or a user's function.

No network here was trained on other data, so that numbers made of these features stand beside nobody else's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from jensen.conditionals.amortized import Rescale
from jensen.core import seeded
from jensen.data import TensorSplit
from jensen.data.schema import Schema
from jensen.errors import ConfigError, did_you_mean

NAMES = ("auto", "classifier", "random", "values")
BATCH, STEPS, RATE = 100, 400, 2e-3  # of the classifier's training


@dataclass(frozen=True)
class Features:
    """A map from prepared data, (N, *event), to features, (N, F), and what to call it."""

    map: Callable[[Tensor], Tensor]
    about: str

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        found = [self.map(rows).double().cpu() for rows in x.split(500)]
        return torch.cat(found).flatten(1)


def features(name: Any, schema: Schema, train: TensorSplit, test: TensorSplit, seed: int) -> Features:
    """Features by name, or a function's.

    Args:
        name: "values", the prepared data themselves; "random", of a network that is not trained; "classifier", of one
            that is trained to tell the labels of the training data; "auto", that where there are labels, else "random";
            or a function from data in the user's types to an array (N, F).
        seed: of the networks.

    Raises:
        ConfigError: no such features; labels are needed and the data have none; or the data are texts.
    """
    if callable(name):
        return Features(lambda x: _array(name, schema, x), getattr(name, "__name__", "a function"))
    if name not in NAMES:
        raise ConfigError(f"--features: {name!r} are no features{did_you_mean(str(name), NAMES)}")
    if schema.is_text:
        raise ConfigError("--features: texts have none here; give a function of yours, module:function")
    labelled = train.y is not None and bool((train.y >= 0).any()) and len(schema.classes or ()) > 1
    if name == "auto":
        name = "classifier" if labelled else "random"
    if name == "values":
        return Features(lambda x: x.flatten(1), "the values themselves")
    shape = schema.event_shape
    with seeded(seed, train.x.device):
        body = _body(shape, schema.levels if schema.kind == "levels" else None).to(train.x.device)
        if name == "random":
            return Features(body.eval(), f"a random network, seed {seed}")
        if not labelled:
            raise ConfigError("--features: the data have no labels to train a classifier on; use random or values")
        right = _learn(body, train, test, len(schema.classes or ()))
    told = "" if math.isnan(right) else f", right on {right:.0%} of these data"
    return Features(body.eval(), f"a small classifier trained on the training data{told}")


def _array(function: Callable[[Any], Any], schema: Schema, x: Tensor) -> Tensor:
    found = torch.as_tensor(np.asarray(function(schema.restore(x.cpu())), dtype=np.float64))
    if found.dim() < 2 or len(found) != len(x):
        raise ConfigError(f"--features: expected {len(x)} rows of features, got shape {tuple(found.shape)}")
    return found


def _body(shape: tuple[int, ...], levels: int | None) -> nn.Sequential:
    """Data to features: three convolutions, averaged over quarters of the picture; or two layers."""
    first = [Rescale(levels)] if levels else []
    if len(shape) != 3:
        return nn.Sequential(
            *first, nn.Flatten(), nn.Linear(math.prod(shape), 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()
        )
    return nn.Sequential(
        *first,
        nn.Conv2d(shape[0], 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    )  # fmt: skip


def _learn(body: nn.Sequential, train: TensorSplit, test: TensorSplit, classes: int) -> float:
    """Train a body to tell labels, and give the share of test data on which it is right, nan where these have none."""
    assert train.y is not None
    known = torch.nonzero(train.y >= 0)[:, 0]
    with torch.no_grad():
        size = body(train.take(known[:1])["x"]).shape[1]
    top = nn.Linear(size, classes).to(train.x.device)
    optimizer = torch.optim.Adam([*body.parameters(), *top.parameters()], RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        batch = train.take(known[torch.randint(len(known), (BATCH,), device=known.device)])
        optimizer.zero_grad()
        cross_entropy(top(body(batch["x"])), batch["y"]).backward()
        optimizer.step()
        schedule.step()
    if test.y is None:
        return math.nan
    labelled = torch.nonzero(test.y >= 0)[:, 0]
    with torch.no_grad():
        found = [(top(body(b["x"])).argmax(1) == b["y"]).double() for b in map(test.take, labelled.split(500))]
    return float(torch.cat(found).mean()) if found else math.nan
