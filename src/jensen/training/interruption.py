"""Ctrl-C and SIGTERM between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

ONE = 1.0  # seconds within which signals are one: some programs send theirs to a process and to its group


class Interruption:
    """Ctrl-C ends training after the step under way, so that what is saved is whole; a second one at once."""

    awaiting: ClassVar[list[Interruption]] = []
    """Those of trainings in the main thread that may be asked, the innermost last."""

    def __init__(self, listener: Callable[[], None] = lambda: None):
        """Args: listener: told, in the signal's handler, that somebody asked and waits."""
        self.asked: float | None = None  # when
        self._listener = listener

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Inside, Ctrl-C asks; unless this is no main thread, or somebody else listens already. Where it is ignored,
        as in the background of a script, it stays so, and only `ask` does.
        """
        default, handler = signal.default_int_handler, signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or handler not in (default, signal.SIG_IGN):
            yield
            return
        self.awaiting.append(self)
        if handler == default:
            signal.signal(signal.SIGINT, self.ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)
            self.awaiting.remove(self)

    def ask(self, number: int, frame: Any) -> None:
        """To end after this step, or, asked again, at once. A signal's handler."""
        now = time.monotonic()
        if self.asked is not None and now - self.asked > ONE:
            raise KeyboardInterrupt
        if self.asked is None:
            self.asked = now
            self._listener()

    def stop_if_asked(self) -> None:
        """Raises `KeyboardInterrupt` where it is time to."""
        if self.asked is not None:
            raise KeyboardInterrupt
