"""What a machine offers: device, memory and threads, and whether it computes in bfloat16 or only imitates it."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from jensen.errors import ConfigError, ResourceError


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises `ConfigError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"train.device: expected auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"train.device: {name!r} asked for, but this machine offers no CUDA device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"train.device: {name!r} asked for, but there are {torch.cuda.device_count()} CUDA devices")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether networks run in bfloat16 faster than in float32: a device without such instructions is several times
    slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """What networks are trained in, None for their own: `auto` is bfloat16 where the device computes in it."""
    return torch.bfloat16 if name == "bf16" or (name == "auto" and has_bfloat16(device)) else None


def out_of_memory(error: Exception, batch_size: int) -> ResourceError | None:
    """What to answer where memory did not suffice; None for other errors."""
    text = str(error)
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "DefaultCPUAllocator" not in text:
        return None
    smaller = max(1, batch_size // 2)
    return ResourceError(f"out of memory at batch size {batch_size}; try --batch-size {smaller}")


_lock = threading.Lock()
_open = 0  # uses of `threads` that have begun and not ended
_outside = 1  # torch's number of threads before the first of them


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Inside, torch has so many threads of the processor; None leaves them as they are.

    Where several threads of Python are inside at once, their number is what the last one to enter asked for; once all
    have left it is as it was before the first.
    """
    global _open, _outside
    if number is None:
        yield
        return
    with _lock:
        before = torch.get_num_threads()
        _open, _outside = _open + 1, _outside if _open else before
        torch.set_num_threads(number)
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            torch.set_num_threads(before if _open else _outside)


@contextmanager
def no_denormals() -> Iterator[None]:
    """Inside, this thread and those that share its operations take denormal numbers for zero: of float32 below 1.2e-38.

    Processors handle them many times slower than others, and training makes them by itself: Adam's mean of a gradient
    that has become zero, as of a unit that is off or a pixel that is never lit, shrinks a little at every step.
    Nothing changes where a processor cannot do so, or does so already.
    """
    if flushes_denormals() or not torch.set_flush_denormal(True):
        yield
        return
    try:
        _renew_threads()
        yield
    finally:
        torch.set_flush_denormal(False)
        _renew_threads()


def flushes_denormals() -> bool:
    """Whether this thread takes them for zero as it stands."""
    return not torch.full((), 3e-38, dtype=torch.float32, device="cpu").mul_(0.1).item()


def _renew_threads() -> None:
    """End OpenMP's idle threads: torch tells this thread alone how to treat denormals, and new ones take after it."""
    pause = _pause()
    if pause is not None:
        pause(1)  # omp_pause_soft


@functools.cache
def _pause() -> Callable[[int], int] | None:
    """Of OpenMP 5.0, with which torch's library is linked; None where it is not found."""
    library = next((Path(torch.__file__).parent / "lib").glob("*torch_cpu.*"), None)
    try:
        return getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None) if library is not None else None
    except OSError:
        return None
