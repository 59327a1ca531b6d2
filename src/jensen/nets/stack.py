"""Layers in a row, and the few choices that all networks share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from jensen.transforms.compilation import is_looked_through

Size = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Activation = Literal["relu", "tanh", "silu", "gelu", "leaky-relu", "elu"]


class Stack(nn.Sequential):
    """Layers in a row, `(N, *inputs)` to `(N, *outputs)`.

    >>> Stack(nn.Linear(3, 2), nn.Unflatten(1, (2, 1))).output
    Linear(in_features=3, out_features=2, bias=True)
    """

    @property
    def output(self) -> nn.Linear | nn.Conv2d | nn.ConvTranspose2d:
        """The last layer with weights. A decoder's output bias can be set there from the data."""
        return next(layer for layer in reversed(self) if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d))


class Tanh(nn.Tanh):
    """A hyperbolic tangent of any shape; of float32 on a processor by tanh a = 2σ(2a) − 1, to 3 · 10⁻⁷.

    PyTorch leaves hyperbolic tangents to MKL, which takes longer for them on processors that are not Intel's than
    PyTorch's own logistic function does; elsewhere, and where something looks through it, this is PyTorch's.

    >>> Tanh()(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.7616,  0.0000,  0.7616])
    """

    def forward(self, input: Tensor) -> Tensor:
        if not input.is_cpu or input.dtype != torch.float32 or is_looked_through():
            return torch.tanh(input)
        return _Tanh.apply(input) if torch.is_grad_enabled() and input.requires_grad else _tanh(input)


def _tanh(a: Tensor) -> Tensor:
    return (2 * a).sigmoid_().mul_(2).sub_(1)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:  # pyright: ignore
        h = _tanh(a)
        ctx.save_for_backward(h)
        return h

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # pyright: ignore
        (h,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(g, h)


def activation(name: Activation) -> nn.Module:
    """A fresh activation layer.

    It works in place where the backward pass needs only its result, which saves a copy of every hidden layer.
    The layer before it must not need its own result in turn: affine and normalisation layers do not.
    """
    layers = {
        "relu": lambda: nn.ReLU(inplace=True),
        "leaky-relu": lambda: nn.LeakyReLU(inplace=True),
        "elu": lambda: nn.ELU(inplace=True),
        "tanh": Tanh,
        "silu": nn.SiLU,
        "gelu": nn.GELU,
    }
    return layers[name]()


def dropout(rate: float) -> list[nn.Module]:
    """Dropout, or no layer at rate 0. Never in place: the activation before it may have kept its result."""
    return [nn.Dropout(rate)] if rate else []


def flatten(shape: tuple[int, ...]) -> list[nn.Module]:
    """`(N, *shape)` to `(N, prod(shape))`; no layer where the shape is flat already."""
    return [nn.Flatten()] if len(shape) != 1 else []


def unflatten(shape: tuple[int, ...]) -> list[nn.Module]:
    """`(N, prod(shape))` to `(N, *shape)`; no layer where the shape is flat already."""
    return [nn.Unflatten(1, shape)] if len(shape) != 1 else []
