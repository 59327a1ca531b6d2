"""The command that says what to measure next."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jensen.cli.arguments import number_or_word, read_values
from jensen.cli.inputs import STDIN, open_run, stdin_file
from jensen.cli.options import DataSplit, Device, Json, Limit, RunFolder, Seed
from jensen.cli.printing import note, print_json, print_table
from jensen.cli.progress import ShareProgress, working
from jensen.cli.writing import STDOUT, check_out, write_result, write_rows
from jensen.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from jensen.jobs.acquire import Acquisition, Inquiry

SHOWN = 8  # columns in a terminal
PICTURES = (".png", ".svg")


def acquire(
    run: RunFolder,
    row: Annotated[
        str | None,
        typer.Argument(
            metavar="[ROW]", help="A table, cells empty that are not measured: one row, or with --out more."
        ),
    ] = None,
    target: Annotated[str, typer.Option(metavar="COL", help="The column to be known.", show_default=False)] = "",
    given: Annotated[
        list[str] | None,
        typer.Option(metavar="COL=VALUE", help="What is measured already; repeat for more.", show_default=False),
    ] = None,
    costs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.yaml", help="column: cost of measuring it; 1 where none is said.", show_default=False
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Do not ask, but write the columns of each row by rank; with --curves, a picture or a table.",
            show_default=False,
        ),
    ] = None,
    curves: Annotated[
        bool, typer.Option("--curves", help="Measure held-out rows this way, in a fixed and in a random order.")
    ] = False,
    known: Annotated[
        list[str] | None,
        typer.Option(metavar="COL", help="With --curves: known of every row from the start; repeat for more."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --curves: columns measured. [default: all]", show_default=False),
    ] = None,
    min_gain: Annotated[
        float, typer.Option(metavar="BITS", help="Stop when no column is expected to give so much.")
    ] = 0.01,
    min_rate: Annotated[float, typer.Option(metavar="BITS", help="Stop when none gives so much for its cost.")] = 0.0,
    certain: Annotated[
        float,
        typer.Option(
            metavar="U", help="Stop at so many bits of entropy of the target, or at such a standard deviation."
        ),
    ] = 0.0,
    budget: Annotated[
        float | None, typer.Option(metavar="C", help="What may be spent on a row.", show_default=False)
    ] = None,
    method: Annotated[str, typer.Option(metavar="HOW", help="particles, or latent as in EDDI.")] = "particles",
    particles: Annotated[
        int | None,
        typer.Option(metavar="K", help="Draws of what is hidden. [default: 1000; curves 200]", show_default=False),
    ] = None,
    split: DataSplit = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say what to measure next of a row, to know more of one of its columns, and ask for it.

    jensen acquire runs/a --target income --given age=40
    """
    if not target:
        raise ConfigError("--target: expected the column that is to be known")
    if given and row is not None:
        raise ConfigError("--given: what is measured stands in ROW or here, not in both")
    if out is not None:
        _check_picture(out) if curves and Path(out).suffix.lower() in PICTURES else check_out(out, tables_only=True)
    if out == STDOUT and as_json:
        raise ConfigError("--out and --json: only one of them can write to stdout")
    opened = open_run(run, device)
    effort: dict[str, Any] = {"method": method} | ({} if particles is None else {"particles": particles})
    data = read_values(given, "--given") if row is None and given else _read_stdin() if row == STDIN else row
    if curves:
        if given:
            raise ConfigError(
                "--curves: rows are measured from nothing on; --known names columns that are known of all"
            )
        effort |= {} if limit is None else {"limit": limit}
        with ShareProgress("measuring") as progress:
            judged = opened.policies(
                data, target=target, costs=costs, known=known or (), steps=steps, split=split, seed=seed,
                listener=progress, **effort,
            )  # fmt: skip
        _write_curves(out, judged)
        print_json(judged.to_dict()) if as_json else typer.echo(str(judged), err=out == STDOUT)
        for warning in judged.warnings:
            note(f"warning: {warning}")
        return
    if known or steps is not None:
        raise ConfigError(f"{'--known' if known else '--steps'}: goes with --curves")
    from jensen.jobs.acquire import Effort, Inquiry, Stopping

    stopping = Stopping(min_gain, min_rate, certain, *([] if budget is None else [budget]))
    if out is not None or (as_json and row is not None):
        with ShareProgress("weighing") as progress:
            found = opened.acquire(
                data, target=target, costs=costs, split=split, limit=limit, stopping=stopping, seed=seed,
                listener=progress, **effort,
            )  # fmt: skip
        if out is not None:
            write_rows(out, found.table())
            note(f"wrote {out}") if out != STDOUT else None
        print_json(found.to_dict()) if as_json else typer.echo(str(found), err=out == STDOUT)
        for warning in found.warnings:
            note(f"warning: {warning}")
        return
    inquiry = Inquiry(opened, target, {} if data is None else data, costs, stopping, Effort(**effort), seed)
    if as_json:
        print_json(inquiry.now().to_dict())
        return
    _ask(inquiry)


def _read_stdin() -> Any:
    """A table with gaps."""
    from jensen.data import tables
    from jensen.data.sources import open_source

    with stdin_file() as path:
        return replace(open_source(path), name="stdin", origin="stdin", line=tables.row_words)


def _check_picture(out: str) -> None:
    if Path(out).is_dir():
        raise ConfigError(f"--out: {out} is a folder, expected a file")


def _write_curves(out: str | None, judged: Any) -> None:
    """A picture, or the numbers."""
    if out is None:
        return
    suffix = Path(out).suffix.lower()
    if suffix in PICTURES:
        from jensen.jobs import pictures, plot_style
        from jensen.training.folder import write_atomically

        drawn = judged.picture()
        write_atomically(Path(out), pictures.png(drawn) if suffix == ".png" else plot_style.svg(drawn).encode())
    else:
        write_result(out, judged.table())
    if out != STDOUT:
        note(f"wrote {out}")


def _ask(inquiry: Inquiry) -> None:
    """Ask for the best column until measuring more is not worth it, or no more is told."""
    note("answer with the value; another column's as COLUMN=VALUE; 'skip' where it cannot be measured, 'stop' to end")
    while True:
        with working("weighing"):
            found = inquiry.now()
        _show(found, inquiry.spent)
        reason = found.reason(0, inquiry.spent)
        if reason:
            typer.echo(f"stop: {reason}")
            break
        if not _answer(inquiry, found.columns[found.ranked(0, inquiry.spent)[0]]):
            break
    if inquiry.spent:
        typer.echo(f"spent: {inquiry.spent:g}")


def _show(found: Acquisition, spent: float) -> None:
    typer.echo(str(found.beliefs[0]))
    for warning in found.warnings:
        note(f"warning: {warning}")
    best = found.ranked(0, spent)[:SHOWN]
    if not best:
        return
    priced = bool((found.costs[best] != 1).any())
    rows = [
        [found.columns[d], f"{found.gains[0, d]:z.3f} ± {found.stderr[0, d]:.3f}"]
        + ([f"{found.costs[d]:g}", f"{found.rates[0, d]:.3g}"] if priced else [])
        for d in best
    ]
    print_table(
        ["column", "bits", *(["cost", "bits for cost"] if priced else [])], rows, ["bits", "cost", "bits for cost"]
    )


def _answer(inquiry: Inquiry, column: str) -> bool:
    """One answer of the user; whether to go on."""
    while True:
        typer.echo(f"{column}? ", nl=False, err=True)
        line = sys.stdin.readline()
        text = line.strip()
        if not line or text in ("stop", "quit"):
            if not line:
                note("")
            return False
        if text == "skip":
            inquiry.skip(column)
            return True
        if not text:
            continue
        try:
            inquiry.learn(*_read_answer(text, column, inquiry))
        except (DataError, ConfigError) as e:
            note(f"{e}")
            continue
        return True


def _read_answer(text: str, column: str, inquiry: Inquiry) -> tuple[str, Any]:
    """Which column was measured, and its value: `VALUE` of the one that was asked for, or `COLUMN=VALUE`.

    Raises:
        ConfigError: there is no such column, or it is the target.
    """
    fields = {field.name: field for field in inquiry.run.schema.fields}
    name, sign, value = (part.strip() for part in text.partition("="))
    if sign and name not in fields and text not in (fields[column].categories or ()):
        raise ConfigError(f"the model has no column {name!r}{did_you_mean(name, fields)}")
    name, value = (name, value) if sign and name in fields else (column, text)
    if name == inquiry.run.schema.names[inquiry.target]:
        raise ConfigError(f"{name} is the target; stop when it is known")
    return name, value if fields[name].categories is not None else number_or_word(value)
