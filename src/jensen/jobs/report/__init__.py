"""Report: one HTML file to look at a run with. Nothing outside it is needed, and no script runs in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.job import job
from jensen.jobs.report import from_views, latents, record, sound, text, views
from jensen.jobs.report.page import Section, escaped, page
from jensen.jobs.report.subject import NoData, Subject
from jensen.jobs.run import Run
from jensen.training.folder import write_atomically

__all__ = ["Section", "page", "report", "sections"]


@job("report")
def report(run: Run, out: str | os.PathLike[str] | None = None, *, data: Any = None) -> Path:
    """Write one self-contained HTML file about a run; equal runs give equal files.

    Args:
        out: the file; by default report.html in the run folder.
        data: what to reconstruct, encode and diagnose; None for the run's own.

    Returns:
        The path of the file.

    Raises:
        ConfigError: no file is named and the run lives in memory, its name ends otherwise than in .html, or it cannot
            be written.
        DataError: the data given cannot be read or do not fit the model.
        ResourceError: the disk is full.
    """
    if out is None and run.folder is None:
        raise ConfigError("a run in memory has no folder; name the file to write")
    path = Path(out) if out is not None else run.folder.report_path  # pyright: ignore[reportOptionalMemberAccess]
    if path.is_dir():
        raise ConfigError(f"--out: {path} is a folder, expected a file")
    if path.suffix.lower() not in ("", ".html", ".htm"):
        raise ConfigError(f"--out: a report is a page of HTML, expected a file ending in .html, got {path}")
    write_atomically(path, page(run, sections(run, data)))
    return path


def sections(run: Run, data: Any = None, elsewhere: Run | None = None) -> list[Section]:
    """Every section of a run's report: which there are follows from the model.

    Args:
        elsewhere: another run on the same data, whose latent space is mapped in place of this one's.
    """
    subject, exact = Subject(run, data), bool(run.model.inverted)
    parts: list[tuple[str, str, Callable[[], tuple[str, str]]]] = [
        ("numbers", "The numbers", lambda: record.numbers(run)),
        ("training", "Training", lambda: record.training(run)),
        ("samples", "Samples", lambda: views.samples(run, subject)),
    ]
    if text.shows_surprise(run):
        parts.append(("surprise", "Surprise", lambda: text.surprise(run, subject)))
    if sound.shows_surprise(run):
        parts.append(("surprise", "Surprise", lambda: sound.surprise(run, subject)))
    if views.shows_surprise(run):
        parts.append(("surprise", "Surprise", lambda: views.surprise(run, subject)))
    if views.shows_density(run):
        parts.append(("density", "Density", lambda: views.density(run, subject)))
    if not exact:
        parts.append(("reconstructions", "Reconstructions", lambda: views.reconstructions(run, subject)))
    if from_views.shows_views(run):
        parts.append(("from-a-view", "From a view", lambda: from_views.from_views(run, subject)))
    parts.append(("interpolation", "Interpolation", lambda: views.interpolation(run, subject)))
    if exact:
        parts.append(("codes", "Codes", lambda: views.codes(run, subject)))
    if not exact or elsewhere is not None:
        mapped, other = elsewhere or run, elsewhere is not None
        parts.append(("latent-map", "Latent map", lambda: views.latent_map(mapped, subject, other)))
    if latents.shows_latents(run):
        parts.append(("traversals", "Traversals", lambda: latents.traversals(run, subject)))
        parts.append(("neighbours", "Neighbours", lambda: latents.neighbours(run, subject)))
    if latents.shows_clusters(run):
        parts.append(("clusters", "Clusters", lambda: latents.cluster_means(run, subject)))
    parts += [
        ("diagnosis", "Diagnosis", lambda: views.diagnosis(run, subject)),
        ("settings", "Settings and versions", lambda: record.settings(run)),
        ("reproduce", "How to reproduce", lambda: record.reproduce(run)),
    ]
    found = []
    for name, title, make in parts:
        try:
            caption, body = make()
        except CapabilityError as e:
            caption, body = f"Left out: {escaped(e)}.", ""
        except NoData as e:
            caption, body = f"Left out, as it needs data: {escaped(e)}.", ""
        found.append(Section(name, title, caption, body))
    return found
