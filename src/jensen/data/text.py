"""Text: from files to rows of tokens, one a line of the text or one a window of it.

Rows have one length. `end`, the token after a text's last, fills what is left of a row: after it nothing else can
come, so the density of a row is that of its text alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from jensen.data import splits, tables
from jensen.data.dataset import Dataset, Split
from jensen.data.raw import ALL, SPLITS, Texts
from jensen.data.rows import label_names, numbered
from jensen.data.schema import Schema
from jensen.data.sources import Source, texts_of_column
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
        lines: each line, or each cell of a column, is a datum; else each text is cut into windows.
        length: tokens of a row; of lines, by default those of the longest and its end.
        vocabulary: number of words, of which `<unk>` is one, or of byte pairs.
        column: of a table, the column that holds the texts.
    """

    tokens: str = "characters"
    lines: bool = False
    length: int | None = None
    vocabulary: int | None = None
    column: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any] | None, usual: Mapping[str, Any] | None = None) -> TextOptions:
        """Options by name over the usual ones. Raises `ConfigError` listing all problems."""
        given, problems = dict(given or {}), cls.unknown(given or {})
        known = [field.name for field in fields(cls)]
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

    @classmethod
    def unknown(cls, given: Mapping[str, Any]) -> list[str]:
        """What is wrong with the names of options."""
        known = [field.name for field in fields(cls)]
        return [f"text: {key!r} is no option{did_you_mean(key, known)}" for key in given if key not in known]

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


def as_texts(source: Source, schema: Schema, label: str | None = None) -> Source:
    """A table as the texts of one of its columns, where a trained model's texts were that; all else as it is.

    Args:
        label: the column of labels; that of the schema where it is there and nothing is said.
    """
    column = column_of_text(None, schema)
    if column is None or source.raw.texts is not None or not source.raw.named:
        return source
    label = label or (schema.label if source.has(schema.label) else None)
    return texts_of_column(source, column, label, "as in training")


def column_of_text(options: Mapping[str, Any] | None, schema: Schema | None) -> str | None:
    """The column of a table that holds the texts: of options, or of a trained model's schema; None where it is none.

    Raises `ConfigError` where it is no name.
    """
    if schema is None:
        column = (options or {}).get("column")
        if column is not None and not isinstance(column, str):
            raise ConfigError(f"text: column: expected a name, got {column!r}")
        return column
    return schema.names[0] if schema.is_text and schema.container == "pandas" else None


# Rows


def load_text(
    source: Source,
    options: Mapping[str, Any] | None,
    schema: Schema | None,
    seed: int,
    shares: splits.Fractions,
    rule: int,
    recipe: tuple[str, dict[str, Any]] | None,
    label: str | None = None,
) -> Dataset:
    """A data set of the texts of a source; see `load_data`.

    A text without splits is cut by position, the last part being test; lines and several texts are shuffled.

    Args:
        label: the column that labels came from, where there is one.

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
    parts, notes = _parts(source, chosen, seed, shares, rule, whole)
    if schema is None:
        train = [piece.text for piece in parts["train"]]
        everything = [piece.text for part in parts.values() for piece in part]
        tokens = chosen.learn(train, everything)
        labels = {piece.label for part in parts.values() for piece in part if piece.label is not None}
        classes = source.raw.classes or tuple(sorted(labels, key=tables.order)) or None
    else:
        tokens, classes = schema.tokens, schema.classes
    if all(part.y is None for part in texts.values()):
        classes = None  # of these data, whatever the model knows
    coded = {name: [_Coded.of(tokens, piece) for piece in part] for name, part in parts.items()}
    if chosen.lines:
        longest = max((len(document.ids) for part in coded.values() for document in part), default=0)
        length = chosen.length or longest + 1
        cut = sum(len(document.ids) > length for part in coded.values() for document in part)
        if cut:
            notes.append(f"{cut:,} lines of more than {length} {tokens.words} were cut")
            if schema is not None:
                _warn_of_cut(parts, coded, cut, length, tokens, source.name)
        rows = {name: _lines(part, tokens, length, classes) for name, part in coded.items()}
    else:
        length = chosen.length or LENGTHS[tokens.unit]
        rows = {name: _windows(part, tokens, length, classes) for name, part in coded.items()}
        notes.append(f"windows of {length} {tokens.words}")
    hidden = sum(
        int(split.amounts[:, AMOUNTS.index("hidden")].sum()) for split in rows.values() if split.amounts is not None
    )
    if hidden:
        notes.append(f"{hidden:,} words that are not among the {tokens.end:,} known became {UNKNOWN}")
    if schema is None:
        of = {"container": "pandas"} if chosen.column else {}
        schema = Schema.of_text(length, tokens, chosen.column or "x", classes=classes, label=label, **of)
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
    both = ((piece, len(one.ids)) for part in parts for piece, one in zip(parts[part], coded[part], strict=True))
    piece, found = next(pair for pair in both if pair[1] > length)
    which = f"{cut:,} lines" if cut > 1 else "1 line"
    warnings.warn(
        f"{name}: of {which} only the first {length} {tokens.words} are taken, as the model takes no more; "
        f"{f'{piece.name}, ' if piece.name != name else ''}line {piece.line} has {found:,}",
        DataWarning,
        stacklevel=2,
    )


def refuse_columns(
    options: Mapping[str, Any], of_sound: Mapping[str, Any], source: Source, column: str | None = None
) -> None:
    """Raises `ConfigError` where options speak of columns, pictures or sound.

    Args:
        column: of a table, that which holds the texts.
    """
    why = "a text has none" if column is None else f"not taken where a column, {column!r}, holds the texts"
    problems = [
        f"{name}: {why} ({source.name})" for name, value in options.items() if value not in (None, "none", [], {})
    ]
    problems += [
        f"sound: {name}: expected recordings of sound, got a text ({source.name}); see the options of text"
        for name, value in of_sound.items()
        if value is not None
    ]
    if problems:
        raise ConfigError(problems)


class Piece(NamedTuple):
    """A text, where it comes from, the line there at which it begins, and its label, None for none."""

    text: str
    name: str
    line: int
    label: str | None = None


Pieces = list[Piece]


def _parts(
    source: Source, chosen: TextOptions, seed: int, shares: splits.Fractions, rule: int, whole: bool
) -> tuple[dict[str, Pieces], list[str]]:
    """The texts of each split, and what was done to them."""
    notes: list[str] = []
    pieces = {part: pieces_of(texts, chosen.lines, source) for part, texts in (source.raw.texts or {}).items()}
    empty = sum(not piece.text for part in pieces.values() for piece in part)
    if empty:
        notes.append(f"{empty:,} empty {'lines' if chosen.lines else 'texts'} were left out")
    pieces = {part: [piece for piece in found if piece.text] for part, found in pieces.items()}
    for part, found in pieces.items():
        if not found:
            raise DataError(f"{source.name}: {part}: expected a text, got an empty one")
    if whole:
        return pieces, notes
    if ALL in pieces:
        return _cut(pieces[ALL], chosen, seed, shares, rule, source.raw.by_folder), notes
    if "valid" not in pieces:
        share = (1 - _VALID_SHARE, _VALID_SHARE, 0.0)
        notes.append(f"valid was cut from train ({_VALID_SHARE:.0%})")
        cut = _cut(pieces["train"], chosen, seed, share, rule, source.raw.by_folder)
        pieces = {**cut, **{k: v for k, v in pieces.items() if k != "train"}}
    return pieces, notes


def _cut(
    pieces: Pieces, chosen: TextOptions, seed: int, shares: splits.Fractions, rule: int, by_folder: bool
) -> dict[str, Pieces]:
    """Lines at random; one text by position, in order train, valid, test."""
    if chosen.lines or len(pieces) > 1:
        y = numbered([piece.label for piece in pieces]) if by_folder else None
        found = splits.cut(len(pieces), seed, shares, rule, y)
        return {part: [pieces[i] for i in rows] for part, rows in found.items()}
    (whole,) = pieces
    text, n = whole.text, len(whole.text)
    if n < 3:
        return {"train": pieces}
    valid, test = (max(1, round(n * share)) if share else 0 for share in shares[1:])
    ends = [0, max(1, n - valid - test), n - test, n]
    parts = zip(SPLITS, ends[:-1], ends[1:], strict=True)
    line = whole.line
    cuts = {part: (a, b) for part, a, b in parts if b > a}
    return {part: [whole._replace(text=text[a:b], line=line + text.count("\n", 0, a))] for part, (a, b) in cuts.items()}


def pieces_of(texts: Texts, lines: bool, source: Source) -> Pieces:
    """What texts consist of: themselves, or their lines without ends, `\n` or `\r\n`."""
    labels = [None] * len(texts.texts) if texts.y is None else label_names(texts.y, source)
    found = []
    for i, text in enumerate(texts.texts):
        name, first = (source.name, i + 1 if texts.apart else 1) if texts.names is None else (texts.names[i], 1)
        if not lines:
            found.append(Piece(text, name, first, labels[i]))
            continue
        parts = [text.removesuffix("\n")] if texts.apart else text.split("\n")
        if not texts.apart and parts[-1] == "":
            parts.pop()
        found += [Piece(line.removesuffix("\r"), name, first + j, labels[i]) for j, line in enumerate(parts)]
    return found


@dataclass(frozen=True)
class _Coded:
    """A text as tokens, (n,), and how much of it each is, (n, 5)."""

    ids: np.ndarray
    amounts: np.ndarray
    label: str | None

    @classmethod
    def of(cls, tokens: Tokens, piece: Piece) -> _Coded:
        text, name, line, label = piece
        try:
            ids, ends = tokens.spans(text, name, line)
        except UnicodeEncodeError as e:
            raise DataError(f"{name}, line {line}: expected text, got half a character ({e.reason})") from None
        return cls(ids, tokens.amounts(text, ids, ends), label)


def _positions(labels: Sequence[str | None], classes: tuple[str, ...] | None) -> np.ndarray | None:
    """Labels as positions among the classes, (N,), -1 for none and for one that is not among them."""
    if classes is None:
        return None
    position: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    return np.array([position.get(label, -1) for label in labels], dtype=np.int64)


def _lines(documents: Sequence[_Coded], tokens: Tokens, length: int, classes: tuple[str, ...] | None) -> Split:
    """A row each: the tokens of a line, then `end`. The line's end counts as one of everything that is counted."""
    x = np.full((len(documents), length), tokens.end, dtype=np.int32)
    amounts = np.zeros((len(documents), len(AMOUNTS)), dtype=np.int64)
    for row, document in enumerate(documents):
        kept = min(len(document.ids), length)
        x[row, :kept] = document.ids[:kept]
        amounts[row] = document.amounts[:kept].sum(0)
        if kept < length:
            amounts[row, : AMOUNTS.index("hidden")] += 1
    return Split(x, _positions([document.label for document in documents], classes), amounts=amounts)


def _windows(texts: Sequence[_Coded], tokens: Tokens, length: int, classes: tuple[str, ...] | None) -> Split:
    """Rows of so many tokens, one after another; what is left of a text is a row that `end` fills.

    An end between two texts counts as one of everything that is counted, as a line's does; that of the last does not.
    """
    x, amounts, starts, labels = [], [], [], []
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
        labels += [text.label] * count
    y = _positions(labels, classes)
    return Split(np.concatenate(x), y, amounts=np.concatenate(amounts), starts=np.concatenate(starts))


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
