"""Adam with little overhead: the same fused kernel and state as `torch.optim.Adam`, called directly.

At three milliseconds a step the hooks, groups and profiler scopes of the general optimizer are worth saving.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LeanAdam(torch.optim.Adam):
    """Kingma and Ba 2015, arXiv:1412.6980, with one parameter group. State and results equal `torch.optim.Adam`'s.

    Args:
        parameters: tensors on one device.
        lr: learning rate.
        decoupled: weight decay as in AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float = 0.0, decoupled: bool = False):
        super().__init__(parameters, lr, weight_decay=weight_decay, fused=True, decoupled_weight_decay=decoupled)
        self.decoupled = decoupled
        self._parameters = list(parameters)
        self._lists: tuple[list[Tensor], list[Tensor], list[Tensor], Tensor] | None = None

    def step(self, closure: Any = None) -> None:
        """As `update`; the base class wraps this name in hooks."""
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """One step on the gradients as they stand."""
        grads = [p.grad for p in self._parameters if p.grad is not None]
        if len(grads) < len(self._parameters):  # some parameter had no part in this loss
            super().step()
            return
        if self._lists is None:
            self._lists = self._moments()
        group = self.param_groups[0]
        first, second, steps, counter = self._lists
        counter.add_(1)
        kernel: Any = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            self._parameters, grads, first, second, [], steps,
            lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
            eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self._parameters:
            p.grad = None

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self._lists = None

    def _moments(self) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """Both moments and the step of each parameter; the steps are views of one tensor, to be counted at once."""
        for p in self._parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in self._parameters]
        counter = torch.stack([s["step"] for s in states])
        for state, step in zip(states, counter.unbind(), strict=True):
            state["step"] = step
        moments = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        return *moments, [s["step"] for s in states], counter
