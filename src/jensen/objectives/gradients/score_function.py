"""The score-function gradient (REINFORCE), and what is subtracted to make it quieter."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.core import Evidence
from jensen.errors import ConfigError
from jensen.objectives.gradients.estimator import Estimator, Function, Surrogate


class Guess(NamedTuple):
    """What a baseline expects f to be, and its own loss, ()."""

    value: Tensor
    loss: Tensor


class Baseline(nn.Module):
    """b in (f(z) − b) ∇ log q(z): as b does not depend on the draw that it meets, E[b ∇ log q] = 0."""

    def forward(self, signal: Tensor, context: Tensor | None = None) -> Guess:
        """b for values f(z), `(S, *batch)`, without gradient, given a context `(*batch, C)`; here 0."""
        return Guess(signal.new_zeros(()), signal.new_zeros(()))


class Running(Baseline):
    """The moving average of past values of f, the present ones left out. Williams 1992, section 4.

    Args:
        decay: of what was seen before, in [0, 1).
    """

    total: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.9):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected at least 0 and less than 1, got {decay}")
        self.decay = decay
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    def forward(self, signal: Tensor, context: Tensor | None = None) -> Guess:
        mean = self.total / self.weight.clamp_min(1e-12)
        if self.training:
            self.total = self.decay * self.total + (1 - self.decay) * signal.mean().double()
            self.weight = self.decay * self.weight + (1 - self.decay)
        return Guess(mean.to(signal.dtype), signal.new_zeros(()))


class Learned(Baseline):
    """b(c), learned by least squares to foretell f. Mnih and Gregor 2014, arXiv:1402.0030.

    Args:
        network: from a context `(*batch, C)` to `(*batch, 1)`; None learns one number.
    """

    def __init__(self, network: nn.Module | None = None):
        super().__init__()
        self.network = network
        self.constant = nn.Parameter(torch.zeros(())) if network is None else None

    def forward(self, signal: Tensor, context: Tensor | None = None) -> Guess:
        if self.network is None:
            assert self.constant is not None
            b = self.constant.to(signal.dtype)
        elif context is None:
            raise ConfigError("baseline: a learned one with a network needs a context")
        else:
            b = self.network(context.to(next(self.network.parameters()))).squeeze(-1).to(signal.dtype)
        return Guess(b.detach(), (signal - b).square().mean())


class LeaveOneOut(Baseline):
    """For each draw, the mean of f over the others, S ≥ 2. Kool, van Hoof and Welling 2019; Mnih and Rezende 2016,
    arXiv:1602.06725."""

    def forward(self, signal: Tensor, context: Tensor | None = None) -> Guess:
        if len(signal) < 2:
            raise ConfigError("baseline: leave-one-out needs at least two samples, for it compares them")
        return Guess((signal.sum(0) - signal) / (len(signal) - 1), signal.new_zeros(()))


BASELINES: dict[str, Callable[[], Baseline]] = {
    "none": Baseline,
    "running": Running,
    "learned": Learned,
    "leave-one-out": LeaveOneOut,
}


class ScoreFunction(Estimator):
    """∇ E_q[f(z)] = E_q[(f(z) − b) ∇ log q(z)] + E_q[∇ f(z)]: for every density, discrete ones too, and every f.

    Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992.

    Args:
        baseline: b, or its name: "none", "running", "learned" or "leave-one-out".

    Raises:
        ConfigError: there is no baseline of that name.
    """

    def __init__(self, baseline: Baseline | str = "leave-one-out"):
        super().__init__()
        if isinstance(baseline, str) and baseline not in BASELINES:
            raise ConfigError(f"baseline: expected one of {', '.join(BASELINES)}, got {baseline!r}")
        self.baseline = BASELINES[baseline]() if isinstance(baseline, str) else baseline

    def forward(self, q: Distribution, f: Function, samples: int = 1, context: Tensor | None = None) -> Surrogate:
        with torch.no_grad():
            z = q.sample((samples,))
        value = f(z)
        return score_term(value, value.detach(), q.log_prob(z), self.baseline, context)


def score_term(
    value: Tensor, signal: Tensor, log_q: Tensor, baseline: Baseline, context: Tensor | None = None
) -> Surrogate:
    """Mean over the draws of value + (signal − b) (log q − stop(log q)): the value with the score's gradient added."""
    b = baseline(signal, context)
    term = (signal - b.value) * (log_q - log_q.detach())  # zero, but for its gradient
    return Surrogate((value + term).mean(0), b.loss)


def unreparameterised(e: Evidence) -> list[str]:
    """Names of what q drew without a gradient."""
    return [name for name, q in e.q.items() if not q.has_rsample]


def score_of_evidence(e: Evidence, signal: Tensor, baseline: Baseline, context: Tensor | None = None) -> Surrogate:
    """The score's gradient for all that a walk drew without one; its value is zero, (B,).

    Args:
        e: the walk.
        signal: what is maximised, by particle, (K, B), without gradient.
    """
    log_q = sum((e.log_q[name] for name in unreparameterised(e)), signal.new_zeros(()))
    return score_term(torch.zeros_like(signal), signal, log_q, baseline, context)
