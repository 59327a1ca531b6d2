"""Which optimizer the settings ask for, and its state on disk."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jensen.training.adam import LeanAdam
from jensen.training.muon import Muon, matrices_of
from jensen.training.settings import Settings


def optimizer_of(parameters: list[nn.Parameter], model: nn.Module, s: Settings) -> torch.optim.Optimizer:
    """Of some parameters of a model."""
    if not parameters:
        return no_optimizer()
    if s.optimizer == "muon":
        hidden = set(matrices_of(model))
        matrices, others = [p for p in parameters if p in hidden], [p for p in parameters if p not in hidden]
        return Muon(matrices, others, s.lr, s.weight_decay)
    if s.optimizer == "sgd":
        return torch.optim.SGD(parameters, s.lr, momentum=0.9, weight_decay=s.weight_decay, fused=True)
    decoupled = s.optimizer == "adamw"
    return LeanAdam(parameters, s.lr, s.weight_decay if decoupled else 0.0, decoupled)


def no_optimizer() -> torch.optim.Optimizer:
    """Stands where a phase has no gradient."""
    return torch.optim.SGD([nn.Parameter(torch.zeros(0))], 0.0)


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its tensors, by the number of the parameter and their own name."""
    states = optimizer.state_dict()["state"]
    return {f"{j}.{k}": v for j, values in states.items() for k, v in values.items() if isinstance(v, Tensor)}


def restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Back what `state_of` gave. Raises `ValueError` where something is missing."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    if any(len({frozenset(state[i]) for i in group["params"] if i in state}) > 1 for group in groups):
        raise ValueError("the optimizer's state is incomplete")
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():  # fused kernels go through memory, whatever the strides
        for name, value in values.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter).copy_(value)
