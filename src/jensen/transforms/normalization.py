"""Activation normalisation: a scale and a shift that start from data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jensen.transforms.transform import Shape, Transform

LEAST_SCALE = 1e-3  # of a feature at the start: one that hardly varies is not blown up
ROUNDING = 8 * torch.finfo(torch.float32).eps  # of a feature's mean: a deviation that is none


class ActNorm(Transform):
    """x = exp(s) z + b with learned s and b, one a feature: an element of a vector, a channel of a picture.

    `initialize` sets them once so that z has mean 0 and variance 1 over the first data; afterwards they are parameters
    like any other, and scores depend on no batch. A feature that does not vary, up to rounding, is only centred:
    divided by next to nothing in every layer of a flow, it would be blown up. log |det ∂x/∂z| = (H · W) Σ s.

    Kingma and Dhariwal, "Glow", 2018, arXiv:1807.03039, section 3.1.

    Args:
        shape: of an event.
        learned: whether s and b are parameters; else they stay what the first data made them, and there is nothing to
            learn.
    """

    forward_steps = inverse_steps = 0
    initialized: Tensor
    log_scale: Tensor
    loc: Tensor

    def __init__(self, shape: Shape, learned: bool = True):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(shape)
        size = (shape[0], *(1,) * (len(shape) - 1))
        for name in ("log_scale", "loc"):
            if learned:
                self.register_parameter(name, nn.Parameter(torch.zeros(size)))
            else:
                self.register_buffer(name, torch.zeros(size))
        self.register_buffer("initialized", torch.tensor(False))
        self._elements = 1
        for n in shape[1:]:
            self._elements *= n

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.loc, self.log_scale.exp(), z), self.log_scale.sum() * self._elements

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self.loc) * (-self.log_scale).exp(), -self.log_scale.sum() * self._elements

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not self.initialized:
            dims = (0, *range(2, x.dim()))
            rows = x.double()
            deviation, mean = (x[0] for x in torch.std_mean(rows, dims, correction=0, keepdim=True))
            varies = deviation > ROUNDING * mean.abs()
            self.loc.copy_(mean)
            self.log_scale.copy_(torch.where(varies, deviation.clamp_min(LEAST_SCALE), 1.0).log())
            self.initialized.fill_(True)
        return self.inverse(x)
