"""A job: something to do with a trained model, and the capability that it needs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from jensen.core import Capabilities
from jensen.errors import CapabilityError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A function of a run, by name, with the capability it needs ("" for none)."""

    name: str
    needs: str
    function: Callable[..., Any]


JOBS: dict[str, Job] = {}

REASONS: dict[str, Callable[[Capabilities], str]] = {
    "likelihood": lambda c: f"it has no likelihood: {c.no_likelihood}",
    "sample": lambda c: "p has no distribution over its hidden variables to start from",
    "encode": lambda c: "it has neither hidden variables nor an invertible map to encode by",
}


def job(name: str, needs: str = "") -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Register `function(run, ...)` as a job; it answers `CapabilityError` where the model cannot do it."""

    def register(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            run: Any = args[0]
            if needs and not getattr(run.capabilities, needs):
                reason = REASONS[needs](run.capabilities)
                raise CapabilityError(f"{run.spec['model']} cannot {name}: {reason}")
            return function(*args, **kwargs)

        JOBS[name] = Job(name, needs, checked)
        return checked

    return register
