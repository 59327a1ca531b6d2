"""Codes learned in two stages: first what they stand for, then how they are distributed.

    1   maximise  log p(x | e(k(x))) − Σ ‖sg[h] − e‖² − β ‖h − sg[e]‖²     over encoder, codebook and decoder
    2   maximise  log p(k(x))                                              over the prior, all else as it is

What is reported is in both the bound log p(k) + log p(x | k) ≤ log p(x) of the model as it stands. The prior starts out
as the uniform one, so that in the first stage log p(k) = −G log K for G cells.

van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", 2017, arXiv:1711.00937.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from jensen.conditionals.quantizers import Assign, Quantizer, use
from jensen.core import Joint, Model, evidence
from jensen.core.joint import Factor
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean

STARTING = 512  # data from which codes start


def quantized(share: float) -> Objective:
    """Both stages; the first has that share of the budget."""
    stages = (
        Stage((GradientPhase(_code_loss, _all_but_priors),), name="codes", share=share),
        Stage((GradientPhase(_prior_loss, _of_priors),), name="prior", share=1 - share),
    )
    what = "codes and decoder by gradient, then the prior of codes"
    return Objective(stages, _validate, what, initialize=_initialize, through_draws=False)


def assignments(model: Model) -> Iterator[tuple[Factor, Quantizer]]:
    """The factors of q that put out codes."""
    for factor in model.q:
        if isinstance(factor.module, Assign):
            yield factor, factor.module.quantizer


def _code_loss(model: Model, batch: Batch, progress: float) -> Terms:
    e = evidence(_part(model, [model.data]), model.q, _observed(model, batch))
    reconstruction = e.reconstruction()
    total, bound, logged = reconstruction, reconstruction.detach(), {}
    for factor, quantizer in assignments(model):
        h, k = e.values[factor.parents[0]].flatten(2), e.values[factor.name].flatten(1)
        cost = quantizer.cost(h, k)
        total = total - cost
        bound = bound + uniform(quantizer, k)
        logged |= {f"cost_{factor.name}": weighted_mean(cost.detach(), batch)}
        logged |= {name: value.to(cost.dtype) for name, value in _use(factor.name, k, quantizer).items()}
        if model.training and torch.isfinite(h).all():  # else the step is refused, or left out
            quantizer.learn(h.detach(), k, batch.get("weight"))
    means = {"elbo": weighted_mean(bound, batch), "reconstruction": weighted_mean(reconstruction.detach(), batch)}
    return Terms(-weighted_mean(total, batch), means | logged)


def _prior_loss(model: Model, batch: Batch, progress: float) -> Terms:
    model.q.eval()
    with torch.no_grad():
        values = evidence(Joint(), model.q, _observed(model, batch)).values
    known = {name: value for name, value in values.items() if name in model.q or name in model.context}
    log_p = evidence(_part(model, model.codes), Joint(), known).log_p
    terms = {name: weighted_mean(log_p[name][0], batch) for name in log_p}
    loss = -torch.stack(list(terms.values())).sum()
    return Terms(loss, {f"kl_{name}": -value.detach() for name, value in terms.items()})


def uniform(quantizer: Quantizer, k: Tensor) -> Tensor:
    """log p(k) where all codes are equally likely, in nats, (N,)."""
    return -k.new_tensor(quantizer.codes).log() * k[0].numel() * torch.ones_like(k[:, 0])


def _part(model: Model, names: list[str]) -> Joint:
    """Factors of p of those names."""
    return Joint({str(f): f.module for f in model.p if f.name in names})


def _observed(model: Model, batch: Batch) -> dict[str, Tensor]:
    return {name: batch[name] for name in (model.data, *model.context)}


def _of_priors(model: Model) -> Iterable[nn.Parameter]:
    return (p for name in model.codes for p in model.p[name].module.parameters())


def _all_but_priors(model: Model) -> Iterable[nn.Parameter]:
    own = {id(p) for p in _of_priors(model)}
    return (p for p in model.parameters() if id(p) not in own)


def _use(name: str, k: Tensor, quantizer: Quantizer) -> dict[str, Tensor]:
    perplexity, share = use(k, quantizer.codes)
    return {f"perplexity_{name}": perplexity, f"use_{name}": share}


@torch.no_grad()
def _validate(model: Model, batch: Batch) -> dict[str, Tensor]:
    """The bound and its parts of each datum; perplexity and the share of codes in use of all of them together."""
    e = model.evidence(batch)
    reconstruction, divergences = e.reconstruction(), e.divergences()
    logged = {"elbo": e.elbo(), "reconstruction": reconstruction} | {f"kl_{n}": kl for n, kl in divergences.items()}
    for factor, quantizer in assignments(model):
        found = _use(factor.name, e.values[factor.name], quantizer)
        logged |= {name: value.to(logged["elbo"]).expand(len(batch[model.data])) for name, value in found.items()}
    return logged


@torch.no_grad()
def _initialize(model: Model, batch: Batch) -> None:
    """Let the decoder start from the marginal of the data, and codes from K-means of the encoder's first outputs."""
    Model.initialize(model, batch)
    first = {name: value[:STARTING] if value.dim() else value for name, value in _observed(model, batch).items()}
    for factor, quantizer in assignments(model):  # codes of one level may hang on those of another
        values = evidence(Joint(), model.q, first).values
        quantizer.start(values[factor.parents[0]].flatten(2))
