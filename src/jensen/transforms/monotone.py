"""Monotone maps of one element whose parameters something else computes: the insides of couplings and of
autoregressive transforms.

A `Monotone` holds no weights. Its parameters come stacked along the first dimension of the event, `(N, P, *event)`,
as a network puts them out: P numbers for each element. All-zero parameters give the identity, so that a network whose
last layer starts at zero starts as one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from jensen.transforms.compilation import is_looked_through


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

    def forward(self, z: Tensor, parameters: Tensor) -> Tensor:
        """x alone."""
        return self.forward_and_ladj(z, parameters)[0]


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
        self._lowest = torch.tensor(-bound, dtype=torch.float64)  # a number for any device, at hand for each step

    def forward_and_ladj(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        if not is_looked_through():
            return _Affine.apply(z, parameters, self.bound, False)  # pyright: ignore[reportReturnType]
        return _affine(z, parameters, self.bound, False)

    def inverse_and_ladj(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        if not is_looked_through():
            return _Affine.apply(x, parameters, self.bound, True)  # pyright: ignore[reportReturnType]
        return _affine(x, parameters, self.bound, True)

    def forward(self, z: Tensor, parameters: Tensor) -> Tensor:
        raw, t = parameters.unbind(1)
        u = (raw * (2 / self.bound)).sigmoid_()
        return torch.addcmul(t, torch.add(self._lowest, u, alpha=2 * self.bound).exp_(), z)


def _affine(v: Tensor, parameters: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:
    """exp(s) v + t, or (v − t) exp(−s), and its log-derivative."""
    raw, t = parameters.unbind(1)
    s = bound * torch.tanh(raw * ((-1 if inverse else 1) / bound))
    return ((v - t) * s.exp() if inverse else torch.addcmul(t, s.exp(), v)), s.flatten(1).sum(1)


class _Affine(torch.autograd.Function):
    """`_affine` with its derivatives by hand, which takes two thirds of the time: half as many passes over memory.

    tanh(a) = 2σ(2a) − 1, for a logistic σ takes a fifth of the time of a hyperbolic tangent.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, parameters: Tensor, bound: float, inverse: bool) -> tuple[Tensor, Tensor]:  # pyright: ignore
        raw, t = parameters.unbind(1)
        u = (raw * ((-2 if inverse else 2) / bound)).sigmoid_()
        s = torch.rsub(u, -bound, alpha=-2 * bound)
        ladj = s.flatten(1).sum(1)
        scale = s.exp_()
        y = (v - t).mul_(scale) if inverse else torch.addcmul(t, scale, v)
        ctx.bound, ctx.inverse = bound, inverse
        ctx.save_for_backward(v, parameters, u, scale, y if inverse else None)
        return y, ladj

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_ladj: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        v, parameters, u, scale, y = ctx.saved_tensors
        if torch.is_grad_enabled():  # derivatives of derivatives are asked for
            outputs = _affine(v, parameters, ctx.bound, ctx.inverse)
            return *gradients_of(outputs, (v, parameters), (g, g_ladj), ctx.needs_input_grad), None, None
        g_v = g * scale
        g_parameters = torch.empty_like(parameters)
        g_raw, g_t = g_parameters.unbind(1)
        sign = -4 if ctx.inverse else 4  # ∂s/∂a = ±4 u (1 − u)
        g_s = (g_ladj * sign).view(-1, *[1] * (v.dim() - 1))
        if ctx.inverse:  # ∂y/∂t = −exp(s), ∂y/∂s = y
            torch.neg(g_v, out=g_t)
            g_s = torch.addcmul(g_s, g, y, value=sign)
        else:  # ∂y/∂t = 1, ∂y/∂s = exp(s) v
            g_t.copy_(g)
            g_s = torch.addcmul(g_s, g_v, v, value=sign)
        torch.ops.aten.sigmoid_backward.grad_input(g_s, u, grad_input=g_raw)
        return g_v, g_parameters, None, None


def gradients_of(
    outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], g: tuple[Tensor, ...], needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, of those inputs that need one; None of the others."""
    wanted = [v for v, need in zip(inputs, needed, strict=False) if need]
    found = iter(torch.autograd.grad(outputs, wanted, g, create_graph=True))
    return [next(found) if need else None for _, need in zip(inputs, needed, strict=False)]
