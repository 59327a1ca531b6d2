"""Tables: from data frames to float64 (N, D), every cell checked."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jensen.data.raw import Part
from jensen.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import pandas

EXACT = 2.0**53  # whole numbers up to which float64 is exact
SEPARATED = r"\s*[-+]?[$€£]?\s*(\d{1,3}([.,' ]\d{3})+|\d+)([.,]\d+)?\s*[%$€£]?\s*"
"""What a number looks like that has separators of thousands, a decimal comma or a unit, and is not read as one."""
PLAIN = "decimals take a point, not a comma, and numbers neither units nor separators of thousands"
DAY_FIRST = r"\s*\d{1,2}[./-]\d{1,2}[./-](\d{2}|\d{4})\b.*"
"""What a date looks like that is not written year first, and not read as one."""
NO_WORDS = (list, tuple, dict, set, np.ndarray, bytes, complex)  # what no cell of a table can be
Line = Callable[[int], str]


def row_words(row: int) -> str:
    """`row 1` is the first row of data."""
    return f"row {row + 1}"


def frame_of(array: np.ndarray, name: str) -> pandas.DataFrame:
    """An array (N,) or (N, D) as a frame with columns x0, x1, ...

    Raises:
        DataError: another number of dimensions, or not numbers.
    """
    import pandas

    if array.ndim not in (1, 2):
        raise DataError(f"{name}: expected a table (N, D) or pictures (N, H, W[, C]), got shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: expected numbers, got dtype {array.dtype}")
    array = array[:, None] if array.ndim == 1 else array
    return pandas.DataFrame(array, columns=[f"x{j}" for j in range(array.shape[1])])


def check_columns(columns: Sequence[str], name: str) -> None:
    """Raises `DataError` where two columns have one name, or there are none."""
    seen: set[str] = set()
    twice = [c for c in columns if c in seen or seen.add(c)]
    if twice:
        raise DataError(
            f"{name}: expected distinct column names, got {', '.join(map(repr, dict.fromkeys(twice)))} twice"
        )
    if not columns:
        raise DataError(f"{name}: expected at least one column, got none")


def nullable(frame: Any) -> Any:
    """Truth values and whole numbers that gaps made objects and real numbers, in dtypes that have gaps."""
    for name in frame.columns:
        column: Any = frame[name]
        if column.dtype.kind not in "fO" or not column.isna().any():
            continue
        present = column.dropna()
        if column.dtype == object and len(present) and present.map(lambda cell: isinstance(cell, bool)).all():
            frame[name] = column.astype("boolean")
        elif (
            column.dtype.kind == "f"
            and len(present)
            and (present == present.round()).all()
            and present.abs().max() < 2**53
        ):
            frame[name] = column.astype("Int64")
    return frame


def emptied(frame: pandas.DataFrame, missing: Sequence[str]) -> pandas.DataFrame:
    """A frame without the words, and the numbers, that stand for a missing cell, blanks about them left aside.

    A column of text that holds numbers besides is one of numbers.

    >>> import pandas
    >>> emptied(pandas.DataFrame({"age": ["3", " ?", "5"], "size": [1.5, -999.0, 2.5]}), ["?", "-999"])
        age  size
    0     3   1.5
    1  <NA>   NaN
    2     5   2.5
    """
    import pandas

    numbers = [float(word) for word in missing if is_number(word)]
    found = {}
    for name in frame.columns:
        column: Any = frame[name]
        if isinstance(column.dtype, pandas.CategoricalDtype):
            empty = column.isin([word for word in column.cat.categories if str(word).strip() in missing])
        elif getattr(column.dtype, "kind", "O") in "iuf":
            empty = column.isin(numbers)
        elif getattr(column.dtype, "kind", "O") == "O":
            empty = column.map(lambda cell: str(cell).strip() in missing)
        else:
            continue
        if not empty.any():
            continue
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iu":
            column = column.astype(column.dtype.name.replace("i", "I").replace("u", "U"))  # Int64 has gaps, int64 none
        left = column.mask(empty)
        found[name] = _as_read(left) if pandas.api.types.is_string_dtype(left.dtype) else left
    return frame.assign(**found) if found else frame


def is_number(word: str) -> bool:
    """Whether a word is a finite number."""
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _as_read(column: Any) -> Any:
    """A column of text (N,), None where empty, as a file of these cells is read: numbers, truth values or text."""
    import pandas

    text = column.astype(object).where(column.notna(), None)
    truths = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}
    if text.dropna().isin(truths).all():
        return nullable(text.map(truths.get).to_frame())[column.name]
    try:
        numbers: Any = pandas.to_numeric(text)
        return nullable(numbers.astype(np.float64).to_frame())[column.name]
    except (ValueError, TypeError):
        return column


def values(frame: pandas.DataFrame, name: str, line: Line = row_words, gaps: bool = False) -> np.ndarray:
    """The cells of a frame as float64 (N, D).

    Args:
        line: says where in the file a row, counted from 0, is.
        gaps: cells may be empty, and are NaN.

    Raises:
        DataError: columns (all named) are not numeric, or a cell is empty, infinite or too large to be exact.
    """
    if len(frame) == 0:
        raise DataError(f"{name}: expected at least one row of data, got none")
    out = np.empty(frame.shape)
    problems: list[DataError] = []
    for j, column in enumerate(frame.columns):
        try:
            out[:, j] = _numeric(frame[column], line)
        except DataError as e:
            problems.append(e)
    if problems:
        raise DataError.of(name, problems)
    if np.isfinite(out).all():
        return out
    empty = "empty cells (or NaN)", "fill them in (jensen impute)", np.isnan(out) & (not gaps)
    for what, way, wrong in (empty, ("infinite values", "empty those cells", np.isinf(out))):
        if wrong.any():
            counts = wrong.sum(axis=0)
            columns = ", ".join(f"{frame.columns[j]!r} ({counts[j]})" for j in np.flatnonzero(counts))
            row = int(wrong.any(axis=1).argmax())
            raise DataError(
                f"{name}: {what}, which are not taken here, first at {line(row)}; in columns: {columns}"
                f"; {way}, or leave out those rows, or train without those columns (--drop COLUMN, in Python drop=)"
            )
    return out


def check_exact(column: Any, line: Line = row_words) -> None:
    """Raises `DataError` naming the first cell, as it is written, that is a whole number and no float64."""
    for row, cell in enumerate(column):
        if isinstance(cell, str) and re.fullmatch(r"[-+]?\d{16,}", cell.strip()) and int(cell) != int(float(cell)):
            raise _inexact(column, row, line)


def _inexact(column: Any, row: int, line: Line) -> DataError:
    return DataError(
        f"column {column.name!r}, {line(row)}: {column.iloc[row]} is too large to be exact"
        f"; leave the column out with --drop {shlex.quote(str(column.name))}"
    )


def words(column: Any) -> tuple[np.ndarray, Any]:
    """Cells as words, None for an empty one, (N,); and the first real number among them, which is no word, or None.

    Raises:
        DataError: a cell holds several things, as a list does, or bytes.

    >>> import pandas
    >>> words(pandas.Series([3.0, None, 1.0]))
    (array(['3', None, '1'], dtype=object), None)
    """
    import pandas

    cells: Any = pandas.Series(column, dtype=object)
    present = cells.dropna().infer_objects()
    odd = next((cell for cell in present if isinstance(cell, NO_WORDS)), None) if present.dtype.kind in "Oc" else None
    if odd is not None:
        kind = type(odd).__name__
        raise DataError(f"column {cells.name!r}: expected a number, a word or a date a cell, got a {kind}")
    out = np.full(len(cells), None, dtype=object)
    if present.dtype.kind == "f":
        real = (present != present.round()) | np.isinf(present)
        if real.any():
            return out, present[real].iloc[0]
    whole = present.dtype.kind in "iuf"
    there = cells.notna().to_numpy()
    out[there] = [str(int(cell)) if whole else str(cell) for cell in cells.to_numpy()[there]]
    return out, None


def order(word: str) -> tuple[int, int, str]:
    """By which words are sorted: numbers before words."""
    digits = word.removeprefix("-")
    return (0, int(word), "") if digits.isascii() and digits.isdigit() else (1, 0, word)


def take_column(part: Part, column: str, option: str, name: str) -> Any:
    """The column that an option such as `label` names. Raises `ConfigError` where there is none."""
    if isinstance(part.x, np.ndarray):
        raise ConfigError(f"{option}: expected a table with columns, got pictures ({name})")
    if column not in part.x.columns:
        raise ConfigError(f"{option}: {name} has no column {column!r}{did_you_mean(column, part.x.columns)}")
    return part.x[column]


def _numeric(column: Any, line: Line) -> np.ndarray:
    import pandas

    if column.dtype == object:
        present = column.dropna().infer_objects()
        whole = len(present) == len(column) or present.dtype.kind not in "biuf"
        column = column.infer_objects() if whole else present.astype(np.float64).reindex(column.index)
    kind = getattr(column.dtype, "kind", "O")
    if kind in "biuf" and not isinstance(column.dtype, pandas.CategoricalDtype):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        if kind in "iu" and (np.abs(numbers) > EXACT).any():
            raise _inexact(column, int((np.abs(numbers) > EXACT).argmax()), line)
        return numbers
    if column.isna().all():
        return np.full(len(column), np.nan)
    if kind == "m":
        return column.dt.total_seconds().to_numpy(dtype=np.float64)
    numbers: Any = pandas.to_numeric(column.astype(str), errors="coerce")
    wrong = numbers.isna().to_numpy() & column.notna().to_numpy()
    if not wrong.any():  # as `Decimal`, or numbers written as words
        return numbers.to_numpy(dtype=np.float64)
    row, more = int(wrong.argmax()), int(wrong.sum()) - 1
    cell, word = str(column.iloc[row]), shlex.quote(str(column.name))
    others = f", as {more:,} cell{'s' if more > 1 else ''} more hold{'' if more > 1 else 's'} no number" if more else ""
    plain = f"; {PLAIN}" if re.fullmatch(SEPARATED, cell) else ""
    raise DataError(
        f"column {column.name!r} is not numeric: {line(row)} holds {cell!r}",
        f"{others}{plain}; where it stands for a missing number say so with --missing {shlex.quote(cell.strip())}, "
        f"take the column as words with --kind {shlex.quote(f'{column.name}=category')}, leave it out with "
        f"--drop {word}, or use it with --label {word} (in Python missing=, kinds=, drop=, label=)",
    )
