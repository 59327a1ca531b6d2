"""The command that chooses settings for filling in a table."""

from __future__ import annotations

import shlex
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
    steps: Annotated[
        int, typer.Option(metavar="N", help="Steps of training of each that is chosen, 10 or more.")
    ] = 6000,
    seeds: Annotated[
        int, typer.Option(metavar="N", help="So many of each that is chosen, or a multiple where starts matter.")
    ] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train models that fill in a table well: of a few settings, the best on cells hidden for that.

    jensen choose people.csv --out runs/a
    jensen impute runs/a people.csv --out whole.csv
    """
    if data == STDIN:
        raise ConfigError("choose: expected a name or a path, as the run remembers where its data are")
    low = {"steps": (steps, 10), "seeds": (seeds, 1)}
    problems = [f"--{name}: expected >= {least}, got {value}" for name, (value, least) in low.items() if value < least]
    if problems:
        raise ConfigError(problems)
    from jensen.jobs.choose import choose as job

    options = {"label": label, "drop": column_names(drop) or (), "kinds": read_kinds(kinds), "missing": missing or ()}
    told = {key: value for key, value in options.items() if value}
    with warnings_as_notes():
        run = job(data, out=out, overwrite=overwrite, steps=steps, seeds=seeds, seed=seed, listener=note, **told)
    if as_json:
        print_json({"run": out, **run.spec["chosen"]})
    else:
        chosen = run.spec["chosen"]
        models = f": {1 + len(run.members)} models fill in together" if run.members else ""
        typer.echo(f"chose {' and '.join(chosen['taken'])}{models}; wrote {out}")
        note(f"next: {shlex.join(['jensen', 'impute', out, data])}")
