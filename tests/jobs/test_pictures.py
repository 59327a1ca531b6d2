"""Grids by their pixels; plots by what they draw, and that their colours follow the page."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas
import pytest
from PIL import Image

from jensen.jobs import pictures, plot_style, plots
from jensen.jobs.pictures import BETWEEN
from jensen.jobs.plots import Curve, Panel

RNG = np.random.default_rng(0)

PLOTS = {
    "curves": lambda: plots.curves(
        Panel("bound", [Curve("a", [1, 2, 3], [1.0, 2.0, 3.0]), Curve("_b", [1, 2], [0.0, 1.0], faint=True)],
              (3, 3.0, "kept"), 0.5), "steps"),
    "histogram": lambda: plots.histogram("price_$_of $x$", RNG.normal(size=50), RNG.normal(size=70)),
    "correlations": lambda: plots.correlations(["a", "b"], RNG.normal(size=(9, 2)), np.ones((9, 2))),
    "correlation pairs": lambda: plots.correlation_pairs(RNG.normal(size=(9, 3)), RNG.normal(size=(9, 3))),
    "against": lambda: plots.against("a", RNG.normal(size=20), RNG.normal(size=20)),
    "path": lambda: plots.path("linear", ["a", "_b"], RNG.normal(size=(5, 2))),
    "scatter": lambda: plots.scatter(RNG.normal(size=(9, 2)), None, None, ("x", "y")),
    "scatter, digits": lambda: plots.scatter(
        RNG.normal(size=(9, 2)), np.arange(9) % 3 - 1, ["0", "1"], ("x", "y")),
    "scatter, names": lambda: plots.scatter(
        RNG.normal(size=(9, 2)), np.arange(9) % 3, ["猫 of a house", "_dog", "$x"], ("x", "y")),
    "pair": lambda: plots.pair(("a_$", "_b"), RNG.normal(size=(9, 2)), np.ones((9, 2))),
    "density": lambda: plots.density(
        ("a_$", "b"), RNG.normal(size=(5, 4)), np.arange(4.0), np.arange(5.0), RNG.normal(size=(3, 2))),
    "against a law": lambda: plots.against_law(
        "z", RNG.normal(size=30), np.linspace(-3, 3, 9), np.ones(9), "a_b"),
    "gains": lambda: plots.gains([1, 3, 4], [1.0, 2e3, 3.0], [1.0, None, 2.0], 1e3),
    "bars": lambda: plots.bars([3.0, 2.0], "dimension", "KL"),
}  # fmt: skip


def test_grid_puts_pictures_row_by_row_with_lines_between():
    x = np.zeros((3, 1, 2, 3), np.uint8)
    x[1] = 255
    image = np.asarray(pictures.grid(x, columns=2, scale=1))
    expected = np.full((7, 9), BETWEEN)
    expected[1:3, 1:4], expected[1:3, 5:8], expected[4:6, 1:4] = 0, 255, 0
    assert np.array_equal(image, expected)


def test_grid_reads_probabilities_levels_and_colours():
    assert np.asarray(pictures.grid(np.full((1, 1, 1, 1), 0.2), levels=2, pad=0, scale=1)).tolist() == [[51]]
    assert np.asarray(pictures.grid(np.full((1, 1, 1, 1), 300.0), pad=0, scale=2)).tolist() == [[255, 255]] * 2
    colours = np.arange(3).reshape(1, 3, 1, 1)
    assert np.asarray(pictures.grid(colours, pad=0, scale=1)).tolist() == [[[0, 1, 2]]]


def test_grid_enlarges_small_pictures_only():
    assert 400 < pictures.grid(np.zeros((4, 1, 8, 8))).width < 700
    assert pictures.grid(np.zeros((1, 1, 900, 900)), pad=0).width == 900


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (3, 2, 2), (3, 2, 2, 2)])
def test_grid_refuses_what_is_no_pictures(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="expected pictures"):
        pictures.grid(np.zeros(shape))


@pytest.mark.parametrize("name", PLOTS)
def test_plot_becomes_an_svg_in_the_colours_of_the_page(name: str):
    text = plot_style.svg(PLOTS[name]())
    ET.fromstring(text.replace("xlink:href", "href"))
    assert "var(--" in text
    assert not re.search(r": (#22262b|#6a727c|#dde1e6)", text), "a colour that would not follow the page"
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)


@pytest.mark.parametrize("name", PLOTS)
def test_plot_becomes_a_png(name: str):
    image = np.asarray(Image.open(io.BytesIO(pictures.png(PLOTS[name]()))).convert("L"))
    assert image.std() > 1


def test_plots_are_repeatable():
    x = np.linspace(0, 1, 20)
    assert plot_style.svg(plots.against("a", x, x**2)) == plot_style.svg(plots.against("a", x, x**2))


def test_every_colour_has_one_for_the_dark():
    assert set(plot_style.VARIABLES) == set(plot_style.DARK)
    assert len(set(plot_style.VARIABLES.values())) == len(plot_style.VARIABLES)


def test_correlation_agrees_with_numpy_and_bears_constants():
    x = RNG.normal(size=(30, 4))
    assert np.allclose(plots.correlation(x), np.corrcoef(x.T))
    x[:, 2] = 0.1
    assert np.allclose(plots.correlation(x)[2], [0, 0, 1, 0])
    holes = 1e3 + RNG.normal(size=(60, 5)) @ RNG.normal(size=(5, 5))
    holes[RNG.random(holes.shape) < 0.3] = np.nan
    holes[:, 3], holes[:, 4] = 3.0, np.nan
    expected = pandas.DataFrame(holes).corr().fillna(0.0).to_numpy() * (1 - np.eye(5)) + np.eye(5)
    assert np.allclose(plots.correlation(holes), expected)


def test_histogram_gives_each_of_few_whole_values_a_bin():
    edges = plots._edges(np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0]))
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
