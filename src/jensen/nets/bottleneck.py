"""Residual bottlenecks and the stages of pictures of a very deep hierarchy.

A row of numbers, (D,), is taken as D channels of a picture of one pixel.

Child, "Very deep VAEs generalize autoregressive models and can outperform them on images", 2021, arXiv:2011.10650.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jensen.nets.products import Linear
from jensen.nets.resnet import resize
from jensen.nets.stack import Stack

Size2 = tuple[int, int]


class Bottleneck(nn.Module):
    """h + f(h), f = conv₁ act conv act conv act conv₁ act with a narrow middle, (N, C, H, W) to the same.

    Args:
        width: channels C.
        middle: channels inside.
        size: (H, W); where a picture is two pixels wide or less, all convolutions are 1 × 1.
        depth: of how many such blocks in a row this is one; the branch starts at 1/√depth of its usual scale, so that
            the sum of all keeps its own.
        light: compute the inside again in the backward pass, in place of keeping it.
    """

    def __init__(self, width: int, middle: int, size: Size2, depth: int = 1, light: bool = False):
        super().__init__()
        kernel = 3 if min(size) > 2 else 1
        last = nn.Conv2d(middle, width, 1)
        with torch.no_grad():
            last.weight.mul_(1 / math.sqrt(depth))
            last.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        self.light = light
        self.branch = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, middle, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(middle, middle, kernel, padding=kernel // 2),
            nn.SiLU(inplace=True),
            nn.Conv2d(middle, middle, kernel, padding=kernel // 2),
            nn.SiLU(inplace=True),
            last,
        )

    def forward(self, h: Tensor) -> Tensor:
        if self.light and torch.is_grad_enabled():
            return h + checkpoint(self.branch, h, use_reentrant=False)  # pyright: ignore[reportOperatorIssue]
        return h + self.branch(h)


def to_picture(shape: tuple[int, ...]) -> list[nn.Module]:
    """A row of numbers becomes a picture of one pixel; a picture stays."""
    return [nn.Unflatten(1, (shape[0], 1, 1))] if len(shape) == 1 else []


def from_picture(shape: tuple[int, ...]) -> list[nn.Module]:
    """And back."""
    return [nn.Flatten()] if len(shape) == 1 else []


def enter(shape: tuple[int, ...], width: int, size: Size2) -> list[nn.Module]:
    """From a datum to `width` channels."""
    kernel = 3 if min(size) > 2 else 1
    return [*to_picture(shape), nn.Conv2d(shape[0], width, kernel, padding=kernel // 2)]


def leave(width: int, shape: tuple[int, ...], size: Size2) -> Stack:
    """From `width` channels to the shape of a head's parameters, or to a row of numbers for the whole picture."""
    kernel = 3 if min(size) > 2 else 1
    if len(shape) == 1 and size != (1, 1):
        return Stack(nn.SiLU(), nn.Flatten(), Linear(width * math.prod(size), shape[0]))
    return Stack(nn.SiLU(), nn.Conv2d(width, shape[0], kernel, padding=kernel // 2), *from_picture(shape))


class StateAfter(nn.Module):
    """The next state of the way down, block(h + project(z)), at the next size."""

    def __init__(self, project: nn.Module, block: nn.Module, size: Size2):
        super().__init__()
        self.project, self.block, self.size = project, block, size

    def forward(self, z: Tensor, h: Tensor | None = None) -> Tensor:
        state = self.project(z) if h is None else h + self.project(z)
        state = self.block(state)
        return resize(state, self.size)
