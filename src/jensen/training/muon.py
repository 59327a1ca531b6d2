"""Muon: matrices of weights step along the orthogonal matrix that is nearest to their momentum.

Every direction of a layer then learns at the same pace, where Adam leaves those of small gradients behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from jensen.nets.masked_linear import MaskedLinear
from jensen.training.adam import LeanAdam

MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = 3.4445, -4.7750, 2.0315
"""Of x ↦ a x + b x³ + c x⁵, which in five rounds takes (0, 1] near 1, steepest where x is small."""
RMS = 0.2
"""Of an element's step, in learning rates: that of Adam's usual steps, so that one learning rate serves both."""


class Muon(torch.optim.Optimizer):
    r"""Steps of matrices by their orthogonalised momentum, and Adam's steps of all other parameters.

        M ← μ M + (1 − μ) G        U S Vᵀ = μ M + (1 − μ) G        W ← W − 0.2 η √(max(m, n)) U Vᵀ

    of an (m, n) matrix. A kernel is one of (outputs, all else). A matrix of several squares upon one another, as the
    gates of a recurrent network, is that many matrices. U Vᵀ is found by Newton–Schulz iterations, and roughly: its
    singular values lie between 0.7 and 1.2.

    Jordan and others, "Muon: an optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon; the scale of Liu and others, "Muon is scalable for LLM training", 2025,
    arXiv:2502.16982. Against `torch.optim.Muon` it takes kernels, keeps the precision of the weights, and iterates on
    all matrices of a shape at once.

    Args:
        matrices: parameters of two dimensions or more.
        others: all else.
        lr: learning rate, that of Adam.
        weight_decay: decoupled, of all.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0
    ):
        matrices, others = list(matrices), list(others)
        groups = [{"params": group} for group in (matrices, others) if group]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self._matrices, self._others = matrices, others
        self._adam = self._for_others()

    def step(self, closure: Any = None) -> None:
        """One step on the gradients as they stand."""
        lr, decay = self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]
        if self._adam is not None:
            self._adam.param_groups[0]["lr"] = lr
            self._adam.update()
        alike: dict[tuple[Any, ...], list[nn.Parameter]] = {}
        for p in self._matrices:
            if p.grad is not None:
                alike.setdefault((p.flatten(1).shape, p.dtype), []).append(p)
        with torch.no_grad():
            for parameters in alike.values():
                self._step(parameters, lr, decay)

    def _step(self, parameters: list[nn.Parameter], lr: float, decay: float) -> None:
        """Of matrices of one shape."""
        rows, columns = parameters[0].flatten(1).shape
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {"exp_avg": torch.zeros_like(p)}
        moments = [self.state[p]["exp_avg"] for p in parameters]
        torch._foreach_lerp_(moments, gradients, 1 - MOMENTUM)
        ahead = torch.stack([g.lerp(m, MOMENTUM).flatten(1) for g, m in zip(gradients, moments, strict=True)])
        pieces = rows // columns if rows % columns == 0 else 1
        rows //= pieces
        along = orthogonal(ahead.view(-1, rows, columns)).view(len(parameters), -1, columns)
        size = lr * RMS * math.sqrt(max(rows, columns))
        for p, direction in zip(parameters, along, strict=True):
            if decay:
                p.mul_(1 - lr * decay)
            p.add_(direction.view(p.shape), alpha=-size)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self._adam = self._for_others()

    def _for_others(self) -> LeanAdam | None:
        """Adam of the rest, whose state is part of this one's."""
        if not self._others:
            return None
        group = self.param_groups[0]
        adam = LeanAdam(self._others, group["lr"], group["weight_decay"], decoupled=True)
        adam.state = self.state
        return adam


def orthogonal(matrices: Tensor) -> Tensor:
    """U Vᵀ of U S Vᵀ, roughly, (K, m, n)."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear maps, convolutions and recurrent networks: neither embeddings nor biases."""
    kinds = nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, MaskedLinear
    return [
        p
        for module in model.modules()
        if isinstance(module, kinds)
        for p in module.parameters(recurse=False)
        if p.ndim > 1
    ]
