"""What gradients along the path of a draw alone, those without q's score, ask of a walk."""

from __future__ import annotations

import torch

from jensen.core import Evidence
from jensen.errors import ConfigError


def one_path(e: Evidence, what: str, instead: str) -> str:
    """The name of the one hidden variable of a walk, whose density can be had with its parameters stopped.

    Args:
        what, instead: how a message names what asks, and what to do.

    Raises:
        ConfigError: q draws several variables, or one that carries no gradient or whose parameters cannot be stopped.
    """
    if len(e.q) != 1 or len(e.inferred) != 1:
        names = ", ".join(e.inferred) or "nothing"
        raise ConfigError(f"{what} needs exactly one hidden variable, q infers {names}; {instead}")
    (name,) = e.q
    if not hasattr(e.q[name], "detach"):
        raise ConfigError(f"{what} cannot stop the parameters of a {type(e.q[name]).__name__}; {instead}")
    if torch.is_grad_enabled() and not e.values[name].requires_grad:
        raise ConfigError(f"{what}: {name!r} is not reparameterised; its draws carry no gradient")
    return name


def unstoppable(e: Evidence) -> bool:
    """Whether the parameters of a density that q drew from cannot be stopped."""
    return not all(hasattr(dist, "detach") for dist in e.q.values())
