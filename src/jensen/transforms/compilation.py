"""Arithmetic that may be compiled, where a training step spends its time in many small operations."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

log = logging.getLogger(__name__)
_rows: ContextVar[int | None] = ContextVar("rows", default=None)


@contextmanager
def compiling(rows: int | None) -> Iterator[None]:
    """Within, what can be compiled is, on batches of so many rows or a multiple; None compiles nothing.

    Whether a batch runs compiled depends on its size alone, never on what came before, so that a resumed run repeats
    the uninterrupted one: other batches, as the last of a pass, run as always.
    """
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def is_compiled(n: int) -> bool:
    """Whether a batch of n rows runs compiled."""
    rows = _rows.get()
    return rows is not None and n > 0 and n % rows == 0


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A pure function of tensors, compiled for every shape it meets; the function itself where that fails.

    The first call of a shape takes some ten seconds; torch keeps the result on disk for later processes.
    """
    fast, worked, failed = torch.compile(function, dynamic=False), False, False

    def run(*args: Any) -> Any:
        nonlocal worked, failed
        if failed:
            return function(*args)
        try:
            result = fast(*args)
        except Exception as e:  # of whatever a compiler or its absence raises
            if worked:
                raise
            failed = True
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            log.warning("%s cannot be compiled here and runs as it is: %s", function.__name__, reason)
            return function(*args)
        worked = True
        return result

    return run
