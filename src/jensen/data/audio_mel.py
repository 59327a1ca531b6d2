"""Sound to look at: how loud each band of the mel scale is over time.

    mel(f) = 2595 log₁₀(1 + f / 700)

Equal steps of it sound equally far apart: O'Shaughnessy, "Speech communication: human and machine", 1987.
"""

from __future__ import annotations

import numpy as np

WINDOW, HOP = 0.032, 0.008  # seconds
DEPTH = 70.0  # decibels below the loudest that are told apart


def to_mel(f: np.ndarray | float) -> np.ndarray:
    """Hz to mel."""
    return 2595 * np.log10(1 + np.asarray(f) / 700)


def to_hertz(mel: np.ndarray | float) -> np.ndarray:
    """mel to Hz.

    >>> round(float(to_hertz(to_mel(440.0))), 6)
    440.0
    """
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


def band_edges(rate: int, bands: int) -> np.ndarray:
    """Hz, (bands + 2,), equally far apart in mel: band k rises from edge k to edge k + 1 and falls to edge k + 2."""
    return to_hertz(np.linspace(0, to_mel(rate / 2), bands + 2))


def filter_bank(rate: int, size: int, bands: int) -> np.ndarray:
    """Triangles with peak 1, (bands, size // 2 + 1), over the frequencies of a Fourier transform of so many samples."""
    low, middle, high = (band_edges(rate, bands)[k : k + bands, None] for k in range(3))
    f = np.fft.rfftfreq(size, 1 / rate)
    return np.clip(np.minimum((f - low) / (middle - low), (high - f) / (high - middle)), 0, None)


def spectrogram(x: np.ndarray, rate: int, bands: int = 64) -> np.ndarray:
    """Power of each band over time in decibels, `(*, bands, frames)`, of waveforms `(*, T)`.

    Frames of 32 ms, one every 8 ms, the first and last reaching beyond the ends into silence; seen through a window of
    Hann. A sine of amplitude 1 in the middle of a band, far from its ends, is at 0 dB.
    """
    length, hop = max(4, round(WINDOW * rate)), max(1, round(HOP * rate))
    window = np.hanning(length + 1)[:-1]
    size = 1 << (4 * length - 1).bit_length()  # so fine that the lowest band holds some frequencies
    x = np.asarray(x, dtype=np.float64)
    pad = [(0, 0)] * (x.ndim - 1) + [(length // 2, length - length // 2)]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad), length, axis=-1)[..., ::hop, :]
    power = np.square(np.abs(np.fft.rfft(frames * window, size)) * 2 / window.sum())  # (*, frames, f)
    # A sine's power spreads over the window's main lobe; what it adds up to is undone.
    lobe = np.square(np.abs(np.fft.fft(window, size))).sum() / window.sum() ** 2
    found = power @ filter_bank(rate, size, bands).T / lobe
    return 10 * np.log10(np.maximum(found, 1e-12)).swapaxes(-1, -2)
