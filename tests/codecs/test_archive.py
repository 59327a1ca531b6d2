"""The archive: what goes in comes out, and damage anywhere is noticed."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest

from jensen.codecs.archive import CHECK, MAGIC, Chunk, Header, as_they_are, from_as_they_are, inflated, packed, unpacked
from jensen.errors import IntegrityError

HEADER = Header(
    model="vqvae", run=None, weights="ab", lossless=True, n=3, shape=[1, 2, 2], batch=2, torch="2", given=[]
)  # fmt: skip
CHUNKS = [Chunk(0, b"12345678", b"content"), Chunk(1, b"abcdefgh", b"")]


def test_what_goes_in_comes_out():
    assert unpacked(packed(HEADER, CHUNKS), "a") == (HEADER, CHUNKS)
    with pytest.raises(IntegrityError, match="expected 2 chunks, got 0"):
        unpacked(packed(HEADER, []), "a")


def test_damage_anywhere_is_noticed():
    whole = packed(HEADER, CHUNKS)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        with pytest.raises(IntegrityError, match=r"^the file: "):
            unpacked(bytes(damaged), "the file")
        with pytest.raises(IntegrityError, match=r"^the file: "):
            unpacked(whole[:at], "the file")
    with pytest.raises(IntegrityError):
        unpacked(whole + b"x", "the file")


def test_an_archive_of_another_version_says_so():
    body = MAGIC[:7] + b"\x09" + packed(HEADER, CHUNKS)[8:-CHECK]
    whole = body + hashlib.blake2b(body, digest_size=CHECK).digest()
    with pytest.raises(IntegrityError, match="of version 9, and this is jensen of version 1"):
        unpacked(whole, "the file")


def test_nothing_is_inflated_without_bound():
    bomb = zlib.compress(bytes(1 << 22), 9)
    with pytest.raises(ValueError, match="expected 1,024 bytes at most"):
        inflated(bomb, 1024)
    assert len(inflated(bomb, 1 << 22)) == 1 << 22


@pytest.mark.parametrize("levels", [2, 17, 256, 1000, 70000])
def test_numbers_as_they_are(levels: int):
    x = np.random.default_rng(0).integers(0, levels, (5, 3, 7))
    content = as_they_are(x, levels)
    np.testing.assert_array_equal(from_as_they_are(content, x.shape, levels), x)
    with pytest.raises(ValueError):
        from_as_they_are(content, (6, 3, 70), levels)


@pytest.mark.parametrize("told", ["[]", "5", "null", "{}", "[" * 100_000, '{"n": NaN}', "\x00"])
def test_headers_that_are_none(told: str, monkeypatch):
    monkeypatch.setattr(Header, "model_dump_json", lambda self: told)
    with pytest.raises(IntegrityError, match=r"^the file: the archive cannot be read"):
        unpacked(packed(HEADER, CHUNKS), "the file")


def test_methods_that_are_none():
    with pytest.raises(IntegrityError, match="chunk 2 is coded by method 2"):
        unpacked(packed(HEADER, [CHUNKS[0], Chunk(2, b"abcdefgh", b"")]), "the file")
