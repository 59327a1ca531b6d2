"""Sound: recordings from files and folders, and clips of one length cut from them; clips as .wav again.

A recording is a waveform in [−1, 1], its channels averaged. Clips have one rate, to which recordings of others are
resampled, and one length T: a longer recording becomes several clips, and the last clip of each is filled up with
silence, zeros at its end. Nothing is left out.
"""

from __future__ import annotations

import importlib.util
import io
import math
import wave
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jensen.data.audio_levels import Encoding
from jensen.data.folders import find_files, folder_labels
from jensen.data.raw import ALL, Part, Raw
from jensen.data.schema import Schema
from jensen.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from jensen.data.sources import Source

SUFFIXES = {".wav", ".flac"}
ENCODINGS = ("mu-law", "linear")
_LONGEST = 16_000  # samples of a clip, unless asked for more: a model meets every one of them
_WHOLE = 0.95  # share of the recordings that are no longer than a clip


# Files


def read_folder(folder: Path) -> Raw:
    """The recordings in a folder. Subfolders are classes; `train`, `valid` and `test` are splits.

    Files are taken in the order of their names.

    Raises:
        DataError: a file that cannot be read, or is empty.
    """
    files = find_files(folder, SUFFIXES)
    labelled = {name: (paths, folder_labels(root, paths)) for name, (root, paths) in files.items() if paths}
    return replace(_raw(labelled), by_folder=True)


def read_file(path: Path) -> Raw:
    """One recording."""
    return _raw({ALL: ([path], None)})


def _raw(files: Mapping[str, tuple[list[Path], np.ndarray | None]]) -> Raw:
    parts, mixed, several = {}, 0, 0
    for name, (paths, labels) in files.items():
        waves, rates = [], []
        for path in paths:
            x, rate = read_wave(path)
            mixed, several = mixed + 1, several + (x.shape[1] > 1)
            waves.append(x.mean(1, dtype=np.float32))
            rates.append(rate)
        parts[name] = recordings(waves, rates, labels)
    notes = (f"the channels of {several:,} of {mixed:,} recordings were averaged",) if several else ()
    return Raw(parts, notes=notes)


def recordings(waves: list[np.ndarray], rates: list[int], labels: np.ndarray | None = None) -> Part:
    """Waveforms of any length, each of its rate, as a part of a data set."""
    x = np.empty(len(waves), dtype=object)
    for i, samples in enumerate(waves):
        x[i] = samples
    return Part(x, labels, rate=np.array(rates))


def read_wave(path: Path) -> tuple[np.ndarray, int]:
    """The samples of a file, float32 (n, channels) in [−1, 1], and their rate in Hz.

    Raises:
        DataError: it cannot be read, is empty or holds what is no number, or reading it takes the package soundfile.
    """
    x = rate = None
    if path.suffix.lower() == ".wav":
        try:
            x, rate = _read_pcm(path)
        except wave.Error:
            pass  # no plain whole numbers: floats, perhaps
        except (OSError, EOFError) as e:
            raise DataError(f"{path}: not a readable sound ({str(e) or 'empty, or cut short'})") from None
    if x is None or rate is None:
        x, rate = _read_any(path)
    if len(x) == 0:
        raise DataError(f"{path}: expected a sound, got no samples")
    if not np.isfinite(x).all():
        raise DataError(
            f"{path}: expected finite samples, got NaN or inf at sample {int(~np.isfinite(x).all(1).argmin())}"
        )
    return np.clip(x, -1, 1), rate


def _read_pcm(path: Path) -> tuple[np.ndarray, int]:
    """A .wav of whole numbers, by the standard library. Raises `wave.Error` where it is none."""
    with wave.open(str(path), "rb") as file:
        size, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        content = file.readframes(file.getnframes())
    content = content[: len(content) // (size * channels) * size * channels]
    if size == 1:  # the one width whose numbers have no sign
        x = np.frombuffer(content, np.uint8).astype(np.float32) / 128 - 1
    else:
        # Little-endian numbers of 2, 3 or 4 bytes, set at the upper end of four.
        wide = np.zeros((len(content) // size, 4), np.uint8)
        wide[:, 4 - size :] = np.frombuffer(content, np.uint8).reshape(-1, size)
        x = (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)
    return x.reshape(-1, channels), rate


def _read_any(path: Path) -> tuple[np.ndarray, int]:
    """What the package soundfile can read."""
    if importlib.util.find_spec("soundfile") is None:
        kind = "a .wav of other than whole numbers" if path.suffix.lower() == ".wav" else f"a {path.suffix.lower()}"
        raise DataError(
            f"{path}: reading {kind} takes the package soundfile (pip install 'jensen[audio]'), or is corrupt"
        )
    import soundfile

    try:
        return soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, EOFError) as e:
        raise DataError(f"{path}: not a readable sound ({str(e).rstrip('.')})") from None


def wav(x: np.ndarray, rate: int) -> bytes:
    """A waveform (T,) in [−1, 1] as a .wav file of 16 bits and one channel."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        whole = np.rint(np.clip(np.asarray(x, dtype=np.float64), -1, 1) * 2**15)
        file.writeframes(np.clip(whole, -(2**15), 2**15 - 1).astype("<i2").tobytes())
    return out.getvalue()


# Clips


def check_options(
    length: int | None,
    rate: int | None,
    levels: int | None,
    encoding: str | None,
    source: Source,
    schema: Schema | None,
) -> None:
    """Raises `ConfigError` where an option of sound is wrong, or stands with data or a model of another kind."""
    given = {"length": length, "rate": rate, "levels": levels, "encoding": encoding}
    given = {name: value for name, value in given.items() if value is not None}
    problems = []
    for name, least in (("length", 1), ("rate", 1), ("levels", 2)):
        value = given.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            problems.append(f"{name}: expected a whole number >= {least}, got {value!r}")
    if encoding is not None and encoding not in ENCODINGS:
        problems.append(f"encoding: expected mu-law or linear, got {encoding!r}{did_you_mean(encoding, ENCODINGS)}")
    if schema is not None and schema.is_sound:
        field = schema.fields[0]
        trained = {"length": field.shape[0], "rate": field.rate, "levels": field.levels, "encoding": field.encoding}
        problems += [f"{n}: expected {trained[n]} as in training, got {v}" for n, v in given.items() if v != trained[n]]
    elif given and not source.raw.holds_recordings:
        kind = "pictures" if source.raw.is_image else "clips" if source.raw.sound is not None else "a table"
        problems.append(f"{', '.join(given)}: expected recordings of sound, got {kind} ({source.name})")
    if problems:
        raise ConfigError(problems)


def cut(
    raw: Raw,
    schema: Schema | None = None,
    *,
    length: int | None = None,
    rate: int | None = None,
    levels: int | None = None,
    encoding: Encoding | None = None,
) -> Raw:
    """Recordings as clips of one rate and length.

    Args:
        schema: that of a trained model, whose clips these are to be.
        length: samples of a clip, T; by default enough for 95 % of the training recordings, and at most 16,000.
        rate: Hz; by default the one that most recordings have.
        levels: to which waveforms are quantised, by default 256.
        encoding: "mu-law" (the default) or "linear".
    """
    rates = Counter(int(r) for part in raw.parts.values() for r in part.rate)  # pyright: ignore[reportOptionalIterable]
    if schema is not None:
        field = schema.fields[0]
    else:
        rate = rate or max(rates, key=lambda r: (rates[r], -r))
        first = raw.parts.get("train") or next(iter(raw.parts.values()))
        length = length or _usual_length(first, rate)
        field = Schema.of_sound(length, rate, levels or 256, encoding or "mu-law").fields[0]
    (length,), rate, notes = field.shape, field.rate, list(raw.notes)
    assert rate is not None
    others = {r: n for r, n in sorted(rates.items()) if r != rate}
    if others:
        from_ = ", ".join(map(str, others))
        notes.append(
            f"{sum(others.values()):,} of {rates.total():,} recordings were resampled from {from_} Hz to {rate} Hz"
        )
    parts, long, silent, total = {}, 0, 0, 0
    for name, part in raw.parts.items():
        assert part.rate is not None
        waves = [resampled(x, int(r), rate) for x, r in zip(part.x, part.rate, strict=True)]
        counts = np.array([math.ceil(len(x) / length) for x in waves])
        x = np.zeros((counts.sum(), length), np.float32)
        for i, samples in zip(np.cumsum(counts) - counts, waves, strict=True):
            x[i : i + math.ceil(len(samples) / length)].reshape(-1)[: len(samples)] = samples
        long, total = long + int((counts > 1).sum()), total + x.size
        silent += x.size - sum(map(len, waves))
        y = None if part.y is None else part.y.repeat(counts)
        parts[name] = Part(x, y, group=np.arange(len(waves)).repeat(counts))
    if long:
        notes.append(
            f"{long:,} of {rates.total():,} recordings are longer than {length:,} samples and became several clips"
        )
    if silent:
        notes.append(f"clips are filled up with silence, {silent / total:.1%} of all samples")
    return replace(raw, parts=parts, notes=tuple(notes), sound=field)


def _usual_length(part: Part, rate: int) -> int:
    assert part.rate is not None
    lengths = [math.ceil(len(x) * rate / r) for x, r in zip(part.x, part.rate, strict=True)]
    return min(int(np.quantile(lengths, _WHOLE, method="higher")), _LONGEST)


def resampled(x: np.ndarray, old: int, new: int) -> np.ndarray:
    """A waveform (n,) of another rate: by a polyphase filter, ⌈n · new / old⌉ samples."""
    if old == new:
        return x
    from scipy.signal import resample_poly

    common = math.gcd(old, new)
    found = resample_poly(x.astype(np.float64), new // common, old // common)
    return np.clip(found, -1, 1).astype(np.float32)  # the filter overshoots at steps
