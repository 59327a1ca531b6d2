"""Posterior collapse of decoders that need no code: the doctor names it, and finds none where z is needed.

Pictures are of random bars, across or upright, so that their true density is known.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

import jensen
from jensen.core import seeded
from jensen.data import Dataset, Schema, Split
from jensen.jobs.diagnose import Diagnosis, diagnose
from jensen.jobs.finding import Finding
from jensen.jobs.run import Run

SIDE, LATENTS, LOOKED_AT = 6, 4, 30
DECODERS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (40, {}),
    "pixelcnn": (15, {"likelihood": "autoregressive", "likelihood.network": "pixelcnn",
                      "likelihood.network.width": 8, "likelihood.network.layers": 3, "likelihood.network.hidden": 16}),
    "made": (80, {"likelihood": "autoregressive", "likelihood.network": "made", "likelihood.network.hidden": [128]}),
}  # fmt: skip
"""Epochs, and settings of p(x | z)."""
AUTOREGRESSIVE = ["pixelcnn", "made"]


def bars(n: int, seed: int) -> np.ndarray:
    """Each of six bars is there or not, all across or all upright, (n, 1, 6, 6)."""
    rng = np.random.default_rng(seed)
    across = np.broadcast_to((rng.random((n, SIDE)) < 0.5)[:, :, None], (n, SIDE, SIDE))
    upright = (rng.random(n) < 0.5)[:, None, None]
    return np.where(upright, across.swapaxes(1, 2), across)[:, None].astype(np.uint8)


def log_p(x: np.ndarray) -> np.ndarray:
    """That of bars: 1/128, or twice that where no bar or every bar is there."""
    alike = (x == x[:, :1, :1, :1]).all((1, 2, 3))
    return np.where(alike, math.log(2 / 128), math.log(1 / 128))


@functools.cache
def trained(name: str) -> Run:
    """Without warm-up or free bits."""
    epochs, settings = DECODERS[name]
    schema = Schema.of_pictures((1, SIDE, SIDE), levels=2)
    splits = {part: Split(bars(n, seed)) for seed, (part, n) in enumerate({"train": 800, "valid": 50}.items())}
    settings = {"latents": LATENTS, "encoder.hidden": [32], "decoder.hidden": [32], "objective.warmup": 0.0, **settings}
    data = Dataset("bars", schema, splits)
    return jensen.train("vae", data, settings=settings, epochs=epochs, lr=0.01, batch_size=50, keep="last")


@functools.cache
def told(name: str) -> Diagnosis:
    return diagnose(trained(name), bars(200, 2), limit=LOOKED_AT)


def collapse(name: str) -> Finding:
    (found,) = [f for f in told(name).findings if f.name == "posterior collapse"]
    return found


@torch.no_grad()
def reconstruction(run: Run, x: np.ndarray, z: str) -> float:
    """E log p(x | z) in nats, z by q(z | x), or of another datum."""
    batch = {"x": run.schema.prepare(x)}
    with seeded(0):
        drawn = run.model.evidence(batch, particles=20).values["z"].view(20, len(x), -1)
    drawn = drawn if z == "own" else drawn.roll(1, 1)
    return float(np.mean([run.model.evidence({**batch, "z": one}).log_p["x"].mean() for one in drawn]))


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_a_decoder_that_needs_no_code_lets_the_posterior_collapse(name):
    found, diagnosis = collapse(name), told(name)
    assert not found.ok and not diagnosis.healthy
    assert "FAULT posterior collapse: " in str(diagnosis) and "a weaker decoder" in str(diagnosis)
    assert "next to nothing" in found.sentence
    layer = found.evidence["layers"]["z"]
    assert (found.evidence["units"], layer["units"]) == (LATENTS, LATENTS)
    assert found.evidence["active_units"] <= 1 and layer["kl"] < 0.1
    assert layer["mutual_information"] == pytest.approx(0, abs=0.1)


def test_a_factorised_decoder_of_the_same_data_uses_its_codes():
    found = collapse("plain")
    assert found.ok and found.evidence["active_units"] == found.evidence["units"] == LATENTS
    assert 1.5 < found.evidence["layers"]["z"]["mutual_information"] < math.log(LOOKED_AT)
    assert "FAULT posterior collapse" not in str(told("plain"))


@pytest.mark.parametrize("name", DECODERS)
def test_whose_code_is_decoded_matters_where_codes_are_active(name):
    """Another datum's code in place of one's own: the same to a collapsed model, many nats to the other."""
    x, run = bars(200, 2), trained(name)
    lost = reconstruction(run, x, "own") - reconstruction(run, x, "other")
    assert abs(lost) < 0.05 if name in AUTOREGRESSIVE else lost > 5


@pytest.mark.parametrize("name", DECODERS)
def test_what_collapses_explains_the_data_by_itself(name):
    """Bounds of 1,000 fresh pictures, against their true density: near it without z, far below with factors."""
    x = bars(1000, 3)
    score = trained(name).score(x, particles=10)
    assert score.rows is not None
    below = log_p(x) - score.rows.double().numpy()
    assert below.mean() > -4 * below.std() / math.sqrt(len(x))
    assert below.mean() < 0.5 if name in AUTOREGRESSIVE else below.mean() > 5
