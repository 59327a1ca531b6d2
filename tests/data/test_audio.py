"""Sound: levels against closed forms, files written and read again, clips that lose nothing, the mel scale by tones."""

import wave

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jensen.data import Schema, audio, describe, load_data
from jensen.data.audio_levels import compress, expand, largest_error, loss, to_levels, to_wave
from jensen.data.audio_mel import band_edges, filter_bank, spectrogram, to_hertz, to_mel
from jensen.errors import ConfigError, DataError

WAVES = arrays(np.float64, st.integers(1, 40), elements=st.floats(-1, 1))
ENCODINGS = st.sampled_from(["mu-law", "linear"])


def tone(hertz, rate, seconds, loud=0.5):
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write(path, x, rate, width=2):
    """By the standard library, x of shape (n,) or (n, channels)."""
    x = np.asarray(x, dtype=np.float64)
    x = x[:, None] if x.ndim == 1 else x
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(x.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        whole = np.rint(x * (2 ** (8 * width - 1) - 1)).astype(np.int64)
        if width == 1:
            content = (whole + 128).astype(np.uint8).tobytes()
        else:
            content = whole.astype("<i8").reshape(-1, 1).view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
        file.writeframes(content)


# Levels


def test_mu_law_is_its_closed_form():
    x = np.linspace(-1, 1, 2001)
    closed = np.sign(x) * np.log(1 + 255 * np.abs(x)) / np.log(256)
    np.testing.assert_allclose(compress(x, 255), closed, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(expand(closed, 255), x, rtol=1e-12, atol=1e-15)
    # The formula that torchaudio documents for its encoder.
    torch_x = torch.from_numpy(x)
    y = torch.sign(torch_x) * torch.log1p(255 * torch.abs(torch_x)) / np.log1p(255)
    expected = ((y + 1) / 2 * 255 + 0.5).to(torch.int64)
    np.testing.assert_array_equal(to_levels(x, 256, "mu-law"), expected.numpy())


@given(WAVES, st.integers(2, 700), ENCODINGS)
def test_quantising_errs_within_its_bound(x, levels, encoding):
    k = to_levels(x, levels, encoding)
    assert ((k >= 0) & (k < levels) & (k == np.rint(k))).all()
    error = np.abs(to_wave(k, levels, encoding) - x)
    assert error.max() <= largest_error(levels, encoding) * (1 + 1e-9) + 1e-15
    np.testing.assert_array_equal(to_levels(to_wave(k, levels, encoding), levels, encoding), k)


@pytest.mark.parametrize("encoding", ["mu-law", "linear"])
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_the_bound_is_reached(levels, encoding):
    x = np.linspace(-1, 1, 400_001)
    found = loss(x, levels, encoding)
    assert found.largest == pytest.approx(found.bound, rel=2e-3)
    error = to_wave(to_levels(x, levels, encoding), levels, encoding) - x
    assert found.snr == pytest.approx(10 * np.log10((x**2).sum() / (error**2).sum()))


def test_linear_quantisation_has_the_textbook_ratio():
    """Of a full-scale sine and B bits: 6.02 B + 1.76 dB."""
    x = np.sin(0.1234567 * np.arange(200_000))
    assert loss(x, 256, "linear").snr == pytest.approx(6.02 * 8 + 1.76, abs=0.1)


# Schema


@pytest.mark.parametrize("encoding", ["mu-law", "linear"])
def test_schema_there_and_back(encoding):
    schema = Schema.of_sound(50, 8000, 256, encoding)
    assert (schema.kind, schema.event_shape, schema.measure, schema.log_jacobian) == ("levels", (50,), "counting", 0)
    assert Schema.model_validate_json(schema.model_dump_json()) == schema
    x = np.random.default_rng(0).uniform(-1, 1, (3, 50)).astype(np.float32)
    levels = schema.prepare(x)
    assert levels.dtype == torch.float32 and bool((levels == levels.round()).all()) and levels.max() <= 255
    back = schema.restore(levels)
    assert isinstance(back, np.ndarray) and back.dtype == np.float32
    assert np.abs(back - x).max() <= largest_error(256, encoding) * 1.0001
    assert torch.equal(schema.prepare(back), levels)


# Files


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_of_every_width_is_read(tmp_path, width):
    x = tone(440, 8000, 0.02)
    write(tmp_path / "a.wav", x, 8000, width)
    found, rate = audio.read_wave(tmp_path / "a.wav")
    assert rate == 8000 and found.shape == (160, 1)
    np.testing.assert_allclose(found[:, 0], x, atol=1.6 / 2 ** (8 * width - 1) + 1e-7)


def test_what_is_written_is_read_again(tmp_path):
    x = np.random.default_rng(0).uniform(-1, 1, 300)
    (tmp_path / "a.wav").write_bytes(audio.wav(x, 11025))
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (1, 2, 11025, 300)
    found, rate = audio.read_wave(tmp_path / "a.wav")
    assert rate == 11025
    np.testing.assert_allclose(found[:, 0], x, atol=0.5001 / 2**15 + 1 / 2**15)


def test_wav_to_schema_to_wav(tmp_path):
    """What comes back differs from the file by the quantisation alone."""
    x = tone(300, 8000, 0.1, 0.9)
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.wav", x, 8000)
    data = load_data(tmp_path)
    schema, clip = data.schema, data.split("train").x[:1]
    (tmp_path / "back.wav").write_bytes(audio.wav(schema.restore(schema.prepare(clip))[0], 8000))
    found, _ = audio.read_wave(tmp_path / "back.wav")
    assert np.abs(found[:, 0] - x).max() <= largest_error(256, "mu-law") + 2 / 2**15


def test_flac_and_floats_by_soundfile(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    x = tone(440, 16000, 0.05)
    soundfile.write(tmp_path / "a.flac", x, 16000)
    soundfile.write(tmp_path / "b.wav", x, 16000, subtype="FLOAT")
    for name in ("a.flac", "b.wav"):
        found, rate = audio.read_wave(tmp_path / name)
        assert rate == 16000
        np.testing.assert_allclose(found[:, 0], x, atol=1 / 2**15)


def test_without_soundfile_flac_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(audio.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(DataError, match=r"a\.flac: .*jensen\[audio\]"):
        load_data(tmp_path)


def test_unreadable_and_empty_files_are_named(tmp_path):
    with pytest.raises(DataError, match="no pictures, sound or texts"):
        load_data(tmp_path)
    write(tmp_path / "good.wav", tone(440, 8000, 0.1), 8000)
    (tmp_path / "bad.wav").write_bytes(b"not a sound")
    with pytest.raises(DataError, match=r"bad\.wav: "):
        load_data(tmp_path)
    (tmp_path / "bad.wav").unlink()
    write(tmp_path / "none.wav", np.zeros(0), 8000)
    with pytest.raises(DataError, match=r"none\.wav: expected a sound, got no samples"):
        load_data(tmp_path)


# Clips


def test_clips_lose_nothing(tmp_path):
    rng = np.random.default_rng(0)
    waves = [np.rint(rng.uniform(-1, 1, n) * 32767) / 32767 for n in (50, 100, 230, 301)]
    for i, x in enumerate(waves):
        write(tmp_path / "train" / f"{i}.wav", x, 8000)
    data = load_data(tmp_path, length=100)
    split = data.split("train")
    x = np.concatenate([split.x, data.splits["valid"].x]) if "valid" in data.splits else split.x
    rows = np.concatenate([split.index, data.splits["valid"].index]) if "valid" in data.splits else split.index
    joined = x[np.argsort(rows)].reshape(-1)
    expected = np.concatenate([np.pad(x, (0, -len(x) % 100)) for x in waves])
    np.testing.assert_allclose(joined, expected, atol=2 / 2**15)
    assert "2 of 4 recordings are longer than 100 samples and became several clips" in data.description
    assert f"silence, {(900 - 681) / 900:.1%} of all samples" in data.description


def test_clips_of_a_recording_stay_in_one_split(tmp_path):
    for i in range(12):
        write(tmp_path / f"{i:02}.wav", np.full(90, (i + 1) / 20), 8000)
    data = load_data(tmp_path, length=20)
    owners = [set(np.unique(split.x[:, 0].round(2)).tolist()) for split in data.splits.values()]
    assert len(owners) == 3 and sum(map(len, owners)) == len(set().union(*owners)) == 12


def test_usual_length_is_enough_for_nearly_all(tmp_path):
    for i, n in enumerate([*range(52, 100), 400, 500]):
        write(tmp_path / f"{i:02}.wav", tone(440, 8000, n / 8000), 8000)
    assert load_data(tmp_path).schema.dims == 99


def test_rates_are_made_one(tmp_path):
    for i, rate in enumerate([8000, 8000, 16000, 11025]):
        write(tmp_path / f"{i}.wav", tone(500, rate, 0.5), rate)
    raw = audio.cut(load_raw(tmp_path), length=4000)
    (part,) = raw.parts.values()
    assert part.x.shape == (4, 4000) and raw.sound is not None and raw.sound.rate == 8000
    assert any("2 of 4 recordings were resampled from 11025, 16000 Hz to 8000 Hz" in note for note in raw.notes)
    inner = slice(200, 3800)  # the filter knows nothing beyond the ends
    for x in part.x[1:]:
        np.testing.assert_allclose(x[inner], part.x[0][inner], atol=0.01)
    assert load_data(tmp_path, rate=4000).schema.fields[0].rate == 4000


def load_raw(folder):
    return audio.read_folder(folder)


def test_channels_are_averaged_and_it_is_said(tmp_path):
    left, right = tone(400, 8000, 0.1), tone(900, 8000, 0.1)
    write(tmp_path / "a.wav", np.stack([left, right], 1), 8000)
    write(tmp_path / "b.wav", left, 8000)
    data = load_data(tmp_path)
    assert "the channels of 1 of 2 recordings were averaged" in data.description
    np.testing.assert_allclose(data.split("train").x[0], (left + right) / 2, atol=2 / 2**15)


def test_folders_are_labels_and_splits(tmp_path):
    for split in ("train", "test"):
        for name, hertz in (("high", 1500), ("low", 200)):
            for i in range(3):
                write(tmp_path / split / name / f"{i}.wav", tone(hertz, 8000, 0.05), 8000)
    data = load_data(tmp_path)
    assert data.schema.classes == ("high", "low") and {"train", "test"} <= set(data.splits)
    test = data.split("test")
    crossings = (np.diff(np.sign(test.x), axis=1) != 0).sum(1)
    np.testing.assert_array_equal(test.y, (crossings < 60).astype(int))


def test_options_are_checked(tmp_path):
    write(tmp_path / "a.wav", tone(440, 8000, 0.1), 8000)
    with pytest.raises(ConfigError, match="length: expected a whole number >= 1"):
        load_data(tmp_path, length=0)
    with pytest.raises(ConfigError, match="encoding: expected mu-law or linear"):
        load_data(tmp_path, encoding="mulaw")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected recordings of sound, got a table"):
        load_data(np.zeros((5, 3)), rate=8000)
    with pytest.raises(ConfigError, match="binarize"):
        load_data(tmp_path, binarize="static")


def test_new_sound_is_made_to_fit_a_schema(tmp_path):
    schema = Schema.of_sound(400, 8000)
    write(tmp_path / "a.wav", tone(440, 16000, 0.06), 16000)
    fitted = load_data(tmp_path, schema=schema).split("all")
    assert fitted.x.shape == (2, 400)
    again = load_data(fitted.x.astype(np.float64), schema=schema).split("all")
    np.testing.assert_array_equal(again.x, fitted.x)
    with pytest.raises(ConfigError, match="rate: expected 8000 as in training, got 16000"):
        load_data(tmp_path, schema=schema, rate=16000)
    with pytest.raises(DataError, match=r"waveforms in \[-1, 1\]"):
        load_data(np.full((2, 400), 3.0), schema=schema)
    with pytest.raises(DataError, match="expected pictures"):
        load_data(tmp_path, schema=Schema.of_pictures((1, 20, 20)))


def test_description_states_the_loss(tmp_path):
    x = tone(440, 8000, 0.1)
    for i in range(3):
        write(tmp_path / f"{i}.wav", x, 8000)
    found = describe(load_data(tmp_path, encoding="linear"))["sound"]
    lost = loss(load_data(tmp_path).split("train").x, 256, "linear")
    assert (found["snr_db"], found["largest_error"], found["error_bound"]) == (lost.snr, lost.largest, 1 / 255)
    assert found["rate"] == 8000 and found["peak"] == pytest.approx(0.5, abs=1e-3)


# Mel


def test_mel_scale_has_its_fixed_points():
    assert to_mel(0) == 0 and float(to_mel(1000)) == pytest.approx(1000, abs=0.1)  # 1000 mel are 1000 Hz, nearly
    np.testing.assert_allclose(to_hertz(to_mel(np.array([20.0, 440, 7999]))), [20, 440, 7999])


@pytest.mark.parametrize(("rate", "bands"), [(8000, 64), (16000, 40), (44100, 80)])
def test_filters_overlap_to_one(rate, bands):
    """Between the first and the last peak neighbouring triangles of equal feet in Hz add up to 1 at their peaks."""
    bank = filter_bank(rate, 8192, bands)
    edges, f = band_edges(rate, bands), np.fft.rfftfreq(8192, 1 / rate)
    assert bank.shape == (bands, 4097) and (bank.max(1) > 0.5).all()
    inside = (f >= edges[1]) & (f <= edges[-2])
    np.testing.assert_allclose(bank[:, inside].sum(0), 1, atol=1e-9)


@pytest.mark.parametrize("band", [8, 20, 33, 50, 62])
def test_a_tone_is_in_its_band(band):
    rate, bands = 8000, 64
    hertz = band_edges(rate, bands)[band + 1]
    loud = spectrogram(tone(hertz, rate, 0.5, 1.0), rate, bands)
    inner = loud[:, 5:-6]
    assert (inner.argmax(0) == band).all()


def test_a_tone_of_amplitude_one_is_at_zero_decibels():
    rate, bands = 16000, 20  # bands much wider than the window's main lobe
    loud = spectrogram(tone(band_edges(rate, bands)[18], rate, 0.5, 1.0), rate, bands)
    assert loud[17, 10:-10].mean() == pytest.approx(0, abs=0.5)
    quiet = spectrogram(tone(band_edges(rate, bands)[18], rate, 0.5, 0.1), rate, bands)
    np.testing.assert_allclose(loud[17, 10:-10] - quiet[17, 10:-10], 20, atol=1e-6)
