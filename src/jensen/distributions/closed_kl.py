"""KL(q ‖ p) in closed form, found by the types of both.

What is registered here PyTorch's `kl_divergence` knows, too; but that looks forms up in a way through which a compiler
does not see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

Form = TypeVar("Form", bound=Callable[..., Tensor])
_FORMS: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}


def register_kl(q: type[Distribution], p: type[Distribution]) -> Callable[[Form], Form]:
    """Decorator: a function of (q, p) is KL(q ‖ p) in nats, `(*batch,)`, of densities of these types."""

    def take(form: Form) -> Form:
        _FORMS[q, p] = form
        torch.distributions.register_kl(q, p)(form)
        return form

    return take


def kl_divergence(q: Distribution, p: Distribution) -> Tensor:
    """KL(q ‖ p) in nats, `(*batch,)`, by the form of the types that are nearest to theirs, q's first.

    Raises:
        NotImplementedError: no closed form is known.
    """
    for of_q in type(q).__mro__:
        for of_p in type(p).__mro__:
            form = _FORMS.get((of_q, of_p))
            if form is not None:
                return form(q, p)
    return torch.distributions.kl_divergence(q, p)
