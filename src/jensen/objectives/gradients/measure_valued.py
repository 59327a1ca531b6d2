"""The measure-valued gradient: a derivative of a density is a difference of two."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, Gamma, Independent
from torch.distributions import Normal as TorchNormal
from torch.distributions import Poisson as TorchPoisson

from jensen.distributions import Bernoulli, DiagonalNormal, Poisson
from jensen.errors import ConfigError
from jensen.objectives.gradients.estimator import Estimator, Function, Surrogate


class Weak(NamedTuple):
    """∂q(z; θ)/∂θ = c (q⁺(z) − q⁻(z)), element by element, with draws from both."""

    parameter: Tensor
    constant: Tensor
    plus: Tensor
    minus: Tensor


class MeasureValued(Estimator):
    """∂/∂θ_d E_q[f(z)] = c_d (E[f(z with z_d ~ q⁺)] − E[f(z with z_d ~ q⁻)]), for any f, differentiable or not.

    For independent normal, Poisson, gamma and Bernoulli variables. The two draws are coupled. It takes 2 P D S values
    of f beside S, for D variables of P parameters. Pflug 1989; Mohamed et al. 2020, arXiv:1906.10652, section 6, table
    1; the coupling of normal and Maxwell draws: Rosca et al. 2019.

    | q | θ | c | q⁺ | q⁻ |
    |---|---|---|---|---|
    | N(μ, σ²) | μ | 1 / (σ √2π) | μ + σ W, W ~ Weibull(√2, 2) | μ − σ W |
    | | σ | 1 / σ | double-sided Maxwell(μ, σ²) | N(μ, σ²) |
    | Poisson(λ) | λ | 1 | Poisson(λ) + 1 | Poisson(λ) |
    | Gamma(α, β) | β | α / β | Gamma(α, β) | Gamma(α + 1, β) |
    | | α | −∂F(y*; α)/∂α | the positive part of ∂q/∂α | the negative part |
    | Bernoulli(p) | p | 1 | 1 | 0 |

    F is the cumulative function and βy* = exp ψ(α) where ∂q/∂α changes sign; both parts are drawn by inverting ∂F/∂α.
    """

    def forward(self, q: Distribution, f: Function, samples: int = 1, context: Tensor | None = None) -> Surrogate:
        base, dims = q, len(q.event_shape)
        while isinstance(base, Independent):
            base = base.base_dist
        decompose = next((found for kind, found in DECOMPOSITIONS.items() if isinstance(base, kind)), None)
        if decompose is None:
            raise ConfigError(
                f"gradient: measure-valued ones are known for independent normal, Poisson, gamma and Bernoulli "
                f"variables, not for {type(base).__name__}"
            )
        with torch.no_grad():
            z = q.sample((samples,))  # (S, *batch, *event)
        value = f(z).mean(0)
        shape, event = z.shape[1:], z.shape[z.dim() - dims :]
        for weak in decompose(base, samples):
            with torch.no_grad():
                plus, minus = (f(_one_at_a_time(z, w.expand_as(z), dims)) for w in (weak.plus, weak.minus))
                slope = (plus - minus).mean(1)  # (D, *batch)
                slope = slope.movedim(0, -1).reshape(*slope.shape[1:], *event)
            parameter = weak.parameter.expand(shape)
            term = (parameter - parameter.detach()) * (weak.constant.expand(shape) * slope).detach()
            value = value + (term.flatten(term.dim() - dims).sum(-1) if dims else term)
        return Surrogate(value, value.new_zeros(()))


def _one_at_a_time(z: Tensor, replaced: Tensor, dims: int) -> Tensor:
    """Copies of z, (D, *z.shape), each with another element of the event replaced."""
    event = z.shape[z.dim() - dims :]
    count = math.prod(event)
    which = torch.eye(count, dtype=torch.bool, device=z.device).reshape(count, *(1,) * (z.dim() - dims), *event)
    return torch.where(which, replaced, z)


def _normal(loc: Tensor, scale: Tensor, samples: int) -> list[Weak]:
    loc_, scale_ = loc.detach(), scale.detach()
    shape = torch.Size((samples, *torch.broadcast_shapes(loc.shape, scale.shape)))
    new = torch.empty(shape, dtype=loc.dtype, device=loc.device)
    weibull = (2 * new.exponential_()).sqrt()
    length = torch.randn((3, *shape), dtype=loc.dtype, device=loc.device).norm(dim=0)  # of a Maxwell variable
    maxwell = torch.where(torch.rand_like(length) < 0.5, length, -length)
    normal = maxwell * torch.rand_like(length)
    return [
        Weak(loc, 1 / (scale_ * math.sqrt(2 * math.pi)), loc_ + scale_ * weibull, loc_ - scale_ * weibull),
        Weak(scale, 1 / scale_, loc_ + scale_ * maxwell, loc_ + scale_ * normal),
    ]


def _poisson(rate: Tensor, samples: int) -> list[Weak]:
    drawn = torch.poisson(rate.detach().expand(samples, *rate.shape))
    return [Weak(rate, torch.ones_like(drawn[0]), drawn + 1, drawn)]


def _bernoulli(logits: Tensor, samples: int) -> list[Weak]:
    p = logits.detach().sigmoid()
    return [Weak(logits, p * (1 - p), torch.ones_like(p), torch.zeros_like(p))]  # ∂p/∂l = p (1 − p)


def _gamma(alpha: Tensor, beta: Tensor, samples: int) -> list[Weak]:
    a, b = torch.broadcast_tensors(alpha.detach(), beta.detach())
    drawn = Gamma(a, b, validate_args=False).sample((samples,))
    longer = drawn + torch.empty_like(drawn).exponential_() / b
    y = _signed_parts(a.double(), samples)
    return [
        Weak(beta, a / b, drawn, longer),
        Weak(alpha, y.constant.to(a.dtype), y.plus.to(a.dtype) / b, y.minus.to(a.dtype) / b),
    ]


def _signed_parts(a: Tensor, samples: int) -> Weak:
    """∂/∂α of the density of y ~ Gamma(α, 1), as its positive part, y > y*, and its negative one.

    H(y) = −∂F(y; α)/∂α rises from 0 to its maximum c at y* = exp ψ(α) and falls to 0 again: H / c is the cumulative
    function of the negative part below y*, and what is left of the positive one above.
    """
    step = 1e-4 * a.clamp(1e-2, 1e2)

    def h(y: Tensor) -> Tensor:
        return (torch.special.gammainc(a - step, y) - torch.special.gammainc(a + step, y)) / (2 * step)

    turn = torch.digamma(a).exp()
    c = h(turn)
    level = torch.rand((samples, *a.shape), dtype=a.dtype, device=a.device) * c
    log = turn.log().expand_as(level)
    far = (turn + 40 + 15 * a.sqrt()).log().expand_as(level)  # where nothing is left
    near = log - 60 / a.clamp_max(1.0)
    minus = _bisect(lambda t: h(t.exp()) < level, near, log)
    plus = _bisect(lambda t: h(t.exp()) > level, log, far)
    return Weak(a, c, plus.exp(), minus.exp())


def _bisect(holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where a condition that holds at `low` ceases to."""
    for _ in range(50):
        middle = (low + high) / 2
        left = holds(middle)
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    return (low + high) / 2


DECOMPOSITIONS: dict[type, Callable[..., list[Weak]]] = {
    TorchNormal: lambda q, s: _normal(q.loc, q.scale, s),
    DiagonalNormal: lambda q, s: _normal(q.loc, q.scale, s),
    TorchPoisson: lambda q, s: _poisson(q.rate, s),
    Poisson: lambda q, s: _poisson(q.log_rate.exp(), s),
    Gamma: lambda q, s: _gamma(q.concentration, q.rate, s),
    TorchBernoulli: lambda q, s: _bernoulli(q.logits, s),
    Bernoulli: lambda q, s: _bernoulli(q.logits, s),
}
