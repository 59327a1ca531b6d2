"""Files from elsewhere: fetched over https, checked against a digest, moved into place whole."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import urllib.request
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import numpy as np

from jensen.errors import DataError, IntegrityError

_TIMEOUT = 30  # seconds without a byte
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Remote:
    """A file at a public address, and its SHA-256 digest in hexadecimal."""

    url: str
    sha256: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def fetch(remotes: Iterable[Remote], folder: Path) -> None:
    """Download what is missing into a folder. A broken download leaves nothing behind.

    Raises:
        DataError: no connection; says where to put the file by hand.
        IntegrityError: the digest is not the one expected.
    """
    for remote in remotes:
        if not (folder / remote.file).is_file():
            _fetch(remote, folder / remote.file)


def _fetch(remote: Remote, target: Path) -> None:
    address = urlsplit(remote.url)
    if address.scheme != "https" and address.hostname not in _LOOPBACK:
        raise DataError(f"{remote.url}: expected an https address")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(remote.url, timeout=_TIMEOUT) as answer:
            while block := answer.read(1 << 20):
                file.write(block)
                digest.update(block)
        if digest.hexdigest() != remote.sha256:
            raise IntegrityError(f"{remote.url}: expected SHA-256 {remote.sha256}, got {digest.hexdigest()}")
        os.replace(part, target)
    except (OSError, HTTPException) as e:
        if isinstance(e, HTTPError):
            e.close()
        raise DataError(f"{remote.url}: cannot be downloaded ({e}); put the file at {target}") from None
    finally:
        Path(part).unlink(missing_ok=True)


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in MNIST's IDX format, gzipped. Raises `DataError` where it is corrupt."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path}: corrupt or not a .gz file ({e})") from None
    if content[:3] != b"\0\0\x08":
        raise DataError(f"{path}: expected an IDX file of bytes, got one that starts with {content[:4].hex()}")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content, ">u4", content[3], offset=4).tolist())
    if len(content) != start + np.prod(shape):
        raise DataError(f"{path}: expected {shape} bytes after the header, got {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
