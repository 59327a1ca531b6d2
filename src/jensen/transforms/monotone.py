"""Monotone maps of one element whose parameters something else computes: the insides of couplings and of
autoregressive transforms.

A `Monotone` holds no weights. Its parameters come stacked along the first dimension of the event, `(N, P, *event)`,
as a network puts them out: P numbers for each element. All-zero parameters give the identity, so that a network whose
last layer starts at zero starts as one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import constraints


class Monotone(nn.Module):
    """x_d = f(z_d; θ_d), increasing in z_d.

    Attributes:
        size: P, parameters of an element.
        domain, codomain: constraints on z_d and x_d.
    """

    size: int
    domain: constraints.Constraint = constraints.real
    codomain: constraints.Constraint = constraints.real

    def forward_and_ladj(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """x, `(N, *event)`, and log ∂x_d/∂z_d summed over the event, `(N,)` or `()`, in nats.

        Args:
            z: `(N, *event)`.
            parameters: `(N, P, *event)`.
        """
        raise NotImplementedError

    def inverse_and_ladj(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """z, `(N, *event)`, and log ∂z_d/∂x_d summed over the event, `(N,)` or `()`, in nats."""
        raise NotImplementedError


class AdditiveMap(Monotone):
    """x = z + t; volumes are kept. Dinh, Krueger and Bengio 2015, arXiv:1410.8516."""

    size = 1

    def forward_and_ladj(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return z + parameters[:, 0], z.new_zeros(())

    def inverse_and_ladj(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return x - parameters[:, 0], x.new_zeros(())


class AffineMap(Monotone):
    """x = exp(s) z + t with s = b tanh(a / b), a soft bound: exp(s) stays in [e⁻ᵇ, eᵇ], both ways.

    An unbounded s overflows float32 after some layers, and a sampler would divide by a scale near 0.

    Args:
        bound: b, in nats.
    """

    size = 2

    def __init__(self, bound: float = 2.0):
        super().__init__()
        self.bound = bound

    def log_scale(self, raw: Tensor) -> Tensor:
        return self.bound * torch.tanh(raw / self.bound)

    def forward_and_ladj(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        s = self.log_scale(parameters[:, 0])
        return torch.addcmul(parameters[:, 1], s.exp(), z), s.flatten(1).sum(1)

    def inverse_and_ladj(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        s = self.log_scale(parameters[:, 0])
        return (x - parameters[:, 1]) * (-s).exp(), -s.flatten(1).sum(1)
