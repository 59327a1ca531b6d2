"""The command that chooses settings for filling in a table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jensen.cli.arguments import column_names, read_kinds
from jensen.cli.failures import stopped
from jensen.cli.inputs import STDIN
from jensen.cli.options import Drop, Json, Kinds, Label, Missing, Seed
from jensen.cli.printing import note, print_json, warnings_as_notes
from jensen.cli.progress import TrainingProgress
from jensen.cli.training import sigterm_as_interrupt
from jensen.errors import ConfigError

if TYPE_CHECKING:
    from jensen.training.trainer import Event

DEFAULTS = {"steps": 6000, "seeds": 2, "workers": 1, "seed": 0}


def choose(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A table: a name or a path.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="The run folder to write.")],
    label: Label = None,
    drop: Drop = None,
    kinds: Kinds = None,
    missing: Missing = None,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Steps of training of each that is chosen, 10 or more.")
    ] = DEFAULTS["steps"],
    seeds: Annotated[
        int, typer.Option(metavar="N", help="So many of each that is chosen, or a multiple where starts matter.")
    ] = DEFAULTS["seeds"],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the choice for --out that was interrupted.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Processes that train side by side, with one thread each.")
    ] = DEFAULTS["workers"],
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train models that fill in a table well: of a few settings, the best on cells hidden for that.

    jensen choose people.csv --out runs/a
    jensen impute runs/a people.csv --out whole.csv
    """
    if data == STDIN:
        raise ConfigError("choose: expected a name or a path, as the run remembers where its data are")
    low = {"steps": (steps, 10), "seeds": (seeds, 1), "workers": (workers, 1)}
    problems = [f"--{name}: expected >= {least}, got {value}" for name, (value, least) in low.items() if value < least]
    if resume and overwrite:
        problems.append("--resume goes on with a choice and --overwrite begins anew: expected one of them")
    if problems:
        raise ConfigError(problems)
    from jensen.jobs.choose import choose as job
    from jensen.jobs.unfinished import place_beside

    options = {"label": label, "drop": column_names(drop) or (), "kinds": read_kinds(kinds), "missing": missing or ()}
    told = {key: value for key, value in options.items() if value}
    numbers = {"steps": steps, "seeds": seeds, "workers": workers, "seed": seed}
    with TrainingProgress(quiet=True) as live, sigterm_as_interrupt() as terminated:

        def progress(title: str, event: Event | None) -> None:
            if event is None:
                live.waits(title)
                return
            live.title = title
            live(event)

        try:
            with warnings_as_notes():
                run = job(
                    data,
                    out=out,
                    overwrite=overwrite,
                    resume=resume,
                    listener=note,
                    progress=progress,
                    **numbers,
                    **told,
                )
        except KeyboardInterrupt:
            live.stop()
            words = _words({"label": label, "drop": drop, "kind": kinds, "missing": missing, **numbers})
            command = shlex.join(["jensen", "choose", data, "--out", out, *words, "--resume"])
            stopped(bool(terminated), command if place_beside(out).exists() else None)
    if as_json:
        print_json({"run": out, **run.spec["chosen"]})
    else:
        shares = run.spec["chosen"]["shares"]
        named = [f"{name} ({share:.0%})" if len(shares) > 1 else name for name, share in shares.items()]
        models = f": {1 + len(run.members)} models fill in together" if run.members else ""
        typer.echo(f"chose {' and '.join(named)}{models}; wrote {out}")
        note(f"next: {shlex.join(['jensen', 'impute', out, data])}")


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed; those that were not given are left out."""
    given = {name: value for name, value in options.items() if value is not None and value != DEFAULTS.get(name)}
    return [
        word
        for name, value in given.items()
        for one in (value if isinstance(value, list) else [value])
        for word in (f"--{name}", str(one))
    ]
