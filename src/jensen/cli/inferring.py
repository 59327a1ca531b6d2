"""The command that infers a density given as a Python function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from jensen.cli.arguments import read_tokens
from jensen.cli.options import Json, Seed
from jensen.cli.printing import note, print_json
from jensen.cli.progress import EVERY_SECONDS
from jensen.cli.writing import OF_NUMBERS, STDOUT, write_result
from jensen.errors import ConfigError, InferenceWarning, did_you_mean

if TYPE_CHECKING:
    from jensen.jobs.infer import Progress


def infer(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the family, as rank=3 or layers=8."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION", help="log p̃(z) of rows z, in torch; or FILE.py:FUNCTION.", show_default=False
        ),
    ] = "",
    dim: Annotated[int, typer.Option(metavar="D", help="Dimensions of z.", show_default=False)] = 0,
    family: Annotated[
        str, typer.Option(metavar="F", help="mean-field, full, low-rank, mixture, or a flow, as iaf.")
    ] = "full",
    support: Annotated[
        list[str] | None,
        typer.Option(metavar="[D,..=]WHERE", help="positive, LOW..HIGH or LOW.. ; of dimensions D, or of all; repeat."),
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="X,X,..", help="A point near the target.", show_default=False)
    ] = None,
    gradient: Annotated[
        str, typer.Option(metavar="G", help="auto, pathwise, sticking-the-landing, score or measure-valued.")
    ] = "auto",
    samples: Annotated[int, typer.Option(metavar="S", help="Draws of q a step.")] = 16,
    draws: Annotated[int, typer.Option(metavar="N", help="Draws of the fitted q, which judge it.")] = 20_000,
    max_steps: Annotated[
        int, typer.Option(metavar="N", help="A limit; the fit ends when its bound stops rising.")
    ] = 20_000,
    step_size: Annotated[
        float | None,
        typer.Option(metavar="R", help="Of the first steps. [default: 0.05, flows 0.005]", show_default=False),
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR|FILE",
            help="A folder for q; or a file for weighted draws: .csv, ...",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit a density q to any log density of yours, known up to a constant, and say how far to trust it.

    jensen infer --target mymodel:log_posterior --dim 5 --family full --support 0=positive
    """
    problems = []
    if not target:
        problems.append("--target: name a function, as --target mymodel:log_posterior")
    if dim < 1:
        problems.append("--dim: give the number of dimensions, as --dim 5")
    chosen = read_tokens(settings or [], problems)
    where = _support(support or [], problems)
    at = _point(start, problems)
    to_file = out is not None and (out == STDOUT or Path(out).suffix.lower() in OF_NUMBERS)
    if out is not None and not to_file and Path(out).suffix:
        problems.append(f"--out: expected a folder, a file ending in {', '.join(OF_NUMBERS)}, or -, got {out}")
    if out == STDOUT and as_json:
        problems.append("--out - and --json would both write to stdout; name a file")
    if problems:
        raise ConfigError(problems)
    function, how = find_function(target), cast(Any, gradient)  # checked by the job
    from jensen.jobs.infer import infer as job

    with warnings.catch_warnings(record=True) as caught, _Windows() as listener:
        warnings.simplefilter("always", InferenceWarning)
        found = job(
            function, dim, family=family, support=where, start=at, gradient=how, samples=samples, draws=draws,
            max_steps=max_steps, step_size=step_size, seed=seed, out=None if to_file else out, target=target,
            listener=listener, **_nested(chosen),
        )  # fmt: skip  # pyright: ignore[reportArgumentType]
    for warning in caught:
        if not issubclass(warning.category, InferenceWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if to_file and out is not None:
        write_result(out, found.resampled.numpy(), columns=[f"z{d}" for d in range(dim)])
    if as_json:
        print_json(found.to_dict())
    elif out != STDOUT:
        typer.echo(str(found))
    if out not in (None, STDOUT):
        note(f"wrote {out}")


def find_function(target: str, option: str = "--target") -> Callable[..., Any]:
    """The function that `module:function` or `file.py:function` names; modules are looked for here, too.

    Raises:
        ConfigError: there is none.
    """
    place, sign, name = target.rpartition(":")
    if not sign or not place or not name:
        raise ConfigError(f"{option}: expected module:function, as mymodel:log_posterior, got {target!r}")
    if place.endswith(".py"):
        module = _from_file(Path(place), option)
    else:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as e:
            if e.name and (place == e.name or place.startswith(f"{e.name}.")):
                raise ConfigError(f"{option}: there is no module {place!r} here or installed") from None
            raise ConfigError(f"{option}: importing {place!r} failed: {e}") from None
        except (ImportError, SyntaxError) as e:
            raise ConfigError(f"{option}: importing {place!r} failed: {e}") from None
    found = getattr(module, name, None)
    if found is None:
        known = [n for n in vars(module) if not n.startswith("_") and callable(getattr(module, n))]
        raise ConfigError(f"{option}: {place} has no {name!r}{did_you_mean(name, known)}")
    if not callable(found):
        raise ConfigError(f"{option}: {target} is a {type(found).__name__}, expected a function")
    return found


def _from_file(path: Path, option: str) -> Any:
    if not path.is_file():
        raise ConfigError(f"{option}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as e:
        raise ConfigError(f"{option}: importing {path} failed: {e}") from None
    return module


def _nested(settings: dict[str, Any]) -> dict[str, Any]:
    from jensen.registry import nest

    return nest(settings, [])


def _support(words: Sequence[str], problems: list[str]) -> Any:
    """`positive` for all, or `0,2=positive` and `1=0..1` for some."""
    if len(words) == 1 and "=" not in words[0]:
        return _range(words[0], problems)
    found: dict[int, Any] = {}
    for word in words:
        dims, sign, kind = word.partition("=")
        try:
            indices = [int(d) for d in dims.split(",")] if sign else []
        except ValueError:
            indices = []
        if not indices:
            problems.append(f"--support: expected WHERE for all dimensions, or D=WHERE, as 0=positive, got {word!r}")
            continue
        found |= dict.fromkeys(indices, _range(kind, problems))
    return found or None


def _range(text: str, problems: list[str]) -> Any:
    if text in ("positive", "real"):
        return text
    low, sign, high = text.partition("..")
    try:
        if sign:
            return (float(low) if low else None, float(high) if high else None)
    except ValueError:
        pass
    problems.append(f"--support: expected positive, real, LOW..HIGH, LOW.. or ..HIGH, got {text!r}")
    return None


def _point(text: str | None, problems: list[str]) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(x) for x in text.split(",")]
    except ValueError:
        problems.append(f"--start: expected numbers with commas between them, got {text!r}")
        return None


class _Windows:
    """A listener of the fit: a live line on a terminal, now and then a plain one elsewhere."""

    def __init__(self) -> None:
        self._said, self._live, self._bar = time.monotonic(), sys.stderr.isatty(), None

    def __enter__(self) -> _Windows:
        if self._live:
            from rich.console import Console
            from rich.status import Status

            self._bar = Status("looking for a start", console=Console(stderr=True))
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, at: Progress) -> None:
        line = f"step {at.step:,}: elbo {at.elbo:.3f} ± {at.stderr:.3f}, step size {at.step_size:.2g}"
        if self._bar is not None:
            self._bar.update(line)
        elif time.monotonic() - self._said >= EVERY_SECONDS:
            note(line)
            self._said = time.monotonic()
