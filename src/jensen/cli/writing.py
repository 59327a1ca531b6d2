"""Results that go into a file: arrays, tables and pictures, by the file's suffix."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jensen.cli.printing import note
from jensen.errors import ConfigError

if TYPE_CHECKING:
    import pandas

    from jensen.jobs.given import Given
    from jensen.jobs.run import Run

STDOUT = "-"
OF_NUMBERS = (".npz", ".npy", ".csv", ".parquet", ".json")
SUFFIXES = (*OF_NUMBERS, ".png", ".txt", ".wav")


def check_out(out: str, tables_only: bool = False) -> None:
    """Raises `ConfigError`, before any work is done, where `out` cannot be written."""
    if out == STDOUT:
        return
    path, known = Path(out), OF_NUMBERS if tables_only else SUFFIXES
    if path.suffix.lower() not in known:
        raise ConfigError(f"--out: expected a file ending in {', '.join(known)}, or -, got {out}")
    if path.is_dir():
        raise ConfigError(f"--out: {out} is a folder, expected a file")


def write_result(
    out: str,
    result: Any,
    levels: int | None = None,
    columns: list[str] | None = None,
    across: int | None = None,
    beside: Mapping[str, Any] = {},
) -> None:
    """Write an array or a frame, whole or not at all; the format is the suffix's.

    Args:
        result: pictures (n, C, H, W), rows (n, D), or a frame.
        levels: of pictures; None where the result is none.
        columns: names of the columns of rows.
        across: pictures side by side.
        beside: further arrays of an .npz.
    """
    if out == STDOUT:
        _to_stdout(result, levels, columns, across)
        return
    from jensen.training.folder import write_atomically

    write_atomically(Path(out), encoded(result, Path(out).suffix.lower(), levels, columns, across, beside))


def write_rows(out: str, table: Any) -> None:
    """Write a frame whose column `row` has positions, as rows are counted in files: the first is 1."""
    write_result(out, table.assign(row=table["row"] + 1))


RULE = "-" * 40
"""Between texts that are more than a line."""


def write_texts(out: str, texts: Any, lines: bool, whole: bool = False) -> None:
    """Write texts (n,): to .txt or stdout, one a line or, windows of a text, with rules between them; or as a table.

    Args:
        whole: a text alone that is no line is written as it is, with nothing after it.
    """
    suffix = Path(out).suffix.lower()
    if out != STDOUT and suffix != ".txt":
        import pandas

        write_result(out, pandas.DataFrame({"text": list(texts)}))
        return
    after = "" if whole and not lines and len(texts) == 1 else "\n"
    write_content(out, (("\n" if lines else f"\n{RULE}\n").join(texts) + after).encode())


def write_content(out: str, content: bytes) -> None:
    """Write bytes into a file, whole or not at all, or to stdout."""
    if out == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    from jensen.training.folder import write_atomically

    write_atomically(Path(out), content)


def write_sounds(out: str, waves: Any, rate: int, columns: int | None = None) -> list[str]:
    """Write clips (n, T): a .wav each, numbered where there are several; a .png of their mel bands; or numbers.

    Args:
        columns: of a .png, clips side by side.

    Returns:
        The files written.
    """
    from jensen.data.audio import wav
    from jensen.training.folder import write_atomically

    path, suffix = Path(out), Path(out).suffix.lower()
    if out == STDOUT:
        if len(waves) > 1 or sys.stdout.isatty():
            raise ConfigError("--out -: expected one clip, and a pipe to take it; name a file, as --out samples.wav")
        write_content(STDOUT, wav(waves[0], rate))
        return []
    if suffix == ".png":
        from jensen.jobs import pictures, sounds

        write_atomically(path, pictures.png(sounds.sheet(waves, rate, columns=columns)))
        return [out]
    if suffix != ".wav":
        write_result(out, waves)
        return [out]
    width = len(str(len(waves)))
    names = [f"{path.stem}-{i + 1:0{width}}{path.suffix}" for i in range(len(waves))] if len(waves) > 1 else [path.name]
    for name, wave in zip(names, waves, strict=True):
        write_atomically(path.with_name(name), wav(wave, rate))
    return [str(path.with_name(name)) for name in names]


def check_sound(out: str, run: Run) -> None:
    """Raises `ConfigError` where a .wav is to hold what is no sound."""
    if out.lower().endswith(".wav") and not run.schema.is_sound:
        raise ConfigError(f"--out: a .wav holds sound, and {run.name} is a model of other data; use .npz or .csv")


def write_data(
    out: str, run: Run, result: Any, columns: int | None = None, given: Given | None = None, whole: bool = False
) -> None:
    """Write data in the user's types, as a run gives them: pictures, tables, texts or clips.

    Args:
        whole: a text alone that is no line goes into a file as it is.
        columns: of a .png, pictures side by side.
        given: under which conditions data were drawn, which stand beside them in an .npz, as training reads them.
    """
    schema = run.schema
    if schema.is_sound:
        files = write_sounds(out, result, schema.fields[0].rate or 1, columns)
        say(files[0] if len(files) == 1 else f"{files[0]} to {Path(files[-1]).name}" if files else STDOUT, result)
        return
    if schema.is_text:
        write_texts(out, result, schema.tokens.lines, whole)
        say(out, result)
        return
    names = schema.names if result.shape[1] == len(schema.names) else _all_names(run)
    beside = {} if hasattr(result, "iloc") else _conditions(run, given)
    if not out.lower().endswith(".npz"):
        if "y" in beside and schema.label is None and not schema.is_image:
            result = _frame(result, names).assign(label=beside["y"])
        beside = {}
    elif beside and not schema.is_image:
        result = result[:, : len(schema.names)]
    write_result(out, result, schema.levels, None if schema.is_image else names, across=columns, beside=beside)
    say(out, result)


def _conditions(run: Run, given: Given | None) -> dict[str, Any]:
    """Conditions and labels by the names that they have in an .npz."""
    import numpy as np

    if given is None:
        return {}
    labels = None if given.y is None else np.asarray(run.schema.labels(given.y))
    if labels is not None and labels.dtype == object:
        whole = all(str(word).lstrip("-").isdigit() for word in labels)
        labels = labels.astype(np.int64 if whole else str)
    return {name: value for name, value in (("given", given.c), ("y", labels)) if value is not None}


def _all_names(run: Run) -> list[str]:
    """Columns of what is drawn, conditions among them."""
    schema, context = run.schema, run.model.conditions
    labels = [schema.label] if "y" in context and schema.label is not None else []
    given = [*(schema.given_names if "c" in context else []), *labels]
    return [name for name in schema.order or (*schema.names, *given) if name in (*schema.names, *given)]


def say(out: str, result: Any) -> None:
    """What was written, on stderr."""
    if out != STDOUT:
        shape = " x ".join(map(str, result.shape))
        note(f"wrote {out} ({shape})")


def encoded(
    result: Any,
    suffix: str,
    levels: int | None = None,
    columns: list[str] | None = None,
    across: int | None = None,
    beside: Mapping[str, Any] = {},
) -> bytes:
    """A result as the bytes of a file, in an .npz with others `beside` it.

    Raises:
        ConfigError: that format cannot hold it.
    """
    import numpy as np

    buffer = io.BytesIO()
    if suffix == ".png":
        _grid(result, levels, across).save(buffer, format="PNG")
    elif suffix == ".txt":
        raise ConfigError("--out: a .txt holds texts; for rows of numbers use .csv, .parquet, .npy or .npz")
    elif suffix == ".wav":
        raise ConfigError("--out: a .wav holds sound; for rows of numbers use .csv, .parquet, .npy or .npz")
    elif suffix == ".npy":
        np.save(buffer, _array(result), allow_pickle=False)
    elif suffix == ".npz":
        np.savez_compressed(buffer, X=_array(result), **beside)
    elif suffix == ".parquet":
        _frame(result, columns).to_parquet(buffer, index=False)
    elif suffix == ".json":
        _frame(result, columns).to_json(buffer, orient="records", lines=False, double_precision=15)
    else:
        _frame(result, columns).to_csv(buffer, index=False)
    return buffer.getvalue()


def _to_stdout(result: Any, levels: int | None, columns: list[str] | None, across: int | None) -> None:
    """Tables as CSV; pictures as PNG, but not into a terminal."""
    if levels is not None and sys.stdout.isatty():
        raise ConfigError("--out -: pictures would be written to the terminal; name a file, as --out samples.png")
    write_content(STDOUT, encoded(result, ".csv" if levels is None else ".png", levels, columns, across))


def _array(result: Any) -> Any:
    """Numbers alone: a frame's values lose their names."""
    import numpy as np

    array = np.asarray(result)
    if array.dtype == object:
        raise ConfigError("--out: .npy and .npz hold numbers of one type; for a table use .csv or .parquet")
    return array


def _frame(result: Any, columns: list[str] | None) -> pandas.DataFrame:
    import numpy as np
    import pandas

    if isinstance(result, pandas.DataFrame):
        return result
    rows = np.asarray(result)
    rows = rows.reshape(len(rows), -1)
    return pandas.DataFrame(rows, columns=columns or [f"x{j}" for j in range(rows.shape[1])])


def _grid(result: Any, levels: int | None, across: int | None) -> Any:
    if levels is None:
        raise ConfigError("--out: a .png holds pictures; for rows of numbers use .csv, .parquet, .npy or .npz")
    if result.shape[1] not in (1, 3):
        raise ConfigError(f"--out: a .png holds grey or colour pictures, got {result.shape[1]} channels; use .npz")
    from jensen.jobs.pictures import grid

    return grid(result, columns=across, levels=levels)
