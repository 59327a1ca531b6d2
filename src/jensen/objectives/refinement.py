"""Inference datum by datum: q(z | λ_i) with parameters λ_i of each datum's own, in place of one network's λ(x_i).

    amortised         λ_i = f(x_i; φ)
    non-amortised     λ_i = argmax_λ ELBO(x_i, λ)
    semi-amortised    a few steps of ascent on ELBO(x_i, λ) from f(x_i; φ)

λ is whatever the network of q puts out and its head takes, so that the family stays what it is: means and raw scales of
normals, and of a flow the base's and its context too. The bound then splits (Cremer et al. 2018, arXiv:1801.03558):

    log p(x) − ELBO(f(x))  =  [log p(x) − max_λ ELBO(λ)]  +  [max_λ ELBO(λ) − ELBO(f(x))]
      the inference gap         the approximation gap           the amortisation gap
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jensen.conditionals.amortized import Amortized
from jensen.core import Evidence, Joint, Model, frozen, seeded
from jensen.errors import CapabilityError

RATE = 0.1  # of Adam's first steps; λ is of order one
WINDOW = 20  # steps over which the bound is averaged to see whether it still rises
RISE = 1e-3  # nats a datum that count as a rise from one window to the next, or a standard error of it
DROPS = 3  # times that the rate is cut to a third; the next time the ascent ends
COMPARED = 20  # draws by which a datum's λ is compared with where it started

Parameters = dict[str, Tensor]
"""λ by name, "parameters_of_z" for z, each (B, *parameter_shape)."""


@dataclass(frozen=True)
class PerDatum:
    """A model whose q has the parameters of each datum as a parent, and the networks that would give them.

    Attributes:
        model: (p, q(z | λ)); λ is observed, by the names of `Parameters`, as is the datum.
        networks: by those names, the conditional that gives λ and its parents.
    """

    model: Model
    networks: dict[str, tuple[Amortized, tuple[str, ...]]]

    @classmethod
    def of(cls, model: Model) -> PerDatum:
        """The same family, parameters set free.

        Raises:
            CapabilityError: q draws nothing, is exact, hangs on what it draws itself, is no network with a head, or its
                draws are not differentiable.
        """
        factors: dict[str, nn.Module] = {}
        networks: dict[str, tuple[Amortized, tuple[str, ...]]] = {}
        if not model.hidden:
            raise CapabilityError("the model infers nothing, so there are no parameters of a posterior to refine")
        for factor in model.q:
            module, name = factor.module, f"parameters_of_{factor.name}"
            if getattr(module, "exact_posterior", False):
                raise CapabilityError(f"q({factor}) is the exact posterior: nothing is left to refine")
            if any(parent in model.q for parent in factor.parents):
                raise CapabilityError(
                    f"q({factor}) hangs on what q draws, not on the datum alone; it cannot be refined"
                )
            if not isinstance(module, Amortized):
                raise CapabilityError(f"q({factor}) is no network with a head, so its parameters cannot be set free")
            factors[f"{factor.name} | {name}"] = module.head
            networks[name] = module, factor.parents
        return cls(Model(model.p, Joint(factors), data=model.data), networks)

    def amortised(self, observed: Mapping[str, Tensor]) -> Parameters:
        """f(x), what the networks say."""
        return {
            name: module.put_out(*(observed[parent] for parent in parents))
            for name, (module, parents) in self.networks.items()
        }

    def standard(self, n: int, like: Tensor) -> Parameters:
        """Zeros for n data: of a normal posterior, N(0, I)."""
        return {name: like.new_zeros(n, *module.head.parameter_shape) for name, (module, _) in self.networks.items()}

    def evidence(self, observed: Mapping[str, Tensor], parameters: Parameters, particles: int = 1) -> Evidence:
        """The walk with q(z | λ)."""
        return self.model.evidence({**observed, **parameters}, particles)

    def bound(self, observed: Mapping[str, Tensor], parameters: Parameters, samples: int = 1) -> Tensor:
        """The ELBO at λ, (B,), divergences in closed form where one is known.

        Raises:
            CapabilityError: draws of q are not differentiable, so that its gradient would not be that in λ.
        """
        e = self.evidence(observed, parameters, samples)
        for name, dist in e.q.items():
            if not dist.has_rsample:
                raise CapabilityError(f"draws of {name!r} are not differentiable, so its posterior cannot be refined")
        return e.reconstruction() - sum(e.divergences().values(), torch.zeros(()))


def refine(
    model: Model,
    observed: Mapping[str, Tensor],
    steps: int,
    samples: int = 4,
    rate: float = RATE,
) -> tuple[PerDatum, Parameters]:
    """The best λ of each datum, sought from f(x) by Adam on the ELBO of all of them at once.

    Data do not interact: Adam goes element by element. The rate is cut to a third whenever the batch's mean bound, over
    a moving window, no longer rises, and after three cuts the ascent ends, before `steps` where it can. A datum whose
    bound is lower than where it started, by the same draws, goes back there.

    Args:
        observed: the data, (B, *event), and their context.
        steps: at most so many.
        samples: L draws of z per datum and step.
        rate: of Adam's first steps.

    Raises:
        CapabilityError: see `PerDatum.of`; or draws of q are not differentiable.
    """
    own = PerDatum.of(model)
    with torch.no_grad():
        start = own.amortised(observed)
    parameters = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.Adam(list(parameters.values()), rate)
    past: list[float] = []
    drops = 0
    with frozen(model), torch.enable_grad():
        for _ in range(steps):
            bound = own.bound(observed, parameters, samples).sum()
            optimizer.zero_grad()
            (-bound).backward()
            optimizer.step()
            past.append(float(bound.detach()) / len(next(iter(parameters.values()))))
            if len(past) >= 2 * WINDOW and not _rises(past):
                past, drops = [], drops + 1
                if drops > DROPS:
                    break
                for group in optimizer.param_groups:
                    group["lr"] /= 3
    found = {name: value.detach() for name, value in parameters.items()}
    before, after = (_compared(own, observed, parameters) for parameters in (start, found))
    worse = ~(after >= before)
    return own, {name: torch.where(_rows(worse, value), start[name], value) for name, value in found.items()}


@torch.no_grad()
def _compared(own: PerDatum, observed: Mapping[str, Tensor], parameters: Parameters) -> Tensor:
    """The ELBO at λ, (B,), by the same draws each time."""
    with seeded(0, next(iter(parameters.values())).device):
        return own.bound(observed, parameters, COMPARED)


def ascend(
    bound: Callable[[Parameters], Tensor],
    parameters: Parameters,
    steps: int,
    rate: float,
    longest: float,
    through: bool = False,
) -> Parameters:
    """Plain gradient ascent, λ ← λ + rate · ∇_λ ELBO, each datum's gradient shortened to a given length.

    Args:
        bound: of λ, (B,).
        longest: length of a datum's gradient, above which it is scaled down.
        through: keep how each step depends on all before it and on the weights, for a gradient through the ascent;
            else the steps are taken as constants.
    """
    for _ in range(steps):
        with torch.enable_grad():
            at = parameters if through else {n: v.detach().requires_grad_() for n, v in parameters.items()}
            at = {n: v if v.requires_grad else v.detach().requires_grad_() for n, v in at.items()}
            slopes = torch.autograd.grad(bound(at).sum(), list(at.values()), create_graph=through)
            length = torch.stack([slope.flatten(1).square().sum(1) for slope in slopes]).sum(0).clamp_min(1e-24).sqrt()
            share = (longest / length).clamp(max=1.0)
            base = at if through else parameters
            parameters = {
                name: value + rate * _rows(share, slope) * slope
                for (name, value), slope in zip(base.items(), slopes, strict=True)
            }
    return parameters


def _rises(past: list[float]) -> bool:
    """Whether the mean of the last window is above that of the one before, by more than its own noise."""
    now, before = torch.tensor(past[-WINDOW:]), torch.tensor(past[-2 * WINDOW : -WINDOW])
    noise = float(((now.var() + before.var()) / WINDOW).sqrt())
    return float(now.mean() - before.mean()) > max(RISE, noise)


def _rows(per_datum: Tensor, like: Tensor) -> Tensor:
    return per_datum.reshape(-1, *(1,) * (like.dim() - 1))
