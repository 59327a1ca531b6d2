"""A sentence variational autoencoder of two Transformers: learned in memory, and blind to what fills a row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, load_data
from jensen.data.text_tokens import Tokens
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.nets.reading import Reader
from jensen.nets.transformer import Transformer
from jensen.registry import build

SENTENCES = ["a cat", "the dog sat", "birds sing in a tree", "we go"]
SETTINGS = {
    "latents": 2,
    "encoder": {"name": "transformer", "width": 16, "heads": 2, "layers": 1},
    "decoder.hidden": [16],
    "likelihood": "autoregressive",
    "likelihood.network": "transformer",
    "likelihood.network.width": 16,
    "likelihood.network.heads": 2,
    "likelihood.network.layers": 1,
    "likelihood.features": 8,
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_data(SENTENCES * 20, text={"lines": True})


@pytest.fixture(scope="module")
def run(data) -> Run:
    settings = SETTINGS | {"likelihood.word_dropout": 0.7, "objective.free_bits": 0.7, "objective.warmup": 0.0}
    return train("vae", data, settings=settings, epochs=120, batch_size=16, lr=0.01, keep="last")


def texts(run: Run, split: str) -> np.ndarray:
    return run.schema.restore(run.schema.prepare(run.data().split(split).x))  # pyright: ignore[reportReturnType]


def test_the_bound_rises_to_the_entropy_of_the_sentences_and_no_further(run):
    """On average over a split log p is at most Σ f log f, f the shares of its sentences."""
    assert isinstance(run.model.q["z"].module.network, Reader)
    assert isinstance(run.model.q["z"].module.network.core, Transformer)
    assert isinstance(run.model.p["x"].module.head.conditional.network.core, Transformer)
    bounds = [line["valid"]["elbo"] for line in run.log]
    assert bounds[-1] > bounds[0] + 10
    _, counts = np.unique(texts(run, "train"), return_counts=True)
    most = float((counts / counts.sum() * np.log(counts / counts.sum())).sum())
    score = run.score(split="train", particles=100)
    assert most - 0.5 < score.nats < most + 4 * score.stderr_mc
    assert score.kind == "lower_bound" and run.log[-1]["valid"]["kl_z"] > 0.5


def test_sentences_come_back_lie_between_others_and_are_drawn(run):
    train = texts(run, "train")
    assert set(train) == set(SENTENCES)
    assert (run.reconstruct(split="train") == train).all()
    start, end = (int(np.flatnonzero(train == text)[0]) for text in ("we go", "birds sing in a tree"))
    path = run.interpolate(split="train", start=start, end=end, steps=9)
    assert path.shape == (9,) and all(isinstance(text, str) for text in path)
    assert (path[0], path[-1]) == ("we go", "birds sing in a tree")
    drawn = run.sample(200)
    assert drawn.shape == (200,) and all(isinstance(text, str) for text in drawn)
    assert set(SENTENCES) <= set(drawn) and np.isin(drawn, SENTENCES).mean() > 0.7
    assert run.encode(split="train").shape == (len(train), 2)


# Padding


def built(length: int) -> Model:
    """Of texts of at most so many letters out of three, in float64, with weights away from where they start."""
    schema = Schema.of_text(length, Tokens.of_characters(["abc"], lines=True))
    with seeded(1), torch.no_grad():
        model = build("vae", schema, SETTINGS).double().eval()
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def lengthened(model: Model, length: int) -> Model:
    """The same weights for longer texts: positions that are new have vectors of their own."""
    longer = built(length)
    for ours, theirs in zip(longer.parameters(), model.parameters(), strict=True):
        ours[tuple(map(slice, theirs.shape))] = theirs
    return longer


def rows(texts: list[str], length: int) -> Tensor:
    tokens = Tokens.of_characters(["abc"], lines=True)
    return torch.tensor([[*tokens.encode(text), *[tokens.end] * length][:length] for text in texts]).double()


@torch.no_grad()
def bound(model: Model, x: Tensor, noise: Tensor) -> Tensor:
    """log p(x, z) − log q(z | x) at z = μ(x) + σ(x) ε, each (N, ·), in nats: with ε = 0 at the posterior's mean."""
    q = model.q["z"].module(x)
    z = q.mean + q.variance.sqrt() * noise
    return model.evidence({"x": x, "z": z}).log_w[0] - q.log_prob(z)


@torch.no_grad()
def by_hand(model: Model, x: Tensor, noise: Tensor, size: int) -> float:
    """The same of one text of so many letters, cut off after its end: its symbols and its end, normals in closed form.

    The encoder's output where the end stands is what q is made of.
    """
    encoder: Any = model.q["z"].module
    decoder: Any = model.p["x"].module
    seen, network = x[None, : size + 1], encoder.network
    q = encoder.head(network.output(network.core(network.embed(seen))[:, -1]).view(1, *network.outputs))
    z = q.mean + q.variance.sqrt() * noise
    logits = decoder.head.conditional.network(seen, decoder.network(z))[0].mT.log_softmax(-1)
    explained = logits[range(seen.shape[1]), seen[0].long()].sum()
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum()
    log_q = -0.5 * (noise.square() + math.log(2 * math.pi) + q.variance.log()).sum()
    return float(explained + log_prior - log_q)


@pytest.mark.parametrize("at", ["the mean", "draws"])
def test_what_fills_a_row_does_not_change_a_bound(at):
    """A sentence by itself, beside longer ones, and in rows of twice the length, with the same noise."""
    written = ["ab", "", "cabcabc", "a", "bbbbbb"]
    noise = torch.randn(5, 2, dtype=torch.float64) * (at == "draws")
    model, x = built(9), rows(written, 9)
    together = bound(model, x, noise)
    alone = torch.cat([bound(model, x[i : i + 1], noise[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-11)
    torch.testing.assert_close(bound(lengthened(model, 18), rows(written, 18), noise), together, rtol=0, atol=1e-11)
    truth = [by_hand(model, x[i], noise[i], len(text)) for i, text in enumerate(written)]
    torch.testing.assert_close(together, torch.tensor(truth, dtype=torch.float64), rtol=0, atol=1e-11)
    assert together.unique().numel() == 5
