"""Tiny data and runs, and two ways to call the command line: in this process, and in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jensen.cli import app

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONWARNINGS": "ignore"}
COMMAND = [sys.executable, "-c", "from jensen.cli import main; main()"]


class Answer:
    """What a command answered."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def jensen(*words: object, stdin: str | bytes | None = None) -> Answer:
    """Call the command line in this process."""
    found = CliRunner().invoke(app, [str(word) for word in words], input=stdin, catch_exceptions=False)
    return Answer(found.exit_code, found.stdout, found.stderr)


def start(*words: object, **options: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        **{"stdout": pipe, "stderr": pipe, "text": True, "env": ENVIRONMENT, **options},  # type: ignore[arg-type]
    )


def fails(answer: Answer, code: int, *words: str) -> None:
    """The answer is an error with that code and those words, on stderr alone."""
    assert answer.code == code, answer
    assert answer.out == "", answer
    assert answer.err.startswith("error: "), answer
    for word in words:
        assert word in answer.err, answer


@pytest.fixture(scope="session", name="jensen")
def _jensen() -> Callable[..., Answer]:
    return jensen


@pytest.fixture(scope="session", name="start")
def _start() -> Callable[..., subprocess.Popen[str]]:
    return start


@pytest.fixture(scope="session", name="fails")
def _fails() -> Callable[..., None]:
    return fails


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def table(folder: Path) -> Path:
    """A csv of 80 rows: x, y correlated with it, whole numbers n and a label."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    y = 2 * x + 0.1 * rng.normal(size=80)
    rows = [f"{a:.4f},{b:.4f},{rng.integers(0, 9)},{'ab'[int(a > 0)]}" for a, b in zip(x, y, strict=True)]
    path = folder / "table.csv"
    path.write_text("\n".join(["x,y,n,kind", *rows]) + "\n")
    return path


@pytest.fixture(scope="session")
def pictures(folder: Path) -> Path:
    """An npz of 60 grey pictures, 6x6, with a bright square somewhere."""
    rng = np.random.default_rng(0)
    x = np.zeros((60, 6, 6), np.uint8)
    for picture, i, j in zip(x, rng.integers(0, 4, 60), rng.integers(0, 4, 60), strict=True):
        picture[i : i + 3, j : j + 3] = 255
    path = folder / "pictures.npz"
    np.savez(path, X=x)
    return path


@pytest.fixture(scope="session")
def trained(folder: Path) -> Callable[..., Path]:
    """Train once a name; gives the run folder."""

    def train(name: str, *words: object) -> Path:
        out = folder / name
        if not out.exists():
            answer = jensen("train", *words, "--out", out)
            assert answer.code == 0, answer
        return out

    return train


@pytest.fixture(scope="session")
def ppca(trained: Callable[..., Path], table: Path) -> Path:
    return trained("ppca", "ppca", table, "latents=1", "--label", "kind")


@pytest.fixture(scope="session")
def vae(trained: Callable[..., Path], pictures: Path) -> Path:
    return trained(
        "vae", "vae", pictures, "latents=2", "encoder.hidden=[8]", "decoder.hidden=[8]",
        "--epochs", 2, "--batch-size", 16, "--binarize", "static",
    )  # fmt: skip


@pytest.fixture(scope="session")
def autoencoder(trained: Callable[..., Path], pictures: Path) -> Path:
    return trained("autoencoder", "autoencoder", pictures, "latents=2", "encoder.hidden=[8]", "--epochs", 1)
