"""Probabilistic principal component analysis.

    z ~ N(0, I)        x | z ~ N(W z + μ, σ² I)        so x ~ N(μ, W Wᵀ + σ² I)

Everything is exact. The maximum of the likelihood is known (equation 7 and 8): with eigenvalues λ₁ ≥ … ≥ λ_D of the
covariance and U their vectors,

    σ² = mean of λ_{L+1} … λ_D        W = U_L (Λ_L − σ² I)^{1/2}   up to a rotation

and expectation maximisation and gradient ascent climb to the same W Wᵀ and σ².

Tipping and Bishop, "Probabilistic principal component analysis", JRSS B 61(3), 1999.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from jensen.conditionals.linear_gaussian import LinearGaussian, LinearGaussianPosterior
from jensen.conditionals.priors import normal
from jensen.core import Joint, Model
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.objectives import Batch, UpdatePhase
from jensen.objectives.likelihood import maximum_likelihood, updates
from jensen.registry import model


@model("ppca", paper="Tipping and Bishop 1999, JRSS B 61(3)", toy="table")
def ppca(
    schema: Schema,
    *,
    latents: Annotated[int, Field(ge=1)] = 2,
    fit: Literal["closed-form", "em", "gradient"] = "closed-form",
    min_scale: Annotated[float, Field(gt=0)] = 1e-3,
) -> Model:
    """Probabilistic PCA: exact likelihood, posterior and samples.

    Settings:
        latents: L, dimensions of z, fewer than the data's.
        fit: the closed form, expectation maximisation, or gradient ascent.
        min_scale: floor under σ, in the prepared data's units.
    """
    schema.expect_numbers()
    schema.expect_one_kind()
    schema.expect_no_gaps()
    dims = math.prod(schema.event_shape)
    if latents >= dims:
        raise ConfigError(f"latents: expected fewer than the data's {dims} dimensions, got {latents}")
    likelihood = LinearGaussian(latents, schema.event_shape, min_scale)
    p = Joint({"z": normal((latents,)), "x | z": likelihood})
    q = Joint({"z | x": LinearGaussianPosterior(likelihood)})
    objectives = {
        "closed-form": lambda: updates(CLOSED_FORM, "maximum likelihood, closed form", passes=1),
        "em": lambda: updates(EM, "maximum likelihood, EM", passes=None),
        "gradient": maximum_likelihood,
    }
    return Model(p, q, objectives[fit]())


def _likelihood(model: Model) -> LinearGaussian:
    module = model.p["x"].module
    assert isinstance(module, LinearGaussian)
    return module


def _weights(batch: Batch) -> tuple[Tensor, Tensor]:
    """x, (B, D), and row weights, (B,), in float64."""
    x = batch["x"].flatten(1).double()
    return x, batch["weight"].double() if "weight" in batch else torch.ones(len(x), dtype=x.dtype, device=x.device)


# Closed form: accumulate n, Σ x and Σ x xᵀ, then one eigendecomposition.


def _moments(model: Model, state: tuple[Tensor, Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    (x, w), (n, s, ss) = _weights(batch), state
    return n + w.sum(), s + w @ x, ss + (w[:, None] * x).mT @ x


def _no_moments(model: Model) -> tuple[Tensor, Tensor, Tensor]:
    mean = _likelihood(model).mean
    zero = torch.zeros_like(mean, dtype=torch.float64)
    return zero.sum(), zero, zero[:, None] * zero


@torch.no_grad()
def _set_closed_form(model: Model, state: tuple[Tensor, Tensor, Tensor]) -> None:
    p, (n, s, ss) = _likelihood(model), state
    latents = p.weight.shape[1]
    mean = s / n
    values, vectors = torch.linalg.eigh(ss / n - torch.outer(mean, mean))  # ascending
    variance = values[:-latents].mean().clamp_min(p.min_scale**2)
    stretch = (values[-latents:] - variance).clamp_min(0).sqrt()
    p.weight.copy_((vectors[:, -latents:] * stretch).flip(1))
    p.mean.copy_(mean)
    p.set_scale(variance.sqrt())


CLOSED_FORM = UpdatePhase(_no_moments, _moments, _set_closed_form)


# EM: accumulate expected statistics under the posterior, then regress x on [z, 1].


def _no_statistics(model: Model) -> dict[str, Tensor]:
    p = _likelihood(model)
    zero = torch.zeros(p.weight.shape[0], p.weight.shape[1] + 1, dtype=torch.float64, device=p.weight.device)
    return {"xz": zero, "zz": zero.mT[:, :1] * zero[:1], "xx": zero.sum(), "n": zero.sum()}


@torch.no_grad()
def _expect(model: Model, state: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    x, w = _weights(batch)
    posterior = model.q["z"].module(batch["x"])
    z = torch.cat([posterior.mean.double(), torch.ones_like(w)[:, None]], 1)  # (B, L + 1)
    covariance = torch.zeros_like(state["zz"])
    covariance[:-1, :-1] = posterior.covariance_matrix.double().reshape(-1, *posterior.event_shape * 2)[0]
    return {
        "xz": state["xz"] + (w[:, None] * x).mT @ z,
        "zz": state["zz"] + (w[:, None] * z).mT @ z + w.sum() * covariance,
        "xx": state["xx"] + (w * x.square().sum(1)).sum(),
        "n": state["n"] + w.sum(),
    }


@torch.no_grad()
def _maximise(model: Model, state: dict[str, Tensor]) -> None:
    p = _likelihood(model)
    weight = torch.linalg.solve(state["zz"], state["xz"].mT).mT  # [W, μ]
    residual = state["xx"] - (weight * state["xz"]).sum()
    p.weight.copy_(weight[:, :-1])
    p.mean.copy_(weight[:, -1])
    p.set_scale((residual / (state["n"] * len(weight))).clamp_min(p.min_scale**2).sqrt())


EM = UpdatePhase(_no_statistics, _expect, _maximise)
