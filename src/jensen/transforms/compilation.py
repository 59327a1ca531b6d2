"""Transforms that may be compiled, where a training step spends its time in many small operations."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Wish(NamedTuple):
    """What is to be compiled: see `compiling`."""

    rows: int | None = None
    announce: Callable[[], None] = lambda: None
    asked: bool = True


NOTHING = Wish()
_wish: ContextVar[Wish] = ContextVar("wish", default=NOTHING)


@contextmanager
def compiling(rows: int | None, announce: Callable[[], None] = lambda: None, asked: bool = True) -> Iterator[None]:
    """Within, what can be compiled is, on batches of so many rows or a multiple; None compiles nothing.

    Whether a batch runs compiled depends on its size alone, never on what came before, so that a resumed run repeats
    the uninterrupted one: other batches, as the last of a pass, run as always.

    Args:
        announce: called before something is compiled for the first time.
        asked: whether someone asked for it, who is warned where it cannot be.
    """
    token = _wish.set(Wish(rows, announce, asked))
    try:
        yield
    finally:
        _wish.reset(token)


def is_compiled(n: int) -> bool:
    """Whether a batch of n rows runs compiled."""
    rows = _wish.get().rows
    return rows is not None and n > 0 and n % rows == 0


def is_looked_through() -> bool:
    """Whether a compiler or a function transform follows what is computed: they see through plain operations alone."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


Way = Callable[[Tensor, Tensor | None, Any], tuple[Tensor, Tensor]]
"""A direction of a transform: of `(N, *event)`, a context and the transform the result and the log-determinant."""


def forward_and_ladj(z: Tensor, context: Tensor | None, transform: Any) -> tuple[Tensor, Tensor]:
    """x = T(z, c), `(N, *event)`, and log |det ∂x/∂z|, `(N,)` or (), in nats."""
    return transform.forward_and_ladj(z, context)


def inverse_and_ladj(x: Tensor, context: Tensor | None, transform: Any) -> tuple[Tensor, Tensor]:
    """z = T⁻¹(x, c), `(N, *event)`, and log |det ∂z/∂x|, `(N,)` or (), in nats."""
    return transform.inverse_and_ladj(x, context)


_compiled: WeakKeyDictionary[Any, dict[Way, Way]] = WeakKeyDictionary()


def compiled(way: Way, transform: Any) -> Way:
    """A direction of a transform, compiled for it alone: torch counts how often it compiles a function, and stops."""
    ways = _compiled.setdefault(transform, {})
    if way not in ways:
        ways[way] = attempted(way, owner=2)
    return ways[way]


def attempted(function: Callable[..., Any], owner: int) -> Callable[..., Any]:
    """A function, compiled for every shape that it meets, with its gradients.

    What cannot be compiled, as a transform whose number of steps depends on the data, runs as it is, and so does all
    where there is no compiler. The first call of a shape takes ten seconds and more; torch keeps the result on disk for
    later processes.

    Args:
        owner: which of its arguments is the module that is compiled; if it cannot be, others still are.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\._inductor")  # torch's word to itself
    # Draws are those of the same function that is not compiled; no checks of the compiler's own work, which by the
    # hundred cost a twentieth of a step.
    options: dict[str, Any] = {"fallback_random": True, "size_asserts": False, "alignment_asserts": False}
    # Other losses have the same lines, and count for themselves how often they are compiled.
    how: dict[str, Any] = {"dynamic": False, "fullgraph": True, "isolate_recompiles": True, "options": options}
    try:
        fast = torch.compile(function, **how)
    except Exception as e:  # of a Python that torch does not compile for
        fast = _raiser(e)
    tracing_gradients = torch._dynamo.config.patch(trace_autograd_ops=True)  # of torch.autograd.grad within
    failed, worked = WeakSet(), WeakSet()

    def run(*given: Any) -> Any:
        of = given[owner]
        if of in failed:
            return function(*given)
        if of not in worked:
            _wish.get().announce()
        try:
            with tracing_gradients:
                result = fast(*given)
        except Exception as e:  # of whatever a compiler or its absence raises
            too_often = type(e).__name__ == "FailOnRecompileLimitHit"  # what it does hangs on what is not a tensor
            if of in worked and not too_often:
                raise
            failed.add(of)
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            level = logging.WARNING if _wish.get().asked or too_often else logging.DEBUG
            log.log(level, "%s cannot be compiled here and runs as it is: %s", type(of).__name__, reason)
            return function(*given)
        worked.add(of)
        return result

    return run


def _raiser(error: Exception) -> Callable[..., Any]:
    """A function that raises this, whatever it is given."""

    def run(*given: Any) -> Any:
        raise error

    return run
