"""Windows of a text scored as passages, against sums over tokens that are written out."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import jensen
from jensen.errors import CapabilityError, ConfigError
from jensen.jobs.run import Run

LENGTH = 12


def a_text(n: int = 1200, seed: int = 0) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(["ab", "abc", "ca", "d "]) for _ in range(n))


def trained(name: str, **settings) -> Run:
    fixed = {"positions": False, "width": 8, "layers": 1, "train.lr": 0.01}
    return jensen.train(name, [a_text()], text={"length": LENGTH}, settings={**fixed, **settings}, epochs=2)


def terms(run: Run, rows: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return run.model.eval().p["x"].module().terms(rows).double()


@pytest.mark.parametrize("context", [1, 5, 6, 7, LENGTH - 1])
@pytest.mark.parametrize(("name", "settings"), [("rnn", {}), ("transformer", {"heads": 2}), ("wavenet", {})])
def test_every_token_is_given_at_least_so_many(name, settings, context):
    """Token by token, each in the first of the rows, a step apart, that hold it."""
    run = trained(name, **settings)
    x = torch.as_tensor(run.data().split("test").x).float()
    found = run.score(context=context)
    assert found.context == context and found.kind == "exact"
    assert found.rows is not None
    assert found.rows[0].item() == pytest.approx(terms(run, x[:1]).sum().item(), rel=1e-5)
    fresh = LENGTH - context
    for i in (1, 5):
        passage, total = torch.cat([x[i - 1], x[i]]), 0.0
        for t in range(LENGTH):
            begin = min((t // fresh + 1) * fresh, LENGTH)  # of the first row, a step of `fresh` each, that holds t
            row, place = passage[begin : begin + LENGTH], LENGTH + t - begin
            assert place >= context
            total += terms(run, row[None])[0, place].item()
        assert found.rows[i].item() == pytest.approx(total, rel=1e-5)


def test_a_model_of_finite_memory_has_one_probability_of_a_text():
    """Once a token is given all that a model remembers, more changes nothing; less does."""
    run = trained("markov", memory=3)
    whole = [run.score(context=c).nats for c in (3, 4, 6, 11)]
    np.testing.assert_allclose(whole, whole[0], rtol=1e-6)
    assert abs(run.score(context=2).nats - whole[0]) > 1e-4
    assert abs(run.score().nats - whole[0]) > 1e-3


def test_a_subset_has_the_windows_before_it():
    run = trained("rnn")
    whole, some = run.score(context=6), run.score(context=6, limit=20, seed=3)
    _, _, part = run.split(None, None)
    np.testing.assert_allclose(some.rows, whole.rows[run.pick(part, 20, 3)], rtol=1e-5)  # pyright: ignore


@pytest.mark.parametrize("size", [2 * LENGTH, 2 * LENGTH - 5])
def test_a_text_has_nothing_before_it_of_another(size):
    """The second text starts anew, whether or not the first one's last window is full."""
    run = trained("rnn")
    texts = [a_text(30, 1)[:size], a_text(30, 2)]
    both, second = run.score(texts, context=6), run.score(texts[1:], context=6)
    n = second.n
    assert both.n > n
    np.testing.assert_allclose(both.rows[-n:], second.rows, rtol=1e-5)  # pyright: ignore


def test_figures_follow_from_the_score():
    run = trained("rnn")
    found = run.score(context=6)
    assert found.text is not None and found.amounts is not None
    total = -found.nats * found.n / np.log(2)
    assert found.text["bits_per_character"] == pytest.approx(total / found.amounts["characters"])
    assert "each token given 6 before it" in str(found)
    assert found.to_dict()["context"] == 6


def test_what_has_no_windows_says_so():
    run = trained("rnn")
    with pytest.raises(ConfigError, match=f"--context: expected less than a window, {LENGTH} characters, got {LENGTH}"):
        run.score(context=LENGTH)
    with pytest.raises(ConfigError, match="expected >= 0, got -1"):
        run.score(context=-1)
    lines = jensen.train("rnn", ["ab", "abc", "b", "ca"] * 10, text={"lines": True}, epochs=1, width=8)
    with pytest.raises(CapabilityError, match="rnn is not of such data"):
        lines.score(context=1)
    hidden = {"latents": 2, "encoder": "rnn", "likelihood": "autoregressive", "likelihood.network": "rnn"}
    vae = jensen.train("vae", [a_text(100)], text={"length": LENGTH}, settings=hidden, epochs=1)
    with pytest.raises(CapabilityError, match="vae has no exact"):
        vae.score(context=1)
