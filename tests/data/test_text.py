"""Text: tokens and back, rows that lose nothing, amounts that are those of the text, and errors that name the place."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jensen.data import Schema, describe, load_data
from jensen.data.text_tokens import AMOUNTS, NEWLINE, UNKNOWN, Tokens
from jensen.errors import ConfigError, DataError

TEXT = "The cat\r\nsat — on 🐈\n\n\tthe  mat.\n" * 12
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def amounts_of(text: str) -> list[int]:
    """Words, characters and bytes of a text, counted by Python."""
    words = len([w for w in text.replace("\n", " ").translate(str.maketrans("\t\r\f\v", "    ")).split(" ") if w])
    return [words + text.count("\n"), len(text), len(text.encode())]


# Tokens


@pytest.fixture(scope="module")
def byte_pairs() -> Tokens:
    pytest.importorskip("tokenizers")
    return Tokens.of_byte_pairs([TEXT], 300)


@given(ANY)
def test_characters_and_bytes_come_back(text):
    for tokens in (Tokens.of_characters([text]), Tokens(unit="bytes")):
        coded = tokens.encode(text)
        assert tokens.decode(coded) == text
        assert "".join(tokens.pieces(coded)) == text
        assert tokens.decode([*coded, tokens.end, 0]) == text
        assert len(coded) == 0 or coded.max() < tokens.end


def test_byte_pairs_come_back_whatever_the_text(byte_pairs):
    @given(ANY)
    def comes_back(text):
        coded, ends = byte_pairs.spans(text)
        assert byte_pairs.decode(coded) == text
        assert len(coded) == len(ends)
        assert len(coded) == 0 or ends[-1] == len(text.encode())

    comes_back()
    coded = byte_pairs.encode(TEXT)
    assert byte_pairs.decode(coded) == TEXT
    assert len(coded) < len(TEXT.encode()) / 2  # pairs were joined
    assert 256 < byte_pairs.end <= 300 and byte_pairs.end == len(byte_pairs.symbols)


def test_byte_pairs_are_those_of_the_library(byte_pairs):
    """Stored and rebuilt, they cut a text as the tokenizer that was trained on it."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    trained = Tokenizer(BPE())
    trained.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=ByteLevel.alphabet(), show_progress=False)  # pyright: ignore
    trained.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    again = Tokens.model_validate_json(byte_pairs.model_dump_json())
    for text in (TEXT, "the mat, the cats; 🐈🐈 sat"):
        cut = [symbol.encode() for symbol in trained.encode(text).tokens]
        assert [again.symbols[i].encode() for i in again.encode(text)] == cut


def test_words_keep_the_frequent_ones():
    tokens = Tokens.of_words(["a b a\nb a\n"], 4)
    assert tokens.symbols == (UNKNOWN, "a", "\n", "b")
    assert tokens.encode(" b  c\n").tolist() == [3, 0, 2]
    assert tokens.decode([3, 0, 2, 1, tokens.end]) == f"b {UNKNOWN}\na"
    assert tokens.decode(tokens.encode("a b\nb a")) == "a b\nb a"
    assert Tokens.of_words(["a b\nb"], None, lines=True).symbols == (UNKNOWN, "b", "\n", "a")


@given(ANY)
def test_amounts_add_up_to_those_of_the_text(text):
    for tokens in (Tokens.of_characters([text]), Tokens(unit="bytes"), Tokens.of_words([text], None)):
        coded, ends = tokens.spans(text)
        amounts = tokens.amounts(text, coded, ends)
        assert amounts[:, 0].sum() == len(coded)
        if len(coded):  # of spaces alone there are no words
            scored = tokens.decode(coded)  # all of the text but, of words, the spaces about them
            assert amounts[:, 1:4].sum(0).tolist() == amounts_of(scored)
            assert scored == text or tokens.unit == "words"
        assert amounts[:, 4].sum() == 0


def test_spaces_that_no_token_stands_for_are_not_counted():
    """The same tokens, the same figures, however far apart the words stand."""
    tokens, found = Tokens.of_words(["a bb\nc"], None), []
    for text in ("a bb\nc a", "  a     bb \t\n  c   a  "):
        coded, ends = tokens.spans(text)
        found.append((coded.tolist(), tokens.amounts(text, coded, ends).tolist()))
    assert found[0] == found[1]
    assert np.sum(found[0][1], 0).tolist() == [5, 5, len("a bb\nc a"), len("a bb\nc a"), 0]


def test_words_that_became_unknown_are_counted_and_those_that_were_are_not():
    tokens = Tokens.of_words([f"a {UNKNOWN} b"], 2)
    text = f"a {UNKNOWN} b"
    coded, ends = tokens.spans(text)
    assert coded.tolist() == [1, 0, 0]
    assert tokens.amounts(text, coded, ends)[:, 4].tolist() == [0, 0, 1]


def test_a_character_that_is_not_known_is_named_with_its_place():
    with pytest.raises(DataError, match=r"a\.txt, line 12, column 3: the character 'z' \(U\+007A\)"):
        Tokens.of_characters(["ab\n"]).encode("ab\nbaz", "a.txt", 11)


# Rows


def write(path, text: str):
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_windows_lose_nothing(tmp_path, name, tokens):
    if tokens == "bpe":
        pytest.importorskip("tokenizers")
    options = {"tokens": tokens, "length": 7, **({"vocabulary": 270} if tokens == "bpe" else {})}
    data = load_data(write(tmp_path / name, TEXT), text=options)
    n, tenth = len(TEXT), round(len(TEXT) / 10)
    parts = {"train": TEXT[: n - 2 * tenth], "valid": TEXT[n - 2 * tenth : n - tenth], "test": TEXT[n - tenth :]}
    assert data.schema.event_shape == (7,) and data.schema.kind == "symbol"
    for split, text in parts.items():
        part = data.split(split)
        rows, end = part.x, data.schema.tokens.end
        flat = rows[rows != end]
        assert data.schema.tokens.decode(flat) == text
        assert (rows[:-1] != end).all()  # only the last window is not full
        assert part.amounts is not None
        assert part.amounts[:, 1:4].sum(0).tolist() == amounts_of(text)
        assert part.amounts[:, 0].sum() == len(flat)


def test_ends_between_texts_count_as_those_of_lines_do():
    """In windows of three the end of "ab" stands in a row, that of "abc", which fills its own, nowhere."""
    data = load_data(["ab", "abc", "a"] * 10, text={"length": 3})
    part = data.split("train")
    ends = (part.x == data.schema.tokens.end).any(1)
    sizes = (part.x != data.schema.tokens.end).sum(1)
    counted = part.amounts[:, AMOUNTS.index("tokens")]
    np.testing.assert_array_equal(counted[:-1], (sizes + ends)[:-1])
    assert counted[-1] == sizes[-1]
    characters, size = (part.amounts[:, AMOUNTS.index(name)] for name in ("characters", "bytes"))
    assert (characters == counted).all() and (size == counted).all()


def test_lines_end_and_their_ends_count():
    data = load_data(["a bc", "b", "", "cab a"], text={"lines": True, "length": 5})
    everything = np.concatenate([split.x for split in data.splits.values()])
    assert sorted(data.schema.restore(data.schema.prepare(everything))) == ["a bc", "b", "cab a"]
    assert "1 empty lines were left out" in data.description
    known = np.concatenate([split.amounts for split in data.splits.values() if split.amounts is not None])
    sizes = {tuple(row) for row in known.tolist()}
    # tokens, words, characters, bytes, hidden: one of each for the end, but for the line that fills its row
    assert sizes == {(5, 3, 5, 5, 0), (2, 2, 2, 2, 0), (5, 2, 5, 5, 0)}


def test_lines_of_a_file_may_end_as_on_windows(tmp_path):
    data = load_data(write(tmp_path / "a.txt", "ab\r\nb\r\naa\r\nbb\r\n"), text={"lines": True})
    assert sorted(data.schema.restore(data.schema.prepare(np.concatenate([s.x for s in data.splits.values()])))) == [
        "aa",
        "ab",
        "b",
        "bb",
    ]


def test_long_lines_are_cut_and_it_is_said():
    data = load_data(["abcabc", "a", "b", "c"], text={"lines": True, "length": 3})
    assert "1 lines of more than 3 characters were cut" in data.description
    cut = [row for split in data.splits.values() for row in data.schema.restore(data.schema.prepare(split.x))]
    assert "abc" in cut


def test_the_schema_carries_the_tokens(tmp_path):
    data = load_data(write(tmp_path / "a.txt", TEXT))
    again = Schema.model_validate_json(data.schema.model_dump_json())
    assert again == data.schema
    other = load_data(write(tmp_path / "b.txt", "sat on the cat"), schema=again)
    assert again.restore(again.prepare(other.split("all").x)).tolist() == ["sat on the cat"]
    with pytest.raises(DataError, match=r"b\.txt, line 2, column 1: the character 'X'"):
        load_data(write(tmp_path / "b.txt", "sat\nX"), schema=again)


def test_rows_of_tokens_are_checked():
    schema = Schema.of_text(3, Tokens.of_characters(["ab"]))
    assert load_data(np.array([[0, 1, 2]]), schema=schema).split("all").x.tolist() == [[0, 1, 2]]
    for rows, message in (
        ([[0, 1, 3]], "tokens 0..2, got 3 in row 1, position 3"),
        ([[0, 1, 1], [2, 1, 2]], "nothing but 2 after the end, 2, got 1 in row 2, position 2"),
        ([[0, 1]], "rows of 3 tokens"),
    ):
        with pytest.raises(DataError, match=message):
            load_data(np.array(rows), schema=schema)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a text, got an empty file"),
        (b" \n", "expected a text, got spaces only"),
        (b"good\nb\xffd", r"a\.txt, line 2: expected text in UTF-8, got the byte 0xff"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "a.txt")


def test_a_corrupt_archive_is_named(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"words" * 100)[:-9])
    with pytest.raises(DataError, match=r"a\.txt\.gz: corrupt or not a text"):
        load_data(tmp_path / "a.txt.gz")


def test_wrong_options_are_named_at_once(tmp_path):
    path = write(tmp_path / "a.txt", TEXT)
    with pytest.raises(ConfigError) as error:
        load_data(path, text={"tokens": "letters", "lenght": 3, "length": 1, "lines": "yes"})
    found = "\n".join(error.value.problems)
    for part in (
        "'lenght' is no option",
        "did you mean 'length'",
        "expected characters, bytes",
        "length: expected",
        "lines:",
    ):
        assert part in found
    with pytest.raises(ConfigError, match="label: a text has none"):
        load_data(path, label="y")
    with pytest.raises(ConfigError, match="sound: length: expected recordings of sound, got a text"):
        load_data(path, length=3)
    with pytest.raises(ConfigError, match="text: expected a text"):
        load_data(np.ones((5, 2)), text={"length": 3})
    with pytest.raises(ConfigError, match="start from 256 bytes, got 100"):
        load_data(path, text={"tokens": "bpe", "vocabulary": 100})


@pytest.mark.parametrize("size", [9, 10, 11, 12, 15])
def test_windows_of_a_text_are_cut_anew(size):
    """The text and its end make a ring, and what follows the end in its window is ends."""
    text = "abcdefghijklmno"[:size]
    data = load_data([text], text={"length": 4}, fractions=(1, 0, 0))
    tokens, split = data.schema.tokens, data.split("train").to(data.schema)
    ring = text + "." * (size % 4 > 0)
    for shift in range(4):
        expected = ["".join(ring[(shift + 4 * row + i) % len(ring)] for i in range(4)) for row in range(len(split))]
        rows = split.recut(shift).x
        assert [tokens.decode(row) for row in rows.numpy()] == [window.split(".")[0] for window in expected]
        assert rows.shape == split.x.shape
    assert torch.equal(split.recut(0).x, split.x)


@pytest.mark.parametrize("texts", [["abcdefghijkl", "mnopqrstuvw"], ["abcd"] * 10, ["abcdefg"]])
def test_windows_of_several_texts_or_a_short_one_stay(texts):
    """Each text begins a window, in training as in a score."""
    for lines in (False, True):
        data = load_data(texts, text={"length": 4 if not lines else 12, "lines": lines}, fractions=(1, 0, 0))
        split = data.split("train").to(data.schema)
        assert split.recut(3) is split
    starts = load_data(texts, text={"length": 4}, fractions=(1, 0, 0)).split("train").starts
    assert starts is not None and starts.sum() == len(texts)


def test_a_text_describes_itself(tmp_path):
    report = describe(load_data(write(tmp_path / "a.txt", TEXT)))
    assert report["warnings"] == [] and load_data(["hello", "you"], text={"lines": True}).warnings == []
    assert load_data(["hello"]).warnings[0].startswith("train has 3 characters, less than one window")
    assert report["text"]["tokens"] == "characters" and report["text"]["begins"].startswith("The cat\r\nsat")
    assert sum(part["characters"] for part in report["text"]["amounts"].values()) == len(TEXT)
    assert set(report["text"]["amounts"]["train"]) == set(AMOUNTS)


# Published sets


def test_tinyshakespeare_is_the_usual_one(jensen_data):
    data = load_data("tinyshakespeare")
    amounts = {name: split.amounts.sum(0) for name, split in data.splits.items() if split.amounts is not None}
    assert sum(a[2] for a in amounts.values()) == 1_115_394
    assert amounts["test"][2] == 111_539 and amounts["valid"][2] == 55_770
    whole = gzip.decompress((jensen_data / "tinyshakespeare.txt.gz").read_bytes()).decode()
    text = {name: "".join(data.schema.tokens.decode(row) for row in split.x) for name, split in data.splits.items()}
    assert text["train"] + text["valid"] + text["test"] == whole
    assert data.schema.tokens.end == 65


def test_ptb_counts_as_its_protocol_does(jensen_data):
    data = load_data("ptb")
    amounts = {name: split.amounts.sum(0).tolist() for name, split in data.splits.items() if split.amounts is not None}
    assert {name: a[0] for name, a in amounts.items()} == {"train": 929_589, "valid": 73_760, "test": 82_430}
    assert all(a[0] == a[1] and a[4] == 0 for a in amounts.values())
    assert data.schema.tokens.end == 10_000 and NEWLINE in data.schema.tokens.symbols
