"""The command that fills in what is missing."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jensen.cli.inputs import STDIN, open_run, stdin_file
from jensen.cli.options import DataSplit, Device, Json, Limit, Out, RunData, RunFolder, Seed
from jensen.cli.printing import note, print_json
from jensen.cli.progress import ShareProgress
from jensen.cli.writing import STDOUT, check_out, write_result, write_rows
from jensen.errors import ConfigError

if TYPE_CHECKING:
    from jensen.jobs.impute import Imputation

SHOWN = 8  # pictures that a .png shows without --limit


def impute(
    run: RunFolder,
    out: Out,
    data: RunData = None,
    draws: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            help="So many draws, numbered .imp, of rows .id; 0 is the table with its gaps; without: their mean.",
            show_default=False,
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="R", help="Hide of pictures: top, bottom, left, right or center.", show_default=False),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(metavar="FILE.npy", help="Truth values: what to fill in besides gaps.", show_default=False),
    ] = None,
    method: Annotated[str, typer.Option(metavar="HOW", help="auto, importance or mcmc.")] = "auto",
    particles: Annotated[int, typer.Option(metavar="K", help="Of importance resampling.")] = 1000,
    warmup: Annotated[
        int | None,
        typer.Option(metavar="W", help="Moves of a chain that tune it. [default: 300; pictures 100]"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="S", help="Moves of a chain that are kept. [default: 300; pictures 100]"),
    ] = None,
    details: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="How each row was filled in: .csv, .parquet.", show_default=False),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Each value filled in, with its spread: .csv, .parquet.", show_default=False),
    ] = None,
    split: DataSplit = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fill in the empty cells of a table, or hidden parts of pictures, by p(missing | observed).

    jensen impute runs/a holes.csv --out whole.csv
    """
    check_out(out)
    for beside in filter(None, (details, cells)):
        check_out(beside, tables_only=True)
    if [out, details, cells, STDOUT if as_json else None].count(STDOUT) > 1:
        raise ConfigError("--out, --details, --cells and --json: only one of them can write to stdout")
    mask = _read_mask(missing)
    opened = open_run(run, device)
    image = opened.schema.is_image
    if cells is not None and image:
        raise ConfigError("--cells: expected a table, got image")
    if out.lower().endswith(".png") and image and limit is None:
        limit = SHOWN
        note(f"showing {SHOWN} at random; --limit N shows N, an .npz holds all")
    with contextlib.ExitStack() as stack:
        given: Any = data
        if data == STDIN:
            from jensen.data.sources import open_source

            given = replace(open_source(stack.enter_context(stdin_file())), name="stdin", origin="stdin")
        progress = stack.enter_context(ShareProgress("filling in"))
        found = opened.impute(
            given,
            split=split,
            limit=limit,
            missing=mask,
            region=region,
            draws=1 if draws is None else draws,
            method=method,
            particles=particles,
            warmup=warmup,
            steps=steps,
            seed=seed,
            listener=progress,
        )
    _write(out, found, draws)
    if details is not None:
        write_rows(details, found.table())
    if cells is not None:
        write_rows(cells, found.cells())
    _say(found, as_json, STDOUT in (out, details, cells))


def _read_mask(path: str | None) -> Any:
    if path is None:
        return None
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise ConfigError(f"--missing: cannot read {path} as an .npy file ({e})") from None


def _write(out: str, found: Imputation, draws: int | None) -> None:
    """Pictures as a page or an array of draws; a table of means, or its draws one below the other, numbered."""
    import numpy as np

    image, suffix = found.schema.is_image, out.lower().rpartition(".")[2]
    if image and (suffix == "png" or out == STDOUT):
        sheet, columns = found.sheet()
        write_result(out, sheet, found.schema.levels, across=columns)
    elif image:
        whole = np.stack([found.completed(m) for m in range(len(found.draws))])
        write_result(out, whole if draws is not None and draws > 1 else whole[0], found.schema.levels)
    elif draws is None:
        write_result(out, found.completed(), columns=found.columns)
    elif suffix in ("npy", "npz"):
        write_result(out, np.stack([np.asarray(found.completed(m)) for m in range(draws)]))
    else:
        write_result(out, found.long(draws))
    if out != STDOUT:
        note(f"wrote {out}")


def _say(found: Imputation, as_json: bool, aside: bool) -> None:
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found), err=aside)
    for warning in found.warnings:
        note(f"warning: {warning}")
