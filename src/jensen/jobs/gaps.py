"""Gaps of texts filled in: tokens that are missing, given those before and after them.

A line is filled in by itself. A text of which the model knows windows is filled in from its beginning on, a window at a
time: at most half of it stands before the first token to fill in, and what was filled in before is given, of each draw
its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.core import Shown, seeded
from jensen.data import Split
from jensen.data.raw import ALL
from jensen.data.sources import open_source
from jensen.data.text import Piece, as_texts, pieces_of
from jensen.data.text_tokens import Tokens
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.completing import complete, sequential
from jensen.jobs.filled import Effort
from jensen.jobs.given import context_of
from jensen.jobs.job import job
from jensen.jobs.run import Run, check_conditions

FEW = 10  # effective draws below which a text is named in a warning
LISTED = 10  # lines that a warning names
AHEAD = 4  # of a window that does not end the text, the last quarter is only given, not filled in


@dataclass(frozen=True, eq=False, repr=False)
class FilledTexts(Shown):
    """Texts with their gaps filled in.

    Attributes:
        drawn: (M, n), of dtype object: each of the texts, M times.
        lines: where each begins, (n,), the first line 1.
        missing: how many tokens were filled in, (n,).
        effective_sample_size: of each, (n,): how many independent draws its windows are worth, the least of them. inf
            where nothing was missing; 0 where no draw agreed with what is known, and the text is as it was.
        unit: what tokens are, in words.
    """

    drawn: np.ndarray
    lines: np.ndarray
    missing: np.ndarray
    effective_sample_size: np.ndarray
    unit: str

    @property
    def warnings(self) -> list[str]:
        """What not to trust, in sentences."""
        few = self.lines[self.effective_sample_size < FEW]
        if not len(few):
            return []
        shown = ", ".join(map(str, few[:LISTED])) + (f" and {len(few) - LISTED:,} more" if len(few) > LISTED else "")
        lines = f"line{'s' if len(few) > 1 else ''} {shown}"
        return [f"fewer than {FEW} effective draws in {lines}: more --particles"]

    def table(self) -> Any:
        """How each text was filled in, a frame: row, missing, effective_sample_size."""
        import pandas

        ess = self.effective_sample_size
        return pandas.DataFrame({"row": self.lines - 1, "missing": self.missing, "effective_sample_size": ess})

    def long(self) -> Any:
        """All draws, a frame: `.imp`, the number of a draw from 1 on, `.id`, the line of a text, and the text."""
        import pandas

        m, n = self.drawn.shape
        numbers = {".imp": np.repeat(np.arange(1, m + 1), n), ".id": np.tile(self.lines, m)}
        return pandas.DataFrame({**numbers, "text": self.drawn.reshape(-1)})

    def to_dict(self) -> dict[str, Any]:
        """A summary fit for JSON."""
        filled = np.isfinite(self.effective_sample_size)
        sizes = self.effective_sample_size[filled]
        return {
            "data": len(self.lines),
            "data_filled": int(filled.sum()),
            "values_filled": int(self.missing.sum()),
            "draws": len(self.drawn),
            "effective_sample_size": {"median": float(np.median(sizes)), "least": float(sizes.min())}
            if len(sizes)
            else None,
            "rows_with_few": self.lines[self.effective_sample_size < FEW].tolist(),
        }

    def __str__(self) -> str:
        found = self.to_dict()
        if not found["data_filled"]:
            return f"no gap in {_counted(found['data'], 'texts')}"
        size = found["effective_sample_size"]
        return (
            f"filled in {_counted(found['values_filled'], self.unit)} "
            f"in {found['data_filled']:,} of {_counted(found['data'], 'texts')}\n"
            f"effective sample size: median {size['median']:,.0f}, least {size['least']:,.0f}"
        )


def _counted(n: int, things: str) -> str:
    return f"{n:,} {things if n != 1 else things.removesuffix('s')}"


@job("fill_texts")
def fill_texts(
    run: Run,
    data: Any,
    gap: str,
    *,
    draws: int = 1,
    particles: int = Effort.particles,
    seed: int = 0,
    listener: Callable[[float], None] | None = None,
) -> FilledTexts:
    """Fill in what is marked as missing of texts, by draws of p(missing | the rest).

    Draws are made given what stands before a gap, and resampled by how likely they make what stands after it.

    Args:
        data: a file, or a list of texts.
        gap: the mark of a missing token: a character, a byte or a byte pair, or of words a word.
        draws: M, of each text.
        particles: of importance resampling.
        listener: told of the share done, in [0, 1].

    Raises:
        CapabilityError: no model of text, or what is hidden would have to be inferred from a text with gaps.
        ConfigError: an option out of range, or no text to fill in.
        DataError: a line with a gap that is longer than the model takes, or a character that is no token.
    """
    if not run.schema.is_text:
        raise CapabilityError(f"{run.spec['model']} cannot fill in texts: it is a model of other data; see impute")
    if not sequential(run):
        raise CapabilityError(
            f"{run.spec['model']} cannot fill in a text: what it hides would have to be inferred from a text with gaps"
        )
    counts = {"draws": draws, "particles": particles}
    problems = [f"--{name}: expected >= 1, got {n}" for name, n in counts.items() if n < 1]
    if not gap or gap.isspace():
        problems.append("--gap: say what marks a missing token, as --gap _")
    if data is None:
        problems.append("data: expected a text with gaps, a file or a list of texts")
    if problems:
        raise ConfigError(problems)
    tokens, size, source = run.schema.tokens, run.schema.event_shape[0], as_texts(open_source(data), run.schema)
    if source.raw.texts is None or list(source.raw.texts) != [ALL]:
        raise ConfigError(f"{source.name}: expected one text with gaps, a file or a list of texts")
    pieces = pieces_of(source.raw.texts[ALL], tokens.lines, source)
    rows = [_read(tokens, piece, gap) for piece in pieces]
    context = _context(run, pieces)
    if tokens.lines:
        for (ids, missing, _), piece in zip(rows, pieces, strict=True):
            if missing.any() and len(ids) > size:
                raise DataError(
                    f"{piece.name}, line {piece.line}: expected at most {size} {tokens.words}, got {len(ids):,}"
                )
    told, count = 0, sum(int(missing.sum()) for _, missing, _ in rows)
    sizes, drawn = np.full(len(rows), np.inf), np.empty((draws, len(rows)), dtype=object)
    with seeded(seed, run.device):
        for i, ((ids, missing, parts), piece) in enumerate(zip(rows, pieces, strict=True)):
            drawn[:, i] = piece.text
            whole = np.tile(ids, (draws, 1))
            for window, here in _windows(missing, size):
                own = {name: value[i : i + 1] for name, value in context.items()}
                whole[:, here], ess = _fill(run, whole, window, here, missing, particles, own)
                sizes[i] = min(sizes[i], ess)
                told += int(here.sum())
                if listener is not None:
                    listener(told / count)
            if missing.any() and sizes[i]:
                drawn[:, i] = [_whole(tokens, row, missing, parts) for row in whole]
    lines, filled = np.array([piece.line for piece in pieces]), np.array([int(missing.sum()) for _, missing, _ in rows])
    return FilledTexts(drawn, lines, filled, sizes, tokens.words)


def _context(run: Run, pieces: Sequence[Piece]) -> dict[str, Tensor]:
    """What the model is given of each text, by name, (n,). Raises `DataError` where a text has no label."""
    classes = list(run.schema.classes or ())
    y = np.array([classes.index(piece.label) if piece.label in classes else -1 for piece in pieces])
    part = Split(np.empty((len(pieces), 0)), None if all(piece.label is None for piece in pieces) else y)
    check_conditions(run.model, run.schema, part)
    return context_of(run, y if "y" in run.model.context else None, None)


def _read(tokens: Tokens, piece: Piece, gap: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The tokens of a text, (L,), any number where one is missing; where that is; and what stands around gaps."""
    text, name, line, _ = piece
    mark = rf"(?<!\S){re.escape(gap)}(?!\S)" if tokens.unit == "words" else re.escape(gap)
    ids, missing, parts, column = [], [], re.split(mark, text), 1
    for i, part in enumerate(parts):
        if i:
            ids.append(np.zeros(1, np.int32))
            missing.append([True])
            column += len(gap)
        ids.append(tokens.encode(part, name, line, column))
        missing.append([False] * len(ids[-1]))
        line += part.count("\n")
        column = len(part) - part.rfind("\n") if "\n" in part else column + len(part)
    return np.concatenate(ids), np.concatenate(missing).astype(bool), parts


def _whole(tokens: Tokens, row: np.ndarray, missing: np.ndarray, parts: list[str]) -> str:
    """A text with its gaps filled in; words that stood around them keep their spelling and their spaces."""
    if tokens.unit != "words":
        return tokens.decode(row)
    drawn = [tokens.symbols[i] for i in row[missing].astype(int)]
    return parts[0] + "".join(word + part for word, part in zip(drawn, parts[1:], strict=True))


def _windows(missing: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Windows of a text in which all that is missing is filled in, in order: each with what is to be, (L,)."""
    length, todo = len(missing), missing.copy()
    while todo.any():
        start = max(0, min(int(todo.argmax()) - size // 2, length - size))
        stop = min(start + size, length)
        here = todo.copy()
        look = min(max(1, size // AHEAD), size - 1 - size // 2)  # the first to fill in stands before it
        here[stop if stop == length else stop - look :] = False
        todo &= ~here
        yield slice(start, stop), here


def _fill(
    run: Run,
    whole: np.ndarray,
    window: slice,
    here: np.ndarray,
    missing: np.ndarray,
    particles: int,
    context: Mapping[str, Tensor],
) -> tuple[np.ndarray, float]:
    """Draws (M, C) of what is missing `here` in a window, given the rest of it, and their effective number.

    Args:
        whole: a text, M times, (M, L), filled in as far as it was before this window.
        here, missing: what is to be filled in now, and all that is to be in the end, (L,).
        context: what the model is given of the text, (1, ...) by name.
    """
    draws, size, end = len(whole), run.schema.event_shape[0], run.schema.tokens.end
    before = np.cumsum(here) == 0
    unknown = (missing & ~before)[window]
    alike = not (missing & before)[window].any()  # no draw has told the copies apart in this window
    rows = np.full((1 if alike else draws, size), end)
    rows[:, : len(unknown)] = whole[: len(rows), window]
    beyond, lines = np.zeros(size - len(unknown), dtype=bool), run.schema.tokens.lines
    found: list[tuple[Tensor, float]] = []

    def of_run(*parts: np.ndarray) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(run.device).expand(len(rows), -1)

    def keep(_: Tensor, how: str, drawn: Tensor, mean: Tensor, spread: Tensor, size: Tensor) -> None:
        found.append((drawn.flatten(0, 1) if alike else drawn[0], float(size.min())))

    complete(
        run,
        torch.from_numpy(rows).to(run.device, torch.get_default_dtype()),
        of_run(unknown, beyond if lines else ~beyond),  # a window's end is none of its text's
        {name: value.expand(len(rows), *value.shape[1:]) for name, value in context.items()},
        draws if alike else 1,
        particles,
        keep,
        lasting=of_run(unknown, beyond),
        steps=None if lines else len(unknown),
    )
    drawn = torch.cat([few for few, _ in found]).cpu().numpy()
    return drawn[:, np.flatnonzero(here[window])], min(ess for _, ess in found)
