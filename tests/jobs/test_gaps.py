"""Gaps of texts: draws of what is missing against sums over all that it can be."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from jensen.conditionals.autoregressive import Autoregressive
from jensen.core import Model, seeded
from jensen.data import Schema
from jensen.data.text_tokens import Tokens
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.run import Run
from jensen.registry import build

SMALL = {"markov": {"memory": 1, "width": 8}, "transformer": {"width": 8, "heads": 2, "layers": 1}}


def letters(count: int, length: int, lines: bool = True) -> Schema:
    return Schema.of_text(length, Tokens.of_characters(["abcdefgh"[:count]], lines=lines))


@pytest.fixture(name="text_run")
def _text_run(run_of):
    def made(name: str, schema: Schema, spread: float = 0.6) -> Run:
        with seeded(1):
            model = build(name, schema, {**SMALL[name], "positions": False}).double().eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(spread * torch.randn_like(parameter))
        return run_of(model, schema, np.zeros((1, schema.event_shape[0])))

    return made


def log_p(model: Model, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.evidence({"x": torch.from_numpy(rows).double()}).log_w[0].numpy()


def log_steps(model: Model, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """log p(first) and log p(next | last) of a chain, (S,) and (S, S), from its network."""
    module = model.p["x"].module
    assert isinstance(module, Autoregressive)
    rows = torch.arange(count + 1).double()[:, None].expand(-1, length)
    with torch.no_grad():
        logits = module.network(rows).mT.log_softmax(-1)
    return logits[0, 0].numpy(), logits[:, 1].numpy()


def agree(found: np.ndarray, truth: dict[str, float]) -> None:
    """Shares of draws within five standard errors of what they are to be, and no other draws."""
    counts = Counter(found.tolist())
    assert set(counts) <= set(truth)
    for text, p in truth.items():
        error = math.sqrt(p * (1 - p) / len(found))
        assert abs(counts[text] / len(found) - p) < 5 * error + 1e-4, (text, p, counts[text] / len(found))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("text", ["a__b", "_b_", "ab__", "_____"])
def test_a_line_is_filled_in_as_the_sum_over_all_lines_says(text_run, name, text):
    """p(gap | the rest) ∝ p(line), over every line that agrees, also where an end is far likelier than to go on."""
    run = text_run(name, letters(2, 5))
    fillings = ["".join(f) for f in product("ab", repeat=text.count("_"))]
    lines = []
    for filling in fillings:
        letter = iter(filling)
        lines.append("".join(next(letter) if c == "_" else c for c in text))
    tokens = run.schema.tokens
    rows = np.array([[*tokens.encode(line), *[tokens.end] * 5][:5] for line in lines])
    p = np.exp(log_p(run.model, rows))
    found = run.fill_texts([text], "_", draws=4000, particles=100_000, seed=3)
    agree(found.drawn[:, 0], dict(zip(lines, p / p.sum(), strict=True)))
    assert 1000 < found.effective_sample_size[0] <= 100_001


def test_gaps_of_a_text_longer_than_a_window_are_filled_in_as_in_a_chain(text_run):
    """With memory for one letter, what a window of eight holds tells all: the truth is a sum over the whole text."""
    run = text_run("markov", letters(2, 8, lines=False))
    first, steps = log_steps(run.model, 2, 8)
    text = "abbab_baabab______babba_"
    holes = [i for i, c in enumerate(text) if c == "_"]
    truth = {}
    for filling in product(range(2), repeat=len(holes)):
        ids = np.array(["ab_".index(c) for c in text])
        ids[holes] = filling
        truth["".join("ab"[i] for i in ids)] = math.exp(first[ids[0]] + steps[ids[:-1], ids[1:]].sum())
    total = sum(truth.values())
    found = run.fill_texts([text], "_", draws=600, particles=600, seed=5).drawn[:, 0]
    assert set(found) <= set(truth)
    pairs = [(5, 13), (13, 14), (17, 18), (18, 23)]
    for a, b in pairs:  # of two places, also where other windows filled them in
        shares: Counter[str] = Counter()
        for whole, p in truth.items():
            shares[whole[a] + whole[b]] += p / total
        agree(np.array([whole[a] + whole[b] for whole in found]), shares)


def test_what_is_known_stays_and_lines_without_a_gap_are_as_they_were(text_run):
    run = text_run("transformer", letters(3, 6))
    found = run.fill_texts(["abc", "a_c", "", "_", "cab"], "_", draws=20, particles=200)
    assert (found.drawn[:, [0, 2, 4]] == ["abc", "", "cab"]).all()
    assert all(t[0] == "a" and t[2] == "c" and len(t) == 3 for t in found.drawn[:, 1])
    assert all(len(t) == 1 for t in found.drawn[:, 3])
    assert found.missing.tolist() == [0, 1, 0, 1, 0]
    assert np.isinf(found.effective_sample_size[[0, 2, 4]]).all()
    assert found.long().shape == (100, 3) and found.to_dict()["values_filled"] == 2
    again = run.fill_texts(["abc", "a_c", "", "_", "cab"], "_", draws=20, particles=200)
    assert (again.drawn == found.drawn).all()


def test_words_are_marked_by_a_word_of_their_own(run_of):
    schema = Schema.of_text(6, Tokens.of_words(["the cat sat on a snake_case mat"], None, lines=True))
    with seeded(2):
        model = build("transformer", schema, SMALL["transformer"]).double().eval()
    found = run_of(model, schema, np.zeros((1, 6))).fill_texts(["the _ sat", "a snake_case"], "_", draws=5)
    assert all(len(t.split()) == 3 and t.startswith("the ") and t.endswith(" sat") for t in found.drawn[:, 0])
    assert (found.drawn[:, 1] == "a snake_case").all() and found.missing.tolist() == [1, 0]


def test_a_text_that_no_draw_fits_stays_as_it_was_and_is_named(text_run):
    """A letter that the network gives no mass cannot follow."""
    run = text_run("markov", letters(3, 6), spread=0.0)
    module = run.model.p["x"].module
    with torch.no_grad():
        bias = torch.tensor([[0.0], [-torch.inf], [0.0], [0.0]], dtype=torch.float64)
        module.network.set_output_bias(bias.expand(-1, 6))
    found = run.fill_texts(["ac", "a_b", "a_c"], "_", draws=3, particles=50)
    assert (found.drawn[:, 1] == "a_b").all() and found.effective_sample_size[1] == 0
    assert "in line 2:" in found.warnings[0] and (found.drawn[:, 2] != "a_c").all()


def test_what_cannot_be_filled_in_is_refused(text_run, run_of, columns):
    run = text_run("transformer", letters(2, 4))
    with pytest.raises(DataError, match="line 2: expected at most 4 characters, got 5"):
        run.fill_texts(["a_", "ab_ab"], "_")
    with pytest.raises(DataError, match="'z'"):
        run.fill_texts(["a_z"], "_")
    for gap, given, why in (("", ["a"], "--gap"), (" ", ["a"], "--gap"), ("_", None, "data")):
        with pytest.raises(ConfigError, match=why):
            run.fill_texts(given, gap)
    with pytest.raises(ConfigError, match="--draws: expected >= 1"):
        run.fill_texts(["a_"], "_", draws=0)
    with pytest.raises(CapabilityError, match="fill_texts"):
        run.impute(["a_"])
    schema = columns(2)
    with pytest.raises(CapabilityError, match="see impute"):
        run_of(build("maf", schema, {}), schema, np.zeros((1, 2))).fill_texts(["a_"], "_")


def test_words_around_a_gap_keep_their_spelling_and_spaces(run_of):
    """Also a word that the model does not know."""
    schema = Schema.of_text(6, Tokens.of_words(["the cat sat the dog sat"], 10, lines=False))
    with seeded(0):
        run = run_of(build("markov", schema, {**SMALL["markov"], "positions": False}), schema, np.zeros((1, 6)))
    for text in run.fill_texts(["the  Zanzibar _ sat\n  _ on"], "_", draws=20).drawn[:, 0]:
        assert text.startswith("the  Zanzibar ") and text.endswith(" on") and " sat\n  " in text and "_" not in text


def test_a_character_that_is_none_is_named_by_its_column(text_run):
    run = text_run("markov", letters(3, 8, lines=False))
    with pytest.raises(DataError, match="line 1, column 4: the character 'z'"):
        run.fill_texts(["ab_z"], "_")
    with pytest.raises(DataError, match="line 1, column 7: the character 'z'"):
        run.fill_texts(["a_b_bbz"], "_")


def test_windows_of_two_tokens_are_filled_in(text_run):
    run = text_run("markov", letters(3, 2, lines=False))
    for text in run.fill_texts(["abc_a_c"], "_", draws=5, particles=20).drawn[:, 0]:
        assert text[:3] == "abc" and text[4] == "a" and text[6] == "c" and set(text) <= set("abc")
