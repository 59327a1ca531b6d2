"""What is printed: one JSON object, or text for people."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer

from jensen.errors import DataWarning, FitWarning, PrecisionWarning

NOTED = (DataWarning, PrecisionWarning, FitWarning)


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """Values fit for JSON: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return plain(value.tolist())
    return str(value)


def note(text: str) -> None:
    """A remark for people, on stderr."""
    typer.echo(text, err=True)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Inside, what data hold, float32 lost, or a fit met, is said in a note, once, instead of a Python warning."""
    with warnings.catch_warnings():
        show, said = warnings.showwarning, set()

        def tell(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, NOTED):
                show(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                note(f"{'warning' if issubclass(category, DataWarning) else 'note'}: {message}")

        warnings.showwarning = tell
        for category in NOTED:
            warnings.simplefilter("always", category)
        yield


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[str] = ()) -> None:
    """Aligned columns, wrapped at a terminal's width, whole elsewhere. Headers may be none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=bool(headers))
    for header in headers or [""] * (len(rows[0]) if rows else 0):
        table.add_column(header, justify="right" if header in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    on_terminal = sys.stdout.isatty()
    console = Console(width=None if on_terminal else 10_000, file=sys.stdout, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(3.21), duration(75), duration(3700)
    ('3.2 s', '1 min 15 s', '1 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
