"""Sound to look at: waveforms, pictures of their mel bands over time, and how much each sample surprises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jensen.data.audio_mel import DEPTH, band_edges, spectrogram
from jensen.jobs.plot_style import DATA, INK, MODEL, MUTED, plotted

BANDS = 64
SMOOTH = 0.004  # seconds over which a surprise is averaged


def sheet(
    waves: np.ndarray, rate: int, titles: Sequence[str] = (), columns: int | None = None, colour: str = MODEL
) -> Figure:
    """Waveforms (n, T), each above its mel bands over time: dark is loud, 70 dB from the loudest of all to white.

    Args:
        rate: Hz.
        titles: one each.
        columns: side by side; by default at most four.
    """
    waves = np.asarray(waves, dtype=np.float64)
    n, length = waves.shape
    columns = columns or min(4, n)
    rows, seconds = math.ceil(n / columns), length / rate
    loud = spectrogram(waves, rate, BANDS)
    top, peak = float(loud.max()), float(np.abs(waves).max(initial=0)) or 1.0
    with plotted(2.3 * columns + 0.5, 1.9 * rows + 0.3) as figure:
        axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1, 2] * rows)
        for i in range(rows * columns):
            wave, mel = axes[2 * (i // columns), i % columns], axes[2 * (i // columns) + 1, i % columns]
            if i >= n:
                wave.set_axis_off()
                mel.set_axis_off()
                continue
            wave.plot(np.arange(length) / rate, waves[i], color=colour, lw=0.5, rasterized=length > 4000)
            wave.set(xlim=(0, seconds), ylim=(-peak, peak), xticks=[], yticks=[])
            wave.set_title(titles[i] if i < len(titles) else "", fontsize=9)
            wave.grid(visible=False)
            extent = (0, seconds, 0, BANDS)
            mel.imshow(loud[i], origin="lower", aspect="auto", extent=extent, cmap="Greys", vmin=top - DEPTH, vmax=top)
            mel.grid(visible=False)
            _hertz(mel, rate, named=i % columns == 0)
            _seconds(mel, named=i + columns >= n)
    return figure


def surprise(wave: np.ndarray, bits: np.ndarray, rate: int, levels: int) -> Figure:
    """A waveform (T,), and below it −log₂ p of each sample given those before it, averaged over 4 ms.

    A sample drawn evenly from all levels would surprise by log₂ of their number, the line above.
    """
    at, span = np.arange(len(wave)) / rate, max(1, min(len(wave), round(SMOOTH * rate)))
    sums, counts = (np.convolve(values, np.ones(span), "same") for values in (bits, np.ones_like(bits)))
    with plotted(7.6, 3.2) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.6])
        upper.plot(at, wave, color=DATA, lw=0.5)
        upper.set(yticks=[], title="waveform")
        upper.grid(visible=False)
        lower.plot(at, sums / counts, color=MODEL, lw=1)
        lower.axhline(math.log2(levels), color=MUTED, lw=1, ls=(0, (4, 2)))
        lower.axhline(float(bits.mean()), color=INK, lw=0.8, ls=(0, (1, 2)))
        lower.set(xlim=(0, len(wave) / rate), ylim=(0, None), title="surprise of each sample (bits)", xlabel="seconds")
    return figure


def _hertz(axes: Any, rate: int, named: bool) -> None:
    """Round frequencies on an axis that counts bands."""
    edges = band_edges(rate, BANDS)
    round_ones = [f for f in (250, 500, 1000, 2000, 4000, 8000, 16000) if f < rate / 2]
    places = np.interp(round_ones, edges, np.arange(len(edges)) - 0.5)
    axes.set_yticks(places, [f"{f / 1000:g}" for f in round_ones] if named else [])
    axes.set_ylabel("kHz" if named else "", fontsize=8)
    axes.tick_params(labelsize=8)


def _seconds(axes: Any, named: bool) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if not named:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda *_: ""))
    axes.set_xlabel("seconds" if named else "", fontsize=8)
