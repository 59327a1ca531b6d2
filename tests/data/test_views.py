"""Views of pictures against numpy, scipy and Pillow; what they have no answer to is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from jensen.data.views import view_of
from jensen.errors import ConfigError


def pictures(shape: tuple[int, ...], levels: int, n: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, (n, *shape), dtype=np.uint8)


def seen(view, x: np.ndarray) -> np.ndarray:
    y = view(torch.from_numpy(x).float())
    assert y.shape == (len(x), *view.shape)
    assert y.min() >= 0 and y.max() <= view.levels - 1
    assert torch.equal(y, y.round())
    return y.numpy()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 11), st.integers(1, 11), st.integers(2, 5), st.sampled_from([2, 256]), st.integers(0, 99))
def test_a_small_picture_is_the_rounded_mean_of_blocks(height, width, factor, levels, seed):
    """By whole numbers alone, block by block: ⌊(2 Σ + n) / 2n⌋."""
    if height == width == 1:
        return
    x = pictures((2, height, width), levels, seed=seed)
    y = seen(view_of((2, height, width), levels, {"name": "downscale", "factor": factor}), x)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            block = x[:, :, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].astype(int)
            n = block.shape[2] * block.shape[3]
            np.testing.assert_array_equal(y[:, :, i, j], (2 * block.sum((2, 3)) + n) // (2 * n))


@pytest.mark.parametrize(("channels", "levels", "steps", "threshold"), [(1, 2, 2, 0.1), (3, 256, 4, 0.15)])
def test_a_sketch_is_sobels_gradient_in_levels(channels, levels, steps, threshold):
    x = pictures((channels, 9, 7), levels)
    x[0] = np.arange(7) * (levels - 1) // 6  # a ramp
    x[1] = 0
    y = seen(view_of(x.shape[1:], levels, {"name": "sketch", "steps": steps, "threshold": threshold}), x)
    for picture, found in zip(x, y[:, 0], strict=True):
        grey = picture.astype(float).mean(0)
        length = np.hypot(*(ndimage.sobel(grey, axis, mode="nearest") for axis in (0, 1))) / 4 / (levels - 1)
        near = np.abs(length / threshold - np.rint(length / threshold)) < 1e-9  # rounding may decide there
        expected = np.minimum(steps - 1, np.floor(length / threshold))
        assert (found == expected)[~near].all()
    assert y[1].max() == 0
    assert y.max() == steps - 1


def test_the_gradient_between_black_and_white_is_one():
    x = np.zeros((1, 1, 6, 6), np.uint8)
    x[..., 3:] = 255
    y = seen(view_of((1, 6, 6), 256, {"name": "sketch", "steps": 2, "threshold": 1.0}), x)
    assert y[0, 0].any(0).tolist() == [False, False, True, True, False, False]


def test_the_grey_picture_is_pillows():
    x = pictures((3, 32, 32), 256, n=40)
    x[0], x[1] = 0, 255
    y = seen(view_of((3, 32, 32), 256, "grey"), x)
    expected = [np.asarray(Image.fromarray(picture.transpose(1, 2, 0)).convert("L")) for picture in x]
    np.testing.assert_array_equal(y[:, 0], expected)


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_half_is_the_side_that_is_asked_for(side):
    x = pictures((1, 5, 7), 256)
    y = seen(view_of((1, 5, 7), 256, {"name": "half", "side": side}), x)
    part = {"left": x[..., :4], "right": x[..., 3:], "top": x[:, :, :3], "bottom": x[:, :, 2:]}[side]
    np.testing.assert_array_equal(y, part)


@pytest.mark.parametrize("name", ["downscale", "sketch", "grey", "half"])
def test_a_view_does_not_depend_on_batch_or_precision(name):
    x = torch.from_numpy(pictures((3, 13, 11), 256, n=64)).float()
    view = view_of((3, 13, 11), 256, name)
    together = view(x)
    assert torch.equal(together, torch.cat([view(one) for one in x.split(1)]))
    assert torch.equal(together.double(), view(x.double()))


@pytest.mark.parametrize(
    ("shape", "levels", "view", "told"),
    [
        ((3, 4, 4), 256, "down-scale", "did you mean 'downscale'"),
        ((3, 4, 4), 256, {"name": "downscale", "factor": 1}, "downscale.factor"),
        ((3, 4, 4), 256, {"name": "grey", "factor": 2}, "no such setting"),
        ((3, 4, 4), 256, {"factor": 2}, "expected its name"),
        ((1, 1, 1), 256, "downscale", "one pixel"),
        ((1, 4, 4), 256, "grey", "colour pictures"),
        ((3, 4, 4), 2, "grey", "256 levels"),
        ((1, 4, 1), 256, "half", "no left half"),
        ((12,), 256, "sketch", "pictures"),
    ],
)
def test_what_has_no_such_view_is_refused(shape, levels, view, told):
    with pytest.raises(ConfigError, match=told):
        view_of(shape, levels, view)
