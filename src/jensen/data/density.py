"""The tables of the density-estimation literature, prepared as in the code published with masked autoregressive flow.

Papamakarios, Pavlakou and Murray, "Masked Autoregressive Flow for Density Estimation", 2017, arXiv:1705.07057,
appendix D; code at github.com/gpapamak/maf, followed here where the two differ. What comes out is already normalised
as there: the published nats are those of the normalised values. docs/density_sets.md tells each recipe in words.

Nothing is unpickled: a pickle runs code.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jensen.data import files, splits, tables
from jensen.data.raw import SPLITS, Part, Raw
from jensen.errors import DataError

GAS_SHARE = 0.25  # of the rows, kept by the authors
HEPMASS_ROWS = 700_000, 350_000  # the first tenth of UCI's files, which is what the authors' files hold
TOO_CORRELATED = 0.98
REPEATS = 5  # of a feature's least value, above which the feature counts as discrete
_LEVELS = 256
_CHUNK = 200_000  # lines of text at a time


def power(path: Path) -> Raw:
    """POWER, 6 columns: a household's active power, voltage, three sub-meters and the minute of the day.

    From MAF's `data.npy` (N, 8) the very rows and noise of the published code; also from UCI's
    `household_power_consumption.txt`, without the rows that have gaps.
    """
    rows = _household(path) if path.suffix == ".txt" else _array(path, 8)
    # Its stream is frozen for ever, so these are the published permutation and noise.
    rng = np.random.RandomState(42)
    n = len(rows)
    x = rows[rng.permutation(n)][:, [0, 2, 4, 5, 6, 7]]  # neither reactive power nor intensity
    x[:, 1] += 0.01 * rng.rand(n)
    x[:, 0] += 0.001 * rng.rand(n)
    x[:, 2:5] += rng.rand(n, 3)
    return _normalized(_cut(x))


def gas(path: Path) -> Raw:
    """GAS, 8 columns: sensors in a mixture of ethylene and carbon monoxide, but for those that say the same.

    From UCI's `ethylene_CO.txt` a random quarter of the rows (the authors' own quarter is not known); from a Parquet
    file of MAF's frame, with its columns Time, Meth and Eth, all rows as they stand.

    Raises:
        DataError: MAF's pickle; or not the file expected.
    """
    if path.suffix in (".pickle", ".pkl"):
        raise DataError(
            f"{path}: a pickle runs code when it is read, so it is not read; use UCI's ethylene_CO.txt, or write the "
            f"frame to ethylene_CO.parquet where you trust it"
        )
    if path.suffix == ".parquet":
        x = tables.values(_sensors(path), path.name)
    else:
        x = _text(path, columns=range(3, 19))
        x = x[splits.shuffled(len(x), 0, rule=1)[: round(GAS_SHARE * len(x))]]
    x = x[:, _uncorrelated(x)]
    x = (x - x.mean(0)) / x.std(0, ddof=1)  # test rows too
    return _raw(_cut(x), "normalised by the mean and deviation of all rows, as published")


def hepmass(path: Path) -> Raw:
    """HEPMASS, 21 columns: collisions that made a particle of mass 1000, but for discrete features.

    From UCI's `1000_train.csv` and `1000_test.csv` (also .gz), side by side.
    """
    other = path.with_name(path.name.replace("train", "test"))
    if other == path or not other.is_file():
        raise DataError(f"{path}: expected 1000_train.csv with 1000_test.csv beside it")
    train, test = map(_events, (path, other), HEPMASS_ROWS)
    test = test[:, : train.shape[1]]  # its file has a column more
    mean, deviation = train.mean(0), train.std(0, ddof=1)
    kept = _continuous(train)
    train, test = (((x - mean) / deviation)[:, kept] for x in (train, test))
    at = len(train) - int(0.1 * len(train))
    parts = {"train": train[:at], "valid": train[at:], "test": test}
    return _raw(parts, "normalised by the mean and deviation of train and valid")


def miniboone(path: Path) -> Raw:
    """MINIBOONE, 43 columns: electron neutrinos, without outliers and discrete features.

    From MAF's `data.npy` (N, 43), or UCI's `MiniBooNE_PID.txt`, whose signal events come first.
    """
    if path.suffix != ".txt":
        return _normalized(_cut(_array(path, 43)))
    with _readable(path, "UCI's MiniBooNE_PID.txt"), path.open() as file:
        signal = int(file.readline().split()[0])
    x = _text(path)[:signal]
    x = x[x[:, 0] >= -100]  # -999 in every column
    return _normalized(_cut(x[:, _continuous(x)]))


def bsds300(path: Path) -> Raw:
    """BSDS300, 63 columns: 8x8 patches of photographs, given with its splits and its preparation done.

    From MAF's `BSDS300.hdf5`.

    Raises:
        DataError: h5py is not installed.
    """
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(f'{path}: HDF5 files need h5py: pip install "jensen[hdf5]"') from None
    with _readable(path, "MAF's BSDS300.hdf5"), h5py.File(path, "r") as file:
        parts = {
            ours: np.asarray(file[theirs], np.float64)
            for ours, theirs in zip(SPLITS, ("train", "validation", "test"), strict=True)
        }
    return _raw(parts, "in the published units: grey / 256, mean of the patch subtracted")


def patches(path: Path) -> Raw:
    """Patches uint8 (N, H, W) as the columns of BSDS300: (v + u) / 256 with u uniform on [0, 1), the mean of the
    patch subtracted, without the last pixel, which the others determine.

    Uria, Murray and Larochelle, "RNADE", 2013, arXiv:1306.0186, section 5.2. The noise is fixed.
    """
    arrays = files.read_arrays(path)
    parts = {}
    for i, split in enumerate(SPLITS):
        grey = arrays[split].reshape(len(arrays[split]), -1)
        x = (grey + np.random.Generator(np.random.PCG64(i)).random(grey.shape)) / _LEVELS
        parts[split] = (x - x.mean(1, keepdims=True))[:, :-1]
    return _raw(parts, "(v + uniform noise) / 256, mean of the patch subtracted, last pixel dropped")


def _raw(parts: dict[str, np.ndarray], note: str) -> Raw:
    return Raw({name: Part(tables.frame_of(x, name)) for name, x in parts.items()}, notes=(note,))


def _cut(x: np.ndarray) -> dict[str, np.ndarray]:
    """The last tenth for testing, the last tenth of the rest for validation, each rounded down."""
    test = len(x) - int(0.1 * len(x))
    valid = test - int(0.1 * test)
    return {"train": x[:valid], "valid": x[valid:test], "test": x[test:]}


def _normalized(parts: dict[str, np.ndarray]) -> Raw:
    """By the mean and the deviation of training and validation rows together."""
    seen = np.concatenate([parts["train"], parts["valid"]])
    mean, deviation = seen.mean(0), seen.std(0)
    scaled = {name: (x - mean) / deviation for name, x in parts.items()}
    return _raw(scaled, "normalised by the mean and deviation of train and valid")


def _continuous(x: np.ndarray) -> np.ndarray:
    """Columns whose least value does not recur too often, (D,) of booleans.

    Meant was any value; the published code counts the least one, and the published columns are those that it left.
    """
    return (x == x.min(0)).sum(0) <= REPEATS


def _uncorrelated(x: np.ndarray) -> list[int]:
    """Columns left when the first that is too correlated with another one goes, again and again."""
    with np.errstate(invalid="ignore"):  # of a constant column
        close = np.corrcoef(x, rowvar=False) > TOO_CORRELATED
    left = list(range(x.shape[1]))
    while (crowded := close[np.ix_(left, left)].sum(1) > 1).any():
        del left[int(crowded.argmax())]
    return left


def _events(path: Path, rows: int) -> np.ndarray:
    """Those labelled 1 among the first rows, without the label."""
    x = _text(path, separator=",", rows=rows)
    return x[x[:, 0] == 1, 1:]


def _household(path: Path) -> np.ndarray:
    """UCI's text as MAF's array has it: seven readings and the minute of the day, without gaps."""
    import pandas

    with _readable(path, "UCI's household_power_consumption.txt"):
        frame = pandas.read_csv(path, sep=";", na_values="?", low_memory=False).dropna()
        hours, minutes = (frame["Time"].str.split(":").str[i].astype(float) for i in (0, 1))
        return np.column_stack([frame.iloc[:, 2:9].to_numpy(np.float64), hours * 60 + minutes])


def _sensors(path: Path) -> Any:
    import pandas

    with _readable(path, "a Parquet file of MAF's frame of GAS"):
        return pandas.read_parquet(path).drop(columns=["Time", "Meth", "Eth"])


def _text(path: Path, separator: str = r"\s+", columns: range | None = None, rows: int | None = None) -> np.ndarray:
    """Numbers under a first line of anything, (N, D)."""
    import pandas

    with _readable(path, "the published file of numbers"):
        chunks = pandas.read_csv(
            path,
            sep=separator,
            header=None,
            skiprows=1,
            usecols=None if columns is None else list(columns),
            nrows=rows,
            dtype=np.float64,
            chunksize=_CHUNK,
        )
        return np.concatenate([chunk.to_numpy() for chunk in chunks])


def _array(path: Path, columns: int) -> np.ndarray:
    with _readable(path, "MAF's .npy file"):
        x = np.load(path, allow_pickle=False)
    if x.ndim != 2 or x.shape[1] != columns:
        raise DataError(f"{path}: expected an array (N, {columns}), got {x.shape}")
    return x.astype(np.float64)


@contextlib.contextmanager
def _readable(path: Path, expected: str) -> Iterator[None]:
    """What goes wrong in reading a file, in one line."""
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError, KeyError, IndexError, AttributeError) as e:
        reason = (str(e).strip() or "empty").splitlines()[0]
        raise DataError(f"{path}: corrupt or not {expected} ({type(e).__name__}: {reason})") from None
