"""Text by the command line: describe, train, score, draw, go between, report."""

import json

import pytest

LINES = ["the cat sat on the mat", "a dog ran", "the dog sat", "a cat ran to the mat", "cats — and a 🐈"] * 12
SMALL = ("width=8", "positions=false")


@pytest.fixture(scope="module", name="lines")
def _lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", name="rnn")
def _rnn(trained, lines):
    return trained("rnn-text", "rnn", lines, *SMALL, "--text", "lines=true", "--epochs", 5, "--lr", 0.01)


def test_data_says_what_there_is(jensen, lines):
    answer = jensen("data", lines, "--text", "tokens=words,lines=true")
    assert "lines, each a datum, of at most 7 words" in answer.out
    assert "begins" in answer.out
    report = json.loads(jensen("data", lines, "--text", "lines=true", "--json").out)
    assert sum(a["characters"] for a in report["text"]["amounts"].values()) == sum(len(t) + 1 for t in LINES)


def test_a_score_in_the_units_of_text(jensen, rnn):
    answer = jensen("score", rnn)
    assert "bits/character" in answer.out and "perplexity" in answer.out and "per word" in answer.out
    found = json.loads(jensen("score", rnn, "--json").out)
    assert found["bits_per_dim"] is None
    total = -found["nats"] * found["n"] / 0.6931471805599453
    assert found["text"]["bits_per_character"] * found["amounts"]["characters"] == pytest.approx(total)


def test_training_notes_what_it_writes(rnn):
    noted = (rnn / "samples.txt").read_text(encoding="utf-8").splitlines()
    assert noted[0].startswith("--- epoch 1, step ") and len(noted) >= 4


def test_texts_come_by_stdin(jensen, rnn, tmp_path):
    (tmp_path / "b.txt").write_text("the cat sat\na dog\n")
    scores = [
        json.loads(jensen("score", rnn, *w, "--json", **k).out)
        for w, k in (
            ((tmp_path / "b.txt",), {}),
            (("-",), {"stdin": "the cat sat\na dog\n"}),
        )
    ]
    assert scores[0]["nats"] == scores[1]["nats"] and scores[1]["n"] == 2


def test_samples_are_texts(jensen, fails, rnn, tmp_path):
    answer = jensen("sample", rnn, "-n", 3, "--prefix", "the ", "--out", "-")
    assert [line.startswith("the ") for line in answer.out.splitlines()] == [True] * 3
    assert jensen("sample", rnn, "-n", 4, "--nucleus", 0.9, "--out", tmp_path / "a.txt").code == 0
    assert (tmp_path / "a.txt").read_text(encoding="utf-8").count("\n") == 4
    assert jensen("sample", rnn, "-n", 4, "--out", tmp_path / "a.csv").code == 0
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").startswith("text\n")
    fails(jensen("sample", rnn, "--prefix", "Zoo", "--out", "-"), 3, "--prefix, line 1, column 1: the character 'Z'")


def test_gaps_are_filled_in(jensen, fails, rnn, lines, tmp_path):
    (tmp_path / "g.txt").write_text("the c_t sat\n\na dog\nthe _og sat\n")
    answer = jensen("impute", rnn, tmp_path / "g.txt", "--gap", "_", "--out", tmp_path / "w.txt", "--particles", 50)
    assert answer.code == 0 and "filled in 2 characters in 2 of 4 texts" in answer.out, answer
    assert "effective sample size" in answer.out
    whole = (tmp_path / "w.txt").read_text(encoding="utf-8").splitlines()
    assert [len(line) for line in whole] == [11, 0, 5, 11] and whole[2] == "a dog"
    assert whole[0].startswith("the c") and whole[0].endswith("t sat") and "_" not in whole[0] + whole[3]
    options = ("--gap", "_", "--draws", 3, "--particles", 50)
    answer = jensen("impute", rnn, "-", *options, "--out", "-", stdin="the c_t sat\na dog\n")
    assert answer.code == 0 and answer.out.count("a dog\n") == 3 and answer.out.count("-" * 40) == 2
    assert "filled in 1 character in 1 of 2 texts" in answer.err
    out = ("--out", tmp_path / "w.csv", "--details", tmp_path / "d.csv")
    assert jensen("impute", rnn, tmp_path / "g.txt", *options, *out).code == 0
    assert (tmp_path / "w.csv").read_text(encoding="utf-8").startswith(".imp,.id,text\n1,1,the c")
    assert (tmp_path / "d.csv").read_text().splitlines()[0] == "row,missing,effective_sample_size"
    given = ("impute", rnn, tmp_path / "g.txt", "--out", "-")
    fails(jensen(*given), 2, "--gap: say what marks a missing token")
    fails(jensen(*given, "--gap", "_", "--region", "top"), 2, "--region: a text is filled in where --gap marks it")
    fails(jensen(*given, "--gap", "#"), 3, "g.txt, line 1, column 6: the character '_'")


def test_all_samplers_write_the_same(jensen, fails, rnn):
    asked = ("sample", rnn, "-n", 8, "--prefix", "the ", "--seed", 3, "--out", "-")
    answer = jensen(*asked, "sampler=jacobi")
    assert answer.code == 0 and answer.out == jensen(*asked).out == jensen(*asked, "sampler=sequential").out
    fails(jensen(*asked, "sampler=jacoby"), 2, "jacobi")
    assert "sampler" in jensen("show", "rnn").out


def test_what_is_asked_of_a_text_is_checked(jensen, fails, rnn, tmp_path):
    fails(jensen("sample", rnn, "-n", 0, "--out", "-"), 2, "-n: expected >= 1, got 0")
    fails(jensen("sample", rnn, "foo=3", "--out", "-"), 2, "foo")
    (tmp_path / "w.txt").write_text("the cat sat on the mat " * 20)
    options = (*SMALL, "--text", "length=8", "--epochs", 1)
    assert jensen("train", "rnn", tmp_path / "w.txt", *options, "--out", tmp_path / "w").code == 0
    answer = jensen("sample", tmp_path / "w", "--prefix", "the cat", "--length", 7, "--out", "-")
    fails(answer, 2, "--length: expected more than the 7 characters of --prefix, got 7")


def test_lines_longer_than_the_model_takes_are_told_of(jensen, rnn, tmp_path):
    longest = max(map(len, LINES)) + 1
    (tmp_path / "long.txt").write_text("a dog\n" + "the cat " * 9 + "\n")
    answer = jensen("score", rnn, tmp_path / "long.txt")
    assert f"of 1 line only the first {longest} characters are taken" in answer.err
    assert "line 2 has 72" in answer.err and "long.txt" in answer.err
    assert "only the first" not in jensen("score", rnn).err


def test_errors_name_the_line(jensen, fails, rnn, lines, tmp_path):
    (tmp_path / "b.txt").write_bytes(b"the cat\na d\xffg\n")
    fails(jensen("score", rnn, tmp_path / "b.txt"), 3, "b.txt, line 2: expected text in UTF-8, got the byte 0xff")
    (tmp_path / "b.txt").write_text("the cat\na Dog\n")
    fails(jensen("score", rnn, tmp_path / "b.txt"), 3, "b.txt, line 2, column 3: the character 'D'")
    (tmp_path / "b.txt").write_text("")
    fails(jensen("data", tmp_path / "b.txt"), 3, "expected a text, got an empty file")
    fails(
        jensen("data", lines, "--text", "tokens=word"),
        2,
        "expected characters, bytes, words, bpe",
        "did you mean 'words'",
    )
    fails(jensen("data", lines, "--text", "words"), 2, "--text: 'words': expected key=value")
    fails(jensen("train", "ppca", lines, "--out", tmp_path / "run"), 2, "takes numbers, and a text is a row of symbols")


def test_sentences_between_sentences(jensen, trained, lines):
    run = trained(
        *("vae-text", "vae", lines, "--text", "lines=true,tokens=words", "--epochs", 2, "latents=2"),
        *("encoder=rnn", "encoder.width=8", "likelihood=autoregressive", "likelihood.network=rnn"),
        *("likelihood.network.width=8", "likelihood.word_dropout=0.3"),
    )
    assert len(jensen("interpolate", run, "--steps", 5, "--out", "-").out.splitlines()) == 5
    assert jensen("report", run).code == 0
    assert "path 1" in (run / "report.html").read_text(encoding="utf-8")


def test_a_column_of_texts_given_labels(jensen, fails, tmp_path):
    """From the table to texts of a label, with what comes by stdin as a table too."""
    rows = ["id,kind,said", *(f"{i},{'pet' if i % 2 else 'car'},{'a cat' if i % 2 else 'vroom'}" for i in range(60))]
    (tmp_path / "said.csv").write_text("\n".join(rows) + "\n")
    options = ("--text", "column=said", "--label", "kind")
    answer = jensen("data", tmp_path / "said.csv", *options)
    assert "lines, each a datum, of at most 6 characters" in answer.out
    assert [line.split()[0] for line in answer.out.splitlines() if line.startswith(("car", "pet"))] == ["car", "pet"]
    run, more = tmp_path / "run", ("conditional=true", "train.batch_size=8", "--epochs", 60, "--lr", 0.02)
    assert jensen("train", "rnn", tmp_path / "said.csv", *SMALL, *options, *more, "--out", run).code == 0
    answer = jensen("sample", run, "--given", "kind=pet", "-n", 5, "--nucleus", 0.6, "--out", "-")
    assert answer.out.splitlines() == ["a cat"] * 5
    fails(jensen("sample", run, "-n", 5, "--out", "-"), 2, "expected a value of kind, as --given kind=VALUE")
    table = "said,kind\na cat,pet\nvroom,car\na cat,car\n"
    answer = jensen("score", run, "-", "--json", "--out", tmp_path / "rows.csv", stdin=table)
    assert json.loads(answer.out)["n"] == 3
    likely, _, odd = (float(line.split(",")[-1]) for line in (tmp_path / "rows.csv").read_text().splitlines()[1:])
    assert odd < likely - 1
    fails(jensen("score", run, "-", stdin="said\na cat\n"), 3, "expected labels in the column 'kind'")
    fails(jensen("score", run, "-", stdin="text\na cat\n"), 2, "no column 'said'")
    answer = jensen("impute", run, "-", "--gap", "_", "--out", "-", stdin="kind,said\npet,a c_t\n")
    assert answer.out == "a cat\n"
