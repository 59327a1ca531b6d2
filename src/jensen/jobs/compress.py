"""Compress and decompress: data as the bits that a model says they take, and back.

Lossless, the datum is coded by p itself; lossy, its discrete codes alone are, and what comes back is what they stand
for. Coding is one walk down p, in float64, on one thread of the CPU and over batches of one size, both ways. What was
written is read again before it is given out, and a digest of each chunk tells where another machine computes other
probabilities than the one that wrote.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.codecs.archive import (
    AS_THEY_ARE,
    BY_MODEL,
    Chunk,
    Condition,
    Header,
    as_they_are,
    digest_of,
    from_as_they_are,
    inflated,
    packed,
    unpacked,
)  # fmt: skip
from jensen.codecs.entropy import DIGEST, Decoder, Encoder
from jensen.codecs.walk import coded
from jensen.core import Model, Shown, seeded
from jensen.data import Schema, Split
from jensen.errors import CapabilityError, ConfigError, DataError, IntegrityError, did_you_mean
from jensen.hardware import threads
from jensen.jobs.encode import decode, represent
from jensen.jobs.given import Given
from jensen.jobs.job import job
from jensen.jobs.precision import as_in, doubled
from jensen.jobs.run import Run, check_conditions, open_run
from jensen.jobs.sample import restore
from jensen.training.folder import write_atomically

BATCH = 500
MEMORY = 1 << 25  # probabilities of a batch that are there at once
MOST_BYTES = 1 << 34  # of data, as float64, that an archive may hold
WORDS = "the archive"  # what bytes are called


@dataclass(frozen=True, repr=False)
class Compression(Shown):
    """Compressed data.

    Attributes:
        content: the archive.
        lossless: whether data come back as they were, or what their codes stand for.
        n, dims: data, and numbers in one.
        model_bits: −log₂ p of what was coded, under the model itself, of all data.
        as_they_are: bytes of the same data without the model, packed and deflated.
        by_model: share of the data that the model has coded; others were longer so.
        seen_as: what preparation made of the user's data before that, and does not come back; "" where nothing.
    """

    content: bytes
    lossless: bool
    n: int
    dims: int
    model_bits: float
    as_they_are: int
    by_model: float
    seen_as: str

    @property
    def bits_per_dim(self) -> float:
        """Of the whole archive."""
        return 8 * len(self.content) / (self.n * self.dims)

    def to_dict(self) -> dict[str, Any]:
        found = {k: v for k, v in self.__dict__.items() if k != "content"}
        return {**found, "bytes": len(self.content), "bits_per_dim": self.bits_per_dim}

    def __str__(self) -> str:
        whole, own = 8 * len(self.content) / self.n, self.model_bits / self.n
        what = "lossless" if self.lossless else "codes alone, lossy"
        what += f" {self.seen_as}" if self.lossless and self.seen_as else ""
        told = (
            f"{self.n:,} data, {what}: {len(self.content):,} bytes, {whole:,.2f} bits a datum ({self.bits_per_dim:.4f} "
            f"bits/dim); −log₂ p of the model is {own:,.2f} bits a datum"
        )
        if self.by_model < 1:
            told += f", and {1 - self.by_model:.0%} of the data lie without it, for they are shorter so"
        elif own:
            told += f", {(1 - own / whole) * 100:.2f}% less"
        return f"{told}; packed and deflated without a model all take {self.as_they_are:,} bytes"


@job("compress", needs="likelihood")
@torch.no_grad()
def compress(
    run: Run,
    data: Any = None,
    *,
    out: str | os.PathLike[str] | None = None,
    lossy: bool = False,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    listener: Callable[[float], None] | None = None,
) -> Compression:
    """Data as bits, by the model's own probabilities: −log₂ p(x) each, and a little more.

    Codes of vector quantisers are coded by their prior, and then, unless `lossy`, the datum given its codes. Every bit
    comes back of data as the model sees them: after binarisation, and of sound and text as its levels and tokens.
    Labels and columns that the model is given lie in the archive too; labels that it is not given do not.

    Args:
        data: None for the run's own.
        out: the file; None to keep the bytes alone.
        lossy: code the discrete codes alone.
        split, limit, seed: which part; a random subset of so many.
        listener: is told the share that is done.

    Raises:
        CapabilityError: what is hidden is drawn (bits-back coding would be needed), the data are no bits, levels or
            symbols, or `lossy` and the model has no discrete codes.
        ConfigError: `out` cannot be written, or is the data themselves.
        DataError: bits that are drawn anew each time, or a condition is missing.
        IntegrityError: what was written does not read back to the same; nothing is written then.
    """
    _check(run, lossy)
    _check_out(out, data)
    _, name, part = run.split(data, split)
    if part.redraw:
        raise DataError(
            f"the split {name!r} is grey and binarised anew each time it is read: there are no bits to bring back; "
            "name another split, or train with --binarize static"
        )
    check_conditions(run.model, run.schema, part)
    starts = part.starts if limit is None or limit >= len(part) else None
    part = part.rows(run.pick(part, limit, seed))
    if not len(part):
        raise DataError("compress: expected at least one datum")
    if len(part) * run.schema.dims * 8 > MOST_BYTES:
        raise ConfigError(f"compress: {len(part):,} data are too many for one archive; take fewer by --limit")
    model, size, levels = doubled(run.model).cpu(), _batch_size(run, len(part), lossy), _levels(run.schema)
    given = {key: np.ascontiguousarray(getattr(part, key)) for key in run.model.conditions}
    header = Header(
        model=run.spec["model"], run=str(run.folder.path.resolve()) if run.folder else None, weights=_fingerprint(run),
        lossless=not lossy, n=len(part), shape=list(run.schema.event_shape), batch=size, torch=str(torch.__version__),
        given=[Condition(name=key, dtype=v.dtype.str, shape=list(v.shape)) for key, v in given.items()],  # pyright: ignore
        starts=None if starts is None else np.flatnonzero(starts).tolist(),
    )  # fmt: skip
    chunks = [_raw(value.tobytes()) for value in given.values()]
    bits, by_model, plain, done = 0.0, 0, 0, 0
    for start in range(0, len(part), size):
        rows = part.rows(np.arange(start, min(len(part), start + size)))
        with threads(1):
            batch = _prepared(model, rows, run.schema)
            encoder, real = Encoder(), len(rows)
            known = {model.data: batch[model.data], **_codes(model, batch)}
            context = {key: _filled(batch[key], size) for key in given}
            known = {key: _filled(value, size) for key, value in known.items()}
            coded(model, encoder, size, context, known, not lossy, real)
        content, digest = encoder.finish()
        raw = as_they_are(batch[model.data].numpy(), levels)
        plain, bits, done = plain + len(raw), bits + encoder.bits, done + real
        if not lossy and shorter(raw, content):
            chunks.append(Chunk(AS_THEY_ARE, digest_of(raw), raw))
        else:
            chunks.append(Chunk(BY_MODEL, digest, content))
            by_model += real
        if listener is not None:
            listener(done / len(part) / 2)
    content = packed(header, chunks)
    _verify(run, model, content, part, lossy, listener)
    if out is not None:
        write_atomically(Path(out), content)
    return Compression(
        content, not lossy, len(part), run.schema.dims, bits, plain, by_model / len(part), _seen_as(run.schema)
    )


@job("decompress")
@torch.no_grad()
def decompress(
    run: Run,
    archive: str | os.PathLike[str] | bytes,
    *,
    mean: bool = True,
    seed: int = 0,
    listener: Callable[[float], None] | None = None,
) -> Any:
    """Data back from an archive that `compress` wrote with the same weights.

    Args:
        archive: a file, or its bytes.
        mean: of codes alone, E[x | codes]; else a draw of x, with that seed.

    Returns:
        Data in the user's types, as `sample` gives them, given columns and labels in their places; windows of a text
        as that text, in a list of all; of codes alone with `mean`, pictures as float levels.

    Raises:
        IntegrityError: the archive is damaged, was written with other weights, or this machine computes other
            probabilities than the one that wrote it.
        ConfigError: a draw of an archive that holds every bit.
    """
    content, name = _content(archive)
    header, chunks = unpacked(content, name)
    if header.lossless and not mean:
        raise ConfigError(f"draw: {name} holds every bit, and there is nothing to draw")
    model = doubled(run.model).cpu()
    found, given = _read(run, model, header, chunks, name, listener)
    users = Given(header.n, given.y, given.c)
    if header.lossless and header.starts is not None and run.schema.is_text:
        return _texts(run.schema, found[model.data].numpy(), header.starts)
    if header.lossless:
        return restore(run, found[model.data], False, users)
    with seeded(seed), threads(1):
        batch = _prepared(model, given, run.schema)
        codes = {key: value for key, value in found.items() if key != model.data}
        return restore(run, decode(model, codes, mean, {key: batch[key] for key in model.conditions}), mean, users)


def _texts(schema: Schema, windows: np.ndarray, starts: Sequence[int]) -> list[str]:
    """Texts of which windows (N, T) are one after another; each begins with one of the rows `starts`."""
    end, found = schema.tokens.end, []
    for rows in np.split(windows, [start for start in starts if 0 < start < len(windows)]):
        tokens = rows.reshape(-1)
        found.append(schema.tokens.decode(tokens[tokens != end]))
    return found


def inspect(archive: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """What an archive says of itself: model, run, number of data, sizes; the weights are not needed.

    Raises:
        ConfigError: there is no such file.
        IntegrityError: it is damaged, or no archive.
    """
    content, name = _content(archive)
    header, chunks = unpacked(content, name)
    chunks = chunks[len(header.given) :]
    bits = 8 * len(content) / header.n
    return {
        **header.model_dump(exclude={"given"}),
        "bytes": len(content),
        "bits_a_datum": bits,
        "bits_per_dim": bits / math.prod(header.shape),
        "conditions": [given.name for given in header.given],
        "chunks": len(chunks),
        "chunks_by_model": sum(chunk.method == BY_MODEL for chunk in chunks),
    }


def run_of(archive: str | os.PathLike[str], run: str | None) -> Run:
    """The run that an archive was written with: the one that is named, else where the archive says that it lay.

    Raises:
        ConfigError: there is none.
    """
    wrote = inspect(archive)["run"]
    if run is not None:
        return open_run(run)
    if wrote is None or not Path(wrote).is_dir():
        where = f"there is no run {wrote} any more" if wrote else "it was written by a run in memory"
        raise ConfigError(f"{archive}: {where}; name it, as --run runs/a")
    return open_run(wrote)


# Before


def _check(run: Run, lossy: bool) -> None:
    name, model, schema = run.spec["model"], run.model, run.schema
    averages = getattr(model.p[model.data].module, "averages", False)
    if lossy and not model.codes:
        way = "leave out --lossy (in Python lossy=), for every bit back"
        way = "vector quantisers have" if model.hidden or averages else way
        raise CapabilityError(f"{name} has no discrete codes, which are what is kept; {way}")
    if model.hidden or averages:
        why = f"q draws {', '.join(model.hidden)}" if model.hidden else "its density is an average over orders"
        raise CapabilityError(
            f"{name} cannot compress: {why}, and coding that takes bits-back, which is not built yet; "
            "autoregressive models and vector quantisers can"
        )
    if schema.kind not in ("binary", "levels", "symbol"):
        found = f"expected bits, levels or symbols, got data of kind {schema.kind}"
        raise CapabilityError(f"{name} cannot compress: {found}")
    if schema.gaps:
        raise CapabilityError(
            f"{name} cannot compress: any cell of its rows may be missing, which no coder is built for"
        )


def _check_out(out: str | os.PathLike[str] | None, data: Any) -> None:
    if out is None:
        return
    path = Path(out)
    if str(out) == "-":
        raise ConfigError("--out: an archive goes to a file, as digits.jz; got -")
    if path.is_dir():
        raise ConfigError(f"--out: {out} is a folder, expected a file")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out: there is no folder {path.parent}")
    if isinstance(data, str | os.PathLike) and path.exists() and Path(data).exists() and path.samefile(data):
        raise ConfigError(f"--out: {out} is the file with the data")


def _levels(schema: Schema) -> int:
    return 2 if schema.kind == "binary" else int(schema.levels or 2)


def _batch_size(run: Run, n: int, lossy: bool) -> int:
    """Data coded at once: a file of few takes no longer than it must."""
    each = run.schema.dims * _levels(run.schema) if not lossy else 1
    return max(1, min(BATCH, n, MEMORY // each))


def _seen_as(schema: Schema) -> str:
    if schema.is_sound:
        return f"as {schema.levels} levels of loudness"
    if schema.is_text:
        return "as tokens"
    return "as binarised" if schema.binarization != "none" else ""


def _fingerprint(run: Run) -> str:
    """Of settings and weights."""
    digest = hashlib.blake2b(json.dumps(run.spec["settings"], sort_keys=True, default=str).encode(), digest_size=DIGEST)
    for name, value in sorted(run.model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# A batch


def _prepared(model: Model, rows: Split, schema: Schema) -> dict[str, Tensor]:
    """Rows as the model takes them, in float64."""
    return as_in(model, rows.to(schema).take(slice(0, len(rows))))


def _codes(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Discrete codes, by name; none where the model has none."""
    return {name: z for name, z in represent(model, batch).items() if name in model.codes} if model.codes else {}


def _filled(value: Tensor, size: int) -> Tensor:
    """So many rows, zeros after the last: batches of one size have the same last digits."""
    return torch.cat([value, value.new_zeros(size - len(value), *value.shape[1:])])


def shorter(raw: bytes, content: bytes) -> bool:
    """Whether a chunk is to lie as its values are."""
    return len(raw) < len(content)


def _raw(content: bytes) -> Chunk:
    deflated = as_they_are(np.frombuffer(content, np.uint8), 256)
    return Chunk(AS_THEY_ARE, digest_of(deflated), deflated)


# Back


def _read(
    run: Run,
    model: Model,
    header: Header,
    chunks: list[Chunk],
    name: str,
    listener: Callable[[float], None] | None,
) -> tuple[dict[str, Tensor], Split]:
    """Variables of all data by name, and what they stand under, in the user's units."""
    if header.weights != _fingerprint(run):
        raise IntegrityError(f"{name}: written with other weights than {run.name}'s; name its run, as --run runs/a")
    given = _given(run, header, chunks, name)
    parts: dict[str, list[Tensor]] = {}
    first = len(header.given)
    for i, chunk in enumerate(chunks[first:]):
        rows = given.rows(np.arange(i * header.batch, min(header.n, (i + 1) * header.batch)))
        try:
            values = _chunk(run, model, header, chunk, rows)
        except (ValueError, IndexError, RuntimeError) as e:
            raise IntegrityError(
                f"{name}: chunk {i + 1} does not read back to what was written: this machine computes other "
                f"probabilities than the one that wrote, with torch {header.torch}, or the archive is none of jensen's "
                f"({str(e).splitlines()[0]})"
            ) from None
        for key, value in values.items():
            parts.setdefault(key, []).append(value[: len(rows)])
        if listener is not None:
            listener((i + 1) / (len(chunks) - first))
    return {key: torch.cat(part) for key, part in parts.items()}, given


def _chunk(run: Run, model: Model, header: Header, chunk: Chunk, rows: Split) -> dict[str, Tensor]:
    """The variables of the rows of a chunk. Raises `ValueError` where it is not what was written."""
    if chunk.method == AS_THEY_ARE:
        if not header.lossless or digest_of(chunk.content) != chunk.digest:
            raise ValueError("other bytes")
        shape = (len(rows), *run.schema.event_shape)
        x = from_as_they_are(chunk.content, shape, _levels(run.schema))
        return {model.data: torch.from_numpy(x.astype(np.float64))}
    with threads(1):
        batch = _prepared(model, rows, run.schema)
        context = {key: _filled(batch[key], header.batch) for key in model.conditions}
        decoder = Decoder(chunk.content, torch.float64)
        values = coded(model, decoder, header.batch, context, None, header.lossless, len(rows))
    if decoder.finish() != chunk.digest:
        raise ValueError("other symbols")
    return {key: values[key] for key in ([model.data] if header.lossless else model.codes)}


def _given(run: Run, header: Header, chunks: list[Chunk], name: str) -> Split:
    """What data stand under, beside zeros for themselves. Raises `IntegrityError` where it does not fit the run."""
    shape, schema = tuple(run.schema.event_shape), run.schema
    columns = (len(schema.given),) if schema.given_picture is None else tuple(schema.given_shape)
    beside = {"y": (), "c": columns}
    fits = sorted(given.name for given in header.given) == run.model.conditions
    fits = fits and all(tuple(given.shape) == (header.n, *beside[given.name]) for given in header.given)
    small = header.n * math.prod(shape) * 8 <= MOST_BYTES and header.batch <= min(BATCH, header.n)
    if tuple(header.shape) != shape or not fits or not small:
        raise IntegrityError(f"{name}: its header does not fit {run.name}: {header.n:,} data of shape {header.shape}, "
                             f"given {[given.name for given in header.given]}")  # fmt: skip
    found = {}
    for given, chunk in zip(header.given, chunks, strict=False):
        try:
            if digest_of(chunk.content) != chunk.digest:
                raise ValueError("other bytes")
            found[given.name] = np.frombuffer(inflated(chunk.content, given.size), given.dtype).reshape(given.shape)
        except ValueError as e:
            raise IntegrityError(f"{name}: {given.name} cannot be read: {e}") from None
    dtype = np.float64 if not schema.is_array else np.float32 if schema.is_sound else np.uint8
    return Split(np.broadcast_to(np.zeros((), dtype), (header.n, *shape)), **found)


def _verify(
    run: Run, model: Model, content: bytes, part: Split, lossy: bool, listener: Callable[[float], None] | None
) -> None:
    half = None if listener is None else lambda share: listener(0.5 + share / 2)
    header, chunks = unpacked(content, WORDS)
    found, _ = _read(run, model, header, chunks, WORDS, half)
    expected = part.to(run.schema).x
    if not lossy and not torch.equal(found[model.data].to(expected.dtype), expected):
        raise IntegrityError("the archive does not read back to the data; nothing was written")


def _content(archive: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    if isinstance(archive, bytes | bytearray | memoryview):
        return bytes(archive), WORDS
    path = Path(archive)
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise ConfigError(f"{archive}: there is no such file{near}")
    return path.read_bytes(), str(archive)
