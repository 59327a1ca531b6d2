"""Tokens: a text as a row of whole numbers, by characters, bytes, words or byte pairs, and back."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from jensen.errors import ConfigError, DataError

Unit = Literal["characters", "bytes", "words", "bpe"]
UNKNOWN = "<unk>"
NEWLINE = "\n"
_WORDS = re.compile(rb"\n|[^ \t\r\f\v\n]+")
_SPACES = np.frombuffer(b" \t\r\f\v\n", dtype=np.uint8)

TOKENS, WORDS, CHARACTERS, BYTES, HIDDEN = range(5)
AMOUNTS = ("tokens", "words", "characters", "bytes", "hidden")
"""What is counted of a text. A line's end counts as one of each. `hidden`: words that became `<unk>`."""


class Tokens(BaseModel):
    """How a text becomes tokens 0..count-1; the last one, `end`, stands after its last and in all places that follow.

    >>> tokens = Tokens.of_characters(["abba"])
    >>> tokens.encode("baa").tolist(), tokens.end, tokens.decode([1, 0, 0, 2, 2])
    ([1, 0, 0], 2, 'baa')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Unit
    symbols: tuple[str, ...] = ()
    """Characters or words; of byte pairs, tokens in the alphabet of byte-level BPE; () of bytes."""
    merges: tuple[tuple[str, str], ...] = ()
    """Of byte pairs, in the order in which they were learned."""
    lines: bool = False
    """Whether each line is a datum, and `end` its end; else data are windows of one text, and `end` is the text's."""

    # How they are found

    @classmethod
    def of_characters(cls, texts: Iterable[str], lines: bool = False) -> Tokens:
        """All characters that occur."""
        return cls(unit="characters", symbols=tuple(sorted(set().union(*texts))), lines=lines)

    @classmethod
    def of_words(cls, texts: Iterable[str], most: int | None, lines: bool = False) -> Tokens:
        """The words that occur, the frequent ones first, at most so many with `<unk>` for all others."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(word.decode() for word in _WORDS.findall(text.encode()))
        counts.pop(UNKNOWN, None)
        kept = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(unit="words", symbols=(UNKNOWN, *kept[: None if most is None else max(0, most - 1)]), lines=lines)

    @classmethod
    def of_byte_pairs(cls, texts: Iterable[str], count: int, lines: bool = False) -> Tokens:
        """`count` tokens, of which 256 are the bytes, by joining the pair that is most frequent, again and again.

        Sennrich et al., "Neural machine translation of rare words with subword units", 2016, arXiv:1508.07909; on
        bytes: Radford et al., "Language models are unsupervised multitask learners", 2019.

        Raises:
            ConfigError: fewer tokens than bytes, or the package `tokenizers` is missing.
        """
        if count < 256:
            raise ConfigError(f"text: vocabulary: byte pairs start from 256 bytes, got {count}")
        library = _library()
        learned = library.Tokenizer(library.models.BPE())
        learned.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = library.trainers.BpeTrainer(
            vocab_size=count, initial_alphabet=_ALPHABET, show_progress=False, special_tokens=[]
        )
        learned.train_from_iterator((line for text in texts for line in text.splitlines(keepends=True)), trainer)
        vocabulary = learned.get_vocab()
        merges = [p.split(" ") if isinstance(p, str) else p for p in json.loads(learned.to_str())["model"]["merges"]]
        symbols = sorted(vocabulary, key=vocabulary.__getitem__)
        return cls(unit="bpe", symbols=tuple(symbols), merges=tuple((a, b) for a, b in merges), lines=lines)

    # What they are

    @property
    def end(self) -> int:
        """The token after the last."""
        return 256 if self.unit == "bytes" else len(self.symbols)

    @property
    def words(self) -> str:
        """What tokens are, in words."""
        return "byte-pair tokens" if self.unit == "bpe" else self.unit

    @property
    def count(self) -> int:
        """Number of tokens, `end` included."""
        return self.end + 1

    @cached_property
    def _position(self) -> Mapping[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @cached_property
    def _bytes(self) -> list[bytes]:
        """What each token stands for; of words, without the spaces between them."""
        if self.unit == "bytes":
            return [bytes([b]) for b in range(256)]
        if self.unit == "bpe":
            return [bytes(_BYTE_OF[c] for c in symbol) for symbol in self.symbols]
        return [symbol.encode() for symbol in self.symbols]

    # There and back

    def encode(self, text: str, name: str = "text", line: int = 1, column: int = 1) -> np.ndarray:
        """The tokens of a text, int32, without `end`; `name`, and where in it the text begins, are for messages.

        Raises:
            DataError: a character that is not among the tokens, or a word where there is no `<unk>`.
        """
        return self.spans(text, name, line, column)[0]

    def spans(self, text: str, name: str = "text", line: int = 1, column: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of a text, and after how many of its bytes each of them ends; both int, (n,)."""
        if self.unit == "characters":
            points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            known = np.array([ord(symbol) for symbol in self.symbols], dtype=np.uint32)  # sorted
            found = np.searchsorted(known, points).astype(np.int32)
            unknown = known[np.minimum(found, len(known) - 1)] != points if len(known) else points == points
            if unknown.any():
                self._refuse(text, int(unknown.argmax()), name, line, column)
            return found, np.cumsum(_utf8_length(points))
        data = text.encode()
        if self.unit == "bytes":
            return np.frombuffer(data, dtype=np.uint8).astype(np.int32), np.arange(1, len(data) + 1)
        if self.unit == "words":
            return self._of_words(data)
        found = np.array(_encoder(self.symbols, self.merges).encode(text).ids, dtype=np.int32)
        sizes = np.array([len(token) for token in self._bytes])
        ends = np.cumsum(sizes[found]) if len(found) else np.zeros(0, dtype=np.int64)
        assert not len(data) or ends[-1] == len(data)
        return found, ends

    def _of_words(self, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """A word ends where the next begins: the spaces after it are its own."""
        matches = list(_WORDS.finditer(data))
        unknown = self._position[UNKNOWN]
        found = [self._position.get(match.group().decode(), unknown) for match in matches]
        ends = [match.start() for match in matches[1:]] + [len(data)] * bool(matches)
        return np.array(found, dtype=np.int32), np.array(ends, dtype=np.int64)

    def _refuse(self, text: str, position: int, name: str, line: int, column: int) -> None:
        symbol = text[position]
        before = text.count("\n", 0, position)
        column = position - text.rfind("\n", 0, position) if before else column + position
        raise DataError(
            f"{name}, line {line + before}, column {column}: the character {symbol!r} (U+{ord(symbol):04X}) is not "
            f"among the {len(self.symbols)} that the model knows; tokens=bytes knows every text"
        )

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of a row of tokens up to `end`; bytes that make no character become �."""
        return "".join(self.pieces(tokens))

    def pieces(self, tokens: Sequence[int] | np.ndarray) -> list[str]:
        """What each token up to `end` adds to the text. A byte inside a character adds nothing, its last one all."""
        found = self._until_end(tokens)
        if self.unit == "characters":
            return [self.symbols[i] for i in found]
        if self.unit == "words":
            parts = [self.symbols[i] for i in found]
            return [a if NEWLINE in (a, b) else f"{a} " for a, b in zip(parts, [*parts, NEWLINE][1:], strict=True)]
        decoder, last = codecs.getincrementaldecoder("utf-8")("replace"), len(found) - 1
        return [decoder.decode(self._bytes[i], position == last) for position, i in enumerate(found)]

    def longer(self, tokens: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
        """Pairs (j, t): tokens t that begin with the bytes of all tokens from position j on, and do not end there.

        >>> tokens = Tokens.of_byte_pairs(["an an an an"], 258)
        >>> tokens.symbols[256:], tokens.longer(tokens.encode("an "))
        (('an', 'Ġan'), [(1, 257)])
        """
        if self.unit != "bpe":
            return []
        found, rest, most = [], b"", max(map(len, self._bytes))
        for j in reversed(range(len(tokens))):
            rest = self._bytes[tokens[j]] + rest
            if len(rest) >= most:
                break
            found += [(j, t) for t, token in enumerate(self._bytes) if token.startswith(rest) and token != rest]
        return found

    def _until_end(self, tokens: Sequence[int] | np.ndarray) -> list[int]:
        found = np.asarray(tokens).astype(int).tolist()
        return found[: found.index(self.end)] if self.end in found else found

    def doubts(self, rows: np.ndarray) -> list[str]:
        """That a text to learn from, in rows (N, T), fills none of them, in a sentence; else []."""
        if self.lines or len(rows) != 1 or rows[0, -1] != self.end:
            return []
        count = int((rows != self.end).sum())
        return [f"train has {count:,} {self.words}, less than one window: --text length= makes shorter ones"]

    def amounts(self, text: str, ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """How much of the text each token is, int64 (n, 5), in the order of `AMOUNTS`.

        A word counts where it begins, a character where its first byte is; a line's end is a word. Where tokens are
        words, which come back up to their spaces, one space is counted between two of a line, as `decode` writes it.
        """
        data = np.frombuffer(text.encode(), dtype=np.uint8)
        newline, space = data == 10, np.isin(data, _SPACES)
        begins = ~space & np.concatenate([[True], space[:-1]]) if len(data) else space
        comes_back = ~space | newline if self.unit == "words" else np.ones(len(data), bool)
        flags = np.stack([begins | newline, ((data & 0xC0) != 0x80) & comes_back, comes_back], 1)
        upto = np.concatenate([np.zeros((1, 3), np.int64), np.cumsum(flags, 0)])
        cuts = np.concatenate([[0], ends]).astype(int)
        out = np.zeros((len(ids), len(AMOUNTS)), dtype=np.int64)
        out[:, TOKENS] = 1
        out[:, [WORDS, CHARACTERS, BYTES]] = upto[cuts[1:]] - upto[cuts[:-1]]
        if self.unit == "words" and len(ids):
            word = ~newline[[comes_back.argmax(), *cuts[1:-1]]]  # no line's end
            out[:-1, [CHARACTERS, BYTES]] += (word[:-1] & word[1:])[:, None]
            for i in np.flatnonzero(ids == self._position[UNKNOWN]):
                out[i, HIDDEN] = data[cuts[i] : cuts[i + 1]].tobytes().strip() != UNKNOWN.encode()
        return out


def _utf8_length(points: np.ndarray) -> np.ndarray:
    return 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)


# Byte-level BPE writes each byte as a visible character of its own: those that are visible as themselves, the other 68
# as characters from U+0100 on.


def _byte_alphabet() -> list[str]:
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return [chr(b) if b in visible else chr(256 + hidden.index(b)) for b in range(256)]


_ALPHABET = _byte_alphabet()
_BYTE_OF = {symbol: byte for byte, symbol in enumerate(_ALPHABET)}


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ConfigError("text: tokens=bpe needs the package tokenizers: pip install 'jensen[text]'") from None
    return tokenizers


@lru_cache(maxsize=8)
def _encoder(symbols: tuple[str, ...], merges: tuple[tuple[str, str], ...]) -> Any:
    library = _library()
    model = library.models.BPE({symbol: i for i, symbol in enumerate(symbols)}, list(merges))
    encoder = library.Tokenizer(model)
    encoder.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return encoder
