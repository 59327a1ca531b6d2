"""How plots look: quiet, on light and dark pages and without colour vision.

A plot is a matplotlib `Figure` (never pyplot, so no global state), drawn with `svg` for a page, whose colours follow
the page's, or with `jensen.jobs.pictures.png` for a file. Series differ by line style or marker as well as by colour.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, MUTED, RULE = "#22262b", "#6a727c", "#dde1e6"
MODEL, DATA, THIRD = "#0067a5", "#c8500a", "#117733"
"""Blue is the model, vermilion the data, in every plot."""

CLASSES = (
    "#332288", "#c8500a", "#117733", "#0090c8", "#882255",
    "#8a8a1f", "#aa4499", "#2f9e8f", "#cc6677", "#5a5a5a",
)  # fmt: skip
"""Ten colours after Paul Tol's palettes; readers who cannot tell them apart have the markers."""

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
"""Where colours do not do."""

VARIABLES = {
    INK: "--ink", MUTED: "--muted", RULE: "--rule", MODEL: "--model", DATA: "--data", THIRD: "--third",
    **{colour: f"--class-{i}" for i, colour in enumerate(CLASSES) if colour != DATA and colour != THIRD},
}  # fmt: skip
"""The CSS variable that stands for each colour in an SVG, so that a page can change it in the dark."""

DARK = {
    INK: "#e6e9ec", MUTED: "#98a1ab", RULE: "#343a41", MODEL: "#58b4f0", DATA: "#ff9150", THIRD: "#5fce86",
    "#332288": "#a79bff", "#0090c8": "#6fd3ff", "#882255": "#f27fb2", "#8a8a1f": "#d8d565",
    "#aa4499": "#e58fd8", "#2f9e8f": "#5fd6c5", "#cc6677": "#ff9daa", "#5a5a5a": "#b8bec5",
}  # fmt: skip
"""What each colour becomes on a dark page."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "text.parse_math": False,  # names of columns and classes are no formulas
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "jensen",
    "figure.facecolor": "white",
}


def svg(figure: Figure) -> str:
    """An `<svg>` element for a page: transparent, as wide as its place, in the page's font and colours.

    A colour stands as `var(--name, #colour)`, see `VARIABLES`; outside a page the colour itself counts.
    """
    out = io.StringIO()
    with styled():
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[a-z0-9_.]*">', "<g>", text)  # names that repeat from plot to plot
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for colour, variable in VARIABLES.items():
        text = text.replace(f": {colour}", f": var({variable}, {colour})")
    return text.strip()


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Inside, what is drawn or written has the style of all plots."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the page's font may well have it
        yield


@contextlib.contextmanager
def plotted(width: float, height: float) -> Iterator[Figure]:
    """An empty figure, in inches; inside, what is drawn on it has the style of all plots."""
    with styled():
        yield Figure(figsize=(width, height), layout="constrained")
