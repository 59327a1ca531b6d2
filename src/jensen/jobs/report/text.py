"""What a report shows of a model of text: samples, what surprises it word by word, and sentences between sentences."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

from jensen.core import EXACT
from jensen.jobs.encode import interpolate, reconstruct
from jensen.jobs.given import Given, given_as
from jensen.jobs.report.page import figure, table
from jensen.jobs.report.subject import NoData, Subject
from jensen.jobs.run import Run
from jensen.jobs.sample import sample

SHOWN, WINDOWS, PATHS, STEPS = 10, 4, 3, 7
LINES, SCREENS = 30, 3  # samples: lines, or windows of a text
NUCLEUS = 0.9


def samples(run: Run, subject: Subject) -> tuple[str, str]:
    """New texts, as they are and from the likelier tokens only."""
    lines, classes = run.schema.tokens.lines, run.schema.classes
    n = LINES if lines else SCREENS
    given, under, heads = Given(n), "", [""] * n
    if run.model.conditions and classes:
        n = max(n, min(LINES, len(classes)))
        given = given_as(run, subject.few(n)[1], n)
        heads = [f"{classes[i]}: " for i in given.context["y"].tolist()]
        under = " Before each stands the label that it was given."
    body = _texts("samples", sample(run, given=given), heads, lines)
    likely = sample(run, given=given, nucleus=NUCLEUS)
    body += _texts(f"a second look: from the likeliest tokens alone, those of {NUCLEUS:.0%}", likely, heads, lines)
    what = "lines" if lines else "windows of text"
    return f"New {what} that the model dreams up. Only the first are samples; the others read better.{under}", body


def shows_surprise(run: Run) -> bool:
    """Whether each token has a probability given those before it."""
    return run.schema.is_text and run.model.likelihood == EXACT


def surprise(run: Run, subject: Subject) -> tuple[str, str]:
    """−log₂ p of each token given those before it, as colour behind it."""
    tokens, part = run.schema.tokens, subject.few(SHOWN if run.schema.tokens.lines else WINDOWS)[1]
    bits = subject.bits(part)
    most = math.log2(tokens.end)
    texts = []
    for row, own in zip(part.x, bits, strict=True):
        pieces = tokens.pieces(row)
        marked = "".join(_mark(piece, b, most) for piece, b in zip(pieces, own, strict=False))
        ended = own[: len(pieces) + 1]  # the end of the text counts, where the row holds it
        texts.append(figure(f"<pre>{marked}</pre>", f"{ended.mean():.2f} bits a token on average"))
    return (
        "How much each token of texts that the model was not trained on surprises it, −log₂ p given those before it: "
        f"the darker behind it the more, up to {most:.1f} bits, which is what it is where all are equally likely.",
        "".join(texts),
    )


def _mark(piece: str, bits: float, most: float) -> str:
    """A token in front of how much it surprises, from nothing to all the colour there is; a pointer on it says it."""
    if not piece:
        return ""
    share = round(100 * min(1.0, bits / most))
    shown = html.escape(piece.replace("\n", "↵\n"))
    return (
        f'<span style="background:color-mix(in srgb,var(--data) {share // 2}%,transparent)" title="{bits:.2f} bits">'
        f"{shown}</span>"
    )


def reconstructions(run: Run, subject: Subject) -> tuple[str, str]:
    """Texts, and what comes back from their codes."""
    data, part = subject.few(SHOWN)
    back = reconstruct(run, data)
    rows = [[a, b] for a, b in zip(run.schema.restore(run.schema.prepare(part.x)), back, strict=True)]
    return (
        "Texts that the model was not trained on, and what comes back from the mean of q(z | x), token by token the "
        "likeliest. A code of few numbers keeps what a sentence is like rather than its words.",
        table(["data", "reconstruction"], [list(map(str, row)) for row in rows]),
    )


def interpolation(run: Run, subject: Subject) -> tuple[str, str]:
    """Sentences on the way from one to another."""
    data, part = subject.few(2 * PATHS)
    if len(part) < 2:
        raise NoData("it takes two data")
    body = ""
    for i in range(0, len(part) - 1, 2):
        path = interpolate(run, data, start=i, end=i + 1, steps=STEPS)
        body += table(
            ["", f"path {i // 2 + 1}"], [[f"{k / (STEPS - 1):.0%}", str(text)] for k, text in enumerate(path)]
        )
    return "Texts on the way from one datum to another: the likeliest at points between their codes z.", body


def _texts(caption: str, texts: np.ndarray, heads: Sequence[str], lines: bool) -> str:
    """Texts, and what stands before each."""
    shown = [f"<b>{html.escape(head)}</b>{html.escape(text)}" for head, text in zip(heads, texts, strict=True)]
    joined = ("\n" if lines else "</pre><pre>").join(shown)
    return figure(f"<pre>{joined}</pre>", caption)
