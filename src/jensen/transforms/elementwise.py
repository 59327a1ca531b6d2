"""Maps of each element on its own, with no parameters to learn or a scale and a shift: the ends of a flow.

They carry a flow on the real line to the support of the data: positive numbers, an interval, grey levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus

from jensen.transforms.transform import Composed, Shape, Transform, sum_over_event


class _Elementwise(Transform):
    """x_d = f(z_d), the same f for every element of an event of that shape."""

    forward_steps = inverse_steps = 0

    def __init__(self, shape: Shape):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(shape)


class Affine(_Elementwise):
    """x = loc + scale · z with fixed numbers, scale ≠ 0; log |det ∂x/∂z| = Σ log |scale|.

    Args:
        shape: of an event.
        loc, scale: numbers, or tensors that broadcast against an event.

    >>> Affine((2,), scale=torch.tensor([2.0, -2.0])).forward_and_ladj(torch.ones(1, 2))
    (tensor([[ 2., -2.]]), tensor(1.3863))
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, shape: Shape, loc: float | Tensor = 0.0, scale: float | Tensor = 1.0):
        super().__init__(shape)
        self.register_buffer("loc", torch.as_tensor(loc, dtype=torch.get_default_dtype()))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.get_default_dtype()))

    def _ladj(self) -> Tensor:
        return self.scale.abs().log().expand(self.domain_shape).sum()

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.loc + self.scale * z, self._ladj()

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self.loc) / self.scale, -self._ladj()


class Scaling(_Elementwise):
    """Diagonal scaling x = exp(s) z with learned s: the last layer of NICE.

    log |det ∂x/∂z| = Σ s_d. Dinh, Krueger and Bengio 2015, arXiv:1410.8516, section 3.3.
    """

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.log_scale = nn.Parameter(torch.zeros(self.domain_shape))

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * self.log_scale.exp(), self.log_scale.sum()

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * (-self.log_scale).exp(), -self.log_scale.sum()


class Sigmoid(_Elementwise):
    """x = 1 / (1 + exp(−z)), onto (0, 1).

    log |det ∂x/∂z| = Σ −softplus(z) − softplus(−z). The inverse keeps x a rounding error away from 0 and 1.
    """

    codomain = constraints.unit_interval

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.sigmoid(), sum_over_event(logsigmoid(z) + logsigmoid(-z))

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        finfo = torch.finfo(x.dtype)
        x = x.clamp(finfo.tiny, 1 - finfo.eps / 2)
        a, b = x.log(), torch.log1p(-x)
        return a - b, -sum_over_event(a + b)


class Softplus(_Elementwise):
    """x = log(1 + exp(z)), onto the positive numbers; log |det ∂x/∂z| = Σ log sigmoid(z)."""

    codomain = constraints.positive

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _softplus(z), sum_over_event(logsigmoid(z))

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = x.clamp_min(torch.finfo(x.dtype).tiny)
        log = _log1mexp(x)  # log(1 − exp(−x)) = log sigmoid(z)
        return x + log, -sum_over_event(log)


class Exp(_Elementwise):
    """x = exp(z), onto the positive numbers; log |det ∂x/∂z| = Σ z. Draws stop short of the largest number there is."""

    codomain = constraints.positive

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = z.clamp_max(math.log(torch.finfo(z.dtype).max) - 1)
        return z.exp(), sum_over_event(z)

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = x.clamp_min(torch.finfo(x.dtype).tiny).log()
        return z, -sum_over_event(z)


def interval(shape: Shape, low: float, high: float) -> Transform:
    """From the real line onto (low, high): a sigmoid, stretched and shifted."""
    return Composed([Sigmoid(shape), Affine(shape, low, high - low)])


def levels(shape: Shape, count: int, alpha: float) -> Transform:
    """From the real line onto dequantised grey levels 0..count: logit(α + (1 − 2α) v / count) = z.

    Dinh, Sohl-Dickstein and Bengio 2017, arXiv:1605.08803, section 4.1. With α > 0 the map reaches a little beyond
    [0, count], so that the ends are finite. Both Jacobians, of the scaling and of the logit, are those of its parts.

    >>> levels((1,), 256, 0.05).inverse(torch.tensor([[128.0]]))
    tensor([[0.]])
    """
    stretch = count / (1 - 2 * alpha)
    return interval(shape, -alpha * stretch, (1 - alpha) * stretch)


def _softplus(z: Tensor) -> Tensor:
    # torch's own is the identity above 20, where float64 still sees a difference
    return torch.where(z > 20, z + torch.log1p(torch.exp(-z.clamp_min(20))), softplus(z.clamp_max(20)))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 − exp(−x)) for x > 0, accurate at both ends (Mächler 2012)."""
    small = x < math.log(2)
    near = torch.log(-torch.expm1(-torch.where(small, x, x.new_ones(()))))
    far = torch.log1p(-torch.exp(-torch.where(small, x.new_ones(()), x)))
    return torch.where(small, near, far)
