"""What a denoising autoencoder does to its input in training.

Vincent, Larochelle, Lajoie, Bengio and Manzagol, "Stacked denoising autoencoders", 2010, JMLR 11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from jensen.conditionals.heads import Support, expect_numbers
from jensen.errors import ConfigError

Corruption = Literal["gaussian", "masking", "salt-and-pepper"]


class Gaussian(nn.Module):
    """x + noise · s · ε with ε ~ N(0, I), s the standard deviation of all elements of the batch."""

    def __init__(self, noise: float):
        super().__init__()
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        return x + self.noise * x.std(correction=0) * torch.randn_like(x)


class Masking(nn.Module):
    """A share of the elements set to 0."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(torch.rand_like(x) < self.share, 0.0, x)


class SaltAndPepper(nn.Module):
    """A share of the elements set to their smallest or largest value, as a fair coin falls.

    Args:
        share: of the elements.
        ends: what an element can be at least and at most; None for what it is in the batch.
    """

    def __init__(self, share: float, ends: tuple[float, float] | None):
        super().__init__()
        self.share, self.ends = share, ends

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.ends if self.ends is not None else x.aminmax(dim=0)
        u = torch.rand_like(x)
        return torch.where(u < self.share / 2, low, torch.where(u < self.share, high, x))


def _ends(support: Support) -> tuple[float, float] | None:
    return {"binary": (0.0, 1.0), "levels": (0.0, 2 * support.middle)}.get(support.kind)


CORRUPTIONS: dict[str, Callable[[float, Support], nn.Module]] = {
    "gaussian": lambda noise, support: Gaussian(noise),
    "masking": lambda noise, support: Masking(noise),
    "salt-and-pepper": lambda noise, support: SaltAndPepper(noise, _ends(support)),
}


def corruption(kind: Corruption, noise: float, support: Support) -> nn.Module | None:
    """Noise of that kind for data of that support; None where there is none of it.

    Raises:
        ConfigError: the data are symbols, or a share is more than 1.
    """
    if not noise:
        return None
    expect_numbers(support, "noise")
    if kind != "gaussian" and noise > 1:
        raise ConfigError(
            f"noise: with noise_kind={kind} it is a share of the elements, expected at most 1, got {noise}"
        )
    return CORRUPTIONS[kind](noise, support)
