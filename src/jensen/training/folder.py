"""A run folder: what was trained, on what, and where training stands. No pickles; loading runs no code.

spec.yaml            model, settings, data, seed, versions
schema.json          fields of a datum and their preparation
model.safetensors    the weights to use
state/               what an exact resume needs
metrics.jsonl        one line an epoch
scores.json          scores so far
members/             runs that fill in with this one, each a folder of its own
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor

from jensen.data.schema import Schema
from jensen.errors import ConfigError, DataError, IntegrityError, ResourceError

try:
    import fcntl
except ImportError:  # where the system has no such locks
    fcntl = None

FORMAT = 1
PATIENCE = 3.0  # seconds: workers of a killed process notice in less


def _in_a_line(error: Exception) -> str:
    """What is wrong with a record, and where."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing: a reader sees the old content or the new.

    Raises:
        ResourceError: the disk is full; what was there stays.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            temporary = None
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Answers what keeps a file or folder from being written."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            kept = "; the last complete file was kept" if path.is_file() else ""
            raise ResourceError(f"disk full while writing {path}{kept}") from None
        if e.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EPERM):
            raise ConfigError(f"cannot write {path}: {e.strerror}") from None
        raise


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any] | None = None) -> None:
    """Write tensors and JSON metadata to one safetensors file, atomically, with a checksum of the tensors. Shared
    tensors are written once each.
    """
    ready = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    sha256 = _checksum(save(ready))
    write_atomically(path, save(ready, {"json": json.dumps(metadata or {}), "sha256": sha256}))


def _checksum(content: bytes) -> str:
    """Of what follows the header in a safetensors file."""
    return hashlib.sha256(memoryview(content)[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file that `save_tensors` wrote.

    Raises:
        IntegrityError: the file is missing, truncated or corrupt.
    """
    try:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        record = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        tensors, metadata = load(content), json.loads(record.get("json", "{}"))
        whole = record.get("sha256") in (None, _checksum(content))  # files of others have none
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing") from None
    except Exception as e:  # safetensors raises its own type for each fault
        raise IntegrityError(f"{path} is corrupt or truncated: {str(e).splitlines()[0]}") from None
    if not whole:
        raise IntegrityError(f"{path} is corrupt: its checksum is another")
    return tensors, metadata


@contextmanager
def locked(folder: Path, patience: float = math.inf) -> Iterator[None]:
    """Hold the lock of a folder, which leaves no file behind and ends with the process, however that ends.

    Args:
        patience: seconds of waiting for whoever holds it to let go.

    Raises:
        BlockingIOError: it was held all the time.
    """
    handle, until = os.open(folder, os.O_RDONLY), time.monotonic() + patience
    try:
        while fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            except OSError:  # some network drives know no locks: nothing is held there
                break
        yield
    finally:
        os.close(handle)


class Folder:
    """Paths and records of one run."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.spec_path = self.path / "spec.yaml"
        self.schema_path = self.path / "schema.json"
        self.model_path = self.path / "model.safetensors"
        self.state_path = self.path / "state" / "trainer.safetensors"
        self.metrics_path = self.path / "metrics.jsonl"
        self.scores_path = self.path / "scores.json"
        self.report_path = self.path / "report.html"
        self.members_path = self.path / "members"

    @classmethod
    def create(cls, path: str | os.PathLike[str], spec: dict[str, Any], schema: Schema, overwrite: bool) -> Folder:
        """Start a folder. Raises `ConfigError` where one stands already, unless `overwrite`."""
        folder = cls(path)
        if folder.stands(overwrite):
            with folder.in_training():
                folder.clear()
        folder.write_spec(spec)
        write_atomically(folder.schema_path, schema.model_dump_json(indent=1))
        return folder

    def stands(self, overwrite: bool, ways: str = "--resume to go on or --overwrite to replace it") -> bool:
        """Whether a run is here, to be overwritten.

        Args:
            ways: to go on, where it may not be.

        Raises:
            ConfigError: it may not be overwritten, or something else is here.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--out: {self.path} is a file, expected a folder")
        if not self.path.exists() or not self._holds():
            return False
        if not overwrite:
            raise ConfigError(f"--out: {self.path} exists; use {ways}")
        if not self.spec_path.exists():
            raise ConfigError(f"--overwrite: {self.path} is not a run folder; not touching it")
        return True

    def _holds(self) -> bool:
        """Anything but what a process leaves that is killed before the run has begun."""
        half, folders = f".{self.spec_path.name}.", (self.state_path.parent, self.members_path)
        for path in self.path.iterdir():
            empty = path in folders and path.is_dir() and not any(path.iterdir())
            if not empty and not path.name.startswith(half):
                return True
        return False

    def has_begun(self) -> bool:
        """Whether training got to its first checkpoint, from which it goes on.

        Raises:
            IntegrityError: there are weights, and what says where training stood is gone.
        """
        if not self.state_path.exists() and self.model_path.exists():
            raise IntegrityError(
                f"{self.state_path} is missing, which says where training stood; --overwrite trains anew"
            )
        return self.state_path.exists()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Folder:
        """An existing folder. Raises `ConfigError` where there is none."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise ConfigError(f"no run folder at {folder.path}")
        if not folder.spec_path.exists():
            raise ConfigError(f"{folder.path} is not a run folder: it has no spec.yaml")
        return folder

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """While this process trains here. Raises `ConfigError` where another one does."""
        state = self.state_path.parent
        with _writing(state):
            state.mkdir(exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(state, PATIENCE))
            except BlockingIOError:
                raise ConfigError(
                    f"--out: another process is training in {self.path}; wait for its end, or name another folder"
                ) from None
            yield

    def clear(self) -> None:
        """Remove what a run writes, and nothing else; last of all what tells that a run is here."""
        known = (self.schema_path, self.model_path, self.state_path, self.metrics_path,
                 self.scores_path, self.report_path)  # fmt: skip
        for path in self.members_path.glob("*/spec.yaml"):
            Folder(path.parent).discard()
        with contextlib.suppress(OSError):
            self.members_path.rmdir()
        half = [path for own in (*known, self.spec_path) for path in own.parent.glob(f".{own.name}.*")]
        for path in (*half, *known, *self.samples(), self.spec_path):  # half: by a process that was killed
            path.unlink(missing_ok=True)

    def samples(self) -> list[Path]:
        """What was noted of samples in training."""
        names = ("samples.txt", "samples.png", "samples-[0-9]*.wav")
        return [path for name in names for path in self.path.glob(name)]

    def discard(self) -> None:
        """Remove what a run writes, and the folder where nothing else is in it."""
        self.clear()
        for path in (self.state_path.parent, self.path):
            with contextlib.suppress(OSError):
                path.rmdir()

    def move(self, to: Path) -> None:
        """Move it, file by file, maybe to another disk; last of all what tells that a run is here, and first what says
        where training stood, so that a part of it is taken for none.
        """
        order = {self.state_path: 0, self.spec_path: 2}
        for path in sorted((path for path in self.path.rglob("*") if path.is_file()), key=lambda p: order.get(p, 1)):
            goal = to / path.relative_to(self.path)
            with _writing(goal):
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, goal)
        self.discard()

    def write_spec(self, spec: dict[str, Any]) -> None:
        """Record what is trained, and how."""
        write_atomically(self.spec_path, yaml.safe_dump({**spec, "format": FORMAT}, sort_keys=False))

    def spec(self) -> dict[str, Any]:
        """What was trained. Raises `IntegrityError` where the record is unreadable or of another format."""
        try:
            spec = yaml.safe_load(self.spec_path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as e:
            raise IntegrityError(f"{self.spec_path} is corrupt: {_in_a_line(e)}") from None
        if not isinstance(spec, dict) or "model" not in spec:
            raise IntegrityError(f"{self.spec_path} is corrupt: it names no model")
        if spec.get("format") != FORMAT:
            raise IntegrityError(f"{self.spec_path}: expected format {FORMAT}, got {spec.get('format')!r}")
        for key in ("settings", "training", "data"):
            if not isinstance(spec.get(key), dict):
                raise IntegrityError(f"{self.spec_path} is corrupt: it says nothing of {key!r}")
        return spec

    def schema(self) -> Schema:
        """The data's schema. Raises `IntegrityError` where the record is unreadable."""
        try:
            return Schema.model_validate_json(self.schema_path.read_text())
        except FileNotFoundError:
            raise IntegrityError(f"{self.schema_path} is missing") from None
        except ValueError as e:
            raise IntegrityError(f"{self.schema_path} is corrupt: {_in_a_line(e)}") from None

    def load_model(self, model: torch.nn.Module) -> dict[str, Any]:
        """Load the kept weights into a model built from the spec; returns their record.

        Raises:
            DataError: training has not reached its first checkpoint.
            IntegrityError: the weights are missing, corrupt or of another model.
        """
        if not self.model_path.exists():
            if self.state_path.exists():
                raise IntegrityError(f"{self.model_path} is missing")
            raise DataError(f"{self.path}: no weights yet; training has not reached its first checkpoint")
        tensors, record = load_tensors(self.model_path)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as e:
            raise IntegrityError(f"{self.model_path} does not fit {self.spec_path}: {str(e).splitlines()[1]}") from None
        return record

    def stopped_at(self) -> Mapping[str, Any] | None:
        """Where training stands that has not come to its end, as a `Position` records it; None where it has, or where
        nothing says.
        """
        try:
            with self.state_path.open("rb") as f:
                header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
            position = json.loads(header["__metadata__"]["json"])["position"]
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):  # a resume says what is wrong
            return None
        return None if position["done"] else position

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of the log; a last line cut short by a crash is dropped."""
        if not self.metrics_path.exists():
            return []
        lines = []
        for line in self.metrics_path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def append_metrics(self, line: dict[str, Any]) -> None:
        try:
            with self.metrics_path.open("a") as f:
                f.write(json.dumps(line) + "\n")
        except OSError as e:
            if e.errno == errno.ENOSPC:
                raise ResourceError(f"disk full while writing {self.metrics_path}") from None
            raise

    def keep_metrics(self, until_step: int) -> None:
        """Drop lines beyond a step, before going on from there."""
        lines = [line for line in self.metrics() if line["step"] <= until_step]
        write_atomically(self.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))

    def add_score(self, score: dict[str, Any]) -> None:
        """Add a score to those kept."""
        with locked(self.path):
            write_atomically(self.scores_path, json.dumps([*self.scores(), score], indent=1))

    def scores(self) -> list[dict[str, Any]]:
        """Scores so far."""
        try:
            return json.loads(self.scores_path.read_text()) if self.scores_path.exists() else []
        except json.JSONDecodeError:
            raise IntegrityError(f"{self.scores_path} is corrupt; delete it and score again") from None
