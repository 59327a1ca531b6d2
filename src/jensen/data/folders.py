"""Folders of files, one a datum: subfolders are classes; `train`, `valid` and `test` are splits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jensen.data.raw import ALL, SPLITS


def find_files(folder: Path, endings: Iterable[str]) -> dict[str, tuple[Path, list[Path]]]:
    """The folder of each split, or of `all`, with its files in the order of their names; hidden ones left out."""
    own = [name for name in SPLITS if (folder / name).is_dir()]
    roots = {name: folder / name for name in own} if "train" in own else {ALL: folder}
    return {name: (root, _files(root, tuple(endings))) for name, root in roots.items()}


def _files(root: Path, endings: tuple[str, ...]) -> list[Path]:
    found = (path for path in [*root.glob("*"), *root.glob("*/*")] if path.name.lower().endswith(endings))
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def folder_labels(root: Path, paths: list[Path]) -> np.ndarray | None:
    """Names of the subfolders; None in place of a name for files beside them."""
    labels = [None if path.parent == root else path.parent.name for path in paths]
    return np.array(labels, dtype=object) if any(labels) else None
