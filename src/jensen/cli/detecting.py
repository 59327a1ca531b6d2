"""The command that finds outliers."""

from __future__ import annotations

from typing import Annotated

import typer

from jensen.cli.inputs import data_for, open_run
from jensen.cli.options import DataSplit, Device, Json, Limit, RunData, RunFolder, Seed
from jensen.cli.printing import note, print_json, warnings_as_notes
from jensen.cli.progress import working
from jensen.cli.writing import STDOUT, check_out, write_rows
from jensen.errors import ConfigError


def outliers(
    run: RunFolder,
    data: RunData = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="A row a datum: .csv, .parquet, .json", show_default=False),
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="M", help="auto, likelihood, typicality, reconstruction, latent or ensemble."),
    ] = "auto",
    alpha: Annotated[float, typer.Option(metavar="A", help="Rate of false alarms.")] = 0.05,
    fdr: Annotated[
        bool, typer.Option("--fdr", help="Let alpha be the share of false alarms among the outliers found.")
    ] = False,
    columns: Annotated[
        bool, typer.Option("--columns", help="By column: bits of surprise, and what was expected.")
    ] = False,
    calibration: Annotated[
        str,
        typer.Option(metavar="PART|DATA", help="Usual data that training did not fit: valid, test, a name or a path."),
    ] = "valid",
    ensemble: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Another run of the same data, for the method ensemble; repeat for more."),
    ] = None,
    particles: Annotated[
        int | None,
        typer.Option(metavar="K", help="Draws a datum. [default: 50; of columns 200]", show_default=False),
    ] = None,
    split: DataSplit = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """How strange each datum is, with a p-value whose rate of false alarms holds.

    jensen outliers runs/a new.csv --out strange.csv --columns
    """
    if out is not None:
        check_out(out, tables_only=True)
        if out == STDOUT and as_json:
            raise ConfigError("--out - and --json would both write to stdout; name a file")
    opened = open_run(run, device)
    given = data_for(opened, data)
    with warnings_as_notes(), working("looking for outliers"):
        found = opened.outliers(
            given,
            split=split,
            method=method,
            ensemble=ensemble or (),
            alpha=alpha,
            fdr=fdr,
            calibration=calibration,
            columns=columns,
            particles=particles,
            limit=limit,
            seed=seed,
        )
    if out is not None:
        table = found.table()
        write_rows(out, table)
        if out != STDOUT and not as_json:
            note(f"wrote {out} ({len(table)} x {table.shape[1]})")
    if as_json:
        print_json(found.to_dict())
    elif out != STDOUT:
        typer.echo(str(found))
    for warning in found.warnings:
        note(f"warning: {warning}")
