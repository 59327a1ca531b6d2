"""The command that clusters."""

from __future__ import annotations

from typing import Annotated

import typer

from jensen.cli.inputs import data_for, open_run
from jensen.cli.options import DataSplit, Device, Json, Limit, RunData, RunFolder, Seed
from jensen.cli.printing import note, print_json
from jensen.cli.progress import working
from jensen.cli.writing import STDOUT, check_out, write_rows
from jensen.errors import ConfigError


def cluster(
    run: RunFolder,
    data: RunData = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="A row a datum: .csv, .parquet, ...", show_default=False),
    ] = None,
    split: DataSplit = None,
    limit: Limit = None,
    draws: Annotated[int, typer.Option(metavar="D", min=1, help="Of what is hidden, where the model draws it.")] = 100,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Which component of a mixture each datum belongs to, how surely, and how that agrees with labels."""
    if out is not None:
        check_out(out, tables_only=True)
        if out == STDOUT and as_json:
            raise ConfigError("--out - and --json would both write to stdout; name a file")
    opened = open_run(run, device)
    given = data_for(opened, data)
    with working("clustering"):
        found = opened.cluster(given, split=split, limit=limit, draws=draws, seed=seed)
    if out is not None:
        table = found.table()
        write_rows(out, table)
        if out != STDOUT and not as_json:
            note(f"wrote {out} ({len(table)} x {table.shape[1]})")
    if as_json:
        print_json(found.to_dict())
    elif out != STDOUT:
        typer.echo(str(found))
