"""A trained model with its data, opened from a run folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from jensen.conditionals.ranges import ranges_of
from jensen.core import Capabilities, Evidence, Model, Score, seeded
from jensen.core.score import density_of
from jensen.data import Dataset, Schema, Split, TensorSplit, load_data
from jensen.data.sources import reference
from jensen.errors import ConfigError, DataError, DataWarning, IntegrityError
from jensen.jobs.precision import as_in, precision
from jensen.objectives.prior import prior_objective
from jensen.registry import build
from jensen.training.folder import Folder

if TYPE_CHECKING:
    from jensen.jobs.acquire import Acquisition
    from jensen.jobs.cluster import Clusters
    from jensen.jobs.compress import Compression
    from jensen.jobs.distance import Distance
    from jensen.jobs.gaps import FilledTexts
    from jensen.jobs.imputation import Imputation
    from jensen.jobs.outliers import Outliers
    from jensen.jobs.policies import Policies
    from jensen.jobs.privacy import Privacy
    from jensen.jobs.probe import Probes


@dataclass(repr=False)
class Run:
    """A trained model and what is needed to use it.

    Attributes:
        spec: the record: model, settings, training, data.
        schema: of the data.
        model: in eval mode, on `device`.
        folder: where it lives; None for a run kept in memory.
        log: one entry an epoch.
    """

    spec: dict[str, Any]
    schema: Schema
    model: Model
    folder: Folder | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    _data: Dataset | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: record, schema and weights, as a run folder does; neither data nor folder."""
        weights = {name: t.detach().cpu().contiguous().clone() for name, t in self.model.state_dict().items()}
        return {"spec": self.spec, "schema": self.schema.model_dump_json(), "weights": save(weights), "log": self.log,
                "precision": str(precision(self.model)).removeprefix("torch."), "members": self.members}  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the model of the record anew, on the CPU, and load its weights."""
        schema, spec = Schema.model_validate_json(state["schema"]), state["spec"]
        with seeded(0):
            model: Model = build(spec["model"], schema, spec["settings"])
        model.to(getattr(torch, state["precision"])).load_state_dict(load(state["weights"]))
        self.__init__(spec, schema, model.eval(), None, state["log"])
        self.members = state["members"]

    def __repr__(self) -> str:
        where = f" in {self.folder.path}" if self.folder else ""
        return f"<Run {self.spec['model']} on {self.spec['data']['name']}{where}>"

    @property
    def name(self) -> str:
        return self.folder.path.name if self.folder else self.spec["model"]

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def monitor(self) -> str:
        """The name in the log of what decided which weights are kept."""
        stages = self.model.objective.stages if self.model.objective else ()
        return stages[-1].monitor if stages else "elbo"

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of the log with the best validation, once the loss was the one wanted; None without any."""
        lines = [line for line in self.log if self.monitor in line.get("valid", {})]
        taken = [line for line in lines if line.get("best")]
        return taken[-1] if taken else max(lines, key=lambda line: line["valid"][self.monitor], default=None)

    @cached_property
    def unfinished(self) -> str | None:
        """Where training stood when these weights were kept, in words; None where it came to its end, or none knows."""
        position = self.folder.stopped_at() if self.folder is not None else None
        if position is None:
            return None
        done, total = position["stage_step"], position["total_steps"]
        of = f" of {total:,}" if total else ""
        stages = self.model.objective.stages if self.model.objective else ()
        stage = f" of stage {stages[position['stage']].name}" if len(stages) > 1 else ""
        return f"at step {done:,}{of}{stage}"

    @cached_property
    def measure(self) -> str:
        """What densities of the datum are with respect to: "counting", "lebesgue" or "mixed"."""
        if self.schema.kind == "mixed":
            return self.schema.measure
        discrete = self.toy_evidence().p[self.model.data].support.is_discrete  # pyright: ignore[reportOptionalMemberAccess]
        return "counting" if discrete else "lebesgue"

    @torch.no_grad()
    def toy_evidence(self) -> Evidence:
        """What a walk over a datum of zeros leaves: which distributions there are, and their shapes."""
        zeros = torch.zeros(1, *self.schema.event_shape, device=self.device)
        with seeded(0, self.device):
            return self.model.evidence(as_in(self.model, {"x": zeros, **self._toy_context()}))

    def _toy_context(self) -> dict[str, Tensor]:
        c = torch.zeros(1, *self.schema.given_shape, device=self.device)
        seen = torch.ones(1, *self.schema.event_shape, dtype=torch.bool, device=self.device)
        toys = {"seen": seen, "y": torch.zeros(1, dtype=torch.long, device=self.device), "c": c}
        return {name: toys[name] for name in self.model.context if name in toys}

    @cached_property
    def capabilities(self) -> Capabilities:
        return self.model.capabilities(self.measure)

    @cached_property
    def members(self) -> list[Run]:
        """Further runs that fill in together with this one, in folders of its own."""
        if self.folder is None:
            return []
        return [open_run(self.folder.members_path / name, str(self.device)) for name in self.spec.get("members", ())]

    @property
    def shares(self) -> list[float]:
        """Of this run and its members, in what they fill in together; they add up to 1."""
        n = 1 + len(self.members)
        return self.spec.get("shares") or [1 / n] * n

    # Data

    def data(self, ref: Any = None, **options: Any) -> Dataset:
        """The data it was trained on, or others, fitted to its schema.

        Raises:
            DataError: the training data are not to be had any more.
            IntegrityError: they are no longer what the model was trained on.
        """
        if ref is not None:
            return load_data(ref, schema=self.schema, **options)
        if self._data is None:
            record = self.spec["data"]
            if record["ref"] is None:
                raise DataError("this run was trained on data in memory; name the data to use")
            try:
                data = load_recorded(record["ref"], record)
            except ConfigError as e:
                raise DataError(f"the data of {self.name} are not where they were: {e}; name the data to use") from None
            for name, digest in record["splits"].items():
                if name not in data.splits or data.splits[name].sha256 != digest:
                    raise IntegrityError(
                        f"{record['ref']} has changed since {self.name} was trained on it "
                        f"(split {name!r}); pass the data to use by name or path"
                    )
            self._data = data
        return self._data

    def split(self, ref: Any = None, split: str | None = None, **options: Any) -> tuple[Dataset, str, Split]:
        """A split of the training data (by default the test part) or of others (by default all, or their test part)."""
        data = self.data(ref, **options)
        if split is None:
            preferred = ("test", "all", "valid", "train")
            split = next((name for name in preferred if name in data.splits), next(iter(data.splits)))
        return data, split, data.split(split)

    @property
    def given(self) -> str | None:
        """What the model is given of a datum, by name; None where that is nothing."""
        return ", ".join(name for name in ("y", "c") if name in self.model.context) or None

    @property
    def density(self) -> str:
        """What scores are of, in writing."""
        return density_of(self.given)

    def warn_of_training_rows(self, ref: Any, split: str) -> None:
        """Warns where all of a file is taken, of which a part was trained on.

        Warns:
            DataWarning: so it is.
        """
        own = self.spec.get("data", {}).get("ref")
        if split == "all" and ref is not None and own is not None and reference(ref) == own:
            warnings.warn(
                f"{ref} is what {self.name} was trained on: most of these rows were learned from; without naming data, "
                "the part that was held out is taken",
                DataWarning,
                stacklevel=3,
            )

    def tensors(self, split: Split) -> TensorSplit:
        """A split, prepared, on the model's device.

        Raises:
            DataError: the model is conditional, and a row lacks its condition.

        Warns:
            DataWarning: rows are out of the ranges of a flow's columns.
        """
        check_conditions(self.model, self.schema, split)
        ranges = ranges_of(self.model.modules())
        if ranges is not None:
            split = replace(split, x=ranges.beyond(split.x, split.index))
        return split.to(self.schema, self.device)

    def pick(self, split: Split, n: int | None, seed: int = 0) -> np.ndarray:
        """Row numbers of a random subset of at most n, in order; all where n is None."""
        if n is None or n >= len(split):
            return np.arange(len(split))
        if n < 1:
            raise ConfigError(f"--limit: expected >= 1, got {n}")
        return np.sort(np.random.default_rng(seed).permutation(len(split))[:n])

    # Jobs, as methods

    def score(self, data: Any = None, **options: Any) -> Score:
        """Log-likelihood; see `jensen.jobs.score`."""
        from jensen.jobs.score import score

        return score(self, data, **options)

    def sample(self, n: int | None = None, **options: Any) -> Any:
        """New data in the user's types; see `jensen.jobs.sample`."""
        from jensen.jobs.sample import sample

        return sample(self, n, **options)

    def impute(self, data: Any = None, **options: Any) -> Imputation:
        """What is missing, filled in; see `jensen.jobs.impute`."""
        from jensen.jobs.impute import impute

        return impute(self, data, **options)

    def fill_texts(self, data: Any, gap: str, **options: Any) -> FilledTexts:
        """Texts with what a mark stands for filled in; see `jensen.jobs.gaps.fill_texts`."""
        from jensen.jobs.gaps import fill_texts

        return fill_texts(self, data, gap, **options)

    def acquire(self, data: Any = None, **options: Any) -> Acquisition:
        """What to measure next of each row; see `jensen.jobs.acquire`."""
        from jensen.jobs.acquire import acquire

        return acquire(self, data, **options)

    def policies(self, data: Any = None, **options: Any) -> Policies:
        """How well a target is known after each measured column; see `jensen.jobs.policies`."""
        from jensen.jobs.policies import policies

        return policies(self, data, **options)

    def encode(self, data: Any = None, **options: Any) -> np.ndarray:
        """Representations, (n, L); see `jensen.jobs.encode`."""
        from jensen.jobs.encode import encode

        return encode(self, data, **options)

    def reconstruct(self, data: Any = None, **options: Any) -> Any:
        """Data as the model sees them; see `jensen.jobs.encode`."""
        from jensen.jobs.encode import reconstruct

        return reconstruct(self, data, **options)

    def interpolate(self, data: Any = None, **options: Any) -> Any:
        """A path between two data; see `jensen.jobs.encode`."""
        from jensen.jobs.encode import interpolate

        return interpolate(self, data, **options)

    def compress(self, data: Any = None, **options: Any) -> Compression:
        """Data as the bits that the model says they take; see `jensen.jobs.compress`."""
        from jensen.jobs.compress import compress

        return compress(self, data, **options)

    def decompress(self, archive: Any, **options: Any) -> Any:
        """Data back from what `compress` wrote; see `jensen.jobs.compress`."""
        from jensen.jobs.compress import decompress

        return decompress(self, archive, **options)

    def cluster(self, data: Any = None, **options: Any) -> Clusters:
        """Which component of a mixture each datum belongs to; see `jensen.jobs.cluster`."""
        from jensen.jobs.cluster import cluster

        return cluster(self, data, **options)

    def outliers(self, data: Any = None, **options: Any) -> Outliers:
        """How strange each datum is, with p-values; see `jensen.jobs.outliers`."""
        from jensen.jobs.outliers import outliers

        return outliers(self, data, **options)

    def distance(self, data: Any = None, **options: Any) -> Distance:
        """How far samples are from data; see `jensen.jobs.distance`."""
        from jensen.jobs.distance import distance

        return distance(self, data, **options)

    def diagnose(self, data: Any = None, **options: Any) -> Any:
        """Known faults, looked for; see `jensen.jobs.diagnose`."""
        from jensen.jobs.diagnose import diagnose

        return diagnose(self, data, **options)

    def probe(self, data: Any = None, **options: Any) -> Probes:
        """What its codes are worth for telling labels; see `jensen.jobs.probe`."""
        from jensen.jobs.probe import probe

        return probe(self, data, **options)

    def privacy(self, rows: Any = None, **options: Any) -> Privacy:
        """How near synthetic rows lie to training rows, beside held-out ones; see `jensen.jobs.privacy`."""
        from jensen.jobs.privacy import privacy

        return privacy(self, rows, **options)

    def report(self, out: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        """One HTML file to look at; see `jensen.jobs.report`."""
        from jensen.jobs.report import report

        return report(self, out, **options)


def load_recorded(ref: Any, record: Mapping[str, Any]) -> Dataset:
    """Data read and cut as a run's record says; those of before it named a rule were cut by the first."""
    found = load_data(ref, **{"rule": record.get("rule", 1), **record["options"]})
    return found.merged() if record.get("merged") else found


def check_conditions(model: Model, schema: Schema, split: Split) -> None:
    """Raises `DataError` where a model is conditional and data lack its conditions, naming the row."""
    if "c" in model.context and split.c is None and schema.given_picture is not None:
        raise DataError(f"expected data with the pictures {schema.given_shape} that the model is given of each row")
    if "c" in model.context and split.c is None:
        raise DataError(f"expected data with the columns that the model is given: {', '.join(schema.given_names)}")
    if "y" not in model.context:
        return
    where = f"in the column {schema.label!r}" if schema.label else "beside the data"
    if split.y is None:
        raise DataError(f"the model is conditional: expected labels {where}, got data without any")
    if (split.y < 0).any():
        without = split.index[split.y < 0]
        classes = ", ".join((schema.classes or ())[:10])
        more = ", ..." if len(schema.classes or ()) > 10 else ""
        raise DataError(
            f"the model is conditional: expected a label {where} for every row, one of {classes}{more}; "
            f"row {without.min() + 1} has none of these"
            + (f", and {len(without) - 1:,} others of this part" if len(without) > 1 else "")
        )


def open_run(path: str | os.PathLike[str], device: str = "cpu") -> Run:
    """Open a run folder. Loading runs no code from it.

    Raises:
        ConfigError: there is no run at that path.
        IntegrityError: a file is corrupt, truncated or does not fit the others.
        DataError: training has not reached its first checkpoint.
    """
    folder = Folder.open(path)
    spec, schema = folder.spec(), folder.schema()
    try:
        model = build(spec["model"], schema, spec["settings"])
    except ConfigError as e:
        raise IntegrityError(f"{folder.spec_path} describes no model of this version: {e}") from None
    if "prior_of" in spec:
        model.objective = prior_objective(model)
    folder.load_model(model)
    return Run(spec, schema, model.to(device).eval(), folder, folder.metrics())
