"""The command that trains."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jensen.cli.arguments import Settings, column_names, read_kinds, read_settings, sound_options, text_options
from jensen.cli.failures import stopped
from jensen.cli.inputs import STDIN, read_stdin
from jensen.cli.options import (
    Binarize,
    Drop,
    Given,
    GivenView,
    Group,
    Json,
    Kinds,
    Label,
    Missing,
    Sound,
    Text,
    Time,
    Weight,
)
from jensen.cli.printing import duration, note, print_json, warnings_as_notes
from jensen.cli.progress import TrainingProgress, log_jacobian_of
from jensen.errors import ConfigError, JensenError
from jensen.units import is_bound, is_of_data

if TYPE_CHECKING:
    from jensen.jobs.run import Run


def train(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="See jensen models.", show_default=False)] = None,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="A name (jensen data), a path or - for stdin.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as latents=20 decoder=gated train.clip=5."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="DIR", help="The run folder to write.", show_default=False),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="F.yaml", help="Settings from a file.", show_default=False),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="P", help="Shipped settings; see jensen show.", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes through the data.", show_default=False)] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall-clock budget.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Data per step.", show_default=False)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at its highest.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and draws.", show_default=False)] = None,
    precision: Annotated[str | None, typer.Option(metavar="P", help="fp32, bf16 or auto.", show_default=False)] = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:1.", show_default=False)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of the CPU.", show_default=False)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share each batch, of one thread each.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    binarize: Binarize = None,
    label: Label = None,
    drop: Drop = None,
    kinds: Kinds = None,
    missing: Missing = None,
    conditions: Given = None,
    given_view: GivenView = None,
    group: Group = None,
    time: Time = None,
    weight: Weight = None,
    sound: Sound = None,
    text: Text = None,
    as_json: Json = False,
) -> None:
    """Train a model on data. Without --epochs or --minutes: until validation stops improving.

    jensen train vae mnist-5k --out runs/a latents=20 --minutes 2

    Give a trained model another prior, fitted to its codes: jensen train prior RUN prior=mixture --out runs/b
    """
    model, data, tokens = _told_apart(model, data, settings or [])
    given = read_settings(tokens, config)
    training = {
        "epochs": epochs,
        "minutes": minutes,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "precision": precision,
        "device": device,
        "threads": threads,
        "workers": workers,
    }
    training = {key: value for key, value in training.items() if value is not None}
    of_data = {
        "binarize": binarize,
        "label": label,
        "drop": drop or (),
        "kinds": read_kinds(kinds),
        "missing": missing or (),
        "given": column_names(conditions) or (),
        "given_view": given_view,
        "group": group,
        "time": time,
        "weight": weight,
        **sound_options(sound),
        "text": text_options(text),
    }
    of_data = {key: value for key, value in of_data.items() if value not in (None, (), {})}
    if out is None:
        given.problems.insert(0, "--out is missing: the run folder to write, as --out runs/a")
    absent = [name for name, value in (("MODEL", model), ("DATA", data)) if value is None and not resume]
    if absent:
        given.problems.insert(0, f"{' and '.join(absent)} missing, as in: jensen train vae mnist-5k --out runs/a")
    if resume and overwrite:
        given.problems.append("--resume goes on with a run and --overwrite replaces it: expected one of them")
    if (out is None or absent) and given.problems:
        raise ConfigError(given.problems)
    assert out is not None

    was_there = (Path(out) / "spec.yaml").exists()
    with (
        TrainingProgress(as_json, lambda: log_jacobian_of(out)) as progress,
        sigterm_as_interrupt() as terminated,
    ):
        try:
            with warnings_as_notes():
                run = _train(model, data, out, given, preset, resume, overwrite, progress, training, of_data)
                progress.stop()
            if resume and not as_json:
                _say_what_is_kept(run, progress.told, training.get("epochs"))
        except KeyboardInterrupt:
            progress.stop()
            begun = (Path(out) / "spec.yaml").exists() and (resume or overwrite or not was_there)
            stopped(bool(terminated), resume_command(model, data, out) if begun else None)
    summary = summarize(run, out)
    if as_json:
        print_json(summary)
    else:
        _print_summary(run, summary)


def _say_what_is_kept(run: Run, trained: bool, epochs: int | None) -> None:
    """Of a run that went on: that it had ended, or had more epochs than were asked for."""
    done = run.log[-1]["epoch"] if run.log else 0
    if epochs is not None and epochs < done:
        note(
            f"--epochs {epochs:,} is less than what was done: all {done:,} epochs and their weights are kept; a number "
            f"above {done:,} lengthens training"
        )
    elif not trained:
        note(f"training had ended already, after {done:,} epochs; --epochs with a larger number lengthens it")


def _told_apart(model: str | None, data: str | None, tokens: list[str]) -> tuple[str | None, str | None, list[str]]:
    """Model, data and settings, where the first may be left out because a run goes on."""
    names: list[str | None] = []
    early = []
    for word in (model, data):
        is_setting = word is not None and "=" in word and not Path(word).exists()
        early += [word] if is_setting else []
        names += [] if is_setting else [word]
    model, data, *_ = *names, None, None
    return model, data, [*early, *tokens]


def _train(
    model: str | None,
    data: str | None,
    out: str,
    given: Settings,
    preset: str | None,
    resume: bool,
    overwrite: bool,
    listener: Any,
    training: dict[str, Any],
    of_data: dict[str, Any],
) -> Run:
    """The job, problems of tokens told with those of settings, and keys of the file with their lines."""
    from jensen.jobs.train import check, load_data
    from jensen.jobs.train import train as job
    from jensen.training.folder import Folder

    options = {**training, **of_data}
    if model == "prior" and not resume:
        return _train_prior(data, out, given, overwrite, listener, options)
    if resume:
        spec = Folder.open(out).spec()
        model, data = (None, None) if model == "prior" else (model, data)
        model, preset = model or spec["model"], preset or spec.get("preset")
    assert model is not None
    problems = list(given.problems)
    try:
        check(model, given.values, preset, options)
    except ConfigError as e:
        problems += [given.located(_by_option(problem, training)) for problem in e.problems]
    if problems:
        raise ConfigError(problems)
    loaded: Any = data
    if data == STDIN:
        loaded = read_stdin(lambda path: load_data(path, **of_data), "text" in of_data)
        options = training
    return job(
        model,
        loaded,
        out=out,
        settings=given.values,
        preset=preset,
        resume=resume,
        overwrite=overwrite,
        listener=listener,
        **options,
    )


def _by_option(problem: str, training: Mapping[str, Any]) -> str:
    """A problem `train.lr: …` of a setting that an option gave by the option, `--lr: …`."""
    name, colon, rest = problem.partition(": ")
    key = name.removeprefix("train.")
    return f"--{key.replace('_', '-')}{colon}{rest}" if key != name and key in training else problem


def _train_prior(
    run: str | None, out: str, given: Settings, overwrite: bool, listener: Any, options: dict[str, Any]
) -> Run:
    """The prior of a trained run replaced, and fitted to its codes."""
    from jensen.jobs.run import open_run
    from jensen.jobs.train_prior import train_prior

    if given.problems:
        raise ConfigError(given.problems)
    assert run is not None
    try:
        return train_prior(
            open_run(run), out=out, settings=given.values, overwrite=overwrite, listener=listener, **options
        )
    except ConfigError as e:
        raise ConfigError([given.located(problem) for problem in e.problems]) from None


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[list[bool]]:
    """Inside, SIGTERM does what Ctrl-C does. Yields a list that is empty until it came."""
    asked: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    from jensen.training.interruption import Interruption

    def interrupt(_: int, frame: Any) -> None:
        asked.append(True)
        handler = signal.getsignal(signal.SIGINT)
        if Interruption.awaiting:
            Interruption.awaiting[-1].ask(signal.SIGINT, frame)
        elif callable(handler):
            handler(signal.SIGINT, frame)
        else:  # ignored, as in the background of a script
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def resume_command(model: str | None, data: str | None, out: str) -> str:
    """What to type to go on."""
    return shlex.join(["jensen", "train", *filter(None, (model, data)), "--out", out, "--resume"])


def summarize(run: Run, out: str) -> dict[str, Any]:
    """Where the run is, how long it trained, and its best validation in the user's units."""
    from jensen.core import ESTIMATE

    best, name = run.best, run.monitor
    valid = None
    if best is not None:
        likelihood = ESTIMATE if run.model.objective.validation_estimates else run.capabilities.likelihood
        valid = {
            "name": name,
            "nats": best["valid"][name] + run.schema.log_jacobian * is_of_data(name),
            "kind": likelihood if is_bound(name) else "codes" if name == "log_prior" else "reconstruction",
            "epoch": best["epoch"],
            "split": "valid" if "valid" in run.spec["data"]["splits"] else "train",
            **_before(run, name),
        }
    last = run.log[-1] if run.log else {}
    stages = {line["stage"]: line["epoch"] for line in run.log if len(run.model.objective.stages) > 1}
    return {
        "out": out,
        "model": run.spec["model"],
        "data": run.spec["data"]["name"],
        "epochs": sum(stages.values()) or last.get("epoch", 0),
        **({"stages": stages} if len(stages) > 1 else {}),
        "seconds": last.get("seconds", 0.0),
        "valid": valid,
    }


def _before(run: Run, name: str) -> dict[str, float]:
    """Of a prior that was fitted: what was validated with the one before, where that run still stands."""
    from jensen.jobs.run import open_run

    if "prior_of" not in run.spec:
        return {}
    try:
        best = open_run(run.spec["prior_of"]).best
    except JensenError:
        return {}
    if best is None or name not in best["valid"]:
        return {}
    return {"before": best["valid"][name] + run.schema.log_jacobian * is_of_data(name)}


def _print_summary(run: Run, summary: dict[str, Any]) -> None:
    epochs = f"{summary['epochs']:,} epoch{'' if summary['epochs'] == 1 else 's'}"
    if "stages" in summary:
        epochs += f" ({', '.join(f'{n:,} of {name}' for name, n in summary['stages'].items())})"
    time = duration(summary["seconds"])
    typer.echo(f"{summary['model']} on {summary['data']}: {epochs} in {time}, in {summary['out']}")
    valid = summary["valid"]
    if valid is not None:
        of = run.density
        kinds = {"lower_bound": f"a lower bound on {of}", "exact": f"exact {of}", "estimate": "an estimate"}
        kind = f", {kinds[valid['kind']]}" if valid["kind"] in kinds else ""
        name = valid["name"].replace("_", " ")
        rows = {"valid": "validation", "train": "training"}[valid["split"]]
        typer.echo(f"best {rows} {name}: {valid['nats']:.2f} nats{kind} (epoch {valid['epoch']:,})")
        if "before" in valid:
            typer.echo(f"with the prior before: {valid['before']:.2f} nats")
    out = shlex.quote(summary["out"])
    if run.capabilities.likelihood:
        typer.echo(f"next: jensen score {out}")
    else:
        typer.echo(f"next: jensen reconstruct {out} --out reconstructions.{_usual_suffix(run)}")


def _usual_suffix(run: Run) -> str:
    """Of a file to which data like these are written."""
    return "png" if run.schema.is_image else "wav" if run.schema.is_sound else "csv"
