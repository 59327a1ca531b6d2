"""Views of a picture: smaller or poorer pictures that are functions of it, in whole grey levels.

    y = v(x),    x in {0, …, L−1}^(C×H×W),    y in {0, …, L'−1}^(C'×H'×W')

Being discrete and deterministic, a view can be a hidden variable of a model of x without a density of its own, or be
what a model of x is given. All of it is arithmetic of whole numbers that float32 holds exactly: a view is the same on
every machine, in every batch.

Gatopoulos and Tomczak, "Self-supervised variational auto-encoders", 2020, arXiv:2010.02014.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import yaml
from pydantic import Field
from torch import Tensor

from jensen.errors import ConfigError
from jensen.registry import component, configure, find

Shape = tuple[int, ...]
LUMINANCE = (19595, 38470, 7471)  # 2¹⁶ × (0.299, 0.587, 0.114) of ITU-R BT.601, in whole numbers


class View:
    """y = v(x) for pictures x of one shape.

    Attributes:
        shape: (C', H', W') of y.
        levels: L', y has values 0..L'−1.
    """

    shape: Shape
    levels: int

    def __call__(self, x: Tensor) -> Tensor:
        """x (N, C, H, W), whole numbers, to y (N, *shape) of the same dtype."""
        raise NotImplementedError


def view_of(shape: Shape, levels: int, view: str | Mapping[str, Any]) -> View:
    """A view by name, or by name and settings, of pictures of that shape and so many levels.

    Raises:
        ConfigError: no such view or setting, or one that such pictures do not have.

    >>> view_of((3, 32, 32), 256, {"name": "downscale", "factor": 4}).shape
    (3, 8, 8)
    """
    chosen = {"name": view} if isinstance(view, str) else dict(view)
    if not isinstance(chosen.get("name"), str):
        raise ConfigError(f"view: expected its name, got {chosen.get('name')!r}")
    found = find("view", chosen.pop("name"))
    return found.function(shape, levels, **configure(found, chosen, f"{found.name}."))


def named_view(text: str | Mapping[str, Any]) -> dict[str, Any]:
    """The name and the settings of a view that a user writes in one word.

    Raises:
        ConfigError: a setting that is no `key=value`.

    >>> named_view("downscale,factor=4")
    {'name': 'downscale', 'factor': 4}
    """
    if not isinstance(text, str):
        return dict(text)
    name, *settings = text.split(",")
    found: dict[str, Any] = {"name": name.strip()}
    for setting in settings:
        key, sign, value = (part.strip() for part in setting.partition("="))
        if not sign or not key:
            raise ConfigError(f"view: expected settings as in downscale,factor=4, got {text!r}")
        found[key] = yaml.safe_load(value)
    return found


class Downscaled(View):
    """Means over blocks of f × f pixels, rounded, half upwards; blocks at the edge may be smaller."""

    def __init__(self, shape: Shape, levels: int, factor: int):
        channels, height, width = shape
        self.factor, self.levels = factor, levels
        self.shape = (channels, math.ceil(height / factor), math.ceil(width / factor))

    def __call__(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x, self.factor, ceil_mode=True, count_include_pad=False)
        return torch.floor(mean + 0.5)


class Sketched(View):
    """Levels of edges, min(L'−1, ⌊m / t⌋), where m is the length of the Sobel gradient of the mean over channels.

    m is 1 on a straight edge between the darkest and the whitest level. Beyond the border the picture goes on as at it.
    """

    def __init__(self, shape: Shape, levels: int, steps: int, threshold: float):
        channels, height, width = shape
        self.shape, self.levels = (1, height, width), steps
        self.limits = [(k * threshold * 4 * channels * (levels - 1)) ** 2 for k in range(1, steps)]

    def __call__(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate").sum(1, keepdim=True)
        rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
        columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
        across, down = rows[..., 2:] - rows[..., :-2], columns[:, :, 2:] - columns[:, :, :-2]
        square = across.double().square() + down.double().square()
        return sum(((square >= limit) for limit in self.limits), torch.zeros_like(square)).to(x.dtype)


class Grey(View):
    """The luminance of colour pictures, (19595 R + 38470 G + 7471 B + 2¹⁵) div 2¹⁶."""

    def __init__(self, shape: Shape, levels: int):
        self.shape, self.levels = (1, *shape[1:]), levels

    def __call__(self, x: Tensor) -> Tensor:
        red, green, blue = LUMINANCE
        weighted = red * x[:, :1] + green * x[:, 1:2] + blue * x[:, 2:3]
        return torch.floor((weighted + 2**15) / 2**16)


class Half(View):
    """The half of a picture on one side; where the number of pixels is odd, the larger one."""

    def __init__(self, shape: Shape, levels: int, side: str):
        channels, height, width = shape
        tall, wide = (height + 1) // 2, (width + 1) // 2
        self.levels = levels
        if side in ("left", "right"):
            self.shape = (channels, height, wide)
            self.rows, self.columns = slice(None), slice(wide) if side == "left" else slice(width - wide, None)
        else:
            self.shape = (channels, tall, width)
            self.rows, self.columns = slice(tall) if side == "top" else slice(height - tall, None), slice(None)

    def __call__(self, x: Tensor) -> Tensor:
        return x[:, :, self.rows, self.columns].clone()


@component("view", "downscale", paper="Gatopoulos and Tomczak 2020, arXiv:2010.02014")
def downscale(shape: Shape, levels: int, *, factor: Annotated[int, Field(ge=2, le=32)] = 2) -> View:
    """A smaller picture: means over blocks of pixels, rounded to levels (of 0/1 pictures: the majority).

    Settings:
        factor: how many times smaller in height and width.
    """
    _expect_pictures("downscale", shape)
    if shape[1] == shape[2] == 1:
        raise ConfigError("view: a picture of one pixel cannot be smaller; take fewer views or a smaller factor")
    return Downscaled(shape, levels, factor)


@component("view", "sketch", paper="Gatopoulos and Tomczak 2020, arXiv:2010.02014; Sobel and Feldman 1968")
def sketch(
    shape: Shape,
    levels: int,
    *,
    steps: Annotated[int, Field(ge=2, le=16)] = 2,
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.1,
) -> View:
    """Edges: how steep the grey levels are, by Sobel's filter, in few levels.

    Settings:
        steps: levels of an edge; 2 tells where there is one.
        threshold: of each next level, as a share of the gradient between the darkest and the whitest level.
    """
    _expect_pictures("sketch", shape)
    return Sketched(shape, levels, steps, threshold)


@component("view", "grey")
def grey(shape: Shape, levels: int) -> View:
    """The grey picture of a colour picture, by the luminance of ITU-R BT.601."""
    _expect_pictures("grey", shape)
    if shape[0] != 3:
        raise ConfigError(f"view: 'grey' is of colour pictures (3 channels), got {shape[0]}")
    if levels != 256:
        raise ConfigError(f"view: 'grey' is of pictures with 256 levels, got {levels}")
    return Grey(shape, levels)


@component("view", "half")
def half(shape: Shape, levels: int, *, side: Literal["left", "right", "top", "bottom"] = "left") -> View:
    """Half of a picture, to be completed.

    Settings:
        side: which half.
    """
    _expect_pictures("half", shape)
    if shape[2 if side in ("left", "right") else 1] == 1:
        raise ConfigError(f"view: pictures {_listed(shape)} have no {side} half")
    return Half(shape, levels, side)


def _expect_pictures(name: str, shape: Shape) -> None:
    if len(shape) != 3:
        raise ConfigError(f"view: {name!r} is of pictures (channels, height, width), got shape {_listed(shape)}")


def _listed(shape: Shape) -> str:
    return " x ".join(map(str, shape))
