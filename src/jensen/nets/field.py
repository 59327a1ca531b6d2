"""Vector fields: networks of a point, a time and a context."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from jensen.nets.products import Linear

Smooth = Literal["tanh", "softplus", "silu"]
FREQUENCIES = 3  # of time: cos πkt, k = 1, 2, 3


class PerceptronField(nn.Module):
    r"""f(t, z, c), a perceptron whose hidden layers time and context scale and shift.

        h_l = a(u_l),    u_l = g_l(t, c) ⊙ (W_l h_{l−1} + b_l) + s_l(t, c),    h_0 = z,    f = V h_L + v

    with g and s affine in (cos πt, cos 2πt, cos 3πt, c), g about 1 at the start. Up to two hidden layers the trace of
    its Jacobian costs no more than one more layer, whatever the dimension: with d_l = a'(u_l) ⊙ g_l,

        L = 1:  tr ∂f/∂z = d_1ᵀ diag(W_1 V)        L = 2:  tr ∂f/∂z = d_2ᵀ (W_2 ⊙ (W_1 V)ᵀ) d_1

    Scaling and shifting by time: Grathwohl et al., "FFJORD", 2019, arXiv:1810.01367, appendix B.1.

    Args:
        shape: of z and of f.
        context: size C of c, 0 for none.
        hidden: sizes of the hidden layers; one at least.
        activation: a, smooth, as the solvers need it.
        start_at_zero: f = 0 at the start, so that the flow starts as the identity.

    >>> field = PerceptronField((1, 2, 2), 0, [8])
    >>> field(torch.zeros(5), torch.zeros(5, 1, 2, 2)).shape
    torch.Size([5, 1, 2, 2])
    """

    rates: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        context: int,
        hidden: list[int],
        activation: Smooth = "tanh",
        start_at_zero: bool = True,
    ):
        super().__init__()
        dims = math.prod(shape)
        self.layers = nn.ModuleList(Linear(n, m) for n, m in pairwise([dims, *hidden]))
        self.condition = Linear(FREQUENCIES + context, 2 * sum(hidden))
        with torch.no_grad():
            self.condition.bias[: sum(hidden)] += 1
        self.register_buffer("rates", math.pi * torch.arange(1, FREQUENCIES + 1.0), persistent=False)
        self.output = Linear(hidden[-1], dims)
        if start_at_zero:
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)
        self.sizes, self.activation = [*hidden, *hidden], _SMOOTH[activation]

    @property
    def knows_trace(self) -> bool:
        """Whether `velocity_and_trace` is in closed form."""
        return len(self.layers) <= 2

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """f(t, z, c), (N, *shape), of t, (N,), z, (N, *shape), and c, (N, C)."""
        h = z.flatten(1)
        for layer, gain, shift in zip(self.layers, *self._conditions(t, context), strict=True):
            h, _ = self.activation(torch.addcmul(shift, gain, layer(h)))
        return self.output(h).view_as(z)

    def velocity_and_trace(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f(t, z, c), (N, *shape), and tr ∂f/∂z, (N,)."""
        assert self.knows_trace
        h, slopes = z.flatten(1), []
        for layer, gain, shift in zip(self.layers, *self._conditions(t, context), strict=True):
            h, slope = self.activation(torch.addcmul(shift, gain, layer(h)))
            slopes.append(slope * gain)  # (N, H_l)
        first, *second = [cast(nn.Linear, layer).weight for layer in self.layers]
        around = first @ self.output.weight  # W_1 V, (H_1, H_L)
        if not second:
            trace = slopes[0] @ around.diagonal()
        else:
            trace = ((slopes[0] @ (second[0].mT * around)) * slopes[1]).sum(1)
        return self.output(h).view_as(z), trace

    def _conditions(self, t: Tensor, context: Tensor | None) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """g_l and s_l of every layer."""
        time = torch.cos(t[:, None] * self.rates)
        parts = self.condition(time if context is None else torch.cat([time, context], 1)).split(self.sizes, 1)
        return parts[: len(self.layers)], parts[len(self.layers) :]


def _tanh(u: Tensor) -> tuple[Tensor, Tensor]:
    h = u.tanh()
    return h, 1 - h.square()


def _softplus(u: Tensor) -> tuple[Tensor, Tensor]:
    return softplus(u), u.sigmoid()


def _silu(u: Tensor) -> tuple[Tensor, Tensor]:
    s = u.sigmoid()
    h = u * s
    return h, s + h * (1 - s)


_SMOOTH: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"tanh": _tanh, "softplus": _softplus, "silu": _silu}
"""Activations and their derivatives."""
