"""Compress and decompress: data as the bits that a model says they take, and back.

Lossless, the datum is coded by p itself; lossy, its discrete codes alone are, and what comes back is what they stand
for. Coding is one walk down p, in float64, on one thread of the CPU and over batches of one size, both ways. What was
written is read again before it is given out, and a digest of each chunk tells where another machine computes other
probabilities than the one that wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
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
    as_they_are,
    from_as_they_are,
    inflated,
    packed,
    unpacked,
)
from jensen.codecs.entropy import DIGEST, Decoder, Encoder
from jensen.codecs.walk import coded
from jensen.core import Model
from jensen.errors import CapabilityError, ConfigError, IntegrityError, did_you_mean
from jensen.jobs.encode import decode, represent
from jensen.jobs.job import job
from jensen.jobs.precision import as_in, doubled
from jensen.jobs.run import Run, open_run
from jensen.jobs.sample import restore
from jensen.training.folder import write_atomically

BATCH = 500
MEMORY = 1 << 25  # probabilities of a batch that are there at once
MOST_BYTES = 1 << 34  # of data, in memory, that an archive may say it holds


@dataclass(frozen=True)
class Compression:
    """Compressed data.

    Attributes:
        content: the archive.
        lossless: whether data come back as they were, or what their codes stand for.
        n, dims: data, and numbers in one.
        model_bits: −log₂ p of what was coded, under the model itself, of all data.
        as_they_are: bytes of the same data without the model, packed and deflated.
        by_model: share of the data that the model has coded; others were longer so.
    """

    content: bytes
    lossless: bool
    n: int
    dims: int
    model_bits: float
    as_they_are: int
    by_model: float

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

    Codes of vector quantisers are coded by their prior, and then, unless `lossy`, the datum given its codes. Labels and
    other conditions that the model is given lie in the archive too; labels that it is not given do not.

    Args:
        data: None for the run's own.
        out: the file; None to keep the bytes alone.
        lossy: code the discrete codes alone.
        split, limit, seed: which part; a random subset of so many.
        listener: is told the share that is done.

    Raises:
        CapabilityError: what is hidden is drawn (bits-back coding would be needed), the data are no bits, levels or
            symbols, or `lossy` and the model has no discrete codes.
        IntegrityError: what was written does not read back to the same; nothing is written then.
    """
    _check(run, lossy)
    _, _, part = run.split(data, split)
    chosen = run.pick(part, limit, seed)
    if not len(chosen):
        raise ConfigError("compress: expected at least one datum")
    model, tensors = doubled(run.model).cpu(), part.to(run.schema)
    size = _batch_size(run, len(chosen), lossy)
    conditions = as_in(model, tensors.take(torch.from_numpy(chosen)))
    context = {name: conditions[name] for name in model.conditions}
    header = {
        "model": run.spec["model"], "run": str(run.folder.path) if run.folder else None, "weights": _fingerprint(run),
        "lossless": not lossy, "n": len(chosen), "shape": list(run.schema.event_shape), "batch": size,
        "torch": str(torch.__version__),
        "context": [[name, str(value.numpy().dtype), list(value.shape)] for name, value in context.items()],
    }  # fmt: skip
    chunks = [_raw(value.numpy().tobytes()) for value in context.values()]
    bits, by_model, levels = 0.0, 0, _levels(run)
    plain, steps = _plain_size(tensors.x[chosen], levels), 2 * math.ceil(len(chosen) / size)
    with _one_thread():
        for i, start in enumerate(range(0, len(chosen), size)):
            batch = as_in(model, tensors.take(torch.from_numpy(chosen[start : start + size])))
            encoder, real = Encoder(), len(batch["x"])
            known = {model.data: batch[model.data], **represent_codes(model, batch)}
            known = {name: _filled(value, size) for name, value in known.items()}
            coded(model, encoder, size, _part(context, start, size), known, not lossy, real)
            content, digest = encoder.finish()
            shorter = as_they_are(batch[model.data].numpy(), levels) if not lossy else content
            if len(shorter) < len(content):
                chunks.append(Chunk(AS_THEY_ARE, digest, shorter))
            else:
                chunks.append(Chunk(BY_MODEL, digest, content))
                by_model += real
            bits += encoder.bits
            if listener is not None:
                listener((i + 1) / steps)
        content = packed(header, chunks)
        _verify(run, model, content, tensors.x[chosen], lossy, listener)
    if out is not None:
        write_atomically(Path(out), content)
    return Compression(content, not lossy, len(chosen), run.schema.dims, bits, plain, by_model / len(chosen))


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
        Data in the user's types, as `sample` gives them; of codes alone with `mean`, pictures as float levels.

    Raises:
        IntegrityError: the archive is damaged, was written with other weights, or this machine computes other
            probabilities than the one that wrote it.
    """
    content, name = _content(archive)
    header, chunks = unpacked(content, name)
    model = doubled(run.model).cpu()
    with _one_thread():
        found, context = _read(run, model, header, chunks, name, listener)
        if header["lossless"]:
            return restore(run, found[model.data].float(), False)
        torch.manual_seed(seed)
        return restore(run, decode(model, {k: v for k, v in found.items() if k != model.data}, mean, context), mean)


def inspect(archive: str | os.PathLike[str] | bytes) -> dict[str, Any]:
    """What an archive says of itself: model, run, number of data, sizes; the weights are not needed.

    Raises:
        IntegrityError: it is damaged, or no archive.
    """
    content, name = _content(archive)
    header, chunks = unpacked(content, name)
    chunks = chunks[len(header["context"]) :]
    told = {k: v for k, v in header.items() if k != "context"}
    bits = 8 * len(content) / max(1, header["n"])
    told |= {"bytes": len(content), "bits_a_datum": bits, "bits_per_dim": bits / math.prod(header["shape"])}
    told |= {"conditions": [name for name, *_ in header["context"]], "chunks": len(chunks)}
    return told | {"chunks_by_model": sum(chunk.method == BY_MODEL for chunk in chunks)}


def run_of(archive: str | os.PathLike[str], run: str | None) -> Run:
    """The run that an archive was written with: the one that is named, else where the archive says that it lay.

    Raises:
        ConfigError: there is none.
    """
    if run is not None:
        return open_run(run)
    wrote = inspect(archive)["run"]
    if wrote is None or not Path(wrote).is_dir():
        where = f"there is no run {wrote} any more" if wrote else "it was written by a run in memory"
        raise ConfigError(f"{archive}: {where}; name it, as --run runs/a")
    return open_run(wrote)


def represent_codes(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The discrete codes of a batch, by name; none where the model has none."""
    return {name: z for name, z in represent(model, batch).items() if name in model.codes} if model.codes else {}


def _check(run: Run, lossy: bool) -> None:
    name, model = run.spec["model"], run.model
    if model.hidden:
        drawn = ", ".join(model.hidden)
        raise CapabilityError(
            f"{name} cannot compress: q draws {drawn}, and coding that takes bits-back, which is not built yet; "
            "autoregressive models and vector quantisers can"
        )
    if lossy and not model.codes:
        raise CapabilityError(f"{name} has no discrete codes; leave out lossy, for every bit back")
    if run.schema.gaps or run.schema.kind not in ("binary", "levels", "symbol"):
        found = "a table with gaps" if run.schema.gaps else f"data of kind {run.schema.kind}"
        raise CapabilityError(f"{name} cannot compress: expected bits, levels or symbols, got {found}")


def _levels(run: Run) -> int:
    return 2 if run.schema.kind == "binary" else int(run.schema.levels or 2)


def _batch_size(run: Run, n: int, lossy: bool) -> int:
    """Data coded at once: a file of few takes no longer than it must."""
    each = run.schema.dims * _levels(run) if not lossy else 1
    return max(1, min(BATCH, n, MEMORY // each))


def _fingerprint(run: Run) -> str:
    """Of settings and weights."""
    digest = hashlib.blake2b(json.dumps(run.spec["settings"], sort_keys=True, default=str).encode(), digest_size=DIGEST)
    for name, value in sorted(run.model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _raw(content: bytes) -> Chunk:
    return Chunk(AS_THEY_ARE, hashlib.blake2b(content, digest_size=DIGEST).digest(), as_they_are(_bytes(content), 256))


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def _plain_size(x: Tensor, levels: int) -> int:
    return len(as_they_are(x.cpu().numpy(), levels))


def _filled(value: Tensor, size: int) -> Tensor:
    """So many rows, zeros after the last: batches of one size have the same last digits."""
    return torch.cat([value, value.new_zeros(size - len(value), *value.shape[1:])])


def _part(context: Mapping[str, Tensor], start: int, size: int) -> dict[str, Tensor]:
    return {name: _filled(value[start : start + size], size) for name, value in context.items()}


def _read(
    run: Run,
    model: Model,
    header: Mapping[str, Any],
    chunks: list[Chunk],
    name: str,
    listener: Callable[[float], None] | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Variables of all data, and their context, by name."""
    if header["weights"] != _fingerprint(run):
        raise IntegrityError(f"{name}: written with other weights than {run.name}'s; name its run, as --run runs/a")
    n, size, shape = header["n"], header["batch"], tuple(run.schema.event_shape)
    if n * math.prod(shape) * 8 > MOST_BYTES or len(chunks) != len(header["context"]) + math.ceil(n / size):
        raise IntegrityError(f"{name}: it says that it holds {n:,} data, and that cannot be")
    context = {}
    for (key, dtype, of), chunk in zip(header["context"], chunks, strict=False):
        content = inflated(chunk.content, math.prod(of) * np.dtype(dtype).itemsize)
        context[key] = torch.from_numpy(np.frombuffer(content, dtype).reshape(of).copy())
    parts: dict[str, list[Tensor]] = {}
    dtype = next(model.parameters()).dtype
    starts = range(0, n, size)
    for i, (start, chunk) in enumerate(zip(starts, chunks[len(context) :], strict=True)):
        real = min(size, n - start)
        if chunk.method == AS_THEY_ARE:
            x = from_as_they_are(chunk.content, (real, *shape), _levels(run))
            values = {model.data: torch.from_numpy(x.astype(np.float64))}
        else:
            decoder = Decoder(chunk.content, dtype)
            values = coded(model, decoder, size, _part(context, start, size), None, header["lossless"], real)
            if decoder.finish() != chunk.digest:
                raise IntegrityError(
                    f"{name}: chunk {i + 1} does not read back to what was written: this machine computes other "
                    f"probabilities than the one that wrote, with torch {header['torch']}"
                )
        for key in (model.data,) if header["lossless"] else model.codes:
            parts.setdefault(key, []).append(values[key][:real])
        if listener is not None:
            listener((i + 1) / len(starts))
    return {key: torch.cat(part) for key, part in parts.items()}, context


def _verify(
    run: Run, model: Model, content: bytes, x: Tensor, lossy: bool, listener: Callable[[float], None] | None
) -> None:
    half = None if listener is None else lambda share: listener(0.5 + share / 2)
    header, chunks = unpacked(content, "the archive")
    found, _ = _read(run, model, header, chunks, "the archive", half)
    if not lossy and not torch.equal(found[model.data].to(x.dtype), x.cpu()):
        raise IntegrityError("the archive does not read back to the data; nothing was written")


def _content(archive: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    if isinstance(archive, bytes):
        return archive, "the archive"
    path = Path(archive)
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise ConfigError(f"{archive}: there is no such file{near}")
    return path.read_bytes(), str(archive)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
