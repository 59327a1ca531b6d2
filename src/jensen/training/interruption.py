"""Ctrl-C between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """Ctrl-C ends training after the step under way, so that what is saved is whole; a second one at once."""

    def __init__(self):
        self.asked = False

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Inside, Ctrl-C asks; unless this is no main thread, or somebody else listens already."""
        default = signal.default_int_handler
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != default:
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, default)

    def stop_if_asked(self) -> None:
        """Raises `KeyboardInterrupt` where it is time to."""
        if self.asked:
            raise KeyboardInterrupt
