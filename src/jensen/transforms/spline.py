"""Rational-quadratic splines: monotone maps of an interval onto itself, in each bin a ratio of two quadratics.

Between the knots (x₀, y₀) and (x₁, y₁) of a bin of width W, height H and chord s = H / W, with slopes δ₀ and δ₁ there,

    η = (s ξ² + δ₀ q) / β        ξ = (x − x₀) / W,  η = (y − y₀) / H,  q = ξ (1 − ξ),  β = s + (δ₀ + δ₁ − 2s) q
    dy/dx = s² μ / β²            μ = δ₁ ξ² + 2s q + δ₀ (1 − ξ)²

Gregory and Delbourgo, "Piecewise rational quadratic interpolation to monotonic data", 1982; Durkan, Bekasov, Murray and
Papamakarios, "Neural spline flows", 2019, arXiv:1906.04032.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from jensen.transforms.compilation import is_looked_through
from jensen.transforms.monotone import Monotone, gradients_of
from jensen.transforms.parameters import Parameters
from jensen.transforms.transform import Shape, Transform

Ends = Literal["linear", "circular", "free"]


class RationalQuadratic(Monotone):
    """A spline of K bins from [low, high] onto itself, and the identity outside.

    The parameters of an element are K logits of widths, K logits of heights, and a raw slope r at each knot:
    δ = softplus(r + c) + least, where c is such that r = 0 means δ = 1. The slopes at both ends are, by `ends`,

        "linear"    1: map and slope go on into the identity outside; K − 1 raw slopes
        "circular"  the same at both, for a circle, on which low and high are one point; K raw slopes
        "free"      their own, for a density on an interval; K + 1 raw slopes

    Args:
        bins: K.
        low, high: the interval.
        ends: as above.
        least: the least share of the interval that a width and a height is, and the least slope.

    On circles: Rezende et al., "Normalizing flows on tori and spheres", 2020, arXiv:2002.02428.

    Raises:
        ValueError: no bin, an empty interval, or more bins than have room.
    """

    def __init__(
        self, bins: int = 8, low: float = -5.0, high: float = 5.0, *, ends: Ends = "linear", least: float = 1e-3
    ):
        super().__init__()
        if bins < 1 or not low < high:
            raise ValueError(f"expected bins on an interval, got {bins} on [{low}, {high}]")
        if not 0 < least * bins < 1:
            raise ValueError(f"expected bins that have room for {least} of the interval each, got {bins}")
        self.curve = Curve(bins, float(low), float(high), ends, least)
        self.size = self.curve.size
        if ends != "linear":
            self.domain = self.codomain = constraints.interval(self.curve.low, self.curve.high)

    def forward_and_ladj(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(z, parameters, inverse=False)

    def inverse_and_ladj(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(x, parameters, inverse=True)

    def extra_repr(self) -> str:
        return f"bins={self.curve.bins}, low={self.curve.low:g}, high={self.curve.high:g}, ends={self.curve.ends}"

    def _map(self, value: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """All elements in one row: as the parameters lie in memory, the batch innermost or the event."""
        batch_innermost = value.dim() == 2 and parameters.stride(0) == 1
        v = value.mT if batch_innermost else value
        rows = parameters.permute(1, 2, 0) if batch_innermost else parameters.transpose(0, 1)
        args = v.reshape(-1), rows.reshape(self.size, -1), self.curve, inverse
        if is_looked_through():
            y, log_slope, _ = evaluate(*args)
        else:
            y, log_slope = _ByHand.apply(*args)  # pyright: ignore[reportGeneralTypeIssues]
        y, log_slope = y.view(v.shape), log_slope.view(v.shape)
        return (y.mT, log_slope.sum(0)) if batch_innermost else (y, log_slope.flatten(1).sum(1))


class Elementwise(Transform):
    """x_d = f(z_d; θ_d) with parameters of each element that are learned, and no network.

    With a context, θ_d(c) is an affine function of it. It starts as the identity.

    Args:
        monotone: f.
        shape: of an event.
        context: C, the size of the context; 0 for none.
    """

    def __init__(self, monotone: Monotone, shape: Shape, context: int = 0):
        super().__init__()
        self.monotone = monotone
        self.domain_shape = self.codomain_shape = tuple(shape)
        self.domain, self.codomain = monotone.domain, monotone.codomain
        self.of_context = Parameters({"theta": torch.zeros(monotone.size, *shape)}, context)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.monotone.forward_and_ladj(z, self._theta(z, context))

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.monotone.inverse_and_ladj(x, self._theta(x, context))

    def _theta(self, value: Tensor, context: Tensor | None) -> Tensor:
        (theta,) = self.of_context(context)
        return theta.expand(len(value), *theta.shape[1:])


class Rotation(Transform):
    """Angles turned: x_d = z_d + φ_d on the circle [−π, π], with learned φ; log |det ∂x/∂z| = 0.

    Between circular splines it moves the angle −π = π, which they leave where it is.

    Args:
        shape: of an event.
        context: C, the size of a context of which φ is then an affine function; 0 for none.
    """

    domain = codomain = constraints.interval(-math.pi, math.pi)
    forward_steps = inverse_steps = 0

    def __init__(self, shape: Shape, context: int = 0):
        super().__init__()
        self.domain_shape = self.codomain_shape = tuple(shape)
        self.of_context = Parameters({"phi": torch.zeros(shape)}, context)

    def forward_and_ladj(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _on_circle(z + self.of_context(context)[0]), z.new_zeros(())

    def inverse_and_ladj(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _on_circle(x - self.of_context(context)[0]), x.new_zeros(())


def _on_circle(angle: Tensor) -> Tensor:
    turns = ((angle.detach() + math.pi) / (2 * math.pi)).floor()
    return (angle - 2 * math.pi * turns).clamp(-math.pi, math.pi)


@dataclass(frozen=True)
class Curve:
    """What a spline's parameters mean, see `RationalQuadratic`."""

    bins: int
    low: float
    high: float
    ends: Ends
    least: float

    @property
    def size(self) -> int:
        return 3 * self.bins + {"linear": -1, "circular": 0, "free": 1}[self.ends]

    @property
    def least_size(self) -> float:
        """Of a bin's width and height."""
        return (self.high - self.low) * self.least

    @property
    def free_size(self) -> float:
        """What the bins share."""
        return (self.high - self.low) * (1 - self.least * self.bins)

    @property
    def offset(self) -> float:
        return math.log(math.expm1(1 - self.least))

    def at_ends(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of raw slopes, those at the left and at the right of every bin that has one, each (·, n)."""
        if self.ends == "circular":
            return rows, rows.roll(-1, 0)
        return (rows, rows) if self.ends == "linear" else (rows[:-1], rows[1:])

    def with_slopes(self, here: Tensor) -> tuple[Tensor, Tensor]:
        """Of bins (K, n), those that have a raw slope at the left, and at the right."""
        return (here[1:], here[:-1]) if self.ends == "linear" else (here, here)


class Found(NamedTuple):
    """What `gradients` needs of `evaluate`: all (n,), save where a shape is given."""

    share: Tensor  # (2, K, n), softmax of the logits: of widths, of heights
    passed: Tensor  # (K−1, n), 1 for the bins before the one that holds x, but the last
    here: Tensor  # (K, n), 1 for that bin
    before: Tensor  # (2, n), shares of the bins before it
    at: Tensor  # (2, n), its share
    size: Tensor  # (2, n), W and H
    slopes: Tensor  # (2, n), δ₀ and δ₁
    xi: Tensor
    eta: Tensor
    beta: Tensor
    mu: Tensor
    slope: Tensor  # dy/dx
    inside: Tensor  # 1 in [low, high], 0 outside


def evaluate(x: Tensor, rows: Tensor, curve: Curve, inverse: bool) -> tuple[Tensor, Tensor, Found]:
    """y and log dy/dx of the spline, or x and log dx/dy of its inverse, each (n,).

    Args:
        x: (n,), each with its own spline.
        rows: parameters, (P, n).

    Plain operations on rows of n, which vector units like. Bins are found by comparing with all knots and taken out by
    a sum over an indicator: no search and no indices. What is clamped is finite, so that no NaN reaches a gradient.
    """
    k = curve.bins
    v = x.clamp(curve.low, curve.high)
    share = rows[: 2 * k].unflatten(0, (2, k)).softmax(1)

    def past(left: Tensor, share: Tensor) -> Tensor:
        return torch.sub(left, share).sub_(curve.least_size / curve.free_size)

    left = (v.detach() - curve.low) / curve.free_size  # of v from low on, in shares; then from each knot on
    _, *lefts = accumulate(share[int(inverse)].detach()[:-1].unbind(), past, initial=left)
    one = torch.ones_like(left)
    passed = torch.stack((one, *lefts, -one)).sign_().clamp_min_(0)  # (K+1, n); no booleans, which are slow
    here, passed = passed[:-1] - passed[1:], passed[1:-1]

    before, at = (share[:, :-1] * passed).sum(1), (share * here).sum(1)
    x0, y0 = torch.add(passed.sum(0) * curve.least_size + curve.low, before, alpha=curve.free_size)
    size = at * curve.free_size + curve.least_size
    raw = [(r * h).sum(0) for r, h in zip(curve.at_ends(rows[2 * k :]), curve.with_slopes(here), strict=True)]
    slopes = softplus(torch.stack(raw) + curve.offset) + curve.least

    (width, height), (d0, d1) = size, slopes
    s = height / width
    t = torch.sub(d0 + d1, s, alpha=2)
    if inverse:
        eta = ((v - y0) / height).clamp(0, 1)
        xi = _solve(eta, s, d0, t)
    else:
        eta = xi = ((v - x0) / width).clamp(0, 1)
    u = 1 - xi
    q, xx = xi * u, xi * xi
    beta = torch.addcmul(s, t, q)
    mu = torch.addcmul(torch.addcmul(d1 * xx, d0, u * u), s, q, value=2)
    ratio = s / beta
    slope = ratio * ratio * mu
    if inverse:
        y, log_slope = torch.addcmul(x0, width, xi), -slope.log()
    else:
        eta = torch.addcmul(s * xx, d0, q) / beta
        y, log_slope = torch.addcmul(y0, height, eta), slope.log()
    y = y.clamp(curve.low, curve.high)  # rounding may lead past an end
    same = x == v
    inside = same.to(x.dtype)
    found = Found(share, passed, here, before, at, size, slopes, xi, eta, beta, mu, slope, inside)
    return torch.where(same, y, x), log_slope * inside, found


def _solve(eta: Tensor, s: Tensor, d0: Tensor, t: Tensor) -> Tensor:
    """ξ of η: the root in [0, 1] of a ξ² + 2h ξ − c = 0, in the form of its two in which nothing cancels.

    c / (h + √(h² + ac)) where h > 0, else (√(h² + ac) − h) / a, with a > s > 0.
    """
    h, c = torch.sub(d0, eta * t) / 2, s * eta
    a = torch.sub(s, h, alpha=2)
    root = h.abs() + torch.addcmul(h * h, a, c).clamp_min(0).sqrt()
    rises = h > 0
    return (torch.where(rises, c, root) / torch.where(rises, root, a)).clamp(0, 1)


def gradients(g_y: Tensor, g_log: Tensor, found: Found, curve: Curve, inverse: bool) -> tuple[Tensor, Tensor]:
    """From gradients of what `evaluate` gives, each (n,), those of x, (n,), and of the parameters, (P, n).

    With f the spline and ℓ = log f′, both as functions of x and of θ = (x₀, y₀, W, H, δ₀, δ₁), a spline has

        g_x = A f′ + C ℓ_x,  g_θ = A f_θ + C ℓ_θ        for A = g_y, C = g_log

    and its inverse, y ↦ x, the same g_θ, with C = −g_log, for the log-slope has the other sign, and with A such that
    A f′ + C ℓ_x = −g_x, for y = f(x, θ) stays as it is; then g_y = −A. As η is of degree 0 and ℓ of degree 1 in
    (s, δ₀, δ₁), Euler's theorem gives the derivative in s of those in δ₀ and δ₁.
    """
    k = curve.bins
    share, passed, here, before, at, size, slopes, xi, eta, beta, mu, slope, inside = found
    (width, height), (d0, d1) = size, slopes
    s = height / width
    t = torch.sub(d0 + d1, s, alpha=2)
    u = 1 - xi
    q, xx, uu = xi * u, xi * xi, u * u
    g, c = g_y * inside, g_log * inside
    if inverse:
        c = -c

    # C ℓ_x = 2C / W · ((δ₁ ξ − δ₀ (1 − ξ) + s (1 − 2ξ)) / μ − t (1 − 2ξ) / β)
    w, c_mu, c_beta = u - xi, c / mu, c / beta
    bend = torch.addcmul(torch.addcmul(d1 * xi, d0, u, value=-1), s, w) * c_mu
    bend = torch.addcmul(bend, t * w, c_beta, value=-1) / width
    if inverse:
        g_x = -g
        a = torch.sub(g_x, bend, alpha=2) / slope
        g_value = g_y - g - a
    else:
        a = g
        g_x = torch.add(a * slope, bend, alpha=2)
        g_value = g_y - g + g_x

    # A H η_δ + C ℓ_δ, with η_δ₀ = q (s (1 − ξ)² + δ₁ q) / β², η_δ₁ = −q (s ξ² + δ₀ q) / β², ℓ_δ = (·)² / μ − 2q / β
    b, both = a * height * q / (beta * beta), c_beta * q
    g_0 = torch.sub(torch.addcmul(torch.addcmul(s * uu, d1, q) * b, c_mu, uu), both, alpha=2)
    g_1 = torch.addcmul(torch.addcmul(s * xx, d0, q) * b, c_mu, xx, value=-1) + 2 * both
    g_s = torch.addcmul(torch.addcmul(c, d0, g_0, value=-1), d1, g_1)  # s times it
    g_1 = -g_1

    g_start = torch.stack((-g_x, a)) * curve.free_size
    g_size = torch.stack((-torch.addcmul(g_s / width, xi, g_x), torch.addcmul(g_s / height, a, eta))) * curve.free_size

    # Softmax: share_j (∂start / ∂share_j + ∂size / ∂share_j − their mean)
    out = torch.empty(curve.size, len(xi), dtype=xi.dtype, device=xi.device)
    g_share = out[: 2 * k].unflatten(0, (2, k))
    mean = torch.addcmul(g_start * before, g_size, at)
    torch.addcmul(-mean.unsqueeze(1), g_size.unsqueeze(1), here, out=g_share)
    g_share[:, :-1].addcmul_(g_start.unsqueeze(1), passed)
    g_share.mul_(share)

    g_0, g_1 = torch.stack((g_0, g_1)) * (1 - torch.exp(curve.least - slopes))  # softplus′ = 1 − exp(−softplus)
    g_rows = out[2 * k :]
    if curve.ends == "linear":
        torch.mul(here[1:], g_0, out=g_rows)
        g_rows.addcmul_(here[:-1], g_1)
    elif curve.ends == "circular":
        torch.mul(here, g_0, out=g_rows)
        g_rows.addcmul_(here.roll(1, 0), g_1)
    else:
        torch.mul(here, g_0, out=g_rows[:-1])
        g_rows[-1] = 0
        g_rows[1:].addcmul_(here, g_1)
    return g_value, out


class _ByHand(torch.autograd.Function):
    """`evaluate` with `gradients`, instead of the graph of its hundred operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, curve: Curve, inverse: bool) -> tuple[Tensor, Tensor]:  # pyright: ignore
        y, log_slope, found = evaluate(x, rows, curve, inverse)
        ctx.curve, ctx.inverse = curve, inverse
        ctx.save_for_backward(x, rows, *found)
        return y, log_slope

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_log: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, rows, *found = ctx.saved_tensors
        if torch.is_grad_enabled():  # derivatives of derivatives are asked for
            outputs = evaluate(x, rows, ctx.curve, ctx.inverse)[:2]
            return *gradients_of(outputs, (x, rows), (g_y, g_log), ctx.needs_input_grad), None, None
        return *gradients(g_y, g_log, Found(*found), ctx.curve, ctx.inverse), None, None
