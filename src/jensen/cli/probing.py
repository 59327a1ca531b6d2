"""The command that asks what a representation is worth."""

from __future__ import annotations

from typing import Annotated

import typer

from jensen.cli.inputs import data_for, open_run
from jensen.cli.options import Device, Json, RunData, RunFolder, Seed
from jensen.cli.printing import print_json
from jensen.cli.progress import working
from jensen.errors import ConfigError


def probe(
    run: RunFolder,
    data: RunData = None,
    labels: Annotated[
        str, typer.Option(metavar="N,N,...", help="How many labelled data to learn from; all is all.")
    ] = "10,100,1000,all",
    seeds: Annotated[int, typer.Option(metavar="S", min=1, help="Draws of the labelled data.")] = 5,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Tell labels from codes, from the data and from principal components, by how many labels are known.

    On the data set shapes, whose factors are known, disentanglement too.
    """
    counts = [_count(word.strip()) for word in labels.split(",")]
    opened = open_run(run, device)
    with working("probing"):
        found = opened.probe(data_for(opened, data), labels=counts, seeds=seeds, seed=seed)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found))


def _count(word: str) -> int | str:
    if word == "all":
        return word
    try:
        return int(word)
    except ValueError:
        raise ConfigError(f"--labels: expected numbers, or all, got {word!r}") from None
