"""The program: its commands in the order of its help."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from jensen.cli.acquiring import acquire
from jensen.cli.choosing import choose
from jensen.cli.clustering import cluster
from jensen.cli.compressing import compress, decompress, inspect
from jensen.cli.detecting import outliers
from jensen.cli.evaluating import evaluate
from jensen.cli.failures import Guarded
from jensen.cli.filling import impute
from jensen.cli.inferring import infer
from jensen.cli.judging import compare, demo, diagnose, distance, report
from jensen.cli.looking import data, models, show
from jensen.cli.memory import keep_freed_memory
from jensen.cli.probing import probe
from jensen.cli.threads import wait_briefly
from jensen.cli.training import train
from jensen.cli.using import encode, interpolate, reconstruct, sample, score

EPILOG = "Results go to stdout, progress to stderr. Start with: jensen demo"

app = typer.Typer(
    cls=Guarded,
    name="jensen",
    help="Likelihood-based deep generative models: train one, then use it for many jobs.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from jensen import __version__

        typer.echo(f"jensen {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None: ...


LOOK, TRAIN, USE, STORE, JUDGE = "Look", "Train", "Use a run", "Compress by a run", "Judge a run"
for panel, commands in {
    TRAIN: (train, choose, infer, demo),
    LOOK: (models, show, data),
    USE: (score, sample, impute, acquire, reconstruct, encode, interpolate, cluster, outliers),
    STORE: (compress, decompress, inspect),
    JUDGE: (diagnose, probe, compare, distance, report),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(evaluate, rich_help_panel=JUDGE)


def main() -> None:
    """Entry point of the program."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # "≥" where the locale has no such sign
    keep_freed_memory()
    wait_briefly()
    app(prog_name="jensen")
