"""Plots of numbers: curves, histograms, correlations, clouds of points, bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from jensen.jobs.plot_style import CLASSES, DASHES, DATA, INK, MARKERS, MODEL, MUTED, RULE, THIRD, plotted

MANY = 6  # curves, above which their names stand beside a plot


@dataclass(frozen=True)
class Curve:
    """One line of a plot; `faint` lines stand behind."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = MODEL
    faint: bool = False
    dash: Any = "-"


@dataclass(frozen=True)
class Panel:
    """One plot of a row of plots: curves over a common x, and a point to mark."""

    title: str
    curves: Sequence[Curve]
    mark: tuple[float, float, str] | None = None
    floor: float | None = None  # the plot starts here; what is lower is cut off
    log: bool = False  # the scale of y


def curves(panel: Panel, xlabel: str) -> Figure:
    """Curves over a common x."""
    columns = math.ceil(len(panel.curves) / 12) if len(panel.curves) > MANY else 0  # of a legend beside the plot
    with plotted(3.8 + 0.9 * columns, 2.8) as figure:
        axes = figure.subplots()
        for curve in panel.curves:
            width, dash = (1.2, DASHES[1]) if curve.faint else (1.8, curve.dash)
            axes.plot(curve.x, curve.y, color=curve.colour, lw=width, ls=dash, label=_name(curve.label))
        if panel.mark:
            x, y, text = panel.mark
            axes.plot([x], [y], "o", ms=6, color=INK, label=text)
        axes.set(title=panel.title, xlabel=xlabel)
        axes.margins(x=0.02)
        if panel.floor is not None:
            axes.set_ylim(bottom=panel.floor)
        if panel.log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if columns:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1.03), ncols=columns, fontsize=7)
        elif len(panel.curves) > 1 or panel.mark:
            axes.legend(loc="lower right" if panel.floor is not None else "best", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return figure


@dataclass(frozen=True)
class Band:
    """A line with its standard errors."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    stderr: Sequence[float]


def bands(panels: Mapping[str, Sequence[Band]], xlabel: str) -> Figure:
    """A plot for each title, side by side, of the same lines with their standard errors shaded."""
    looks = ((MODEL, "-", "o"), (DATA, (0, (4, 1.5)), "s"), (THIRD, (0, (1, 1.2)), "^"))
    with plotted(3.9 * len(panels), 3.0) as figure:
        for axes, (title, found) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
            for band, (colour, dash, marker) in zip(found, looks, strict=False):
                x, y, stderr = (np.asarray(v, dtype=float) for v in (band.x, band.y, band.stderr))
                axes.plot(x, y, color=colour, ls=dash, marker=marker, ms=3.5, lw=1.6, label=_name(band.label))
                axes.fill_between(x, y - stderr, y + stderr, color=colour, alpha=0.15, lw=0)
            axes.set(title=_name(title, 44), xlabel=xlabel)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.legend(fontsize=9)
        return figure


def histogram(name: str, data: np.ndarray, samples: np.ndarray, words: Sequence[str] = ()) -> Figure:
    """The share of a column's data (N,), filled, and of its samples (M,), outlined, in common bins.

    What is missing (NaN) counts nowhere. Of a column of categories, values are places among `words`.
    """
    data, samples = data[~np.isnan(data)], samples[~np.isnan(samples)]
    with plotted(2.5, 1.7) as figure:
        axes = figure.subplots()
        if len(data):
            edges = np.arange(len(words) + 1) - 0.5 if words else _edges(data, samples)
            _compared(axes, data, samples, edges)
        axes.set_title(_name(name, 26), fontsize=9)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False)
        axes.tick_params(labelsize=8)
        if words and len(words) <= NAMED:
            axes.set_xticks(range(len(words)), [_name(word, 9) for word in words], rotation=60, fontsize=6)
        elif words:
            axes.set_xticks([])
            axes.set_xlabel(f"{len(words):,} categories", fontsize=7)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        return figure


NAMED = 9  # categories up to which a histogram names each


def _compared(axes: Any, data: np.ndarray, samples: np.ndarray, edges: np.ndarray) -> None:
    """The share of data in each bin, filled, and of samples, outlined."""
    for values, colour, filled in ((data, DATA, True), (samples, MODEL, False)):
        share = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
        line: dict[str, Any] = {"alpha": 0.35, "lw": 0} if filled else {"lw": 1.6}
        axes.stairs(share, edges, color=colour, fill=filled, **line)


def _edges(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bins that hold all data and nearly all samples; one each where there are few whole values."""
    low, high = float(x.min()), float(x.max())
    low, high = min(low, float(np.quantile(y, 0.005))), max(high, float(np.quantile(y, 0.995)))
    values = np.unique(x)
    if len(values) <= 30 and np.all(values == np.rint(values)) and high - low <= 60:
        return np.arange(math.floor(low), math.ceil(high) + 2) - 0.5
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, 25)


def correlations(names: Sequence[str], data: np.ndarray, samples: np.ndarray) -> Figure:
    """Correlation matrices of data (N, D) and samples (M, D), side by side."""
    labels = [_name(name, 14) for name in names]
    size = 1.6 + 0.3 * len(names)
    with plotted(2 * size + 1.2, size) as figure:
        both = figure.subplots(1, 2, sharey=True)
        image: Any = None
        for axes, title, x in zip(both, ("data", "samples"), (data, samples), strict=True):
            image = axes.imshow(correlation(x), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            axes.set_title(title)
            axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
            axes.set_yticks(range(len(labels)), labels, fontsize=8)
            axes.grid(False)
            for spine in axes.spines.values():
                spine.set_visible(False)
        bar = figure.colorbar(image, ax=both, shrink=0.8, aspect=24, ticks=[-1, 0, 1])
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        return figure


def correlation_pairs(data: np.ndarray, samples: np.ndarray, most: int = 2000) -> Figure:
    """Each pair of columns, of at most so many at random, a dot: its correlation in data (N, D) and samples (M, D)."""
    pairs = np.stack(np.triu_indices(data.shape[1], 1))
    some = np.random.default_rng(0).permutation(pairs.shape[1])[:most]
    pairs = tuple(pairs[:, some])
    with plotted(4.2, 3.6) as figure:
        axes = figure.subplots()
        axes.plot([-1, 1], [-1, 1], color=MUTED, lw=1)
        axes.plot(correlation(data)[pairs], correlation(samples)[pairs], "o", ms=3.5, mew=0, color=MODEL, alpha=0.6)
        axes.set(xlabel="correlation in data", ylabel="correlation in samples", xlim=(-1, 1), ylim=(-1, 1))
        axes.set(aspect="equal", xticks=[-1, -0.5, 0, 0.5, 1], yticks=[-1, -0.5, 0, 0.5, 1])
        return figure


def correlation(x: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the columns of (N, D), (D, D); 0 with a constant column, 1 with itself.

    Where cells are missing (NaN), of the rows in which both are there.
    """
    if np.isnan(x).any():
        return _correlation_of_both(x)
    centred = x - x.mean(0)
    spread = np.sqrt((centred**2).sum(0))
    unit = centred / np.where(spread > 1e-12 * (1 + np.abs(x).max(0)), spread, np.inf)
    found = unit.T @ unit
    np.fill_diagonal(found, 1.0)
    return found


def _correlation_of_both(x: np.ndarray) -> np.ndarray:
    """Of the rows in which both are there, (D, D): element i, j of each sum here is one over these rows."""
    there = ~np.isnan(x)
    count = np.maximum(there.sum(0), 1)
    centred = np.where(there, x - np.nansum(x, 0) / count, 0.0)
    scale = np.sqrt((centred**2).sum(0) / count)
    unit, seen = centred / np.where(scale > 0, scale, 1.0), there.astype(np.float64)
    rows = np.maximum(seen.T @ seen, 1.0)
    total = unit.T @ seen
    square = (unit**2).T @ seen - total**2 / rows
    spread = np.sqrt(np.where(square > 1e-9, square, np.inf))
    found = (unit.T @ unit - total * total.T / rows) / (spread * spread.T)
    np.fill_diagonal(found, 1.0)
    return found


def pair(names: tuple[str, str], data: np.ndarray, samples: np.ndarray) -> Figure:
    """Two columns of data (N, 2) and, beside it on the same axes, of samples (M, 2); rows with gaps are left out."""
    data = data[~np.isnan(data).any(1)]
    data = data if len(data) else np.zeros((1, 2))
    with plotted(4.0, 2.1) as figure:
        for axes, x, colour, title in zip(
            figure.subplots(1, 2, sharex=True, sharey=True), (data, samples), (DATA, MODEL), ("data", "samples"),
            strict=True,
        ):  # fmt: skip
            axes.plot(*x.T, "o", ms=2.2, mew=0, color=colour, alpha=0.45)
            axes.set_title(title, fontsize=9)
            axes.set_xlabel(_name(names[0], 20), fontsize=8)
            axes.tick_params(labelsize=8)
            axes.set(xlim=_ends(data[:, 0], samples[:, 0]), ylim=_ends(data[:, 1], samples[:, 1]))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(4))
        figure.axes[0].set_ylabel(_name(names[1], 20), fontsize=8)
        return figure


def _ends(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """An interval that holds all of x and nearly all of y, with a margin."""
    low = min(float(x.min()), float(np.quantile(y, 0.005)))
    high = max(float(x.max()), float(np.quantile(y, 0.995)))
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def density(names: tuple[str, str], log_p: np.ndarray, across: np.ndarray, up: np.ndarray, data: np.ndarray) -> Figure:
    """A density of two columns as a heat map, log p at (up, across) in nats, with data (N, 2) on it."""
    with plotted(5.6, 4.4) as figure:
        axes = figure.subplots()
        top = float(log_p.max())
        extent = (across[0], across[-1], up[0], up[-1])
        image = axes.imshow(log_p, origin="lower", extent=extent, aspect="auto", cmap="Blues", vmin=top - 8, vmax=top)
        axes.plot(*data.T, "o", ms=3, mew=0, color=DATA, alpha=0.8)
        axes.set(xlabel=_name(names[0]), ylabel=_name(names[1]), xlim=extent[:2], ylim=extent[2:])
        axes.grid(visible=False)
        bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=28, extend="min", label="log p(x) (nats)")
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        return figure


def against_law(title: str, values: np.ndarray, x: np.ndarray, law: np.ndarray, label: str) -> Figure:
    """A histogram of values, filled, and the density that they should follow, given at points x."""
    with plotted(3.8, 2.6) as figure:
        axes = figure.subplots()
        shown = np.clip(values, x[0], x[-1])
        axes.hist(shown, np.linspace(x[0], x[-1], 41).tolist(), density=True, color=DATA, alpha=0.35, label="data")
        axes.plot(x, law, color=MODEL, label=label)
        axes.set_title(title)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False)
        axes.legend(fontsize=9, loc="upper right", borderaxespad=0)
        return figure


def gains(where: Sequence[int], to_base: Sequence[float], to_data: Sequence[float | None], limit: float) -> Figure:
    """How much each layer, by its number from the data, stretches in both directions, on a logarithmic axis."""
    with plotted(max(3.2, 1.6 + 0.22 * len(to_base)), 2.6) as figure:
        axes = figure.subplots()
        axes.plot(where, to_base, "o", ms=5, mew=0, color=MODEL, label="to the base")
        axes.plot(where, [np.nan if x is None else x for x in to_data], "D", ms=4.5, mew=0, color=DATA,
                  label="to the data")  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        highest = max(max(to_base), max((x for x in to_data if x is not None), default=1.0))
        axes.set_ylim(0.8, max(10.0, 2 * highest))
        if highest > limit / 10:
            axes.axhline(limit, color=MUTED, lw=1)
        axes.set(xlabel="layers, from the data", ylabel="largest stretching")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(axis="x", visible=False)
        axes.legend(fontsize=9, loc="upper right")
        return figure


def against(name: str, data: np.ndarray, back: np.ndarray) -> Figure:
    """A column's data (N,) across, what came back (N,) up, and the line on which the two are equal; NaN is left out."""
    there = ~np.isnan(data)
    data, back = (data[there], back[there]) if there.any() else (np.zeros(1), np.zeros(1))
    with plotted(2.5, 2.2) as figure:
        axes = figure.subplots()
        ends = [min(data.min(), back.min()), max(data.max(), back.max())]
        axes.plot(ends, ends, color=MUTED, lw=1)
        axes.plot(data, back, "o", ms=3, mew=0, color=MODEL, alpha=0.5)
        axes.set_title(_name(name, 26), fontsize=9)
        axes.tick_params(labelsize=8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
        return figure


def path(title: str, names: Sequence[str], values: np.ndarray) -> Figure:
    """Columns (steps, D) along a path."""
    with plotted(4.6, 3.4) as figure:
        axes = figure.subplots()
        where = np.linspace(0, 1, len(values))
        for j, name in enumerate(names):
            axes.plot(where, values[:, j], color=CLASSES[j % len(CLASSES)], marker=MARKERS[j % len(MARKERS)],
                      ms=4, lw=1.4, label=_name(name, 22))  # fmt: skip
        axes.set(title=title, xlabel="from the first row (0) to the second (1)", ylabel="standard deviations")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
        return figure


def scatter(
    points: np.ndarray, labels: np.ndarray | None, classes: Sequence[str] | None, axes_names: tuple[str, str]
) -> Figure:
    """Points (N, 2), marked by class where there are labels (N,), -1 for none."""
    with plotted(5.6, 5.0 if labels is None else 5.5) as figure:
        axes = figure.subplots()
        if labels is None or not classes:
            axes.plot(*points.T, "o", ms=4, mew=0, color=MODEL, alpha=0.55)
        else:
            short = all(len(name) <= 2 and name.isascii() and name.isalnum() for name in classes)
            for i in [-1, *range(len(classes))]:
                of_class = points[labels == i]
                if len(of_class) == 0:
                    continue
                marker = _glyph(classes[i]) if short and i >= 0 else MARKERS[i % len(MARKERS)]
                colour = CLASSES[i % len(CLASSES)] if i >= 0 else RULE
                name = _name(classes[i], 20) if i >= 0 else "no label"
                size = 5.5 if short else 4.2
                axes.plot(*of_class.T, ls="", marker=marker, ms=size, mew=0, color=colour, alpha=0.9, label=name)
            handles, found = axes.get_legend_handles_labels()
            if short:  # a mark is its own label
                found, look = (
                    ["" for _ in found],
                    {"columnspacing": 0.4, "title": "labels", "alignment": "left"},
                )
            else:
                look = {"columnspacing": 0.9}
            columns = len(found) if short and len(found) <= 12 else min(4, len(found))
            place: Any = "outside upper left"
            look |= {"ncols": columns, "fontsize": 9, "markerscale": 1.4, "handletextpad": 0.1}
            figure.legend(handles, found, loc=place, **look)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        return figure


def bars(values: Sequence[float], xlabel: str, ylabel: str, line: tuple[float, str] | None = None) -> Figure:
    """Bars, largest first as given, with a labelled line across where there is one."""
    with plotted(5.2, 2.3) as figure:
        axes = figure.subplots()
        axes.bar(range(1, len(values) + 1), values, color=MODEL, width=0.8)
        if line:
            axes.axhline(line[0], color=DATA, lw=1.2, ls=(0, (4, 1.5)))
            axes.annotate(line[1], (len(values) + 0.5, line[0]), xytext=(0, 3), textcoords="offset points",
                          ha="right", fontsize=8, color=DATA)  # fmt: skip
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(axis="x", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return figure


def _glyph(text: str) -> Path:
    """A marker in the form of a letter or two, about its own centre."""
    outline = TextPath((0, 0), text, size=1, prop=FontProperties(weight="bold"))
    low, high = outline.vertices.min(0), outline.vertices.max(0)
    return Path((outline.vertices - (low + high) / 2) / 0.73, outline.codes)


def _name(text: str, most: int = 30) -> str:
    """A label: cut where too long, and never starting as what matplotlib hides."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return f" {text}" if text.startswith("_") else text
