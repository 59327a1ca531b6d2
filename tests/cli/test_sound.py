"""Sound by the command line: train on a folder of .wav, write .wav, look."""

import io
import re
import wave

import numpy as np
import pytest
import torch

import jensen as library

LENGTH, RATE = 48, 8000
SMALL = ("width=4", "skip=4", "blocks=1", "layers=3", "positions=false", "likelihood=categorical")


@pytest.fixture(scope="module", name="sounds")
def _sounds(tmp_path_factory):
    """Loud and silent clips in folders of these names."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, loud in (("loud", 0.9), ("silent", 0.0)):
        (folder / name).mkdir()
        for i in range(20):
            x = loud * np.sign(np.sin(np.arange(LENGTH) + i))
            with wave.open(str(folder / name / f"{i}.wav"), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
                file.writeframes(np.rint(x * 32767).astype("<i2").tobytes())
    return folder


@pytest.fixture(scope="module", name="wavenet")
def _wavenet(trained, sounds):
    options = ("conditional=true", "--sound", "levels=8", "--epochs", 30, "--batch-size", 8, "--lr", 0.03)
    return trained("wavenet", "wavenet", sounds, *SMALL, *options)


def read(content):
    with wave.open(io.BytesIO(content) if isinstance(content, bytes) else str(content)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, RATE, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768


def test_data_says_what_is_lost(jensen, sounds):
    answer = jensen("data", sounds, "--sound", "encoding=linear,levels=16")
    assert answer.code == 0, answer
    assert "clips of 48 samples, 0.006 s at 8000 Hz, 16 levels, linear" in answer.out
    assert "signal to noise" in answer.out and "(at most 0.067)" in answer.out
    assert "loud" in answer.out and "silent" in answer.out


def test_wrong_options_are_named(jensen, fails, sounds):
    fails(jensen("data", sounds, "--sound", "encodng=linear"), 2, "did you mean 'encoding'")
    fails(jensen("data", sounds, "--sound", "encoding=cubic"), 2, "expected mu-law or linear")


def test_samples_are_playable_and_obey_their_condition(jensen, wavenet, tmp_path):
    answer = jensen("sample", wavenet, "--given", "label=loud", "-n", 3, "--out", tmp_path / "a.wav")
    assert answer.code == 0, answer
    assert "a-1.wav to a-3.wav (3 x 48)" in answer.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-1.wav", "a-2.wav", "a-3.wav"]
    loud = np.stack([read(tmp_path / f"a-{i}.wav") for i in (1, 2, 3)])
    assert jensen("sample", wavenet, "--given", "label=silent", "-n", 1, "--out", tmp_path / "s.wav").code == 0
    silent = read(tmp_path / "s.wav")
    assert loud.shape == (3, LENGTH) and silent.shape == (LENGTH,)
    assert np.abs(loud).mean() > 0.5 > 0.3 > np.abs(silent).mean()


def test_other_forms_of_samples(jensen, fails, wavenet, ppca, tmp_path):
    given = ("--given", "label=loud")
    for name in ("a.png", "a.npz", "a.csv"):
        assert jensen("sample", wavenet, *given, "-n", 2, "--out", tmp_path / name).code == 0
    assert np.load(tmp_path / "a.npz")["X"].shape == (2, LENGTH)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    fails(jensen("sample", ppca, "--out", tmp_path / "b.wav"), 2, "a .wav holds sound")
    fails(jensen("sample", wavenet, "-n", 2, "--out", tmp_path / "b.wav"), 2, "label=VALUE")


def test_gaps_are_filled_in(jensen, fails, wavenet, sounds, tmp_path):
    asked = ("impute", wavenet, sounds, "--limit", 2, "--particles", 40)
    answer = jensen(*asked, "--gap", "0.002-0.004", "--draws", 2, "--out", tmp_path / "a.npy")
    assert answer.code == 0 and "filled in 32 values in 2 of 2 data" in answer.out, answer
    first, second = np.load(tmp_path / "a.npy").reshape(2, 2, LENGTH)
    gap = np.arange(LENGTH) // 16 == 1
    assert (first[:, ~gap] == second[:, ~gap]).all() and (first[:, gap] != second[:, gap]).any()
    assert len(np.unique(first[:, gap])) <= 8 and np.abs(first).max() <= 1
    assert jensen(*asked, "--gap", "0.002-0.004", "--out", tmp_path / "a.wav").code == 0
    assert np.abs(read(tmp_path / "a-1.wav") - first[0])[~gap].max() < 1e-4
    fails(jensen(*asked, "--out", tmp_path / "a.wav"), 2, "say what is missing of the sound, with --gap or --missing")
    fails(jensen(*asked, "--gap", "0.004", "--out", tmp_path / "a.wav"), 2, "expected seconds of a clip")
    fails(jensen(*asked, "--gap", "0.004-0.1", "--out", tmp_path / "a.wav"), 2, "a part of the 0.006 seconds")
    fails(jensen(*asked, "--region", "top", "--out", tmp_path / "a.wav"), 2, "of sound, --gap says when")


def test_score_and_report(jensen, wavenet, sounds, tmp_path):
    answer = jensen("score", wavenet)
    assert answer.code == 0 and "exact" in answer.out, answer
    assert jensen("score", wavenet, sounds).code == 0
    answer = jensen("report", wavenet, "--out", tmp_path / "r.html")
    assert answer.code == 0, answer
    page = (tmp_path / "r.html").read_text()
    assert "Surprise" in page and "clips of 48 samples at 8000 Hz" in page and "bits a sample" in page


def test_a_latent_variable_model_of_sound(jensen, trained, sounds, tmp_path):
    small = ("latents=2", "encoder.hidden=[8]", "decoder.hidden=[8]", "--epochs", 2, "--batch-size", 16)
    run = trained("sound-vae", "vae", sounds, *small)
    for command, name in (("reconstruct", "r.wav"), ("interpolate", "i.png"), ("sample", "s.wav")):
        assert jensen(command, run, "--out", tmp_path / name).code == 0
    assert jensen("encode", run, "--out", tmp_path / "z.npy").code == 0
    assert read(tmp_path / "r-1.wav").shape == (LENGTH,)
    assert jensen("report", run, "--out", tmp_path / "r.html").code == 0
    assert "encoded and decoded to the expected levels" in (tmp_path / "r.html").read_text()


def test_a_wavenet_has_no_codes(jensen, wavenet, tmp_path):
    answer = jensen("reconstruct", wavenet, "--out", tmp_path / "a.wav")
    assert answer.code == 4 and "wavenet cannot reconstruct" in answer.err
    answer = jensen("interpolate", wavenet, "--out", tmp_path / "a.wav")
    assert answer.code == 4 and answer.err.startswith("error: wavenet cannot interpolate")


def test_scores_compare_only_at_equal_levels_and_law(jensen, fails, wavenet, trained, sounds):
    other = trained("wavenet-linear", "wavenet", sounds, *SMALL, "--sound", "levels=8,encoding=linear", "--epochs", 1)
    fails(jensen("compare", wavenet, other), 2, "quantization differs: 8 levels, linear and 8 levels, mu-law")
    assert "8 levels, mu-law" in jensen("score", wavenet).out


def test_a_report_tells_bits(jensen, wavenet, tmp_path):
    assert jensen("report", wavenet, "--out", tmp_path / "a.html").code == 0
    told = [float(b) for b in re.findall(r"([\d.]+) bits a sample on average", (tmp_path / "a.html").read_text())]
    run = library.open(wavenet)
    batch = run.tensors(run.data().split("test")).take(slice(None))
    with torch.no_grad():
        factor = run.model.eval().p["x"]
        nats = -factor.module(*(batch[name] for name in factor.parents)).log_prob(batch["x"]) / LENGTH
    rows = nats.double().numpy() / np.log(2)
    assert len(told) == 2 and all(np.abs(rows - t).min() < 0.0051 for t in told)
