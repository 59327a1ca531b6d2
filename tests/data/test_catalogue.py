"""Registered data sets: found in order, downloaded whole or not at all, and what they are said to be."""

from __future__ import annotations

import gzip
import hashlib
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from jensen.data import cache_folder, catalogue, describe, load_data
from jensen.data.catalogue import ENTRIES
from jensen.data.download import Remote, fetch, read_idx
from jensen.errors import DataError, IntegrityError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JENSEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.delenv("JENSEN_DATA", raising=False)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as a gzipped IDX file."""
    shape = np.array(array.shape, ">u4").tobytes()
    return gzip.compress(b"\0\0\x08" + bytes([array.ndim]) + shape + array.tobytes(), mtime=0)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server that offers a small MNIST under the names of the large one; yields the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    rng = np.random.default_rng(0)
    remotes = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for remote, shape in zip(ENTRIES["mnist"].idx, [(50003, 2, 2), (50003,), (5, 2, 2), (5,)], strict=True):
        content = idx(rng.integers(0, 10, shape).astype(np.uint8))
        (folder / remote.file).write_bytes(content)
        url = f"http://127.0.0.1:{server.server_port}/{remote.file}"
        remotes.append(Remote(url, hashlib.sha256(content).hexdigest()))
    monkeypatch.setitem(ENTRIES, "mnist", replace(ENTRIES["mnist"], idx=tuple(remotes)))
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_then_cache(no_data, served):
    data = load_data("mnist")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 50000,
        "valid": 3,
        "test": 5,
    }
    assert data.schema.classes == tuple("0123456789")
    for path in served.iterdir():
        path.unlink()
    assert load_data("mnist").split("valid").sha256 == data.split("valid").sha256


def test_a_changed_file_is_refused_and_leaves_nothing(no_data, served):
    path = next(served.iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        load_data("mnist")
    assert not (cache_folder() / "mnist" / path.name).exists()
    assert not list(cache_folder().rglob("*.part"))


def test_a_missing_file_says_where_to_put_it(no_data, served):
    path = next(served.iterdir())
    path.unlink()
    with pytest.raises(DataError, match="cannot be downloaded") as error:
        load_data("mnist")
    assert str(cache_folder() / "mnist" / path.name) in str(error.value)


def test_only_https(tmp_path):
    with pytest.raises(DataError, match="expected an https address"):
        fetch([Remote("http://example.org/a.gz", "")], tmp_path)
    assert all(remote.url.startswith("https://") for entry in ENTRIES.values() for remote in entry.idx)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "not a .gz"),
        (idx(np.zeros((3, 2), np.uint8))[:-12], "corrupt"),
        (gzip.compress(b"\0\0\x09\1abcd", mtime=0), "expected an IDX file"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\5abc", mtime=0), "expected (5,) bytes after the header, got 3"),
    ],
)
def test_corrupt_idx_files(tmp_path, content, message):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_idx(tmp_path / "a.gz")
    assert message in str(error.value)


def test_what_is_not_here_says_where_to_put_it(no_data):
    with pytest.raises(DataError, match=r"frey-faces: not found; put frey_faces\.npz into"):
        load_data("frey-faces")


def test_catalogue_tells_where_a_set_comes_from(no_data, tmp_path, monkeypatch):
    rows = {row["name"]: row for row in catalogue()}
    assert list(rows) == list(ENTRIES)
    assert rows["digits"]["available"]
    assert rows["mnist"]["origin"] == "download"
    assert not rows["frey-faces"]["available"]
    cache_folder().mkdir()
    np.savez(cache_folder() / "frey_faces.npz", images=np.zeros((1965, 2, 2), np.uint8))
    rows = {row["name"]: row for row in catalogue()}
    assert rows["frey-faces"]["origin"] == str(cache_folder() / "frey_faces.npz")
    (tmp_path / "frey_faces.npz").write_bytes(b"")
    monkeypatch.setenv("JENSEN_DATA", str(tmp_path))
    rows = {row["name"]: row for row in catalogue()}
    assert rows["frey-faces"]["origin"] == str(tmp_path / "frey_faces.npz")


@pytest.mark.parametrize(
    ("name", "sizes", "shape"),
    [
        ("digits", (1437, 180, 180), (1, 8, 8)),
        ("mnist-5k", (4000, 500, 500), (1, 28, 28)),
        ("breast-cancer", (455, 57, 57), (30,)),
        ("wine", (142, 18, 18), (13,)),
        ("iris", (120, 15, 15), (4,)),
        ("diabetes", (354, 44, 44), (10,)),
    ],
)
def test_sets_that_packages_ship(no_data, name, sizes, shape):
    data = load_data(name)
    assert tuple(map(len, data.splits.values())) == sizes
    assert data.schema.event_shape == shape


def test_mnist_5k_is_fixed_and_stratified():
    first, other = load_data("mnist-5k"), load_data("mnist-5k", seed=9)
    for name, n in (("train", 400), ("valid", 50), ("test", 50)):
        assert first.split(name).sha256 == other.split(name).sha256
        assert np.bincount(first.split(name).y).tolist() == [n] * 10


# Sums and sizes as the data's own description states them.
REAL = {
    "mnist": ((50000, 10000, 10000), (1309089051, 258209494, 264923200)),
    "binarized-mnist": ((50000, 10000, 10000), (5118041, 1028036, 1038896)),
    "omniglot": ((23000, 1345, 8115), None),
    "frey-faces": ((1565, 200, 200), None),
    "caltech-silhouettes": ((4100, 2264, 2307), None),
    "cifar10": ((2700, 300, 1000), None),
    "bsds300-patches": ((60000, 10000, 20000), None),
    "protein": ((36584, 4573, 4573), None),
    "magic-gamma": ((15216, 1902, 1902), None),
    "cardio": ((1465, 183, 183), None),
    "thyroid": ((3018, 377, 377), None),
    "breastw": ((547, 68, 68), None),
    "nltcs": ((16181, 2157, 3236), None),
    "plants": ((17412, 2321, 3482), None),
    "dna": ((1600, 400, 1186), None),
    "mushrooms": ((2000, 500, 5624), None),
    "accidents": ((12758, 1700, 2551), None),
    "banknote": ((1098, 137, 137), None),
    "concrete": ((824, 103, 103), None),
    "red-wine": ((1279, 160, 160), None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_are_what_they_should_be(jensen_data, name):
    sizes, sums = REAL[name]
    data = load_data(name)
    assert tuple(map(len, data.splits.values())) == sizes
    if sums:
        assert tuple(int(split.x.sum(dtype=np.int64)) for split in data.splits.values()) == sums
    assert describe(data)["splits"].keys() == data.splits.keys()


def total(name: str) -> float:
    return sum(split.x.sum(dtype=np.float64) for split in load_data(name).splits.values())


def test_real_sums_and_means(jensen_data):
    assert total("frey-faces") == 169968741
    assert total("caltech-silhouettes") / (8671 * 784) == pytest.approx(0.543910, abs=1e-6)
    assert total("omniglot") / (255 * 784) == pytest.approx(0.077989 * 19280 + 0.084378 * 13180, abs=0.03)
    test = load_data("cifar10").split("test").x / 255
    np.testing.assert_allclose(test.mean((0, 2, 3)), [0.494790, 0.483048, 0.443576], atol=1e-6)
    assert load_data("bsds300-patches").split("train").x.mean() == pytest.approx(110.6784, abs=1e-4)
    for name, mean in (("nltcs", 0.331739), ("plants", 0.179795), ("dna", 0.253469), ("mushrooms", 0.1875)):
        assert load_data(name).split("train").x.mean() == pytest.approx(mean, abs=1e-6)
    for name, anomalies in (("cardio", 176), ("thyroid", 93), ("breastw", 239), ("magic-gamma", 6688)):
        assert sum((split.y == 1).sum() for split in load_data(name).splits.values()) == anomalies


def test_a_package_ships_the_same_table_as_the_file(jensen_data, monkeypatch):
    here = load_data("breast-cancer")
    monkeypatch.delenv("JENSEN_DATA")
    shipped = load_data("breast-cancer")
    assert shipped.origin != here.origin
    assert shipped.schema.names == here.schema.names
    for name, split in here.splits.items():
        assert shipped.split(name).sha256 == split.sha256
        assert (shipped.split(name).y == split.y).all()
