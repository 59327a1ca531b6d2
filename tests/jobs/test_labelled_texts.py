"""Texts given a label: each label has a density, and every job takes the label along."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

import jensen
from jensen.core import seeded
from jensen.data import Schema
from jensen.data.text_tokens import Tokens
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.run import Run
from jensen.registry import build

SMALL = {
    "markov": {"memory": 4, "width": 16, "layers": 1},
    "rnn": {"width": 16},
    "wavenet": {"width": 16, "blocks": 1, "layers": 3},
    "transformer": {"width": 16, "layers": 1, "heads": 2},
}


def random_run(name: str, length: int, lines: bool = True, letters: str = "ab") -> Run:
    """A model of rows of so many tokens given one of two labels, with weights away from where they start."""
    schema = Schema.of_text(length, Tokens.of_characters([letters], lines), classes=("no", "yes"))
    settings = {**SMALL[name], "positions": False, "conditional": True}
    with seeded(1):
        model = build(name, schema, settings).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.6 * torch.randn_like(parameter))
    return Run({"model": name, "settings": settings}, schema, model)


def log_p(run: Run, texts: list[str], label: int) -> np.ndarray:
    """log p(text | label) of lines, (n,)."""
    tokens, size = run.schema.tokens, run.schema.event_shape[0]
    rows = torch.tensor([[*tokens.encode(text), *[tokens.end] * size][:size] for text in texts]).double()
    with torch.no_grad():
        return run.model.evidence({"x": rows, "y": torch.full((len(rows),), label)}).log_w[0].numpy()


@pytest.mark.parametrize("name", SMALL)
def test_all_texts_of_a_label_sum_to_one(name):
    run = random_run(name, 4)
    texts = ["".join(letters) for n in range(5) for letters in product("ab", repeat=n)]
    no, yes = (log_p(run, texts, label) for label in (0, 1))
    np.testing.assert_allclose([np.exp(no).sum(), np.exp(yes).sum()], 1, rtol=1e-6)
    assert np.abs(no - yes).max() > 0.1
    many = texts[1:]  # an empty text is left out of data
    found = run.score({"X": many * 2, "y": ["no"] * len(many) + ["yes"] * len(many)}).rows
    assert found is not None
    np.testing.assert_allclose(found.numpy(), np.concatenate([no[1:], yes[1:]]), rtol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_each_text_is_drawn_under_its_own_label(name):
    """More texts than are drawn at once, labels in turn; each label has letters of its own."""
    lines = {"en": ["abab", "ab", "abba"], "nl": ["cdcd", "cd", "dccd"], "xy": ["xyx", "yx"]}
    texts = [line for of in lines.values() for line in of] * 30
    labels = [label for label, of in lines.items() for _ in of] * 30
    settings = {**SMALL[name], "conditional": True, "train.lr": 0.02, "train.batch_size": 32}
    run = jensen.train(name, {"X": texts, "y": labels}, text={"lines": True}, settings=settings, epochs=25)
    turn = ["xy", "en", "nl"]
    found = run.sample(200, given={"y": turn}, nucleus=0.7)
    for i, text in enumerate(found):
        own = set("".join(lines[turn[i % 3]]))
        assert set(text) <= own, (i, text, turn[i % 3])
    assert set(run.sample(30, given={"label": "nl"}, nucleus=0.7, seed=1)) <= set(map(str, found[2::3])) | {
        "cd",
        "dccd",
    }
    begun = run.sample(70, given={"y": ["en", "nl"]}, prefix="b", nucleus=0.7)
    assert all(text.startswith("b") and set(text) <= set("ab") for text in begun[::2])
    with pytest.raises(ConfigError, match=r"expected a value of label, as --given label=VALUE"):
        run.sample(2)
    with pytest.raises(ConfigError, match="'zz' is no label"):
        run.sample(2, given={"y": "zz"})
    with pytest.raises(DataError, match="the model is conditional: expected labels beside the data"):
        run.score(["abab", "ab"])
    with pytest.raises(DataError, match="row 2 has none"):
        run.score({"X": ["abab", "ab"], "y": ["en", "zz"]})


def test_a_beginning_inside_a_token_goes_on_by_the_label():
    """Of byte pairs: how a prefix goes on is drawn by p(. | label), other tokens under other labels."""
    pytest.importorskip("tokenizers")
    texts = ["the cat", "the cot"] * 40
    labels = ["a", "b"] * 40
    text = {"lines": True, "tokens": "bpe", "vocabulary": 266}
    settings = {"memory": 3, "width": 32, "conditional": True, "train.lr": 0.01, "train.batch_size": 20}
    run = jensen.train("markov", {"X": texts, "y": labels}, text=text, settings=settings, epochs=20)
    assert len(run.schema.tokens.encode("the cat")) < 4
    found = run.sample(100, given={"y": ["a", "b"]}, prefix="the c")
    assert np.mean(found[::2] == "the cat") > 0.9
    assert np.mean(found[1::2] == "the cot") > 0.9


def test_windows_in_a_context_have_the_label_of_their_text():
    """Against sums over tokens that are written out."""
    run, context = random_run("rnn", 6, lines=False), 2
    texts, labels = ["abbabaabbb", "babbbaaaba", "aabb"], [1, 0, 1]
    found = run.score({"X": texts, "y": [("no", "yes")[y] for y in labels]}, context=context)
    tokens, module = run.schema.tokens, run.model.p["x"].module
    total = 0.0
    for text, y in zip(texts, labels, strict=True):
        ids = [*tokens.encode(text).tolist(), *[tokens.end] * 6]
        ids = ids[: 6 * -(-len(text) // 6)]
        for t in range(len(ids)):
            begin = 0 if t < 6 else t // 6 * 6 - 6 + min((t % 6 // 4 + 1) * 4, 6)
            row = torch.tensor([ids[begin : begin + 6]]).double()
            with torch.no_grad():
                total += module(torch.tensor([y])).terms(row)[0, t - begin].item()
    assert found.rows is not None and len(found.rows) == 5
    assert found.rows.sum().item() == pytest.approx(total, rel=1e-5)
    assert found.amounts["characters"] == sum(map(len, texts)) + 2


@pytest.mark.parametrize("name", ["rnn", "markov"])
def test_gaps_are_filled_in_as_the_label_says(name):
    """p(gap | the rest, label) ∝ p(line | label), within five standard errors."""
    run = random_run(name, 5)
    fillings = ["".join(letters) for letters in product("ab", repeat=2)]
    lines = [f"a{one}b{two}" for one, two in fillings]
    found = run.fill_texts({"X": ["a_b_", "a_b_"], "y": ["yes", "no"]}, "_", draws=3000, particles=100_000, seed=2)
    assert (found.effective_sample_size > 300).all()
    for column, label in ((0, 1), (1, 0)):
        p = np.exp(log_p(run, lines, label))
        for line, share in zip(lines, p / p.sum(), strict=True):
            error = math.sqrt(share * (1 - share) * (1 / 3000 + 1 / found.effective_sample_size[column]))
            assert abs(np.mean(found.drawn[:, column] == line) - share) < 5 * error
    with pytest.raises(DataError, match="expected labels beside the data"):
        run.fill_texts(["a_b_"], "_")


def test_archives_hold_labels_and_give_texts_back(tmp_path):
    texts, labels = ["abab", "ab", "cdcd", "cd"] * 10, ["en", "en", "nl", "nl"] * 10
    settings = {**SMALL["rnn"], "conditional": True}
    run = jensen.train("rnn", {"X": texts, "y": labels}, text={"lines": True}, settings=settings, epochs=2)
    run.compress({"X": texts[:6], "y": labels[:6]}, out=tmp_path / "a.jz")
    assert run.decompress(tmp_path / "a.jz").tolist() == texts[:6]


def test_reports_and_notes_while_training_name_labels(tmp_path):
    texts, labels = ["ab.", "ab.", "cd.", "cd."] * 20, ["en", "en", "<nl>", "<nl>"] * 20
    settings = {**SMALL["rnn"], "conditional": True}
    settings |= {"train.lr": 0.03, "train.batch_size": 8}
    options = {"text": {"lines": True}, "settings": settings, "epochs": 10, "out": tmp_path / "a"}
    run = jensen.train("rnn", {"X": texts, "y": labels}, **options)
    page = run.report(tmp_path / "a.html", data={"X": texts, "y": labels}).read_text()
    assert "<b>en: </b>" in page and "<b>&lt;nl&gt;: </b>" in page
    assert "<b>en: </b>ab.\n" in page  # with its full stop
    assert "bits a token on average" in page
    assert (tmp_path / "a" / "samples.txt").read_text().count("--- epoch") >= 1


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_a_hidden_code_stands_beside_the_label(kind):
    """A sentence VAE given labels draws, encodes and reconstructs each text under its own."""
    texts, labels = ["abab", "ab", "cdcd", "cd"] * 40, ["en", "en", "nl", "nl"] * 40
    hidden = {"latents": 2, "encoder": kind, "likelihood": "autoregressive", "likelihood.network": "rnn"}
    settings = {**hidden, "conditional": True, "train.lr": 0.02, "train.batch_size": 32}
    run = jensen.train("vae", {"X": texts, "y": labels}, text={"lines": True}, settings=settings, epochs=12)
    found = run.sample(100, given={"y": ["nl", "en"]}, nucleus=0.8)
    assert all(set(text) <= set("cd") for text in found[::2])
    assert all(set(text) <= set("ab") for text in found[1::2])
    score = run.score({"X": texts[:4], "y": labels[:4]}, particles=500)
    assert score.kind == "lower_bound" and abs(score.nats + math.log(2)) < 0.25  # two texts of each label
    with pytest.raises(CapabilityError, match="leave out --prefix"):
        run.sample(2, given={"y": "en"}, prefix="a")


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_an_encoder_is_told_the_label_and_sees_nothing_after_the_end(kind):
    schema = Schema.of_text(6, Tokens.of_characters(["ab"], True), classes=("no", "yes"))
    settings = {"latents": 2, "encoder": kind, "likelihood": "autoregressive", "likelihood.network": "rnn"}
    with seeded(0):
        model = build("vae", schema, {**settings, "conditional": True}).double().eval()
    x = torch.tensor([[0, 1, 0, 2, 2, 2], [1, 1, 2, 2, 2, 2]]).double()
    encode = model.q["z"].module
    with torch.no_grad():
        means = [encode(x, torch.tensor(y)).mean for y in ([0, 0], [0, 1])]
        alone = encode(x[1:], torch.tensor([1])).mean
    torch.testing.assert_close(means[0][0], means[1][0])
    torch.testing.assert_close(means[1][1:], alone)
    assert (means[0][1] - means[1][1]).abs().max() > 1e-3
