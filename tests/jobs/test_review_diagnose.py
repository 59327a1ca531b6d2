"""What a diagnosis says, against linear models whose gaps and divergences are known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from jensen.core import Model
from jensen.data import Dataset, Schema, Split
from jensen.jobs.diagnose import Finding, diagnose
from jensen.jobs.run import Run
from jensen.registry import build

DIMS, LATENTS, SCALE = 6, 3, 0.5


def loadings() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 1.2 * torch.randn(DIMS, LATENTS, generator=generator)


def data(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(rows, LATENTS, generator=generator)
    return z @ loadings().T + SCALE * torch.randn(rows, DIMS, generator=generator)


def table() -> Schema:
    """Columns that are taken as they are."""
    unit = np.array([[-1.0] * DIMS, [1.0] * DIMS])
    return Schema.of_table(unit, list("abcdef"))


def findings(name: str, schema: Schema, model: Model, x: Tensor) -> dict[str, Finding]:
    values = x.numpy().astype(np.uint8) if schema.is_image else x.double().numpy()
    run = Run({"model": name}, schema, model.eval(), None, [], Dataset("made", schema, {"test": Split(values)}))
    return {found.name: found for found in diagnose(run, limit=None).findings}


def linear_vae(posterior: str, slope: float = 1.0) -> Model:
    """p is the model that the data come from; the encoder's mean is the posterior's, times a number."""
    fixed = {"name": "gaussian", "variance": "fixed", "scale": SCALE}
    settings = {"latents": LATENTS, "encoder": "linear", "decoder": "linear", "likelihood": fixed}
    model, w = build("vae", table(), {**settings, "posterior": posterior}), loadings()
    inverse = torch.linalg.inv(w.T @ w + SCALE**2 * torch.eye(LATENTS))
    decoder, encoder = model.p["x"].module.network.output, model.q["z"].module.network.output
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.zero_()
        encoder.weight.zero_()
        encoder.weight[:LATENTS] = slope * inverse @ w.T
        encoder.bias.zero_()
    return model


def test_divergence_in_all_counts_correlations():
    """With W not orthogonal the posterior is correlated: the marginals' divergences sum to less."""
    x, w = data(1000), loadings() + 1.0
    model = build("ppca", table(), {"latents": LATENTS})
    with torch.no_grad():
        model.p["x"].module.weight.copy_(w)
        model.p["x"].module.set_scale(torch.tensor(SCALE))
    q = model.q["z"].module(x)
    truth = kl_divergence(q, MultivariateNormal(torch.zeros(LATENTS), torch.eye(LATENTS))).mean().item()
    evidence = findings("ppca", table(), model, x)["posterior collapse"].evidence
    assert abs(evidence["mutual_information_at_most"] - truth) < 4 * np.sqrt(LATENTS / 1000)
    assert sum(evidence["kl_per_dimension"]) < truth - 0.05


def test_a_probability_is_never_called_unbounded():
    """A discretised logistic at its least scale is a probability of one, where pixels are always black."""
    schema = Schema.of_pictures((1, 2, 2), 256)
    settings = {"latents": 2, "encoder": "linear", "decoder": "linear", "likelihood": "discretized-logistic"}
    model = build("vae", schema, settings)
    with torch.no_grad():
        model.p["x"].module.network.output.bias[4:] = -20
    assert "unbounded likelihood" not in findings("vae", schema, model, torch.zeros(20, 1, 2, 2))


def test_amortisation_is_measured_within_the_family():
    """A posterior of fixed scale whose mean is the best one loses nothing by amortisation."""
    found = findings("vae", table(), linear_vae("mean"), data(200))["inference gap"].evidence
    assert abs(found["amortization_gap"]) < 0.1 * found["gap"]
    assert found["approximation_gap"] > 1


def test_amortisation_is_measured_on_data_from_everywhere():
    """Only the last rows are encoded badly."""
    x = torch.cat([torch.zeros(150, DIMS), data(150)])
    found = findings("vae", table(), linear_vae("mean", slope=0.5), x)["inference gap"].evidence
    everywhere = findings("vae", table(), linear_vae("mean", slope=0.5), x[150:])["inference gap"].evidence
    assert found["amortization_gap"] > 0.3 * everywhere["amortization_gap"] > 1
