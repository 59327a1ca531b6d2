"""Commands that use a trained model: score, sample, reconstruct, encode, interpolate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jensen.cli.arguments import column_names, read_settings, read_temperature, read_values
from jensen.cli.inputs import data_for, open_run
from jensen.cli.options import DataSplit, Device, Json, Limit, Out, Refine, RunData, RunFolder, Seed
from jensen.cli.printing import note, print_json, warnings_as_notes
from jensen.cli.progress import ShareProgress
from jensen.cli.writing import STDOUT, check_out, check_sound, say, write_data, write_result, write_rows
from jensen.errors import ConfigError

if TYPE_CHECKING:
    from jensen.core import Score
    from jensen.jobs.run import Run


def score(
    run: RunFolder,
    data: RunData = None,
    split: DataSplit = None,
    estimator: Annotated[str, typer.Option(metavar="E", help="auto, exact, elbo, iw, prior, ais or trace.")] = "auto",
    particles: Annotated[
        int | None,
        typer.Option(metavar="K", help="Draws per datum; by default the estimator's.", show_default=False),
    ] = None,
    refine: Refine = 0,
    context: Annotated[
        int, typer.Option(metavar="N", help="Give each token of a text N before it, from the window before too.")
    ] = 0,
    limit: Limit = None,
    seed: Seed = 0,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="Nats of each row: .csv, .parquet, ...", show_default=False),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Log-likelihood of data: what kind of number it is, in nats and bits, with its standard error."""
    if out is not None:
        check_out(out, tables_only=True)
        if out == STDOUT and as_json:
            raise ConfigError("--out - and --json would both write to stdout; name a file")
    opened = open_run(run, device)
    given = data_for(opened, data)
    with warnings_as_notes(), ShareProgress("scoring") as progress:
        result = opened.score(
            given,
            split=split,
            estimator=estimator,
            particles=particles,
            refine=refine,
            context=context,
            limit=limit,
            seed=seed,
            listener=progress,
        )
    if out is not None:
        rows = _rows(opened, given, result, limit, seed)
        write_rows(out, rows)
        if not as_json:
            say(out, rows)
    if as_json:
        print_json(result.to_dict())
    elif out != STDOUT:
        _print_score(result)


def _rows(run: Run, data: Any, result: Score, limit: int | None, seed: int) -> Any:
    """One row a datum: its position in the data it came from, and its nats."""
    import pandas

    _, _, part = run.split(data, result.split)
    assert result.rows is not None
    return pandas.DataFrame({"row": part.index[run.pick(part, limit, seed)], "nats": result.rows.double().numpy()})


def _print_score(result: Score) -> None:
    typer.echo(str(result))
    if result.text is not None:
        typer.echo(f"text: {_of_text(result)}")
    words = []
    if result.stderr_mc > 0:
        words.append(f"standard error {result.stderr_mc:.2g} nats")
    if result.effective_sample_size is not None and result.particles > 1:
        size = f"{result.effective_sample_size:,.1f} of {result.particles:,}"
        words.append(f"effective sample size {size} (median over data)")
    if words:
        typer.echo(f"estimator: {', '.join(words)}")
    if result.leans_on_few:
        typer.echo(
            f"note: a few of the {result.particles:,} particles carry nearly all the weight, so the number is low by "
            "more than its errors say; more particles, or another --estimator, raise it",
            err=True,
        )
    words = [result.subset or "the whole split", f"sha256 {result.split_sha256[:16]}"]
    if result.binarization != "none":
        words.append(f"binarisation {result.binarization}")
    if result.quantization:
        words.append(result.quantization)
    typer.echo(f"data: {', '.join(words)}")


def _of_text(result: Score) -> str:
    """The same number in the units of the literature."""
    assert result.text is not None and result.amounts is not None
    found = []
    for name, value in result.text.items():
        (what, _, unit), sign = name.partition("_per_"), result.sign_of(name)
        found.append(f"{sign}{value:.4f} bits/{unit}" if what == "bits" else f"{what} {sign}{value:,.2f} per {unit}")
    amounts = ", ".join(f"{n:,} {name}" for name, n in result.amounts.items() if name != "hidden")
    unknown = f"; {result.amounts['hidden']:,} words were <unk>" if result.amounts["hidden"] else ""
    return f"{', '.join(found)} ({amounts}{unknown})"


def sample(
    run: RunFolder,
    out: Out,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="How, where the model can be drawn from in several ways: sampler=ddim steps=20.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", "--n", metavar="N", help="How many. [default: 64, of sound 8]", show_default=False),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(metavar="COL=VALUE", help="A condition, or a column to hold; repeat for more."),
    ] = None,
    given_from: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Conditions, one a row: a name or a path.", show_default=False),
    ] = None,
    temperature: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T|NAME=T",
            help="Below 1 stays nearer to the middle; 1 is the model itself. By layer: z2=0.7; repeat.",
            show_default=False,
        ),
    ] = None,
    mean: Annotated[bool, typer.Option("--mean", help="E[x | z] in place of a draw of x: smoother.")] = False,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="How each text begins.")] = "",
    length: Annotated[
        int | None, typer.Option(metavar="T", help="Tokens of a text that is one of windows.", show_default=False)
    ] = None,
    nucleus: Annotated[
        float, typer.Option(metavar="P", help="Draw from the likeliest tokens, or levels, of so much mass.")
    ] = 1.0,
    privacy: Annotated[
        bool, typer.Option("--privacy", help="Say how near the rows lie to training rows, beside held-out ones.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw new data from the model, in the user's own types."""
    check_out(out)
    from jensen.jobs.given import read_given
    from jensen.jobs.sample import USUAL

    values, how = read_values(given, "--given"), read_settings(settings or [])
    if how.problems:
        raise ConfigError(how.problems)
    opened = open_run(run, device)
    check_sound(out, opened)
    if opened.schema.is_sound and n is None and given_from is None:
        n = SOUNDS
    with warnings_as_notes(), ShareProgress("sampling") as progress:
        asked = None if opened.schema.is_text else read_given(opened, n, values, given_from, USUAL)
        drawn = opened.sample(
            n,
            given=values if asked is None else asked,
            given_from=given_from if asked is None else None,
            temperature=read_temperature(temperature),
            seed=seed,
            mean=mean,
            prefix=prefix,
            length=length,
            nucleus=nucleus,
            sampling=how.values,
            listener=progress,
            say=note,
        )
    write_data(out, opened, drawn, given=asked)
    if privacy:
        note(str(opened.privacy(drawn, seed=seed)))


def reconstruct(
    run: RunFolder,
    out: Out,
    data: RunData = None,
    split: DataSplit = None,
    limit: Limit = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,...", help="From these hidden variables alone: a view, upper layers, or top3."),
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="A draw of x in place of its mean.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Data as they come back from what the model infers about them; in a .png below the data themselves."""
    check_out(out)
    opened = open_run(run, device)
    check_sound(out, opened)
    some = limit is None
    limit = _on_a_page(out, opened) if some else limit
    kept, given = column_names(only) or (), data_for(opened, data)
    back = opened.reconstruct(given, split=split, limit=limit, seed=seed, only=kept, mean=not draw)
    if some and len(back) == limit:
        word = "writing" if opened.schema.is_sound and out.lower().endswith(".wav") else "showing"
        note(f"{word} at most {limit}, at random; --limit N takes N, an .npz holds all")
    if opened.schema.is_image and out.lower().endswith(".png"):  # each row of pictures above what came back of it
        import numpy as np

        from jensen.jobs.pictures import below

        _, _, part = opened.split(given, split)
        seen = opened.tensors(part.rows(opened.pick(part, limit, seed))).x
        both, columns = below([np.asarray(opened.schema.restore(seen.cpu()), np.float64), back])
        write_result(out, both, opened.schema.levels, across=columns)
        say(out, back)
        return
    write_data(out, opened, back)


def encode(
    run: RunFolder,
    out: Out,
    data: RunData = None,
    split: DataSplit = None,
    limit: Limit = None,
    draws: Annotated[int, typer.Option(metavar="D", min=0, help="Draws of the posterior, in place of its mean.")] = 0,
    refine: Refine = 0,
    codes: Annotated[bool, typer.Option("--codes", help="Numbers of codes, in place of their vectors.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Representations of data: the posterior's mean, a row a datum; of a vector quantiser the vectors of its codes.

    With --limit a table says in its column `row` which data were taken.
    """
    from jensen.jobs.encode import code_names

    check_out(out, tables_only=True)
    opened = open_run(run, device)
    options = {"draws": draws, "refine": refine, "seed": seed, "codes": codes}
    given = data_for(opened, data)
    z = opened.encode(given, split=split, limit=limit, **options)
    names = code_names(opened, z.shape[-1], draws)
    if limit is None or Path(out).suffix.lower() in (".npy", ".npz"):  # which hold numbers alone
        write_result(out, z, columns=names)
    else:
        import pandas

        part = opened.split(given, split)[2]
        table = pandas.DataFrame(z.reshape(len(z), -1), columns=names)
        table.insert(0, "row", part.index[opened.pick(part, limit, seed)])
        write_rows(out, table)
    say(out, z)


def interpolate(
    run: RunFolder,
    out: Out,
    data: RunData = None,
    start: Annotated[int, typer.Option(metavar="ROW", min=1, help="Row to start from, 1 is the first.")] = 1,
    end: Annotated[int, typer.Option(metavar="ROW", min=1, help="Row to end at.")] = 2,
    steps: Annotated[int, typer.Option(metavar="N", help="Data on the path, both ends included.")] = 11,
    how: Annotated[str, typer.Option(metavar="HOW", help="linear, spherical or geodesic.")] = "linear",
    split: DataSplit = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """A path from one datum to another by way of the latent space."""
    check_out(out)
    opened = open_run(run, device)
    check_sound(out, opened)
    given = data_for(opened, data)
    path = opened.interpolate(given, start=start - 1, end=end - 1, steps=steps, how=how, split=split, seed=seed)
    if opened.model.conditions:
        note("each point is drawn under the conditions of the nearer end, so that a path may leap in the middle")
    write_data(out, opened, path, columns=len(path) if len(path) <= 20 else None)


PICTURES_ON_A_PAGE, SOUNDS = 100, 8


def _on_a_page(out: str, run: Run) -> int | None:
    """How many pictures a .png shows without --limit, or clips are written, of a split; None for all."""
    most = SOUNDS if run.schema.is_sound else PICTURES_ON_A_PAGE
    return most if out.lower().endswith((".png", ".wav")) else None
