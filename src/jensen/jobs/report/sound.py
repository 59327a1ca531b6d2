"""What a report shows of a model of sound: waveforms and mel bands of samples and data, and what surprises it."""

from __future__ import annotations

import numpy as np

from jensen.core import EXACT
from jensen.errors import CapabilityError
from jensen.jobs import plot_style, sounds
from jensen.jobs.encode import interpolate, reconstruct
from jensen.jobs.given import Given, given_as
from jensen.jobs.report.page import plot
from jensen.jobs.report.subject import NoData, Subject
from jensen.jobs.run import Run
from jensen.jobs.sample import sample

SHOWN, STEPS, CURVES = 8, 5, 2
MEL = "a mel picture of each: its frequencies over time, dark where loud, on a scale on which equal steps sound equal"


def samples(run: Run, subject: Subject) -> tuple[str, str]:
    """New sound, and data."""
    given, titles, data = Given(SHOWN), [], None
    try:
        part = subject.few(SHOWN)[1]
        data, titles = part.x, _titles(run, part.y)
        if run.model.conditions:
            given = given_as(run, part, SHOWN)
            titles = [titles[i % len(titles)] for i in range(SHOWN)]
    except NoData:
        if run.model.conditions:
            raise
    drawn, rate = sample(run, given=given), _rate(run)
    named = titles if run.model.conditions else []
    body = plot(sounds.sheet(drawn, rate, named), "samples", "samples")
    if data is not None:
        drawing = sounds.sheet(data, rate, titles, colour=plot_style.DATA)
        body += plot(drawing, "data", "data, for comparison: waveforms share one scale within a figure")
    given_words = f", given {run.schema.label or 'the label'} above each" if "y" in run.model.context else ""
    return f"New clips that the model dreams up{given_words}; under each waveform {MEL}.", body


def shows_surprise(run: Run) -> bool:
    """Whether each sample has a probability given those before it."""
    dims = getattr(run.model.p[run.model.data].module, "network", None)
    return run.schema.is_sound and run.model.likelihood == EXACT and dims is not None


def surprise(run: Run, subject: Subject) -> tuple[str, str]:
    """−log₂ p of each sample of some clips, given those before it."""
    part = subject.few(CURVES)[1]
    bits = subject.bits(part)
    body, titles = "", _titles(run, part.y)
    for i, (wave, own) in enumerate(zip(part.x, bits, strict=True)):
        drawing = sounds.surprise(wave, own, _rate(run), run.schema.levels or 256)
        title = f"{titles[i]}: " if titles else ""
        body += plot(drawing, "surprise", f"{title}{own.mean():.2f} bits a sample on average (dotted)")
    return (
        "How much each sample of clips that the model was not trained on surprises it, −log₂ p given the samples "
        "before it, averaged over 4 ms. On the dashed line all levels would be equally likely.",
        body,
    )


def reconstructions(run: Run, subject: Subject) -> tuple[str, str]:
    """Data, and what comes back from their codes."""
    data, part = subject.few(SHOWN // 2)
    back, rate, titles = reconstruct(run, data), _rate(run), _titles(run, part.y)
    body = plot(sounds.sheet(part.x, rate, titles, colour=plot_style.DATA), "data", "data")
    body += plot(sounds.sheet(back, rate, titles), "reconstructions", "what comes back from their codes")
    return f"Clips that the model was not trained on, encoded and decoded to the expected levels; {MEL}.", body


def interpolation(run: Run, subject: Subject) -> tuple[str, str]:
    """A path from one clip to another."""
    data, part = subject.few(2)
    if len(part) < 2:
        raise NoData("it takes two data")
    if not run.capabilities.encode:
        raise CapabilityError(f"{run.spec['model']} has nothing that represents a datum")
    path = interpolate(run, data, steps=STEPS)
    titles = [f"{i / (STEPS - 1):.0%}" for i in range(STEPS)]
    body = plot(sounds.sheet(path, _rate(run), titles, columns=STEPS), "interpolation", "from one clip to another")
    return f"Clips on the way from one datum to another, decoded at points between their codes; {MEL}.", body


def _rate(run: Run) -> int:
    return run.schema.fields[0].rate or 1


def _titles(run: Run, labels: np.ndarray | None) -> list[str]:
    classes = (*(run.schema.classes or ()), "?")  # the last for -1, no label
    return [] if labels is None else [classes[y] for y in labels.tolist()]
