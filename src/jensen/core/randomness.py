"""Seeded draws that leave the caller's random state as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draws inside, on the CPU and on `device`, follow the seed; outside nothing has changed.

    >>> before = torch.random.get_rng_state()
    >>> with seeded(1):
    ...     a = torch.rand(1)
    >>> bool((torch.random.get_rng_state() == before).all())
    True
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
