"""Pictures: from arrays and folders to uint8 (N, C, H, W), and from grey to 0/1."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from jensen.data.folders import find_files, folder_labels
from jensen.data.raw import ALL, Part, Raw
from jensen.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm"}
_ROWS_AT_ONCE = 1024
_CHANNELS = {1, 3}


def pictures(
    arrays: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray | None] | None = None, source: str = "pictures"
) -> Raw:
    """Arrays (N, H, W), (N, H, W, C) or (N, C, H, W), one a split, as pictures with 2 or 256 levels.

    Args:
        source: what messages call them.

    Raises:
        DataError: shapes differ or are not those of pictures; values are not 0..255.
    """
    labels = labels or {}
    parts, notes, first = {}, [], None
    for name, array in arrays.items():
        where = source if name == ALL else f"{source}: {name}"
        x, note = _levels(_channels_first(array, where), where)
        if array.ndim == 4 and {array.shape[1], array.shape[3]} <= _CHANNELS:
            notes.append(f"{where}: the shape {array.shape} was taken as (N, C, H, W)")
        first = x if first is None else first
        if x.shape[1:] != first.shape[1:]:
            raise DataError(f"{where}: expected pictures of shape {first.shape[1:]}, got {x.shape[1:]}")
        notes += [note] if note and note not in notes else []
        parts[name] = Part(x, labels.get(name))
    whitest = max((int(part.x.max(initial=0)) for part in parts.values()), default=0)
    return Raw(parts, levels=2 if whitest <= 1 else 256, notes=tuple(notes))


def _channels_first(array: np.ndarray, name: str) -> np.ndarray:
    """(N, C, H, W), which is what is meant where both orders could be, as `sample` writes pictures."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in _CHANNELS and array.shape[3] in _CHANNELS:
        array = np.moveaxis(array, 3, 1)
    elif array.ndim != 4 or array.shape[1] not in _CHANNELS:
        expected = "pictures (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3"
        raise DataError(f"{name}: expected {expected}, got shape {array.shape}")
    if array.size == 0:
        raise DataError(f"{name}: expected at least one picture, got shape {array.shape}")
    return array


def _levels(array: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """Values as uint8, and a note on what was done to them."""
    if array.dtype == np.uint8:
        return array, ""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: expected numbers, got dtype {array.dtype}")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DataError(f"{name}: expected values 0..255, got {array[where]} in picture {where[0] + 1}")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 255:
        raise DataError(f"{name}: expected values 0..255, got {low:g}..{high:g}")
    whole = np.rint(array)
    if (whole == array).all():
        return whole.astype(np.uint8), ""
    whole = np.rint(array * array.dtype.type(255))
    if high <= 1 and (whole / array.dtype.type(255) == array).all():
        return whole.astype(np.uint8), "values k/255 were read as the grey levels k"
    raise DataError(
        f"{name}: expected grey levels 0..255 or exactly k/255, got real values in {low:g}..{high:g}; "
        "convert with (x * 255).round().astype('uint8'), or flatten to a table (N, D) for real-valued data"
    )


def binarize(grey: np.ndarray, top: int, seed: int, split: str) -> np.ndarray:
    """One fixed draw of 0/1 pictures from Bernoulli(v / top), uint8; fixed by seed and split."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(split.encode())]))
    out = np.empty(grey.shape, np.uint8)
    for start in range(0, len(grey), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        out[rows] = rng.random(grey[rows].shape) * top < grey[rows]
    return out


def read_folder(folder: Path) -> Raw:
    """A folder of pictures of one size. Subfolders are classes; `train`, `valid` and `test` are splits.

    Grey where all are grey, else RGB; transparency is left out, and a note says so. Files are taken in the order of
    their names.

    Raises:
        DataError: no pictures, one that cannot be read, or sizes that differ.
    """
    files = find_files(folder, SUFFIXES)
    headers = {path: _header(path) for _, paths in files.values() for path in paths}
    if not headers:
        raise DataError(
            f"{folder}: no pictures, sound or texts; expected files ending in {', '.join(sorted(SUFFIXES))}, .wav, "
            ".flac or .txt"
        )
    sizes = {path: size for path, (_, size) in headers.items()}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    example = next(path.name for path, size in sizes.items() if size == usual)
    for path, size in sizes.items():
        if size != usual:
            raise DataError(f"{path}: expected {usual[0]}x{usual[1]} pixels as in {example}, got {size[0]}x{size[1]}")
    mode = _common({mode for mode, _ in headers.values()})
    read = {name: [_pixels(path, mode) for path in paths] for name, (_, paths) in files.items() if paths}
    arrays = {name: np.stack([pixels for pixels, _ in found]) for name, found in read.items()}
    labels = {name: folder_labels(*files[name]) for name in arrays}
    clear = sum(transparent for found in read.values() for _, transparent in found)
    return replace(_noted(pictures(arrays, labels, str(folder)), clear, len(headers)), by_folder=True)


def read_file(path: Path) -> Raw:
    """One picture, grey or RGB. Raises `DataError` where it cannot be read."""
    mode, _ = _header(path)
    pixels, transparent = _pixels(path, _common({mode}))
    return _noted(pictures({ALL: pixels[None]}, source=str(path)), int(transparent), 1)


def _noted(raw: Raw, transparent: int, total: int) -> Raw:
    """Pictures with a note where so many of them lost something."""
    note = f"transparency is left out, of {transparent:,} of {total:,} pictures"
    return replace(raw, notes=(*raw.notes, note)) if transparent else raw


def _common(modes: set[str]) -> str:
    """Grey where all are grey, else RGB."""
    return "RGB" if modes - {"1", "L", "LA"} else "1" if modes == {"1"} else "L"


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            mode, size = picture.mode, picture.size
    except Exception as e:
        raise DataError(f"{path}: not a readable picture ({e})") from None
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise DataError(f"{path}: expected 8 bits a channel, got pixels of mode {mode}")
    return mode, size


def _pixels(path: Path, mode: str) -> tuple[np.ndarray, bool]:
    """A picture's values, and whether parts of it are transparent."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            # A palette may hold transparency, which only RGBA can carry on its way to RGB.
            has_alpha = picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
            whole = picture.convert("RGBA") if picture.mode in ("P", "PA") else picture
            alpha = picture.convert("RGBA").getchannel("A") if has_alpha else None
            transparent = alpha is not None and np.asarray(alpha).min() < 255
            return np.asarray(whole.convert(mode)), bool(transparent)
    except Exception as e:
        raise DataError(f"{path}: not a readable picture ({e})") from None
