"""Sample: new data from the model, in the user's own types."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.core import seeded
from jensen.errors import ConfigError
from jensen.jobs.job import job
from jensen.jobs.run import Run

BATCH = 1000


@job("sample", needs="sample")
@torch.no_grad()
def sample(run: Run, n: int = 64, *, temperature: float = 1.0, seed: int = 0, mean: bool = False) -> Any:
    """Draw n data from p, walked from the top.

    Args:
        n: how many.
        temperature: multiplies the scale of hidden normal variables, and of a flow's normal base; 1 samples the model
            itself, below 1 stays nearer to the mode.
        seed: equal seeds give equal samples.
        mean: give E[x | z] of each draw of what is hidden instead of a draw of x: smoother, and no sample.

    Returns:
        Pictures (n, C, H, W): uint8, or float levels where `mean`. Tables: n rows with the columns, order and
        dtypes of the data.

    Raises:
        CapabilityError: p has no distribution over what is hidden.
        ConfigError: n or the temperature is out of range, or a flow's base has no scale.
    """
    if n < 1:
        raise ConfigError(f"-n: expected >= 1, got {n}")
    if not temperature > 0:
        raise ConfigError(f"--temperature: expected > 0, got {temperature}")
    parts = []
    with seeded(seed, run.device):
        for start in range(0, n, BATCH):
            size = min(BATCH, n - start)
            try:
                values = run.model.sample(size, temperature=temperature)
            except ValueError as e:
                if temperature == 1:
                    raise
                raise ConfigError(f"--temperature: {e}") from None
            parts.append(expected(run, values) if mean else values[run.model.data])
    return restore(run, torch.cat(parts), mean)


def expected(run: Run, values: dict[str, Tensor]) -> Tensor:
    """E[x | parents], (n, *event), prepared; x itself where a map makes it of its base."""
    factor = run.model.p[run.model.data]
    if factor.name in run.model.inverted:
        return values[factor.name]
    given = [values[name] for name in factor.parents]
    dist = factor.module(*given)
    mean = dist.mean
    return mean if dist.batch_shape else mean.expand(len(next(iter(values.values()))), *mean.shape)


def restore(run: Run, x: Tensor, mean: bool) -> Any:
    """Prepared values (n, *event) in the user's types; means of pictures stay real numbers."""
    if mean and run.schema.is_image:
        return x.cpu().numpy().astype(np.float32)
    return run.schema.restore(x.cpu())
