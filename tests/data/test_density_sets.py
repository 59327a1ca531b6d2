"""The tables of the density-estimation literature: from small files in the published formats, each step checked."""

from __future__ import annotations

import gzip
import pickle
import sys
import time

import numpy as np
import pandas as pd
import pytest

from jensen.data import load_data
from jensen.data.density import _uncorrelated
from jensen.data.sources import reference
from jensen.errors import ConfigError, DataError

SPLITS = ("train", "valid", "test")


def parts(name, path):
    data = load_data(f"{name}:{path}")
    return [data.split(s).x for s in SPLITS]


def lines(path, header, rows, separator):
    text = [header, *(separator.join(map(repr, row)) for row in rows.tolist())]
    path.write_text("\n".join(text) + "\n")


# POWER


def household(n=250):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 8)).round(3)
    rows[:, 7] = rng.integers(0, 1440, n)
    return rows


def test_power_is_the_published_permutation_noise_and_normalisation(tmp_path):
    rows = household()
    (tmp_path / "power").mkdir()
    np.save(tmp_path / "power" / "data.npy", rows)
    train, valid, test = parts("power", tmp_path)

    rng = np.random.RandomState(42)
    expected = rows.copy()
    rng.shuffle(expected)
    volt, active, meters = 0.01 * rng.rand(250, 1), 0.001 * rng.rand(250, 1), rng.rand(250, 3)
    named = dict(zip(["gap", "grp", "v", "gi", "s1", "s2", "s3", "t"], expected.T, strict=True))
    expected = np.column_stack(
        [named["gap"] + active[:, 0], named["v"] + volt[:, 0]]
        + [named[f"s{i + 1}"] + meters[:, i] for i in range(3)]
        + [named["t"]]
    )
    assert (len(train), len(valid), len(test)) == (203, 22, 25)
    mean, deviation = expected[:225].mean(0), expected[:225].std(0)
    np.testing.assert_allclose(np.concatenate([train, valid, test]), (expected - mean) / deviation, atol=1e-10)


def test_power_from_the_text_skips_gaps_and_counts_minutes(tmp_path):
    rows = household(60)
    head = "Date;Time;Global_active_power;Global_reactive_power;Voltage;Global_intensity;"
    written = [head + "Sub_metering_1;Sub_metering_2;Sub_metering_3"]
    for i, row in enumerate(rows):
        hour, minute = divmod(int(row[7]), 60)
        written.append(";".join(["16/12/2006", f"{hour:02}:{minute:02}:00", *map(str, row[:7])]))
        if i % 20 == 0:
            written.append("16/12/2006;17:24:00;?;?;?;?;?;?;")
    path = tmp_path / "household_power_consumption.txt"
    path.write_text("\n".join(written) + "\n")
    np.save(tmp_path / "data.npy", rows)
    for a, b in zip(parts("power", path), parts("power", tmp_path / "data.npy"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


# GAS


def sensors(n=4000):
    """Sixteen columns of eight kinds: 0 to 7, and 8 to 15 that say nearly the same as 0 to 7."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=(n, 8)) * np.arange(1, 9)
    return np.concatenate([first, 3 * first + 0.01 * rng.normal(size=(n, 8))], axis=1)


def test_gas_keeps_one_of_each_kind_and_normalises_by_all_rows(tmp_path):
    x = sensors(1003)
    frame = pd.DataFrame(x, columns=[f"s{i}" for i in range(16)])
    frame = pd.concat([frame[["s0"]].set_axis(["Time"], axis=1), frame.assign(Meth=1.0, Eth=2.0)], axis=1)
    frame.to_parquet(tmp_path / "ethylene_CO.parquet")
    train, valid, test = parts("gas", tmp_path)
    # 0..7 go, being the first of their pairs
    expected = (x[:, 8:] - x[:, 8:].mean(0)) / x[:, 8:].std(0, ddof=1)
    assert (len(train), len(valid), len(test)) == (813, 90, 100)
    np.testing.assert_allclose(np.concatenate([train, valid, test]), expected, atol=1e-10)


def test_gas_text_gives_a_fixed_quarter_of_whole_rows(tmp_path):
    x = sensors(400)
    x[:, 0] = np.random.default_rng(7).permutation(np.arange(400.0))
    x[:, 8] = 3 * x[:, 0]  # tells which row it is
    rows = np.concatenate([np.arange(400.0)[:, None], np.zeros((400, 2)), x], axis=1)
    lines(tmp_path / "ethylene_CO.txt", "Time (seconds), CO conc (ppm), Ethylene conc (ppm), sensors", rows, "  ")
    found = np.concatenate(parts("gas", tmp_path))
    assert found.shape == (100, 8)
    np.testing.assert_allclose((found.mean(0), found.std(0, ddof=1)), (np.zeros(8), np.ones(8)), atol=1e-12)
    steps = (found[:, 0] - found[:, 0].min()) / np.diff(np.sort(found[:, 0])).min()
    np.testing.assert_allclose(steps, steps.round(), atol=1e-6)
    assert len(set(steps.round())) == 100  # no row twice
    row_of = np.argsort(x[:, 0])
    least = [x[row_of[int(s) + steps.round().astype(int)], 9] for s in range(400 - int(steps.max().round()))]
    assert max(np.corrcoef(other, found[:, 1])[0, 1] for other in least) == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(found, np.concatenate(parts("gas", tmp_path / "ethylene_CO.txt")))


def test_correlated_columns_go_in_order():
    x = sensors()
    assert _uncorrelated(x) == list(range(8, 16))
    assert _uncorrelated(x[:, :9]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert _uncorrelated(x[:, [0, 8, 0]]) == [2]
    assert _uncorrelated(np.column_stack([x[:, 0], -x[:, 0], np.ones(len(x))])) == [0, 1, 2]


class Bomb:
    def __reduce__(self):
        return (time.sleep, (3600,))


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / "ethylene_CO.pickle"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="a pickle runs code"):
        load_data(f"gas:{path}")
    np.save(tmp_path / "data.npy", np.array([Bomb()]), allow_pickle=True)
    with pytest.raises(DataError, match=r"data\.npy: corrupt or not MAF's \.npy file"):
        load_data(f"power:{tmp_path}")
    path.rename(tmp_path / "ethylene_CO.parquet")
    with pytest.raises(DataError, match="corrupt or not a Parquet file"):
        load_data(f"gas:{tmp_path}")


# HEPMASS


def collisions(tmp_path, suffix=""):
    rng = np.random.default_rng(2)
    tables = {}
    for name, n, extra in (("1000_train.csv", 400, 0), ("1000_test.csv", 200, 1)):
        x = rng.normal(5, 2, size=(n, 4 + extra))
        x[:, 1] = x[:, 1].round()  # its least value is rare: kept, though others recur
        x[:, 2] = np.where(rng.random(n) < 0.5, x[:, 2].min() - 1, x[:, 2])  # a least value that recurs: goes
        label = rng.integers(0, 2, n)
        rows = np.column_stack([label.astype(float), x])
        lines(tmp_path / name, "# label," + ",".join(f"f{i}" for i in range(4)), rows, ",")
        if suffix:
            (tmp_path / (name + suffix)).write_bytes(gzip.compress((tmp_path / name).read_bytes()))
            (tmp_path / name).unlink()
        tables[name] = x[label == 1]
    return tables["1000_train.csv"], tables["1000_test.csv"][:, :4]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_hepmass_takes_signal_and_drops_what_repeats_at_its_least(tmp_path, suffix):
    seen, unseen = collisions(tmp_path, suffix)
    assert (seen[:, 1] == seen[:, 1].min()).sum() <= 5 < np.unique(seen[:, 1], return_counts=True)[1].max()
    train, valid, test = parts("hepmass", tmp_path)
    mean, deviation, kept = seen.mean(0), seen.std(0, ddof=1), [0, 1, 3]
    assert len(valid) == int(0.1 * len(seen)) and len(train) + len(valid) == len(seen)
    np.testing.assert_allclose(np.concatenate([train, valid]), ((seen - mean) / deviation)[:, kept], atol=1e-10)
    np.testing.assert_allclose(test, ((unseen - mean) / deviation)[:, kept], atol=1e-10)


def test_hepmass_reads_no_more_rows_than_the_authors_had(tmp_path, monkeypatch):
    seen, _ = collisions(tmp_path)
    whole = (tmp_path / "1000_train.csv").read_text().splitlines()
    signal = sum(line.startswith("1.0,") for line in whole[1:301])
    monkeypatch.setattr("jensen.data.density.HEPMASS_ROWS", (300, 200))
    train, valid, _ = parts("hepmass", tmp_path)
    assert len(train) + len(valid) == signal < len(seen)


def test_hepmass_needs_both_files(tmp_path):
    collisions(tmp_path)
    (tmp_path / "1000_test.csv").unlink()
    with pytest.raises(DataError, match=r"with 1000_test\.csv beside it"):
        load_data(f"hepmass:{tmp_path}")


# MINIBOONE


def test_miniboone_takes_signal_without_outliers_and_discrete_columns(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(3, 1, size=(90, 6))
    x[:, 4] = np.maximum(x[:, 4], 3)  # half of it at its least
    x[[5, 70]] = -999.0
    lines(tmp_path / "MiniBooNE_PID.txt", "  60  30", x, "   ")
    train, valid, test = parts("miniboone", tmp_path)
    expected = x[[i for i in range(60) if i != 5]][:, [0, 1, 2, 3, 5]]
    mean, deviation = expected[:54].mean(0), expected[:54].std(0)
    assert (len(train), len(valid), len(test)) == (49, 5, 5)
    np.testing.assert_allclose(np.concatenate([train, valid, test]), (expected - mean) / deviation, atol=1e-10)


def test_miniboone_from_the_prepared_array(tmp_path):
    x = np.random.default_rng(4).normal(7, 3, size=(36488 // 100, 43)).astype(np.float32)
    np.save(tmp_path / "data.npy", x)
    train, valid, test = parts("miniboone", tmp_path)
    seen = np.concatenate([train, valid])
    np.testing.assert_allclose((seen.mean(0), seen.std(0)), (np.zeros(43), np.ones(43)), atol=1e-12)
    n = int(0.1 * len(x))
    assert len(test) == n and len(valid) == int(0.1 * (len(x) - n))
    np.testing.assert_allclose(np.corrcoef(test[:, 0], x[-n:, 0])[0, 1], 1, atol=1e-12)


# BSDS300


def test_bsds300_comes_with_its_splits(tmp_path):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(5)
    arrays = {name: rng.normal(size=(n, 63)) for name, n in (("train", 9), ("validation", 4), ("test", 5))}
    with h5py.File(tmp_path / "BSDS300.hdf5", "w") as file:
        for name, x in arrays.items():
            file[name] = x
    for found, x in zip(parts("bsds300", tmp_path), arrays.values(), strict=True):
        np.testing.assert_array_equal(found, x)
    (tmp_path / "BSDS300.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match=r"corrupt or not MAF's BSDS300\.hdf5"):
        load_data(f"bsds300:{tmp_path}")


def test_without_h5py_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "BSDS300.hdf5").write_bytes(b"")
    with pytest.raises(DataError, match=r'pip install "jensen\[hdf5\]"'):
        load_data(f"bsds300:{tmp_path}")


def test_patches_are_dequantised_as_published(tmp_path):
    rng = np.random.default_rng(6)
    grey = {
        s: rng.integers(0, 256, size=(n, 8, 8)).astype(np.uint8) for s, n in zip(SPLITS, (600, 30, 20), strict=True)
    }
    np.savez(tmp_path / "bsds300_patches.npz", **grey)
    for x, v in zip(parts("bsds300-patches-63", tmp_path), grey.values(), strict=True):
        assert x.shape == (len(v), 63)
        whole = np.concatenate([x, -x.sum(1, keepdims=True)], axis=1)  # the mean is zero
        noise = 256 * whole - v.reshape(len(v), 64)  # up to a number for each patch
        assert (np.ptp(noise, axis=1) < 1).all()
    within = noise.var(1, ddof=1).mean()
    assert within == pytest.approx(1 / 12, abs=5 * (1 / 180 / (20 * 64)) ** 0.5)  # that of uniform noise
    first, again = (load_data(f"bsds300-patches-63:{tmp_path}") for _ in range(2))
    assert [first.split(s).sha256 for s in SPLITS] == [again.split(s).sha256 for s in SPLITS]


def test_real_patches_and_names_by_file(jensen_data):
    data = load_data("bsds300-patches-63")
    assert [data.split(s).x.shape for s in SPLITS] == [(60000, 63), (10000, 63), (20000, 63)]
    grey = load_data("bsds300_patches").split("test").x.reshape(20000, 64) / 256
    np.testing.assert_allclose(data.split("test").x, (grey - grey.mean(1, keepdims=True))[:, :63], atol=1 / 256)
    for name, other, dims in (
        ("uci-protein", "protein", 9),
        ("uci_protein", "protein", 9),
        ("anomaly_magic_gamma", "magic-gamma", 10),
        ("miniboone_head", "miniboone-head", 43),
    ):
        found = load_data(name)
        assert found.name == other and found.schema.dims == dims
        assert found.split("test").sha256 == load_data(other).split("test").sha256
    assert sum(map(len, load_data("miniboone-head").splits.values())) == 1523


# Names with a path


def test_a_name_with_a_path_is_found_again(tmp_path, monkeypatch):
    np.save(tmp_path / "data.npy", household())
    monkeypatch.chdir(tmp_path)
    data = load_data("power:.")
    assert data.recipe == (f"power:{tmp_path}", {})
    assert reference("power:.") == f"power:{tmp_path}"
    assert data.name == "power" and data.origin == "data.npy"
    assert reference("power") == "power"


def test_the_published_split_is_kept_for_a_trained_schema(tmp_path):
    np.save(tmp_path / "data.npy", household())
    data = load_data(f"power:{tmp_path}")
    again = load_data(f"power:{tmp_path}", schema=data.schema)
    assert [again.split(s).sha256 for s in SPLITS] == [data.split(s).sha256 for s in SPLITS]


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"power: not found at .*; expected power/data\.npy or"):
        load_data(f"power:{tmp_path}")
    with pytest.raises(DataError, match=r"iris: not found at .*; expected its name alone"):
        load_data(f"iris:{tmp_path}")
    with pytest.raises(ConfigError, match="neither a data set nor an existing path"):
        load_data("power:")
    np.save(tmp_path / "data.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"expected an array \(N, 8\), got \(3, 2\)"):
        load_data(f"power:{tmp_path}")
