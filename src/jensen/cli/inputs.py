"""What commands read: run folders, and data that may come from stdin."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jensen.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jensen.data import Dataset
    from jensen.jobs.run import Run

STDIN = "-"
_MAGIC = {
    b"PK\x03\x04": ".npz",
    b"PK\x05\x06": ".npz",
    b"\x93NUMPY": ".npy",
    b"PAR1": ".parquet",
    b"\x1f\x8b": ".csv.gz",
    b"RIFF": ".wav",
    b"fLaC": ".flac",
}


def open_run(path: str, device: str = "auto") -> Run:
    """A trained model from its folder, on a device; where its training did not come to its end, a note says so."""
    from jensen.cli.printing import note
    from jensen.hardware import pick_device
    from jensen.jobs.run import open_run as opened

    run = opened(path, str(pick_device(device)))
    if run.unfinished:
        note(
            f"note: training of {path} has not finished, it stands {run.unfinished}; go on with: jensen train --out "
            f"{shlex.quote(path)} --resume"
        )
    return run


def data_for(run: Run, ref: str | None) -> Any:
    """A reference to data as jobs take it; what comes by stdin is read and fitted to the run's schema."""
    if ref != STDIN:
        return ref
    from jensen.data import load_data

    return read_stdin(lambda path: load_data(path, schema=run.schema), comes_as_text(run))


def comes_as_text(run: Run) -> bool:
    """Whether what comes by stdin is a text: a model of a column of texts is sent tables."""
    return run.schema.is_text and run.schema.container != "pandas"


def read_stdin(load: Callable[[Path], Dataset], text: bool = False) -> Dataset:
    """Data from stdin: .csv, .csv.gz, .npy, .npz or .parquet, told apart by their first bytes, or .txt[.gz]."""
    with stdin_file(text) as path:
        return replace(load(path), name="stdin", origin="stdin", recipe=None)


@contextmanager
def stdin_file(text: bool = False) -> Iterator[Path]:
    """Inside, what came by stdin lies in a file of its kind; errors that name the file name stdin."""
    content = sys.stdin.buffer.read()
    if not content:
        raise DataError("stdin: expected data, got nothing")
    suffix = next((suffix for magic, suffix in _MAGIC.items() if content.startswith(magic)), ".csv")
    suffix = suffix.replace(".csv", ".txt") if text else suffix
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"stdin{suffix}"
        path.write_bytes(content)
        try:
            yield path
        except (DataError, ConfigError) as e:
            raise type(e)(str(e).replace(str(path), "stdin")) from None
