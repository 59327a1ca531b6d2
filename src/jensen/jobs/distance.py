"""Distance: how far samples are from data, by a kernel on features. For models without likelihood, and beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.core import Shown, seeded
from jensen.data import Split
from jensen.errors import ConfigError, DataError, did_you_mean
from jensen.jobs.features import features as features_of
from jensen.jobs.given import context_of
from jensen.jobs.job import job
from jensen.jobs.run import Run
from jensen.objectives import kernels

KERNELS = ("imq", "rbf", "polynomial")
BATCH = 1000


@dataclass(frozen=True, repr=False)
class Distance(Shown):
    """MMD² of samples from data, unbiased, so that it may be below 0.

    Attributes:
        mmd2, stderr: of as many samples as data.
        train_mmd2, train_stderr: of as many training data from the same data: what a perfect model would come to.
        kernel, features: in what they are measured; other features give other numbers.
        n: samples, data, and training data.
        data, split, split_sha256: what was compared with.
    """

    mmd2: float
    stderr: float
    train_mmd2: float
    train_stderr: float
    kernel: str
    features: str
    n: int
    data: str
    split: str
    split_sha256: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"MMD² {self.mmd2:.5f} ± {self.stderr:.5f} between {self.n:,} samples and as many data of {self.data} "
            f"{self.split}\n"
            f"training data  {self.train_mmd2:.5f} ± {self.train_stderr:.5f}, what a perfect model would come to\n"
            f"{self.kernel} kernel on {self.features}; comparable only with the same kernel, features and data"
        )


@job("distance", needs="sample")
@torch.no_grad()
def distance(
    run: Run,
    data: Any = None,
    *,
    split: str | None = None,
    features: Any = "auto",
    kernel: str = "imq",
    limit: int | None = 1000,
    seed: int = 0,
) -> Distance:
    """Kernel distance between samples of a model and data, on features of both.

    Args:
        data, split: what to compare with; by default the run's own test part.
        features: "classifier", "random", "values", "auto", or a function; see `jensen.jobs.features.features`.
        kernel: "imq" or "rbf", each over several scales about the median distance of the data; "polynomial", of degree
            three, as the "kernel inception distance" has it on other features. Features are standardised by the
            training data's.
        limit: at most so many of each.
        seed: of samples, subset and networks.

    Raises:
        ConfigError: no such kernel or features.
        DataError: fewer than three data.
        CapabilityError: the model cannot be sampled from.
    """
    if kernel not in KERNELS:
        raise ConfigError(f"--kernel: {kernel!r} is no kernel{did_you_mean(kernel, KERNELS)}")
    found, name, part = run.split(data, split)
    training = run.data().split("train")
    n = min(len(part), len(training), *([limit] if limit is not None else []))
    if n < 3:
        raise DataError(f"expected 3 data or more to compare with, got {n}")
    test, train = run.tensors(part), run.tensors(training)
    with torch.enable_grad():
        measured = features_of(features, run.schema, train, test, seed)
    chosen = run.pick(part, n, seed)
    of_train = measured(train.take(torch.from_numpy(run.pick(training, n, seed)).to(run.device))["x"])
    of_test = measured(test.take(torch.from_numpy(chosen).to(run.device))["x"])
    of_samples = measured(_samples(run, part, chosen, seed))
    middle, scale = of_train.mean(0), of_train.std(0)
    kept = scale > 1e-9 * (1 + middle.abs())  # a feature that training data share says nothing
    x, y, reference = ((f[:, kept] - middle[kept]) / scale[kept] for f in (of_samples, of_test, of_train))
    if kernel == "polynomial":
        k = kernels.polynomial
    else:
        k = kernels.several_scales("imq" if kernel == "imq" else "rbf", kernels.typical_square(reference))
    (mmd2, stderr), (train_mmd2, train_stderr) = (kernels.mmd_and_stderr(a, y, k) for a in (x, reference))
    return Distance(mmd2, stderr, train_mmd2, train_stderr, kernel, measured.about, n, found.name, name, part.sha256)


def _samples(run: Run, part: Split, chosen: np.ndarray, seed: int) -> Tensor:
    """As many draws as chosen data, prepared, under the conditions of these where the model is given some."""
    y = part.y[chosen] if part.y is not None and "y" in run.model.context else None
    c = part.c[chosen] if part.c is not None and "c" in run.model.context else None
    context, n, parts = context_of(run, y, c), len(chosen), []
    with seeded(seed, run.device):
        for start in range(0, n, BATCH):
            size = min(BATCH, n - start)
            few = {key: value[start : start + size] for key, value in context.items()}
            parts.append(run.model.sample(size, few)[run.model.data])
    return torch.cat(parts)
