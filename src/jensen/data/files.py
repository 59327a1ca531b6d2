"""Reading files: tables, arrays, texts, sound and pictures, and folders of the last three."""

from __future__ import annotations

import csv
import gzip
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from jensen.data import audio, pictures, tables, text_files
from jensen.data.folders import find_files
from jensen.data.raw import ALL, SPLITS, Part, Raw
from jensen.errors import DataError

OF_COMMAS = "a table of comma-separated values in UTF-8"
OF_LINES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")  # tables whose rows are lines of a file
OF_SPLITS = {name: [f"{name}{end}" for end in ("", "_images", "_labels", "_y", "_given")] for name in SPLITS}
OF_X = ["X", "X_images", "images", "y", "labels", "X_labels", "given", "X_given"]  # arrays without splits
OF_CLASSES = "class_names"
_DELIMITERS = ",;\t"
_NAMED = 3  # files or arrays that a note names


def read_path(path: Path) -> Raw:
    """The data in a file or folder.

    Raises:
        DataError: the format is not known, or the file is corrupt or does not hold what it should.
    """
    if path.is_dir():
        return _read_folder(path)
    for ending, read in READERS.items():
        if path.name.lower().endswith(ending):
            return read(path)
    if path.suffix.lower() in pictures.SUFFIXES:
        return pictures.read_file(path)
    known = f"{', '.join(READERS)}, .png or another of pictures"
    raise DataError(f"{path}: expected a folder of pictures, of sound or of texts, or a file ending in {known}")


def _read_folder(folder: Path) -> Raw:
    """The files of the kind that a folder holds most of; a note says what was left out.

    Raises:
        DataError: it holds as many of two kinds, or what there is cannot be read.
    """
    held = {
        kind: [path for _, paths in find_files(folder, endings).values() for path in paths]
        for kind, (endings, _) in FOLDERS.items()
    }
    first, second, *_ = sorted(held, key=lambda kind: len(held[kind]), reverse=True)
    if 0 < len(held[first]) == len(held[second]):
        got = " and ".join(f"{_counted(kind, held[kind])}, as {held[kind][0].name}" for kind in (first, second))
        raise DataError(
            f"{folder}: expected mostly pictures, mostly sound or mostly texts, got {got}; keep one kind in it"
        )
    raw = FOLDERS[first][1](folder)
    left = [
        f"{_counted(kind, paths)} ({_some([str(path.relative_to(folder)) for path in paths])})"
        for kind, paths in held.items()
        if paths and kind != first
    ]
    return replace(raw, notes=(*raw.notes, f"left out: {', '.join(left)}")) if left else raw


def _counted(kind: str, paths: Sequence[Path]) -> str:
    return f"{len(paths):,} {kind.removesuffix('s') if len(paths) == 1 else kind}"


def _some(names: Sequence[str]) -> str:
    """The first names of several."""
    return ", ".join([*names[:_NAMED], *(["..."] if len(names) > _NAMED else [])])


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz. Raises `DataError` where it is corrupt or holds Python objects."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, KeyError) as e:
        raise DataError(f"{path}: {_reason(e, 'an .npz archive')}") from None


def _read_npz(path: Path) -> Raw:
    return named_arrays(read_arrays(path), str(path))


def unread(arrays: Mapping[str, Any]) -> list[str]:
    """Names of arrays that `named_arrays` does not look at."""
    held = {name: of for name, of in OF_SPLITS.items() if any(word in arrays for word in of[:2])}
    looked = [word for of in held.values() for word in of]
    if "train" not in held and any(word in arrays for word in OF_X[:3]):
        looked = OF_X
    return [name for name in arrays if name not in (*looked, OF_CLASSES)]


def named_arrays(arrays: Mapping[str, np.ndarray], source: str) -> Raw:
    """Arrays `train`, `valid`, `test` or `X`, also as `train_images`; labels `train_labels`, or `y`; what is given of
    each row `train_given`, or `given`. Others are not looked at, and named in a note.

    Args:
        source: what messages call them.

    Raises:
        DataError: there is neither `train` nor `X`, or they are no data.
    """
    data = {name: array for name in SPLITS if (array := _first(arrays, name, f"{name}_images")) is not None}
    labels = {name: _first(arrays, f"{name}_labels", f"{name}_y") for name in data}
    given = {name: arrays[f"{name}_given"] for name in data if f"{name}_given" in arrays}
    if "train" not in data:
        whole = _first(arrays, "X", "X_images", "images")
        if whole is not None:
            data, labels = {ALL: whole}, {ALL: _first(arrays, "y", "labels", "X_labels")}
            beside = _first(arrays, "given", "X_given")
            given = {} if beside is None else {ALL: beside}
    if not data:
        held = ", ".join(arrays) or "none"
        raise DataError(f"{source}: expected an array named train or X (or train_images, X_images), got {held}")
    names = arrays.get(OF_CLASSES)
    try:
        raw = raw_arrays(data, labels, source, None if names is None else tuple(map(str, names)))
        raw = beside_rows(raw, given, source)
    except DataError as e:
        raise DataError.of(source, [e]) from None
    others = unread(arrays)
    return replace(raw, notes=(*raw.notes, f"not looked at: {_some(others)}")) if others else raw


def _read_npy(path: Path) -> Raw:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise DataError(f"{path}: {_reason(e, 'an .npy file')}") from None
    return raw_arrays({ALL: array}, {}, str(path))


def raw_arrays(
    data: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray | None],
    name: str,
    classes: tuple[str, ...] | None = None,
) -> Raw:
    """Arrays, one a split: pictures where they have three dimensions or more, else a table.

    Labels that are real numbers, as a regression's target is, are left out.
    """
    notes: tuple[str, ...] = ()
    kept = {part: y for part, y in labels.items() if y is not None and _are_classes(y)}
    if len(kept) < sum(y is not None for y in labels.values()):
        notes = ("y holds real numbers, not classes, and was left out",)
    if any(array.ndim >= 3 for array in data.values()):
        raw = pictures.pictures(data, kept, name)
        return Raw(raw.parts, raw.levels, classes, notes=raw.notes + notes)
    parts = {part: Part(tables.frame_of(array, name), kept.get(part)) for part, array in data.items()}
    return Raw(parts, classes=classes, notes=notes)


def _rounded(frame: Any) -> list[Any]:
    """Columns of numbers as large as float64 has whole ones only, made such by a gap."""
    return [
        name
        for name in frame.columns
        if frame[name].dtype.kind == "f" and frame[name].isna().any() and (frame[name].abs() > tables.EXACT).any()
    ]


def beside_rows(raw: Raw, given: Mapping[str, np.ndarray], name: str) -> Raw:
    """Data with what is given of their rows, by split: pictures, or rows of numbers in columns given0, given1, ...

    Raises:
        DataError: these are neither, or not one for each row.
    """
    if not given:
        return raw
    beside: dict[str, Any] = {}
    if any(array.ndim >= 3 for array in given.values()):
        read = pictures.pictures(given, source=f"{name}: given")
        beside, levels = {part: found.x for part, found in read.parts.items()}, read.levels
    else:
        levels = None
        for part, array in given.items():
            frame = tables.frame_of(array, f"{name}: {part}_given")
            beside[part] = frame.set_axis([f"given{j}" for j in range(frame.shape[1])], axis=1)
    parts = {part: replace(found, given=beside.get(part)) for part, found in raw.parts.items()}
    return replace(raw, parts=parts, given_levels=levels)


def read_csv(path: Path) -> Raw:
    """A table with a header row; separated by commas, semicolons or tabs; UTF-8.

    Raises:
        DataError: empty, ragged, no UTF-8, two columns of one name, or a corrupt .gz.
    """
    import pandas

    try:
        with _open_text(path) as file:
            line = file.readline()
            if not line.strip():
                raise DataError(f"{path}: expected a header row, got an empty first line")
            delimiter = max(_DELIMITERS, key=line.count)
            file.seek(0)
            header = next(csv.reader(file, delimiter=delimiter))
        tables.check_columns(header, str(path))
        # Later versions read every decimal to the nearest float of themselves, and say so when asked to.
        version = [int(number) for number in pandas.__version__.split(".")[:2]]
        exact: Any = {} if version >= [3, 1] else {"float_precision": "round_trip"}
        with warnings.catch_warnings():
            # A row with more cells than the header would be cut with no more than this warning.
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            how = {"sep": delimiter, "index_col": False, "encoding": "utf-8-sig", "low_memory": False, **exact}
            frame = pandas.read_csv(path, **how)
            rounded = _rounded(frame)
            words: Any = pandas.read_csv(path, usecols=rounded, dtype=str, **how) if rounded else {}
    except (pandas.errors.ParserError, pandas.errors.ParserWarning) as e:
        raise DataError(f"{path}{_fault(path) or f': {_reason(e, OF_COMMAS)}'}") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, ValueError, Warning, csv.Error) as e:
        raise DataError(f"{path}: {_reason(e, OF_COMMAS)}") from None
    for name in rounded:
        tables.check_exact(words[name])
    return Raw({ALL: Part(tables.nullable(frame))}, named=True, notes=_no_header(header))


def _fault(path: Path) -> str:
    """Where a table is not one: `, line 3: expected ...`; nothing where that is not found."""
    with _open_text(path) as file:
        delimiter = max(_DELIMITERS, key=file.readline().count)
        file.seek(0)
        reader, line, width = csv.reader(file, delimiter=delimiter, strict=True), 1, 0
        try:
            for cells in reader:
                width = width or len(cells)
                if len(cells) > width:
                    wanted = f"expected {width} cells as in the header, separated by {delimiter!r}"
                    return f", line {line}: {wanted}, got {len(cells)}"
                line = reader.line_num + 1
        except csv.Error as e:
            ends = "end of data" in str(e) or "limit" in str(e)
            what = (
                'a quote " that is closed, got one that never is'
                if ends
                else f"a closing quote before a separator ({e})"
            )
            return f", line {line}: expected {what}"
    return ""


def _no_header(header: Sequence[str]) -> tuple[str, ...]:
    """A note where the first line looks like a row of data, as half of its cells are numbers; those that count the
    columns (0, 1, 2 ...) do not.
    """
    numbers = [name for name in header if tables.is_number(name)]
    counted = [*map(str, range(len(header)))], [*map(str, range(1, len(header) + 1))]
    if not numbers or 2 * len(numbers) < len(header) or [*header] in counted:
        return ()
    held = "every column name" if len(numbers) == len(header) else f"the column name {numbers[0]}"
    return (f"{held} is a number: if the first line is data, add a header line",)


def csv_line(path: Path) -> Callable[[int], str]:
    """Says at which line of the file a row is; blank lines and line breaks in quotes are counted."""

    def words(row: int) -> str:
        with _open_text(path) as file:
            delimiter = max(_DELIMITERS, key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            lines = (reader.line_num for cells in reader if cells)
            line = next((line for position, line in enumerate(lines) if position == row + 1), row + 2)
        return f"row {row + 1} (line {line})"

    return words


def _read_parquet(path: Path) -> Raw:
    import pandas
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            batches = [batch.to_pandas() for batch in file.iter_batches()]
            empty = file.schema_arrow.empty_table().to_pandas()
    except (OSError, pyarrow.ArrowException) as e:
        raise DataError(f"{path}: {_reason(e, 'a Parquet file')}") from None
    frame = pandas.concat(batches, ignore_index=True) if batches else empty
    tables.check_columns(list(map(str, frame.columns)), str(path))
    return Raw({ALL: Part(frame.set_axis(list(map(str, frame.columns)), axis=1))}, named=True)


READERS: dict[str, Callable[[Path], Raw]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".tsv": read_csv,
    ".tsv.gz": read_csv,
    ".parquet": _read_parquet,
    ".wav": audio.read_file,
    ".flac": audio.read_file,
    ".txt": text_files.read_text,
    ".txt.gz": text_files.read_text,
}


FOLDERS: dict[str, tuple[Iterable[str], Callable[[Path], Raw]]] = {
    "pictures": (pictures.SUFFIXES, pictures.read_folder),
    "recordings": (audio.SUFFIXES, audio.read_folder),
    "texts": (text_files.ENDINGS, text_files.read_folder),
}
"""What folders hold files of: how their names end, and what reads the folder."""


def _open_text(path: Path) -> TextIO:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _first(arrays: Mapping[str, np.ndarray], *names: str) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _are_classes(y: np.ndarray) -> bool:
    return y.ndim == 1 and (y.dtype.kind != "f" or bool(((y == np.rint(y)) | np.isnan(y)).all()))


def _reason(error: BaseException, expected: str) -> str:
    """What is wrong with a file, in one line."""
    text = str(error).strip().split("\n")[0]
    if isinstance(error, UnicodeDecodeError):
        return f"not in UTF-8 (byte {error.start + 1}); save it as UTF-8, as by iconv -f latin1 -t utf8"
    if "allow_pickle" in text:
        return "holds Python objects, which are not read for safety; expected arrays of numbers"
    return f"corrupt or not {expected} ({type(error).__name__}: {text})"
