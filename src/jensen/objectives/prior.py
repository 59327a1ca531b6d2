"""Fitting a prior to the codes of a trained model.

    max over p(z) of E_x E_q(z | x)[log p(z)]

With q and p(x | z) as they are, this is all of the bound that p(z) has a part in: KL(q(z) ‖ p(z)), q(z) the aggregated
posterior, falls to what the family allows. Two stages, where "holes" of a simple prior are filled afterwards: Engel et
al. 2018, arXiv:1711.05772; van den Oord et al. 2017, arXiv:1711.00937; Ghosh et al. 2020, arXiv:1903.12436.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from jensen.core import Joint, Model, evidence
from jensen.core.joint import Factor
from jensen.objectives.elbo import log_likelihood_bound
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, UpdatePhase, weighted_mean


def priors(model: Model, conditions: Iterable[str] = ()) -> list[Factor]:
    """Of what q draws or codes, the factors of p that stand on nothing, or on those conditions alone."""
    hidden, known = [*model.hidden, *model.codes], set(conditions)
    return [f for f in model.p if known >= {*f.parents} and f.name in hidden and not model.is_noisy(f.name)]


def take_all_but_priors(model: Model, other: Model) -> None:
    """Give a model the weights of another one that differs from it in its priors alone."""
    own = tuple(f"p.{f.name}." for f in priors(model))
    weights = {k: v for k, v in other.state_dict().items() if not k.startswith(own)}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(k.startswith(own) for k in missing)


def prior_objective(model: Model) -> Objective:
    """What fits a model's prior: `fit_prior`, or where it has no parameters `nothing_to_fit`."""
    learned = any(True for f in priors(model) for _ in f.module.parameters())
    bounded = model.likelihood is not None
    return fit_prior(bounded) if learned else nothing_to_fit(bounded)


def fit_prior(bounded: bool = True) -> Objective:
    """Maximise E_q[log p(z)] over the parameters of p(z) alone; all else stays as it is, bit for bit.

    Args:
        bounded: whether there is a bound on log p(x), to be validated; else log p(z) is.
    """

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        model.q.eval()
        total = weighted_mean(log_prior(model, batch), batch)
        return Terms(-total, {"log_prior": total.detach()})

    def parameters(model: Model) -> Iterable[nn.Parameter]:
        return (p for f in priors(model) for p in f.module.parameters())

    def initialize(model: Model, batch: Batch) -> None:
        values = codes(model.eval(), batch)
        for f in priors(model):
            if hasattr(f.module, "initialize_from"):
                f.module.initialize_from(batch)  # pyright: ignore[reportCallIssue]
            elif hasattr(f.module, "initialize"):
                f.module.initialize(values[f.name])  # pyright: ignore[reportCallIssue]

    validate, monitor = _validated(bounded)
    step = Stage((GradientPhase(loss, parameters),), monitor=monitor)
    return Objective((step,), validate, "maximum likelihood of codes", initialize=initialize)


def nothing_to_fit(bounded: bool = True) -> Objective:
    """As `fit_prior`, for a prior without parameters, which is what it is once it has started: one pass, to measure."""
    phase = UpdatePhase(lambda model: None, lambda model, state, batch: None, lambda model, state: None)
    validate, monitor = _validated(bounded)
    stage = Stage((phase,), passes=1, monitor=monitor)
    return Objective((stage,), validate, "taken from codes", initialize=fit_prior().initialize)


def _validated(bounded: bool) -> tuple[Callable[[Model, Batch], dict[str, Tensor]], str]:
    """What is measured of each datum, and the name of what counts."""
    if bounded:
        return log_likelihood_bound, "elbo"
    return lambda model, batch: {"log_prior": log_prior(model, batch)}, "log_prior"


def log_prior(model: Model, batch: Batch) -> Tensor:
    """log p(z) of a draw z from q, in nats, (B,)."""
    values = codes(model, batch)
    return sum((f.module().log_prob(values[f.name]) for f in priors(model)), torch.zeros(()))


@torch.no_grad()
def codes(model: Model, batch: Batch) -> dict[str, Tensor]:
    """A draw from q of all that it infers."""
    observed = {name: value for name, value in batch.items() if name == model.data or name in model.context}
    return evidence(Joint(), model.q, observed).values
