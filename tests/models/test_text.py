"""Models of text: true densities over texts of different lengths, sampled, scored and gone between."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from jensen.conditionals.amortized import rescaled
from jensen.conditionals.autoregressive import Autoregression, Autoregressive
from jensen.conditionals.heads import Support
from jensen.core import Model, seeded
from jensen.data import Dataset, Schema, load_data
from jensen.data.text_tokens import Tokens
from jensen.distributions import Symbols
from jensen.errors import CapabilityError, ConfigError, DataError
from jensen.jobs.report import report
from jensen.jobs.run import Run
from jensen.jobs.train import train
from jensen.nets.reading import recurrent
from jensen.registry import build

SMALL = {
    "markov": {"memory": 2, "width": 8},
    "rnn": {"width": 8},
    "transformer": {"width": 8, "heads": 2, "layers": 1},
    "wavenet": {"width": 8, "skip": 8, "blocks": 1, "layers": 2},
}
SENTENCES = ["the cat sat", "a dog ran", "the dog sat", "a cat", "cats ran to a dog", "the mat"] * 8
VAE = {
    "latents": 2,
    "encoder": {"name": "rnn", "width": 8},
    "decoder.hidden": [8],
    "likelihood": "autoregressive",
    "likelihood.network": "rnn",
    "likelihood.network.width": 8,
    "likelihood.features": 4,
    "likelihood.word_dropout": 0.3,
}


def letters(count: int, length: int) -> Schema:
    return Schema.of_text(length, Tokens.of_characters(["abcdefgh"[:count]], lines=True))


def built(name: str, schema: Schema, **settings) -> Model:
    """In float64, with weights away from where they start."""
    with seeded(1):
        model = build(name, schema, {**SMALL.get(name, {}), **settings}).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def log_p(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.evidence({"x": x}).log_w[0]


def conditional(model: Model) -> Autoregressive:
    module = model.p["x"].module
    assert isinstance(module, Autoregressive)
    return module


@pytest.mark.parametrize("name", SMALL)
def test_the_probabilities_of_all_texts_sum_to_one(name):
    """Over every text of at most four letters out of two: those of three and fewer end, those of four fill the row."""
    schema = letters(2, 4)
    texts = ["".join(t) for n in range(5) for t in product("ab", repeat=n)]
    rows = np.array([[*schema.tokens.encode(t), *[2] * 4][:4] for t in texts])
    assert len(np.unique(rows, axis=0)) == len(texts) == 31
    total = log_p(built(name, schema), torch.from_numpy(rows).double()).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_a_text_scores_as_its_tokens_one_by_one(name):
    """log p is the sum of log-softmaxes up to and with the end, whatever follows and whoever shares the batch."""
    schema = letters(3, 7)
    model = built(name, schema, positions=False)
    texts = ["abc", "", "cabcabc", "a", "bbbbbb"]
    rows = torch.tensor([[*schema.tokens.encode(t), *[3] * 7][:7] for t in texts]).double()
    together = log_p(model, rows)
    for row, text, found in zip(rows, texts, together, strict=True):
        alone = log_p(model, row[None])[0]
        with torch.no_grad():
            logits = conditional(model).network(row[None])[0].mT.log_softmax(-1)  # (T, C)
        until = min(len(text) + 1, 7)
        by_hand = logits[range(until), row[:until].long()].sum()
        torch.testing.assert_close(alone, found, rtol=0, atol=1e-12)
        torch.testing.assert_close(by_hand, found, rtol=0, atol=1e-12)
    assert log_p(model, torch.tensor([[0, 3, 0, 3, 3, 3, 3.0]]).double()) == -math.inf


@pytest.mark.parametrize("name", SMALL)
def test_texts_are_drawn_alike_by_all_samplers_and_end_for_good(name):
    model = built(name, letters(2, 6))
    met = conditional(model)()
    u = torch.rand(50, 6, dtype=torch.float64)
    drawn = met.from_noise(u)
    assert torch.equal(drawn, met.from_noise_naively(u))
    assert torch.equal(drawn, met.from_noise_jacobi(u)[0])
    ended = (drawn == 2).cummax(1).values
    assert (drawn[ended] == 2).all() and ended.any() and not ended[:, 0].all()


def test_without_order_there_is_no_mean_and_rows_end():
    dist = Symbols(torch.randn(3, 5, 4), 1, end=3)
    for drawn in (dist.sample((100,)), dist.quantile(torch.rand(3, 5)), dist.mode, dist.nucleus(0.5).sample()):
        ended = (drawn == 3).int().cummax(-1).values.bool()
        assert (drawn[ended] == 3).all()
    with pytest.raises(CapabilityError, match="symbols have no mean"):
        _ = dist.mean
    assert dist.tempered(0.5).end == 3


def test_words_before_are_hidden_in_training_only():
    model = build("vae", letters(3, 6), VAE | {"likelihood.word_dropout": 0.5})
    network = model.p["x"].module.head.conditional.network
    x, c = torch.randint(0, 3, (4, 6)).float(), torch.randn(4, 4)
    with torch.no_grad():
        model.eval()
        whole = network(x, c)
        assert torch.equal(whole, network(x, c))
        model.train()
        assert not torch.equal(network(x, c), network(x, c))
        network.hidden_share = 1.0  # nothing is seen of what came before
        assert torch.equal(network(x, c), network(torch.zeros_like(x), c))
        assert not torch.equal(whole, network(x, c))
    with pytest.raises(ConfigError, match="word_dropout: expected a network of sequences"):
        build("vae", load_data(np.eye(4)).schema, {"likelihood": "autoregressive", "likelihood.word_dropout": 0.5})


def test_an_encoder_reads_up_to_the_end():
    """What fills the row after the end changes nothing, however long it is."""
    read = rescaled(recurrent((9,), (2, 3), width=8), Support("symbol", (9,), 4, end=3)).double()
    short = torch.tensor([[0, 1, 3], [2, 1, 0]]).double()
    long = torch.cat([short, torch.full((2, 6), 3.0)], 1).double()
    with torch.no_grad():
        out = read(long)
        assert out.shape == (2, 2, 3)
        torch.testing.assert_close(out[:1], read(short[:1]))  # the rest is beyond its end
        other = long.clone()
        other[0, 1] = 2
        assert not torch.allclose(read(other)[0], out[0])
        torch.testing.assert_close(read(other)[1], out[1])


@pytest.mark.parametrize("name", ["ppca", "made", "vae", "realnvp", "mixture", "log-linear"])
def test_what_takes_numbers_refuses_texts(name):
    with pytest.raises(ConfigError, match="takes numbers"):
        build(name, letters(2, 4))


# Runs


@pytest.fixture(scope="module")
def lines() -> Run:
    data = load_data(SENTENCES, text={"lines": True})
    return train("rnn", data, settings={"width": 16, "positions": False}, epochs=3, batch_size=8, lr=0.01)


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Run:
    path = tmp_path_factory.mktemp("text")
    (path / "a.txt").write_text("to be, or not to be 🐈\n" * 30, encoding="utf-8")
    return train(
        "transformer",
        path / "a.txt",
        out=path / "run",
        text={"length": 16},
        settings={"width": 8, "heads": 2, "layers": 1},
        epochs=2,
    )


def test_figures_convert_into_one_another(lines, windows):
    for run in (lines, windows):
        score = run.score(keep=False)
        assert score.text is not None and score.amounts is not None and score.rows is not None
        total, a = -float(score.rows.double().sum()), score.amounts
        for unit in ("token", "character", "byte"):
            assert score.text[f"bits_per_{unit}"] * a[f"{unit}s"] * math.log(2) == pytest.approx(total, rel=1e-12)
        for unit in ("token", "word"):
            assert math.log(score.text[f"perplexity_per_{unit}"]) * a[f"{unit}s"] == pytest.approx(total, rel=1e-12)
        assert score.bits_per_dim is None
        assert score.to_dict()["text"] == score.text
        assert "bits/character" in str(score)
    found = windows.score(keep=False).amounts
    text = "to be, or not to be 🐈\n" * 30
    test = text[len(text) - round(len(text) / 10) :]
    assert (found["characters"], found["bytes"]) == (len(test), len(test.encode()))


def test_a_part_of_a_split_counts_as_that_part(lines):
    data = lines.data()
    score = lines.score(limit=2, keep=False)
    rows = data.split("test").rows(lines.pick(data.split("test"), 2))
    assert rows.amounts is not None and score.amounts is not None
    assert list(score.amounts.values()) == rows.amounts.sum(0).tolist()
    assert score.amounts["characters"] == sum(len(t) + 1 for t in data.schema.restore(data.schema.prepare(rows.x)))


def test_letters_that_were_not_scored_leave_out_figures_by_letter():
    data = load_data(["a b", "b c", "a a", "c d", "d e"] * 4, text={"lines": True, "tokens": "words", "vocabulary": 3})
    score = train("markov", data, settings={"width": 4}, epochs=1).score(split="train")
    assert score.amounts is not None and score.amounts["hidden"] > 0
    assert set(score.text or ()) == {"bits_per_token", "perplexity_per_token", "perplexity_per_word"}


def test_other_texts_are_scored(lines, tmp_path):
    (tmp_path / "b.txt").write_text("the cat ran\na dog sat\n")
    score = lines.score(tmp_path / "b.txt")
    assert (score.n, score.amounts["characters"]) == (2, 22)
    torch.testing.assert_close(lines.score(["the cat ran", "a dog sat"]).rows, score.rows)
    (tmp_path / "b.txt").write_text("the cat\nThe dog")
    with pytest.raises(DataError, match=r"b\.txt, line 2, column 1: the character 'T'"):
        lines.score(tmp_path / "b.txt")


def test_samples_begin_as_asked(lines, windows):
    drawn = lines.sample(5, prefix="the ")
    assert drawn.shape == (5,) and all(text.startswith("the ") and "\n" not in text for text in drawn)
    assert (drawn == lines.sample(5, prefix="the ")).all()
    long = windows.sample(3, prefix="to be", length=70)
    assert all(text.startswith("to be") for text in long)
    assert max(map(len, long)) == 70  # more than four windows
    assert max(map(len, windows.sample(3))) == 16
    likeliest = windows.sample(4, nucleus=1e-6)
    assert len(set(likeliest)) == 1
    with pytest.raises(DataError, match="--prefix, line 1, column 4: the character 'z'"):
        lines.sample(1, prefix="thez")
    with pytest.raises(ConfigError, match="--prefix: expected fewer than"):
        lines.sample(1, prefix="the cat sat the cat sat")
    with pytest.raises(ConfigError, match="--length: expected a model of windows"):
        lines.sample(1, length=3)
    with pytest.raises(ConfigError, match="--nucleus"):
        lines.sample(1, nucleus=0.0)
    with pytest.raises(ConfigError, match="--mean"):
        lines.sample(1, mean=True)


def test_a_sample_goes_on_as_one_pass_would(lines):
    """Known tokens take the place of draws and what follows is drawn given them."""
    met = conditional(lines.model)()
    assert isinstance(met, Autoregression)
    known = torch.arange(met.event_shape[0]) < 3
    given = torch.from_numpy(lines.schema.tokens.encode("a c")).float()
    held = torch.nn.functional.pad(given, (0, len(known) - 3)).expand(40, -1)
    drawn, _ = met.complete(met.noise(held.shape), held, known)
    assert torch.equal(drawn[:, :3], held[:, :3])
    assert len(drawn.unique(dim=0)) > 1


@pytest.fixture(scope="module")
def sentences() -> Run:
    data: Dataset = load_data(SENTENCES, text={"lines": True, "tokens": "words"})
    return train("vae", data, settings=VAE, epochs=2, batch_size=16)


def test_sentences_lie_between_sentences(sentences):
    path = sentences.interpolate(split="train", start=0, end=1, steps=5)
    back = sentences.reconstruct(split="train")
    assert path.shape == (5,) and all(isinstance(text, str) for text in path)
    assert (path[0], path[-1]) == (back[0], back[1])  # both ends, decoded to the likeliest
    assert len(sentences.sample(3)) == 3
    assert sentences.encode().shape[1] == 2
    score = sentences.score(particles=10)
    assert score.kind == "lower_bound" and score.text is not None
    with pytest.raises(CapabilityError, match="cannot go on from a beginning; leave out --prefix"):
        sentences.sample(1, prefix="the")


def test_the_report_shows_text(windows, sentences, tmp_path):
    windows.score()
    page = report(windows, tmp_path / "a.html").read_text()
    assert "bits/character" in page and "color-mix" in page and "🐈" in page
    assert "windows of text of 16 characters" in page
    page = report(sentences, tmp_path / "b.html").read_text()
    assert "path 1" in page and "reconstruction" in page
