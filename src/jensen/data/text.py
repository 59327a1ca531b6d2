"""Text: from files to rows of tokens, one a line of the text or one a window of it.

Rows have one length. `end`, the token after a text's last, fills what is left of a row: after it nothing else can
come, so the density of a row is that of its text alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from jensen.data import splits
from jensen.data.dataset import Dataset, Split
from jensen.data.raw import ALL, SPLITS
from jensen.data.schema import Schema
from jensen.data.sources import Source
from jensen.data.text_tokens import AMOUNTS, UNKNOWN, Tokens
from jensen.errors import ConfigError, DataError, DataWarning, did_you_mean

UNITS = ("characters", "bytes", "words", "bpe")
LENGTHS = {"characters": 256, "bytes": 256, "bpe": 64, "words": 32}
"""Tokens of a window, where nothing is said."""
VOCABULARY = {"words": 10_000, "bpe": 1000}
_VALID_SHARE = 0.1


@dataclass(frozen=True)
class TextOptions:
    """How a text becomes data.

    Attributes:
        tokens: characters, bytes, words or bpe, byte pairs learned from the training text.
        lines: each line is a datum; else the text is one, cut into windows.
        length: tokens of a row; of lines, by default those of the longest and its end.
        vocabulary: number of words, of which `<unk>` is one, or of byte pairs.
    """

    tokens: str = "characters"
    lines: bool = False
    length: int | None = None
    vocabulary: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any] | None, usual: Mapping[str, Any] | None = None) -> TextOptions:
        """Options by name over the usual ones. Raises `ConfigError` listing all problems."""
        given, known = dict(given or {}), [field.name for field in fields(cls)]
        problems = [f"text: {key!r} is no option{did_you_mean(key, known)}" for key in given if key not in known]
        made = cls(**{**(usual or {}), **{k: v for k, v in given.items() if k in known}})
        if made.tokens not in UNITS:
            hint = did_you_mean(str(made.tokens), UNITS)
            problems.append(f"text: tokens: expected {', '.join(UNITS)}, got {made.tokens!r}{hint}")
        if not isinstance(made.lines, bool):
            problems.append(f"text: lines: expected true or false, got {made.lines!r}")
        for name, least in (("length", 2), ("vocabulary", 2)):
            value = getattr(made, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                problems.append(f"text: {name}: expected a whole number >= {least}, got {value!r}")
        if given.get("vocabulary") is not None and made.tokens not in VOCABULARY:
            problems.append(f"text: vocabulary: {made.tokens} have none; expected with words or bpe")
        if problems:
            raise ConfigError(problems)
        return made

    def learn(self, train: Sequence[str], all_of_it: Sequence[str]) -> Tokens:
        """Tokens: characters are those of all of the text, words and byte pairs those of what is trained on."""
        most = self.vocabulary or VOCABULARY.get(self.tokens)
        if self.tokens == "characters":
            return Tokens.of_characters(all_of_it, self.lines)
        if self.tokens == "bytes":
            return Tokens(unit="bytes", lines=self.lines)
        if self.tokens == "words":
            return Tokens.of_words(train, most, self.lines)
        assert most
        return Tokens.of_byte_pairs(train, most, self.lines)


# Rows


def load_text(
    source: Source,
    options: Mapping[str, Any] | None,
    schema: Schema | None,
    seed: int,
    shares: splits.Fractions,
    recipe: tuple[str, dict[str, Any]] | None,
) -> Dataset:
    """A data set of the texts of a source; see `load_data`.

    A text without splits is cut by position, the last part being test; lines are shuffled.

    Raises:
        ConfigError: wrong options, or data that are none for the schema.
        DataError: the text is too short, or does not fit the schema; names the line.
    """
    texts = source.raw.texts
    assert texts is not None
    if schema is None:
        chosen = TextOptions.of(options, source.raw.usual)
    elif not schema.is_text:
        raise DataError(f"{source.name}: as in training expected data of shape {schema.event_shape}, got a text")
    elif options:
        raise ConfigError("text: expected no options, since those of the trained model are used")
    else:
        tokens = schema.tokens
        chosen = TextOptions(tokens.unit, tokens.lines, schema.event_shape[0])
    whole = schema is not None and not source.registered
    parts, notes = _parts(texts, chosen, seed, shares, whole, source.name)
    if schema is None:
        train = [text for text, _ in parts["train"]]
        everything = [text for part in parts.values() for text, _ in part]
        tokens = chosen.learn(train, everything)
    else:
        tokens = schema.tokens
    coded = {name: [_Coded.of(tokens, text, source.name, line) for text, line in part] for name, part in parts.items()}
    if chosen.lines:
        longest = max((len(document.ids) for part in coded.values() for document in part), default=0)
        length = chosen.length or longest + 1
        cut = sum(len(document.ids) > length for part in coded.values() for document in part)
        if cut:
            notes.append(f"{cut:,} lines of more than {length} {tokens.words} were cut")
            if schema is not None:
                _warn_of_cut(parts, coded, cut, length, tokens, source.name)
        rows = {name: _lines(part, tokens, length) for name, part in coded.items()}
    else:
        length = chosen.length or LENGTHS[tokens.unit]
        rows = {name: _windows(part, tokens, length) for name, part in coded.items()}
        notes.append(f"windows of {length} {tokens.words}")
    hidden = sum(
        int(split.amounts[:, AMOUNTS.index("hidden")].sum()) for split in rows.values() if split.amounts is not None
    )
    if hidden:
        notes.append(f"{hidden:,} words that are not among the {tokens.end:,} known became {UNKNOWN}")
    if schema is None:
        schema = Schema.of_text(length, tokens)
    description = "; ".join(filter(None, [source.description, *source.raw.notes, *notes]))
    return Dataset(source.name, schema, rows, description, source.origin, recipe)


def _warn_of_cut(
    parts: Mapping[str, Pieces],
    coded: Mapping[str, Sequence[_Coded]],
    cut: int,
    length: int,
    tokens: Tokens,
    name: str,
) -> None:
    both = ((line, len(one.ids)) for part in parts for (_, line), one in zip(parts[part], coded[part], strict=True))
    line, found = next(pair for pair in both if pair[1] > length)
    which = f"{cut:,} lines" if cut > 1 else "1 line"
    warnings.warn(
        f"{name}: of {which} only the first {length} {tokens.words} are taken, as the model takes no more; line {line} "
        f"has {found:,}",
        DataWarning,
        stacklevel=2,
    )


def refuse_columns(options: Mapping[str, Any], of_sound: Mapping[str, Any], source: Source) -> None:
    """Raises `ConfigError` where options speak of columns, pictures or sound."""
    problems = [
        f"{name}: a text has none ({source.name})"
        for name, value in options.items()
        if value not in (None, "none", [], {})
    ]
    problems += [
        f"sound: {name}: expected recordings of sound, got a text ({source.name}); see the options of text"
        for name, value in of_sound.items()
        if value is not None
    ]
    if problems:
        raise ConfigError(problems)


Pieces = list[tuple[str, int]]  # texts, each with the line of the file at which it begins


def _parts(
    texts: Mapping[str, str | Sequence[str]],
    chosen: TextOptions,
    seed: int,
    shares: splits.Fractions,
    whole: bool,
    name: str,
) -> tuple[dict[str, Pieces], list[str]]:
    """The texts of each split, and what was done to them."""
    notes: list[str] = []
    pieces = {part: texts_of(text, chosen.lines) for part, text in texts.items()}
    empty = sum(not text for part in pieces.values() for text, _ in part)
    if empty:
        notes.append(f"{empty:,} empty {'lines' if chosen.lines else 'texts'} were left out")
    pieces = {part: [piece for piece in found if piece[0]] for part, found in pieces.items()}
    for part, found in pieces.items():
        if not found:
            raise DataError(f"{name}: {part}: expected a text, got an empty one")
    if whole:
        return pieces, notes
    if ALL in pieces:
        return _cut(pieces[ALL], chosen, seed, shares), notes
    if "valid" not in pieces:
        share = (1 - _VALID_SHARE, _VALID_SHARE, 0.0)
        notes.append(f"valid was cut from train ({_VALID_SHARE:.0%})")
        pieces = {**_cut(pieces["train"], chosen, seed, share), **{k: v for k, v in pieces.items() if k != "train"}}
    return pieces, notes


def _cut(pieces: Pieces, chosen: TextOptions, seed: int, shares: splits.Fractions) -> dict[str, Pieces]:
    """Lines at random; one text by position, in order train, valid, test."""
    if chosen.lines or len(pieces) > 1:
        return {part: [pieces[i] for i in rows] for part, rows in splits.cut(len(pieces), seed, shares).items()}
    text, first = pieces[0]
    n = len(text)
    if n < 3:
        return {"train": pieces}
    valid, test = (max(1, round(n * share)) if share else 0 for share in shares[1:])
    ends = [0, max(1, n - valid - test), n - test, n]
    parts = zip(SPLITS, ends[:-1], ends[1:], strict=True)
    return {part: [(text[a:b], first + text.count("\n", 0, a))] for part, a, b in parts if b > a}


def texts_of(text: str | Sequence[str], lines: bool) -> Pieces:
    """The texts that a text, or several, are: themselves, or lines without their ends, `\\n` or `\\r\\n`."""
    if not lines:
        return [(text, 1)] if isinstance(text, str) else [(one, i + 1) for i, one in enumerate(text)]
    found = text.split("\n") if isinstance(text, str) else [one.removesuffix("\n") for one in text]
    if isinstance(text, str) and found[-1] == "":
        found.pop()
    return [(line.removesuffix("\r"), i + 1) for i, line in enumerate(found)]


@dataclass(frozen=True)
class _Coded:
    """A text as tokens, (n,), and how much of it each is, (n, 5)."""

    ids: np.ndarray
    amounts: np.ndarray

    @classmethod
    def of(cls, tokens: Tokens, text: str, name: str, line: int) -> _Coded:
        try:
            ids, ends = tokens.spans(text, name, line)
        except UnicodeEncodeError as e:
            raise DataError(f"{name}, line {line}: expected text, got half a character ({e.reason})") from None
        return cls(ids, tokens.amounts(text, ids, ends))


def _lines(documents: Sequence[_Coded], tokens: Tokens, length: int) -> Split:
    """A row each: the tokens of a line, then `end`. The line's end counts as one of everything that is counted."""
    x = np.full((len(documents), length), tokens.end, dtype=np.int32)
    amounts = np.zeros((len(documents), len(AMOUNTS)), dtype=np.int64)
    for row, document in enumerate(documents):
        kept = min(len(document.ids), length)
        x[row, :kept] = document.ids[:kept]
        amounts[row] = document.amounts[:kept].sum(0)
        if kept < length:
            amounts[row, : AMOUNTS.index("hidden")] += 1
    return Split(x, amounts=amounts)


def _windows(texts: Sequence[_Coded], tokens: Tokens, length: int) -> Split:
    """Rows of so many tokens, one after another; what is left of a text is a row that `end` fills.

    An end between two texts counts as one of everything that is counted, as a line's does; that of the last does not.
    """
    x, amounts, starts = [], [], []
    for i, text in enumerate(texts):
        count = -(-len(text.ids) // length)
        ids = np.full(count * length, tokens.end, dtype=np.int32)
        ids[: len(text.ids)] = text.ids
        sizes = np.zeros((count * length, len(AMOUNTS)), dtype=np.int64)
        sizes[: len(text.ids)] = text.amounts
        if len(text.ids) < len(ids) and i + 1 < len(texts):
            sizes[len(text.ids), : AMOUNTS.index("hidden")] = 1
        x.append(ids.reshape(count, length))
        amounts.append(sizes.reshape(count, length, -1).sum(1))
        starts.append(np.arange(count) == 0)
    return Split(np.concatenate(x), amounts=np.concatenate(amounts), starts=np.concatenate(starts))


def fit_rows(x: Any, source: Source, schema: Schema) -> np.ndarray:
    """Rows of tokens (N, T), checked against a schema of text.

    Raises:
        DataError: another shape, a number that is no token, or a token after the end.
    """
    where = f"{source.name}: as in training expected"
    rows = np.asarray(x, dtype=np.float64)
    if rows.shape[1:] != schema.event_shape:
        raise DataError(f"{where} a text, or rows of {schema.event_shape[0]} tokens, got {rows.shape[1:]}")
    end = schema.tokens.end
    wrong = ~((rows >= 0) & (rows <= end) & (rows == np.rint(rows)))
    after = (np.cumsum(rows == end, 1) > 0) & (rows != end)
    for bad, what in ((wrong, f"tokens 0..{end}"), (after, f"nothing but {end} after the end, {end}")):
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DataError(f"{where} {what}, got {rows[row, column]:g} in row {row + 1}, position {column + 1}")
    return rows.astype(np.int32)
