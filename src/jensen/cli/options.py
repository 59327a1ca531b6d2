"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, as train wrote it.", show_default=False)]
RunData = Annotated[
    str | None,
    typer.Argument(metavar="[DATA]", help="A name, a path or - for stdin; by default the run's own data."),
]
DataSplit = Annotated[str | None, typer.Option("--split", metavar="NAME", help="train, valid or test. [default: test]")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="Take N data at random.", show_default=False)]
Refine = Annotated[
    int,
    typer.Option(metavar="STEPS", help="Seek the best posterior of each datum in at most so many steps.", min=0),
]
Seed = Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Seed of draws and of random subsets.")]
Out = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Where to: .npz, .npy, .csv, .parquet, .png for pictures, .txt for texts, - for stdout.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu, cuda or cuda:1.")]

# Of data

Label = Annotated[str | None, typer.Option("--label", metavar="COL", help="Column of labels.", show_default=False)]
Drop = Annotated[list[str] | None, typer.Option("--drop", metavar="COL", help="Column to leave out; repeat for more.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="COL=KIND",
        help="Kind of a column: real, positive, count, binary, category or time, bounded,LOW,HIGH, or "
        "ordinal,LOWEST,...,HIGHEST; repeat for more. Also in FILE.columns.yaml beside FILE.",
        show_default=False,
    ),
]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        metavar="WORD",
        help="What stands for a missing cell, as '?' or -999; repeat for more.",
        show_default=False,
    ),
]
Given = Annotated[
    list[str] | None,
    typer.Option("--given", metavar="COL,...", help="Columns that are conditions, not explained; repeat for more."),
]
GivenView = Annotated[
    str | None,
    typer.Option(
        "--given-view",
        metavar="VIEW",
        help="A view of each picture that is given: downscale,factor=4, sketch, grey or half,side=left.",
        show_default=False,
    ),
]
Text = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="KEY=VALUE",
        help="Of a text: tokens=characters, bytes, words or bpe; lines=true, a datum a line; length; vocabulary; "
        "column, of a table.",
    ),
]
Sound = Annotated[
    list[str] | None,
    typer.Option(
        "--sound",
        metavar="KEY=VALUE",
        help="Of sound: length in samples, rate in Hz, levels, encoding=mu-law or linear.",
    ),
]
Binarize = Annotated[
    str | None,
    typer.Option(
        "--binarize", metavar="HOW", help="Grey pictures as 0/1: static, dynamic or none.", show_default=False
    ),
]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="COL", help="Column of groups that stay in one split.", show_default=False),
]
Time = Annotated[
    str | None,
    typer.Option("--time", metavar="COL", help="Column of times: train on the oldest.", show_default=False),
]
Weight = Annotated[
    str | None, typer.Option("--weight", metavar="COL", help="Column of row weights.", show_default=False)
]
