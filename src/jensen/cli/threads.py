"""How this program's threads wait for one another."""

from __future__ import annotations

import os

SPINS = "10000"  # looks, some tens of microseconds


def wait_briefly() -> None:
    """Let threads that wait sleep soon, where they are those of GNU OpenMP; before torch is imported.

    As it comes, a thread that waits looks for its turn for milliseconds. Where another program needs the processor too,
    it then takes it from the very thread that it waits for, and training slows many times over
    (`benchmarks/busy_processor.py`). What the environment says stands.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
