"""How this program's process keeps its memory."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for reuse, up to 1 GiB, where it is glibc.

    As it comes, glibc gives large blocks back to the system as soon as they are free. A training step frees and asks
    for the same megabytes again and again, and the system maps every page of them anew. It concerns the whole process,
    so the program does it and the library does not.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, KEPT)
        mallopt(_TRIM_THRESHOLD, KEPT)
