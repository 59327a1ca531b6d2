"""Pictures side by side, and files of pictures and plots."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from jensen.jobs.plot_style import styled

BETWEEN = 56  # grey of the lines between the pictures of a grid
GRID_PIXELS = 560  # least width that a grid is enlarged to, in whole multiples


def grid(
    pictures: np.ndarray,
    columns: int | None = None,
    levels: int = 256,
    pad: int = 1,
    scale: int | str = "auto",
) -> Image.Image:
    """Pictures beside and below one another, row by row.

    Args:
        pictures: (n, C, H, W) with C = 1 or 3, in 0..levels-1; real numbers are rounded to the nearest grey.
        columns: default as near to a square as n allows.
        levels: 256, or 2 for binary pictures and their probabilities.
        pad: pixels between pictures, before enlarging.
        scale: whole factor by which pixels are enlarged; "auto" makes the grid about 560 pixels wide.

    >>> grid(np.zeros((6, 1, 4, 5)), columns=3, scale=1).size
    (19, 11)
    """
    x = np.asarray(pictures)
    if x.ndim != 4 or len(x) == 0 or x.shape[1] not in (1, 3):
        raise ValueError(f"expected pictures (n, 1 or 3, H, W), n > 0, got {x.shape}")
    grey = np.rint(np.clip(x.astype(np.float64), 0, levels - 1) * (255 / (levels - 1))).astype(np.uint8)
    n, channels, height, width = grey.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, channels), BETWEEN, np.uint8)
    for i, picture in enumerate(grey):
        top, left = pad + i // columns * (height + pad), pad + i % columns * (width + pad)
        sheet[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
    factor = max(1, round(GRID_PIXELS / sheet.shape[1])) if scale == "auto" else int(scale)
    sheet = sheet.repeat(factor, 0).repeat(factor, 1)
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


def below(versions: Sequence[np.ndarray], across: int = 12) -> tuple[np.ndarray, int]:
    """Versions of the same pictures, (n, C, H, W) each, for a grid of at most so many columns: rows of the first, of
    the second ..., one below the other; and the number of columns.

    >>> pictures, columns = below([np.zeros((3, 1, 1, 1)), np.ones((3, 1, 1, 1))], across=2)
    >>> pictures.ravel(), columns
    (array([0., 0., 1., 1., 0., 0., 1., 0.]), 2)
    """
    columns, blocks = min(across, len(versions[0])), []
    for start in range(0, len(versions[0]), columns):
        for row in versions:
            some = row[start : start + columns]
            blocks.append(np.concatenate([some, np.zeros((columns - len(some), *some.shape[1:]))]))
    return np.concatenate(blocks), columns


def beside(images: Sequence[Image.Image], height: int, gap: int = 12) -> Image.Image:
    """Pictures in a row on white, each made so high."""
    sized = [i.resize((round(i.width * height / i.height), height), Image.Resampling.LANCZOS) for i in images]
    row = Image.new("RGB", (sum(i.width for i in sized) + gap * (len(sized) - 1), height), "white")
    left = 0
    for image in sized:
        row.paste(image, (left, 0))
        left += image.width + gap
    return row


def png(image: Image.Image | Figure) -> bytes:
    """A PNG file: of a picture as it is, of a plot on white at twice the screen's resolution."""
    out = io.BytesIO()
    if isinstance(image, Figure):
        with styled():
            image.savefig(out, format="png", dpi=200, metadata={"Software": None})
    else:
        image.save(out, format="PNG", optimize=True)
    return out.getvalue()
