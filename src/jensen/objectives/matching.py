r"""Codes of all data together made to follow the prior: the objectives of a Wasserstein autoencoder.

    minimise  E_x E_q(z | x)[c(x, z)] + λ D(q(z), p(z))        q(z) = E_x q(z | x),  c(x, z) = −log p(x | z)

In place of each KL(q(z | x) ‖ p(z)), as in the bound, stands one divergence of the aggregated posterior: a code may be
as sure as it likes, and q(z | x) a function of x. D is a kernel's distance, or what a critic makes of codes and draws
of the prior. A prior that has parameters is fitted beside it to the codes as they are, by maximum likelihood.

Tolstikhin, Bousquet, Gelly and Schölkopf, "Wasserstein auto-encoders", 2018, arXiv:1711.01558; Makhzani et al.,
"Adversarial autoencoders", 2015, arXiv:1511.05644.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from jensen.core import Evidence, Model, seeded
from jensen.errors import ConfigError
from jensen.objectives import kernels
from jensen.objectives.critic import Critic
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean
from jensen.registry import Network, component

NonNegative = Annotated[float, Field(ge=0)]
DRAWS = 512  # of the prior, from which a kernel's unit of length is taken
WATCHED = 200.0  # weight of MMD² in what is monitored, where a critic is what codes are trained by


class Matching(Objective):
    """An objective for which q(z | x) need not be a density."""


@dataclass(frozen=True)
class Codes:
    """Codes z, (B, L), by the rows' weights or None, and as many draws of the prior."""

    z: Tensor
    weight: Tensor | None
    drawn: Tensor

    @classmethod
    def of(cls, e: Evidence, batch: Batch) -> Codes:
        name = one_code(e)
        z = e.values[name]
        return cls(z.flatten(1), batch.get("weight"), draws(e.p[name], len(z)).flatten(1))


def one_code(e: Evidence) -> str:
    """The name of the one variable that q infers and p has a prior of.

    Raises:
        ConfigError: there is none, there are several, its prior hangs on others, or its draws carry no gradient.
    """
    names = [name for name in e.inferred if name in e.p]
    if len(e.inferred) != 1 or len(names) != 1:
        found = ", ".join(e.inferred) or "nothing"
        raise ConfigError(f"objective: codes are matched to the prior of one hidden variable, and q infers {found}")
    name = names[0]
    if e.p[name].batch_shape:
        raise ConfigError(f"objective: codes are matched to one prior, and that of {name!r} hangs on what is given")
    if name in e.q and not e.q[name].has_rsample:
        raise ConfigError(f"objective: draws of {name!r} carry no gradient; use objective=elbo")
    return name


@torch.no_grad()
def draws(p: Distribution, n: int) -> Tensor:
    return p.sample(torch.Size((n,)))


class Unit(nn.Module):
    """The squared distance typical of two draws of the prior as training begins, in which kernels are measured."""

    typical: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("typical", torch.zeros((), dtype=torch.float64))
        self._found = 0.0  # the same number, for which a device need not be waited for

    def of(self, p: Distribution) -> float:
        self._found = self._found or float(self.typical)
        if not self._found:
            with seeded(0, self.typical.device):
                self._found = kernels.typical_square(draws(p, DRAWS).flatten(1))
            self.typical.fill_(self._found)
        return self._found


@component("objective", "mmd", paper="Tolstikhin et al. 2018, arXiv:1711.01558; Zhao et al. 2019, arXiv:1706.02262")
def mmd(*, weight: NonNegative = 200.0, kernel: kernels.Name = "imq") -> Matching:
    """Minimise the cost of reconstruction, and the kernel distance of a batch's codes from as many draws of the prior.

    Settings:
        weight: λ of MMD², which is at most 2, in nats.
        kernel: "imq", inverse multiquadric, or "rbf", each the mean over seven scales.
    """
    unit = Unit()

    def distance(e: Evidence, codes: Codes) -> Tensor:
        measure = kernels.several_scales(kernel, unit.of(e.p[one_code(e)]))
        return kernels.mmd(codes.z, codes.drawn, measure, codes.weight)

    def penalty(e: Evidence, codes: Codes) -> tuple[Tensor, dict[str, Tensor]]:
        found = distance(e, codes)
        return weight * found, {"mmd": found.detach()}

    phase = GradientPhase(_carried(penalty))
    return _matching((phase,), _validate(distance, weight), "cost of reconstruction, kernel distance of codes", unit)


@component("objective", "adversarial", paper="Tolstikhin et al. 2018, arXiv:1711.01558; Makhzani et al. 2015")
def adversarial(
    *,
    weight: NonNegative = 10.0,
    critic: Network = {"name": "mlp", "hidden": [128, 128], "activation": "leaky-relu"},
    slope: NonNegative = 1.0,
    every: Annotated[int, Field(ge=1)] = 1,
) -> Matching:
    """Minimise the cost of reconstruction, with codes that a critic takes for draws of the prior.

    The critic learns to tell them apart, in turn with the model; what is monitored is the kernel distance.

    Settings:
        weight: λ of −log of the critic's probability that a code is a draw of the prior, in nats.
        critic: its network.
        slope: γ of γ/2 E ‖∇ critic‖² at draws of the prior, which the critic pays, so that model and critic do not
            circle about each other (Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406).
        every: steps of the model to one of the critic.
    """
    judge, unit = Critic(critic), Unit()

    def penalty(e: Evidence, codes: Codes) -> tuple[Tensor, dict[str, Tensor]]:
        rows = softplus(-judge(codes.z))
        found = rows.mean() if codes.weight is None else (rows * codes.weight).sum() / codes.weight.sum()
        return weight * found, {"surprise": found.detach()}

    def learn(model: Model, batch: Batch, progress: float) -> Terms:
        with torch.no_grad():
            codes = Codes.of(model.evidence(batch), batch)
        drawn = codes.drawn.requires_grad_(slope > 0)
        of_drawn = judge(drawn)
        found = 0.5 * (weighted_mean(softplus(judge(codes.z)), batch) + softplus(-of_drawn).mean())
        total = found
        if slope and torch.is_grad_enabled():
            (gradient,) = torch.autograd.grad(of_drawn.sum(), drawn, create_graph=True)
            total = found + 0.5 * slope * gradient.square().sum(1).mean()
        return Terms(total, {"critic": found.detach()})

    def distance(e: Evidence, codes: Codes) -> Tensor:
        measure = kernels.several_scales("imq", unit.of(e.p[one_code(e)]))
        return kernels.mmd(codes.z, codes.drawn, measure, codes.weight)

    phases = (
        GradientPhase(_carried(penalty)),
        GradientPhase(learn, lambda model: judge.parameters(), every=every),
    )
    helpers = nn.ModuleDict({"critic": judge, "unit": unit})

    def prepare(model: Model, batch: Batch) -> None:
        judge.prepare(Codes.of(model.evidence(batch), batch).z)

    what = "cost of reconstruction, codes that a critic takes for the prior's"
    return _matching(phases, _validate(distance, WATCHED), what, helpers, prepare)


Penalty = Callable[[Evidence, Codes], tuple[Tensor, dict[str, Tensor]]]


def _carried(penalty: Penalty) -> Callable[[Model, Batch, float], Terms]:
    """Cost of reconstruction, what the codes of a batch pay, and −log p of codes as they are for a learned prior."""

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        e = model.evidence(batch)
        name = one_code(e)
        reconstruction = weighted_mean(e.reconstruction(), batch)
        paid, logged = penalty(e, Codes.of(e, batch))
        total = paid - reconstruction
        if any(True for _ in model.p[name].module.parameters()):
            log_prior = weighted_mean(e.p[name].log_prob(e.values[name].detach()), batch)
            total, logged = total - log_prior, {**logged, "log_prior": log_prior.detach()}
        return Terms(total, {"reconstruction": reconstruction.detach(), **logged})

    return loss


def _validate(distance: Callable[[Evidence, Codes], Tensor], weight: float):
    """Reconstruction of each datum, less what all of them together pay."""

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        e = model.evidence(batch)
        reconstruction = e.reconstruction()
        found = distance(e, Codes.of(e, batch)).expand(len(reconstruction))
        return {"matched": reconstruction - weight * found, "reconstruction": reconstruction, "mmd": found}

    return validate


def _matching(
    phases: tuple[GradientPhase, ...],
    validate: Callable[[Model, Batch], dict[str, Tensor]],
    what: str,
    helpers: nn.Module,
    prepare: Callable[[Model, Batch], None] | None = None,
) -> Matching:
    stage = Stage(phases, monitor="matched")
    return Matching((stage,), validate, what, helpers=helpers, prepare=prepare, several=False)
