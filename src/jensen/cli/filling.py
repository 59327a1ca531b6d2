"""The command that fills in what is missing."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jensen.cli.inputs import STDIN, comes_as_text, open_run, stdin_file
from jensen.cli.options import DataSplit, Device, Json, Limit, Out, RunData, RunFolder, Seed
from jensen.cli.printing import note, print_json
from jensen.cli.progress import ShareProgress
from jensen.cli.writing import (
    RULE,
    STDOUT,
    check_out,
    check_sound,
    write_content,
    write_data,
    write_result,
    write_rows,
)
from jensen.errors import ConfigError

if TYPE_CHECKING:
    from jensen.jobs.gaps import FilledTexts
    from jensen.jobs.imputation import Imputation

SHOWN = 8  # pictures that a .png shows without --limit


def impute(
    run: RunFolder,
    out: Out,
    data: RunData = None,
    draws: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            help="So many draws, numbered .imp, of rows .id; 0 is the table with its gaps; without: their mean, "
            "of pictures and sound one.",
            show_default=False,
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="R", help="Hide of pictures: top, bottom, left, right or center.", show_default=False),
    ] = None,
    gap: Annotated[
        str | None,
        typer.Option(
            metavar="MARK|A-B",
            help="Of a text: the mark of a missing token, as _. Of sound: seconds.",
            show_default=False,
        ),
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
    ensemble: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Another run of the same columns, to fill in with this one; repeat for more."),
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
    """Fill in the empty cells of a table, or what is missing of pictures, texts and sound, by p(missing | observed).

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
    if cells is not None and opened.schema.is_array:
        raise ConfigError(f"--cells: expected a table, got {opened.schema.fields[0].kind}")
    check_sound(out, opened)
    some = out.lower().endswith(".png") and image and limit is None
    limit = SHOWN if some else limit
    text = opened.schema.is_text
    common = {"draws": 1 if draws is None else draws, "particles": particles, "seed": seed}
    other = {"split": split, "limit": limit, "missing": mask, "region": region, "warmup": warmup, "steps": steps}
    told = [name for name, value in {**other, "ensemble": ensemble or None}.items() if value is not None]
    if text and told:
        given_ones = ", ".join(f"--{name}" for name in told)
        raise ConfigError(f"{given_ones}: a text is filled in where --gap marks it")
    with contextlib.ExitStack() as stack:
        given: Any = data
        if data == STDIN:
            from jensen.data.sources import open_source

            given = replace(
                open_source(stack.enter_context(stdin_file(comes_as_text(opened)))), name="stdin", origin="stdin"
            )
        progress = stack.enter_context(ShareProgress("filling in"))
        if text:
            found: Any = opened.fill_texts(given, gap or "", listener=progress, **common)
        else:
            found = opened.impute(
                given, gap=gap, method=method, ensemble=ensemble or (), listener=progress, **common, **other
            )
    if text:
        _write_texts(out, found, opened.schema.tokens.lines)
    elif opened.schema.is_sound:
        import numpy as np

        write_data(out, opened, np.concatenate([found.completed(m) for m in range(len(found.draws))]))
    else:
        if some and len(found.rows) == SHOWN:
            note(f"showing at most {SHOWN}, at random; --limit N shows N, an .npz holds all")
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


def _write_texts(out: str, found: FilledTexts, lines: bool) -> None:
    """To .txt or stdout the texts as they came, of several draws one below the other with rules between; or a table."""
    suffix = out.lower().rpartition(".")[2]
    if suffix != "txt" and out != STDOUT:
        write_result(out, found.long())
    else:
        between, end = ("\n", "\n") if lines else (f"\n{RULE}\n", "")
        whole = [between.join(texts) + end for texts in found.drawn]
        write_content(out, f"{'' if lines else between[:1]}{RULE}\n".join(whole).encode())
    if out != STDOUT:
        note(f"wrote {out}")


def _say(found: Imputation | FilledTexts, as_json: bool, aside: bool) -> None:
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found), err=aside)
    for warning in found.warnings:
        note(f"warning: {warning}")
