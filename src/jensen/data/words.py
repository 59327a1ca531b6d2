"""Words and what can be read off their letters: endings, beginnings, length and shape."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from jensen.errors import DataError

LONG = 12
"""Letters from which on words count as equally long."""


def word_features(word: str, *, endings: int = 3, beginnings: int = 0) -> list[str]:
    """Names of what holds of a word, whatever its frequency.

    Args:
        endings: the last 1, 2, ... letters, up to so many and fewer than the word has.
        beginnings: the first ones, likewise.

    >>> word_features("Re-made", endings=2)
    ['-e', '-de', '7 letters', 'capital', 'hyphen']
    """
    found = [f"-{word[-n:]}" for n in range(1, min(endings, len(word) - 1) + 1)]
    found += [f"{word[:n]}-" for n in range(1, min(beginnings, len(word) - 1) + 1)]
    found.append(f"{len(word)} letters" if len(word) < LONG else f"{LONG} letters or more")
    shapes = {
        "capital": any(letter.isupper() for letter in word),
        "digit": any(letter.isdigit() for letter in word),
        "hyphen": "-" in word,
        "apostrophe": "'" in word,
        "other sign": any(not (letter.isalnum() or letter in "-'") for letter in word),
    }
    return found + [name for name, holds in shapes.items() if holds]


def read_sentences(path: str | os.PathLike[str]) -> list[list[str]]:
    """The words of each line of a UTF-8 text, .gz or not, split at blanks.

    Raises:
        DataError: there is no such file, or it is no text.
    """
    path = Path(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return [line.split() for line in raw.decode("utf-8").splitlines()]
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: expected a text in UTF-8: {e}") from None
