"""Batch normalisation: features that keep a spread over the data, however deep they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOWEST = 0.1  # share of the averages that a batch replaces, after ten batches or more: what they say is of late
FLOOR = 1e-5  # added to variances
LEAK = 0.1  # slope below 0


class BatchNorm(nn.Module):
    """Each feature less its mean over the batch, by its deviation there, then scaled and shifted: (N, D) to the same.

    Where it is not in training, and of a batch of one, averages over past batches take the place of the batch's: of all
    of them at first, later of about the last ten. Statistics are of float32 or better.

    Ioffe and Szegedy, "Batch normalization", 2015, arXiv:1502.03167.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance = self.mean, self.variance
        if self.training and len(x) > 1:
            variance, mean = torch.var_mean(x, 0, correction=0)
            with torch.no_grad():
                self.batches += 1
                share = self.batches.reciprocal().clamp_min(SLOWEST)
                self.mean.lerp_(mean.to(self.mean), share)
                self.variance.lerp_(variance.to(self.variance), share)
        gain = self.scale * (variance + FLOOR).rsqrt()
        return x * gain + (self.shift - mean * gain)


class Normalized(nn.Module):
    """A network's features (N, D), normalised over the batch, and a leaky rectifier of them."""

    def __init__(self, network: nn.Module, features: int):
        super().__init__()
        self.network, self.norm = network, BatchNorm(features)

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.network(*inputs)), LEAK)


@contextmanager
def by_averages(module: nn.Module) -> Iterator[None]:
    """Within, batch normalisation inside a module goes by its averages, and what comes leaves them as they are."""
    training = [part for part in module.modules() if isinstance(part, BatchNorm) and part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
