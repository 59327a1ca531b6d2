"""Reading text: UTF-8, packed by gzip or not; a file, one a split, or folders of them, one a class."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jensen.data.folders import find_files, folder_labels
from jensen.data.raw import ALL, SPLITS, Raw, Texts
from jensen.errors import DataError

ENDINGS = (".txt", ".txt.gz")


def read_text(path: Path) -> Raw:
    """A text in UTF-8, packed by gzip or not; line ends stay as they are.

    Raises:
        DataError: it is empty or corrupt, or holds bytes that are no UTF-8, naming the line.
    """
    return Raw({}, texts={ALL: Texts([text_of(path)])})


def read_folder(folder: Path) -> Raw:
    """The texts in a folder, a file each. Subfolders are classes; `train`, `valid` and `test` are splits.

    Files are taken in the order of their names, and empty ones left out.

    Raises:
        DataError: as `read_text`.
    """
    texts, empty = {}, 0
    for name, (root, paths) in find_files(folder, ENDINGS).items():
        kept = [path for path in paths if path.stat().st_size]
        empty += len(paths) - len(kept)
        if kept:
            texts[name] = Texts([text_of(path) for path in kept], folder_labels(root, kept), [str(p) for p in kept])
    notes = (f"{empty:,} empty files were left out",) if empty else ()
    return Raw({}, texts=texts, notes=notes, by_folder=True)


def read_splits(path: Path, usual: Mapping[str, Any]) -> Raw:
    """The text of a file named after its split, train, and those of the others, which lie beside it."""
    found = {split: path.with_name(path.name.replace("train", split)) for split in SPLITS}
    for other in found.values():
        if not other.is_file():
            raise DataError(f"{other}: expected beside {path.name}, not found")
    texts = {split: Texts([text_of(other)], names=[str(other)]) for split, other in found.items()}
    return Raw({}, texts=texts, usual=usual)


def text_of(path: Path) -> str:
    """The characters of a text file. Raises `DataError` as `read_text`."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.name.lower().endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path}: corrupt or not a text ({type(e).__name__}: {e})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise DataError(f"{path}, line {line}: expected text in UTF-8, got the byte 0x{data[e.start]:02x}") from None
    if not text.strip():
        raise DataError(f"{path}: expected a text, got {'spaces only' if text else 'an empty file'}")
    return text
