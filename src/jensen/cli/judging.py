"""Commands that judge a run: diagnose, compare, report; and the demo."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from jensen.cli.inferring import find_function
from jensen.cli.inputs import data_for, open_run
from jensen.cli.options import DataSplit, Device, Json, Limit, RunData, RunFolder, Seed
from jensen.cli.printing import note, print_json, warnings_as_notes
from jensen.cli.progress import TrainingProgress, working
from jensen.cli.training import sigterm_as_interrupt
from jensen.cli.writing import STDOUT
from jensen.errors import ConfigError


def diagnose(
    run: RunFolder,
    data: RunData = None,
    split: DataSplit = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Look at N data at random.")] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Look for known faults: collapse, inference gap, overfitting; inverses, lost digits and mass of flows."""
    opened = open_run(run, device)
    with working("diagnosing"):
        found = opened.diagnose(data_for(opened, data), split=split, limit=limit, seed=seed)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found))


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN... [DATA]", help="Run folders, then data to score on.", show_default=False),
    ],
    split: DataSplit = None,
    estimator: Annotated[str, typer.Option(metavar="E", help="auto, exact, elbo, iw, prior, ais or trace.")] = "auto",
    particles: Annotated[int | None, typer.Option(metavar="K", help="Draws per datum.", show_default=False)] = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score runs on the same data, with paired differences and their standard errors."""
    from jensen.jobs.compare import compare as job

    folders, data = _runs_and_data(runs)
    if len(folders) < 2:
        raise ConfigError(f"compare: expected two runs or more, got {', '.join(folders) or 'none'}")
    opened = [open_run(folder, device) for folder in folders]
    given = data_for(opened[0], data)
    with warnings_as_notes(), working("scoring"):
        found = job(opened, given, split=split, estimator=estimator, particles=particles, limit=limit, seed=seed)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found))


def distance(
    run: RunFolder,
    data: RunData = None,
    split: DataSplit = None,
    features: Annotated[
        str,
        typer.Option(
            metavar="F", help="auto, classifier (trained on the labels), random, values, or a module:function of yours."
        ),
    ] = "auto",
    kernel: Annotated[str, typer.Option(metavar="K", help="imq, rbf or polynomial.")] = "imq",
    limit: Annotated[int, typer.Option(metavar="N", min=3, help="At most so many samples and data.")] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """How far samples are from data: the unbiased kernel distance of their features, with its standard error."""
    measured = find_function(features, "--features") if ":" in features else features
    opened = open_run(run, device)
    given = data_for(opened, data)
    with working("sampling"):
        found = opened.distance(given, split=split, features=measured, kernel=kernel, limit=limit, seed=seed)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found))


def _runs_and_data(words: list[str]) -> tuple[list[str], str | None]:
    """Run folders, and the last word where it is none but data."""
    last = words[-1]
    if len(words) > 2 and not (Path(last) / "spec.yaml").exists():
        return words[:-1], last
    return words, None


def report(
    run: RunFolder,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where to, or - for stdout; by default RUN/report.html.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """One page with curves, scores, samples and reconstructions; nothing outside it is needed."""
    if out is not None and Path(out).is_dir():
        raise ConfigError(f"--out: {out} is a folder, expected a file, as report.html")
    opened = open_run(run, device)
    with tempfile.TemporaryDirectory() as folder:
        with working("writing the report"):
            path = opened.report(Path(folder) / "report.html" if out == STDOUT else out)
        if out == STDOUT:
            typer.echo(Path(path).read_text(encoding="utf-8"), nl=False)
        else:
            note(f"wrote {path}")


def demo(
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="The run folder to write.")] = "jensen-demo",
    seconds: Annotated[
        float, typer.Option(metavar="S", min=1, help="Time for training; the rest takes about 20 more.")
    ] = 75,
    as_json: Json = False,
) -> None:
    """Train a VAE on 5,000 digits, score it beside gzip and PNG, write a report: about two minutes."""
    from jensen.jobs.demo import demo as job

    with TrainingProgress(as_json) as progress, sigterm_as_interrupt():

        def say(text: str) -> None:
            progress.stop()
            typer.echo(text, err=as_json)

        result = job(out, seconds=seconds, listener=progress, say=say)
    if as_json:
        print_json(result)
