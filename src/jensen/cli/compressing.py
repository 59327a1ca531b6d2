"""Commands that compress data by a model, give them back, and look into an archive."""

from __future__ import annotations

from typing import Annotated

import typer

from jensen.cli.inputs import data_for, open_run
from jensen.cli.options import DataSplit, Json, Limit, Out, RunData, RunFolder, Seed
from jensen.cli.printing import note, print_json
from jensen.cli.progress import ShareProgress
from jensen.cli.writing import check_out, check_sound, write_data

Archive = Annotated[
    str, typer.Argument(metavar="ARCHIVE", help="A file that compress wrote.", show_default=False)
]  # fmt: skip


def compress(
    run: RunFolder,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="ARCHIVE", help="Where to, as digits.jz.", show_default=False)
    ],
    data: RunData = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="The discrete codes alone; what comes back is what they stand for.")
    ] = False,
    split: DataSplit = None,
    limit: Limit = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Data as bits, by the model's own probabilities; read back before it says so."""
    opened = open_run(run, "cpu")
    with ShareProgress("compressing") as progress:
        found = opened.compress(
            data_for(opened, data), out=out, lossy=lossy, split=split, limit=limit, seed=seed, listener=progress
        )
    if as_json:
        print_json(found.to_dict())
        return
    typer.echo(str(found))
    note(f"wrote {out}, read back and compared")


def decompress(
    archive: Archive,
    out: Out,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="The model, where it lies elsewhere by now.", show_default=False),
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Of codes alone: a draw of x in place of its mean.")] = False,
    seed: Seed = 0,
) -> None:
    """Data back from an archive, to the last bit; from codes alone, what they stand for."""
    from jensen.jobs.compress import run_of

    check_out(out)
    opened = run_of(archive, run)
    check_sound(out, opened)
    with ShareProgress("decompressing") as progress:
        found = opened.decompress(archive, mean=not draw, seed=seed, listener=progress)
    write_data(out, opened, found, whole=True)


def inspect(archive: Archive, as_json: Json = False) -> None:
    """What an archive holds, by what model it was written, and whether it is whole."""
    from jensen.jobs.compress import inspect as looked

    found = looked(archive)
    if as_json:
        print_json(found)
        return
    shape = " x ".join(map(str, found["shape"]))
    kind = "every bit" if found["lossless"] else "codes alone"
    typer.echo(f"{archive}: whole, {found['bytes']:,} bytes\n")
    typer.echo(f"holds    {found['n']:,} data, {shape}, {kind}")
    typer.echo(f"takes    {found['bits_a_datum']:,.2f} bits a datum, {found['bits_per_dim']:.4f} bits/dim")
    typer.echo(f"by       {found['model']}, {found['run'] or 'a run in memory'}, weights {found['weights']}")
    coded = f"{found['chunks_by_model']} of {found['chunks']} by the model"
    typer.echo(f"chunks   {coded}, of {found['batch']:,} data")
    if found["conditions"]:
        typer.echo(f"beside   {', '.join(found['conditions'])}, which the model is given")
