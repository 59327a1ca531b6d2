"""Priors over what is hidden."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jensen.distributions import StandardNormal
from jensen.registry import component


class Normal(nn.Module):
    """p(z) = N(0, I).

    `forward()` gives a StandardNormal of batch shape () over `event_shape`.

    >>> Normal((2,))().log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, event_shape: tuple[int, ...]):
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.register_buffer("loc", torch.zeros(self.event_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.event_shape), persistent=False)

    def forward(self) -> StandardNormal:
        return StandardNormal(self.loc, self.scale, event_dims=len(self.event_shape))


@component("prior", "normal")
def normal(latents: tuple[int, ...]) -> nn.Module:
    """Standard normal prior, p(z) = N(0, I)."""
    return Normal(latents)
