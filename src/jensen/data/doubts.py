"""What is doubtful in a table: columns that nothing is learned of, or other things than are meant."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from jensen.data.field import Field

MANY, FEW = 1000, 20  # different words of which a column is warned of: so many, or so many where most come once
ABSENT = ("?", "-", "--", "---", ".", "..", "...", "n.a.", "n/a.", "missing", "not available")  # words, small
FAR, MOST = 1e6, 0.9  # times what so many of the numbers are from the median at most
OFTEN, LEAST_ROWS = 0.25, 50  # the share of one number of which is warned, of so many rows
CODES = (-9, -99, -999, -9999, -99999)


def doubts(fields: Sequence[Field], parts: Sequence[np.ndarray]) -> list[str]:
    """In sentences: columns without a cell, real numbers that never vary or of which one dwarfs all, names and
    numbers of rows, words that differ by case or blanks alone, and words and numbers that may stand for a missing cell.

    Args:
        parts: rows (N, D) of each split, in the user's units.
    """
    return [said for j, field in enumerate(fields) for said in _of_column(field, [x[:, j] for x in parts])]


def spikes(fields: Sequence[Field], x: np.ndarray) -> list[str]:
    """In a sentence, which real columns hold few numbers, or one of them again and again: there a density has peaks
    without bound, which are not what is to be learned.

    Args:
        x: training rows (N, D), in the user's units.
    """
    found: dict[str, str] = {}
    for field, column in zip(fields, x.T, strict=True):
        cells = column[~np.isnan(column)]
        if not field.continuous or field.constant or len(cells) < LEAST_ROWS:
            continue
        values, counts = np.unique(cells, return_counts=True)
        if len(values) <= FEW:
            found[field.name] = f"{len(values)} numbers in {len(cells):,} rows"
        elif counts.max() >= OFTEN * len(cells):
            found[field.name] = f"{counts.max() / len(cells):.0%} of the rows hold {values[counts.argmax()]:g}"
    if not found:
        return []
    name, column = shlex.quote(next(iter(found))), "column" if len(found) == 1 else "columns"
    way = (
        f"make it a condition with --given {name}, leave it out with --drop {name} (in Python given=, drop=), or take "
    )
    whole = x[:, [field.name for field in fields].index(next(iter(found)))]
    if (np.isnan(whole) | ((whole >= 0) & (whole == np.rint(whole)))).all():
        way += f"a model of mixed columns, as nade with --kind {name}=count or =ordinal"
    else:
        way += "a model for values that come again, kernels"
    if (x >= 0).all() and (x == np.rint(x)).all():  # of one kind, as a flow takes them
        kinds = " ".join(f"--kind {shlex.quote(field.name)}=count" for field in fields)
        way = f"as counts they have none: {kinds} (in Python kinds=)"
    told = ", ".join(f"{one!r} ({why})" for one, why in found.items())
    return [
        f"{column} {told}: where numbers come again a density peaks, the more the longer is trained, and "
        f"log-likelihoods tell of little else; {way}"
    ]


def _of_column(field: Field, cells: Sequence[np.ndarray]) -> Iterator[str]:
    name, drop = field.name, f"leave it out with --drop {shlex.quote(field.name)} (in Python drop=)"
    if not field.present:
        yield (
            f"column {name!r} has no cell in the training rows: nothing is learned of it, and it stays empty in what "
            f"is drawn or filled in; {drop}"
        )
        return
    if field.constant and field.continuous:
        yield (
            f"column {name!r} holds one value in all training rows: a density of it has no bound, so that "
            f"log-likelihoods grow for as long as is trained, whatever is learned of the other columns; {drop}"
        )
    if field.kind in ("real", "count") and _number_rows(np.concatenate(cells)):
        yield f"column {name!r} numbers the rows, and a number that comes once says nothing of other rows; {drop}"
    if field.continuous and (far := _far_from_all(cells)) is not None:
        yield (
            f"column {name!r} holds {far:g}, so far from all others that these are one and the same on its scale; mend "
            f"it, or empty that cell; {drop}"
        )
    words, there = field.categories or (), sum(int((~np.isnan(x)).sum()) for x in cells)
    if len(words) > MANY or (len(words) > FEW and len(words) > there / 2):
        yield (
            f"column {name!r} holds {len(words):,} different words in {there:,} cells; names of rows, and of things "
            f"that hardly ever come twice, say nothing of others and take long to learn; {drop}"
        )
    alike = alike_words(words)
    if alike:
        yield (
            f"column {name!r}: {', '.join(map(repr, alike))} differ in case or blanks alone, and are taken for "
            "different words"
        )
    absent = [word for word in words if word.strip().lower() in ABSENT] if words else _codes(cells)
    if absent:
        yield (
            f"column {name!r} holds {', '.join(map(repr, absent))}; where that stands for a missing cell, say so with "
            f"--missing {shlex.quote(absent[0].strip())} (in Python missing=)"
        )


def _number_rows(x: np.ndarray) -> bool:
    """Whether cells (N,) are as many whole numbers in a row, each of them once.

    >>> _number_rows(np.array([2.0, 1.0, 3.0] + [*range(4, 51)])), _number_rows(np.array([1.0, 2.0, 2.0, 3.0] * 20))
    (True, False)
    """
    if len(x) < LEAST_ROWS or np.isnan(x).any() or x.max() - x.min() != len(x) - 1:
        return False
    return bool((np.sort(x) == x.min() + np.arange(len(x))).all())


def _far_from_all(cells: Sequence[np.ndarray]) -> float | None:
    """The number farthest from the median of those there are, where that is `FAR` times what most of them are."""
    x = np.concatenate(cells)
    x = x[~np.isnan(x)]
    if not len(x):
        return None
    away = abs(x - np.median(x))
    usual = np.quantile(away, MOST)
    return float(x[away.argmax()]) if usual > 0 and away.max() > FAR * usual else None


def _codes(cells: Sequence[np.ndarray]) -> list[str]:
    """The one number below 0, where it is a code, as -999."""
    below = np.unique(np.concatenate([x[x < 0] for x in cells]))
    return [str(int(below[0]))] if len(below) == 1 and below[0] in CODES else []


def alike_words(words: Sequence[str]) -> list[str]:
    """Those that differ from another by case or blanks alone.

    >>> alike_words(("No", " no", "yes"))
    ['No', ' no']
    """
    counts = Counter(" ".join(word.split()).casefold() for word in words)
    return [word for word in words if counts[" ".join(word.split()).casefold()] > 1]
