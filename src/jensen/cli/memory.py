"""How this program's process keeps its memory."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_HUGE_PAGES = 14  # of Linux's madvise
KEPT, HUGE = 1 << 30, 1 << 28  # bytes


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for reuse, up to 1 GiB, where it is glibc.

    As it comes, glibc gives large blocks back to the system as soon as they are free. A training step frees and asks
    for the same megabytes again and again, and the system maps every page of them anew. Of what it grows by next, the
    first 256 MiB are asked for in pages of two megabytes, of which the processor has to look up few; none is taken
    before it is used. It concerns the whole process, so the program does it and the library does not.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, KEPT)
        libc.mallopt(_TRIM_THRESHOLD, KEPT)
        libc.malloc.restype = ctypes.c_void_p
        block = libc.malloc(ctypes.c_size_t(HUGE))
        if block:
            page = mmap.PAGESIZE
            first = -(-block // page) * page
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t((block + HUGE - first) // page * page), _HUGE_PAGES)
            libc.free(ctypes.c_void_p(block))
