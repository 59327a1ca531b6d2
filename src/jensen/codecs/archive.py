"""The file that coded data lie in: what is needed to read them back, and checks of every part.

    8 bytes   JENSEN, version
    header    4 bytes of its length, then JSON, deflated
    chunks    4 bytes of length, 1 of the method, 8 of the digest of the symbols, then the content
    16 bytes  BLAKE2 of all that comes before

Numbers are little-endian. A chunk is coded by the model, or, where that would be longer, as its values are, deflated.
What data stand under, labels and given columns, comes first, a chunk each, as it is.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jensen.errors import IntegrityError

MAGIC = b"JENSEN\x00\x01"
CHECK = 16  # bytes of the digest at the end
BY_MODEL, AS_THEY_ARE = 0, 1
MOST_HEADER = 1 << 24  # bytes, inflated
_LENGTH, _CHUNK = struct.Struct("<I"), struct.Struct("<IB8s")


Size = Annotated[int, Field(ge=1, lt=1 << 40)]


class Condition(BaseModel):
    """What data stand under: its name, and how its values lie."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: Literal["y", "c"]
    dtype: Literal["<i8", "<f8", "|u1"]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 40)]], Field(min_length=1, max_length=4)]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Header(BaseModel):
    """What an archive says of itself.

    Attributes:
        model, run: the name of the model, and where its run lay.
        weights: a digest of them.
        lossless: whether data are held, or their codes alone.
        n, shape: data, and the shape of one.
        batch: data coded at once, a chunk.
        torch: the version that wrote it.
        given: what data stand under.
        starts: of windows of texts, all of them, the rows with which a text begins; None of all else.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    run: str | None
    weights: str
    lossless: bool
    n: Size
    shape: Annotated[list[Size], Field(min_length=1, max_length=4)]
    batch: Size
    torch: str
    given: Annotated[list[Condition], Field(max_length=2)]
    starts: list[Annotated[int, Field(ge=0)]] | None = None


@dataclass(frozen=True)
class Chunk:
    """So many rows: how they are held, the digest of their symbols, and the bytes."""

    method: int
    digest: bytes
    content: bytes


def packed(header: Header, chunks: Sequence[Chunk]) -> bytes:
    """The bytes of an archive."""
    told = zlib.compress(header.model_dump_json().encode(), 9)
    parts = [MAGIC, _LENGTH.pack(len(told)), told]
    for chunk in chunks:
        parts += [_CHUNK.pack(len(chunk.content), chunk.method, chunk.digest), chunk.content]
    whole = b"".join(parts)
    return whole + hashlib.blake2b(whole, digest_size=CHECK).digest()


def unpacked(content: bytes, name: str) -> tuple[Header, list[Chunk]]:
    """The header and the chunks of an archive.

    Raises:
        IntegrityError: it is none, was cut off or changed, or is of another version; `name` is named.
    """
    if content[:7] != MAGIC[:7]:
        raise IntegrityError(f"{name}: expected an archive of jensen, got a file that does not begin as one")
    if content[:7] == MAGIC[:7] and len(content) > 7 and content[7] != MAGIC[7]:
        raise IntegrityError(f"{name}: an archive of version {content[7]}, and this is jensen of version {MAGIC[7]}")
    body, check = content[:-CHECK], content[-CHECK:]
    if len(content) < len(MAGIC) + CHECK or hashlib.blake2b(body, digest_size=CHECK).digest() != check:
        raise IntegrityError(f"{name}: the archive was cut off or changed: its checksum does not fit")
    try:
        (length,), at = _LENGTH.unpack_from(body, len(MAGIC)), len(MAGIC) + _LENGTH.size
        header = Header.model_validate_json(inflated(_slice(body, at, length), MOST_HEADER))
        at, chunks = at + length, []
        while at < len(body):
            length, method, digest = _CHUNK.unpack_from(body, at)
            at += _CHUNK.size
            if method not in (BY_MODEL, AS_THEY_ARE):
                raise ValueError(f"chunk {len(chunks) + 1} is coded by method {method}")
            chunks.append(Chunk(method, digest, _slice(body, at, length)))
            at += length
        expected = len(header.given) + -(-header.n // header.batch)
        if len(chunks) != expected:
            raise ValueError(f"expected {expected} chunks, got {len(chunks)}")
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise IntegrityError(f"{name}: the archive cannot be read: header {where}: {first['msg']}") from None
    except (struct.error, zlib.error, ValueError) as e:
        raise IntegrityError(f"{name}: the archive cannot be read: {e}") from None
    return header, chunks


def _slice(content: bytes, at: int, length: int) -> bytes:
    if at + length > len(content):
        raise ValueError(f"expected {length:,} bytes at {at:,}, got {len(content) - at:,}")
    return content[at : at + length]


def digest_of(content: bytes) -> bytes:
    """The digest of what a chunk that is not coded by a model holds."""
    return hashlib.blake2b(content, digest_size=8).digest()


def inflated(content: bytes, most: int) -> bytes:
    """Deflated bytes as they were. Raises `ValueError` where they are none, or would be more than so many."""
    machine = zlib.decompressobj()
    try:
        found = machine.decompress(content, most + 1)
    except zlib.error as e:
        raise ValueError(str(e)) from None
    if len(found) > most or not machine.eof:
        raise ValueError(f"expected {most:,} bytes at most")
    return found


def as_they_are(x: np.ndarray, levels: int) -> bytes:
    """Whole numbers 0..levels−1 without a model: eight bits to a byte, or the fewest bytes each, deflated."""
    raw = np.packbits(x.astype(np.uint8).reshape(-1)) if levels == 2 else x.astype(dtype_of(levels))
    return zlib.compress(raw.tobytes(), 9)


def from_as_they_are(content: bytes, shape: tuple[int, ...], levels: int) -> np.ndarray:
    """The numbers back, of that shape. Raises `ValueError` where their number is another, or one is too large."""
    size = math.prod(shape)
    if levels == 2:
        bits = np.frombuffer(inflated(content, -(-size // 8)), np.uint8)
        return np.unpackbits(bits)[:size].reshape(shape)
    dtype = np.dtype(dtype_of(levels))
    x = np.frombuffer(inflated(content, size * dtype.itemsize), dtype).reshape(shape)
    if size and x.max() >= levels:
        raise ValueError(f"expected numbers below {levels}, got {x.max()}")
    return x


def dtype_of(levels: int) -> str:
    """The smallest dtype for 0..levels−1."""
    return "<u1" if levels <= 1 << 8 else "<u2" if levels <= 1 << 16 else "<u4"
