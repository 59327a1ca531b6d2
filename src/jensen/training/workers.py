"""Several processes of one machine that train one model: each computes a part of every batch, with one thread.

Threads divide each operation, and small ones are over before a second thread has begun; workers divide the batch, and
are busy from beginning to end, but for the gradients that they exchange. The processes are forks, so data and weights
need not be sent, and what they tell one another stands in memory that they share.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from jensen.errors import ConfigError, TrainingError

SPINS = 200  # looks for the others' messages before sleeping, about as many microseconds
PATIENCE = 1.0  # seconds of sleep before a look whether the others still live
LAST_WORDS = 4096  # bytes of what a worker says when it fails
SMALL = 65536  # bytes for messages other than gradients


class Workers:
    """One of `number` processes that run the same lines, and what they tell one another.

    Attributes:
        rank: which one, from 0: the process that was there before, which alone writes files and is listened to.
        number: of all.
    """

    def __init__(self, rank: int = 0, number: int = 1, shared: _Shared | None = None):
        self.rank, self.number = rank, number
        self._shared, self._turn = shared, 0

    def part(self, rows: Tensor) -> tuple[Tensor, float]:
        """Of a batch's rows (B,) those that are this worker's, and their share of the batch.

        Where there are fewer rows than workers, some compute on a row that does not count.
        """
        if self.number == 1:
            return rows, 1.0
        part = rows.tensor_split(self.number)[self.rank]
        return (part, len(part) / len(rows)) if len(part) else (rows[:1], 0.0)

    def range(self, n: int) -> tuple[int, int]:
        """Of n rows in sequence the first that is this worker's and the first that no longer is."""
        return n * self.rank // self.number, n * (self.rank + 1) // self.number

    def exchange(self, pieces: Sequence[Tensor], dtype: torch.dtype = torch.float64) -> Tensor:
        """What all have to say: pieces together of one length, (number, length).

        It stands until the next exchange but one.
        """
        if self._shared is None:
            return torch.cat([piece.reshape(-1) for piece in pieces])[None].to(dtype)
        length = sum(piece.numel() for piece in pieces)
        said = self._shared.slots(dtype)[self._turn % 2][:, :length]
        torch.cat([piece.reshape(-1) for piece in pieces], out=said[self.rank])
        self._shared.meet(self.rank)
        self._turn += 1
        return said

    def combine(
        self, summed: Sequence[Tensor], averaged: Sequence[Tensor], values: Sequence[float]
    ) -> tuple[list[Tensor], list[float]]:
        """The sums of tensors and of values over all workers; others become their means, in place.

        What is equal in all is its own mean to the last bit.
        """
        pieces = [*summed, *averaged]
        dtype = torch.float64 if any(piece.dtype == torch.float64 for piece in pieces) else torch.float32
        said = self.exchange([*pieces, torch.tensor(values)], dtype)
        lengths = [sum(piece.numel() for piece in group) for group in (summed, averaged)]
        sums, means, last = said.split([*lengths, len(values)], 1)
        if averaged:
            together = _split(means[0] + (means - means[0]).mean(0), averaged)
            torch._foreach_copy_(list(averaged), together)
        return _split(sums.sum(0), summed), last.sum(0).tolist()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Over all workers, of each value."""
        return self.exchange([torch.tensor(values, dtype=torch.float64)]).sum(0).tolist()

    def first(self, value: float) -> float:
        """That of the first worker, whose clock counts."""
        return value if self.number == 1 else float(self.exchange([torch.tensor([value], dtype=torch.float64)])[0, 0])


def _split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Into tensors of these shapes, one after the other."""
    pieces = flat.split([tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for tensor, piece in zip(like, pieces, strict=True)]


@contextmanager
def together(number: int, size: int) -> Iterator[Workers]:
    """Inside, so many processes run the same lines; after it there is the first one alone.

    Args:
        number: of processes; of one nothing is special.
        size: bytes of the longest message.

    Raises:
        ConfigError: this system has no forks.
        TrainingError: a worker failed or was killed.
    """
    if number == 1:
        yield Workers()
        return
    if not hasattr(os, "fork"):
        raise ConfigError("train.workers: this system has no processes that share memory; take 1")
    shared, alive = _Shared(number, size + SMALL), True
    for rank in range(1, number):
        child = os.fork()
        if child == 0:
            with shared.as_child(rank):
                yield Workers(rank, number, shared)
        shared.children[rank] = child
    try:
        yield Workers(0, number, shared)
        alive = False  # they end by themselves
    finally:
        shared.end(kill=alive)


class _Shared:
    """Memory of all workers: two slots for a message of each, used in turn, and their last words.

    Two are enough: a worker that is an exchange ahead has heard from all others, so these no longer read what it said
    two exchanges ago.
    """

    def __init__(self, number: int, size: int):
        self.number, self.size = number, -(-size // 8) * 8
        self.memory = mmap.mmap(-1, 2 * number * self.size)
        self.words = mmap.mmap(-1, number * LAST_WORDS)
        context: Any = multiprocessing.get_context("fork")
        self.said = [context.Semaphore(0) for _ in range(number)]
        self.parent = os.getpid()
        self.children: dict[int, int] = {}  # processes by rank
        self._slots: dict[torch.dtype, Tensor] = {}

    def slots(self, dtype: torch.dtype) -> Tensor:
        """(2, number, length) of a dtype."""
        if dtype not in self._slots:
            flat = torch.frombuffer(self.memory, dtype=dtype)
            self._slots[dtype] = flat.view(2, self.number, -1)
        return self._slots[dtype]

    def meet(self, rank: int) -> None:
        """Wait until all have said what they have to say."""
        for other, semaphore in enumerate(self.said):
            if other != rank:
                semaphore.release()
        for _ in range(self.number - 1):
            self._hear(rank)

    def _hear(self, rank: int) -> None:
        own = self.said[rank]
        for _ in range(SPINS):
            if own.acquire(block=False):
                return
            os.sched_yield()
        while not own.acquire(timeout=PATIENCE):
            if rank and os.getppid() != self.parent:
                os._exit(1)
            if not rank:
                self._look_after_children()

    def _look_after_children(self) -> None:
        """Raises `TrainingError` where one has ended too early."""
        for rank, child in list(self.children.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del self.children[rank]
                code = os.waitstatus_to_exitcode(status)
                words = self.words[rank * LAST_WORDS : (rank + 1) * LAST_WORDS].rstrip(b"\0").decode(errors="replace")
                why = words or (f"killed by signal {-code}, maybe for memory" if code < 0 else f"ended with {code}")
                raise TrainingError(f"worker {rank + 1} of {self.number}: {why}")

    @contextmanager
    def as_child(self, rank: int) -> Iterator[None]:
        """Inside, a worker that was forked; it ends here, whatever happens, and says nothing to the terminal."""
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first one decides
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            yield
            code = 0
        except BaseException as e:
            text = (str(e) or type(e).__name__).encode()[: LAST_WORDS - 1]
            self.words[rank * LAST_WORDS : rank * LAST_WORDS + len(text)] = text
        finally:
            os._exit(code)

    def end(self, kill: bool) -> None:
        """Leave no child behind."""
        patient = time.monotonic() + 10.0
        while not kill and self.children and time.monotonic() < patient:
            self.children = {k: child for k, child in self.children.items() if os.waitpid(child, os.WNOHANG)[0] == 0}
            time.sleep(0.001)
        for child in self.children.values():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.children = {}
