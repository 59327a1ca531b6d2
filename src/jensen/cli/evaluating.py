"""The commands that try a model beside simple methods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jensen.cli.arguments import column_names, read_kinds, read_settings
from jensen.cli.inputs import STDIN, stdin_file
from jensen.cli.options import Drop, Json, Kinds, Label, Limit, Missing, Seed
from jensen.cli.printing import note, print_json, warnings_as_notes
from jensen.cli.progress import ShareProgress
from jensen.cli.writing import STDOUT, check_out, write_result
from jensen.errors import ConfigError

if TYPE_CHECKING:
    from jensen.jobs.evaluate import Evaluation

evaluate = typer.Typer(
    name="evaluate",
    help="Try a model beside simple methods, on the same masks and seeds.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Table = Annotated[str, typer.Argument(metavar="DATA", help="A table: a name, a path or - for stdin.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the model and its training, as latents=10 epochs=50."),
]
Tried = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Which to try; without: the simple ones alone.", show_default=False),
]
Numbers = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="FILE", help="Every single number: .csv, .parquet or -.", show_default=False),
]


@evaluate.command()
def imputation(
    data: Table,
    settings: Settings = None,
    model: Tried = None,
    label: Label = None,
    drop: Drop = None,
    kinds: Kinds = None,
    missing: Missing = None,
    protocol: Annotated[str, typer.Option(metavar="P", help="paper or leak-free.")] = "paper",
    rate: Annotated[float, typer.Option(metavar="R", help="Share of cells to hide.")] = 0.5,
    mechanism: Annotated[str, typer.Option(metavar="M", help="Which: mcar, mar or mnar.")] = "mcar",
    masks: Annotated[int, typer.Option(metavar="N", help="How often.")] = 5,
    baselines: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Which simple methods; by default all.", show_default=False),
    ] = None,
    complete_rows: Annotated[
        bool, typer.Option("--complete-rows", help="Train on rows without gaps, where the model takes none.")
    ] = False,
    particles: Annotated[
        int | None, typer.Option(metavar="K", help="Of the model's importance resampling.", show_default=False)
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    out: Numbers = None,
    as_json: Json = False,
) -> None:
    """Hide cells of a table, fill them in, and say how far from the truth that is.

    jensen evaluate imputation table.csv --model vae latents=10 --rate 0.3
    """
    tokens = _checked(settings, model, out, as_json)
    chosen: dict[str, Any] = {} if baselines is None else {"baselines": column_names([baselines])}
    from jensen.jobs.evaluate import imputation as job

    with _source(data) as table, _working() as listener:
        found = job(
            table, model=model, settings=tokens, label=label, drop=column_names(drop), protocol=protocol, rate=rate,
            kinds=read_kinds(kinds), missing=missing or (), mechanism=mechanism, masks=masks, seed=seed,
            complete_rows=complete_rows, limit=limit, listener=listener,
            impute={} if particles is None else {"particles": particles}, **chosen,
        )  # fmt: skip
    _tell(found, out, as_json)


@evaluate.command()
def outliers(
    data: Table,
    settings: Settings = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Which to try; without: jensen's default detector.", show_default=False),
    ] = None,
    label: Label = None,
    outlier: Annotated[
        str | None,
        typer.Option(metavar="VALUE", help="Of the label, for outliers; by default the rarest.", show_default=False),
    ] = None,
    drop: Drop = None,
    kinds: Kinds = None,
    missing: Missing = None,
    detectors: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Which simple ones, commas in quotes; by default all.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="How many splits.")] = 3,
    limit: Limit = None,
    seed: Seed = 0,
    out: Numbers = None,
    as_json: Json = False,
) -> None:
    """Learn from usual rows, and tell outliers from others that were held out.

    jensen evaluate outliers table.csv --label fault --model vae epochs=50
    """
    tokens = _checked(settings, model, out, as_json)
    from jensen.jobs.detectors import DETECTORS
    from jensen.jobs.evaluate import outliers as job

    chosen = None if detectors is None else [detectors] if detectors in DETECTORS else column_names([detectors])
    with _source(data) as table, _working() as listener:
        found = job(
            table, model=model, settings=tokens, label=label, outlier=outlier, drop=column_names(drop),
            kinds=read_kinds(kinds), missing=missing or (), detectors=chosen, seeds=seeds, seed=seed, limit=limit,
            listener=listener,
        )  # fmt: skip
    _tell(found, out, as_json)


@evaluate.command()
def synthetic(
    data: Table,
    settings: Settings = None,
    model: Tried = None,
    rows: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Synthetic rows that something else has made.", show_default=False),
    ] = None,
    label: Label = None,
    drop: Drop = None,
    kinds: Kinds = None,
    missing: Missing = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="How many splits.")] = 3,
    limit: Limit = None,
    seed: Seed = 0,
    out: Numbers = None,
    as_json: Json = False,
) -> None:
    """Make rows, learn the label from them, and compare distributions and distances with rows held out.

    jensen evaluate synthetic table.csv --label income --model vae epochs=50
    """
    tokens = _checked(settings, model, out, as_json)
    from jensen.jobs.evaluate import synthetic as job

    with _source(data) as table, _working() as listener:
        found = job(
            table, model=model, settings=tokens, rows=rows, label=label, drop=column_names(drop), seeds=seeds,
            kinds=read_kinds(kinds), missing=missing or (), seed=seed, limit=limit, listener=listener,
        )  # fmt: skip
    _tell(found, out, as_json)


def _checked(settings: list[str] | None, model: str | None, out: str | None, as_json: bool) -> Mapping[str, Any]:
    """Settings as they were typed; problems of all options at once."""
    read = read_settings(settings or [])
    problems = list(read.problems)
    if read.values and model is None:
        problems.append(f"{', '.join(read.values)}: settings of a model; name one, as --model vae")
    if out == STDOUT and as_json:
        problems.append("--out - and --json would both write to stdout; name a file")
    if problems:
        raise ConfigError(problems)
    if out is not None:
        check_out(out, tables_only=True)
    return read.values


@contextlib.contextmanager
def _source(data: str) -> Iterator[Any]:
    """What jobs read: a name or a path, or what comes by stdin."""
    if data != STDIN:
        yield data
        return
    from dataclasses import replace

    from jensen.data.sources import open_source

    with stdin_file() as path:
        yield replace(open_source(path), name="stdin", origin="stdin")


@contextlib.contextmanager
def _working() -> Iterator[ShareProgress]:
    with warnings_as_notes(), ShareProgress("evaluating") as progress:
        yield progress


def _tell(found: Evaluation, out: str | None, as_json: bool) -> None:
    if out is not None:
        write_result(out, found.frame())
        if out != STDOUT:
            note(f"wrote {out}")
    if as_json:
        print_json(found.to_dict())
    elif out != STDOUT:
        typer.echo(str(found))
