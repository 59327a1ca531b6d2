"""Tasks that do not hang on one another, in processes side by side."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from jensen.errors import JensenError, TrainingError

T = TypeVar("T")
PATIENCE = 1.0  # seconds between looks whether the process that began a worker still lives
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def side_by_side(
    tasks: Sequence[Callable[[], T]], workers: int, listener: Callable[[int], None] = lambda _: None
) -> Generator[T, None, None]:
    """What tasks give, in their order, each as soon as it and those before it are done; to be closed.

    Args:
        tasks: of several workers each can be pickled, as can what it gives; warnings of a task come when it is done.
        workers: processes of this machine with one thread each; 1 for this process itself, task by task.
        listener: of several workers told how many of the tasks are done.

    Raises:
        TrainingError: a worker was killed.
    """
    if workers == 1:
        yield from (task() for task in tasks)
        return
    import loky

    pool = loky.ProcessPoolExecutor(workers, env=ONE_THREAD, initializer=_end_with, initargs=(os.getpid(),))
    running: dict[Any, int] = {}
    done: dict[int, Any] = {}
    waiting, following, stop = deque(enumerate(tasks)), 0, True
    try:
        listener(0)
        while following < len(tasks):
            # No more is handed over than is worked on: what waits in the pool's own queue is not stopped without noise.
            while waiting and len(running) < workers:
                number, task = waiting.popleft()
                running[pool.submit(_with_warnings, task)] = number
            for future in loky.wait(running, return_when=loky.FIRST_COMPLETED).done:
                done[running.pop(future)] = future.result()
            listener(following + len(done))
            while following in done:
                result, told = done.pop(following)
                following += 1
                for category, text in told:
                    warnings.warn(text, category, stacklevel=2)
                if isinstance(result, JensenError):
                    raise result
                yield result
        stop = False
    except loky.BrokenProcessPool:
        raise TrainingError("a worker was killed, maybe for memory; take fewer --workers") from None
    finally:
        pool.shutdown(kill_workers=stop)


def _end_with(parent: int) -> None:
    """Let this process end soon after the one that began it, however that ended."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(PATIENCE)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def _with_warnings(task: Callable[[], Any]) -> tuple[Any, list[tuple[type[Warning], str]]]:
    """What a task gives, or the error of ours that it ends with, and what it warned of."""
    with warnings.catch_warnings(record=True) as told:
        try:
            result = task()
        except JensenError as error:
            result = error
    return result, [(each.category, str(each.message)) for each in told]
