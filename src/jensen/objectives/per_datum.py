"""Training with posteriors of each datum's own, in part (semi-amortised) or alone (non-amortised).

    semi-amortised   max_{θ, φ}  Σ_i ELBO(x_i, λ_i),    λ_i some steps of ascent away from f(x_i; φ)
    non-amortised    max_{θ, λ}  Σ_i ELBO(x_i, λ_i),    λ_i stored for each training datum

What is reported is an ELBO in either case: of data that were not trained on, at a λ sought for them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from jensen.core import Model
from jensen.errors import ResourceError
from jensen.objectives.phases import Batch, GradientPhase, Objective, Stage, Terms, weighted_mean
from jensen.objectives.refinement import Parameters, PerDatum, ascend, refine
from jensen.registry import component

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
STORE_MEGABYTES = 2048  # that posteriors of training data may take, moments of their optimizer included
VALIDATION_STEPS, VALIDATION_DRAWS = 40, 10  # of refinement, on data without a stored posterior


@component("objective", "semi-amortized", paper="Kim, Wiseman, Miller, Sontag and Rush 2018, arXiv:1802.02550")
def semi_amortized(
    *,
    steps: Count = 5,
    rate: Positive = 0.05,
    longest: Positive = 5.0,
    samples: Count = 1,
    gradient: Literal["truncated", "through"] = "truncated",
) -> Objective:
    """Maximise the ELBO at posteriors that start from the encoder and take a few steps of ascent for each datum.

    Settings:
        steps: of gradient ascent on the datum's ELBO, with draws of their own.
        rate: of these steps.
        longest: length of a datum's gradient above which it is scaled down, as the paper does.
        samples: L draws of z per datum and step.
        gradient: "through" differentiates the steps too (exactly, where the paper takes finite differences), at about
            three times the cost; "truncated" takes them as constants: the encoder learns from the slope where they end.
    """

    def refined(own: PerDatum, batch: Batch, start: Parameters, through: bool) -> Parameters:
        return ascend(lambda at: own.bound(batch, at, samples), start, steps, rate, longest, through)

    def loss(model: Model, batch: Batch, progress: float) -> Terms:
        own = PerDatum.of(model)
        parameters = refined(own, batch, own.amortised(batch), gradient == "through")
        bound = weighted_mean(own.bound(batch, parameters, samples), batch)
        return Terms(-bound, {"elbo": bound.detach()})

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        own = PerDatum.of(model)
        start = own.amortised(batch)
        return {
            "elbo": own.bound(batch, refined(own, batch, start, False)).detach(),
            "elbo_amortized": own.bound(batch, start).detach(),
        }

    stage = Stage((GradientPhase(loss),))
    what = "evidence lower bound, semi-amortised"
    return Objective((stage,), validate, what, validation_cost=1.0 + steps, several=False)


@component("objective", "per-datum", paper="Hoffman, Blei, Wang and Paisley 2013, arXiv:1206.7055")
def per_datum(*, steps: Count = 1, rate: Positive = 0.05, samples: Count = 1) -> Objective:
    """Maximise the ELBO at posteriors stored for each training datum: non-amortised variational inference.

    p learns from these alone. The encoder learns beside them, for the p of the moment and without touching it, so that
    other data have where to start from; refine from there (`jensen score --refine`).

    Settings:
        steps: of Adam on a datum's stored parameters, each time it is met.
        rate: of these steps.
        samples: L draws of z per datum and step.
    """
    store = Store()

    def learn(model: Model, batch: Batch, progress: float) -> Terms:
        own = PerDatum.of(model)
        parameters = store.start(own, batch)
        for _ in range(steps):
            parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            bound = own.bound(batch, parameters, samples)
            slopes = torch.autograd.grad(bound.sum(), list(parameters.values()))
            parameters = store.step(batch, parameters, dict(zip(parameters, slopes, strict=True)), rate)
        bound = weighted_mean(own.bound(batch, parameters, samples), batch)
        return Terms(-bound, {"elbo": bound.detach()})

    def follow(model: Model, batch: Batch, progress: float) -> Terms:
        own = PerDatum.of(model)
        bound = weighted_mean(own.bound(batch, own.amortised(batch), samples), batch)
        return Terms(-bound, {"elbo_amortized": bound.detach()})

    def validate(model: Model, batch: Batch) -> dict[str, Tensor]:
        own, parameters = refine(model, batch, VALIDATION_STEPS, samples)
        return {
            "elbo": own.bound(batch, parameters, VALIDATION_DRAWS).detach(),
            "elbo_amortized": own.bound(batch, own.amortised(batch), VALIDATION_DRAWS).detach(),
        }

    phases = (
        GradientPhase(learn, lambda model: model.p.parameters()),
        GradientPhase(follow, lambda model: model.q.parameters()),
    )
    return Objective(
        (Stage(phases),),
        validate,
        "evidence lower bound, a posterior for each datum",
        helpers=store,
        validation_cost=float(VALIDATION_STEPS),
        several=False,
        parallel=False,
    )


class Store(nn.Module):
    """λ of each training datum, by its row, with the moments of an Adam that steps only where a datum is met.

    A row that was never met is zero: of a normal posterior, N(0, I). The store grows as higher rows are met, and is
    checkpointed whole.
    """

    def __init__(self) -> None:
        super().__init__()

    def start(self, own: PerDatum, batch: Batch) -> Parameters:
        """λ of a batch's rows, (B, *parameter_shape); of data without rows, zeros."""
        fresh = own.standard(len(batch["x"]), batch["x"])
        if "row" not in batch:
            return fresh
        needed = int(batch["row"].max()) + 1
        for name, value in fresh.items():
            self._reach(name, needed, value)
        return {name: self._buffers[name][batch["row"]] for name in fresh}  # pyright: ignore

    @torch.no_grad()
    def step(self, batch: Batch, parameters: Parameters, slopes: Parameters, rate: float) -> Parameters:
        """One step of Adam upwards (Kingma and Ba 2015); stored, and given back."""
        if "row" not in batch:
            return {name: value + rate * slopes[name].sign() for name, value in parameters.items()}  # a first step
        rows, found = batch["row"], {}
        for name, value in parameters.items():
            table, first, second, count = (self._buffers[key] for key in self._keys(name))
            assert table is not None and first is not None and second is not None and count is not None
            n = count[rows] + 1
            m = 0.9 * first[rows] + 0.1 * slopes[name]
            v = 0.999 * second[rows] + 0.001 * slopes[name].square()
            per_row = n.reshape(-1, *(1,) * (value.dim() - 1))
            step = (m / (1 - 0.9**per_row)) / ((v / (1 - 0.999**per_row)).sqrt() + 1e-8)
            found[name] = value.detach() + rate * step
            table[rows], first[rows], second[rows], count[rows] = found[name], m, v, n
        return found

    @staticmethod
    def _keys(name: str) -> tuple[str, str, str, str]:
        return name, f"{name}_first", f"{name}_second", f"{name}_count"

    def _reach(self, name: str, needed: int, like: Tensor) -> None:
        """Let the tables of a name have so many rows, and then some."""
        old = self._buffers.get(name)
        have = 0 if old is None else len(old)
        if needed <= have:
            return
        rows, event = max(needed, have + have // 4), like.shape[1:]
        megabytes = 3 * rows * like[0].numel() * like.element_size() / 2**20
        if megabytes > STORE_MEGABYTES:
            raise ResourceError(
                f"objective per-datum: posteriors of {rows:,} data would take {megabytes:,.0f} MiB, more than "
                f"{STORE_MEGABYTES:,}; use objective=semi-amortized, or fewer latents"
            )
        for key in self._keys(name):
            shape = (rows,) if key.endswith("_count") else (rows, *event)
            grown = torch.zeros(shape, dtype=like.dtype, device=like.device)
            before = self._buffers.get(key)
            if before is not None:
                grown[:have] = before
            self.register_buffer(key, grown)

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):  # pyright: ignore
        """Tables take the size they were saved with."""
        for key, value in state_dict.items():
            self.register_buffer(key, torch.zeros_like(value))
        return super().load_state_dict(state_dict, strict, assign)
