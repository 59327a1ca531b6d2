"""The command that chooses settings for filling in a table."""

from __future__ import annotations

from typing import Annotated

import typer

from jensen.cli.arguments import column_names, read_kinds
from jensen.cli.inputs import STDIN
from jensen.cli.options import Drop, Json, Kinds, Label, Missing, Seed
from jensen.cli.printing import note, print_json, warnings_as_notes
from jensen.errors import ConfigError


def choose(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A table: a name or a path.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="The run folder to write.")],
    label: Label = None,
    drop: Drop = None,
    kinds: Kinds = None,
    missing: Missing = None,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps of training of the one that is chosen.")] = 6000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a model that fills in a table well: of a few settings, the best on cells hidden for that.

    jensen choose people.csv --out runs/a
    jensen impute runs/a people.csv --out whole.csv
    """
    if data == STDIN:
        raise ConfigError("choose: expected a name or a path, as the run remembers where its data are")
    if steps < 10:
        raise ConfigError(f"--steps: expected >= 10, got {steps}")
    from jensen.jobs.choose import choose as job

    options = {"label": label, "drop": column_names(drop) or (), "kinds": read_kinds(kinds), "missing": missing or ()}
    told = {key: value for key, value in options.items() if value}
    with warnings_as_notes():
        run = job(data, out=out, overwrite=overwrite, steps=steps, seed=seed, listener=note, **told)
    if as_json:
        print_json({"run": out, **run.spec["chosen"]})
    else:
        typer.echo(f"chose {run.spec['chosen']['best']}; wrote {out}")
