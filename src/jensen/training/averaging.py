"""An exponential moving average of weights, which is what is validated and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

AVERAGE_EVERY = 10  # steps between updates: as good as every step, at a tenth of the cost


class Average:
    """Of a model's parameters; early on it forgets faster, so that it soon leaves where training started.

    Args:
        decay: a step.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.tensors = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """What this step left, if it is one that counts."""
        if step % AVERAGE_EVERY and step >= AVERAGE_EVERY:
            return
        updates = step // AVERAGE_EVERY
        decay = min(self.decay**AVERAGE_EVERY, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self.tensors, self._parameters, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The model's state with averaged parameters."""
        own = {id(p): a for p, a in zip(self.model.parameters(), self.tensors, strict=True)}
        live = self.model.state_dict(keep_vars=True)
        return {k: (own[id(v)] if id(v) in own else v.detach()).clone() for k, v in live.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averaged parameters."""
        kept = [p.clone() for p in self._parameters]
        torch._foreach_copy_(self._parameters, self.tensors)
        try:
            yield
        finally:
            torch._foreach_copy_(self._parameters, kept)

    @property
    def _parameters(self) -> list[Tensor]:
        return [p.detach() for p in self.model.parameters()]
