"""What a model of text writes, notes and is shown as."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch

import jensen
from jensen.jobs import while_training
from jensen.jobs.report import report

CYCLE = "abcdefgh"


def test_texts_go_on_from_their_last_half():
    """Of a text where each letter has one successor; windows of six, so that a wrong place to go on from would show."""
    settings = {"memory": 1, "positions": False, "width": 16, "train.lr": 0.03}
    run = jensen.train("markov", [CYCLE * 60], text={"length": 6}, settings=settings, epochs=40)
    for text in run.sample(3, prefix="abc", length=29, nucleus=0.5):
        assert text == (CYCLE * 4)[:29]
    assert run.sample(1, prefix="abcdefgh")[0] == (CYCLE * 2)[:14]  # a prefix of more than a window goes on for one


def test_a_beginning_may_end_inside_a_token():
    """Of byte pairs, against what begins so of all that the model writes."""
    lines = ["the cat", "this dog", "then", "th th", "to the cat", "to cats", "to a hat"] * 30
    text = {"lines": True, "tokens": "bpe", "vocabulary": 266}
    settings = {"memory": 2, "width": 32, "train.lr": 0.01, "train.batch_size": 20}
    run = jensen.train("markov", lines, text=text, settings=settings, epochs=15)
    every = run.sample(6000)
    for prefix in ("th", "to "):
        true = Counter(text for text in every if text.startswith(prefix))
        found = Counter(run.sample(2000, prefix=prefix, seed=1))
        assert len(true) > 2
        for text, times in true.items():
            p, error = times / true.total(), (1 / true.total() + 1 / 2000) ** 0.5
            assert found[text] / 2000 == pytest.approx(p, abs=5 * error * max(p, 0.01) ** 0.5), (prefix, text)


def test_texts_of_a_latent_variable_are_sharpened():
    """With nearly no nucleus, or nearly no temperature, a text is a function of its code, and here hardly of that."""
    hidden = {"latents": 1, "encoder": "rnn", "likelihood": "autoregressive", "likelihood.network": "rnn"}
    lines = [CYCLE[i:] + CYCLE[:i] for i in range(8)] * 5
    run = jensen.train("vae", lines, text={"lines": True}, settings=hidden, epochs=1)
    several = len(set(run.sample(40)))
    assert several > 30
    assert len(set(run.sample(40, nucleus=1e-6))) < several / 2
    assert len(set(run.sample(40, temperature=1e-4))) < several / 2


def test_notes_are_drawn_without_dropout(tmp_path, monkeypatch):
    seen = []

    def sample(run, n):
        seen.append(run.model.training)
        return ["a"] * n

    monkeypatch.setattr(while_training, "sample", sample)
    run = jensen.train("rnn", ["ab", "ba"] * 20, text={"lines": True}, epochs=2, dropout=0.5, out=tmp_path / "a")
    assert seen and not any(seen)
    assert (run.folder.path / "samples.txt").exists()  # pyright: ignore[reportOptionalMemberAccess]


def test_a_report_tells_bits(tmp_path):
    run = jensen.train("rnn", [CYCLE * 40], text={"length": 7}, settings={"width": 8}, epochs=1)
    page = report(run, tmp_path / "a.html").read_text()
    told = [float(bits) for bits in re.findall(r"([\d.]+) bits a token on average", page)]
    part = run.data().split("test")
    with torch.no_grad():
        nats = -run.model.eval().p["x"].module().terms(torch.as_tensor(part.x).float()).double().numpy()
    sizes = (part.x != run.schema.tokens.end).sum(1)
    rows = [row[: size + 1].mean() / math.log(2) for row, size in zip(nats, sizes, strict=True)]
    assert told and all(np.abs(np.array(rows) - t).min() < 0.0051 for t in told)


@pytest.mark.parametrize("length", [1, 2, 40, 64, 200])
def test_curves_of_surprise_of_short_clips(length):
    from jensen.jobs.sounds import surprise

    assert surprise(np.zeros(length), np.ones(length), 16000, 256).axes
