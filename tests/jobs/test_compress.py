"""Compress: every bit comes back, in as many as the model's own score says; what does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas
import pytest
import torch

import jensen
from jensen.codecs.archive import AS_THEY_ARE, BY_MODEL, Chunk, as_they_are, digest_of, packed, unpacked
from jensen.data import load_data
from jensen.errors import CapabilityError, ConfigError, DataError, IntegrityError
from jensen.jobs.compress import inspect
from jensen.jobs.models import toy
from jensen.registry import MODEL, names

RNG = np.random.default_rng(0)
GREY = RNG.binomial(15, np.linspace(0.1, 0.9, 64).reshape(8, 8), (60, 8, 8)).astype(np.uint8) * 17
BITS = (RNG.random((60, 8, 8)) < np.linspace(0.05, 0.95, 64).reshape(8, 8)).astype(np.uint8)
QUANTISED = {
    "encoder": {"name": "conv", "channels": [8]}, "decoder": {"name": "conv", "channels": [8]},
    "quantizer.codes": 8, "quantizer.width": 4,
}  # fmt: skip
CASES = {
    "made, bits": ("made", BITS, {"hidden": [16]}),
    "made, two orderings": ("made", BITS, {"hidden": [16], "orderings": 2}),
    "pixelcnn, levels": ("pixelcnn", GREY, {"width": 8, "layers": 1}),
    "pixelcnn, mixture": ("pixelcnn", GREY, {"width": 8, "layers": 1, "likelihood": "discretized-logistic-mixture"}),
    "markov": ("markov", BITS, {}),
    "nade": ("nade", BITS, {}),
    "vqvae": ("vqvae", GREY, QUANTISED),
    "vqvae, finite scalar": (
        "vqvae", BITS, {k: v for k, v in QUANTISED.items() if k[0] != "q"} | {"quantizer": "finite-scalar"}),
    "vqvae2": ("vqvae2", GREY, {**QUANTISED, "features": 8}),
}  # fmt: skip


@pytest.fixture(name="forced")
def _forced(monkeypatch):
    """All is coded by the model, however bad it is."""
    monkeypatch.setattr("jensen.jobs.compress.shorter", lambda raw, content: False)


def trained(model: str, data, settings: dict, **options) -> jensen.Run:
    data = load_data(data, fractions=(0.5, 0.2, 0.3), seed=0)
    return jensen.train(model, data, settings=settings, epochs=2, batch_size=10, **options)


@pytest.mark.parametrize("case", CASES)
def test_every_bit_comes_back_in_as_many_as_the_score_says(case: str, forced):
    model, data, settings = CASES[case]
    run = trained(model, data, settings)
    found = run.compress(split="train")
    assert found.by_model == 1 and found.lossless
    back = run.decompress(found.content)
    np.testing.assert_array_equal(back, run.data().split("train").x)
    assert back.dtype == data.dtype
    score = run.score(split="train")
    if case != "made, two orderings":  # coded in one of them, and scored by their average
        assert found.model_bits == pytest.approx(-score.nats * found.n / math.log(2), rel=1e-4)
    assert inspect(found.content)["chunks_by_model"] == inspect(found.content)["chunks"] == 1
    assert 8 * len(found.content) <= 1.01 * found.model_bits + 8 * 250


@pytest.mark.parametrize("case", ["vqvae", "vqvae, finite scalar", "vqvae2"])
def test_codes_alone_come_back_as_what_they_stand_for(case: str):
    model, data, settings = CASES[case]
    run = trained(model, data, settings)
    found = run.compress(split="train", lossy=True)
    np.testing.assert_allclose(run.decompress(found.content), run.reconstruct(split="train"), rtol=1e-4, atol=1e-3)
    bits = run.score(split="train").code_bits
    assert bits is not None
    own = sum(level["bits"] for level in bits.values())
    assert found.model_bits / found.n == pytest.approx(own, rel=1e-4)
    assert len(found.content) < len(run.compress(split="train").content)
    drawn = run.decompress(found.content, mean=False, seed=1)
    assert drawn.dtype == data.dtype and (drawn == run.decompress(found.content, mean=False, seed=1)).all()


def test_labels_that_are_given_lie_beside(forced):
    labelled = load_data("digits")
    run = jensen.train("vqvae", labelled, settings=QUANTISED | {"conditional": True}, epochs=1)
    found = run.compress(limit=70)
    test = labelled.split("test")
    np.testing.assert_array_equal(run.decompress(found.content), test.x[run.pick(test, 70)])
    assert inspect(found.content)["conditions"] == ["y"]
    with pytest.raises(DataError, match="the model is conditional: expected labels"):
        run.compress(test.x)


def test_given_columns_come_back_in_their_places(forced):
    frame = pandas.DataFrame({
        "a": RNG.integers(0, 2, 50), "g": RNG.normal(size=50), "b": RNG.integers(0, 2, 50),
        "kind": RNG.choice(["x", "y"], 50), "side": RNG.choice(["left", "right"], 50),
    })  # fmt: skip
    run = jensen.train("made", load_data(frame, given=["g", "kind"], label="side"), epochs=1, conditional=True)
    found = run.compress(split="train")
    assert sorted(inspect(found.content)["conditions"]) == ["c", "y"]
    rows = run.data().split("train").index
    pandas.testing.assert_frame_equal(run.decompress(found.content), frame.iloc[rows].reset_index(drop=True))


def test_bits_that_are_drawn_anew_are_refused():
    grey = load_data(GREY, binarize="dynamic", fractions=(0.5, 0.2, 0.3))
    run = jensen.train("made", grey, settings={"hidden": [8]}, epochs=1)
    with pytest.raises(DataError, match=r"split 'train' is grey and binarised anew"):
        run.compress(split="train")
    found = run.compress(split="test")
    np.testing.assert_array_equal(
        run.decompress(found.content), run.schema.restore(grey.split("test").to(run.schema).x)
    )
    assert "lossless as binarised" in str(found)


def test_texts_come_back(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\n".join("".join(RNG.choice(list("abc "), RNG.integers(3, 12))) for _ in range(80)) + "\n")
    run = jensen.train("rnn", path, settings={"width": 8}, epochs=1, text={"lines": True})
    back = run.decompress(run.compress(split="train").content)
    expected = run.schema.restore(torch.from_numpy(run.data().split("train").x).float())
    assert list(back) == list(expected) and all(isinstance(line, str) for line in back)


@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_windows_of_a_text_come_back_as_the_text(tmp_path, tokens):
    """Also where a window ends within a letter of several bytes, and with a text that fills its windows."""
    one, two = ("".join(RNG.choice(list("abé\n "), n)) for n in (301, 64))
    path = tmp_path / "one.txt"
    path.write_text(one)
    run = jensen.train("markov", path, epochs=1, text={"tokens": tokens, "length": 16}, fractions=(1.0, 0.0, 0.0))
    found = run.compress(path)
    assert run.decompress(found.content) == [one] and inspect(found.content)["starts"] == [0]
    both = tmp_path / "both"
    both.mkdir()
    (both / "a.txt").write_text(two)
    (both / "b.txt").write_text(one)
    assert run.decompress(run.compress(both).content) == [two, one]
    some = run.compress(path, limit=3)  # no text, but three windows
    assert inspect(some.content)["starts"] is None and len(run.decompress(some.content)) == 3


def test_a_few_data_and_many_batches(monkeypatch):
    run = trained(*CASES["made, bits"])
    monkeypatch.setattr("jensen.jobs.compress.BATCH", 7)
    found = run.compress(split="train")
    assert inspect(found.content)["chunks"] == math.ceil(found.n / 7)
    np.testing.assert_array_equal(run.decompress(found.content), run.data().split("train").x)
    one = run.compress(split="train", limit=1)
    assert one.n == 1 and run.decompress(one.content).shape == (1, 1, 8, 8)


def test_noise_takes_no_more_than_it_is_long():
    """A model that is wrong codes nothing: data lie as they are."""
    run = trained(*CASES["made, bits"])
    wrong = load_data(np.where(np.linspace(0.05, 0.95, 64).reshape(8, 8) < 0.5, 1, 0) * np.ones((200, 1, 1), int))
    found = run.compress(wrong.split("train").x.astype(np.uint8))
    assert found.by_model == 0 and "lie without it" in str(found)
    assert len(found.content) <= found.as_they_are + 300
    assert found.model_bits > 8 * len(found.content)


@pytest.mark.parametrize("name", names(MODEL))
def test_what_the_table_of_models_says_is_so(name: str):
    """Where it says "yes", a sample of the model comes back; where it says "no" or "with bits-back", that is told."""
    for kind in (None, "whole numbers"):
        try:
            schema, model = toy(name, kind)
        except ConfigError:  # takes no such data
            continue
        run = jensen.Run({"model": name, "settings": {}}, schema, model.eval())
        if run.capabilities.likelihood is None:
            continue
        given = {key: RNG.integers(0, 2, 3) for key in model.conditions}
        if given or not run.capabilities.sample or schema.kind == "count":  # counts have no end
            continue
        data = run.sample(3, seed=0, say=lambda _: None)
        if run.capabilities.lossless != "yes":
            with pytest.raises(CapabilityError):
                run.compress(data)
            continue
        np.testing.assert_array_equal(
            run.decompress(run.compress(data).content), np.asarray(data).reshape(3, *schema.event_shape)
        )


def test_what_cannot_be_compressed_is_told():
    vae = trained("vae", BITS, {"latents": 2})
    with pytest.raises(CapabilityError, match=r"vae cannot compress: q draws z, .*bits-back"):
        vae.compress()
    made = trained(*CASES["made, bits"])
    with pytest.raises(CapabilityError, match="made has no discrete codes, which are what is kept; leave out --lossy"):
        made.compress(lossy=True)
    with pytest.raises(CapabilityError, match="vae has no discrete codes, which are what is kept; vector quantisers"):
        vae.compress(lossy=True)
    nade = trained("nade", BITS, {"orderings": 2})
    with pytest.raises(
        CapabilityError, match=r"nade cannot compress: its density is an average over orders, .*bits-back"
    ):
        nade.compress()
    real = jensen.train("made", RNG.normal(size=(40, 3)), epochs=1)
    with pytest.raises(CapabilityError, match="expected bits, levels or symbols, got data of kind real"):
        real.compress()


def test_other_weights_and_other_probabilities_are_noticed(monkeypatch):
    run, other = trained(*CASES["made, bits"]), trained(*CASES["made, bits"], seed=1)
    content = run.compress().content
    with pytest.raises(IntegrityError, match="the archive: written with other weights than made's"):
        other.decompress(content)
    monkeypatch.setattr("jensen.jobs.compress._fingerprint", lambda run: inspect(content)["weights"])
    with pytest.raises(IntegrityError, match="computes other probabilities"):
        other.decompress(content)


def test_what_does_not_read_back_is_not_written(monkeypatch, tmp_path):
    """A machine whose probabilities differ from one pass to the next writes no archive."""
    run = trained(*CASES["made, bits"])
    head = run.model.p["x"].module.head
    calls = {"n": 0}
    plain = type(head).forward

    def drifting(self, parameters):
        calls["n"] += 1
        return plain(self, parameters + (0.5 if calls["n"] > 70 else 0.0))

    monkeypatch.setattr(type(head), "forward", drifting)
    with pytest.raises(IntegrityError):
        run.compress(split="train", out=tmp_path / "a.jz")
    assert not (tmp_path / "a.jz").exists()


def test_files(tmp_path):
    run = trained(*CASES["vqvae"])
    found = run.compress(out=tmp_path / "a.jz")
    assert (tmp_path / "a.jz").read_bytes() == found.content
    np.testing.assert_array_equal(run.decompress(tmp_path / "a.jz"), run.decompress(found.content))
    with pytest.raises(ConfigError, match=r"no such file; did you mean 'a.jz'"):
        run.decompress(tmp_path / "b.jz")
    assert dataclasses.asdict(found)["n"] == found.n == inspect(tmp_path / "a.jz")["n"]
    here = tmp_path / "data.npz"
    np.savez(here, X=GREY)
    for out, words in ((here, "is the file with the data"), ("-", "goes to a file"),
                       (tmp_path / "no" / "a", "no folder"),
                       (tmp_path, "is a folder")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            run.compress(here, out=out)
    with pytest.raises(ConfigError, match="nothing to draw"):
        run.decompress(tmp_path / "a.jz", mean=False)


CHANGES = {
    "n": 31, "batch": 10**7, "shape": [1, 8, 9], "lossless": False, "weights": 3,
    "given": [{"name": "y", "dtype": "<i8"}],
    "torch": None, "extra": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_headers_that_lie_are_noticed(name: str, monkeypatch):
    run = trained(*CASES["made, bits"])
    content = run.compress(split="train").content
    header, chunks = unpacked(content, "a")
    told = header.model_dump() | {name: CHANGES[name]}
    monkeypatch.setattr(type(header), "model_dump_json", lambda self: json.dumps(told))
    with pytest.raises(IntegrityError, match=r"^the archive: "):
        run.decompress(packed(header, chunks))


def test_chunks_that_lie_are_noticed():
    run = trained(*CASES["made, bits"])
    header, (chunk,) = unpacked(run.compress(split="train").content, "a")
    raw = as_they_are(np.zeros((header.n, 64)), 2)
    for changed in (
        Chunk(BY_MODEL, chunk.digest, chunk.content[:-4]), Chunk(BY_MODEL, chunk.digest, b"123"),
        Chunk(BY_MODEL, chunk.digest, b"\xff" * len(chunk.content)), Chunk(BY_MODEL, bytes(8), chunk.content),
        Chunk(AS_THEY_ARE, digest_of(b"123"), b"123"), Chunk(AS_THEY_ARE, bytes(8), raw),
        Chunk(AS_THEY_ARE, digest_of(raw[:-3]), raw[:-3]),
    ):  # fmt: skip
        with pytest.raises(IntegrityError, match="the archive: chunk 1 does not read back"):
            run.decompress(packed(header, [changed]))
    assert run.decompress(packed(header, [Chunk(AS_THEY_ARE, digest_of(raw), raw)])).sum() == 0
    with pytest.raises(IntegrityError, match="expected 1 chunks, got 2"):
        run.decompress(packed(header, [chunk, chunk]))
